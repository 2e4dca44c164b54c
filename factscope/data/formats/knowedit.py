"""KnowEdit (Zhang et al. 2024): six data sets in five shapes, read as the survey's own description shows them.

Answers may be a text, a list, or a list of lists; every text in them is a spelling of the one answer, the first is what
is teacher-forced (EasyEdit's script takes the same). Questions with an empty answer stand in the published files; they
are left out and named in `Case.left_out`.

Two of the six have no prompt that stops before an answer about a subject. In Sanitation the whole question is taken as
the subject, so that methods which write at the subject's last token write at the question's. In ConvSent even records
are edited to the positive tone and odd ones to the negative (EasyEdit draws it), and what must not change is the tone
about the next record's topic.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from factscope.data.case import Case, Question, QuestionGroup, paraphrased
from factscope.data.fact import SLOT, Fact, fill, same_text, whole_words
from factscope.data.formats.reader import Fields, as_list, document_format, find_subject, kind, record_format
from factscope.data.request import EditRequest
from factscope.errors import FactError

PORTABILITY = {"Subject_Aliasing": "alias", "Reasoning": "reasoning", "Logical_Generalization": "logical"}
LOCALITY = {"Relation_Specificity": "relation specificity", "Forgetfulness": "forgetfulness"}


@record_format(
    "KnowEdit (recent, counterfact, ZsRE)",
    "subject prompt target_new locality",
    "portability ground_truth rephrase_prompt rephrase cond case_id relation_id",
)
def read_knowedit(fields: Fields, number: int, source: str) -> Case:
    """One edit with questions that follow from it and questions that must stay."""
    subject, template = find_subject(fields, "prompt")
    new = fields.text("target_new")
    old = next(iter(spellings(fields.value.get("ground_truth", []), "ground_truth")), None)
    name, relation = f"knowedit/{fields.label('case_id', number)}", fields.text("relation_id", "knowedit")
    paraphrases = (*fields.texts("rephrase_prompt"), *fields.texts("rephrase"))
    trials, left_out = questions(fields)
    if old is None or same_text(old, (new,)):
        request = EditRequest(fill(template, subject), subject, new, template=template, id=name, relation=relation)
        trials = (*paraphrased(paraphrases, ((new,),)), *trials)
    else:
        request = EditRequest.of(
            Fact(name, relation, subject, template, old, new, paraphrases=paraphrases, source=source)
        )
    return Case(name, "KnowEdit", (request,), trials, (request.prompt,), left_out=left_out)


@record_format("KnowEdit WikiBio", "text labels concept locality", "case_id")
def read_wikibio(fields: Fields, number: int, _: str) -> Case:
    """A passage and the sentence that should follow; its person, named last in the passage, is the subject."""
    concept, text = fields.text("concept"), fields.text("text")
    places = whole_words(concept.replace("_", " "), text, re.IGNORECASE)
    if not places:
        raise FactError(f"field 'text' does not contain the concept {concept!r}: {text!r}")
    begin, end = places[-1].span()
    request = EditRequest(
        prompt=text,
        subject=text[begin:end],
        target=fields.text("labels"),
        template=text[:begin] + SLOT + text[end:],
        id=f"wikibio/{fields.label('case_id', number)}",
        relation="wikibio",
    )
    trials, left_out = questions(fields)
    return Case(request.id, "KnowEdit WikiBio", (request,), trials, (text,), left_out=left_out)


def with_next_topic(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Each case asked to keep its tone about the next one's topic."""
    out = []
    for case, after in zip(cases, (*cases[1:], *cases[:1]), strict=True):
        (fact,) = after.facts
        kept = QuestionGroup("locality", "next topic", (Question(fact.prompt, ((fact.answer,),)),))
        out.append(replace(case, more=(*case.more, kept)) if after is not case else case)
    return tuple(out)


