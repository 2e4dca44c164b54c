"""One state of a model, asked the same questions as any other: trace, circuit, heads, lens.

A *side* is the model as it is, the model under an edit, or under a null. Everything is measured on one pair of tokens,
the old answer's and the new one's, with one sign on all sides: positive is towards the new. Traces restore in the
metric new - old (logits). The default loss of a circuit is old - new, so an edge of positive effect helps the new
answer. ACDC cuts whatever the loss can spare, so by that loss it would cut the old answer's mechanism whole; it
minimises the divergence from the side's own full model instead.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import check_names, settled, wants_twins
from circuits.analysis.cross_faithfulness import Change
from circuits.analysis.head_changes import HeadTable, head_table
from circuits.circuit import Circuit
from circuits.find import find
from circuits.graph import Graph
from circuits.method import SHARE, Method, method, method_class
from circuits.search.acdc import ACDC
from circuits.task import AUTO, REFERRING, Task
from factscope.data.fact import Relation
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import EditError, NoGap, PromptError, UserError
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt, make_prompt, prompt_of, swap_subject, with_answer, with_foil
from factscope.runs.parts import Parts
from studies.other_subjects import reference_prompts, relation_of
from tracing import causal
from tracing import corruption as corrupt
from tracing.logit_lens import answers_by_layer
from tracing.results import TraceResult

T = TypeVar("T")
OPENINGS = ("Today, ", "As we know, ", "It is said that ", "In fact, ")  # other wordings where a fact brings none


@dataclass(frozen=True)
class Config:
    """How the sides are compared; the same on all of them."""

    circuit: str = "eap_ig"  # any method of circuits/
    edges: int | None = None  # of a scorer; None: 5 % of all
    threshold: float | None = None
    selection: str = "greedy"
    ablation: str = ""  # "": counterfactual for scorers where another subject fits token for token, else zero
    metric: str = ""  # "": logit_difference for scorers, kl for acdc
    split: bool = True
    sites: tuple[str, ...] = ("resid", "mlp", "attn")
    samples: int = 4  # noise draws of each trace; ROME's ten cost two and a half times as much
    window: int = 10
    nulls: int = 3  # edits of the same size in random directions
    value_nulls: int = 19  # nulls that answer to the same inputs and write at random; 19 can give a p of 0.05
    traced_nulls: int = 1  # so many of all nulls are traced, for a picture: a trace costs as much as all else
    again: int = 3  # searches again in the unedited model, on other wordings
    jitter: float = 0.25  # each of them cuts at up to so much more or less than the chosen number or threshold
    neighbours: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("nulls", "value_nulls", "traced_nulls", "again", "neighbours"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} cannot be {getattr(self, name)}: give 0 or more")
        if not self.metric:
            object.__setattr__(self, "metric", "kl" if self.circuit == "acdc" else "logit_difference")
        check_names(self.metric, self.ablation or AUTO)
        self.method(self.threshold, self.edges)

    def method(self, threshold: float | None, edges: int | None) -> Method:
        """How a circuit is found, with this threshold or number of edges; UserError for a setting it lacks."""
        select = None if self.circuit == "acdc" else self.selection
        return method(self.circuit, {"threshold": threshold, "edges": edges, "select": select})


@dataclass(frozen=True, eq=False)
class TraceMaps:
    """A causal trace in the metric of the answer that this side prefers; `towards` turns it towards the new one."""

    result: TraceResult | None
    sign: int  # +1 where the traced answer is the new one
    note: str = ""

    def towards(self, kind: str) -> Float[Tensor, "layer pos"] | None:
        """Effect of restoring on new - old, logits; None where corruption changed nothing."""
        return None if self.result is None else self.sign * self.result.grid(kind).effect


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Both answers through the layers, by the logit lens: at the embedding, then after each. Answers: old, new."""

    places: tuple[str, ...]  # last token, last subject token
    probability: Float[Tensor, "answer place layer"]
    rank: Float[Tensor, "answer place layer"]

    def leads_from(self, place: int = 0) -> int | None:
        """First layer from which on the new answer is ahead up to the end; None if it is not ahead at the end."""
        ahead = (self.probability[1, place] > self.probability[0, place]).tolist()
        behind = [layer for layer, is_ahead in enumerate(ahead) if not is_ahead]
        first = behind[-1] + 1 if behind else 0
        return first if first < len(ahead) else None


