"""What else is asked of an edit: its prompt in other frames, negated, and as a question of yes or no.

An edit that is a shortcut from words to words answers the edited sentence and fails here: editors give the new answer
behind the negated sentence as well (arXiv 2510.00625). The texts are made of the prompt and the two answers alone, so
every request has them. A prompt that is a question already is put into frames, and neither negated nor verified. Where
the old answer is a function word, as the model's own next token often is, nobody asks whether the old statement is
true: "Jobs founded a company called the" is no statement.
"""

from dataclasses import replace

from factscope.data.case import Case, Question, QuestionGroup
from factscope.data.function_words import FUNCTION_WORDS
from factscope.data.request import EditRequest

QUESTION = "Question: How does this sentence go on? {}\nAnswer:"
UNRELATED = "The weather was fine that day. {}"
NEGATED = "It is not true that {}"
VERIFIED = "Question: Is it true that {} {}? Answer with yes or no.\nAnswer:"
ARTICLES = ("The ", "A ", "An ")


def probes_of(request: EditRequest) -> tuple[QuestionGroup, ...]:
    """The probes of a request, as groups of one question each; compared with the old answer where it is known."""
    new, old, prompt = ((request.target, *request.aliases),), request.old, request.prompt
    asked = prompt.rstrip().endswith("?")
    framed = f"Question: {prompt}\nAnswer:" if asked else QUESTION.format(prompt)
    out = [
        _one("frame", "as a question", Question(framed, new, old)),
        _one("frame", "after a sentence", Question(UNRELATED.format(prompt), new, old)),
    ]
    if asked or old is None:
        return tuple(out)
    inside = prompt[0].lower() + prompt[1:] if prompt.startswith(ARTICLES) else prompt
    out.append(_one("negation", "", Question(NEGATED.format(inside), new, old)))
    statements = [(request.target, "yes", "no"), (old, "no", "yes")]
    for answer, right, wrong in statements if old.strip().lower() not in FUNCTION_WORDS else statements[:1]:
        asked_of = Question(VERIFIED.format(inside, answer), ((right, right.title()),), wrong)
        out.append(_one("verification", right, asked_of))
    return tuple(out)


def _one(kind: str, label: str, question: Question) -> QuestionGroup:
    return QuestionGroup(kind, label, (question,))


def probed(case: Case) -> Case:
    """The same case, with the probes of its requests."""
    return replace(case, more=(*case.more, *(group for request in case.requests for group in probes_of(request))))
