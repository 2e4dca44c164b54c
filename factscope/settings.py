"""Settings into a frozen config dataclass: one parser for `--set KEY=VALUE`, for config files and for Python.

A setting is named in full ("descent.steps") or by its last words, where no other setting ends in them ("steps").
Its annotation says how its value is read: a text ("7", "none", "0,1") as a person types it, anything else as YAML or
JSON gives it. A nested config is a mapping of its own, or dotted names.

*Scope*: fields that are int, float, bool, str, Path, None, Literal, tuples of these, unions of these, and dataclasses.
"""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from factscope.errors import SettingError

T = TypeVar("T")
Settings = Iterable[str] | Mapping[str, Any]  # KEY=VALUE texts, or what a file holds
Name = tuple[str, ...]  # a setting by its full name: ("descent", "steps")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


@overload
def configured(
    config: type[T], settings: Settings = (), *, flags: Mapping[str, Any] | None = None, where: str = "--set"
) -> T: ...


@overload
def configured(
    config: T, settings: Settings = (), *, flags: Mapping[str, Any] | None = None, where: str = "--set"
) -> T: ...


def configured(
    config: Any,
    settings: Settings = (),
    *,
    flags: Mapping[str, Any] | None = None,
    where: str = "--set",
) -> Any:
    """A config (or the defaults of its class) with these settings instead of its own.

    Args:
        settings: KEY=VALUE texts, or a mapping, as YAML and JSON give it.
        flags: values that were given by other means; a value of None was not given. They need no reading.
        where: what a message calls the place of the settings: "--set", or the name of a file.

    Raises SettingError: a name that does not exist (naming the closest, and all names), a value of the wrong type, a
    setting that is given twice, or is missing.
    """
    cls = config if isinstance(config, type) else type(config)
    known = dict(_leaves(cls))
    values: dict[Name, Any] = {(name,): value for name, value in (flags or {}).items() if value is not None}
    pairs = _flat(settings, known) if isinstance(settings, Mapping) else map(pair, settings)
    for key, given in pairs:
        name = _name(key, known, where)
        if name in values:
            raise SettingError(f"{where} {key}: {'.'.join(name)} is given twice; give it once")
        try:
            values[name] = _read(given, known[name])
        except ValueError:
            raise SettingError(
                f"{where} {key}={_shown(given)}: {key} cannot be {given!r}, which is not {_wanted(known[name])}"
            ) from None
    return _built(cls, None if isinstance(config, type) else config, values, where)


def pair(text: str, where: str = "--set") -> tuple[str, str]:
    """KEY=VALUE as a pair; SettingError for any other text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SettingError(f"{where} {text!r}: write key=value")
    return key.strip(), value.strip()


@overload
def owned(settings: Mapping[str, Any], owner: str) -> tuple[dict[str, Any], dict[str, Any]]: ...


@overload
def owned(settings: Sequence[str], owner: str) -> tuple[list[str], list[str]]: ...


def owned(settings: Any, owner: str) -> Any:
    """The settings whose name begins with OWNER., without it, and all others: those of one part of a piece of work.

    Raises SettingError for a text that is not KEY=VALUE.
    """

    def rest(key: str) -> str:
        first, _, own = key.partition(".")
        return own if first.lower().replace("-", "_") == owner else ""

    if isinstance(settings, Mapping):
        own = {rest(key): value for key, value in settings.items() if rest(key)}
        return own, {key: value for key, value in settings.items() if not rest(key)}
    pairs = [(text, *pair(text)) for text in settings]
    return [f"{rest(key)}={value}" for _, key, value in pairs if rest(key)], [t for t, key, _ in pairs if not rest(key)]


def by_owner(texts: Iterable[str]) -> dict[str, list[str]]:
    """OWNER.KEY=VALUE texts by their owner, in small letters with underscores; SettingError where no owner is named."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, value = pair(text)
        owner, dot, rest = key.partition(".")
        if not dot:
            raise SettingError(f"--set {text!r}: say whose setting it is, as rome.layer=5")
        found.setdefault(owner.lower().replace("-", "_"), []).append(f"{rest}={value}")
    return found


def names(config: Any) -> tuple[str, ...]:
    """The full names of all settings of a config, or of its class."""
    return tuple(".".join(name) for name, _ in _leaves(config if isinstance(config, type) else type(config)))


def written(config: Any) -> dict[str, str]:
    """Every setting of a config by its full name, each as `configured` reads it from a KEY=VALUE text."""
    return {".".join(name): _text(reduce(getattr, name, config)) for name, _ in _leaves(type(config))}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


# ---- names ----