@dataclass(frozen=True, eq=False)
class ModelState:
    """Everything that was found in one state of the model."""

    name: str
    kind: str  # before, after, or a scramble
    trace: TraceMaps
    circuit: Circuit
    heads: HeadTable
    lens: Trajectories

    @property
    def gap(self) -> float:
        """log P(new) - log P(old) at the end, nats, which is new - old in logits."""
        old, new = self.lens.probability[:, 0, -1].double().clamp_min(1e-45).log().tolist()
        return float(new - old)


@dataclass(frozen=True, eq=False)
class NeighbourState:
    """One side of a neighbour."""

    circuit: Circuit
    heads: HeadTable


@dataclass(frozen=True, eq=False)
class Experiment:
    """The model and the prompts on which every side is asked."""

    model: Bridge
    request: EditRequest
    config: Config
    prompt: Prompt  # answer: the new one; foil: the old one
    again: tuple[Prompt, ...]
    neighbours: tuple[Prompt, ...]
    answers: tuple[str, str]
    noise: Any
    twins: dict[str, Prompt]  # by the prompt's text: the same about another subject, for the counterfactual ablation
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Bridge, request: EditRequest, config: Config, start: str) -> "Experiment":
        """Tokenise everything that is asked; EditError without an old answer, PromptError as prompts do."""
        if request.old is None:
            raise EditError(
                f"request {request.id!r} does not say what was true before, so there is nothing to follow through the "
                "model"
            )

        def towards_new(prompt: Prompt, old: str) -> Prompt:
            return with_foil(model, with_answer(model, prompt, request.target, "flag"), old)

        prompt = towards_new(prompt_of(model, request.told(), start=start), request.old)
        relation = relation_of(prompt) or relations().get(request.relation)
        twins: dict[str, Prompt] = {}
        notes = []

        def twinned(asked: Prompt) -> bool:
            """Whether the ablation can be had for a prompt; its twin is kept."""
            found = _twin(model, asked, request, relation)
            if found is not None:
                twins[asked.text] = found
            return found is not None

        wanted = wants_twins(config.ablation or AUTO, method_class(config.circuit).prefers)
        if wanted and not twinned(prompt) and config.ablation:
            raise EditError(
                f"no other subject takes the place of {prompt.subject!r} token for token, which the counterfactual "
                "ablation needs: choose --ablation zero"
            )
        if wanted and not twins:
            notes.append(
                f"edges are cut to zero: no other subject takes the place of {prompt.subject!r} token for token"
            )
        again = []
        texts = request.paraphrases or tuple(opening + request.prompt for opening in OPENINGS)
        for text in texts[: config.again]:
            with contextlib.suppress(PromptError):
                asked = towards_new(make_prompt(model, text, subject=request.subject, start=start), request.old)
                if not twins or twinned(asked):
                    again.append(asked)
                else:
                    notes.append(f"{text!r} was not searched again: no other subject fits it token for token")
        near: list[Prompt] = []
        for other in request.neighbours:
            if len(near) < config.neighbours:
                with contextlib.suppress(PromptError):
                    asked = make_prompt(model, other.prompt, subject=other.subject or other.prompt.strip(), start=start)
                    near.append(towards_new(asked, other.answer))
                    if twins and not twinned(near[-1]):
                        notes.append(f"{other.prompt!r} was asked under zero ablation: no other subject fits it")
        words = tuple(model.tokenizer.decode([ids[0]]) for ids in (prompt.foil_ids, prompt.answer_ids))
        noise = corrupt.noise(model, prompt, config.samples, seed=causal.Config(seed=config.seed).stream)
        return cls(
            model, request, config, prompt, tuple(again), tuple(near), (words[0], words[1]), noise, twins, tuple(notes)
        )

    def side(
        self, parts: Parts, name: str, kind: str, change: Change | None = None, tag: str = "", traced: bool = True
    ) -> ModelState:
        """All four parts under a change; `tag` sets its parts apart from another edit's."""
        with change.applied(self.model) if change is not None else contextlib.nullcontext():
            return ModelState(
                name,
                kind,
                parts.get(f"{tag}{name}: trace", TraceMaps, self.trace) if traced else TraceMaps(None, 1, "not asked"),
                parts.get(f"{tag}{name}: circuit", Circuit, call(self.search, self.prompt)),
                parts.get(f"{tag}{name}: heads", HeadTable, call(self.heads, self.prompt)),
                parts.get(f"{tag}{name}: lens", Trajectories, self.trajectories),
            )

    def trace(self) -> TraceMaps:
        """Traced in the answer that corruption hurts; new - old is the same number with the other sign."""
        config = self.config
        chosen = causal.Config(
            sites=config.sites,
            samples=config.samples,
            window=config.window,
            metric="logit_difference",
            seed=config.seed,
        )
        old = _turned(self.prompt)
        for prompt, sign in ((self.prompt, 1), (old, -1)):
            with contextlib.suppress(NoGap):
                return TraceMaps(causal.trace(self.model, prompt, chosen, corruption=self.noise), sign)
        return TraceMaps(None, 1, "corrupting the subject did not change new - old, so there was nothing to restore")

    def search(self, prompt: Prompt, draw: int = 0) -> Circuit:
        """The circuit of a prompt; `draw` above 0 cuts at a jittered number of edges or threshold."""
        config = self.config
        factor = 1.0
        if draw:
            factor = 1 + config.jitter * float(np.random.default_rng(config.seed + draw).uniform(-1, 1))
        task = self.task(prompt)
        count, threshold = config.edges, config.threshold
        if config.circuit != "acdc" and threshold is None:  # circuits of one size, for they are to be compared
            graph = Graph.of(self.model, split=config.split)
            count = min(graph.n_edges, max(1, round(factor * (count or SHARE * graph.n_edges))))
        elif draw:
            threshold = factor * (ACDC.threshold if threshold is None else threshold)
        return find(self.model, task, config.method(threshold, count), split=config.split, seed=config.seed)

    def task(self, prompt: Prompt) -> Task:
        """The prompt with what the ablation needs beside it."""
        twin = self.twins.get(prompt.text)
        ablation = self.config.ablation or AUTO
        if ablation == "counterfactual" and twin is None:  # a neighbour without one; a note says so
            ablation = "zero"
        reference = reference_prompts(self.model, prompt) if ablation in REFERRING else ()
        opened = Task((prompt,), self.config.metric, ablation, () if twin is None else (twin,), reference)
        return settled(opened, method_class(self.config.circuit).prefers)[0]

    def heads(self, prompt: Prompt) -> HeadTable:
        """Every head, read for both answers."""
        graph = Graph.of(self.model, split=self.config.split)
        words = (str(prompt.foil), str(prompt.answer))
        tokens = prompt.foil_ids[0], prompt.answer_ids[0]
        relation = relation_of(prompt) or relations().get(self.request.relation)
        return head_table(self.model, graph, prompt, tokens, words, relation.answers if relation else ())

    def near(self, prompt: Prompt, change: Change | None = None) -> NeighbourState:
        """A neighbour's circuit and heads, under a change."""
        with change.applied(self.model) if change is not None else contextlib.nullcontext():
            return NeighbourState(self.search(prompt), self.heads(prompt))

    def trajectories(self) -> Trajectories:
        """The logit lens at the last token and the subject's last, for the old and the new answer."""
        places = {"last token": -1, "last subject token": self.prompt.subject_span[1] - 1}
        tokens = (self.prompt.foil_ids[0], self.prompt.answer_ids[0])
        logs, ranks = answers_by_layer(self.model, self.prompt, tokens, list(places.values()))
        return Trajectories(tuple(places), logs.exp(), ranks.float())


def _twin(model: Bridge, prompt: Prompt, request: EditRequest, relation: Relation | None) -> Prompt | None:
    """The prompt about another subject of as many tokens, to which neither the old nor the new answer belongs.

    Subjects are the relation's, then those of the request's neighbours; None if none fits.
    """
    others = [(entry.subject, entry.answer) for entry in relation.entries] if relation else []
    others += [(near.subject, near.answer) for near in request.neighbours if near.subject]
    own = {prompt.answer_ids[0], prompt.foil_ids[0]}
    for subject, answer in others:
        if subject != prompt.subject:
            with contextlib.suppress(PromptError):
                found = swap_subject(model, prompt, subject, answer).corrupt
                if found.answer_ids[0] not in own:
                    return found
    return None


def _turned(prompt: Prompt) -> Prompt:
    """Answer and foil exchanged."""
    return replace(
        prompt, answer=prompt.foil, answer_ids=prompt.foil_ids, foil=prompt.answer, foil_ids=prompt.answer_ids
    )


def call(function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
    """The call, to be made later."""
    return lambda: function(*arguments)
