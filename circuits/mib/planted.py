"""Transformers with a circuit put in by hand, so that every edge is known to be in it or not; as InterpBench's are.

InterpBench trains its models towards a circuit; these are written down, with six layers of four heads and a width of
64, as its IOI model. Every writer (the embedding, 24 heads, 6 MLPs) has two dimensions of the residual stream for
itself, in which it writes one number s as (s, -s), and a reader of the circuit reads the numbers of its own writers
alone. Two further dimensions hold a large constant, against which all else is small: the norms then scale everything
alike, and cutting an edge changes nothing but what the reader hears. Attention is even over the positions, so no query
and no key is in a circuit. Writers outside the circuit hear and write noise that nobody of the circuit reads.

    chain       InterpBench's seven edges: embed -> m0 -> {a1.h1, a2.h1, a4.h1}.v, a1.h1 -> a2.h1.v -> a4.h1.v -> logits
    saturated   m0 -> {a1.h0, a2.h1}.v -> m3 -> a4.h2.v -> logits, where m3 says as much for a little as for a lot: a
                gradient in the clean run sees nothing of what it hears, and exact cuts do

The model says "yes" after words of its first half and "no" after those of the second; the counterfactual exchanges the
halves.

Convention: true edges are those that the weights wire between nodes that reach the logits.
Scope: noise makes edges outside the circuit matter a little, `noise` times as much as those in it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.engine.writes import Mask
from circuits.graph import Graph
from circuits.task import Task
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.load import load
from factscope.model.prompts import make_prompt

LAYERS, HEADS, WIDTH = 6, 4, 64
D_HEAD = WIDTH // HEADS
LARGE = 200.0  # the constant, beside numbers of about 1
WORDS = 8  # of each half
KINDS = ("chain", "saturated")
_WIRED = {
    "chain": {"m0": ["embed"], "a1.h1": ["m0"], "a2.h1": ["m0", "a1.h1"], "a4.h1": ["m0", "a2.h1"],
              "logits": ["a4.h1"]},
    "saturated": {"m0": ["embed"], "a1.h0": ["m0"], "a2.h1": ["m0"], "m3": ["a1.h0", "a2.h1"], "a4.h2": ["m3"],
                  "logits": ["a4.h2"]},
}  # fmt: skip
_BOUNDED = {"m3": 0.25}  # MLPs that hear no more than this, and say four times as much as they hear


@dataclass(frozen=True, eq=False)
class Planted:
    """A model, what it does, and the edges that do it."""

    name: str
    model: Bridge
    truth: Mask  # [writer, reader]
    edges: tuple[str, ...]

    def task(self, prompts: int, seed: int = 0, length: int = 4) -> Task:
        """Prompts of its words with their counterfactuals, drawn by `seed`; the metric is the logit difference."""
        rng = np.random.default_rng(seed)
        clean, corrupt = [], []
        for number in range(prompts):
            half = number % 2
            both = [
                " ".join(f"w{rng.integers(WORDS) + WORDS * which}" for _ in range(length)) for which in (half, 1 - half)
            ]
            said = ("yes", "no") if half == 0 else ("no", "yes")
            pair = [make_prompt(self.model, text, subject=text, answer=said[0], foil=said[1]) for text in both]
            clean.append(pair[0])
            corrupt.append(pair[1])
        return Task(tuple(clean), "logit_difference", "counterfactual", tuple(corrupt))


def planted(kind: str = "chain", noise: float = 0.0, seed: int = 0, device: str | None = None) -> Planted:
    """A planted model.

    Args:
        noise: size of the weights between nodes that the circuit does not join, beside 1.

    Raises UserError for a kind that there is not, or noise below zero.
    """
    if kind not in KINDS:
        raise UserError(f"there is no planted circuit {kind!r}; choose one of {', '.join(KINDS)}")
    if not (math.isfinite(noise) and noise >= 0):
        raise UserError(f"noise is a number of at least 0, not {noise}")
    return compiled(_WIRED[kind], kind, noise, seed, device, bounded=_BOUNDED)


def compiled(
    wired: Mapping[str, Sequence[str]],
    name: str,
    noise: float = 0.0,
    seed: int = 0,
    device: str | None = None,
    bounded: Mapping[str, float] = MappingProxyType({}),
    layers: int = LAYERS,
) -> Planted:
    """A model that is wired so: the writers that each reader hears, nodes by name, heads by their values.

    Args:
        bounded: MLPs that hear no more than so much, and say four times as much as they hear.
        layers: six at most, for that many have dimensions of their own.
    """
    network = _network(layers)
    _write(network, wired, bounded, noise, torch.Generator().manual_seed(seed))
    with TemporaryDirectory() as folder, _without_bars():  # TransformerLens reads a tokenizer again by its name
        network.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
        model = load(folder, device=device)
    graph = Graph.of(model)
    truth = graph.empty()
    for reader, writers in wired.items():
        own = f"{reader}.v" if reader.startswith("a") else reader
        for writer in writers:
            truth[graph.writer_index[writer], graph.reader_index[own]] = True
    named = f"planted {name}" + (f", noise {noise:g}" if noise else "")
    return Planted(named, model, truth, tuple(graph.names(truth)))


@contextmanager
def _without_bars() -> Iterator[None]:
    """Saving a file of some kilobytes is nothing to show."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _network(layers: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)  # its own weights are all written over
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(_vocabulary()), n_positions=32, n_embd=WIDTH, n_layer=layers, n_head=HEADS,
            activation_function="relu", tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def _vocabulary() -> list[str]:
    return ["<s>", "yes", "no", *(f"w{number}" for number in range(2 * WORDS))]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(_vocabulary())}
    made = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>")


