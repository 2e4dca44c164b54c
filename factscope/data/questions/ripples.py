"""What follows from an edit, made from shipped facts: the fact read backwards, and with a second one behind it.

    reverse     "The capital of France is Rome" asks "Rome is the capital of" for France. Only relations whose object
                has one subject are asked so.
    composite   "... is located in the city of Rome" asks the country for Italy: the second relation of the new object,
                where it is a shipped fact, beside that of the old object. In the same words the edited object itself is
                looked for, which edited models say in the place of what follows from it (Yao et al. 2024, section 5).

Sources: Cohen et al. 2024 (ripple effects), Berglund et al. 2023 (the reversal curse), Li et al. 2024 ("Unveiling the
pitfalls of knowledge editing", arXiv 2310.02129). A request of another relation has no such questions.
"""

from factscope.data.case import Question, QuestionGroup
from factscope.data.fact import fill, same_text
from factscope.data.request import EditRequest
from factscope.data.shipped import relations

REVERSE = {
    "country_capital": "{} is the capital of",
    "element_symbol": "In the periodic table, {} stands for the element",
    "word_antonym": "The opposite of {} is",
    "animal_young": "A {} grows up and becomes a",
    "verb_past_tense": "The infinitive of the verb form {} is to",
}
COMPOSITE = {  # the edited relation and the one behind it -> what is asked of the edited subject
    ("landmark_city", "city_country"): "{} is located in the country of",
    ("company_headquarters", "city_country"): "The headquarters of {} are in the country of",
    ("landmark_country", "country_capital"): "The capital of the country in which {} is located is",
    ("landmark_country", "country_language"): "The official language of the country in which {} is located is",
    ("landmark_country", "country_currency"): "The currency of the country in which {} is located is the",
    ("landmark_country", "country_continent"): "{} is located on the continent of",
    ("city_country", "country_capital"): "The capital of the country in which the city of {} lies is",
    ("city_country", "country_language"): "The official language of the country in which the city of {} lies is",
    ("city_country", "country_currency"): "The currency of the country in which the city of {} lies is the",
    ("city_country", "country_continent"): "The city of {} is located on the continent of",
    ("product_maker", "company_headquarters"): "The company that makes {} is headquartered in the city of",
    ("product_maker", "organization_founder"): "The company that makes {} was founded by",
    ("book_author", "person_language"): "The native language of the author of {} is",
    ("composition_composer", "person_language"): "The native language of the composer of {} is",
    ("painting_painter", "person_language"): "The native language of the painter of {} is",
    ("organization_founder", "person_language"): "The native language of the founder of {} is",
}
ECHO = "composite, the edited object"


def ripples_of(request: EditRequest) -> tuple[QuestionGroup, ...]:
    """What follows from a request: groups of one question of kind "ripple", labelled reverse, composite or `ECHO`.

    `other` is what was right before: of a reverse question the subject whose object the target was.
    """
    out = []
    template = REVERSE.get(request.relation)
    if template is not None:
        owner = _owner(request.relation, request.target)
        prompt = fill(template, request.target)
        other = owner if owner is not None and not same_text(owner, (request.subject,)) else None
        out.append(_one("reverse", Question(prompt, ((request.subject,),), other)))
    for (first, second), template in COMPOSITE.items():
        if first != request.relation:
            continue
        new, old = (_answer(second, one) for one in (request.target, request.old or ""))
        if new is None or (old is not None and same_text(new, (old,))):
            continue  # nothing is shipped about the new object, or the edit changes nothing here
        prompt = fill(template, request.subject)
        out.append(_one("composite", Question(prompt, ((new,),), old)))
        if old is not None:
            out.append(_one(ECHO, Question(prompt, ((request.target,),), old)))
    return tuple(out)


def _one(label: str, question: Question) -> QuestionGroup:
    return QuestionGroup("ripple", label, (question,))


def _answer(relation: str, subject: str) -> str | None:
    entries = relations()[relation].entries
    found = next((one.answer for one in entries if same_text(one.subject, (subject,))), None)
    if found is None and relation == "city_country":  # a capital's country is shipped the other way round
        return _owner("country_capital", subject)
    return found


def _owner(relation: str, answer: str) -> str | None:
    entries = relations()[relation].entries
    return next((one.subject for one in entries if same_text(one.answer, (answer,))), None)
