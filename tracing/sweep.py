"""Facts one after another, journalled: what every average over facts shares.

Every fact is journalled when it is done, and a run that was stopped takes up at the next one: the numbers are the same
as without the stop, and so they are with several workers (factscope/runs/workers.py). A fact that is left out, because
the model does not know it or for any other reason, is a line of the journal too, with the reason.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from factscope.cache import digest
from factscope.data.fact import Fact
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import logits_at
from factscope.model.known import Known
from factscope.model.prompts import Prompt
from factscope.model.weights import fingerprint
from factscope.progress import progress
from factscope.runs.journal import Journal
from factscope.runs.shards import Shard
from factscope.runs.workers import ALONE, Work, Workers, each

Line = dict[str, Any]
KNOWN = Known()  # what --known asks for


@dataclass(frozen=True)
class Sweep:
    """Which of the facts are traced, and how they are asked."""

    known: bool = False  # only facts that the model knows, as `KNOWN` has it
    wanted: int | None = None  # stop when so many are traced; None: all
    start: str = "auto"
    source: str = ""  # what the facts are called
    workers: Workers = ALONE  # who traces them; the numbers do not depend on it
    shard: Shard | None = None  # only this part of them; None: all

    def settings(self) -> dict[str, str]:
        """What a result says of it."""
        return {"known": str(KNOWN) if self.known else "not asked", "start": self.start}


def work_of(what: str, model: Bridge, facts: Sequence[Fact], config: dict[str, Any], sweep: Sweep) -> dict[str, Any]:
    """What a journal's first line says; UserError without facts."""
    if not facts:
        raise UserError("there is no fact to trace")
    work = {"what": what, "fingerprint": fingerprint(model), "config": config, "known": sweep.known}
    work |= {
        "start": sweep.start,
        "wanted": sweep.wanted,
        "facts": digest([replace(fact, source="") for fact in facts]),
    }
    return work if sweep.shard is None else work | sweep.shard.said(len(facts))


def enough(work: dict[str, Any], lines: Sequence[Line]) -> bool:
    """Whether a sweep with this journal ends after these lines: as many facts as wanted are done."""
    wanted = work.get("wanted")
    return wanted is not None and sum("skipped" not in line for line in lines) >= wanted


def swept(
    model: Bridge,
    facts: Sequence[Fact],
    sweep: Sweep,
    log: Journal,
    work: Work[Fact, tuple[Line, Any]],
    shown: bool | None = None,
    told: Callable[[Any], None] = lambda _: None,
) -> tuple[list[Line], dict[str, str]]:
    """Every fact that the journal does not hold, one line for each; stops when as many as wanted are done.

    `work` gives a fact's line, which says "skipped" where the fact is left out, and what `told` is to hear of it, if
    anything. Gives the lines of the facts that are done, and the reasons of those that are left out; UserError where
    no fact is done, though a shard may be without.
    """
    wanted = sweep.wanted
    facts = facts if sweep.shard is None else sweep.shard.part(facts)
    n_done = sum("skipped" not in line for line in log.done)
    total, begun = (len(facts), len(log.done)) if wanted is None else (wanted, n_done)
    left = facts[len(log.done) :] if n_done != wanted else ()
    with (
        progress("tracing facts", total, begun, shown) as advance,
        closing(each(model, work, left, sweep.workers)) as pieces,
    ):
        for line, more in pieces:
            if more is not None:
                told(more)
            log.add(line)
            fresh = "skipped" not in line
            n_done += fresh
            advance(1 if wanted is None else int(fresh))
            if n_done == wanted:
                break
    done = [line for line in log.done if "skipped" not in line]
    skipped = {line["id"]: line["skipped"] for line in log.done if "skipped" in line}
    if not done and sweep.shard is None:
        example = next(iter(skipped.items()))
        raise UserError(f"none of the {len(facts)} facts could be traced; the first, {example[0]}: {example[1]}")
    return done, skipped


def unknown(model: Bridge, prompt: Prompt, sweep: Sweep) -> str | None:
    """Why a fact is left out of a sweep over known facts; None where it is not."""
    if not sweep.known or KNOWN.prompts(model, (prompt,)):
        return None
    (logits,) = logits_at(model, [prompt.tokens], [[len(prompt.tokens) - 1]])
    said = model.tokenizer.decode([int(logits[0].argmax())])
    return f"not known ({KNOWN}): the model says {said!r}, the fact {prompt.answer!r}"


def plain(nested: Any) -> Any:
    """Nested lists of numbers as a journal holds them: JSON has no NaN."""
    if isinstance(nested, list):
        return [plain(item) for item in nested]
    return None if nested != nested else nested


def floats(nested: Any) -> Any:
    """The same, read back."""
    if isinstance(nested, list):
        return [floats(item) for item in nested]
    return float("nan") if nested is None else float(nested)