@record_format("KnowEdit ConvSent", "ent pos neg", "case_id id", complete=with_next_topic)
def read_convsent(fields: Fields, number: int, source: str) -> Case:
    """Replies about a topic in two tones; the edit says the first of the wanted ones."""
    tones = {name: fields.texts(name) for name in ("pos", "neg")}
    for name, replies in tones.items():
        if not replies:
            raise FactError(f"field {name!r} is empty")
    wanted, opposite = ("pos", "neg") if number % 2 == 0 else ("neg", "pos")
    fact = Fact(
        id=f"convsent/{fields.label('case_id', number)}",
        relation="convsent",
        subject=fields.text("ent"),
        template="What do you think of {}?",
        answer=tones[opposite][0],
        foil=tones[wanted][0],
        source=source,
    )
    trials = tuple(
        QuestionGroup("sentiment", label, tuple(Question(fact.prompt, ((reply,),)) for reply in tones[tone]))
        for label, tone in (("wanted", wanted), ("opposite", opposite))
    )
    return Case(fact.id, "KnowEdit ConvSent", (EditRequest.of(fact),), trials, (fact.prompt,))


@document_format("KnowEdit Sanitation", "success locality")
def read_sanitation(fields: Fields, source: str) -> tuple[Case, ...]:
    """Answers to forget, and questions to answer as before, dealt out in turn to the cases."""
    return sanitation(fields, "success", "locality", source)


@document_format("Sanitation (its authors' names)", "K_F K_R")
def read_original_sanitation(fields: Fields, source: str) -> tuple[Case, ...]:
    """The same with the names of Ishibashi and Shimodaira 2023."""
    return sanitation(fields, "K_F", "K_R", source)


def sanitation(fields: Fields, forget: str, keep: str, source: str) -> tuple[Case, ...]:
    """One case for each answer that must go."""

    def read(name: str) -> list[Fields]:
        return [
            Fields(value, ("question", "ground_truth"), None, within=f"{name}[{index}]")
            for index, value in enumerate(as_list(fields, name))
        ]

    gone, kept = read(forget), read(keep)
    cases = []
    for number, record in enumerate(gone):
        question, answer = record.text("question"), record.text("ground_truth")
        fact = Fact(
            id=f"sanitation/{number}",
            relation="sanitation",
            subject=question,
            template=SLOT,
            answer=answer,
            foil=record.text("target_new", "I don't know."),
            source=source,
        )
        trials = [QuestionGroup("erasure", "", (Question(question, ((answer,),)),))]
        trials += [
            QuestionGroup("locality", "retained", (Question(each.text("question"), ((each.text("ground_truth"),),)),))
            for each in kept[number :: len(gone)]
        ]
        cases.append(Case(fact.id, "KnowEdit Sanitation", (EditRequest.of(fact),), tuple(trials)))
    return tuple(cases)


def questions(fields: Fields) -> tuple[tuple[QuestionGroup, ...], tuple[str, ...]]:
    """The trials under `portability` and `locality`, and what of them cannot be asked."""
    trials, left_out = [], []
    for name, labels, what in (("portability", PORTABILITY, "portability"), ("locality", LOCALITY, "locality")):
        groups = Fields(fields.value.get(name, {}), (), tuple(labels), within=name)
        for key, label in labels.items():
            value = groups.value.get(key, [])
            for index, each in enumerate(value if isinstance(value, list) else [value]):
                place = f"{name}.{key}[{index}]"
                asked = Fields(each, ("prompt", "ground_truth"), None, within=place)
                found = spellings(asked.value["ground_truth"], f"{place}.ground_truth")
                if found:
                    trials.append(QuestionGroup(what, label, (Question(asked.text("prompt"), (found,)),)))
                else:
                    left_out.append(f"{place}: its answer is empty")
    return tuple(trials), tuple(left_out)


def spellings(value: Any, name: str, deeper: int = 3) -> tuple[str, ...]:
    """Every text of a text, a list or a list of lists, each once; empty ones are dropped."""
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if not isinstance(value, list):
        raise FactError(f"field {name!r} is {kind(value)}, not a text or a list of texts")
    if not deeper:
        raise FactError(f"field {name!r} has lists in lists in lists in lists: give a text or a list of texts")
    return tuple(dict.fromkeys(text for each in value for text in spellings(each, name, deeper - 1)))
