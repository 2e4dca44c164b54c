"""Text out of the model itself, and log-probabilities of given continuations: what edits are made from and judged by.

Sampling draws from a generator of its own, so a seed repeats it on the same machine. `logits_at` unembeds only the
positions that are asked for: the unembedding of all positions would be most of the work of a small model. The preface
of an in-context edit that is in place stands before every prompt that `generate` and `logits_at` are given; a beginning
that all rows of a batch share, such as a preface, is run once and its keys and values are kept for all of them.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.edit import EditError, in_place
from workbench.facts import SLOT
from workbench.hooks import record
from workbench.models import device, info
from workbench.sites import Site
from workbench.tail import Frame
from workbench.thin import thin_products

# Openings of generated contexts: with none of them, a small model's samples begin with headlines and code.
OPENINGS = ("The", "Therefore", "Because", "I", "You")  # EasyEdit's
ROWS = 64  # rows of one forward pass; beyond this a CPU gains nothing
THIN = 5  # tokens of a pass from which on `thin_products` gains more than it costs
SHARED = 8  # tokens that all rows of a batch must share for a pass of their own to pay


def start_ids(model: Any, start: str = "auto") -> tuple[int, ...]:
    """The ids that begin a document: none, or the one start token."""
    token = info(model).start_token if start == "auto" else start
    if token is None or token == "none":
        return ()
    return (int(model.tokenizer.convert_tokens_to_ids(token)),)


@torch.no_grad()
def sample(
    model: Any,
    begin: Int[Tensor, "row pos"],
    length: int,
    generator: torch.Generator | None,
    top_k: int | None = None,
) -> Int[Tensor, "row length"]:
    """`begin` continued to `length` tokens, with a key/value cache; greedy without a generator."""
    network, tokens, cache = model.original_model, begin.to(device(model)), None
    new = tokens
    while tokens.shape[1] < length:
        with thin_products() if new.numel() >= THIN else nullcontext():
            out = network(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = out.past_key_values, out.logits[:, -1].float()
        if generator is None:
            new = logits.argmax(-1, keepdim=True)
        elif top_k is not None:
            values, ids = logits.topk(min(top_k, logits.shape[-1]))
            new = ids.gather(1, torch.multinomial(values.softmax(-1).cpu(), 1, generator=generator).to(ids.device))
        else:
            new = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).to(tokens.device)
        tokens = torch.cat([tokens, new], 1)
    return tokens[:, :length]


def contexts(model: Any, count: int, length: int, seed: int, start: str = "auto") -> tuple[str, ...]:
    """ "{}" and `count` texts of `length` tokens that the model writes, each followed by ". {}".

    Top-5 sampling from five openings, as in the authors' code, but seeded. A text with a brace or a bracket in it, or
    with nothing but spaces, is drawn again: it would be read as a slot.
    """
    generator = torch.Generator().manual_seed(seed)
    first, words = start_ids(model, start), [OPENINGS[number % len(OPENINGS)] for number in range(count)]
    begins = [[*first, *model.tokenizer(word, add_special_tokens=False)["input_ids"]] for word in words]
    made: dict[int, str] = {}
    for _ in range(10):
        for size in sorted({len(begin) for begin in begins}):  # openings of one length are continued together
            open_ = [i for i, begin in enumerate(begins) if len(begin) == size and i not in made]
            if not open_:
                continue
            rows = sample(model, torch.tensor([begins[i] for i in open_]), size + length - 1, generator, top_k=5)
            for i, row in zip(open_, rows, strict=True):
                text = " ".join(model.tokenizer.decode(row[len(first) :], skip_special_tokens=True).split())
                if text and not set("{}[]") & set(text):
                    made[i] = text
    return tuple(dict.fromkeys(["{}", *(made.get(i, words[i]) + ". " + SLOT for i in range(count))]))


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


@torch.no_grad()
def generate(model: Any, prompts: Sequence[Sequence[int]], more: int) -> list[list[int]]:
    """Greedy continuations by `more` tokens; prompts of one length run together."""
    first, told = preface(model)
    prompts = [_after(model, prompt, first, told) for prompt in prompts]
    out: list[list[int]] = [[] for _ in prompts]
    for size in sorted({len(prompt) for prompt in prompts}):
        rows = [i for i, prompt in enumerate(prompts) if len(prompt) == size]
        for some in (rows[i : i + ROWS] for i in range(0, len(rows), ROWS)):
            begin = torch.tensor([list(prompts[i]) for i in some])
            done = sample(model, begin, size + more, None)[:, size:].tolist()
            for i, ids in zip(some, done, strict=True):
                out[i] = ids
    return out


@torch.no_grad()
@thin_products()
def logits_at(
    model: Any, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[Float[Tensor, "wanted vocab"]]:
    """Logits of each row at its wanted positions, float32 on the CPU; rows of any length, right-padded."""
    head, last = Frame(model, 1, ()), Site("resid", model.cfg.n_layers - 1)
    first, told = preface(model)
    rows = [_after(model, row, first, told) for row in rows]
    positions = [[place + len(told) for place in places] for places in positions]
    out: list[Tensor] = [torch.empty(0)] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for some in (order[i : i + ROWS] for i in range(0, len(order), ROWS)):
        tokens = padded([rows[i] for i in some]).to(device(model))
        begun, cache = _begun(model, tokens, min(p for i in some for p in positions[i]))
        with record(model, [last]) as seen:
            model.original_model.base_model(
                input_ids=tokens[:, begun:], past_key_values=cache, use_cache=cache is not None
            )
        where = [(r, p - begun) for r, i in enumerate(some) for p in positions[i]]
        picked = seen[last][[r for r, _ in where], [p for _, p in where]]
        logits = head.logits(picked).float().cpu()
        for i, part in zip(some, logits.split([len(positions[i]) for i in some]), strict=True):
            out[i] = part
    return out


def _begun(model: Any, tokens: Int[Tensor, "row pos"], first: int) -> tuple[int, Any]:
    """How many tokens all rows share before `first`, and their keys and values for every row; 0 and None if too few."""
    if len(tokens) == 1:
        return 0, None
    same = (tokens == tokens[:1]).all(0)[:first]
    begun = int(same.long().cumprod(0).sum())
    if begun < SHARED:
        return 0, None
    cache = model.original_model.base_model(input_ids=tokens[:1, :begun], use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(tokens))
    return begun, cache


def padded(rows: Sequence[Sequence[int]], to: int = 0) -> Int[Tensor, "row pos"]:
    """Rows as one tensor, filled up on the right with token 0; in a causal model nothing before it notices."""
    longest = max(to, *(len(row) for row in rows))
    return torch.tensor([[*row, *([0] * (longest - len(row)))] for row in rows])


def ngram_entropy(texts: Sequence[str]) -> float:
    """Generation entropy in bits, (H2 + 2 H3) / 3 over word 2- and 3-grams, averaged over texts (Meng et al. 2022).

    Low when a model repeats itself. It grows with the length of the text: compare equal lengths only. A text of fewer
    than three words says nothing and is left out; nan if none is left.
    """
    each = [_entropy(words, 2) / 3 + 2 * _entropy(words, 3) / 3 for words in map(str.split, texts) if len(words) > 2]
    return sum(each) / len(each) if each else math.nan


def _entropy(words: Sequence[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    shares = [grams.count(gram) / len(grams) for gram in set(grams)]
    return float(-sum(share * math.log2(share) for share in shares))
