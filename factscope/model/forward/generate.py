"""Text out of the model itself: sampled with a seed of its own, or greedy.

The text of an in-context edit that is in place stands before every prompt that `generate` is given.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import takewhile

import torch
from jaxtyping import Int
from torch import Tensor

from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device
from factscope.model.forward.batched import ROWS, THIN
from factscope.model.forward.ends import ending
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.prefix import all_prefaced
from factscope.model.hooks import Patch, patched


@torch.no_grad()
def sample(
    model: Bridge,
    begin: Int[Tensor, "row pos"],
    length: int,
    generator: torch.Generator | None,
    top_k: int | None = None,
    patches: Sequence[Patch] = (),
) -> Int[Tensor, "row length"]:
    """`begin` continued to `length` tokens, with a key/value cache; greedy without a generator.

    `patches` are in place while `begin` is read, and its keys and values are kept as the patches made them.
    """
    network, tokens, cache = model.original_model, begin.to(device(model)), None
    new = tokens
    with ending(torch.full((len(begin),), begin.shape[1] - 1), tokens=begin) as now:
        while tokens.shape[1] < length:
            reading = patched(model, patches if cache is None else ())
            with reading, thin_products() if new.numel() >= THIN else nullcontext():
                out = network(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1)
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


@torch.no_grad()
def generate(model: Bridge, prompts: Sequence[Sequence[int]], more: int) -> list[list[int]]:
    """Greedy continuations by `more` tokens, past any end of text; prompts of one length run together."""
    prompts, _ = all_prefaced(model, prompts, [len(prompt) for prompt in prompts])
    out: list[list[int]] = [[] for _ in prompts]
    for size in sorted({len(prompt) for prompt in prompts}):
        rows = [i for i, prompt in enumerate(prompts) if len(prompt) == size]
        for some in (rows[i : i + ROWS] for i in range(0, len(rows), ROWS)):
            begin = torch.tensor([list(prompts[i]) for i in some])
            done = sample(model, begin, size + more, None)[:, size:].tolist()
            for i, ids in zip(some, done, strict=True):
                out[i] = ids
    return out