def _leaves(cls: type) -> Iterator[tuple[Name, Any]]:
    """Every setting that is not itself a config, by its full name, with its annotation."""
    hints = typing.get_type_hints(cls)
    for field in fields(cls):
        if not field.init:
            continue
        inner = _nested(hints[field.name])
        if inner is None:
            yield (field.name,), hints[field.name]
        else:
            yield from (((field.name, *name), hint) for name, hint in _leaves(inner))


def _nested(hint: Any) -> type | None:
    """The dataclass that an annotation names, alone or beside None."""
    return next((kind for kind in _kinds(hint) if isinstance(kind, type) and is_dataclass(kind)), None)


def _flat(settings: Mapping[str, Any], known: Mapping[Name, Any], above: Name = ()) -> Iterator[tuple[str, Any]]:
    """The pairs of nested mappings, with dotted names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, known, (*above, str(key)))
        else:
            yield ".".join((*above, str(key))), value


def _name(key: str, known: Mapping[Name, Any], where: str) -> Name:
    """The full name of the setting that `key` means."""
    asked = tuple(part.strip().replace("-", "_") for part in key.split("."))
    if asked in known:
        return asked
    found = [name for name in known if name[-len(asked) :] == asked]
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingError(f"{where} {key}: say which setting is meant: {', '.join('.'.join(name) for name in found)}")
    every = {".".join(name): name for name in known}
    close = difflib.get_close_matches(key.replace("-", "_"), [*every, *(name[-1] for name in known)], n=1)
    meant = f", did you mean {close[0]!r}?" if close else "."
    raise SettingError(f"{where} {key}: there is no setting {key!r}{meant} Write one of these keys: {', '.join(every)}")


# ---- values ----


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union; a text is tried last, because it takes everything, and None is named last."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return (hint,)
    return tuple(sorted(typing.get_args(hint), key=lambda kind: (kind is type(None), kind in (str, Path))))


def read(value: Any, hint: Any, place: str) -> Any:
    """A value as its annotation wants it; SettingError where it is something else."""
    try:
        return _read(value, hint)
    except ValueError:
        raise SettingError(f"{place} cannot be {value!r}, which is not {_wanted(hint)}") from None


def _read(value: Any, hint: Any) -> Any:
    """A value as its annotation wants it; ValueError where it is something else."""
    kinds = _kinds(hint)
    if type(None) in kinds and (value is None or (isinstance(value, str) and value.lower() in ("none", ""))):
        return None
    for kind in (kind for kind in kinds if kind is not type(None)):
        try:
            return _read_as(value, kind)
        except ValueError:
            continue
    raise ValueError


def _read_as(value: Any, kind: Any) -> Any:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        found = [choice for choice in inside if choice == value or str(choice) == value]
        if not found:
            raise ValueError
        return found[0]
    if origin is tuple:
        return _read_tuple(value, inside)
    if kind is Any:
        return value
    if kind is bool:
        truth = _TRUTH.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(truth, bool):
            raise ValueError
        return truth
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise ValueError
    if kind in (str, Path):
        if not isinstance(value, str | Path):
            raise ValueError
        return kind(value)
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    read = kind(value)
    if read != read:  # not a number: it would be neither below nor above any bound
        raise ValueError
    return read


def _read_tuple(value: Any, inside: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part.strip() for part in re.split("[;,]", value) if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    items = [inside[0]] * len(parts) if inside[-1] is Ellipsis else list(inside)
    if len(items) != len(parts):
        raise ValueError
    return tuple(_read(part, item) for part, item in zip(parts, items, strict=True))


def _wanted(hint: Any) -> str:
    """What a setting wants, in words."""
    said = []
    for kind in _kinds(hint):
        origin, inside = typing.get_origin(kind), typing.get_args(kind)
        if origin is Literal:
            said.append(f"one of {', '.join(map(str, inside))}")
        elif origin is tuple:
            said.append("a list, with commas, each " + _wanted(inside[0]))
        else:
            said.append("none" if kind is type(None) else _KINDS.get(kind, str(kind)))
    return " or ".join(said)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


# ---- the config ----


def _built(cls: type, base: Any, values: Mapping[Name, Any], where: str) -> Any:
    """The config with those values, nested configs rebuilt from the inside; without a base, of the defaults."""
    hints, given = typing.get_type_hints(cls), {}
    for field in fields(cls):
        own = {name[1:]: value for name, value in values.items() if name[0] == field.name}
        inner = _nested(hints[field.name])
        if not own:
            continue
        if inner is None or () in own:
            given[field.name] = own[()]
            continue
        inside = _default(field) if base is None else getattr(base, field.name)
        given[field.name] = _built(inner, inside, own, where)
    if base is not None:
        return replace(base, **given)
    missing = [field.name for field in fields(cls) if field.init and _absent(field) and field.name not in given]
    if missing:
        raise SettingError(f"{where}: {', '.join(missing)} must be given")
    return cls(**given)


def _absent(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default
