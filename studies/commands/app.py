"""What all commands share: how mistakes are told, how settings are read, where results go.

Nothing here imports torch, so that `--help` and `--version` answer at once.
"""

import codecs
import contextlib
import errno
import gc
import importlib.util
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

from factscope import __version__
from factscope.errors import UserError
from factscope.progress import stage
from studies.commands.next_steps import next_step

T = TypeVar("T")
USAGE: Any = typer.BadParameter.__base__  # UsageError, of whichever click typer brings
OURS = ("factscope", "tracing", "circuits", "editing", "studies")  # what warns in our name
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # by a terminal; not tab, newline
READABLE = 1200  # characters of a complaint: what it quotes may be a prompt of any length
JOURNAL = "journal.jsonl"  # in a run folder: what long work has finished so far


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command: exit code 2 and one sentence for a user's mistake, 130 for Ctrl-C, a traceback for ours.

    141 where the reader of a pipe went away, whoever wrote to it.
    """
    try:
        try:
            _streams()
            asked = sys.argv[1:] if arguments is None else arguments
            if undecoded := [word for word in asked if not _is_text(word)]:
                raise UserError(
                    f"{undecoded[0]!r} is not text in this terminal's encoding, {sys.getfilesystemencoding()}; set "
                    "PYTHONUTF8=1, or a locale such as LC_ALL=C.UTF-8"
                )
            if "doctor" not in asked[:1] and (trouble := in_the_way()):
                raise UserError(trouble[0])
            try:
                with _remarks():
                    code = app(arguments, prog_name=name, standalone_mode=False)
                sys.exit(code if isinstance(code, int) else 0)
            except USAGE as mistake:
                raise UserError(_usage(mistake, name)) from None
            finally:
                sys.stdout.flush()
        except UserError as mistake:
            _say(_readable(f"{name}: {mistake}"), *getattr(mistake, "__notes__", ()))
            sys.exit(2)
        except KeyboardInterrupt as stop:
            _say(f"{name}: stopped", *getattr(stop, "__notes__", ()))
            sys.exit(130)
        except OSError as trouble:
            if trouble.errno == errno.ENAMETOOLONG:  # a prompt where a file was meant, say
                _say(_readable(f"{name}: {trouble.filename!r} is too long to be the name of a file or folder"))
                sys.exit(2)
            if trouble.errno != errno.ENOSPC or trouble.filename is not None:
                raise
            _say(f"{name}: the output cannot be written ({trouble.strerror})", *getattr(trouble, "__notes__", ()))
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(2)
    except (SystemExit, BrokenPipeError) as end:
        if not _unread(end):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is not written yet goes nowhere
        sys.exit(141)


def _usage(mistake: Any, name: str) -> str:
    """Typer's complaint about a command line in one sentence; of a command without words, its help is all there is."""
    if type(mistake).__name__ == "NoArgsIsHelpError":
        print(mistake.format_message(), file=sys.stderr, end="")
        sys.exit(2)
    words = " ".join(mistake.format_message().split()).rstrip(".")
    where = mistake.ctx.command_path if mistake.ctx is not None else name
    return f"{words[0].lower()}{words[1:]}; see {where} --help"


def _streams() -> None:
    """Write what an output's encoding lacks as JSON escapes it (\\u00e9): no finished work is lost to a character."""

    def escaped(trouble: UnicodeError) -> tuple[str, int]:
        assert isinstance(trouble, UnicodeEncodeError)
        return json.dumps(trouble.object[trouble.start : trouble.end])[1:-1], trouble.end

    codecs.register_error("factscope", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="factscope")


