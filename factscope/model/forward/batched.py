"""Many rows at once: logits of any rows at the positions that are asked for, and what passes at sites within the model.

`logits_at` unembeds only these positions: the unembedding of all would be most of the work of a small model. The
preface of an in-context edit that is in place stands before every row; a beginning that all rows of a batch share, such
as a preface, is run once, and its keys and values are kept for all of them.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device, run_blocks, run_up_to
from factscope.model.forward.at_once import bytes_of, parted, smaller
from factscope.model.forward.ends import ending
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.prefix import all_prefaced
from factscope.model.forward.rotation import switch
from factscope.model.hooks import reads_prompts, record
from factscope.model.readout import readout
from factscope.model.sites import Site

ROWS = 64  # rows of one forward pass, or as many as find room; beyond this a CPU gains nothing
THIN = 2  # tokens of a pass from which on `thin_products` gains more than it costs
SHARED = 8  # tokens that all rows of a batch must share for a pass of their own to pay


def _batches(rows: Sequence[Sequence[int]], told: Sequence[int], longest: float) -> Iterator[list[int]]:
    """Rows of similar length, by number; those with nothing before them are apart, as where no edit is.

    Rows that are longer than `longest` have none of another length beside them.
    """

    def kind(i: int) -> tuple[bool, int]:
        return bool(told[i]), len(rows[i]) if len(rows[i]) > longest else 0

    for _, alike in groupby(sorted(range(len(rows)), key=lambda i: (*kind(i), len(rows[i]))), kind):
        order = list(alike)
        yield from (order[i : i + ROWS] for i in range(0, len(order), ROWS))


@torch.no_grad()
@thin_products()
def logits_at(
    model: Bridge, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[Float[Tensor, "wanted vocab"]]:
    """Logits of each row at its wanted positions, float32 on the CPU; rows of any length, right-padded.

    A row's prompt ends at the first position that is asked for.
    """
    read, last = readout(model), Site("resid", model.cfg.n_layers - 1)
    rows, told = all_prefaced(model, rows, [min(places) + 1 for places in positions])
    positions = [[place + more for place in places] for places, more in zip(positions, told, strict=True)]
    out: list[Tensor] = [torch.empty(0)] * len(rows)
    need = partial(_need, model, rows, positions)
    for some in parted(model, _batches(rows, told, switch(model)), need):
        tokens = padded(model, [rows[i] for i in some])
        begun, cache = _begun(model, tokens, min(p for i in some for p in positions[i]))
        ends = torch.tensor([min(positions[i]) for i in some])
        with record(model, [last]) as seen, ending(ends, begun, tokens):
            run_blocks(model, tokens[:, begun:], cache)
        where = [(r, p - begun) for r, i in enumerate(some) for p in positions[i]]
        picked = seen[last][[r for r, _ in where], [p for _, p in where]]
        logits = finite(read.logits(picked).float()).cpu()
        for i, part in zip(some, logits.split([len(positions[i]) for i in some]), strict=True):
            out[i] = part
    return out


@torch.no_grad()
@thin_products()
def states_at(
    model: Bridge, tokens: Int[Tensor, "row pos"], ends: Int[Tensor, " row"], sites: Sequence[Site]
) -> dict[Site, Tensor]:
    """What passes at these sites, each as the model has it, in one pass up to the highest; prompts end at `ends`."""
    with ending(ends, tokens=tokens), record(model, sites) as seen:
        run_up_to(model, tokens, max(site.layer for site in sites))
    return seen


def _need(
    model: Bridge, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], batch: list[int]
) -> tuple[int, str, str]:
    """What the states of these rows take, for each of them."""
    longest, answers = max(len(rows[i]) for i in batch), max(len(positions[i]) for i in batch)
    each = bytes_of(model, 1, longest, 0, answers)
    return each, f"the states of a text of {longest} tokens", f"{smaller(model)}, or shorter texts"


def _begun(model: Bridge, tokens: Int[Tensor, "row pos"], first: int) -> tuple[int, Any]:
    """How many tokens all rows share before `first`, and their keys and values for every row; 0 and None if too few.

    What stands beside the model and looks at whole prompts acts on shared tokens too, in each row by that row's prompt:
    nothing is shared then. Nor is it where a text's length decides how its beginning is turned.
    """
    if len(tokens) == 1 or reads_prompts(model) or tokens.shape[1] > switch(model):
        return 0, None
    same = (tokens == tokens[:1]).all(0)[:first]
    begun = int(same.long().cumprod(0).sum())
    if begun < SHARED:
        return 0, None
    with ending(torch.tensor([first])):  # no prompt ends in what they share
        cache: Any = getattr(run_blocks(model, tokens[:1, :begun], keep=True), "past_key_values", None)
    if not hasattr(cache, "batch_repeat_interleave") or not all(hasattr(layer, "keys") for layer in cache.layers):
        return 0, None  # layers that keep a state instead of keys and values: every row is run whole
    cache.batch_repeat_interleave(len(tokens))
    return begun, cache


def padded(model: Bridge, rows: Sequence[Sequence[int]], to: int = 0) -> Int[Tensor, "row pos"]:
    """Rows as one tensor on the model's device, filled up on the right with token 0, to `to` positions at least.

    In a causal model nothing before it notices; but where a text's length decides how its positions are turned, rows
    are of one length or short: ModelError where a row would be read otherwise than alone.
    """
    lengths = [len(row) for row in rows]
    longest = max([to, *lengths])
    if longest > switch(model) and min(lengths) < longest:
        raise ModelError(
            f"this model turns positions by a text's length beyond {switch(model):.0f} tokens, and a text of "
            f"{min(lengths)} would be read beside {longest} otherwise than alone: use shorter texts"
        )
    return torch.tensor([[*row, *([0] * (longest - len(row)))] for row in rows]).to(device(model))
