"""A case: what one record of an editing suite asks for, and everything by which the edit is then judged.

An `EditRequest` says what to write; suites ask for more. A case holds the requests of one record (several in MQuAKE)
and its trials: groups of questions under one name, with what makes the group a success and what must hold before it
counts. `load_cases` reads every format that `load_facts` reads, and those that only suites use.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from factscope.data.fact import Fact, same_text
from factscope.data.request import EditRequest
from factscope.errors import FactError

# What a question tests; the metrics are defined by these.
KINDS = {
    "rewrite": "the edit's own prompt, with the new answer",
    "paraphrase": "the same in other words, with the new answer",
    "locality": "what must stay as it was",
    "frame": "the edit's own prompt as a question, or after an unrelated sentence, with the new answer",
    "negation": "the edit's own prompt negated, behind which the new answer is wrong",
    "verification": "whether the new statement is true, and whether the old one is: yes or no",
    "variation": "the edit's own prompt in a hard wording, with the new answer",
    "unrelated": "a fact that nobody edited, asked only whether it changed",
    "portability": "what follows from the edit",
    "hop": "one step of a chain of facts, as it is after the edits",
    "multi-hop": "a question over the whole chain",
    "ripple": "what RippleEdits derives from an edit, under conditions",
    "erasure": "an answer that must no longer be given",
    "sentiment": "replies in the wanted and in the opposite tone",
    "condition": "what must hold before the edit for a trial to count",
}
TARGETS = {
    "new": "the record's new answer; for zsRE `alt`, as in MEND and EasyEdit",
    "true": "the true answer; for zsRE `answers[0]`, as in ROME and MEMIT",
    "refuse": "a refusal, as in Sanitation: the true answer must go",
}
REFUSAL = "I don't know."


@dataclass(frozen=True)
class Question:
    """One prompt and the answers that count: each of `answers` must be given, in any of its spellings."""

    prompt: str
    answers: tuple[tuple[str, ...], ...]  # the usual spelling first
    other: str | None = None  # what it must not prefer, for a likelihood comparison

    def __post_init__(self) -> None:
        texts = [self.prompt, *(text for spellings in self.answers for text in spellings)]
        if not self.answers or not all(self.answers) or not all(text.strip() for text in texts):
            raise FactError(f"the question {self.prompt!r} has an empty text or no answer")

    @property
    def target(self) -> str:
        """The answer that is teacher-forced."""
        return self.answers[0][0]


@dataclass(frozen=True)
class QuestionGroup:
    """Questions judged together."""

    kind: str  # one of KINDS
    label: str
    questions: tuple[Question, ...]
    need: str = "all"  # of the questions; or "any"
    conditions: tuple[Question, ...] = ()  # must all be answered rightly before the edit, or the trial does not count


@dataclass(frozen=True)
class Case:
    """One record of a suite."""

    id: str
    suite: str
    requests: tuple[EditRequest, ...]
    more: tuple[QuestionGroup, ...] = ()  # beyond what the requests themselves ask
    speak: tuple[str, ...] = ()  # prompts to continue freely: fluency
    snippets: str = ""  # names the texts that a generation is compared with: relation/new object
    left_out: tuple[str, ...] = ()  # questions of the record that cannot be asked, and why
    untargeted: tuple[Fact, ...] = ()  # whose new answer the source leaves empty: to trace, or to edit to the true one
    subject: str = ""  # of a case without requests

    @classmethod
    def of(cls, request: EditRequest) -> "Case":
        """One request, with what it asks by itself."""
        return cls(request.id, "", (request,))

    @classmethod
    def unrelated(cls, fact: Fact) -> "Case":
        """A fact that nobody edits, and nothing but its own prompt."""
        return cls(
            fact.id,
            "",
            (),
            (QuestionGroup("unrelated", "", (Question(fact.prompt, ((fact.answer, *fact.aliases),)),)),),
            subject=fact.subject,
        )

    @property
    def about(self) -> str:
        """The subject, of the first request; cases about the same are not independent."""
        return self.requests[0].subject if self.requests else self.subject

    @property
    def trials(self) -> tuple[QuestionGroup, ...]:
        """What the requests ask, then the rest."""
        return (*(group for request in self.requests for group in groups_of(request)), *self.more)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of the record, for those who need true answers; FactError if it does not say what is true."""
        if not self.says_truth:
            raise FactError("the record does not say the true answer: it is for edit bench, not a fact to trace")
        return (*(request.fact for request in self.requests if request.fact), *self.untargeted)

    @property
    def says_truth(self) -> bool:
        """Whether every request is about a fact."""
        return all(request.fact for request in self.requests)

    def towards_truth(self) -> "Case":
        """The same case with the true answers as targets; FactError if the record does not say them.

        Questions about what follows from the new answers are left out, and counted: it does not follow from the true.
        """
        if not self.says_truth:
            raise FactError(f"case {self.id!r} does not say the true answer, so it cannot be the target")
        stays = tuple(group for group in self.more if group.kind == "locality")
        gone = [f"{one.kind} {one.label}: follows from the new answer" for one in self.more if one.kind != "locality"]
        requests, left_out = tuple(map(EditRequest.of_truth, self.facts)), (*self.left_out, *gone)
        return replace(self, requests=requests, more=stays, left_out=left_out, untargeted=())


def refusing(case: Case) -> Case:
    """The same case with a refusal as target, asked whether the true answer is gone, in other words too.

    A case of Sanitation stays as it is. Raises FactError if the record does not say what is true. Questions about what
    follows from the new answers are left out, and counted.
    """
    if any(one.kind == "erasure" for one in case.more):
        return case
    truth = case.towards_truth()
    requests, gone = [], []
    for fact in case.facts:
        requests.append(EditRequest(fact.prompt, fact.subject, REFUSAL, fact.answer, fact))
        known = ((fact.answer, *fact.aliases),)
        gone.append(QuestionGroup("erasure", "", (Question(fact.prompt, known),)))
        gone += [QuestionGroup("erasure", "paraphrase", (Question(text, known),)) for text in fact.paraphrases]
    return replace(truth, requests=tuple(requests), more=(*gone, *truth.more))


def groups_of(request: EditRequest) -> tuple[QuestionGroup, ...]:
    """What a request asks: its prompt, the paraphrases, the neighbours; compared with the old answer if it is known."""
    new, old = ((request.target, *request.aliases),), request.old
    out = [QuestionGroup("rewrite", "", (Question(request.prompt, new, old),))]
    out += paraphrased(request.paraphrases, new, old)
    for near in request.neighbours:
        other = None if same_text(request.target, (near.answer,)) or old is None else request.target
        out.append(QuestionGroup("locality", "neighbourhood", (Question(near.prompt, ((near.answer,),), other),)))
    return tuple(out)


def paraphrased(
    prompts: Iterable[str], answers: tuple[tuple[str, ...], ...], old: str | None = None
) -> list[QuestionGroup]:
    """The edit in other words, one group for each prompt."""
    return [QuestionGroup("paraphrase", "", (Question(text, answers, old),)) for text in prompts]
