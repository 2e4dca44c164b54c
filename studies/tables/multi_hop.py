"""After an edit of the first hop, who answers the second? (Knowledge Circuits, section 5; MQuAKE, Zhong et al. 2023)

"The currency of the country where the Eiffel Tower stands is the": with that country edited to Japan the answer should
be the yen. Knowledge Circuits saw one edited model say the edited object itself there (Japan). Here it is counted, over
chains whose second hop the unedited model answers, each edited alone and taken out again:

    new      what follows from the edit          old     what followed before it
    edited   the edited object itself            other   anything else

What is counted is the first of the three that stands in a greedy continuation, up to its natural stop. Beside it stands
which of the three is the most probable, by mean log-probability of its tokens. The same question *without its first
hop* ("The currency of the country is the") says what the second hop alone suggests: an answer that stays there was no
reasoning over the chain (the paper's appendix C.1).

Two sources: chains of two shipped relations, worded by `PHRASES`; and MQuAKE's files, where the chain's first question
is asked as a question, and without the subject's name for want of the hop's own words.

Convention: shares of chains, with Wilson's 95 % intervals; chains about one subject count as one there.
Scope: chains whose three answers differ. Of MQuAKE: chains whose last answer was not itself edited.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editing.edit import Edit
from editing.evaluation.said import FRAMES, until_stop
from factscope.data.case import Case
from factscope.data.fact import SHIPPED, Relation, fill, same_text, whole_words
from factscope.data.load import load_cases
from factscope.data.request import EditRequest
from factscope.data.shipped import relations
from factscope.errors import FactError, UserError
from factscope.model.bridge import Bridge
from factscope.model.forward.generate import generate, until_end
from factscope.model.forward.scoring import Pair, score
from factscope.model.prompts import tokenized
from factscope.model.weights import fingerprint
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import wilson

KINDS = ("new", "old", "edited", "other")
WORDS = 12  # tokens of a continuation
AT_ONCE = 64  # chains that the unedited model is asked together
# The answer of a relation in words about its subject, and the same without the subject: the first hop in a sentence.
PHRASES = {
    "book_author": ("the author of {}", "the author"),
    "city_country": ("the country of the city of {}", "the country"),
    "company_headquarters": ("the city where {} has its headquarters", "the city"),
    "composition_composer": ("the composer of {}", "the composer"),
    "landmark_city": ("the city where {} stands", "the city"),
    "landmark_country": ("the country where {} stands", "the country"),
    "organization_founder": ("the founder of {}", "the founder"),
    "painting_painter": ("the painter of {}", "the painter"),
    "product_maker": ("the company that makes {}", "the company"),
}
SECOND = {"city_country": 1}  # of a second hop, which template reads well about a phrase; else the first


@dataclass(frozen=True)
class Chain:
    """Two hops and more, of which the first is edited."""

    id: str
    requests: tuple[EditRequest, ...]
    question: str
    bare: str  # without the first hop; "" where it cannot be taken out
    new: tuple[str, ...]  # spellings
    old: tuple[str, ...]
    edited: tuple[str, ...]

    @property
    def distinct(self) -> bool:
        """Whether no answer is a spelling of another."""
        return not any(
            same_text(text, others)
            for one, others in ((self.new, self.old), (self.new, self.edited), (self.old, self.edited))
            for text in one
        )

    def kind_of(self, text: str) -> str:
        """Which of the three stands first in a continuation: one of KINDS."""
        said = until_stop(text)
        places = {}
        for kind in KINDS[:3]:
            found = [match.start() for each in getattr(self, kind) for match in whole_words(each, said, re.IGNORECASE)]
            if found:
                places[kind] = min(found)
        return min(places, key=lambda kind: places[kind]) if places else "other"


@dataclass(frozen=True)
class Heard:
    """What one model says to one question: the kind of the continuation, the most probable of the three, the text."""

    said: str
    preferred: str
    text: str


@dataclass(frozen=True)
class HopRow:
    """One chain before and after its edit."""

    id: str
    subject: str
    question: str
    bare: str
    new: str
    old: str
    edited: str
    took: bool  # whether the edited model says the edited object on the first hop's own prompt
    before: Heard
    after: Heard
    bare_before: Heard | None
    bare_after: Heard | None


@shown("studies.pages.multi_hop")
@dataclass(frozen=True, eq=False)
class HopStudy(Result):
    """All chains under one method."""

    source: str
    method: str
    rows: tuple[HopRow, ...]
    chains: int  # of the source that can be asked
    unknown: int  # of those that were asked, not answered by the unedited model, and not edited
    settings: dict[str, Any]
    run: Run


@dataclass(frozen=True)
class Share:
    """A share of chains with its interval."""

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.n


def shares(rows: Sequence[HopRow], where: str, how: str = "said") -> dict[str, Share]:
    """By kind, of the rows that have this question: "before", "after", "bare_before" or "bare_after"."""
    heard = [(row.subject, getattr(one, how)) for row in rows if (one := getattr(row, where)) is not None]
    found = {}
    for kind in KINDS if heard else ():
        values = [float(said == kind) for _, said in heard]
        low, high = wilson(values, [subject for subject, _ in heard])
        found[kind] = Share(int(sum(values)), len(heard), low, high)
    return found


@dataclass(frozen=True, eq=False)
class HopOptions:
    """How chains are asked and edited."""

    edit: Callable[[Bridge, tuple[EditRequest, ...]], Edit]
    method: str  # its name
    how: str = ""  # all that the edits depend on besides the model, as text
    limit: int | None = None  # at most so many chains are edited
    known: bool = True  # only chains whose second hop the unedited model answers
    start: str = "auto"
    seed: int = 0


def multi_hop(
    model: Bridge,
    chains: Sequence[Chain],
    options: HopOptions,
    *,
    folder: str | Path,
    source: str = SHIPPED,
    told: bool | None = None,
) -> HopStudy:
    """Ask every chain, edit its first hop, and ask again.

    Args:
        folder: where each finished chain is recorded; the same call goes on from there.

    Raises UserError where no chain is left, and what the method raises.
    """
    run = Run.of(model, options.seed)
    usable = list({chain.id: chain for chain in chains if chain.distinct}.values())
    if not usable:
        raise UserError(f"none of the {len(chains)} chains of {source} has three different answers")
    work = {"table": "multi-hop", "model": fingerprint(model), "source": source, "known": options.known}
    work |= {"method": options.method, "how": options.how, "start": options.start}
    most = options.limit or len(usable)
    with stopwatch() as seconds, Journal(Path(folder) / "journal.jsonl", work) as log:
        done = {str(line["id"]): line for line in log.done}
        edited, unknown = 0, 0
        answered: dict[str, bool] = {}
        with progress("chains", min(most, len(usable)), shown=told) as advance:
            for place, chain in enumerate(usable):
                if edited == most:
                    break
                if chain.id not in done and chain.id not in answered:
                    answered |= _answered(model, usable[place : place + AT_ONCE], options)
                if chain.id not in done:
                    done[chain.id] = _line(model, chain, options) if answered[chain.id] else {"id": chain.id}
                    log.add(done[chain.id])
                known = "row" in done[chain.id]
                edited, unknown = edited + known, unknown + (not known)
                advance(int(known))
    lines = [done[chain.id] for chain in usable if chain.id in done]
    rows = tuple(_row(line["row"]) for line in lines if "row" in line)[:most]
    if not rows:
        raise UserError(
            f"the unedited model answers the second hop of none of the {unknown} chains of {source}; --unknown edits "
            "such chains, too"
        )
    settings = {"limit": most, "known": options.known, "tokens": WORDS}
    return HopStudy(source, options.method, rows, len(usable), unknown, settings, run.ended(seconds[0]))


def _answered(model: Bridge, chains: Sequence[Chain], options: HopOptions) -> dict[str, bool]:
    """Which chains are to be edited: all, or those whose second hop the unedited model answers."""
    if not options.known:
        return {chain.id: True for chain in chains}
    said = _said(model, [chain.question for chain in chains], options.start)
    return {chain.id: chain.kind_of(text) == "old" for chain, text in zip(chains, said, strict=True)}


def _line(model: Bridge, chain: Chain, options: HopOptions) -> dict[str, Any]:
    """A chain as the journal keeps it."""
    asked = (chain.question, chain.bare) if chain.bare else (chain.question,)
    clean = hear(model, chain, asked, options.start)
    edit = options.edit(model, chain.requests)
    first = chain.requests[0]
    with edit.applied(model):
        after = hear(model, chain, asked, options.start)
        (hop,) = hear(model, chain, (first.prompt,), options.start)
    row = HopRow(
        id=chain.id,
        subject=first.subject,
        question=chain.question,
        bare=chain.bare,
        new=chain.new[0],
        old=chain.old[0],
        edited=chain.edited[0],
        took=hop.said == "edited",
        before=clean[0],
        after=after[0],
        bare_before=clean[1] if chain.bare else None,
        bare_after=after[1] if chain.bare else None,
    )
    return {"id": chain.id, "row": asdict(row)}


def _row(line: dict[str, Any]) -> HopRow:
    places = ("before", "after", "bare_before", "bare_after")
    return HopRow(**line | {name: Heard(**line[name]) if line[name] else None for name in places})


def hear(model: Bridge, chain: Chain, questions: Sequence[str], start: str) -> list[Heard]:
    """What the model, as it is, says to each question of a chain."""
    said = _said(model, questions, start)
    texts, kinds = [_framed(text) for text in questions], KINDS[:3]
    pairs = [Pair(*tokenized(model, text, getattr(chain, kind)[0], start)) for text in texts for kind in kinds]
    losses = [one.nll for one in score(model, pairs)]
    found = []
    for place, text in enumerate(said):
        own = dict(zip(kinds, losses[3 * place : 3 * place + 3], strict=True))
        found.append(Heard(chain.kind_of(text), min(own, key=lambda kind: own[kind]), text))
    return found


def _said(model: Bridge, questions: Sequence[str], start: str) -> list[str]:
    """A greedy continuation of each question."""
    prompts = [tokenized(model, _framed(text), start=start)[0] for text in questions]
    more = generate(model, prompts, WORDS)
    return [model.tokenizer.decode(until_end(model, ids), skip_special_tokens=True) for ids in more]


def _framed(text: str) -> str:
    """A question with a place for its answer, a sentence as it is."""
    return FRAMES["qa"].replace("{}", text) if text.endswith("?") else text


# ---- where chains come from ----


def shipped_chains(first: Sequence[str] = (), seed: int = 0) -> tuple[Chain, ...]:
    """Chains of two shipped relations, shuffled; `first` names the relations of the first hop, by default all.

    Raises UserError for a relation that has no phrase.
    """
    if wrong := next((name for name in first if name not in PHRASES), None):
        raise UserError(f"{wrong!r} cannot be the first hop of a chain; those that can are {', '.join(PHRASES)}")
    ours = relations()
    made = [chain for name in (first or PHRASES) for second in ours.values() for chain in _joined(ours[name], second)]
    random.Random(seed).shuffle(made)
    return tuple(made)


def _joined(first: Relation, second: Relation) -> list[Chain]:
    """The chains of two relations: the answer of the first is a subject of the second, before the edit and after."""
    phrase, bare = PHRASES[first.name]
    entries = {entry.subject: entry for entry in second.entries}
    template = second.templates[SECOND.get(second.name, 0)]
    made = []
    for entry in first.entries:
        fact = first.fact(entry, first.templates[0])
        targets = [
            answer for answer in first.answers if answer in entries and answer not in (fact.answer, *fact.aliases)
        ]
        if fact.answer not in entries or not targets:
            continue
        draw = random.Random(f"{fact.id}/{second.name}")
        target = fact.foil if fact.foil in targets else draw.choice(targets)
        old, new = entries[fact.answer], entries[str(target)]
        subject = f"the {fact.subject[4:]}" if fact.subject.startswith("The ") else fact.subject
        made.append(
            Chain(
                id=f"{fact.id}/{second.name}",
                requests=(EditRequest.of(replace(fact, foil=target)),),
                question=_sentence(template, fill(phrase, subject)),
                bare=_sentence(template, bare),
                new=(new.answer, *new.aliases),
                old=(old.answer, *old.aliases),
                edited=(str(target),),
            )
        )
    return made


def _sentence(template: str, phrase: str) -> str:
    """A template about a phrase, with a capital in front."""
    text = fill(template, phrase)
    return text[0].upper() + text[1:]


def mquake_chains(path: str | Path) -> tuple[Chain, ...]:
    """The chains of an MQuAKE file whose last answer is not itself edited, in the file's order.

    Raises FactError for a file of another format, and where no chain is left.
    """
    cases = load_cases(path)
    if any(case.suite != "MQuAKE" for case in cases):
        raise FactError(f"{path} holds {cases[0].suite or 'facts'}, and chains are read from MQuAKE's files")
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as trouble:
        raise FactError(f"{path}: chains are read from one JSON file of MQuAKE ({trouble})") from None
    olds = {
        f"mquake/{record.get('case_id', number)}": (record["answer"], *record.get("answer_alias", ()))
        for number, record in enumerate(records if isinstance(records, list) else [records])
    }
    made = [chain for case in cases if (chain := _of_case(case, olds[case.id])) is not None]
    if not made:
        raise FactError(f"{path}: every chain's last answer is itself edited, so no hop follows from an edit")
    return tuple(made)


def _of_case(case: Case, old: tuple[str, ...]) -> Chain | None:
    (question, *_) = next(group.questions for group in case.more if group.kind == "multi-hop")
    new, edited = question.answers[0], tuple(request.target for request in case.requests)
    if any(same_text(text, edited) for text in new):
        return None
    subject = case.requests[0].subject
    places = whole_words(subject, question.prompt)
    bare = ""
    if len(places) == 1:
        begin, end = places[0].span()
        rest = question.prompt[end:].removeprefix("'s")
        bare = " ".join(f"{question.prompt[:begin]}{rest}".split())
    return Chain(case.id, case.requests, question.prompt, bare, new, old, edited)
