"""What the components of a circuit do: which heads carry the subject, which the relation, and what each one writes.

The Knowledge Circuits paper names mover, relation and mixture heads by looking at pictures. Here a head's role follows
from two measurements in the full model, at the last position:
    attention  A_S and A_R, the shares of its attention on the subject and on the relation, position 0 (a sink) dropped;
    attribution  D_S, D_R, D_rest: its direct logit attribution to the answer, split by the token it was read from.
    mixture   D_S and D_R are each at least a quarter of |D_S| + |D_R| + |D_rest|
    mover     else: most of its attention (of S and R) is on the subject, D_S is the largest part, and the answer or the
              subject is among the ten tokens that it writes most
    relation  else: most is on the relation, D_R is the largest part, and, where the relation's possible answers are
              known, more of them are among those ten tokens than chance would put there
    none      else, or if |D| is below a floor, a share of the answer's own logit
The relation's tokens are the prompt's, less the subject, less the start token, less the last one. The same counting
with the positions' labels shuffled tells how many heads would get a role by luck (Chughtai et al. 2024 for the split).

Attribution is the direct effect of `factscope.model.readout`: the final norm's scale held at its clean value, no bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.graph import place_of
from circuits.task import Task
from factscope.model.bridge import Bridge
from factscope.model.readout import Component, Readout, rank, readout
from factscope.runs.provenance import Run, stopwatch

ROLES = ("mover", "relation", "mixture", "none")
MIXED = 0.25  # of |D_S| + |D_R| + |D_rest|
TOP = 10


@dataclass(frozen=True)
class HeadRole:
    """One head's measurements and what follows from them; attributions in logits, positive towards the answer."""

    name: str
    role: str
    attention_subject: float  # shares of all attention but the sink's
    attention_relation: float
    direct_subject: float
    direct_relation: float
    direct_rest: float
    top_tokens: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Roles:
    """The first prompt's heads, components and curves."""

    prompt: str
    answer: str
    heads: tuple[HeadRole, ...]
    components: tuple[Component, ...]
    counts: dict[str, int]
    chance: dict[str, float]  # mean count with shuffled positions
    chance_high: dict[str, int]  # the greatest of 19 in 20 shuffles
    active_heads: Float[Tensor, " layer"]  # share of a layer's heads that are in the circuit
    active_mlps: Float[Tensor, " layer"]  # 1 or 0
    curves: dict[str, Tensor]  # [state] 0 is the embedding; rank, probability, rank at the subject; full and circuit
    settings: dict[str, Any]
    run: Run | None


@torch.no_grad()
def roles(
    model: Bridge,
    circuit: Circuit,
    answers: Sequence[str] = (),
    *,
    floor: float = 0.01,
    shuffles: int = 200,
    seed: int = 0,
) -> Roles:
    """Measure the heads of `circuit` in `model` on its first prompt; `answers` are the relation's possible ones."""
    run = Run.of(model, seed)
    with stopwatch() as elapsed:
        graph, prompt = circuit.graph, circuit.task.prompts[0]
        fast = Fast(Reference(model, graph, Task((prompt,), "log_probability", "zero")))
        last = len(prompt.tokens) - 1
        final = fast.inputs[graph.reader_index["logits"]][0, last]
        lens = AnswerReading(readout(model), final, prompt.answer_ids[0])
        subject = np.zeros(last + 1, dtype=bool)
        subject[list(prompt.subject_positions)] = True
        relation = ~subject
        relation[[0, last]] = False
        subject[0] = False
        among = first_tokens(model, answers)
        own = {prompt.answer_ids[0], *(prompt.tokens[place] for place in prompt.subject_positions)}
        expected = TOP * len(among) / lens.readout.n_tokens
        naming = _Naming(among, own, expected, floor * abs(float(lens.direct(final))))

        nodes = circuit.nodes()
        measured = [_reading_of(fast, lens, name, last) for name in nodes if name.startswith("a")]
        heads = tuple(_head_role(model, head, naming, subject, relation) for head in measured)
        generator = np.random.default_rng(seed)
        counts: list[dict[str, int]] = []
        for _ in range(shuffles):
            order = np.concatenate([[0], 1 + generator.permutation(last)])
            drawn = [naming.role(head, subject[order], relation[order]) for head in measured]
            counts.append({role: drawn.count(role) for role in ROLES})
        written = torch.stack([fast.outputs[graph.writer_index[name]][0, last] for name in nodes])
        result = Roles(
            prompt=prompt.text,
            answer=str(prompt.answer),
            heads=heads,
            components=lens.readout.components(nodes, written, final, lens.answer, "final-scale", TOP),
            counts={role: sum(head.role == role for head in heads) for role in ROLES},
            chance={role: float(np.mean([each[role] for each in counts])) for role in ROLES},
            chance_high={role: int(np.quantile([each[role] for each in counts], 0.95)) for role in ROLES},
            active_heads=_active(circuit, heads=True),
            active_mlps=_active(circuit, heads=False),
            curves=_curves(fast, circuit, lens, list(prompt.subject_positions), last),
            settings={"floor": floor, "shuffles": shuffles, "seed": seed, "answers known": len(among), "mixed": MIXED},
            run=None,
        )
    return replace(result, run=run.ended(elapsed[0]))


