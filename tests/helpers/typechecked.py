"""How the tests hold the code to the shapes of tensors that its annotations name: jaxtyping and beartype.

Every function that names a shape is checked at every call; plain types are mypy's, and to check them too was a third of
the suite's work. An int passes where a float is asked, as PEP 484 has it.

A function within a function is a new one whenever the outer one runs, and its checks are written anew each time, which
was most of the suite's work. Such a function is checked the first times that it is made. Whether a model is a `Bridge`
is not checked: mypy reads that, and to ask a model for each attribute at every call would cost more than the calls.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

ROOT = Path(__file__).parents[2]
PACKAGES = ("factscope", "tracing", "circuits", "editing", "studies")
FIRST = 20  # makings of one inner function that are checked

_always = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made: Counter[CodeType] = Counter()


def names_a_shape(hint: object) -> bool:
    """Whether an annotation is of an array's shape, or holds one."""
    if isinstance(hint, str):  # not read yet
        return True
    if isinstance(hint, type(jaxtyping.AbstractArray)):
        return True
    return any(names_a_shape(part) for part in get_args(hint))


def needed(function: FunctionType) -> bool:
    """Whether this function is to be checked."""
    if not any(map(names_a_shape, function.__annotations__.values())):
        return False
    if "<locals>" in function.__qualname__:
        _made[function.__code__] += 1
        return _made[function.__code__] <= FIRST
    return True


def check(checked: Any) -> Any:
    """The function or class with its annotations checked at every call; the hook below knows it by this name."""
    hints = getattr(checked, "__annotations__", {})
    for name in [name for name, hint in hints.items() if getattr(hint, "__name__", None) == "Bridge"]:
        hints[name] = object
    return _always(checked)


def sparing(decorator: Callable[..., Any]) -> Callable[..., Any]:
    """jaxtyping's decorator, which leaves a function alone that need not be checked."""

    def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
        checked = decorator(typechecker=typechecker)
        return lambda each: each if isinstance(each, FunctionType) and not needed(each) else checked(each)

    return jaxtyped


def shaped() -> list[str]:
    """The modules that name shapes of tensors, as they are imported."""
    files = [each for package in PACKAGES for each in sorted((ROOT / package).rglob("*.py"))]
    named = [each.relative_to(ROOT).with_suffix("") for each in files if "jaxtyping" in each.read_text("utf-8")]
    return [".".join(each.parts) for each in named]


def check_shapes() -> None:
    """Check these modules from now on; they must not have been imported yet."""
    jaxtyping.jaxtyped = sparing(jaxtyping.jaxtyped)
    jaxtyping.install_import_hook(shaped(), "helpers.typechecked.check")
