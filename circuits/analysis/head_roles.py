"""What the components of a circuit do: which heads carry the subject, which the relation, and what each one writes.

The Knowledge Circuits paper names mover, relation and mixture heads by looking at pictures. Here a head's role follows
from two measurements in the full model, at the last position:
    attention  A_S and A_R, the shares of its attention on the subject and on the relation, position 0 (a sink) dropped;
    attribution  D_S, D_R, D_rest: its direct logit attribution to the answer, split by the token it was read from.
    mixture   D_S and D_R are each at least a quarter of |D_S| + |D_R| + |D_rest|
    mover     else: most of its attention (of S and R) is on the subject, D_S is the largest part, and the answer or the
              subject is among the ten tokens that it writes most
    relation  else: most is on the relation, it does not hold the answer back (D_R is not below minus the floor), and
              among those ten tokens is a word of the relation (the paper's L14H13 writes "language"), or are more of
              the relation's possible answers, where these are known, than chance would put there (its L7H14: "Arabic")
    none      else
Signs count: the parts that name a mixture or a mover are positive, and at least the floor, a share of the answer's own
logit, together. The relation's tokens are the prompt's, less the subject, less the start token, less the last one; its
words are those of at least four letters, for the shorter ones are mostly function words. The same counting with the
positions' labels shuffled tells how many heads would get a role by luck (Chughtai et al. 2024 for the split).

Attribution is the direct effect of `factscope.model.readout`: the final norm's scale held at its clean value, no bias.
Heads are read on the first prompt; the curves over layers are means over all prompts of the circuit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.analysis.attention import HeadPattern, patterns, strongest_heads
from circuits.circuit import Circuit
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.graph import place_of
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt, token_ids
from factscope.model.readout import ROWS, Component, Readout, rank, readout
from factscope.runs.provenance import Run, stopwatch

ROLES = ("mover", "relation", "mixture", "none")
MIXED = 0.25  # of |D_S| + |D_R| + |D_rest|
FLOOR = 0.01  # of the answer's own logit: below it a head has no role
TOP = 10
LETTERS = 4  # of a word of the relation, at least


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
    """The first prompt's heads and components, and the curves of all prompts."""

    prompt: str
    answer: str
    heads: tuple[HeadRole, ...]
    components: tuple[Component, ...]
    counts: dict[str, int]
    chance: dict[str, float]  # mean count with shuffled positions
    chance_high: dict[str, int]  # the greatest of 19 in 20 shuffles
    active_heads: Float[Tensor, " layer"]  # share of a layer's heads that are in the circuit
    active_mlps: Float[Tensor, " layer"]  # 1 or 0; of experts, the share
    curves: dict[str, Tensor]  # [state] 0 is the embedding; rank, probability, rank at the subject; full and circuit
    settings: dict[str, Any]
    run: Run | None
    patterns: tuple[HeadPattern, ...] = ()  # of the strongest heads, the strongest first


@torch.no_grad()
def roles(
    model: Bridge,
    circuit: Circuit,
    answers: Sequence[str] = (),
    *,
    floor: float = FLOOR,
    shuffles: int = 200,
    seed: int = 0,
) -> Roles:
    """Measure the heads of `circuit` in `model` on its first prompt; `answers` are the relation's possible ones."""
    run = Run.of(model, seed)
    with stopwatch() as elapsed:
        graph, prompt = circuit.graph, circuit.task.prompts[0]
        state = State(Reference(model, graph, circuit.task))
        last = len(prompt.tokens) - 1
        final = state.inputs[graph.reader_index["logits"]][0, last]
        lens = AnswerReading(readout(model), final, prompt.answer_ids[0])
        naming = Naming.of(model, prompt, lens, answers, floor)
        nodes = circuit.nodes()
        attended = patterns(state, strongest_heads(circuit))
        (measured,) = head_readings(state, [lens], [name for name in nodes if name.startswith("a")], last)
        subject, relation = parts_of(prompt)
        heads = tuple(_head_role(head, naming, subject, relation) for head in measured)
        generator = np.random.default_rng(seed)
        counts: list[dict[str, int]] = []
        for _ in range(shuffles):
            order = np.concatenate([[0], 1 + generator.permutation(last)])
            drawn = [naming.role(head, subject[order], relation[order]) for head in measured]
            counts.append({role: drawn.count(role) for role in ROLES})
        written = torch.stack([state.outputs[graph.writer_index[name]][0, last] for name in nodes])
        settings = {"floor": floor, "shuffles": shuffles, "seed": seed, "mixed": MIXED}
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
            curves=_curves(state, circuit, lens.readout),
            settings=settings | {"answers known": len(naming.among), "prompts": len(circuit.task.prompts)},
            run=None,
            patterns=attended,
        )
    return replace(result, run=run.ended(elapsed[0]))


