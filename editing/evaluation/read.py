"""Cases put to a model: every question read before an edit, right after it, and at the end of a sequence.

One row a question. A row keeps what was read, not what it is worth: every score of `editing.evaluation.metrics` can be
computed again from the rows alone. `same`, `next_same` and `kl` compare with the unedited model at the same question.
Every evaluation reads so: of one edit, of a sequence, of a bench, and of what a circuit's diff shows beside it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from editing.evaluation.protocol import WRITTEN, Protocol
from editing.evaluation.said import FRAMES, states, states_only
from editing.evaluation.schema_2 import row_of_schema_2
from factscope.data.case import Case, Question
from factscope.data.fact import same_text, whole_words
from factscope.errors import EditError, PromptError
from factscope.model.bridge import Bridge
from factscope.model.forward.generate import generate, sample, text_until_end
from factscope.model.forward.prefix import prefaced
from factscope.model.forward.scoring import AnswerScore, Pair, score
from factscope.model.prompts import tokenized

ASKED_ALREADY = ("frame", "verification")  # questions in frames of their own
PROBES = (*ASKED_ALREADY, "negation", "variation")
CONTINUED = ("rewrite", "paraphrase", "frame")
AT_ONCE = 128  # questions read together: their whole distributions are in memory until they are done


@dataclass(frozen=True)
class Reading:
    """What the model says to one question."""

    nll: float  # of the target, nats per token
    right: float  # share of the target's tokens that are the argmax, teacher-forced
    exact: bool  # all of them
    same: float  # share of the argmax tokens at the target's positions that the unedited model gives too
    kl: float  # KL(unedited || now) of the next token, nats
    nll_other: float | None = None  # of the answer that must not be preferred
    said: str | None = None  # greedy continuation, up to the end of the text or as many tokens as the protocol says
    hit: bool | None = None  # whether it holds every answer, in an accepted spelling
    top: str | None = None  # the greedy next token; None: not kept up to schema 2
    next_same: bool | None = None  # whether the unedited model gives that token too
    top_p: float | None = None  # probability of the greedy next token; None in reports that did not keep it
    stated: bool | None = None  # whether `said`, up to where it stops by itself, holds every answer; None: not kept
    stated_only: bool | None = None  # whether it is the answer and nothing else, normalised
    exact_other: bool | None = None  # whether all tokens of the other answer are the argmax; None: none, or not kept


@dataclass(frozen=True)
class Row:
    """One question of one case."""

    case: str
    trial: int  # questions with the same number are judged together
    kind: str  # one of factscope.data.case.KINDS
    label: str
    need: str  # "all" or "any" of the trial's questions
    prompt: str
    target: str
    other: str | None
    before: Reading
    after: Reading | None = None
    final: Reading | None = None
    subject: str = ""  # what the case is about

    @property
    def now(self) -> Reading | None:
        """What was read last; None where the question was not read again."""
        return self.final or self.after

    @classmethod
    def upgraded(cls, body: dict[str, Any]) -> dict[str, Any]:
        """A row as the reports of single edits and sequences had it up to schema 2."""
        return row_of_schema_2(body) if "fact" in body else body


@dataclass(frozen=True)
class Speech:
    """A longer text for one prompt, before and after; the prompt is not part of it."""

    case: str
    prompt: str
    before: str
    after: str | None = None
    final: str | None = None
    likeness: tuple[float | None, ...] = ()  # to the reference texts: of all the case's texts before, after and final


@dataclass(frozen=True, eq=False)
class TokenizedQuestion:
    """One question, tokenised: its target, and behind the same prompt the other answer if there is one."""

    row: Row
    question: Question
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one reading of many questions gave; the distributions are kept for the KL of the next."""

    said: tuple[tuple[AnswerScore, ...], ...]
    tops: tuple[str, ...]  # the greedy next tokens
    texts: tuple[str | None, ...]
    speech: tuple[str, ...]

    def part(self, which: slice) -> "Outputs":
        """What was said to some of the questions."""
        return Outputs(self.said[which], self.tops[which], self.texts[which], ())


def asked_of(model: Bridge, case: Case, start: str, frame: str = "bare") -> list[TokenizedQuestion]:
    """Every question of a case, in a frame; probes that are longer than the model reads are left out.

    Raises PromptError for an answer that has no tokens.
    """
    out = []
    for number, trial in enumerate(case.trials):
        asked = [(trial.kind, question) for question in trial.questions]
        asked += [("condition", question) for question in trial.conditions]
        for kind, bare in asked:
            around = "bare" if kind in ASKED_ALREADY else frame
            question = replace(bare, prompt=FRAMES[around].replace("{}", bare.prompt))
            words = [question.target] if question.other is None else [question.target, question.other]
            try:
                pairs = tuple(Pair(*tokenized(model, question.prompt, word, start)) for word in words)
            except PromptError:
                if kind in PROBES:  # longer than its edit's prompt, and than this model reads
                    continue
                raise
            row = Row(
                case.id, number, kind, trial.label, trial.need, question.prompt, question.target, question.other, BLANK,
                subject=case.about,
            )  # fmt: skip
            out.append(TokenizedQuestion(row, question, pairs))
    return out