def _channel(writer: str) -> int:
    """The first of the two dimensions that a writer has; the last two of all are the constant's."""
    if writer == "embed":
        return 0
    layer, _, head = writer[1:].partition(".h")
    return 2 + 2 * (int(layer) * (HEADS + 1) + (int(head) if head else HEADS))


def written(size: Tensor | float, writer: str) -> Tensor:
    """Numbers as a writer's writes: (s, -s) in its own dimensions, [*size, d_model]."""
    size = torch.as_tensor(size, dtype=torch.float32)
    out = torch.zeros(*size.shape, WIDTH)
    out[..., _channel(writer)], out[..., _channel(writer) + 1] = size, -size
    return out


def heard(weights: dict[str, float]) -> Tensor:
    """What a reader takes of the normed stream: the weighted sum of its writers' numbers, [d_model]."""
    scale = LARGE * math.sqrt(2 / WIDTH)  # of the norm, in which the constant is all that counts
    return sum((written(0.5 * weight * scale, writer) for writer, weight in weights.items()), torch.zeros(WIDTH))


@torch.no_grad()
def _write(
    network: Any,
    wired: Mapping[str, Sequence[str]],
    bounded: Mapping[str, float],
    noise: float,
    generator: torch.Generator,
) -> None:
    """Every weight of the network."""
    for parameter in network.parameters():
        parameter.zero_()
    body = network.transformer
    for norm in (body.ln_f, *(part for block in body.h for part in (block.ln_1, block.ln_2))):
        norm.weight.fill_(1.0)
    numbers = torch.zeros(len(_vocabulary()))
    spread = 0.5 + torch.rand(2 * WORDS, generator=generator)
    numbers[3:] = spread * torch.tensor([1.0] * WORDS + [-1.0] * WORDS)
    body.wte.weight.copy_(written(numbers, "embed"))
    body.wte.weight[:, -2], body.wte.weight[:, -1] = LARGE, -LARGE
    below = ["embed"]

    def weights(reader: str) -> dict[str, float]:
        drawn = torch.randn(len(below), generator=generator) * noise
        own = wired.get(reader, [])
        return {name: 1.0 if name in own else float(x) for name, x in zip(below, drawn, strict=True)}

    for layer, block in enumerate(body.h):
        heads = [f"a{layer}.h{head}" for head in range(HEADS)]
        for head, name in enumerate(heads):
            first = head * D_HEAD
            block.attn.c_attn.weight[:, 2 * WIDTH + first] = heard(weights(name))
            gain = 1.0 if name in wired else noise
            block.attn.c_proj.weight[first] = written(gain, name)
        below += heads
        mlp = f"m{layer}"
        _mlp(block.mlp, heard(weights(mlp)), mlp, 1.0 if mlp in wired else noise, bounded.get(mlp))
        below.append(mlp)
    answer = heard(weights("logits"))
    network.lm_head.weight[1], network.lm_head.weight[2] = answer, -answer


def _mlp(mlp: Any, taken: Tensor, name: str, gain: float, bound: float | None) -> None:
    """s as it is heard: relu(s) - relu(-s); or four times s, which counts as its bound beyond it."""
    gain = gain if bound is None else 4 * gain
    mlp.c_fc.weight[:, 0], mlp.c_fc.weight[:, 1] = taken, -taken
    mlp.c_proj.weight[0], mlp.c_proj.weight[1] = written(gain, name), written(-gain, name)
    if bound is not None:
        mlp.c_fc.weight[:, 2], mlp.c_fc.weight[:, 3] = taken, -taken
        mlp.c_fc.bias[2:4] = -bound
        mlp.c_proj.weight[2], mlp.c_proj.weight[3] = written(-gain, name), written(gain, name)
