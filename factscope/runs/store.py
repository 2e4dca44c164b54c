"""Save any result and load it back: `result.json` for what a person reads, `result.safetensors` for the tensors.

One pair of functions serves every result, by walking its dataclass fields: numbers, texts, tuples, dictionaries,
nested dataclasses and tensors. The class of a result is its kind; its annotations say how to read it again. The JSON
names the tensors' hash, so that two files that do not belong together are noticed. Nothing is pickled.

Old folders load: `schema` counts the ways in which results were written, `_KINDS` says what a class was called before,
and a class whose fields have changed has a classmethod `upgraded`, which turns what an older schema holds of it into
what it holds now. Where that is not possible, the error says which command makes the result again.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import torch as safetensors
from torch import Tensor

from factscope.errors import ArgumentError, StoreError, UserError
from factscope.files import write_bytes_atomically, write_text_atomically
from factscope.runs.kinds import named, shown_by

JSON, TENSORS = "result.json", "result.safetensors"
SCHEMA = 3
_KINDS = {  # what schema 1 called a class that has another name now
    "Side": "ModelState",
    "Near": "NeighbourState",
    "Again": "Rerun",
    "Traced": "TraceMaps",
    "Trial": "MethodResult",
}
_PLAIN: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
_JSON_KINDS: dict[Any, type] = {tuple: list, list: list, dict: dict}
T = TypeVar("T")


def save(result: Any, folder: str | Path) -> Path:
    """Write `result` into `folder`, made if need be; each file whole or not at all, the JSON last.

    Raises StoreError if the folder cannot be written, and ArgumentError for what is no result.
    """
    folder = Path(folder)
    if not is_dataclass(result) or isinstance(result, type):
        raise ArgumentError(f"a value of type {type(result).__name__} is no result that can be saved")
    tensors: dict[str, Tensor] = {}
    body = _encode(result, "", tensors)
    packed = safetensors.save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    document = {
        "kind": type(result).__name__,
        "schema": SCHEMA,
        "tensors_sha256": hashlib.sha256(packed).hexdigest(),
        "tensors": {name: {"shape": list(t.shape), "dtype": str(t.dtype)[6:]} for name, t in tensors.items()},
        "result": body,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as trouble:
        raise StoreError(f"cannot make the folder {folder}: {trouble.strerror}; choose another with --out") from trouble
    write_bytes_atomically(folder / TENSORS, packed)
    write_text_atomically(folder / JSON, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return folder


def load(folder: str | Path, cls: type[T]) -> T:
    """Read a `cls` back from `folder`.

    Raises StoreError: no such folder, another kind of result, a file that is damaged or belongs to another run.
    """
    folder = Path(folder)
    document = header(folder)
    kind, schema = document["kind"], document["schema"]
    if schema == 1:
        kind = _KINDS.get(kind, kind)
    if kind != cls.__name__:
        raise StoreError(f"{folder} holds {named(kind)}, not {named(cls.__name__)}{shown_by(kind, folder)}")
    try:
        packed = (folder / TENSORS).read_bytes()
    except OSError as trouble:
        raise StoreError(
            f"{folder / TENSORS} cannot be read ({trouble.strerror}); it belongs beside {JSON}"
        ) from trouble
    if hashlib.sha256(packed).hexdigest() != document["tensors_sha256"]:
        raise StoreError(f"{folder / TENSORS} is damaged or belongs to another run than {JSON} beside it")
    try:
        tensors = safetensors.load(packed)
        found: T = _decode(document["result"], cls, _Source(tensors, schema))
        return found
    except UserError:
        raise
    except Exception as trouble:  # a class may raise anything of a file that holds what no result of it could
        why = str(trouble.args[0])[:200] if trouble.args else type(trouble).__name__
        if schema < SCHEMA:
            raise StoreError(
                f"{folder} was written by an older Factscope, and its {cls.__name__} cannot be read any more ({why}): "
                f"{_remedy(document)}"
            ) from trouble
        raise StoreError(f"{folder} does not hold a whole {cls.__name__} ({why})") from trouble


def _remedy(document: dict[str, Any]) -> str:
    """What to do about a result that cannot be read: the command that made it, where that is known."""
    command = _command_in(document["result"])
    again = f"make it again in another folder, with: {command}" if command else "make it again in another folder"
    return f"{again}; or read it with the version that wrote it"


def _command_in(body: Any) -> str | None:
    """The command that a saved result names, in its own `run` or in that of one of its parts."""
    if not isinstance(body, dict):
        return None
    run = body.get("run")
    if isinstance(run, dict) and run.get("command"):
        return str(run["command"])
    return next((found for part in body.values() if (found := _command_in(part))), None)


def header(folder: str | Path) -> dict[str, Any]:
    """The JSON of a run folder: kind, schema, tensor index, result; without the tensors."""
    path = Path(folder) / JSON
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as trouble:
        inside = sorted(each.parent.name for each in Path(folder).glob(f"*/{JSON}"))
        there = f"; it holds {', '.join(inside[:5])}: name one of these" if inside else ""
        raise StoreError(
            f"{folder} is not a run folder: {path.name} cannot be read ({trouble.strerror}){there}"
        ) from trouble
    except (ValueError, RecursionError) as trouble:
        raise StoreError(f"{path} is not readable JSON ({trouble})") from trouble
    missing = {"kind", "schema", "tensors_sha256", "result"} - set(document if isinstance(document, dict) else ())
    if missing or not isinstance(document, dict):
        raise StoreError(f"{path} was not written by Factscope: it has no {', '.join(sorted(missing))}")
    if not isinstance(document["kind"], str) or type(document["schema"]) is not int:
        raise StoreError(f"{path} was not written by Factscope: its kind is no name, or its schema no number")
    if document["schema"] not in range(1, SCHEMA + 1):
        raise StoreError(
            f"{path} has schema {document['schema']}, and this version reads 1 to {SCHEMA}: it was written by a newer "
            "Factscope, so update this one"
        )
    return document


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"$tensor": path}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _encode(getattr(value, field.name), f"{path}.{field.name}".lstrip("."), tensors)
            for field in fields(value)
        }
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{path}: keys must be text, not {bad[0]!r}")
        return {key: _encode(item, f"{path}.{key}".lstrip("."), tensors) for key, item in value.items()}
    if isinstance(value, tuple | list | range):
        return [_encode(item, f"{path}.{number}", tensors) for number, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}  # JSON has no nan
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{path}: a {type(value).__name__} cannot be saved")


@dataclasses.dataclass(frozen=True, eq=False)
class _Source:
    """Where a value is read from: the tensors beside it, and the schema that it was written in."""

    tensors: Mapping[str, Tensor]
    schema: int


def _decode(value: Any, hint: Any, source: _Source) -> Any:
    """The value that the annotation `hint` asks for; TypeError, KeyError or ValueError for any other."""
    if isinstance(value, dict) and "$tensor" in value:
        return source.tensors[value["$tensor"]]
    if isinstance(value, dict) and "$float" in value:
        return float(value["$float"])
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        chosen = [a for a in arguments if a is not type(None)]
        structured = [a for a in chosen if is_dataclass(a) or typing.get_origin(a) in (tuple, list, dict)]
        plain = [a for a in chosen if _is_plain(value, a)]
        options = (structured if isinstance(value, dict | list) else plain) or chosen
        for option in options[:-1]:  # the first that fits
            with contextlib.suppress(TypeError, KeyError, ValueError):
                return _decode(value, option, source)
        return _decode(value, options[-1], source)
    _check_kind(value, hint, origin)
    if is_dataclass(hint) and isinstance(value, dict):
        return _decode_dataclass(value, hint, source)
    if isinstance(value, list):
        many = origin in (list, tuple, None) and (not arguments or arguments[-1] is Ellipsis or origin is list)
        hints = [arguments[0] if arguments else Any] * len(value) if many else list(arguments)
        items = [_decode(item, h, source) for item, h in zip(value, hints, strict=True)]
        return items if origin is list else tuple(items)
    if isinstance(value, dict):
        inner = arguments[1] if len(arguments) == 2 else Any
        return {key: _decode(item, inner, source) for key, item in value.items()}
    return Path(value) if hint is Path else value


def _check_kind(value: Any, hint: Any, origin: Any) -> None:
    """TypeError for a value of a file that is of another kind than its place: it would fall much later, or never."""
    wanted = dict if is_dataclass(hint) else _JSON_KINDS.get(origin) if isinstance(origin, type) else None
    fits = _is_plain(value, hint) if hint in _PLAIN else wanted is None or isinstance(value, wanted)
    if not fits:
        raise TypeError(f"{str(value)[:60]!r} where {getattr(hint, '__name__', hint)} should be")


def _is_plain(value: Any, hint: Any) -> bool:
    """Whether a value is of a plain kind; True and False are no numbers."""
    return isinstance(value, _PLAIN.get(hint, ())) and not (isinstance(value, bool) and hint in (int, float))


def _decode_dataclass(value: dict[str, Any], cls: Any, source: _Source) -> Any:
    if source.schema < SCHEMA and hasattr(cls, "upgraded"):
        value = cls.upgraded(value)
    hints = typing.get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    if unknown := set(value) - known:
        raise KeyError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    needed = {
        f.name for f in fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := needed - set(value):
        raise KeyError(f"{cls.__name__} lacks {', '.join(sorted(missing))}")
    return cls(**{name: _decode(item, hints[name], source) for name, item in value.items()})


def same(one: Any, other: Any) -> bool:
    """Whether two results hold the same values, tensors bit for bit; provenance included. NaN is the same as NaN."""
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    if _encode(one, "", ours) != _encode(other, "", theirs):
        return False
    return all(_equal(tensor, theirs[name]) for name, tensor in ours.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    both = torch.isnan(one) & torch.isnan(other) if one.shape == other.shape else torch.zeros(())
    return torch.equal(one, other) or torch.equal(one.masked_fill(both.bool(), 0), other.masked_fill(both.bool(), 0))
