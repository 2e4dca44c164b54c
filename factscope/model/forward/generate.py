"""Text out of the model itself: sampled with a seed of its own, or greedy.

The text of an in-context edit that is in place stands before every prompt that `generate` is given.

A pass that writes one token for one row reads every weight, as one that writes a token for each of many rows does. So
prompts of different lengths are written on together, filled up on the left with tokens that nobody attends to; on a
model where a row would notice (`_notices_padding`), or whose positions are turned by a text's length once it is so long
(factscope/model/forward/rotation.py), and beside a gate or a memory that looks at prompts, only prompts of one length
run together.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import takewhile

import torch
from jaxtyping import Int
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree, finite, require
from factscope.model.bridge import Bridge, device
from factscope.model.forward.at_once import bytes_of, parted
from factscope.model.forward.batched import ROWS, THIN
from factscope.model.forward.ends import ending
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.prefix import all_prefaced
from factscope.model.forward.rotation import switch
from factscope.model.hooks import Patch, patched, standing
from factscope.model.readout import readout
from factscope.model.source.checkpoint import probe

LONGER = 4  # times the shortest row of a batch, at most: what fills a row up is computed, too
KEPT = 4  # vectors of the stream's width for a token's keys and values in a layer, and their copies as they grow
PROBE_FILL = 3  # tokens that fill up the shorter row of the trial


@torch.no_grad()
def sample(
    model: Bridge,
    begin: Int[Tensor, "row pos"],
    length: int,
    generator: torch.Generator | None,
    top_k: int | None = None,
    patches: Sequence[Patch] = (),
    filled: Sequence[int] = (),
) -> Int[Tensor, "row length"]:
    """`begin` continued to `length` tokens, with a key/value cache; greedy without a generator.

    `patches` are in place while `begin` is read, and its keys and values are kept as the patches made them. Of each row
    the first `filled` tokens only fill it up.
    """
    network, tokens, cache = model.original_model, begin.to(device(model)), None
    new = tokens
    seen: dict[str, Tensor] = {}
    with ending(torch.full((len(begin),), begin.shape[1] - 1), tokens=begin) as now:
        while tokens.shape[1] < length:
            reading = patched(model, patches if cache is None else ())
            if any(filled):
                seen = _without(filled, tokens, new.shape[1])
            with reading, thin_products() if new.numel() >= THIN else nullcontext():
                out = network(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1, **seen)
            now.begun += new.shape[1]
            cache, logits = out.past_key_values, finite(out.logits[:, -1].float())
            if generator is None:
                new = logits.argmax(-1, keepdim=True)
            elif top_k is not None:
                values, ids = logits.topk(min(top_k, logits.shape[-1]))
                new = ids.gather(1, torch.multinomial(values.softmax(-1).cpu(), 1, generator=generator).to(ids.device))
            else:
                new = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).to(tokens.device)
            tokens = torch.cat([tokens, new], 1)
    return tokens[:, :length]


def _without(filled: Sequence[int], tokens: Int[Tensor, "row pos"], new: int) -> dict[str, Tensor]:
    """What tells a model of plain transformers that the first `filled` tokens of each row are none."""
    begin = torch.tensor(filled, device=tokens.device)[:, None]
    at = torch.arange(tokens.shape[1], device=tokens.device) - begin
    return {"attention_mask": (at >= 0).long(), "position_ids": at[:, -new:].clamp_min(0)}


def end_tokens(model: Bridge) -> frozenset[int]:
    """The tokens that end a text: those of the model's settings of generation, and the tokenizer's."""
    settings = getattr(model.original_model, "generation_config", None)
    told = getattr(settings, "eos_token_id", None)
    told = [] if told is None else [told] if isinstance(told, int) else told
    own = getattr(model.tokenizer, "eos_token_id", None)
    return frozenset((*told, *(() if own is None else (own,))))


def until_end(model: Bridge, ids: Sequence[int]) -> list[int]:
    """A continuation up to the first token that ends a text: what stands after it is another text."""
    ends = end_tokens(model)
    return list(takewhile(lambda token: token not in ends, ids))


def text_until_end(model: Bridge, ids: Sequence[int]) -> str:
    """A continuation as text, up to where the text ends."""
    text: str = model.tokenizer.decode(until_end(model, ids), skip_special_tokens=True)
    return text


def generate(model: Bridge, prompts: Sequence[Sequence[int]], more: int) -> list[list[int]]:
    """Greedy continuations by `more` tokens, past any end of text."""
    prompts, told = all_prefaced(model, prompts, [len(prompt) for prompt in prompts])
    out: list[list[int]] = [[] for _ in prompts]
    together = _together(model, [len(prompt) for prompt in prompts], told, more)
    for rows in parted(model, together, partial(_need, model, prompts, more)):
        size = max(len(prompts[i]) for i in rows)
        filled = [size - len(prompts[i]) for i in rows]
        begin = torch.tensor([[0] * none + list(prompts[i]) for i, none in zip(rows, filled, strict=True)])
        done = sample(model, begin, size + more, None, filled=filled)[:, size:].tolist()
        for i, ids in zip(rows, done, strict=True):
            out[i] = ids
    return out


def _need(model: Bridge, prompts: Sequence[Sequence[int]], more: int, batch: list[int]) -> tuple[int, str]:
    """What these rows take while they are written on, for each: a pass, and keys and values with their copies."""
    length = more + max(len(prompts[i]) for i in batch)
    kept = KEPT * len(model.blocks) * int(model.cfg.d_model) * int(model.cfg.dtype.itemsize) * length
    return bytes_of(model, 1, length, 0) + kept, f"keys and values of {length} tokens"


def _together(model: Bridge, sizes: Sequence[int], told: Sequence[int], more: int) -> Iterator[list[int]]:
    """Rows that are written on together, by number: of similar length if the model allows it, else of the same."""
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    mixed = len(set(sizes)) > 1 and not any(told) and not standing(model) and max(sizes) + more <= switch(model)
    mixed = mixed and not _notices_padding(model)
    batch: list[int] = []
    for i in order:
        fits = sizes[i] <= LONGER * sizes[batch[0]] if batch and mixed else batch and sizes[i] == sizes[batch[0]]
        if batch and (not fits or len(batch) == ROWS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _notices_padding(model: Bridge) -> bool:
    """Whether a row is read otherwise where it is filled up on the left: tried on the model, once."""

    def prove() -> None:
        tokens, network, fill = probe(readout(model).n_tokens, device(model))[:2], model.original_model, PROBE_FILL
        rows, cache = tokens.clone(), None
        rows[1] = torch.cat([tokens[1].new_zeros(fill), tokens[1, :-fill]])
        for end in (rows.shape[1] - 1, rows.shape[1]):  # the rows but for a token, then that token after them
            part = rows[:, :end] if cache is None else rows[:, end - 1 : end]
            seen = _without((0, fill), rows[:, :end], part.shape[1])
            out = network(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1, **seen)
            cache = out.past_key_values
            for row, begin in ((0, 0), (1, fill)):
                own = network(input_ids=rows[row : row + 1, begin:end], use_cache=False, logits_to_keep=1)
                if not agree(out.logits[row, -1], own.logits[0, -1]):
                    raise ModelError("a row beside a longer row has other logits")

    try:
        require(model, "read beside a longer row", prove)
    except ModelError:
        return True
    return False
