"""What stands before every prompt: the start token, and the text of the in-context edits that are in place."""

from collections.abc import Sequence
from typing import Any

from editing.edit import in_place
from factscope.errors import EditError
from factscope.model.prompts import start_ids


def preface(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a row must begin with for the in-context edits in place to stand after it, and their tokens, if any."""
    edits = [edit for edit in in_place(model) if edit.preface]
    if not edits:
        return (), ()
    text = "".join(edit.preface for edit in edits)
    ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return start_ids(model, edits[0].start_token), ids


def prefaced(model: Any, row: Sequence[int]) -> tuple[int, ...]:
    """The row as the model reads it: the in-context edits in place come right after the start token.

    Raises EditError if that is longer than the model reads.
    """
    return _after(model, row, *preface(model))


def _after(model: Any, row: Sequence[int], first: tuple[int, ...], ids: tuple[int, ...]) -> tuple[int, ...]:
    at = len(first) if tuple(row[: len(first)]) == first else 0
    if ids and len(row) + len(ids) > model.cfg.n_ctx:
        raise EditError(
            f"the in-context edits are {len(ids)} tokens and the prompt {len(row)}, and the model reads "
            f"{model.cfg.n_ctx}: put fewer of them in, or give fewer demonstrations"
        )
    return (*row[:at], *ids, *row[at:])
