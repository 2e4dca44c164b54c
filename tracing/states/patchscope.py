"""Patchscopes: take a state out of one prompt, put it into another, and read what that one says.

Ghandeharioun et al. 2024, "Patchscopes: A Unifying Framework for Inspecting Hidden Representations of Language Models":
(S, i, M, l) -> (T, i*, M, l*). The state of token i of the prompt S after some layer is written over the state of the
placeholder i* of a target prompt T, and T goes on from there. Two targets have names: `description` has three described
entities before the placeholder, so that the model describes what the state stands for (the paper's section 4.3);
`identity` repeats words, so that the model says what the state says next (4.1). Any other sentence with its
[placeholder] in brackets is a target too, as "The official currency of [x]".

*Convention*: log-probabilities in nats, ranks from 1, of the first token of S's answer as T's next token. The null is
the same with the state of another subject of the relation, scaled to the same norm: what is read from the state, and
not from T or from a state's size, is what lies above it.

*Scope*: one model; the paper's maps between models of two sizes are not here. Of a placeholder of several tokens the
last alone is written over. The texts are greedy.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.data.shipped import find_fact, relations
from factscope.errors import PromptError, UserError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.generate import sample, text_until_end
from factscope.model.hooks import Patch
from factscope.model.prompts import Prompt, about, as_prompt, make_prompt
from factscope.model.readout import rank
from factscope.progress import stage
from factscope.runs.provenance import Run, stopwatch
from tracing.states.clean import ROLES, CleanRun, place_of, site_of
from tracing.states.results import PatchscopeResult

TARGETS = {
    "description": "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean "
    "multinational major appliance and consumer electronics corporation, [x]",
    "identity": "cat->cat; 135->135; hello->hello; [?]",
}


@dataclass(frozen=True)
class PatchscopeConfig:
    """Which state, and where it goes."""

    target: str = "description"  # a name of `TARGETS`, or a sentence with its [placeholder]
    position: str = "last subject"  # where states are taken: of the subject's last token, or "last token"
    into: int | None = None  # the layer whose output is written over; None: the one that the state comes from
    tokens: int = 12  # of each text
    nulls: int = 4  # other subjects
    seed: int = 0

    def __post_init__(self) -> None:
        if self.position not in ROLES:
            raise UserError(f"there is no position {self.position!r}; choose {' or '.join(ROLES)}")
        if self.target not in TARGETS and self.target.count("[") != 1:
            raise PromptError(
                f"the target {self.target!r} is none of {', '.join(TARGETS)}, and has no [placeholder]: write the "
                "sentence with one word of it in brackets, where the state goes"
            )
        for name, least in (("tokens", 1), ("nulls", 0), ("seed", 0), ("into", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} must be {least} or more, not {value}")

    def states(self, n_layers: int) -> tuple[int, ...]:
        """Where each state of the prompt goes; UserError for a layer that the model does not have."""
        if self.into is not None and self.into >= n_layers:
            raise UserError(f"there is no layer {self.into} to write into; the model has 0 to {n_layers - 1}")
        return tuple(state if self.into is None else self.into + 1 for state in range(n_layers + 1))


@stage("putting states into the target")
def patchscope(
    model: Bridge,
    prompt: str | Prompt,
    config: PatchscopeConfig = PatchscopeConfig(),
    *,
    others: Sequence[str] | None = None,
) -> PatchscopeResult:
    """Every state of one token of `prompt`, put into every state of the target's placeholder.

    A text is made a prompt first. Without an answer, the model's own most probable next token is followed. `others` are
    the subjects of the null; by default those of the shipped relation that the prompt asks about, if it does.

    Raises PromptError for a target without one placeholder, ModelError for a model that cannot be run in parts exactly.
    """
    into, prompt = config.states(model.cfg.n_layers), as_prompt(model, prompt)
    start = prompt.start_token or "none"
    target = make_prompt(model, TARGETS.get(config.target, config.target), start=start)
    with stopwatch() as seconds:
        clean, plain = CleanRun.of(model, prompt.tokens), CleanRun.of(model, target.tokens)
        prompt = clean.answered(model, prompt)
        answer, place, spot = prompt.answer_ids[0], place_of(prompt, config.position), place_of(target, "last subject")
        states = clean.states[:, place]
        cells = list(product(range(len(states)), repeat=2))
        read = plain.read(states[[source for source, _ in cells]], [one for _, one in cells], spot, answer)
        shape = (len(states), len(states))
        says = [model.tokenizer.decode([token]) for token in read.top.tolist()]
        beside, notes = _others(model, prompt, config, others)
        null = [
            plain.read(_null(model, other, config.position, states), into, spot, answer).log_probability
            for other in beside
        ]
        own = plain.logits[-1].float()
        texts = _texts(model, target, states, into, spot, config.tokens)
    return PatchscopeResult(
        prompt=prompt,
        position=place,
        target=target,
        settings=asdict(config),
        into=into,
        texts=texts[1:],
        unpatched_text=texts[0],
        log_probability=read.log_probability.reshape(shape),
        rank=read.rank.reshape(shape),
        top=tuple(tuple(says[row * shape[0] : (row + 1) * shape[0]]) for row in range(shape[0])),
        unpatched=float(torch.log_softmax(own, -1)[answer]),
        unpatched_rank=int(rank(own, answer)),
        null=torch.stack(null) if null else torch.empty(0, shape[0]),
        others=tuple(other.subject for other in beside),
        notes=(*notes, *_placeholder(target)),
        run=Run.of(model, config.seed).ended(seconds[0]),
    )


def _others(
    model: Bridge, prompt: Prompt, config: PatchscopeConfig, given: Sequence[str] | None
) -> tuple[tuple[Prompt, ...], tuple[str, ...]]:
    """The text of the prompt about other subjects with other answers, and a note where there is none."""
    if given is None:
        fact = find_fact(prompt.text)
        entries = relations()[fact.relation].entries if fact is not None else ()
        able = [one.subject for one in entries if fact is not None and one.answer != fact.answer]
        order = torch.randperm(len(able), generator=torch.Generator().manual_seed(config.seed)).tolist()
        given = [able[place] for place in order[: config.nulls]]
    if not given and config.nulls:
        return (), ("the prompt asks for no shipped fact, so there is no other subject to compare with",)
    return tuple(about(model, prompt, other) for other in given[: config.nulls]), ()


def _null(
    model: Bridge, other: Prompt, role: str, states: Float[Tensor, "state d_model"]
) -> Float[Tensor, "state d_model"]:
    """Another subject's states, each as long as the state that it stands for."""
    theirs = CleanRun.of(model, other.tokens).states[:, place_of(other, role)]
    scaled: Tensor = theirs * (states.norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-30))[:, None]
    return scaled


def _texts(
    model: Bridge, target: Prompt, states: Float[Tensor, "state d_model"], into: Sequence[int], spot: int, more: int
) -> tuple[str, ...]:
    """What the target is continued by: as it is, then with each state in the placeholder's place."""
    patches = [
        Patch(site_of(one), states[source], rows=[source + 1], positions=[spot]) for source, one in enumerate(into)
    ]
    begin = target.tensor(device(model)).repeat(len(states) + 1, 1)
    rows = sample(model, begin, begin.shape[1] + more, None, patches=patches)[:, begin.shape[1] :].tolist()
    return tuple(text_until_end(model, row) for row in rows)


def _placeholder(target: Prompt) -> tuple[str, ...]:
    """A note where the placeholder is several tokens."""
    if len(target.subject_positions) == 1:
        return ()
    last = target.labels[target.subject_span[1] - 1]
    return (f"the placeholder {target.subject!r} is {len(target.subject_positions)} tokens; the last, {last!r}, is "
            "written over",)  # fmt: skip
