"""What a circuit is found for, and with what it is tested: one prompt, its relation, or many facts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from circuits.ablations import check_names, settled, wants_twins
from circuits.circuit import Circuit
from circuits.method import Method
from circuits.scorers.eap_ig import EAPIG
from circuits.task import AUTO, REFERRING, Task, alike, corresponding, largest_group, rows, same_wording, twin
from factscope.data.fact import Fact
from factscope.data.load import load_facts
from factscope.data.shipped import find_fact
from factscope.errors import UserError
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge
from factscope.model.known import Known, answer_ranks
from factscope.model.prompts import (
    OWN_ANSWER,
    Prompt,
    PromptError,
    make_prompt,
    prompt_of,
    with_answer,
    with_answer_ids,
    with_foil,
)
from studies.other_subjects import OtherSubjects, backwards, corrupt_of, other_subjects, reference_prompts, relation_of

KNOWN = Known.top(10)  # a circuit is looked for where the answer is near the top, though another word may come first
DEFAULT: Method = EAPIG()  # where nobody says how: grown until it does on its facts what the model does
FACTS = 6  # of one relation, that a circuit is found on: more take longer, and one alone gives a circuit of its own
OTHERS = 20  # other subjects that are averaged over
HELD_OUT = 16  # prompts
ENOUGH = 5  # subjects of equal length, for the mean to be over these alone


@dataclass(frozen=True)
class CircuitInputs:
    """What a circuit is to be found for, and with what it will be tested."""

    task: Task
    held_out: tuple[Prompt, ...]  # whether the model knows them or not; the evaluation says both
    answers: tuple[str, ...]  # the relation's possible ones
    notes: tuple[str, ...]  # what was guessed or left out
    known: Known | None  # which facts were taken for known; None: it was not asked


@dataclass(frozen=True)
class TaskOptions:
    """What a task is, besides its prompts and answers."""

    metric: str = "nll"
    ablation: str = AUTO  # AUTO: the counterfactual for EAP and EAP-IG where another subject fits, else zero
    start: str = "auto"
    known: Known | None = KNOWN  # None: go on with facts that the model does not know
    held_out: bool = True  # look for prompts about other subjects, to test the circuit with
    extra: str = "refuse"  # of files of facts: columns that the format does not know
    others: tuple[str, ...] = ()  # other subjects for one prompt; none: those of the shipped facts
    facts: int = FACTS  # for one prompt and a scorer: so many of its relation, itself among them

    def __post_init__(self) -> None:
        check_names(self.metric, self.ablation)


def about_prompt(
    model: Bridge,
    text: str,
    *,
    subject: str | None = None,
    answer: str | None = None,
    foil: str | None = None,
    swap: str | None = None,
    method: Method = DEFAULT,
    options: TaskOptions = TaskOptions(),
) -> CircuitInputs:
    """One prompt's task, or, for a scorer, that of the prompt and its relation.

    A scorer reads the same wording about other subjects as well, those that the model knows and that align token for
    token, and cut edges carry the mean over other subjects, aligned by token role where there are too few of equal
    length. What is left of them is held out. ACDC reads the prompt alone, and so does a scorer where `swap` names the
    one subject of the counterfactual, or where no other subject is found; a note says so.

    Args:
        swap: the subject of the counterfactual ablation.
        method: what the task is for; it says which ablation suits it.

    Raises UserError for a fact that the model does not know, and PromptError and TokenMismatch as prompts do.
    """
    prompt = make_prompt(model, text, subject=subject, answer=answer, start=options.start)
    prompt, notes = answered(model, prompt, foil, options)
    if options.known is not None:
        check_known(model, prompt, options.known)
    relation = relation_of(prompt)
    answers = relation.answers if relation else ()
    if swap is None and method.prefers == "counterfactual":
        others = other_subjects(model, prompt, options.others)
        if others.prompts:
            task, held_out, told = _with_relation(model, prompt, others, options)
            return CircuitInputs(task, held_out, answers, (*notes, *told), options.known)
    task, reference, told = _alone(model, prompt, swap, method, options)
    return CircuitInputs(task, reference, answers, (*notes, *told), options.known)


def _alone(
    model: Bridge, prompt: Prompt, swap: str | None, method: Method, options: TaskOptions
) -> tuple[Task, tuple[Prompt, ...], tuple[str, ...]]:
    """The task of one prompt, the prompts that are held out, and notes."""
    ablation = options.ablation
    reference = held_out = reference_prompts(model, prompt) if options.held_out or ablation in REFERRING else ()
    if ablation == "optimal" and options.held_out:  # what constants are learned on cannot test them
        reference, held_out = reference[::2], reference[1::2]
    corrupt: tuple[Prompt, ...] = ()
    if swap or wants_twins(ablation, method.prefers):
        try:
            corrupt = (corrupt_of(model, prompt, swap),)
        except UserError:
            if swap or ablation != AUTO:
                raise
    task, told = settled(Task((prompt,), options.metric, ablation, corrupt, reference), method.prefers)
    return task, held_out, told


def _with_relation(
    model: Bridge, prompt: Prompt, others: OtherSubjects, options: TaskOptions
) -> tuple[Task, tuple[Prompt, ...], tuple[str, ...]]:
    """The task of a prompt and its relation, the prompts that are held out, and notes."""
    pool = kin = tuple(each for each in others.prompts if same_wording(prompt, each))
    if others.guessed:  # an answer that the model gives whatever the subject says nothing of a fact
        pool = tuple(each for each in pool if each.answer_ids[0] != prompt.answer_ids[0])
    aligned = alike(prompt, pool)
    usable = aligned if options.known is None else options.known.prompts(model, aligned)
    examples = (prompt, *varied(prompt, usable, options.facts - 1))
    if options.metric.startswith("logit"):
        examples = tuple(each for each in examples if each.foil_ids)  # other subjects come without a wrong answer
    reference = corresponding(prompt, kin, ENOUGH)[:OTHERS]
    ablation = options.ablation
    if ablation == AUTO:
        ablation = "mean" if len(reference) >= 3 else "counterfactual"
    corrupt: list[Prompt] = []
    if ablation == "counterfactual":
        twins = [(each, twin(each, aligned) or twin(each, (*pool, prompt))) for each in examples]
        examples = tuple(each for each, other in twins if other is not None)
        corrupt = [other for _, other in twins if other is not None]
        if prompt not in examples:
            raise UserError(
                f"of {others.origin} no other subject has an answer that begins otherwise than {prompt.answer!r}: "
                "name others with --others, or choose --ablation zero"
            )
    left = [other for other in pool if other not in examples]
    held_out = tuple(left[:: -(-len(left) // HELD_OUT)]) if options.held_out and left else ()
    if ablation == "optimal":
        unseen = tuple(other for other in kin if other not in held_out)
        reference = corresponding(prompt, unseen, ENOUGH)[:OTHERS]
    names = ", ".join(each.subject for each in examples[1:])
    told = []
    if names:
        told.append(f"the circuit is found for this fact and {len(examples) - 1} more of {others.origin}: {names}")
    elif options.facts > 1:
        told.append(
            f"the circuit is found for this fact alone: of {others.origin} no other subject that the model knows "
            f"aligns with {prompt.subject!r} token for token"
        )
    if ablation == "counterfactual":
        told.append("exchanged with: " + ", ".join(each.subject for each in corrupt))
    told += carried(ablation, reference)
    if any(len(other.tokens) != len(prompt.tokens) for other in (*reference, *corrupt)):
        told.append("subjects of other lengths are matched by token role: first with first, last with last")
    if others.guessed:
        told.append(f"the answers for {others.origin} are the model's own")
    return Task(examples, options.metric, ablation, tuple(corrupt), reference), held_out, tuple(told)


def carried(ablation: str, reference: Sequence[Prompt]) -> list[str]:
    """What a cut edge carries, in words, where it is made of other subjects."""
    what = "the constant that is learned on" if ablation == "optimal" else "its mean over"
    return [f"a cut edge carries {what} {len(reference)} other subjects"] if ablation in REFERRING else []


def varied(prompt: Prompt, prompts: Sequence[Prompt], most: int) -> tuple[Prompt, ...]:
    """At most so many of the prompts, first those whose answers differ."""
    seen = {prompt.answer_ids[0]}
    first: list[Prompt] = []
    rest: list[Prompt] = []
    for each in prompts:
        (rest if each.answer_ids[0] in seen else first).append(each)
        seen.add(each.answer_ids[0])
    return tuple([*first, *rest][: max(0, most)])


def answered(model: Bridge, prompt: Prompt, foil: str | None, options: TaskOptions) -> tuple[Prompt, list[str]]:
    """The prompt with its answer, the fact's or the model's own, and a wrong one where given; and what was guessed."""
    notes = []
    fact = find_fact(prompt.text)
    if not prompt.answer_ids and fact is not None:
        prompt = with_answer(model, prompt, fact.answer, "fact")
    if not prompt.answer_ids:
        prompt, told = _guessed(model, prompt, options)
        notes.append(told)
    if foil is not None:  # only now, for it must not begin like the answer, whoever gave that
        prompt = with_foil(model, prompt, foil)
    if not prompt.foil_ids and fact is not None and fact.foil and options.metric.startswith("logit"):
        prompt = with_foil(model, prompt, fact.foil)
    notes += prompt.notes
    if prompt.subject_from.startswith("guess"):
        notes.append(f"the subject is taken to be {prompt.subject!r} ({prompt.subject_from}); [brackets] say otherwise")
    return prompt, notes


def _guessed(model: Bridge, prompt: Prompt, options: TaskOptions) -> tuple[Prompt, str]:
    """The prompt with an answer that nobody gave: a shipped fact's, read backwards, if known; else the model's own."""
    if found := backwards(prompt.subject):
        answer, relation = found
        with suppress(PromptError):
            read = with_answer(model, prompt, answer, f"fact of {relation}, read backwards")
            if (options.known or KNOWN).prompts(model, (read,)):
                return read, (
                    f"the answer is taken to be {read.answer!r}, of which {prompt.subject!r} is the answer in "
                    f"{relation}; --answer says otherwise"
                )
    prompt = _own_answer(model, prompt)
    return prompt, f"the answer is taken to be the model's own, {prompt.answer!r}; --answer says otherwise"


def about_facts(
    model: Bridge,
    source: str,
    relation: str | None = None,
    examples: int = 5,
    *,
    method: Method = DEFAULT,
    options: TaskOptions = TaskOptions(),
    seed: int = 0,
) -> CircuitInputs:
    """Facts that the model knows as `options.known` has it, split: the first `examples` of one length, and the rest.

    The first are those to find a circuit on, the rest is held out. A twin for the counterfactual ablation is another
    of these facts with the same length and another answer.

    Raises UserError if there are several relations, if none is known, or if a prompt has no twin and needs one.
    """
    facts = facts_of(source, relation, options, seed)
    prompts, usable, notes = known_of(model, facts, options)
    found = largest_group(usable)[:examples]
    if len(found) < examples:
        notes.append(f"{len(found)} of the {examples} examples asked for: so many known prompts have one length")
    held_out = tuple(prompt for prompt in prompts if prompt not in found)
    if not held_out:
        notes.append("no fact is left to be held out: fewer --examples leave some")
    how = "taken" if options.known is None else f"known to the model ({options.known})"
    notes.append(f"{len(usable)} of {len(facts)} facts are {how}")
    corrupt: tuple[Prompt, ...] = ()
    if wants_twins(options.ablation, method.prefers):
        twins = [twin(prompt, alike(prompt, usable)) for prompt in found]
        try:
            corrupt = tuple(other or corrupt_of(model, own, None) for own, other in zip(found, twins, strict=True))
        except UserError:
            if options.ablation != AUTO:
                raise
    reference = tuple(alike(found[0], usable))
    if options.ablation == "optimal":  # what constants are learned on cannot test them
        others = [each for each in reference if each not in found]
        reference = (*found, *others[::2])
        held_out = tuple(each for each in held_out if each not in reference)
    task, told = settled(Task(found, options.metric, options.ablation, corrupt, reference), method.prefers)
    answers = tuple(sorted({fact.answer for fact in facts}))
    return CircuitInputs(task, held_out, answers, (*notes, *told), options.known)


def other_prompts(
    model: Bridge, circuit: Circuit, source: str | None = None, relation: str | None = None, extra: str = "refuse"
) -> tuple[Prompt, ...]:
    """Prompts that the circuit was not found on: of `source`, or of the shipped relation of its first prompt.

    Raises UserError if the source has no others, or the model knows none of them.
    """
    own = {prompt.text for prompt in circuit.task.prompts}
    first = circuit.task.prompts[0]
    if source is None:
        prompts: Sequence[Prompt] = reference_prompts(model, first)
    else:
        prompts, _ = prompts_of(model, load_facts(source, relation=relation, extra=extra), first.start_token or "none")
    others = [prompt for prompt in prompts if prompt.text not in own]
    taken = len(prompts) - len(others)
    if source is not None and taken and not others:
        raise UserError(
            f"nothing of {source} is left once the facts that the circuit was found on are taken out; give others with "
            "--facts"
        )
    if source is not None and not KNOWN.prompts(model, others):
        which = f"{len(others)} facts that {source} has beyond the circuit's own" if taken else f"facts of {source}"
        raise UserError(f"the model knows none of the {which} in the form that this circuit asks them")
    return tuple(others)


def facts_of(source: str, relation: str | None, options: TaskOptions, seed: int) -> tuple[Fact, ...]:
    """The facts of one relation, shuffled by the seed. Raises UserError if there are several relations."""
    facts = load_facts(source, relation=relation, seed=seed, extra=options.extra)
    if len({fact.relation for fact in facts}) > 1:
        names = ", ".join(sorted({fact.relation for fact in facts}))
        raise UserError(f"a circuit is found for one relation; choose one with --relation: {names}")
    return facts


def known_of(
    model: Bridge, facts: Sequence[Fact], options: TaskOptions
) -> tuple[list[Prompt], tuple[Prompt, ...], list[str]]:
    """The facts' prompts, those that the model knows as `options.known` has it, and what was left out.

    Raises UserError if it knows none.
    """
    prompts, notes = prompts_of(model, facts, options.start)
    usable = tuple(prompts) if options.known is None else options.known.prompts(model, prompts)
    if not usable:
        raise UserError(f"the model knows none of the {len(facts)} facts ({options.known}: no answer is that likely)")
    return prompts, usable, notes


def prompts_of(model: Bridge, facts: Sequence[Fact], start: str) -> tuple[list[Prompt], list[str]]:
    """The facts' prompts, and what was left out."""
    prompts, notes = [], []
    for fact in facts:
        try:
            prompts.append(prompt_of(model, fact, start=start))
        except PromptError as trouble:
            notes.append(f"{fact.id} left out: {trouble}")
    return prompts, notes


def _own_answer(model: Bridge, prompt: Prompt) -> Prompt:
    with torch.no_grad():
        token = int(finite(model(rows(model, [prompt]), use_cache=False)[0, -1]).argmax())
    return with_answer_ids(model, prompt, [token], OWN_ANSWER)


def check_known(model: Bridge, prompt: Prompt, known: Known) -> None:
    """UserError if the model does not know the prompt's answer: a circuit for it would be one for nothing."""
    (place,) = answer_ranks(model, (prompt,))
    if not known.holds(place):
        own = _own_answer(model, prompt).answer
        raise UserError(
            f"the model does not know this ({known}): {prompt.answer!r} is at rank {place} after {prompt.text!r}, "
            f"where it says {own!r}; ask for what it knows, name its own answer with --answer, or go on with --unknown"
        )
