"""What is given to a call of the face is what the call takes: one sentence for what is not, before any work.

A function's own annotations say what it takes. The check is as strict as a person's mistake is plain: a text in the
place of a prompt or of a list, a number in the place of an edit, a class that was not called, a word that is no choice.
What an annotation cannot say (`Any`, a function's own signature) is left to the function.
"""

import collections.abc
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from factscope.errors import ArgumentError

Call = TypeVar("Call", bound=Callable[..., Any])
Ready = Mapping[str, Callable[[Any], object]]  # by a class's name: what raises for a value that is none

_MADE_BY = {
    "Case": "fs.load_cases(file) loads some",
    "Circuit": "fs.find_circuit(model, text) finds one",
    "Edit": "fs.edit(model, request) makes one",
    "EditRequest": "fs.request(model, text, target) makes one",
    "Fact": "fs.load_facts(name) loads some",
    "JacobianLens": "fs.jacobian_lens(model) fits one",
    "Prompt": "fs.prompt(model, text) makes one",
    "Protocol": "fs.protocol(name) gives one",
    "RoleInputs": "fs.by_role_prompt(model, text) makes one",
    "Task": "fs.about_prompt(model, text).task is one",
}


def checked(call: Call, name: str, ready: Ready) -> Call:
    """The same call, which raises ArgumentError for an argument that its annotations do not allow.

    `ready` has, by their names, classes that check themselves with a sentence of their own.
    """
    signature = inspect.signature(call)

    @functools.wraps(call)
    def asked(*given: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*given, **named)
        except TypeError as wrong:
            raise ArgumentError(f"{name}: {wrong}; it is called as {name}{_short(signature)}") from None
        for argument, value in bound.arguments.items():
            kind = signature.parameters[argument].kind
            if kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                _check(f"{name}: {argument}", value, hints(call).get(argument, Any), ready)
        return call(*given, **named)

    return typing.cast(Call, asked)


@functools.cache
def hints(call: Callable[..., Any]) -> dict[str, Any]:
    """What each argument of a call may be."""
    return typing.get_type_hints(call)


def _short(signature: inspect.Signature) -> str:
    """The names of the arguments; those that may be left out with three dots."""
    names = [
        name if one.default is one.empty else f"{name}=..."
        for name, one in signature.parameters.items()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    return f"({', '.join(names)})"


def _check(where: str, value: Any, wanted: Any, ready: Ready) -> None:
    """ArgumentError for a value that is not what is wanted; the element of a list that is not, by its place."""
    choices = _alternatives(wanted)
    own = next((ready[choice.__name__] for choice in choices if getattr(choice, "__name__", "") in ready), None)
    if own is not None:
        own(value)
        return
    if any(_fits(value, choice) for choice in choices):
        return
    if isinstance(value, list | tuple):
        of = [part for choice in choices if _is_list(choice) for part in _alternatives((get_args(choice) or (Any,))[0])]
        wrong = next((at for at, each in enumerate(value) if not any(_fits(each, part) for part in of)), None)
        if of and wrong is not None:
            raise ArgumentError(f"{where}[{wrong}] is {_seen(value[wrong])}, {_needed(of, value[wrong])}")
    raise ArgumentError(f"{where} is {_seen(value)}, {_needed(choices, value)}")


def _alternatives(wanted: Any) -> list[Any]:
    """The parts of a union, of a type variable's constraints, or the one thing that is wanted."""
    if isinstance(wanted, TypeVar):
        return [part for one in (wanted.__constraints__ or (wanted.__bound__ or Any,)) for part in _alternatives(one)]
    if get_origin(wanted) in (typing.Union, types.UnionType):
        return [part for one in get_args(wanted) for part in _alternatives(one)]
    return [wanted]


def _is_list(wanted: Any) -> bool:
    return get_origin(wanted) in (collections.abc.Sequence, collections.abc.Iterable, list, tuple)


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is one of what is wanted, as far as this can be seen."""
    origin = get_origin(wanted)
    if wanted is Any:
        return True
    if wanted in (None, types.NoneType):
        return value is None
    if origin is Literal:
        return value in get_args(wanted) and isinstance(value, str | int | bool | None)
    if _is_list(wanted):
        parts = _alternatives((get_args(wanted) or (Any,))[0])
        if isinstance(value, list | tuple):
            return all(any(_fits(each, part) for part in parts) for each in value)
        return isinstance(value, collections.abc.Iterable) and not isinstance(value, str | bytes | Mapping)
    if origin is collections.abc.Callable:
        return callable(value)
    if wanted in (int, float):
        kind = numbers.Integral if wanted is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    plain = origin or wanted
    if not isinstance(plain, type):
        return True
    if getattr(plain, "_is_protocol", False):
        names = {name for name in (*dir(plain), *getattr(plain, "__annotations__", ())) if not name.startswith("_")}
        called = callable(value) or "__call__" not in vars(plain)
        return called and not isinstance(value, type) and all(hasattr(value, name) for name in names)
    return isinstance(value, plain)


def _seen(value: Any) -> str:
    """A value in words: what it is, and how it begins."""
    if isinstance(value, type):
        return f"the class {value.__name__}, not called"
    if value is None:
        return "None"
    kind = type(value).__name__
    what = f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"
    return f"{what}, {_cut(repr(value))}" if isinstance(value, str | int | float | bool) else what


def _cut(text: str) -> str:
    return text if len(text) < 40 else f"{text[:36]}...{text[-1]}"


def _needed(choices: list[Any], value: Any) -> str:
    """What is wanted instead, and how one comes by it."""
    names = list(dict.fromkeys(_named(choice) for choice in choices if choice is not types.NoneType))
    told = f"where {' or '.join(names)} is needed"
    kinds = [getattr(part, "__name__", "") for choice in choices for part in (choice, *get_args(choice))]
    if any(_is_list(choice) and any(_fits(value, part) for part in get_args(choice)) for choice in choices):
        return f"{told}: put it in a list"
    if str in choices and hasattr(value, "text") and isinstance(value.text, str):
        return f"{told}: give its text"
    made = [_MADE_BY[kind] for kind in dict.fromkeys(kinds) if kind in _MADE_BY]
    return f"{told}: {made[0]}" if made else told


def _named(wanted: Any) -> str:
    """A type in words."""
    if get_origin(wanted) is Literal:
        return " or ".join(map(repr, get_args(wanted)))
    if _is_list(wanted):
        parts = _alternatives((get_args(wanted) or (Any,))[0])
        return f"a list of {' or '.join(getattr(part, '__name__', 'things') for part in parts)}"
    words = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}
    plain = get_origin(wanted) or wanted
    if plain in words:
        return words[plain]
    name = getattr(plain, "__name__", str(plain))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
