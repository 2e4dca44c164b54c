"""zsRE (Levy et al. 2017): questions with a paraphrase and a question about something else, in MEND's form.

`alt` is what an edit should say (Mitchell et al. 2022, EasyEdit). In one record of fifty it is among the true answers:
such a fact has no foil and can be traced; the request is for `alt` all the same, as there, and does not know what was
said before. Where `alt` is empty, nothing can be edited, and EasyEdit leaves the record out. Under the other target,
`answers[0]`, every record is edited (Meng et al. 2022, 2023).

`loc` is asked as it stands, with the words "nq question:" that it begins with and without a question mark, as EasyEdit
asks it. ROME's and MEMIT's code puts a question mark behind it, so locality there is of slightly other questions.
`pred`, what a model once said, is left out. `portability` (Yao et al. 2023) asks what follows from `alt`.
"""

from factscope.data.case import Case, QuestionGroup
from factscope.data.fact import Fact, same_text
from factscope.data.formats.reader import Fields, find_subject, neighbours_of, portability, record_format
from factscope.data.request import EditRequest
from factscope.errors import FactError

TITLE = "zsRE (MEND's form)"


@record_format(TITLE, "subject src answers", "pred rephrase alt loc loc_ans cond relation case_id portability")
def read_zsre(fields: Fields, number: int, source: str) -> Fact | Case:
    """A question, its true answers and the new one; see the module's text."""
    subject, template = find_subject(fields, "src")
    answers = fields.texts("answers")
    if not answers:
        raise FactError("field 'answers' is empty")
    alt = fields.text("alt", "") if "alt" in fields.value else None
    restated = alt is not None and (not alt or same_text(alt, answers))
    fact = Fact(
        id=f"zsre/{fields.label('case_id', number)}",
        relation=fields.text("relation", "zsre"),
        subject=subject,
        template=template,
        answer=answers[0],
        foil=None if restated else alt,
        aliases=answers[1:],
        paraphrases=fields.texts("rephrase"),
        neighbours=neighbours_of(fields, "loc", "loc_ans"),
        source=source,
    )
    follows = _portability(fields) if alt else ()
    if alt is None or (not restated and not follows):
        return fact
    requests = (EditRequest(fact.prompt, subject, alt, None if restated else fact.answer, fact),) if alt else ()
    return Case(fact.id, TITLE, requests, follows, speak=(fact.prompt,), untargeted=() if alt else (fact,))


def _portability(fields: Fields) -> tuple[QuestionGroup, ...]:
    if "portability" not in fields.value:
        return ()
    asked = Fields(
        fields.value["portability"], ("New Question", "New Answer"), ("Recalled Relation",), within="portability"
    )
    return portability(asked.texts("New Question"), asked.texts("New Answer"))