@dataclass(frozen=True, eq=False)
class _HeadReading:
    """What one head's role follows from."""

    name: str
    attention: np.ndarray  # by source token, without the sink
    direct: np.ndarray  # attribution by source token, logits
    top: list[int]  # tokens that its write raises most


@dataclass(frozen=True)
class _Naming:
    """The measures that all heads are named by, whatever the labels of the tokens."""

    among: set[int]  # first tokens of the relation's answers
    own: set[int]  # tokens of the answer and the subject
    expected: float  # answers among TOP tokens by chance
    least: float  # attribution below which a head has no role

    def role(self, head: _HeadReading, subject: np.ndarray, relation: np.ndarray) -> str:
        """The role of a head where these tokens are the subject's and these the relation's."""
        in_range = len(self.among & set(head.top)) > self.expected if self.among else True
        own = bool(self.own & set(head.top))
        return role_from(head.attention, head.direct, subject, relation, own, in_range, self.least)


def _head_role(
    model: Bridge, head: _HeadReading, naming: _Naming, subject: np.ndarray, relation: np.ndarray
) -> HeadRole:
    return HeadRole(
        head.name,
        naming.role(head, subject, relation),
        float(head.attention[subject].sum()),
        float(head.attention[relation].sum()),
        float(head.direct[subject].sum()),
        float(head.direct[relation].sum()),
        float(head.direct[~(subject | relation)].sum()),
        tuple(model.tokenizer.decode([token]) for token in head.top),
    )


def _reading_of(fast: Fast, lens: "AnswerReading", name: str, last: int) -> _HeadReading:
    attention, direct, written = head_reading(fast, lens, name, last)
    return _HeadReading(name, attention, direct, lens.top(written))


