"""What an editing method is and what it is not for, in words: for pages, the terminal and the documentation.

The clauses are those of the method's own file; nothing here depends on what was measured in a run.
"""

from collections.abc import Sequence
from typing import Any, get_args

from editing.method import Kind, MethodSpec, method, method_names
from factscope.plots.specs import Table
from factscope.settings import written


def about(name: str) -> tuple[tuple[str, str], ...]:
    """What a method does, is good for and is not for; nothing of a method that is no longer installed."""
    return clauses(method(name)) if name in method_names() else ()


def clauses(spec: MethodSpec) -> tuple[tuple[str, str], ...]:
    """The same of a method that is at hand, without what its author left out."""
    said = (("what it does", spec.about), ("good for", spec.good_for), ("not for", spec.not_for))
    return tuple((key, text) for key, text in said if text)


def method_table(names: Sequence[str]) -> tuple[Table, ...]:
    """A row for each method that is installed; no table where none is."""
    specs = [method(name) for name in dict.fromkeys(names) if name in method_names()]
    rows = tuple((one.name, one.kind, one.about, one.good_for, one.not_for) for one in specs)
    columns = ("method", "its edits are", "what it does", "good for", "not for")
    return (Table("What the methods are", columns, rows),) if rows else ()


def listing(specs: Sequence[MethodSpec]) -> list[str]:
    """A line for each method, under its kind."""
    width, lines = max(len(one.name) for one in specs), []
    for kind in get_args(Kind):
        own = [f"  {one.name:<{width}}  {one.about}" for one in specs if one.kind == kind]
        lines += [f"{kind.capitalize()}:", *own] if own else []
    return lines


def described(spec: MethodSpec, papers: Sequence[str] = ()) -> list[str]:
    """One method in lines: what it does, for what, what it needs, and every setting with its default."""
    facts = [*clauses(spec), ("its edits are", spec.kind), ("needs", spec.all_needs)]
    facts += [("paper", title) for title in papers]
    width = max(len(key) for key, _ in facts)
    settings = [f"  {name}={text}" for name, text in written(spec.Config()).items()]
    return [f"{key:<{width}}  {text}" for key, text in facts] + [SETTINGS, *settings]


SETTINGS = "settings, as --set takes them, with their defaults (layers and matrices: those of the default model):"


def in_json(spec: MethodSpec) -> dict[str, Any]:
    """One method, for a program."""
    return {
        "method": spec.name, "kind": spec.kind, "about": spec.about, "good_for": spec.good_for,
        "not_for": spec.not_for, "needs": spec.all_needs, "settings": written(spec.Config()),
    }  # fmt: skip
