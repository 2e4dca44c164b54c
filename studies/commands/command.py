"""A command is a name, an options class and a body; typer's parameters are made of the class.

    @command("trace show", ShowOptions, "trace show runs/one")
    def show(options: ShowOptions) -> None: ...

At a terminal, from a config file (`--config`) and from Python (`show(ShowOptions(...))`) it is the same dataclass that
reaches the body. Nothing here imports torch, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import difflib
import inspect
import json
import re
import shlex
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import typer
from typer.core import TyperGroup

from factscope.errors import StoreError, UserError
from factscope.runs.folders import RESULT, writable
from factscope.runs.journal import differing
from factscope.settings import read
from studies.commands.app import examples, given_flags, note, show_version
from studies.commands.options import CONFIG, LISTS, Field, Options, by_content, fields, settled, usual

T = TypeVar("T", bound=Options)
HELP = {"help_option_names": ["-h", "--help"]}
DEEPEST, LARGEST = 8, 10_000  # lists in lists, and values, of a config file
CONFIG_WORDS = "Options from a YAML or JSON file, as the config.yaml of a run folder; a flag may add to it."


@dataclass(frozen=True)
class Command(Generic[T]):
    """A command: call it with its options."""

    name: str  # in full, as "edit apply"
    options: type[T]
    body: Callable[[T], None]
    epilog: str
    bare: bool  # whether it does something when nothing is written behind its name

    def __call__(self, options: T) -> None:
        """Run it."""
        self.body(options)

    def add_to(self, app: typer.Typer) -> None:
        """Register it with typer, under the last word of its name."""
        app.command(
            self.name.split()[-1], epilog=self.epilog, no_args_is_help=not self.bare, context_settings=HELP
        )(self._callback())  # fmt: skip

    def _callback(self) -> Callable[..., None]:
        known = list(fields(self.options))

        def run(context: typer.Context, **values: Any) -> None:
            self.body(self._made(context, known, values))

        parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
        for field in known:
            parameters += _parameters(field)
        config = typing.Annotated[
            Path | None,
            typer.Option("--config", help=CONFIG_WORDS, is_eager=True, callback=self._read, rich_help_panel="Output"),
        ]
        parameters.append(_parameter("config", config, None))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__doc__ = self.body.__doc__
        return run

    def _made(self, context: typer.Context, known: Sequence[Field], values: dict[str, Any]) -> T:
        """The options of one call; UserError where a flag says other than the config file."""
        given = given_flags(context)
        for field in known:
            value = values[field.name]
            if field.was is not None and (old := values[_was(field)]) is not None:
                if field.name in given and old != value:
                    raise UserError(f"{field.was} is an old name of {given[field.name]}, and the two differ; give one")
                note(f"Note: {field.was} is now --{field.key}.")
                values[field.name] = value = old
            if typing.get_origin(field.hint) is tuple:
                values[field.name] = value = tuple(value or ())
            if field.name in given and field.name in (filed := context.default_map or {}):
                other = tuple(filed[field.name]) if isinstance(value, tuple) else filed[field.name]
                if str(other) != str(value):
                    flag, file = given[field.name], values["config"]
                    raise UserError(f"{flag} is {value} on the command line and {other} in {file}; give it once")
        return self.options(**{field.name: values[field.name] for field in known})

    def _read(self, context: typer.Context, config: Path | None) -> Path | None:
        """Typer's callback of --config: what the file says stands where no flag does."""
        if config is not None:
            context.default_map = config_values(config, self.name, self.options)
        return config


def command(
    name: str, options: type[T], *lines: str, bare: bool = False
) -> Callable[[Callable[[T], None]], Command[T]]:
    """Decorator: the body of a command, with example lines that its help shows."""
    return lambda body: Command(name, options, body, examples(*lines), bare)


def group(name: str, words: str, commands: Sequence[Command[Any]], *lines: str, **more: Any) -> typer.Typer:
    """A command of several commands."""
    app = typer.Typer(
        name=name, help=words, epilog=examples(*lines), no_args_is_help=True, context_settings=HELP,
        pretty_exceptions_enable=False, rich_markup_mode="rich", **({"cls": Group} | more),
    )  # fmt: skip
    app.callback()(_top)
    for each in commands:
        each.add_to(app)
    return app


def _top(
    version: typing.Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, expose_value=False, help="Print the version and end."
        ),
    ] = False,
) -> None:
    pass