@dataclass(frozen=True, eq=False)
class AnswerReading:
    """Reads parts of one final state in final-scale, towards one answer; see `factscope.model.readout`."""

    readout: Readout
    final: Float[Tensor, " d_model"]
    answer: int

    def direct(self, states: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """Direct effects on the answer, in logits."""
        return self.readout.direct(states, self.final, self.answer)

    def top(self, states: Float[Tensor, "*rows d_model"]) -> list[Any]:
        """The tokens that each state raises most."""
        logits = self.readout.linear(states, self.final)
        raised: list[Any] = logits.topk(min(TOP, logits.shape[-1]), -1).indices.tolist()
        return raised


def source_writes(fast: Fast, name: str, last: int) -> tuple[Float[Tensor, " key"], Float[Tensor, "key d_model"]]:
    """A head's attention at the last position, and what it writes there of each source token; the sink is key 0."""
    layer, head = place_of(name)
    assert head is not None
    pair = head // fast.graph.group if fast.graph.split else head
    q, k, v = fast.queries[layer][head], fast.keys[layer][pair], fast.values[layer][pair]  # [row, pos, d_head]
    pattern = fast.kernel.pattern(layer, q[None], k[None])[0, 0, last]  # [key]
    return pattern, (pattern[:, None] * v[0]) @ fast.kernel.layers[layer].out[head]


def head_reading(fast: Fast, lens: AnswerReading, name: str, last: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Attention of the last position without the sink, attribution by source token, and what the head writes."""
    pattern, by_source = source_writes(fast, name, last)
    attention = pattern.double().cpu().numpy().copy()
    attention[0] = 0.0
    attention /= max(attention.sum(), 1e-12)
    direct = lens.direct(by_source).double().cpu().numpy().copy()
    direct[0] = 0.0  # what the sink holds is the same whatever is asked
    return attention, direct, by_source.sum(0)


def role_from(
    attention: np.ndarray,
    direct: np.ndarray,
    subject: np.ndarray,
    relation: np.ndarray,
    own: bool,
    in_range: bool,
    least: float,
) -> str:
    """The role that follows from one head's attention and attribution by source token; see the module's text."""
    d_s, d_r = float(direct[subject].sum()), float(direct[relation].sum())
    d_rest = float(direct[~(subject | relation)].sum())
    total = abs(d_s) + abs(d_r) + abs(d_rest)
    if total < least:
        return "none"
    if min(abs(d_s), abs(d_r)) >= MIXED * total:
        return "mixture"
    on_subject = attention[subject].sum() >= attention[relation].sum()
    if on_subject and abs(d_s) >= max(abs(d_r), abs(d_rest)) and own:
        return "mover"
    if not on_subject and abs(d_r) >= max(abs(d_s), abs(d_rest)) and in_range:
        return "relation"
    return "none"


def _active(circuit: Circuit, heads: bool) -> Tensor:
    counts = torch.zeros(circuit.graph.n_layers)
    for name in circuit.nodes():
        layer, head = place_of(name)
        if layer >= 0 and (head is not None) == heads:
            counts[layer] += 1
    return counts / (circuit.graph.n_heads if heads else 1)


def _curves(fast: Fast, circuit: Circuit, lens: AnswerReading, subject: list[int], last: int) -> dict[str, Tensor]:
    """Rank and probability of the answer after each layer, in the full model and in the circuit.

    `rank` and `probability` read per state, as the model would; `probability_final_scale` in final-scale, as Knowledge
    Circuits does, which flattens early layers and leaves ranks as they are where there is no bias.
    """
    curves: dict[str, Tensor] = {}
    for which, kept in (("full", fast.graph.full()), ("circuit", circuit.mask)):
        fast.rebuild(kept)
        graph = fast.graph
        ends = [graph.head_writer(layer) for layer in range(graph.n_layers)] + [len(graph.writers)]
        biases = [torch.zeros_like(fast.outputs[0, 0, 0])]
        for layer in range(graph.n_layers):
            biases.append(biases[-1] + fast.kernel.layers[layer].out_bias)
        heard = torch.from_numpy(kept[:, -1] | (which == "full")).to(fast.outputs)[:, None, None]
        stream = (heard * fast.outputs[:, 0]).cumsum(0)
        states = torch.stack([stream[end - 1] + bias for end, bias in zip(ends, biases, strict=True)])
        own = lens.readout.logits(states[:, last])
        curves[f"rank, {which}"] = rank(own, lens.answer).float().cpu()
        curves[f"probability, {which}"] = own.softmax(-1)[:, lens.answer].float().cpu()
        if which == "full":
            flat = lens.readout.linear(states[:, last], lens.final)
            curves["probability_final_scale, full"] = flat.softmax(-1)[:, lens.answer].float().cpu()
            at_subject = rank(lens.readout.logits(states[:, subject]), lens.answer)
            curves["rank at subject, full"] = at_subject.amin(1).float().cpu()
    fast.rebuild(fast.graph.full())
    return curves


def first_tokens(model: Bridge, answers: Sequence[str]) -> set[int]:
    """First tokens of the answers, each after a space."""
    found = set()
    for answer in answers:
        ids = model.tokenizer(" " + answer.strip(), add_special_tokens=False)["input_ids"]
        found |= set(ids[:1])
    return found
