"""Which heads carry which answer: every head read for two answers at once, and how that differs across a change.

`head_roles.py` names a head's role for one answer. An edit asks for two: heads that raised the old answer and do so no
longer, heads that now raise the new one, what each looks at and writes. So each head is measured once and read in two
directions, the old answer's and the new one's, with the same rule for a role. Where a change is compared, heads are
matched by name. What happened to a head is told by its direct attribution alone: it rose, fell or stayed for each of
the two answers. Its roles stand beside that, for a head can keep its role and turn, or lose its role and turn not.

A head that turned is compared with the largest turn of *any* head under each null (Westfall and Young's maximum), so
that the p-value holds for all heads together: of a hundred edits that mean nothing, five mark any head at 0.05. The
nulls that count are those which could be exchanged with the edit: they read the same inputs and write at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.analysis.head_roles import AnswerReading, HeadReading, Naming, head_readings, parts_of
from circuits.engine.reference import Reference
from circuits.engine.state import State
from circuits.graph import Graph
from circuits.task import Task
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt
from factscope.model.readout import readout
from factscope.statistics import null_p


@dataclass(frozen=True, eq=False)
class HeadTable:
    """All heads of one model on one prompt, at its last position; attributions in logits, positive towards an answer.

    Answers are (old, new). Attention leaves out position 0, the sink.
    """

    answers: tuple[str, str]
    names: tuple[str, ...]
    attention_subject: Float[Tensor, " head"]
    attention_relation: Float[Tensor, " head"]
    direct_subject: Float[Tensor, "answer head"]
    direct_relation: Float[Tensor, "answer head"]
    direct_rest: Float[Tensor, "answer head"]
    roles: tuple[tuple[str, ...], tuple[str, ...]]  # for the old answer, for the new one
    top_tokens: tuple[tuple[str, ...], ...]
    mlps: Float[Tensor, "answer layer"]  # each MLP's direct attribution
    least: tuple[float, float] = (0.0, 0.0)  # a smaller change of a head's attribution is none: a share of the logit

    @property
    def direct(self) -> Float[Tensor, "answer head"]:
        """Whole direct attribution, whatever was looked at."""
        return self.direct_subject + self.direct_relation + self.direct_rest


@dataclass(frozen=True)
class HeadChange:
    """One head before and after."""

    name: str
    what: str  # "old falls, new rises": what its attribution to each answer did; "none" within the floor
    role_old: tuple[str, str]  # role for the old answer: before, after
    role_new: tuple[str, str]
    old: tuple[float, float]  # direct attribution to the old answer, logits
    new: tuple[float, float]
    attention_subject: tuple[float, float]
    top_tokens: tuple[tuple[str, ...], tuple[str, ...]]
    out_of_nulls: bool | None = None  # its shift exceeds that of every head in every null; None without nulls
    p: float | None = None  # of so large a shift of any head, if the edit were one of its nulls

    @property
    def shift(self) -> float:
        """Change of (new - old), logits: how far this head turned towards the new answer."""
        return (self.new[1] - self.new[0]) - (self.old[1] - self.old[0])


@torch.no_grad()
def head_table(
    model: Bridge,
    graph: Graph,
    prompt: Prompt,
    tokens: tuple[int, int],
    names: tuple[str, str],
    answers: Sequence[str] = (),
) -> HeadTable:
    """Read every head of `model` on `prompt` for two tokens, the old answer's and the new one's, which `names` names.

    `answers` are the relation's possible ones, as `head_roles.roles` takes them.
    """
    state = State(Reference(model, graph, Task((prompt,), "log_probability", "zero")))
    last = len(prompt.tokens) - 1
    final = state.inputs[graph.reader_index["logits"]][0, last]
    lenses = [AnswerReading(readout(model), final, token) for token in tokens]
    naming = [Naming.of(model, prompt, lens, answers) for lens in lenses]
    subject, relation = parts_of(prompt)
    heads = [name for name in graph.writers if name.startswith("a")]
    read = head_readings(state, lenses, heads, last)

    def roles(which: int) -> tuple[str, ...]:
        return tuple(naming[which].role(head, subject, relation) for head in read[which])

    mlps = torch.stack([state.outputs[list(graph.mlp_writers(i))][:, 0, last].sum(0) for i in range(graph.n_layers)])
    return HeadTable(
        answers=names,
        names=tuple(heads),
        attention_subject=_summed([[head.attention for head in read[0]]], subject)[0],
        attention_relation=_summed([[head.attention for head in read[0]]], relation)[0],
        direct_subject=_attributed(read, subject),
        direct_relation=_attributed(read, relation),
        direct_rest=_attributed(read, ~(subject | relation)),
        roles=(roles(0), roles(1)),
        top_tokens=tuple(head.words for head in read[0]),
        mlps=torch.stack([lens.direct(mlps).float().cpu() for lens in lenses]),
        least=(naming[0].least, naming[1].least),
    )


def _attributed(read: Sequence[Sequence[HeadReading]], where: np.ndarray) -> Float[Tensor, "answer head"]:
    return _summed([[head.direct for head in heads] for heads in read], where)


def _summed(values: Sequence[Sequence[np.ndarray]], where: np.ndarray) -> Float[Tensor, "answer head"]:
    """Sums over the source tokens in `where`."""
    return torch.tensor([[float(each[where].sum()) for each in heads] for heads in values])


def head_changes(
    before: HeadTable, after: HeadTable, nulls: Sequence[HeadTable] = (), others: Sequence[HeadTable] = ()
) -> tuple[HeadChange, ...]:
    """Every head's change, the greatest shift towards or away from the new answer first.

    `nulls` are those that could be exchanged with the change, and give the p-value; `others` have to be exceeded too.
    """
    greatest, further = ([float(_shift(before, null).abs().max()) for null in some] for some in (nulls, others))
    found = []
    for place, name in enumerate(before.names):
        role_old, role_new = ((before.roles[which][place], after.roles[which][place]) for which in (0, 1))
        old, new = ((float(before.direct[w, place]), float(after.direct[w, place])) for w in (0, 1))
        change = HeadChange(
            name,
            _what(old, new, before.least),
            role_old,
            role_new,
            old,
            new,
            (float(before.attention_subject[place]), float(after.attention_subject[place])),
            (before.top_tokens[place], after.top_tokens[place]),
        )
        beyond = abs(change.shift) > max(greatest + further) if greatest + further else None
        found.append(replace(change, out_of_nulls=beyond, p=null_p(abs(change.shift), greatest)))
    return tuple(sorted(found, key=lambda change: -abs(change.shift)))


def _shift(before: HeadTable, after: HeadTable) -> Tensor:
    change = after.direct - before.direct
    return change[1] - change[0]


def _what(old: tuple[float, float], new: tuple[float, float], least: tuple[float, float]) -> str:
    """Whether a head's attribution to each answer rose or fell by more than the floor, in words."""
    steps = {
        name: (end - start, floor) for name, (start, end), floor in zip(("old", "new"), (old, new), least, strict=True)
    }
    said = [f"{name} {'rises' if step > 0 else 'falls'}" for name, (step, floor) in steps.items() if abs(step) > floor]
    return ", ".join(said) or "none"
