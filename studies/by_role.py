"""One circuit over facts of any length, with edges at token roles: what it is found for, and with what it is tested.

The plain search reads facts whose tokens align one to one, and of many relations that leaves a handful. Here every fact
of one wording counts: the same template about subjects of one token or of five.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuits.by_role.circuit import RoleCircuit, find_by_role
from circuits.by_role.engine import Lengths
from circuits.method import Method
from circuits.task import AUTO, same_wording, twin
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt, make_prompt
from studies.circuit_inputs import (
    DEFAULT,
    HELD_OUT,
    OTHERS,
    TaskOptions,
    answered,
    carried,
    check_known,
    facts_of,
    known_of,
    varied,
)
from studies.other_subjects import other_subjects

FACTS = 10  # that a circuit by roles is found on: lengths need not agree, so there are more than of the plain search
LEAST = 3  # reference prompts that a mean is taken over


@dataclass(frozen=True)
class RoleInputs:
    """What a circuit by roles is to be found for, and with what it will be tested."""

    lengths: Lengths
    held_out: tuple[Prompt, ...]
    notes: tuple[str, ...]


def by_role_prompt(
    model: Bridge,
    text: str,
    *,
    subject: str | None = None,
    answer: str | None = None,
    options: TaskOptions = TaskOptions(facts=FACTS),
) -> RoleInputs:
    """A prompt and others of its wording: `options.others`, or the shipped facts of its relation.

    Raises UserError for a fact that the model does not know and where no other subject is found, and PromptError as
    prompts do.
    """
    prompt = make_prompt(model, text, subject=subject, answer=answer, start=options.start)
    prompt, notes = answered(model, prompt, None, options)
    if options.known is not None:
        check_known(model, prompt, options.known)
    others = other_subjects(model, prompt, options.others)
    kin = tuple(each for each in others.prompts if same_wording(prompt, each))
    pool = kin
    if others.guessed:  # an answer that the model gives whatever the subject says nothing of a fact
        pool = tuple(each for each in pool if each.answer_ids[0] != prompt.answer_ids[0])
        notes.append(f"the answers for {others.origin} are the model's own")
    usable = pool if options.known is None else options.known.prompts(model, pool)
    examples = (prompt, *varied(prompt, usable, options.facts - 1))
    names = ", ".join(f"{each.subject} ({len(each.tokens)} tokens)" for each in examples[1:])
    notes.append(
        f"the circuit is found for this fact and {len(examples) - 1} more of {others.origin}: {names}"
        if names
        else "the circuit is found for this fact alone: no other subject is known"
    )
    left = [each for each in pool if each not in examples]
    return _inputs(examples, left, kin, options, notes)


def by_role_facts(
    model: Bridge,
    source: str,
    relation: str | None = None,
    examples: int = FACTS,
    *,
    options: TaskOptions = TaskOptions(),
    seed: int = 0,
) -> RoleInputs:
    """Facts of one relation that the model knows, the first `examples`, whatever their lengths; the rest is held out.

    Raises UserError if there are several relations, or if none is known.
    """
    facts = facts_of(source, relation, options, seed)
    prompts, usable, notes = known_of(model, facts, options)
    alike = tuple(prompt for prompt in usable if same_wording(usable[0], prompt))
    if len(alike) < len(usable):
        notes.append(f"{len(usable) - len(alike)} known facts are left out, for their wording is another")
    found = alike[:examples]
    kin = tuple(prompt for prompt in prompts if same_wording(found[0], prompt))
    left = [prompt for prompt in kin if prompt not in found]
    notes.append(f"{len(usable)} of {len(facts)} facts are known to the model ({options.known})")
    return _inputs(found, left, kin, options, notes)


def _inputs(
    examples: Sequence[Prompt],
    left: Sequence[Prompt],
    kin: Sequence[Prompt],
    options: TaskOptions,
    notes: Sequence[str],
) -> RoleInputs:
    """The task, ablated as the options say; by default to the mean over others of the wording, else to a twin."""
    reference = tuple(kin[:OTHERS])
    ablation = options.ablation
    if ablation == AUTO:
        ablation = "mean" if len(reference) >= LEAST else "zero"
    told = list(notes)
    corrupt: tuple[Prompt, ...] = ()
    if ablation == "counterfactual":
        twins = [twin(each, (*kin, *examples)) for each in examples]
        if None in twins:
            raise UserError(
                "no other subject has an answer that begins otherwise: name others with --others, or choose --ablation "
                "mean"
            )
        corrupt = tuple(each for each in twins if each is not None)
    held_out = tuple(left[:: -(-len(left) // HELD_OUT)]) if options.held_out and left else ()
    if ablation == "optimal":  # what constants are learned on cannot test them
        reference = tuple(each for each in kin if each not in held_out)[:OTHERS]
    told += [f"{each}, by token role" for each in carried(ablation, reference)]
    return RoleInputs(Lengths(tuple(examples), options.metric, ablation, corrupt, reference), held_out, tuple(told))


def circuit_by_role(
    model: Bridge, inputs: RoleInputs, method: Method = DEFAULT, *, evaluate: bool = True, seed: int = 0, **how: Any
) -> RoleCircuit:
    """Find the circuit and test it, unless `evaluate` says no; other arguments are those of `find_by_role`."""
    found = find_by_role(model, inputs.lengths, method, held_out=inputs.held_out, evaluate=evaluate, seed=seed, **how)
    return replace(found, notes=(*inputs.notes, *found.notes))
