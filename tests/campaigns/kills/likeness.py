"""Whether two folders hold the same work: every byte and every number, but for the clock and the memory.

What may differ between two runs of one piece of work is when it was done, how long it took and how much memory the
process had; everything else, in results, journals, tables and the cache, is the work. Of pages, which are drawn from
results and show times among the rest, all but the numbers is compared.
"""

import json
import re
from pathlib import Path
from typing import Any

CLOCK = ("started", "seconds", "peak_memory", "memory", "check")  # `check` of a journal's line covers its seconds
NUMBER = re.compile(
    rb"\d{4}-\d\d-\d\dT[\d:]+|\d+(?:\.\d+)?(?:e-?\d+)?"
)  # of pages: they are drawn from results, times among them


def work_in(inside: Path) -> dict[str, Any]:
    """All files of a folder by name, without the clock."""
    found: dict[str, Any] = {}
    for file in sorted(one for one in inside.rglob("*") if one.is_file()):
        found[str(file.relative_to(inside))] = _content(file)
    return found


def _content(file: Path) -> Any:
    data = file.read_bytes()
    if file.suffix == ".json":
        return _timeless(json.loads(data))
    if file.suffix == ".jsonl":
        return _decided([_timeless(json.loads(line)) for line in data.splitlines()])
    if file.suffix in (".html", ".md"):
        return NUMBER.sub(b"", data)
    return data


def _decided(lines: list[Any]) -> Any:
    """A search's decisions as they stand: those of a layer that was begun anew replace the first ones."""
    if not any("decisions" in line for line in lines):
        return lines
    found: list[Any] = []
    for line in lines[1:]:
        found[line["place"] :] = line["decisions"]
    return [lines[0], found]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in CLOCK}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def unlike(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The first thing that is not the same, in words; "" for nothing."""
    if more := sorted(set(one) ^ set(other)):
        return f"files: {', '.join(more[:4])}"
    name = next((name for name in one if one[name] != other[name]), None)
    return "" if name is None else f"{name}: {_where(one[name], other[name])}"


def _where(one: Any, other: Any, path: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        key = next((k for k in [*one, *other] if one.get(k, _where) != other.get(k, _where)), "")
        return _where(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        place = next(n for n in range(len(one)) if one[n] != other[n])
        return _where(one[place], other[place], f"{path}[{place}]")
    if isinstance(one, bytes) and isinstance(other, bytes):
        place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        return f"byte {place}: {one[max(0, place - 40) : place + 40]!r}, {other[max(0, place - 40) : place + 40]!r}"
    return f"{path}: {str(one)[:80]}, {str(other)[:80]}"
