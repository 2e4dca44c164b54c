"""zsRE: questions with a rephrasing and a question about something else, in MEND's form."""

from workbench.errors import FactError
from workbench.facts import Fact
from workbench.formats import Fields, find_subject, neighbours_of, record_format


@record_format(
    "zsRE (MEND's form)", "subject src answers", "pred rephrase alt loc loc_ans cond relation case_id portability"
)
def read_zsre(fields: Fields, number: int, source: str) -> Fact:
    """Questions (Levy et al. 2017, Mitchell et al. 2022). `pred`, what a model once said, is left out.

    `alt` is what an edit should say, and in one record of fifty it is the true answer: such a fact has no foil.
    """
    subject, template = find_subject(fields, "src")
    answers = fields.texts("answers")
    if not answers:
        raise FactError("field 'answers' is empty")
    alt = fields.text("alt") if fields.value.get("alt") else None
    return Fact(
        id=f"zsre/{fields.label('case_id', number)}",
        relation=fields.text("relation", "zsre"),
        subject=subject,
        template=template,
        answer=answers[0],
        foil=None if alt is None or alt.casefold() in {each.casefold() for each in answers} else alt,
        aliases=answers[1:],
        paraphrases=fields.texts("rephrase"),
        neighbours=neighbours_of(fields, "loc", "loc_ans"),
        source=source,
    )
