"""What all commands share: how mistakes are told, how settings are read, where results go.

Nothing here imports torch, so that `--help` and `--version` answer at once.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import typer

from workbench.errors import StoreError, UserError
from workbench.version import VERSION

T = TypeVar("T")
OURS = ("workbench", "tracing", "circuits", "editing", "studies")  # what warns in our name
JOURNAL = "journal.jsonl"  # in a run folder: what long work has finished so far
RESULT = frozenset({"result.json", "result.safetensors", "page.html"})  # in a run folder: all or none of them


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command: exit code 2 and one sentence for a user's mistake, 130 for Ctrl-C, a traceback for ours.

    141 where the reader of a pipe went away, whoever wrote to it.
    """
    try:
        try:
            with _remarks():
                app(arguments, prog_name=name)
        except UserError as mistake:
            _say(f"{name}: {mistake}")
            sys.exit(2)
        except KeyboardInterrupt:
            _say(f"{name}: stopped")
            sys.exit(130)
    except (SystemExit, BrokenPipeError) as end:
        if not _unread(end):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is not written yet goes nowhere
        sys.exit(141)


def _unread(end: BaseException) -> bool:
    """Whether this end comes of a closed pipe: typer and rich make exit code 1 of it, that of our mistakes."""
    if isinstance(end, SystemExit) and end.code != 1:
        return False
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, BrokenPipeError):
        cause = cause.__context__
    return cause is not None


@contextlib.contextmanager
def _remarks() -> Iterator[None]:
    """Our own warnings become notes, each once; those of other libraries stay as they are."""
    ours, usual, said = Path(__file__).parents[2], warnings.showwarning, set[str]()

    def show(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        place = Path(filename)
        if (
            category is not UserWarning
            or not place.is_relative_to(ours)
            or place.relative_to(ours).parts[0] not in OURS
        ):
            usual(message, category, filename, *rest, **more)
        elif str(message) not in said:
            said.add(str(message))
            note(f"Note: {str(message).removesuffix('.')}.")

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def examples(*lines: str) -> str:
    """The epilog of a command's help: command lines that work as they stand."""
    return "\n\n".join(("[bold]Examples[/bold]", *lines))


def show_version(asked: bool) -> None:
    """Typer callback of `--version`."""
    if asked:
        typer.echo(f"factscope {VERSION}")
        raise typer.Exit


def configured(cls: type[T], given: dict[str, Any], pairs: Sequence[str]) -> T:
    """A config dataclass from the flags that were given (None: not given) and from `--set key=value`.

    Raises UserError for an unknown key (naming the keys there are) or a value of the wrong type.
    """
    values = {name: value for name, value in given.items() if value is not None}
    hints = typing.get_type_hints(cls)
    keys = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in keys:
            raise UserError(f"--set {pair!r}: write key=value, with one of these keys: {', '.join(sorted(keys))}")
        if key in values:
            raise UserError(f"{key} is given twice, once as --set {pair}; give it once")
        values[key] = _read(key, text.strip(), hints[key])
    return cls(**values)


def given_flags(context: typer.Context) -> dict[str, str]:
    """The parameters that were written on the command line: name in the code -> flag as the user knows it."""
    found = {}
    for each in context.command.params:
        source = context.get_parameter_source(str(each.name))
        if source is not None and source.name == "COMMANDLINE":
            found[str(each.name)] = each.opts[0]
    return found


def listed(text: str | None) -> tuple[str, ...] | None:
    """A comma-separated flag as a tuple."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _read(key: str, text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() in ("none", ""):
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_read(key, part.strip(), item) for part in re.split("[;,]", text) if part.strip())
    if kind is bool:
        if text.lower() not in ("true", "false", "yes", "no", "1", "0"):
            raise UserError(f"--set {key}={text}: write true or false")
        return text.lower() in ("true", "yes", "1")
    try:
        return kind(text)
    except ValueError:
        raise UserError(
            f"--set {key}={text}: {text!r} is not {'a whole number' if kind is int else 'a number'}"
        ) from None


def new_folder(command: str, words: str) -> Path:
    """runs/<time>-<command>-<slug>, not there yet."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{command}-{_slug(words)}"
    for number in range(1000):
        folder = Path("runs") / (stem if number == 0 else f"{stem}-{number}")
        if not folder.exists():
            return folder
    raise StoreError("runs/ holds a thousand folders of this second; choose a folder with --out")


def settled_folder(command: str, words: str, *settings: Any) -> Path:
    """runs/<command>-<slug>-<key>, the same one for the same settings: what the same command goes on from."""
    key = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    return Path("runs") / f"{command}-{_slug(words)}-{key}"


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60].strip("-") or "prompt"


@contextlib.contextmanager
def writable(folder: Path, fresh: bool = False) -> Iterator[Path]:
    """Make sure, before hours of work, that results can be written to `folder`.

    `fresh` refuses a folder that holds a run. After a failure neither part of a new result nor an empty folder is left;
    a journal stays, for the work to be taken up from.
    """
    if not folder.name and folder == Path():
        raise UserError("--out is empty; give a folder's name")
    if fresh and (folder / "result.json").exists():
        raise UserError(f"{folder} holds a run already; choose another folder with --out")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as trouble:
        raise StoreError(
            f"cannot write into {folder}: {trouble.strerror}; choose another folder with --out"
        ) from trouble
    before = {name for name in RESULT if (folder / name).exists()}
    try:
        yield folder
    except BaseException:
        for name in RESULT - before:
            (folder / name).unlink(missing_ok=True)
        place = folder.absolute()
        while place != existing.absolute():
            with contextlib.suppress(OSError):
                place.rmdir()  # only if it is empty
            place = place.parent
        raise


@contextlib.contextmanager
def saying(sentence: str) -> Iterator[None]:
    """Show what is being waited for, at a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(sentence):
            yield
    else:
        yield


def tell(*lines: str) -> None:
    """Result lines on standard output."""
    for line in lines:
        typer.echo(line)


def note(sentence: str) -> None:
    """A remark on standard error, so that standard output stays what was asked for."""
    _say(sentence)


def loader(model: str, device: str | None, dtype: str) -> Callable[[], Any]:
    """Load a model when called, saying so."""

    def load() -> Any:
        with saying(f"Loading {model} ..."):
            from workbench.models import load as load_model
        return load_model(model, device=device, dtype=dtype)

    return load


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
