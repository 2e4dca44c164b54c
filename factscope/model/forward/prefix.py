"""What stands before every prompt: the start token, and the text that an in-context edit has put there.

`put_before` is called by whatever puts such a text in and takes it out again; the text is kept here, beside the model,
because everything that runs prompts must read it and may know nothing of edits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.prompts import start_ids, token_ids


@dataclass(frozen=True)
class Preface:
    """A text that the model reads before every prompt, right after the prompt's start token."""

    text: str
    start: str  # "auto", "none" or a token: the start token of the prompts that the text was made for


_PREFACES: WeakKeyDictionary[Any, Preface] = WeakKeyDictionary()


def put_before(model: Bridge, preface: Preface | None) -> None:
    """From now on this text, in the place of the one there was; with None, no text."""
    if preface is None:
        _PREFACES.pop(model, None)
    else:
        _PREFACES[model] = preface


def preface_ids(model: Bridge) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a row must begin with for the preface to stand after it, and the preface's tokens; both empty without."""
    preface = _PREFACES.get(model)
    if preface is None:
        return (), ()
    ids = token_ids(model, preface.text)
    return start_ids(model, preface.start), ids


def prefaced(model: Bridge, row: Sequence[int]) -> tuple[int, ...]:
    """The row as the model reads it: the preface comes right after the start token.

    Raises EditError if that is longer than the model reads.
    """
    return after_preface(model, row, *preface_ids(model))


def after_preface(model: Bridge, row: Sequence[int], first: tuple[int, ...], ids: tuple[int, ...]) -> tuple[int, ...]:
    """`prefaced` for many rows: `first` and `ids` are what `preface_ids` gave, once for all of them."""
    at = len(first) if tuple(row[: len(first)]) == first else 0
    if ids and len(row) + len(ids) > model.cfg.n_ctx:
        raise EditError(
            f"the in-context edits are {len(ids)} tokens and the prompt {len(row)}, and the model reads "
            f"{model.cfg.n_ctx}: put fewer of them in, or give fewer demonstrations"
        )
    return (*row[:at], *ids, *row[at:])
