"""One prompt about other subjects: what a circuit of the fact shares with its relation, and what cut edges carry.

Other subjects are those that the user names; else those of the shipped relation of which the prompt is a wording;
else, for a sentence of the user's own, subjects of the kind: those of a shipped relation that has this subject, or the
answers of one that has it among its answers (Steve Jobs founded Apple, and others founded others). Their answers are
the relation's, read backwards for answers, and the model's own where nothing says them; which it was is part of the
value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from factscope.data.fact import Relation
from factscope.data.shipped import find_fact, relations, shipped_subjects
from factscope.errors import PromptError, TokenMismatch, UserError
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import logits_at
from factscope.model.prompts import OWN_ANSWER, Prompt, about, swap_subject, with_answer_ids

MOST = 20  # subjects of equal length that a mean is taken over
Named = Sequence[tuple[str, str | None]]  # subjects, and their answers where they are known


@dataclass(frozen=True)
class OtherSubjects:
    """A prompt's wording about other subjects, of any number of tokens; all have answers."""

    prompts: tuple[Prompt, ...]
    origin: str  # in words, as "the relation landmark_city"

    @property
    def guessed(self) -> bool:
        """Whether the answers are the model's own."""
        return any(prompt.answer_from == OWN_ANSWER for prompt in self.prompts)


def other_subjects(model: Bridge, prompt: Prompt, names: Sequence[str] = ()) -> OtherSubjects:
    """The prompt about other subjects than its own: those of `names`, or of the shipped facts; none where none fits.

    Raises UserError for a name that is the prompt's own subject or has no token of its own.
    """
    origin, named = _named(prompt, names)
    made: list[Prompt] = []
    for subject, answer in named:
        try:
            made.append(about(model, prompt, subject, answer))
        except PromptError as trouble:
            if names:
                raise UserError(f"--others: {trouble}") from None
    return OtherSubjects(tuple(_with_own_answers(model, made)), origin)


def relation_of(prompt: Prompt) -> Relation | None:
    """The shipped relation that a prompt asks for, if it is one of its wordings."""
    fact = find_fact(prompt.text)
    return relations()[fact.relation] if fact is not None else None


def backwards(subject: str) -> tuple[str, str] | None:
    """Of a subject that shipped facts have as an answer: that fact's subject, and the relation's name."""
    for relation in relations().values():
        for entry in relation.entries:
            if subject in (entry.answer, *entry.aliases):
                return entry.subject, relation.name
    return None


def reference_prompts(model: Bridge, prompt: Prompt) -> tuple[Prompt, ...]:
    """The prompt about other subjects of equal length, of the shipped relation that it asks for; `MOST` at most.

    They are what a mean is taken over.
    """
    relation = relation_of(prompt)
    if relation is None:
        return ()
    made: list[Prompt] = []
    for entry in relation.entries:
        if len(made) < MOST and entry.subject != prompt.subject:
            try:
                made.append(swap_subject(model, prompt, entry.subject, entry.answer).corrupt)
            except TokenMismatch:
                continue
    return tuple(made)


def corrupt_of(model: Bridge, prompt: Prompt, subject: str | None) -> Prompt:
    """The prompt about another subject, whose answer begins differently: one of equal length where none is given.

    Raises UserError if none is given and no shipped relation offers one.
    """
    if subject is not None:
        return about(model, prompt, subject)
    for other in reference_prompts(model, prompt):
        if other.answer_ids and other.answer_ids[0] != prompt.answer_ids[0]:
            return other
    raise UserError(
        f"no shipped subject can stand for {prompt.subject!r} token for token: name another one with --swap, or choose "
        "--ablation zero"
    )


def _named(prompt: Prompt, names: Sequence[str]) -> tuple[str, Named]:
    """Where the other subjects are from, in words, and they with their answers."""
    relation, own = relation_of(prompt), prompt.subject
    if names:
        if own in names:
            raise UserError(f"--others names {own!r}, which is the prompt's own subject; name other subjects")
        known = {entry.subject: entry.answer for entry in relation.entries} if relation else {}
        return "those named", [(name, known.get(name)) for name in dict.fromkeys(names)]
    if relation is not None:
        entries = [(entry.subject, entry.answer) for entry in relation.entries if entry.subject != own]
        return f"the relation {relation.name}", entries
    for relation in relations().values():
        subjects = dict.fromkeys(_as_written(entry.subject, own) for entry in relation.entries)
        if own in subjects:
            return f"the subjects of {relation.name}", [(name, None) for name in subjects if name != own]
    if found := backwards(own):
        relation = relations()[found[1]]
        others = list(_answers(relation, own))
        return f"the answers of {relation.name}, read backwards", others
    return "", ()


def _answers(relation: Relation, own: str) -> Iterator[tuple[str, str]]:
    """Each answer of a relation but `own`, with the first subject that has it."""
    seen = {own}
    for entry in relation.entries:
        if own not in (entry.answer, *entry.aliases) and entry.answer not in seen:
            seen.add(entry.answer)
            yield entry.answer, entry.subject


def _as_written(subject: str, like: str) -> str:
    """A shipped subject as it would stand where `like` does: "the Louvre" for "the Eiffel Tower", or both bare."""
    if not subject.startswith("The "):
        return subject
    if like.startswith("the "):
        return f"the {subject[4:]}"
    return subject[4:] if f"The {like}" in shipped_subjects() else subject


@torch.no_grad()
def _with_own_answers(model: Bridge, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, with what the model says itself where they have no answer."""
    bare = [prompt for prompt in prompts if not prompt.answer_ids]
    if not bare:
        return list(prompts)
    logits = logits_at(model, [p.tokens for p in bare], [[len(p.tokens) - 1] for p in bare])
    tokens = iter([int(finite(own[0]).argmax()) for own in logits])
    return [p if p.answer_ids else with_answer_ids(model, p, [next(tokens)], OWN_ANSWER) for p in prompts]
