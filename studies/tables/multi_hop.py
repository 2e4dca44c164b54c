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

Where chains come from is in factscope/data/questions/chains.py.

Convention: shares of chains, with Wilson's 95 % intervals; chains about one subject count as one there.
Scope: chains whose three answers differ. Of MQuAKE: chains whose last answer was not itself edited.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from editing.edit import Edit
from editing.evaluation.said import FRAMES, until_stop
from factscope.data.fact import SHIPPED, whole_words
from factscope.data.questions.chains import Chain
from factscope.data.request import EditRequest
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.forward.generate import generate, text_until_end
from factscope.model.forward.scoring import Pair, score
from factscope.model.prompts import tokenized
from factscope.model.weights import fingerprint
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.runs.workers import ALONE, Workers, each, staying
from factscope.statistics import wilson

KINDS = ("new", "old", "edited", "other")
WORDS = 12  # tokens of a continuation
AT_ONCE = 64  # chains that the unedited model is asked together

Line = dict[str, Any]  # a chain as the journal keeps it; without a row where its second hop is not answered


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
    shown: bool | None = None,
    workers: Workers = ALONE,
) -> HopStudy:
    """Ask every chain, edit its first hop, and ask again.

    Args:
        folder: where each finished chain is recorded; the same call goes on from there.
        workers: who edits; the numbers do not depend on it.

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
        with (
            progress("chains", min(most, len(usable)), shown=shown) as advance,
            closing(_lines(model, usable, done, options, workers)) as found,
        ):
            for line in found:
                if line["id"] not in done:
                    done[line["id"]] = line
                    log.add(line)
                known = "row" in line
                edited, unknown = edited + known, unknown + (not known)
                advance(int(known))
                if edited == most:
                    break
    lines = [done[chain.id] for chain in usable if chain.id in done]
    rows = tuple(_row(line["row"]) for line in lines if "row" in line)[:most]
    if not rows:
        raise UserError(
            f"the unedited model answers the second hop of none of the {unknown} chains of {source}; --unknown edits "
            "such chains, too"
        )
    settings = {"limit": most, "known": options.known, "tokens": WORDS}
    return HopStudy(source, options.method, rows, len(usable), unknown, settings, run.ended(seconds[0]))


def _lines(
    model: Bridge, chains: Sequence[Chain], done: Mapping[str, Line], options: HopOptions, workers: Workers
) -> Generator[Line, None, None]:
    """The chains' lines in their order: those that are done, and the others, `AT_ONCE` at a time."""
    with staying(workers):
        for begin in range(0, len(chains), AT_ONCE):
            some = chains[begin : begin + AT_ONCE]
            kept = {chain.id: done[chain.id] for chain in some if chain.id in done}
            answered = _answered(model, some, options) if len(kept) < len(some) else {}
            left = [chain for chain in some if chain.id not in kept and answered[chain.id]]
            with closing(each(model, partial(_line, options=options), left, workers)) as fresh:
                for chain in some:
                    yield kept.get(chain.id) or (next(fresh) if answered[chain.id] else {"id": chain.id})


def _answered(model: Bridge, chains: Sequence[Chain], options: HopOptions) -> dict[str, bool]:
    """Which chains are to be edited: all, or those whose second hop the unedited model answers."""
    if not options.known:
        return {chain.id: True for chain in chains}
    said = _said(model, [chain.question for chain in chains], options.start)
    return {chain.id: kind_of(chain, text) == "old" for chain, text in zip(chains, said, strict=True)}


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
        found.append(Heard(kind_of(chain, text), min(own, key=lambda kind: own[kind]), text))
    return found


def kind_of(chain: Chain, text: str) -> str:
    """Which of a chain's three answers stands first in a continuation: one of KINDS."""
    said = until_stop(text)
    places = {}
    for kind in KINDS[:3]:
        found = [match.start() for each in getattr(chain, kind) for match in whole_words(each, said, re.IGNORECASE)]
        if found:
            places[kind] = min(found)
    return min(places, key=lambda kind: places[kind]) if places else "other"


def _said(model: Bridge, questions: Sequence[str], start: str) -> list[str]:
    """A greedy continuation of each question."""
    prompts = [tokenized(model, _framed(text), start=start)[0] for text in questions]
    more = generate(model, prompts, WORDS)
    return [text_until_end(model, ids) for ids in more]


def _framed(text: str) -> str:
    """A question with a place for its answer, a sentence as it is."""
    return FRAMES["qa"].replace("{}", text) if text.endswith("?") else text
