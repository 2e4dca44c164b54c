"""Knowledge neurons: which neurons of the MLPs carry an answer, at the token that predicts it (Dai et al. 2022).

Every neuron of every layer is attributed by integrated gradients (factscope/model/neurons/attribution.py), for the
prompt and for the fact's other wordings; the few that carry the answer under most wordings are the fact's
(factscope/model/neurons/selection.py). What each of these raises is read from its row of the down-projection, as it
fires: its activation times the row, unembedded at the final state's scale.

A causal trace asks another question, at another place: which layer's MLP brings the answer back when the subject is
corrupted, mostly at the subject's last token. `tracing/pages/neurons.py` puts the two side by side.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from factscope.data.fact import Fact
from factscope.data.shipped import find_fact, relations
from factscope.errors import PromptError, UserError
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device
from factscope.model.forward.scoring import Pair
from factscope.model.hooks import record
from factscope.model.neurons.attribution import Path, attribute
from factscope.model.neurons.selection import Chosen, Neuron, Place, Refinement, choose, shared_by_many
from factscope.model.prompts import OWN_ANSWER, Prompt, as_prompt, tokenized, with_answer_ids
from factscope.model.readout import readout
from factscope.model.sites import Site
from factscope.model.weights import down_projection, live_weights
from factscope.progress import Advance
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import spearman
from tracing.results import NeuronResult, TraceResult

RAISED = 5  # tokens that are told of a neuron


@dataclass(frozen=True)
class Config:
    """How neurons are found."""

    path: Path = field(default_factory=Path)
    rule: Refinement = field(default_factory=Refinement)
    wordings: int = 8  # of the fact, the prompt among them, at most; each costs as much as the prompt
    others: int = 0  # other facts of the relation, whose neurons are left out where too many of them share one

    def __post_init__(self) -> None:
        if self.wordings < 1 or self.others < 0:
            raise UserError(
                f"neurons need 1 wording or more and 0 other facts or more, not {self.wordings} and {self.others}"
            )


def neurons(
    model: Bridge,
    prompt: str | Prompt,
    config: Config = Config(),
    *,
    wordings: Sequence[str] | None = None,
    advance: Advance = lambda _: None,
) -> NeuronResult:
    """The neurons that carry the prompt's answer; without an answer, the model's own most probable next token.

    A text is made a prompt first.

    Args:
        wordings: other whole prompts that ask for the same answer; by default those of the shipped fact that the prompt
            asks for, if it does.
        advance: told of finished layers, those of other facts included (`layers_of` counts them).

    Raises ModelError for a model whose neurons cannot be changed one by one, exactly.
    """
    with stopwatch() as seconds:
        prompt = _answered(model, as_prompt(model, prompt))
        texts = paraphrases(prompt) if wordings is None else tuple(wordings)
        pairs, asked, notes = _pairs(model, prompt, texts[: config.wordings - 1])
        found = attribute(model, pairs, None, config.path, advance)
        common, more = _common(model, prompt, config, advance)
        chosen = choose(found, config.rule, common)
        named = raised(model, prompt, chosen)
    return NeuronResult(
        prompt=prompt,
        wordings=asked,
        settings=_flat(config),
        unit=config.path.of if config.path.of == "probability" else "logits",
        attribution=found.value,
        activation=found.activation,
        whole=found.whole,
        without=found.without,
        points=found.points,
        gap=found.gap,
        neurons=named,
        share=chosen.share,
        deciding=chosen.wordings,
        common=tuple(sorted(common)),
        notes=(*notes, *more, *chosen.notes),
        run=Run.of(model, 0).ended(seconds[0]),
    )


def layers_of(model: Bridge, prompt: Prompt, config: Config) -> int:
    """How many layers are attributed, those of other facts included."""
    return int(model.cfg.n_layers) * (1 + len(_other_facts(prompt, config)))


def paraphrases(prompt: Prompt) -> tuple[str, ...]:
    """The other wordings of the shipped fact that a prompt asks for; none for any other prompt."""
    fact = find_fact(prompt.text)
    return () if fact is None else fact.paraphrases


def _answered(model: Bridge, prompt: Prompt) -> Prompt:
    if prompt.answer_ids:
        return prompt
    with torch.no_grad():
        said = int(finite(model(prompt.tensor(device(model)))[0, -1]).argmax())
    return with_answer_ids(model, prompt, [said], OWN_ANSWER)


def _pairs(model: Bridge, prompt: Prompt, texts: Sequence[str]) -> tuple[list[Pair], tuple[str, ...], list[str]]:
    """The prompt and its other wordings as tokens, their texts, and which could not be asked."""
    pairs, asked, notes = [Pair(prompt.tokens, prompt.answer_ids)], [prompt.text], []
    for text in texts:
        try:
            tokens, answer = tokenized(model, text, prompt.answer, prompt.start_token or "none")
        except PromptError as why:
            notes.append(f"a wording is left out: {why}")
            continue
        pairs.append(Pair(tokens, answer))
        asked.append(text)
    return pairs, tuple(asked), notes


def _other_facts(prompt: Prompt, config: Config) -> tuple[Fact, ...]:
    fact = find_fact(prompt.text) if config.others else None
    if fact is None:
        return ()
    relation = relations()[fact.relation]
    template = relation.templates[0]
    return tuple(
        relation.fact(entry, template)
        for entry in relation.entries
        if entry.subject != fact.subject and entry.answer != fact.answer
    )[: config.others]


def _common(
    model: Bridge, prompt: Prompt, config: Config, advance: Advance
) -> tuple[frozenset[Place], tuple[str, ...]]:
    """The neurons that too many other facts of the relation share, and a note that says of how many."""
    if not config.others:
        return frozenset(), ()
    facts = _other_facts(prompt, config)
    if not facts:
        return frozenset(), ("the prompt asks for no shipped fact, so there are no other facts of its relation",)
    found: list[Chosen] = []
    for fact in facts:
        texts = (fact.prompt, *fact.paraphrases)[: config.wordings]
        pairs = [Pair(*tokenized(model, text, fact.answer, prompt.start_token or "none")) for text in texts]
        found.append(choose(attribute(model, pairs, None, config.path, advance), config.rule))
    common = shared_by_many(found, config.rule)
    return common, (f"{len(common)} neurons are found for more than {config.rule.common:.0%} of {len(facts)} other "
                    f"facts of the relation, and left out",)  # fmt: skip


@torch.no_grad()
def raised(model: Bridge, prompt: Prompt, chosen: Chosen) -> tuple[Neuron, ...]:
    """The chosen neurons, each with the tokens that it raises most as it fires."""
    last = Site("resid", model.cfg.n_layers - 1)
    with record(model, [last]) as seen:
        model(prompt.tensor(device(model)), use_cache=False)
    final, weights, read = seen[last][0, -1], live_weights(model), readout(model)
    if not read.splits:
        return chosen.neurons
    named = []
    for neuron in chosen.neurons:
        row = weights[down_projection(neuron.layer)][neuron.index] * neuron.activation
        top = read.linear(row[None].to(final), final[None])[0].topk(RAISED).indices.tolist()
        named.append(replace(neuron, raises=tuple(model.tokenizer.decode([token]) for token in top)))
    return tuple(named)


def _flat(config: Config) -> dict[str, Any]:
    """All settings by their own names."""
    return {**asdict(config.path), **asdict(config.rule), "wordings": config.wordings, "others": config.others}


# ---- beside a causal trace ----


@dataclass(frozen=True)
class Agreement:
    """Whether the layers whose neurons carry an answer are those whose MLPs a trace restores it by, at one token."""

    role: str  # "last subject" or "last token", where the trace restores
    rho: float  # Spearman's, over layers; NaN where one of the two is the same everywhere
    traced: int  # the layer of the largest effect
    attributed: int  # the layer that carries most


def agreements(trace: TraceResult, found: NeuronResult) -> tuple[Agreement, ...]:
    """The two compared layer by layer; nothing where the trace restored no MLPs."""
    grid = next((grid for grid in trace.grids if grid.kind == "mlp"), None)
    if grid is None:
        return ()
    carried = found.by_layer.tolist()
    places = {"last subject": trace.prompt.subject_span[1] - 1, "last token": len(trace.prompt.tokens) - 1}
    return tuple(
        Agreement(
            role,
            spearman(grid.effect[:, place].tolist(), carried)[0],
            int(grid.effect[:, place].argmax()),
            int(found.by_layer.argmax()),
        )
        for role, place in places.items()
    )
