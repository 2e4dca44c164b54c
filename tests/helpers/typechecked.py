"""How the tests hold the code to the shapes of tensors that its annotations name: jaxtyping and beartype.

Every function that names a shape is checked; plain types are mypy's, and to check them too was a third of the suite's
work. An int passes where a float is asked, as PEP 484 has it.

Whether shapes fit depends on the shapes alone. So a call whose arguments and result are of shapes that passed before is
not checked again, which was a fifth of the suite's work, and a function's checks are written when it is first called.
That holds for a function within a function too, which is a new one whenever the outer one runs. Where an annotation
names a shape inside a list or the like, every call is checked. Whether a model is a `Bridge` is not checked: mypy reads
that, and to ask a model for each attribute at every call would cost more than the calls.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import CodeType, FunctionType, UnionType
from typing import Any, Union, get_args, get_origin

import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype
from torch import Tensor

ROOT = Path(__file__).parents[2]
PACKAGES = ("factscope", "tracing", "circuits", "editing", "studies")
LONGEST = 16  # of a tuple that is told from another by what it holds

_always = beartype(conf=BeartypeConf(is_pep484_tower=True))
_passed: defaultdict[CodeType, set[object]] = defaultdict(set)  # by function: shapes of calls that passed


def names_a_shape(hint: object) -> bool:
    """Whether an annotation is of an array's shape, or holds one."""
    if isinstance(hint, str):  # not read yet
        return True
    if isinstance(hint, type(jaxtyping.AbstractArray)):
        return True
    return any(names_a_shape(part) for part in get_args(hint))


def told_by_shapes(hint: object) -> bool:
    """Whether the kinds of two values (`kind`), if they are equal, both fit this annotation or both do not."""
    if isinstance(hint, type(jaxtyping.AbstractArray)):
        return "{" not in str(getattr(hint, "dim_str", "{"))  # a size that is computed from something else
    if not names_a_shape(hint):
        return True
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType) or (get_origin(hint) is tuple and Ellipsis not in parts):
        return len(parts) <= LONGEST and all(map(told_by_shapes, parts))
    return False


def kind(value: object) -> object:
    """What an annotation of a shape reads of a value."""
    if isinstance(value, Tensor | np.ndarray):
        return type(value), value.shape, value.dtype
    if isinstance(value, tuple) and len(value) <= LONGEST:
        return type(value), *map(kind, value)
    return type(value)


def remembering(plain: FunctionType, checking: Callable[[Any], Any]) -> Any:
    """A function whose calls are checked unless their shapes passed before."""
    made: list[Any] = []  # the checked function, once it is needed
    held: list[Any] = []  # a result that was computed without checks, and is to be checked

    @wraps(plain)
    def computed_or_held(*arguments: Any, **named: Any) -> Any:
        return held.pop() if held else plain(*arguments, **named)

    def checked(*arguments: Any, **named: Any) -> Any:
        if not made:
            made.append(checking(computed_or_held))
        return made[0](*arguments, **named)

    if not all(map(told_by_shapes, plain.__annotations__.values())):
        return checking(plain)
    passed = _passed[plain.__code__]

    @wraps(plain)
    def remembered(*arguments: Any, **named: Any) -> Any:
        asked = (*map(kind, arguments), *((name, kind(value)) for name, value in named.items()))
        if asked in passed:
            result = plain(*arguments, **named)
            if (asked, kind(result)) in passed:
                return result
            held.append(result)
        result = checked(*arguments, **named)
        passed.update((asked, (asked, kind(result))))
        return result

    return remembered


def check(checked: Any) -> Any:
    """The function or class with its annotations checked at every call; the hook below knows it by this name."""
    hints = getattr(checked, "__annotations__", {})
    for name in [name for name, hint in hints.items() if getattr(hint, "__name__", None) == "Bridge"]:
        hints[name] = object
    return _always(checked)


def sparing(decorator: Callable[..., Any]) -> Callable[..., Any]:
    """jaxtyping's decorator, which leaves a function alone that names no shape, and checks no shapes twice."""

    def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
        checking = decorator(typechecker=typechecker)

        def checked(each: Any) -> Any:
            if not isinstance(each, FunctionType):
                return checking(each)
            named = any(map(names_a_shape, each.__annotations__.values()))
            return remembering(each, checking) if named else each

        return checked

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