@dataclass(frozen=True, eq=False)
class HeadReading:
    """What one head's role follows from."""

    name: str
    attention: Float[np.ndarray, " key"]  # of the last position, without the sink
    direct: Float[np.ndarray, " key"]  # attribution by source token, logits
    top: tuple[int, ...]  # tokens that its write raises most
    words: tuple[str, ...]  # the same as texts


@dataclass(frozen=True)
class Naming:
    """The measures that all heads are named by, on every page, whatever the labels of the tokens."""

    own: frozenset[int]  # tokens of the answer and the subject
    among: frozenset[int]  # first tokens of the relation's answers
    relation: frozenset[str]  # words of the relation
    expected: float  # answers among TOP tokens by chance
    least: float  # attribution below which a head has no role

    @classmethod
    def of(
        cls, model: Bridge, prompt: Prompt, lens: "AnswerReading", answers: Sequence[str] = (), floor: float = FLOOR
    ) -> "Naming":
        """For the answer that the lens reads."""
        among = first_tokens(model, answers)
        related = [prompt.tokens[place] for place in np.flatnonzero(parts_of(prompt)[1])]
        words = {_word(model.tokenizer.decode([token])) for token in related}
        return cls(
            own=frozenset({lens.answer, *(prompt.tokens[place] for place in prompt.subject_positions)}),
            among=frozenset(among),
            relation=frozenset(word for word in words if len(word) >= LETTERS),
            expected=TOP * len(among) / lens.readout.n_tokens,
            least=floor * abs(float(lens.direct(lens.final))),
        )

    def role(self, head: HeadReading, subject: Bool[np.ndarray, " key"], relation: Bool[np.ndarray, " key"]) -> str:
        """The role of a head where these tokens are the subject's and these the relation's; see the module's text."""
        d_s, d_r = float(head.direct[subject].sum()), float(head.direct[relation].sum())
        d_rest = float(head.direct[~(subject | relation)].sum())
        total = abs(d_s) + abs(d_r) + abs(d_rest)
        counts = total >= self.least
        if counts and min(d_s, d_r) >= MIXED * total:
            return "mixture"
        if head.attention[subject].sum() >= head.attention[relation].sum():
            moves = counts and d_s >= max(abs(d_r), abs(d_rest)) and not self.own.isdisjoint(head.top)
            return "mover" if moves else "none"
        return "relation" if d_r > -self.least and self._writes_relation(head) else "none"

    def _writes_relation(self, head: HeadReading) -> bool:
        """Whether it writes a word of the relation, or more of its answers than chance."""
        if any(_word(text) in self.relation for text in head.words):
            return True
        return bool(self.among) and len(self.among.intersection(head.top)) > self.expected


def parts_of(prompt: Prompt) -> tuple[Bool[np.ndarray, " pos"], Bool[np.ndarray, " pos"]]:
    """Which tokens are the subject's, and which the relation's: all others but the first, a sink, and the last."""
    subject = np.zeros(len(prompt.tokens), dtype=bool)
    subject[list(prompt.subject_positions)] = True
    relation = ~subject
    relation[[0, -1]] = False
    subject[0] = False
    return subject, relation


def _word(text: str) -> str:
    return text.strip().lower()


def _head_role(head: HeadReading, naming: Naming, subject: np.ndarray, relation: np.ndarray) -> HeadRole:
    return HeadRole(
        head.name,
        naming.role(head, subject, relation),
        float(head.attention[subject].sum()),
        float(head.attention[relation].sum()),
        float(head.direct[subject].sum()),
        float(head.direct[relation].sum()),
        float(head.direct[~(subject | relation)].sum()),
        head.words,
    )


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


def source_writes(state: State, name: str, last: int) -> tuple[Float[Tensor, " key"], Float[Tensor, "key d_model"]]:
    """A head's attention at the last position, and what it writes there of each source token; the sink is key 0."""
    layer, head = place_of(name)
    assert head is not None
    pair = head // state.graph.group if state.graph.split else head
    q, k, v = state.queries[layer][head], state.keys[layer][pair], state.values[layer][pair]  # [row, pos, d_head]
    pattern = state.kernel.pattern(layer, q[None], k[None], [head])[0, 0, last]  # [key]
    given = (pattern[:, None] * v[0]) @ state.kernel.layers[layer].out[head]
    return pattern, state.share(layer, given, 0, last)


