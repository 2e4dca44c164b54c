"""What stands before every prompt: the start token, and the text that an in-context edit has put there.

`put_before` is called by whatever puts such a text in and takes it out again; the text is kept here, beside the model,
because everything that runs prompts must read it and may know nothing of edits. It is one text for all prompts, or what
a function chooses for each of them, by the prompt alone and so before any of its answer is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.prompts import start_ids, token_ids

Row = Sequence[int]


@dataclass(frozen=True)
class Preface:
    """A text that the model reads before every prompt, right after the prompt's start token."""

    text: str
    start: str  # "auto", "none" or a token: the start token of the prompts that the text was made for
    choose: Callable[[Bridge, Sequence[Row]], list[str]] | None = None  # instead of the text, one for each prompt


_PREFACES: WeakKeyDictionary[Any, Preface] = WeakKeyDictionary()


def put_before(model: Bridge, preface: Preface | None) -> None:
    """From now on this text, in the place of the one there was; with None, no text."""
    if preface is None:
        _PREFACES.pop(model, None)
    else:
        _PREFACES[model] = preface


def chosen_by_prompt(model: Bridge) -> bool:
    """Whether what stands before a row depends on the prompt that it begins with."""
    preface = _PREFACES.get(model)
    return preface is not None and preface.choose is not None


def all_prefaced(model: Bridge, rows: Sequence[Row], ends: Sequence[int]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Rows as the model reads them, and how many tokens were put into each; a row's prompt is its first `ends` tokens.

    The preface comes right after the start token. Raises EditError if a row is then longer than the model reads.
    """
    preface = _PREFACES.get(model)
    if preface is None:
        return [tuple(row) for row in rows], [0] * len(rows)
    texts = [preface.text] * len(rows)
    if preface.choose is not None:
        texts = preface.choose(model, [row[:end] for row, end in zip(rows, ends, strict=True)])
    first = start_ids(model, preface.start)
    ids = {text: token_ids(model, text) if text else () for text in set(texts)}
    told = [ids[text] for text in texts]
    return [_told(model, row, first, some) for row, some in zip(rows, told, strict=True)], [len(some) for some in told]


def prefaced(model: Bridge, prompt: Row) -> tuple[int, ...]:
    """`all_prefaced` of one prompt."""
    return all_prefaced(model, [prompt], [len(prompt)])[0][0]


def _told(model: Bridge, row: Row, first: tuple[int, ...], ids: tuple[int, ...]) -> tuple[int, ...]:
    at = len(first) if tuple(row[: len(first)]) == first else 0
    if ids and len(row) + len(ids) > model.cfg.n_ctx:
        raise EditError(
            f"the in-context edits are {len(ids)} tokens and the prompt {len(row)}, and the model reads "
            f"{model.cfg.n_ctx}: put fewer of them in, or give fewer demonstrations"
        )
    return (*row[:at], *ids, *row[at:])