class Group(TyperGroup):
    """Of a word that is none of its commands it says which one may be meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names; UserError if there is none."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            shown = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
            near = difflib.get_close_matches(args[0], shown, 1)
            asks = [name for name in shown if any(one.name == "prompt" for one in self.commands[name].params)]
            if near or (asks and " " in args[0].strip()):
                meant = near[0] if near else f"{asks[0]} {shlex.quote(args[0])}"
                raise UserError(f"there is no command {args[0]!r}; did you mean {ctx.command_path} {meant}?")
            raise UserError(f"there is no command {args[0]!r}; {ctx.command_path} has {', '.join(shown)}")
        return super().resolve_command(ctx, args)


class OfSentence(Group):
    """A group whose first command is meant where a sentence stands in the place of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the first command put before a sentence, or before its options and a sentence."""
        if args and args[0] not in self.commands:
            own = {flag for param in self.get_params(ctx) for flag in (*param.opts, *param.secondary_opts)}
            foreign = args[0].startswith("-") and args[0].split("=")[0] not in own
            if " " in args[0].strip() or (foreign and any(" " in word.strip() for word in args)):
                args = [next(iter(self.commands)), *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


class OwnForm(Group):
    """A group that is a command as well, where its first word names none of the others: its first command."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of a command below it, or of its own form."""
        own = next(iter(self.commands.values()))
        own.params += [param for param in self.params if param not in own.params]  # --version, completion
        completing = not args and extra.get("resilient_parsing")
        others = [name for name in self.commands if name != own.name]
        near = difflib.get_close_matches(args[0], others, 1) if args and not completing else []
        if near and args[0] not in self.commands:
            raise UserError(f"there is no command {args[0]!r}; did you mean {info_name} {near[0]}?")
        if completing or (args and (args[0] in self.commands or args[0] in _CALLBACKS)):
            return super().make_context(info_name, args, parent, **extra)
        return own.make_context(info_name, args, parent, **extra)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The commands below, and the options of the own form."""
        return [
            *super().shell_complete(ctx, incomplete),
            *next(iter(self.commands.values())).shell_complete(ctx, incomplete),
        ]

    def invoke(self, ctx: Any) -> Any:
        """Run what the context is of."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


_CALLBACKS = ("--version", "--install-completion", "--show-completion")  # a group's own options


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
    )  # fmt: skip


def _parameters(field: Field) -> list[inspect.Parameter]:
    """A field as typer wants it, and its old spelling, hidden."""
    many = typing.get_origin(field.hint) is tuple
    hint = list[typing.get_args(field.hint)[0]] if many else field.hint  # type: ignore[misc]
    default = None if many and field.default == () else field.default
    found = [_parameter(field.name, typing.Annotated[hint | None if default is None else hint, field.look], default)]
    if field.was is not None:
        old = typer.Option(field.was, hidden=True)
        found.append(_parameter(_was(field), typing.Annotated[field.hint | None, old], None))
    return found


def _was(field: Field) -> str:
    return f"{field.name}_was"


# ---- config files ----


def config_values(path: Path, name: str, options: type) -> dict[str, Any]:
    """A config file's values by the options' fields.

    Raises UserError for a file that is no mapping, a config of another command, an unknown key or a wrong type.
    """
    written_down = document(path, name)
    other = written_down.pop("command", name)
    if other != name:
        raise UserError(f"{path} is a config of `{other}`, not of `{name}`")
    known, found = {field.key: field for field in fields(options)}, {}
    for written, value in written_down.items():
        field = known.get(str(written).replace("_", "-")) or known.get(str(written))
        if field is None:
            near = difflib.get_close_matches(str(written), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"{path}: {name} has no option {written!r}; {hint}")
        if field.name in found:
            raise UserError(f"{path} gives {field.key} twice; give it once")
        found[field.name] = _checked(f"{path}: {written}", field, value)
    return {field: value for field, value in found.items() if value is not None}


