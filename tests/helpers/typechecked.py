"""How the tests hold the code to the shapes of tensors that its annotations name: jaxtyping and beartype.

Every module that names a shape is checked at every call; plain types are mypy's, and to check them too was a third of
the suite's work. An int passes where a float is asked, as PEP 484 has it.

A function within a function is a new one whenever the outer one runs, and beartype writes its checks anew each time,
which was most of the suite's work. Such a function is checked the first times that it is made. Whether a model is a
`Bridge` is not checked: mypy reads that, and to ask a model for each attribute at every call would cost more than the
calls.
"""

from collections import Counter
from pathlib import Path
from types import CodeType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[2]
PACKAGES = ("factscope", "tracing", "circuits", "editing", "studies")
FIRST = 20  # makings of one inner function that are checked

_always = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made: Counter[CodeType] = Counter()


def check(checked: Any) -> Any:
    """The function or class with its annotations checked at every call."""
    hints = getattr(checked, "__annotations__", {})
    for name in [name for name, hint in hints.items() if getattr(hint, "__name__", None) == "Bridge"]:
        hints[name] = object
    code = getattr(checked, "__code__", None)
    if code is not None and "<locals>" in checked.__qualname__:
        _made[code] += 1
        if _made[code] > FIRST:
            return checked
    return _always(checked)


def shaped() -> list[str]:
    """The modules that name shapes of tensors, as they are imported."""
    files = [each for package in PACKAGES for each in sorted((ROOT / package).rglob("*.py"))]
    named = [each.relative_to(ROOT).with_suffix("") for each in files if "jaxtyping" in each.read_text("utf-8")]
    return [".".join(each.parts) for each in named]


def check_shapes() -> None:
    """Check these modules from now on; they must not have been imported yet."""
    install_import_hook(shaped(), "helpers.typechecked.check")
