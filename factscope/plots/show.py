"""How a result shows itself: a page's figures in a notebook, its words in a terminal. One mechanism for all results.

`@shown("tracing.pages.trace")` above a result's dataclass names the module whose `page(result)` and `words(result)` its
command uses too, so that nothing is imported before somebody looks. A result whose page is made elsewhere names the two
functions as "module:function".
Ending a notebook's cell with the result then shows the page, with still figures (factscope/plots/svg.py); `print` and a
terminal show the words. `pictures(result)` gives the figures alone; each of them is a live plotly figure in a notebook.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.text import Text

from factscope.plots.specs import Page, Spec

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class View:
    """Where a kind of result has its page and its words."""

    page: str
    words: str


_VIEWS: dict[type, View] = {}


def shown(pages: str = "", *, page: str = "", words: str = "") -> Callable[[T], T]:
    """Register the views of a result's class, and have it show itself by them.

    Args:
        pages: the module with `page(result)` and `words(result)`; or else both of:
        page: "module:function" that makes a `Page` of the result; a method is "module:Class.method".
        words: "module:function" that gives its lines, or one text.
    """

    def register(cls: T) -> T:
        _VIEWS[cls] = View(page or f"{pages}:page", words or f"{pages}:words")
        for name, method in (("__repr__", in_words), ("__rich__", _rich), ("_repr_mimebundle_", _mimebundle)):
            setattr(cls, name, method)
        return cls

    return register


def shown_kinds() -> dict[type, View]:
    """Every result that shows itself, as far as it was imported."""
    return dict(_VIEWS)


def page_of(result: Any) -> Page:
    """The page of a result. Raises TypeError for what has none."""
    page: Page = _called(_view(result).page, result)
    return page


def in_words(result: Any) -> str:
    """What a terminal shows: the lines that the command would print."""
    said = _called(_view(result).words, result)
    return said if isinstance(said, str) else "\n".join(said)


def summary_of(result: Any) -> dict[str, Any]:
    """The numbers that a program would ask for first; a page's module has them where a command prints JSON."""
    found: dict[str, Any] = _called(_view(result).page.replace(":page", ":summary"), result)
    return found


def pictures(result: Any) -> tuple[Spec, ...]:
    """The figures of a result's page, in their order; each is a live figure where it ends a notebook's cell."""
    from factscope.plots.render import is_figure

    page = page_of(result)
    return tuple(spec for section in page.sections for spec in section.specs if is_figure(spec))


def _view(result: Any) -> View:
    for cls in type(result).__mro__:
        if cls in _VIEWS:
            return _VIEWS[cls]
    raise TypeError(f"a {type(result).__name__} has no page; there are those of {_names()}")


def _names() -> str:
    return ", ".join(sorted(cls.__name__ for cls in _VIEWS))


def _called(reference: str, result: Any) -> Any:
    module, _, path = reference.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found(result)


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