def head_readings(
    state: State, lenses: Sequence[AnswerReading], names: Sequence[str], last: int
) -> list[list[HeadReading]]:
    """Heads in the full model on the first prompt, [lens][head]; the lenses read one state towards several answers."""
    if not names:
        return [[] for _ in lenses]
    sources = [source_writes(state, name, last) for name in names]
    by_source = torch.stack([each for _, each in sources])  # [head, key, d_model]
    attention = torch.stack([pattern for pattern, _ in sources]).double().cpu().numpy().copy()
    attention[:, 0] = 0.0
    attention /= np.maximum(attention.sum(1, keepdims=True), 1e-12)
    tops = [tuple(top) for some in by_source.sum(1).split(ROWS) for top in lenses[0].top(some)]
    decode = lenses[0].readout.model.tokenizer.decode
    words = [tuple(decode([token]) for token in top) for top in tops]
    found = []
    for lens in lenses:
        direct = lens.direct(by_source).double().cpu().numpy().copy()
        direct[:, 0] = 0.0  # what the sink holds is the same whatever is asked
        found.append([HeadReading(*each) for each in zip(names, attention, direct, tops, words, strict=True)])
    return found


def _active(circuit: Circuit, heads: bool) -> Tensor:
    graph, counts = circuit.graph, torch.zeros(circuit.graph.n_layers)
    for name in circuit.nodes():
        layer, head = place_of(name)
        if layer >= 0 and (head is not None) == heads and not name.startswith("b"):
            counts[layer] += 1 / (graph.n_heads if heads else len(graph.mlp_writers(layer)))
    return counts


def _curves(state: State, circuit: Circuit, read: Readout) -> dict[str, Tensor]:
    """Rank and probability of the answer after each layer, in the full model and in the circuit, over all prompts.

    `rank` and `probability` read per state, as the model would; `probability_final_scale` in final-scale, as Knowledge
    Circuits does, which flattens early layers and leaves ranks as they are where there is no bias. Ranks are averaged
    as logarithms.
    """
    prompts, curves = circuit.task.prompts, {}
    answers = torch.tensor([prompt.answer_ids[0] for prompt in prompts], device=state.tokens.device)
    for which, kept in (("full", state.graph.full()), ("circuit", circuit.mask)):
        state.rebuild(kept)
        states = _states(state)
        last = states[:, :, -1]
        own = read.logits(last)
        curves[f"rank, {which}"] = _mean_rank(rank(own, answers.expand(own.shape[:-1])))
        curves[f"probability, {which}"] = _mean_probability(own, answers)
        if which == "full":
            curves["probability_final_scale, full"] = _mean_probability(read.linear(last, last[-1]), answers)
            at_subject = [
                rank(read.logits(states[:, row, list(prompt.subject_positions)]), prompt.answer_ids[0]).amin(1)
                for row, prompt in enumerate(prompts)
            ]
            curves["rank at subject, full"] = _mean_rank(torch.stack(at_subject, 1))
    state.rebuild(state.graph.full())
    return curves


def _states(state: State) -> Float[Tensor, "state row pos d_model"]:
    """What the logits would hear if the model ended after each layer, the embedding first; the last is their input.

    A writer that the logits do not hear stands there with its ablated value, as in the circuit itself.
    """
    graph = state.graph
    heard = torch.from_numpy(state.kept[:, -1]).to(state.outputs.device)[:, None, None, None]
    stream = torch.where(heard, state.outputs, state.ablated).cumsum(0)
    biases = [torch.zeros_like(state.outputs[0, 0, 0])]
    for layer in range(graph.n_layers):
        biases.append(biases[-1] + state.kernel.layers[layer].out_bias)
    ends = [graph.head_writer(layer) for layer in range(graph.n_layers)] + [len(graph.writers)]
    return torch.stack([stream[end - 1] + bias for end, bias in zip(ends, biases, strict=True)])


def _mean_rank(ranks: Int[Tensor, "state row"]) -> Float[Tensor, " state"]:
    return ranks.double().log().mean(1).exp().float().cpu()


def _mean_probability(logits: Float[Tensor, "state row vocab"], answers: Tensor) -> Float[Tensor, " state"]:
    chosen = answers.to(logits.device).expand(logits.shape[:-1])[..., None]
    return logits.softmax(-1).gather(-1, chosen)[..., 0].mean(1).float().cpu()


def first_tokens(model: Bridge, answers: Sequence[str]) -> set[int]:
    """First tokens of the answers, each after a space."""
    found = set()
    for answer in answers:
        ids = token_ids(model, " " + answer.strip())
        found |= set(ids[:1])
    return found
