"""How a result shows itself: a page's figures in a notebook, its words in a terminal. One mechanism for all results.

`@shown("tracing.pages.trace")` above a result's dataclass names the module whose `page(result)` and `words(result)` its
command uses too, so that nothing is imported before somebody looks.
Ending a notebook's cell with the result then shows the page, with still figures (factscope/plots/svg.py); `print` and a
terminal show the words. `pictures(result)` gives the figures alone; each of them is a live plotly figure in a notebook.
"""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from rich.text import Text

from factscope.errors import ArgumentError
from factscope.plots.specs import Page, Spec

T = TypeVar("T", bound=type)


SHOWN: dict[type, str] = {}  # every result that shows itself, as far as it was imported, with the module of its page


def shown(pages: str) -> Callable[[T], T]:
    """Have a result's class show itself by the functions `page(result)` and `words(result)` of the module `pages`.

    `words` gives lines, or one text; where a command prints JSON, the module has a `summary(result)` too; `records`
    gives the rows of the table that the result is to a program.
    """

    def register(cls: T) -> T:
        SHOWN[cls] = pages
        for name, method in (("__repr__", in_words), ("__rich__", _rich), ("_repr_mimebundle_", _mimebundle)):
            setattr(cls, name, method)
        return cls

    return register


def page_of(result: Any) -> Page:
    """The page of a result. Raises TypeError for what has none."""
    page: Page = _called(result, "page")
    return page


def in_words(result: Any) -> str:
    """What a terminal shows: the lines that the command would print."""
    said = _called(result, "words")
    return said if isinstance(said, str) else "\n".join(said)


def summary_of(result: Any) -> dict[str, Any]:
    """The numbers that a program would ask for first; a page's module has them where a command prints JSON."""
    found: dict[str, Any] = _called(result, "summary")
    return found


def records_of(result: Any) -> list[dict[str, Any]]:
    """The numbers of a result as the rows of one table, in full precision."""
    found: list[dict[str, Any]] = _called(result, "records")
    return found


def pictures(result: Any) -> tuple[Spec, ...]:
    """The figures of a result's page, in their order; each is live where it ends a notebook's cell, a network still."""
    return figures_of(page_of(result))


def figures_of(page: Page) -> tuple[Spec, ...]:
    """The figures of a page, in their order: what plotly draws, and networks."""
    from factscope.plots.render import is_figure
    from factscope.plots.svg import has_still

    return tuple(spec for section in page.sections for spec in section.specs if is_figure(spec) or has_still(spec))


def _called(result: Any, name: str) -> Any:
    for cls in type(result).__mro__:
        if cls in SHOWN:
            return getattr(importlib.import_module(SHOWN[cls]), name)(result)
    raise ArgumentError(f"a value of type {type(result).__name__} has no page; there are those of {_names()}")


def _names() -> str:
    return ", ".join(sorted(cls.__name__ for cls in SHOWN))


def _spec_mimebundle(spec: Spec, **_: Any) -> dict[str, Any]:
    from factscope.plots.fragments import mimebundle  # plotly is heavy, and most programs draw nothing

    return mimebundle(spec)


Spec._repr_mimebundle_ = _spec_mimebundle  # type: ignore[attr-defined]  # specs are data and know no drawing


def _rich(result: Any) -> Text:
    first, _, rest = in_words(result).partition("\n")
    return Text.assemble((first, "bold"), f"\n{rest}" if rest else "")


def _mimebundle(result: Any, **_: Any) -> dict[str, str]:
    from factscope.plots.notebook import page_in_notebook

    return {"text/html": page_in_notebook(page_of(result)), "text/plain": in_words(result)}