def _is_text(word: str) -> bool:
    """Whether Python could decode an argument: bytes that it could not stand there as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def in_the_way() -> list[str]:
    """For each of our packages that another distribution hides, a sentence that says so."""
    ours, found = Path(__file__).parents[2], []
    for name in OURS:
        spec = importlib.util.find_spec(name)
        places = (
            [] if spec is None else [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else ())]
        )
        if places and not any(Path(place).is_relative_to(ours / name) for place in places):
            found.append(
                f"`import {name}` finds another distribution's package in {places[0]}, not Factscope's; uninstall that "
                "one, or give Factscope an environment of its own"
            )
    return found


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
    return "\n\n".join(("[bold]Examples[/bold]" if len(lines) > 1 else "[bold]Example[/bold]", *lines))


def show_version(asked: bool) -> None:
    """Typer callback of `--version`."""
    if asked:
        typer.echo(f"factscope {__version__}")
        raise typer.Exit


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


def tell(*lines: str) -> None:
    """Result lines on standard output."""
    for line in lines:
        typer.echo(_harmless(line))


def tell_result(result: Any, page: Path, options: Any, *lines: str, **more: Any) -> None:
    """What was found and where its page is: in words with `lines`, or as its summary for programs with `more`.

    A tracker that the options name gets the numbers last, so that a tracker's trouble hides no result.
    """
    from factscope.plots.show import in_words, summary_of

    if options.as_json:
        tell(json.dumps(more | summary_of(result) | {"page": str(page)}, ensure_ascii=False))
    else:
        tell(in_words(result), *lines, f"Page: {page}")
        if sys.stdout.isatty() and (step := next_step(result, page)) is not None:
            tell(f"Next: {step}")
    track(result, page, options)


def track(result: Any, page: Path, options: Any) -> None:
    """Log a saved result, under the name of its folder and with the command's options, where --log asks for it."""
    if options.log is None:
        return
    from factscope.results.trackers import log
    from studies.commands.options import settled

    with contextlib.redirect_stdout(sys.stderr):  # what a library says is no result of ours
        log(result, options.log, page.absolute().parent.name, settled(options))


def tell_shard(shard: Any, folder: Path) -> None:
    """That a part of the work is done, and what joins the parts."""
    whole = folder.name.removesuffix(f"-{shard.number}of{shard.of}")
    folders = f"{folder.parent / whole}-*of{shard.of}" if whole != folder.name else "SHARDS... --out WHOLE"
    tell(f"Shard {shard} is done, in {folder}; once all are: factscope merge {folders}")


def note(sentence: str) -> None:
    """A remark on standard error, so that standard output stays what was asked for."""
    _say(sentence)


def tell_notes(remarks: Sequence[str]) -> None:
    """Remarks of a result on standard error, each as a sentence."""
    for remark in remarks:
        note(f"Note: {remark}.")


@contextlib.contextmanager
def going_on(folder: Path, done: str = "what is done is") -> Iterator[None]:
    """Long work that is kept in `folder`: where it is stopped, that is said."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"Stopped; {done} in {folder}, and the same command goes on from there.")
        raise


def loader(model: str, device: str | None, dtype: str, spread: str | None = None) -> Callable[[], Any]:
    """Load a model when called, saying so; onto one device, or `spread` over several."""

    def load() -> Any:
        with _uncollected():
            with stage(f"Loading {model} ..."):
                from factscope.model.load import load as load_model
            return load_model(model, device=device, dtype=dtype, device_map=spread)

    return load


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """The garbage collector rests: libraries and a model are half a million objects that stay, looked through often."""
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.enable()


def load(options: Any) -> Any:
    """The model that ModelOptions name."""
    adapter = getattr(options, "adapter", None)
    name = options.model if adapter is None else f"{options.model}+{adapter}"
    spread = getattr(options, "device_map", None)
    if spread is not None and options.device is not None:
        raise UserError("--device is one device, and --device-map spreads over several; give one of the two")
    return loader(name, options.device, options.dtype, spread)()


def _say(*sentences: str) -> None:
    print(*map(_harmless, sentences), sep="\n", file=sys.stderr, flush=True)


def _readable(sentence: str) -> str:
    """A complaint without the middle of what it quotes at length: what to do about it stands at the end."""
    if len(sentence) <= READABLE:
        return sentence
    return f"{sentence[: READABLE // 2]} [...] {sentence[-READABLE // 2 :]}"


def _harmless(text: str) -> str:
    """Text whose control characters, and those that turn its direction, are written as JSON writes them (\\u001b).

    Prompts, names and files are other people's, and a terminal obeys what stands in them.
    """
    return "".join(json.dumps(sign)[1:-1] if OBEYED.match(sign) else sign for sign in text)
