"""KEY=VALUE texts into a config dataclass: one parser for every command."""

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from factscope.errors import UserError
from studies.commands.app import T


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
