"""Cheap tasks for the general ability of a model, made from what ships; and lm-eval's where it is installed.

PRUNE reads four tasks at every number of edits (arithmetic, inference, questions, summaries), which small models do not
solve and whose data must be fetched. These stand in their place, and are read in seconds:

    repeat       sequences of 8 random tokens, twice in a row: the share of the second half's tokens that are the argmax
    past_tense   "go: went" and three more lines, then a verb; the share answered in full. Of shipped facts
    antonyms     the same with opposites
    capitals     the same with countries

Any other name is a task of lm-eval (editing/evaluation/lm_eval.py); each of its metrics is a number of its own.
Convention: shares from 0 to 1 for ours. Scope: lm-eval sees the weights alone, ours what stands beside them too.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from editing.evaluation.lm_eval import check_tasks, task_numbers
from factscope.data.shipped import relations
from factscope.errors import EditError, PromptError
from factscope.model.bridge import Bridge
from factscope.model.forward.scoring import Pair, score
from factscope.model.prompts import document_bounds, start_ids, tokenized

LINES = {"past_tense": "verb_past_tense", "antonyms": "word_antonym", "capitals": "country_capital"}
OWN: tuple[str, ...] = ("repeat", *LINES)
SHOWN = 4  # lines before the one that is asked
LENGTH = 8  # tokens of a sequence that is repeated


@dataclass(frozen=True, eq=False)
class Tasks:
    """Tasks that can be asked of a model as it stands; call it as a sequence's `on_checkpoint`."""

    pairs: dict[str, tuple[Pair, ...]]  # of our own tasks
    harness: tuple[str, ...] = ()
    manager: Any = None
    limit: int = 50
    seed: int = 0
    names: tuple[str, ...] = field(default=())

    @classmethod
    def of(
        cls,
        model: Bridge,
        names: Sequence[str],
        *,
        limit: int = 50,
        include: Path | None = None,
        seed: int = 0,
        start: str = "auto",
    ) -> "Tasks":
        """The tasks of these names, at most `limit` questions of each.

        Raises EditError: no task, a name that neither we nor lm-eval know, a task longer than the model reads.
        """
        if not names:
            raise EditError("there is no task to ask; name some, as repeat,past_tense")
        others = tuple(name for name in names if name not in OWN)
        manager = check_tasks(others, include) if others else None
        pairs = {name: _pairs(model, name, limit, seed, start) for name in names if name in OWN}
        return cls(pairs, others, manager, limit, seed, tuple(names))

    def __call__(self, model: Bridge, *_: Any) -> dict[str, float]:
        """The number of each task, on the model as it is, behind "task/"."""
        found = {name: _share(model, name, some) for name, some in self.pairs.items()}
        if self.harness:
            found |= task_numbers(model, self.harness, self.manager, limit=self.limit)
        return {f"task/{name}": value for name, value in found.items()}


def _share(model: Bridge, name: str, pairs: Sequence[Pair]) -> float:
    said = score(model, pairs)
    if name == "repeat":
        right = [one for each in said for one in each.right]
        return sum(right) / len(right)
    return sum(each.exact for each in said) / len(said)


def _pairs(model: Bridge, name: str, limit: int, seed: int, start: str) -> tuple[Pair, ...]:
    found = _repeated(model, limit, seed, start) if name == "repeat" else _lines(model, LINES[name], limit, seed, start)
    if not found:
        raise EditError(f"the task {name} is longer than this model reads ({model.cfg.n_ctx} tokens): leave it out")
    return tuple(found)


def _repeated(model: Bridge, limit: int, seed: int, start: str) -> list[Pair]:
    """Random tokens twice in a row: the first of the second half are given, the rest is the answer."""
    generator = torch.Generator().manual_seed(seed)
    ends = document_bounds(model)
    usual = torch.tensor([token for token in range(model.cfg.d_vocab) if token not in ends])
    first = tuple(start_ids(model, start))
    out = []
    for _ in range(limit):
        drawn = tuple(usual[torch.randint(len(usual), (LENGTH,), generator=generator)].tolist())
        out.append(Pair((*first, *drawn, drawn[0]), drawn[1:]))
    return out if len(first) + 2 * LENGTH <= model.cfg.n_ctx else []


def _lines(model: Bridge, relation: str, limit: int, seed: int, start: str) -> list[Pair]:
    """Four lines of a shipped relation, and a fifth to go on with; those that are too long are left out."""
    entries = list(relations()[relation].entries)
    draw = random.Random(seed)
    out = []
    for asked in draw.sample(entries, min(limit, len(entries))):
        shown = draw.sample([one for one in entries if one.subject != asked.subject], SHOWN)
        text = "".join(f"{one.subject}: {one.answer}\n" for one in shown) + f"{asked.subject}:"
        try:
            out.append(Pair(*tokenized(model, text, asked.answer, start)))
        except PromptError:
            continue
    return out