def document(path: Path, name: str) -> dict[str, Any]:
    """What a config file holds; UserError for a folder, no file, no mapping of plain values, or a key that is twice."""
    import yaml

    class Once(yaml.SafeLoader):
        """A mapping whose keys are told apart: YAML forbids two alike, and the library takes the last.

        Mappings are not merged (`<<`): ten merges of ten are a billion entries in a few lines.
        """

        def flatten_mapping(self, node: Any) -> None:
            pass

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [str(key.value) for key, _ in node.value]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise UserError(f"{path} gives {twice} twice; give it once")
            return super().construct_mapping(node, deep)

    if path.is_dir():
        hint = f"its options are in {path / CONFIG}" if (path / CONFIG).is_file() else f"it holds no {CONFIG}"
        raise StoreError(f"--config {path} is a folder, and {hint}; name a file")
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.load(text, Once)
    except FileNotFoundError:
        raise StoreError(f"--config {path} cannot be read: there is no such file") from None
    except (OSError, UnicodeDecodeError) as trouble:
        raise StoreError(f"--config {path} cannot be read ({trouble})") from None
    except UserError:
        raise
    except Exception as trouble:  # YAMLError, and whatever Python raises of a date, a number or a depth that is none
        bare = re.search(r"^ *([\w-]+): *(\[[^\]\n]*\][^\S\n]*[^\s#,\]}].*)$", text, re.MULTILINE)
        if bare:  # YAML reads brackets as a list, and cannot go on behind them
            raise UserError(f"--config {path}: put quotes around it: {bare[1]}: {json.dumps(bare[2])}") from None
        raise UserError(f"--config {path} is neither YAML nor JSON: {' '.join(str(trouble).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"--config {path} holds no options of {name}; write one a line, as samples: 4")
    if odd := _odd(found):
        raise UserError(f"--config {path} holds {odd}; options are texts in quotes, numbers, true, false and lists")
    return found


def _odd(value: Any, depth: int = 0, met: list[int] | None = None) -> str:
    """What there is in a value that no option is made of; "" for nothing. Aliases (`*a`) count as what they repeat."""
    met = met if met is not None else []
    met.append(depth)
    if depth > DEEPEST or len(met) > LARGEST:
        return "lists in lists without end"
    if isinstance(value, dict | list):
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return next((odd for one in inside if (odd := _odd(one, depth + 1, met))), "")
    return "" if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}, {value}"


def _checked(place: str, field: Field, value: Any) -> Any:
    """A value of a config file as typer takes it; SettingError if it is of another type."""
    if field.key == "set" and isinstance(value, dict):
        return [f"{key}={_text(one)}" for key, one in value.items()]
    if typing.get_origin(field.hint) is tuple:
        return list(read(value, field.hint, place)) if value is not None else None
    if isinstance(value, list) and str in _kinds(field.hint):
        if field.name not in LISTS:
            raise UserError(f"{place} is a list, because of its [brackets]; put quotes around the text")
        value = _text(value)
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{place} is empty; {field.remedy}")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = isinstance(value, str) and str in _kinds(field.hint)  # "none" is a word here, and null is nothing
    found = value if text else read(str(value) if number and str in _kinds(field.hint) else value, field.hint, place)
    if found is None or isinstance(found, bool | int | float):
        return found
    return field.look.parser(str(found)) if field.look.parser else str(found)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@contextlib.contextmanager
def run_folder(command: str, options: Any, own: Path, fresh: bool = False, name: str = CONFIG) -> Iterator[Path]:
    """The folder of a run, writable, with the options in it: `--out`, else `own`.

    Options that came to nothing leave those of the run that the folder holds. A folder that was named with --out and
    holds a run of other options is refused, so that no command writes over another's result.
    """
    import yaml

    from factscope.files import write_bytes_atomically, write_text_atomically

    said = {"command": command, **settled(options)}
    place = options.out or own
    if place.absolute() != own.absolute() and not fresh:
        _refuse_another_run(place, said, options, name)
    with writable(place, fresh=fresh) as folder:
        file = folder / name
        before = file.read_bytes() if file.is_file() else None
        write_text_atomically(file, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
        try:
            yield folder
        except BaseException:
            if before is not None:
                write_bytes_atomically(file, before)
            raise


def _refuse_another_run(folder: Path, said: dict[str, Any], options: Any, name: str) -> None:
    """StoreError where the folder holds a run of other options, or one that does not say its options."""
    if not (folder / name).is_file():
        if any((folder / other).exists() for other in RESULT):
            raise StoreError(f"{folder} holds a run already; choose another folder with --out")
        return
    try:
        before = document(folder / name, str(said["command"]))
    except UserError:
        raise StoreError(
            f"{folder} holds a run already, and its {name} cannot be read; choose another with --out"
        ) from None
    other = differing(by_content(usual(type(options)) | before), by_content(usual(type(options)) | said))
    if other:
        raise StoreError(
            f"{folder} holds a run of other settings ({', '.join(other)}); choose another folder with --out"
        )
