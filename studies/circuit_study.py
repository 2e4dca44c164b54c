"""A circuit with its evaluation and roles, saved together: the run folder of `circuit find`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.circuit import Circuit
from circuits.faithful import Evaluation
from circuits.roles import Roles
from circuits.task import Task, largest_group, rows
from circuits.view import page
from workbench import store
from workbench.errors import UserError
from workbench.facts import Fact, Relation, find_fact, load_facts, relations
from workbench.plots.page import write_page
from workbench.prompts import Prompt, PromptError, TokenMismatch, prompt_of, swap_subject


@dataclass(frozen=True, eq=False)
class CircuitStudy:
    """Everything that one page shows."""

    circuit: Circuit
    evaluation: Evaluation | None = None
    roles: Roles | None = None
    answers: tuple[str, ...] = ()  # the relation's possible ones, for the roles

    def save(self, folder: Path, light: bool = False) -> Path:
        """Write result and page; gives the page's path."""
        store.save(self, folder)
        return write_page(page(self.circuit, self.evaluation, self.roles), folder / "page.html", light=light)


@dataclass(frozen=True)
class Chosen:
    """Facts turned into prompts: those that the circuit is found on, those held out, and what was left out."""

    found: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    answers: tuple[str, ...]
    notes: tuple[str, ...]


def choose(
    model: Any,
    source: str,
    relation: str | None,
    examples: int,
    *,
    start: str = "auto",
    seed: int = 0,
    known_only: bool = True,
) -> Chosen:
    """Facts that the model knows (answer among its first ten), split: the first `examples` of one length, and the rest.

    The first are those to find a circuit on, the rest is held out.

    Raises UserError if the model knows fewer than that.
    """
    facts = load_facts(source, relation=relation, seed=seed)
    if len({fact.relation for fact in facts}) > 1:
        names = ", ".join(sorted({fact.relation for fact in facts}))
        raise UserError(f"a circuit is found for one relation; choose one with --relation: {names}")
    prompts, notes = [], []
    for fact in facts:
        try:
            prompts.append(prompt_of(model, fact, start=start))
        except PromptError as trouble:
            notes.append(f"{fact.id} left out: {trouble}")
    known = [
        prompt for prompt, rank in zip(prompts, ranks(model, prompts), strict=True) if rank <= 10 or not known_only
    ]
    if not known:
        raise UserError(f"the model knows none of the {len(facts)} facts: their answers are not among its first ten")
    group = largest_group(known)
    found = group[:examples]
    if len(found) < examples:
        notes.append(f"{len(found)} of the {examples} examples asked for: so many known prompts have one length")
    held_out = tuple(prompt for prompt in known if prompt not in found)
    notes.append(f"{len(known)} of {len(facts)} facts are known to the model (Hit@10)")
    return Chosen(tuple(found), held_out, tuple(sorted({fact.answer for fact in facts})), tuple(notes))


def ranks(model: Any, prompts: Sequence[Prompt]) -> list[int]:
    """Rank of each prompt's answer, 1 for the first; prompts may be of any length."""
    import torch

    found = []
    for prompt in prompts:
        with torch.no_grad():
            logits = model(rows(model, [prompt]), use_cache=False)[0, -1]
        found.append(1 + int((logits > logits[prompt.answer_ids[0]]).sum()))
    return found


def relation_of(prompt: Prompt) -> Relation | None:
    """The shipped relation that a prompt asks for, if it is one of its wordings."""
    fact = find_fact(prompt.text)
    return relations()[fact.relation] if fact is not None else None


def reference_prompts(model: Any, prompt: Prompt, most: int = 20) -> tuple[Prompt, ...]:
    """The prompt about the relation's other subjects, of the same length first: what a mean is taken over."""
    relation = relation_of(prompt)
    if relation is None:
        return ()
    made: list[Prompt] = []
    for entry in relation.entries:
        if len(made) < most and entry.subject != prompt.subject:
            try:
                made.append(swap_subject(model, prompt, entry.subject, entry.answer).corrupt)
            except TokenMismatch:
                continue
    return tuple(made)


def corrupt_of(model: Any, prompt: Prompt, subject: str | None) -> Prompt:
    """The prompt about another subject of equal length, whose answer begins differently.

    Raises UserError if none is given and no shipped relation offers one.
    """
    if subject is not None:
        return swap_subject(model, prompt, subject).corrupt
    for other in reference_prompts(model, prompt):
        if other.answer_ids and other.answer_ids[0] != prompt.answer_ids[0]:
            return other
    raise UserError(
        f"no shipped subject can stand for {prompt.subject!r} token for token: name another one with --swap, or choose "
        "--ablation zero"
    )


def check_known(task: Task, found_ranks: Sequence[int]) -> None:
    """UserError if the model does not know the first prompt's answer: a circuit for it would be one for nothing."""
    if found_ranks and found_ranks[0] > 10:
        prompt = task.prompts[0]
        raise UserError(
            f"the model does not know this: {prompt.answer!r} is at rank {found_ranks[0]} after {prompt.text!r}; ask "
            "for what it knows, name its own answer with --answer, or go on with --unknown"
        )


def facts_of(circuit: Circuit) -> Fact | None:
    """The shipped fact of the circuit's first prompt."""
    return find_fact(circuit.task.prompts[0].text)
