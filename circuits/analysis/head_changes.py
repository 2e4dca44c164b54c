"""Which heads carry which answer: every head read for two answers at once, and how that differs across a change.

`roles.py` names a head's role for one answer. An edit asks for two: heads that moved the old answer and no longer do,
heads that now move the new one, what each looks at and writes. So each head is measured once and read in two
directions, the old answer's and the new one's, with the same rules for a role. Where a change is compared, heads are
matched by name; the attention to the subject and the tokens written stand beside each other.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.analysis.head_roles import AnswerReading, head_reading, role_from
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.task import Task
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt
from factscope.model.readout import readout

MOVING = ("mover", "mixture")
FLOOR = 0.01  # of the answer's own logit: below it a head has no role (as in roles.py)


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

    @property
    def direct(self) -> Float[Tensor, "answer head"]:
        """Whole direct attribution, whatever was looked at."""
        return self.direct_subject + self.direct_relation + self.direct_rest


@dataclass(frozen=True)
class HeadChange:
    """One head before and after."""

    name: str
    what: str  # see CHANGES
    role_old: tuple[str, str]  # role for the old answer: before, after
    role_new: tuple[str, str]
    old: tuple[float, float]  # direct attribution to the old answer, logits
    new: tuple[float, float]
    attention_subject: tuple[float, float]
    top_tokens: tuple[tuple[str, ...], tuple[str, ...]]
    out_of_nulls: bool | None = None  # its shift exceeds that of the same head in every null; None without nulls

    @property
    def shift(self) -> float:
        """Change of (new - old), logits: how far this head turned towards the new answer."""
        return (self.new[1] - self.new[0]) - (self.old[1] - self.old[0])


CHANGES = {
    "turns over": "moved the old answer before and does not now, and the other way round with the new one",
    "turns back": "the same from the new answer to the old",
    "takes up the new": "moves the new answer now, and did not before",
    "drops the old": "moved the old answer before, and does not now",
    "takes up the old": "moves the old answer now, and did not before",
    "drops the new": "moved the new answer before, and does not now",
    "goes on": "moves after the edit what it moved before",
    "none": "moves neither answer, before or after",
}


@torch.no_grad()
def head_table(model: Bridge, graph: Graph, prompt: Prompt, old: int, new: int, names: tuple[str, str]) -> HeadTable:
    """Read every head of `model` on `prompt` for the tokens `old` and `new`, which `names` names."""
    first = Task((prompt,), "log_probability", "zero")
    fast = Fast(Reference(model, graph, first))
    last = len(prompt.tokens) - 1
    final = fast.inputs[graph.reader_index["logits"]][0, last]
    lenses = [AnswerReading(readout(model), final, token) for token in (old, new)]
    subject = np.zeros(last + 1, dtype=bool)
    subject[list(prompt.subject_positions)] = True
    relation = ~subject
    relation[[0, last]] = False
    subject[0] = False
    least = [FLOOR * abs(float(lens.direct(final))) for lens in lenses]
    heads = [name for name in graph.writers if name.startswith("a")]
    read = [[head_reading(fast, lens, name, last) for name in heads] for lens in lenses]
    written = torch.stack([each[2] for each in read[0]])
    tops = lenses[0].top(written)
    of_subject = {prompt.tokens[place] for place in prompt.subject_positions}

    def role(which: int, head: int) -> str:
        attention, direct, _ = read[which][head]
        own = bool({(old, new)[which], *of_subject} & set(tops[head]))
        return role_from(attention, direct, subject, relation, own, True, least[which])

    def attended(where: np.ndarray) -> Tensor:
        return torch.tensor([float(attention[where].sum()) for attention, _, _ in read[0]])

    def attributed(where: np.ndarray) -> Tensor:
        return torch.tensor([[float(direct[where].sum()) for _, direct, _ in each] for each in read])

    mlps = torch.stack([fast.outputs[graph.mlp_writer(layer)][0, last] for layer in range(graph.n_layers)])
    decode = model.tokenizer.decode
    return HeadTable(
        answers=names,
        names=tuple(heads),
        attention_subject=attended(subject),
        attention_relation=attended(relation),
        direct_subject=attributed(subject),
        direct_relation=attributed(relation),
        direct_rest=attributed(~(subject | relation)),
        roles=(
            tuple(role(0, head) for head in range(len(heads))),
            tuple(role(1, head) for head in range(len(heads))),
        ),
        top_tokens=tuple(tuple(decode([token]) for token in each) for each in tops),
        mlps=torch.stack([lens.direct(mlps).float().cpu() for lens in lenses]),
    )


def head_changes(before: HeadTable, after: HeadTable, nulls: tuple[HeadTable, ...] = ()) -> tuple[HeadChange, ...]:
    """Every head's change, the greatest shift towards or away from the new answer first."""
    shifts = [_shift(before, null) for null in nulls]
    found = []
    for place, name in enumerate(before.names):
        roles = [(before.roles[which][place], after.roles[which][place]) for which in (0, 1)]
        old, new = ((float(before.direct[w, place]), float(after.direct[w, place])) for w in (0, 1))
        change = HeadChange(
            name,
            _what(roles[0], roles[1], old, new),
            roles[0],
            roles[1],
            old,
            new,
            (float(before.attention_subject[place]), float(after.attention_subject[place])),
            (before.top_tokens[place], after.top_tokens[place]),
        )
        if nulls:
            out = all(abs(change.shift) > abs(float(shift[place])) for shift in shifts)
            change = HeadChange(**{**vars(change), "out_of_nulls": out})
        found.append(change)
    return tuple(sorted(found, key=lambda change: -abs(change.shift)))


def _shift(before: HeadTable, after: HeadTable) -> Tensor:
    change = after.direct - before.direct
    return change[1] - change[0]


def _what(
    role_old: tuple[str, str], role_new: tuple[str, str], old: tuple[float, float], new: tuple[float, float]
) -> str:
    """A head moves an answer if it is a mover or a mixture head for it and its attribution is positive."""
    moves_old = [role in MOVING and value > 0 for role, value in zip(role_old, old, strict=True)]
    moves_new = [role in MOVING and value > 0 for role, value in zip(role_new, new, strict=True)]
    step_old, step_new = (int(after) - int(before) for before, after in (moves_old, moves_new))
    if step_old * step_new < 0:
        return "turns over" if step_new > 0 else "turns back"
    if step_new:
        return "takes up the new" if step_new > 0 else "drops the new"
    if step_old:
        return "takes up the old" if step_old > 0 else "drops the old"
    return "goes on" if any(moves_old) or any(moves_new) else "none"
