"""Tasks for the circuit tests, on the toy's words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from circuits.by_role.engine import Lengths
from circuits.engine.incremental import Fast
from circuits.engine.writes import Mask
from circuits.graph import Graph
from circuits.task import Task
from factscope.model.load import load
from factscope.model.prompts import Prompt, make_prompt
from helpers.models import save_tiny

SHAPES = ("gpt2", "llama", "neox")
COUPLED = ("gemma2", "olmo2")  # heads share a norm: after attention, and in OLMo-2 over their queries and keys too
_MADE: dict[tuple[str, str], Any] = {}


def double(name: str, folder: Path, dtype: str = "float64") -> Any:
    """A random model of two layers, in float64, where rounding does not decide anything."""
    if (name, dtype) not in _MADE:
        _MADE[name, dtype] = load(str(save_tiny(name, folder / name, layers=2)), device="cpu", dtype=dtype)
    return _MADE[name, dtype]


def task(model: Any, metric: str = "nll", ablation: str = "zero", rows: int = 1) -> Task:
    """Prompts of equal length, with corrupt twins and reference prompts for every ablation."""
    people = ["Oda Voss", "Mira Drey", "Ilse Senn", "Pello Hallin", "Oda Drey", "Ilse Voss", "Oda Tavi", "Pello Senn"]
    prompts = [make_prompt(model, f"[{name}] lives in", answer="Brask", foil="Vey") for name in people]
    chosen = tuple(prompts[:rows])
    return Task(chosen, metric, ablation, tuple(prompts[-rows:]), tuple(prompts))


def check_cuts(fast: Fast, number: int, kept: Mask, count: int, within: float) -> int:
    """Cut a reader's last `count` writers one after another: each loss is the plain engine's; how many were cut.

    Then the state that was built up is the one that is built anew. `kept` is changed.
    """
    reference, graph = fast.reference, fast.graph
    fast.rebuild(kept)
    plan, writers = fast.plan(number), list(range(graph.below(graph.readers[number])))[-count:]
    x = fast.inputs[number][:, -1:] if plan.last else fast.inputs[number]
    rows = x + fast.cuts(writers, plan.last).cumsum(0)
    for writer, loss in zip(writers, fast.losses(plan, rows), strict=True):
        kept[writer, number] = False
        assert abs(reference.loss(kept) - float(loss)) < within
    fast.commit(len(rows) - 1)
    fast.kept = kept
    same = fast.losses(fast.plan(0), fast.inputs[:1] if not fast.plan(0).last else fast.inputs[:1, :, -1:])
    assert abs(float(same) - fast.rebuild(kept)) < within
    return len(writers)


def wordings(model: Any) -> tuple[Prompt, ...]:
    """One wording about subjects of several lengths."""
    people = ("Oda Voss", "Mira Drey", "Ilse Senn", "Pello Hallin", "Oda Mira Drey", "Tomas Oda Voss", "Oda")
    return tuple(make_prompt(model, f"[{name}] lives in", answer="Brask", foil="Vey") for name in people)


def lengths(model: Any, ablation: str = "mean", metric: str = "nll") -> Lengths:
    """All of them as one task."""
    prompts = wordings(model)
    return Lengths(prompts, metric, ablation, (*prompts[1:], prompts[0]), prompts)


def hand_wired(folder: Path) -> Any:
    """A GPT-2 in which only the embedding, a0.h1 and m1 write anything: its circuit is known without a search."""
    if ("wired", "") not in _MADE:
        model = load(str(save_tiny("gpt2", folder / "wired", layers=2)), device="cpu", dtype="float64")
        with torch.no_grad():
            for layer, block in enumerate(model.blocks):
                out = block.attn.o.original_component
                keep = out.weight[8:16].clone()  # head 1's rows, [d_head of all heads, d_model]
                out.weight.zero_()
                if layer == 0:
                    out.weight[8:16] = keep
                if layer != 1:
                    last = block.mlp.out.original_component
                    last.weight.zero_()
                    last.bias.zero_()
        _MADE["wired", ""] = model
    return _MADE["wired", ""]


WIRED = [
    "embed->a0.h1.q",
    "embed->a0.h1.k",
    "embed->a0.h1.v",
    "embed->m1",
    "a0.h1->m1",
    "embed->logits",
    "a0.h1->logits",
    "m1->logits",
]


def their_edges(model: Any, clean: Sequence[Prompt], corrupt: Sequence[Prompt], asked: Prompt) -> torch.Tensor:
    """TransformerLens's edge attribution of the logit difference of `asked`, summed over positions, [writer, reader].

    Theirs: the gradient in the corrupt run, times clean minus corrupt.
    """
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    answer, foil = asked.answer_ids[0], asked.foil_ids[0]
    there, here = (torch.tensor([prompt.tokens for prompt in side]) for side in (clean, corrupt))
    embedding = model.embed.original_component.weight.requires_grad_(True)  # theirs starts from the weights
    try:
        theirs = attribution_patch(
            model,
            there,
            here,
            lambda logits: logits[0, -1, answer] - logits[0, -1, foil],
            EdgeAttributionConfig("edge"),
        )
    finally:
        embedding.requires_grad_(False)
        embedding.grad = None
    graph = Graph.of(model)
    summed = torch.zeros(len(graph.writers), len(graph.readers))
    kinds = {"q_input": ".q", "k_input": ".k", "v_input": ".v"}
    for (writer, reader), value in theirs.edge_scores.items():
        source = {"embed": "embed", "attn_head_out": f"a{writer.layer}.h{writer.head}", "mlp_out": f"m{writer.layer}"}
        if reader.kind in kinds:
            target = f"a{reader.layer}.h{reader.head}{kinds[reader.kind]}"
        else:
            target = {"mlp_in": f"m{reader.layer}", "logits": "logits"}[reader.kind]
        summed[graph.edge(f"{source[writer.kind]}->{target}")] += value
    return summed
