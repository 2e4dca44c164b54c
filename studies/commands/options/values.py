"""Options as values: what an options class checks, its fields as flags and as texts, and the hash that names its work.

`settled` is what of the options decides the result: a run folder keeps it as config.yaml, and `key` names the folder of
work that can be taken up again.
"""

import copy
import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from factscope.cache import content, digest
from factscope.errors import UserError
from factscope.settings import read
from studies.commands.options.flags import PANELS, Was, hyphened

# No result changes by them.
ASIDE = frozenset({"out", "light", "as_json", "log", "device", "device_map", "runs", "workers", "ray", "shard"})
LISTS = frozenset(
    {"sites", "methods", "layer", "by", "tasks", "others", "relations"}
)  # texts that name several things, with commas
LEAST = {"limit": 1, "held_out": 1, "random": 1, "train": 1, "validation": 1,
         "batch": 1, "samples": 1, "workers": 1, "seeds": 1, "window": 1, "edges": 1, "every": 1, "tokens": 1,
         "seed": 0, "threshold": 0, "certify": 0, "nulls": 0, "value_nulls": 0, "again": 0,
         "neighbours": 0}  # fmt: skip
CONFIG = "config.yaml"  # in a run folder: the options that made it


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command's options are; UserError for an empty text, a number out of range, or a name that is twice."""

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            value, flag = getattr(self, field.name), field.flag
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not text.strip():
                    raise UserError(f"{flag} is empty; {field.remedy}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{flag} must be a number, not {value}")
            least = LEAST.get(field.name)
            if least is not None and isinstance(value, int | float) and value < least:
                raise UserError(f"{flag} must be at least {least}, not {value}")
            if field.name in LISTS and isinstance(value, str):
                names = [hyphened(part) for part in value.split(",") if part.strip()]
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise UserError(f"{flag} names {twice} twice; name it once")


@dataclass(frozen=True)
class Field:
    """A field of an options class, with what its annotation says."""

    name: str
    hint: Any  # its type
    look: Any  # typer's OptionInfo or ArgumentInfo
    was: str | None
    default: Any  # MISSING where it must be given

    @property
    def is_argument(self) -> bool:
        """Whether it is written without a flag."""
        return isinstance(self.look, typer.models.ArgumentInfo)

    @property
    def flag(self) -> str:
        """As the user writes it: --facts, or an argument in capitals."""
        return str(self.look.metavar or self.name).upper() if self.is_argument else f"--{self.key}"

    @property
    def remedy(self) -> str:
        """What to do where it is empty."""
        if self.name == "prompt":
            return "write the beginning of a sentence whose next word is the answer"
        return "give one" if self.default is dataclasses.MISSING else "give one, or leave it out"

    @property
    def key(self) -> str:
        """Its name in a config file: the flag without dashes."""
        if self.is_argument:
            return self.name
        declared = self.look.default if isinstance(self.look.default, str) else f"--{self.name}"
        return declared.split("/")[0].removeprefix("--").replace("_", "-")


def fields(options: type) -> Iterator[Field]:
    """The fields of an options class by panels: arguments, what is common; in each its own first, then its groups'."""
    hints = typing.get_type_hints(options, include_extras=True)
    known = {each.name: each for each in dataclasses.fields(options)}
    order = [name for cls in options.__mro__ for name in vars(cls).get("__annotations__", {}) if name in known]
    found = []
    for name in dict.fromkeys(order):
        hint, *notes = typing.get_args(hints[name])
        look = next(one for one in notes if isinstance(one, typer.models.ParameterInfo))
        look = _reader(look, hint, name)
        was = next((one.flag for one in notes if isinstance(one, Was)), None)
        found.append(Field(name, hint, look, was, known[name].default))
    rank = {"subject": 0, "answer": 1}  # what goes with the prompt stands first
    return iter(
        sorted(
            found,
            key=lambda field: (
                not field.is_argument,
                PANELS.index(field.look.rich_help_panel),
                rank.get(field.name, len(rank)),
            ),
        )
    )


_METAVARS = {int: "<int>", float: "<float>", Path: "<path>"}


def _reader(look: Any, hint: Any, name: str) -> Any:
    """The look of a number or a path, read as in a config file; an empty path is not the working directory."""
    kind = next((one for one in (hint, *typing.get_args(hint)) if one in _METAVARS), None)
    if kind is None or look.parser is not None:
        return look
    own = isinstance(look, typer.models.ArgumentInfo)
    flag = str(look.metavar or name).upper() if own else f"--{name.replace('_', '-')}"

    def parse(text: str) -> Any:
        if not str(text).strip():
            raise UserError(f"{flag} is empty; give one, or leave it out")
        return read(text, kind, flag)

    look = copy.copy(look)
    look.parser, look.metavar = parse, look.metavar or (None if own else _METAVARS[kind])
    return look


def settled(options: Any) -> dict[str, Any]:
    """The options that decide the result, as plain values by their keys in a config file."""
    return _settled(options, lambda field: getattr(options, field.name))


def usual(options: type) -> dict[str, Any]:
    """What `settled` says of an options class where nothing else is asked for."""
    return _settled(options, lambda field: None if field.default is dataclasses.MISSING else field.default)


def _settled(options: Any, value_of: Callable[[Field], Any]) -> dict[str, Any]:
    found = {}
    for field in fields(options if isinstance(options, type) else type(options)):
        value = value_of(field)
        if field.name not in ASIDE and value is not None and value != ():
            found[field.key] = _bare(value)
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_bare(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def changed(options: Any, besides: Sequence[str] = ()) -> list[str]:
    """The flags of the options that differ from their defaults."""
    every = [field for field in fields(type(options)) if field.name not in besides]
    return [f"--{field.key}" for field in every if getattr(options, field.name) != field.default]


def key(options: Any) -> str:
    """Eight characters for these options: the same wherever the result would be the same.

    A file that an option names counts by what it holds, but for the model, which the journals know by its weights.
    """
    return digest(by_content(settled(options)))[:8]


def by_content(said: dict[str, Any]) -> dict[str, Any]:
    """Settled options, with what a file or folder holds in the place of its name."""
    return {name: value if name == "model" else _held(value) for name, value in said.items()}


def _held(value: Any) -> Any:
    """The SHA-256 of what a file or folder holds, where the value names one, or each of several; else the value."""
    if isinstance(value, list):
        return [_held(one) for one in value]
    try:
        place = Path(value).expanduser() if isinstance(value, str) and value else None
        if place is None or not place.exists():
            return value
        return content(sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place])
    except OSError:  # a text too long for a path, or a file that the reader of facts will complain of
        return value