BLANK = Reading(float("nan"), 0.0, False, 0.0, 0.0)  # stands in a row until it is read


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions with what the unedited model says to them, which every later reading is held against."""

    questions: tuple[TokenizedQuestion, ...]
    clean: Outputs
    protocol: Protocol
    start: str

    @classmethod
    def of(cls, model: Bridge, questions: Sequence[TokenizedQuestion], protocol: Protocol, start: str) -> "Asked":
        """Read the model, which must be unedited."""
        return cls(tuple(questions), listen(model, questions, (), protocol, start), protocol, start)

    def read(self, model: Bridge, begin: int = 0, end: int | None = None) -> list[Reading]:
        """Questions `begin` to `end` on the model as it is, a part at a time, as whole distributions are held."""
        out: list[Reading] = []
        end = len(self.questions) if end is None else end
        for at in range(begin, end, AT_ONCE):
            part = slice(at, min(at + AT_ONCE, end))
            some = self.questions[part]
            out += readings(some, listen(model, some, (), self.protocol, self.start), self.clean.part(part))
        return out

    def rows(self, after: Sequence[Reading] = (), final: Sequence[Reading] = ()) -> list[Row]:
        """The first questions as rows, as many as were read; `after` or `final` is empty where nothing was read."""
        count = max(len(after), len(final))
        some, clean = self.questions[:count], self.clean.part(slice(count))
        nothing: list[Any] = [None] * count
        times = [readings(some, clean, clean), after or nothing, final or nothing]
        return [
            replace(one.row, before=was, after=soon, final=late)
            for one, was, soon, late in zip(some, *times, strict=True)
        ]


def listen(
    model: Bridge,
    asked: Sequence[TokenizedQuestion],
    speak: Sequence[tuple[str, str]],
    protocol: Protocol,
    start: str,
    seed: int = 0,
) -> Outputs:
    """Read every question, and continue the prompts of `speak` (case, prompt), on the model as it is."""
    flat = score(model, [pair for one in asked for pair in one.pairs])
    said: list[tuple[AnswerScore, ...]] = []
    at = 0
    for one in asked:
        first, *others = flat[at : at + len(one.pairs)]
        # Half a megabyte each in a large vocabulary, and the one beside another answer is not used.
        said.append((first, *(replace(other, logp=other.logp.new_empty(0)) for other in others)))
        at += len(one.pairs)
    texts: list[str | None] = [None] * len(asked)
    # What is continued: every question where the scorer reads what is written, else what asks for the new answer.
    chosen = [i for i, one in enumerate(asked) if protocol.scorer in WRITTEN or one.row.kind in CONTINUED]
    if protocol.words:
        more = generate(model, [asked[i].pairs[0].prompt for i in chosen], protocol.words)
        for i, ids in zip(chosen, more, strict=True):
            texts[i] = text_until_end(model, ids)
    tops = tuple(model.tokenizer.decode([one[0].argmax[0]]) for one in said)
    spoken = speech(model, [prompt for _, prompt in speak], protocol.speech, start, seed)
    return Outputs(tuple(said), tops, tuple(texts), tuple(spoken))


def speech(model: Bridge, prompts: Sequence[str], length: int, start: str, seed: int) -> list[str]:
    """Each prompt continued to `length` tokens in all by top-5 sampling from the seed; the prompt is taken away."""
    out = []
    for text in prompts if length else ():
        ids = prefaced(model, tokenized(model, text, start=start)[0])
        generator = torch.Generator().manual_seed(seed)
        row = sample(model, torch.tensor([ids]), max(length, len(ids) + 1), generator, top_k=5)[0, len(ids) :]
        out.append(model.tokenizer.decode(row, skip_special_tokens=True))
    return out


def readings(asked: Sequence[TokenizedQuestion], now: Outputs, clean: Outputs) -> list[Reading]:
    """The numbers alone, against the unedited model's."""
    out = []
    for one, said, was, top, text in zip(asked, now.said, clean.said, now.tops, now.texts, strict=True):
        new, old = said[0], was[0]
        agree = [a == b for a, b in zip(new.argmax, old.argmax, strict=True)]
        out.append(
            Reading(
                nll=new.nll,
                right=sum(new.right) / len(new.right),
                exact=new.exact,
                same=sum(agree) / len(agree),
                kl=float((old.logp.exp() * (old.logp - new.logp)).sum().clamp_min(0)),
                nll_other=said[1].nll if len(said) > 1 else None,
                exact_other=said[1].exact if len(said) > 1 else None,
                top=top,
                next_same=agree[0],
                top_p=float(new.logp.max().exp()),
                said=text,
                hit=None if text is None else holds(text, one.question),
                stated=None if text is None else states(text, one.question.answers),
                stated_only=None if text is None else states_only(text, one.question.answers),
            )
        )
    return out


def holds(text: str, question: Question) -> bool:
    """Whether the first line of a continuation has every answer in one of its spellings, upper and lower case apart."""
    line = next((part for part in text.strip().splitlines()), "")
    return all(any(whole_words(each, line, re.IGNORECASE) for each in spellings) for spellings in question.answers)


def without_conflicts(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases without those that `check_together` would refuse beside an earlier one."""
    seen: set[tuple[str, str]] = set()
    out = []
    for case in cases:
        keys = {request.key for request in case.requests}
        if not keys & seen:
            out.append(case)
            seen |= keys
    return tuple(out)


def check_together(cases: Sequence[Case]) -> None:
    """Raise EditError if two of these cases give one prompt two answers: they cannot be edits of one model."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for case in cases:
        for request in case.requests:
            new, owner = seen.setdefault(request.key, (request.target, case.id))
            if owner != case.id:
                same = same_text(new, (request.target,))
                what = "the same target" if same else f"targets {new!r} and {request.target!r}"
                raise EditError(
                    f"cases {owner!r} and {case.id!r} give {request.prompt!r} {what}: leave one of them out, or "
                    "all such with --skip-conflicts"
                )
