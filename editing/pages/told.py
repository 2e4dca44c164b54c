"""One edit, told: what the model said and what it says now, to the edited prompt, in other words, and of neighbours.

Of many facts a table of scores is the short answer. Of one fact it is not: a share of one is 0 or 1, and an interval of
one fact says nothing about others. So the rows themselves are shown, with what the model writes when nobody holds its
hand (free generation, up to the end of the text), and the scores are counts in one line.
"""

from collections.abc import Sequence
from math import exp
from typing import Any

from editing.evaluation.read import Reading, Row
from editing.pages.scores import in_lines
from factscope.plots.escape import shortened, visible
from factscope.plots.labels import counted
from factscope.plots.specs import Table

NEIGHBOURS = 3  # shown, those that moved most
PARAPHRASES = 2
WIDE = 56  # letters of a prompt
COLUMNS = ("", "prompt", "said", "P", "says now", "P")


def one_fact(rows: Sequence[Row]) -> Row | None:
    """The row of the one edited prompt; None where several were edited, or where it was not read again."""
    edited = [row for row in rows if row.kind == "rewrite"]
    return edited[0] if len(edited) == 1 and edited[0].now is not None else None


def told(rows: Sequence[Row]) -> list[str]:
    """The lines that a terminal shows of one fact: answers with their probabilities, the text, the scores as counts."""
    edited = one_fact(rows)
    assert edited is not None  # the caller has asked
    lines = [*in_lines(answer_table(rows)), *_written(edited), _counts(rows, edited), _probes(rows)]
    return [line for line in lines if line]


def answer_table(rows: Sequence[Row]) -> Table:
    """The greedy next token before and now, with its probability and the new answer's, for the prompt and others."""
    edited = one_fact(rows)
    new = "" if edited is None else edited.target
    cells = []
    for name, row in _chosen(rows):
        now, was = row.now or row.before, row.before
        cells.append(
            (name, shortened(row.prompt, WIDE), visible(was.top or ""), _p(was.top_p), visible(now.top or ""),
             _p(now.top_p), _p(_of_new(row, was)), _p(_of_new(row, now)))
        )  # fmt: skip
    return Table("Said and says", (*COLUMNS, f"P({new}) before", "now"), tuple(cells))


def _chosen(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The prompt, its first paraphrases, and the neighbours whose next token moved most (KL)."""
    near = [row for row in rows if row.kind == "locality"]
    near.sort(key=lambda row: -(row.now or row.before).kl)
    return [
        *(("prompt", row) for row in rows if row.kind == "rewrite"),
        *(("paraphrase", row) for row in [row for row in rows if row.kind == "paraphrase"][:PARAPHRASES]),
        *(("neighbour", row) for row in near[:NEIGHBOURS]),
    ]


def _written(row: Row) -> list[str]:
    """What is written after the prompt when no answer is put into the model's mouth."""
    now = row.now
    if row.before.said is None or now is None or now.said is None:
        return []
    return [f"Wrote: {_text(row.before.said)}", f"Writes now: {_text(now.said)}"]


def _text(words: str) -> str:
    return f"“{visible(words.strip())}”" if words.strip() else "(nothing: the text ends)"


def _counts(rows: Sequence[Row], edited: Row) -> str:
    """The scores of one fact, as counts."""
    now = edited.now
    assert now is not None
    parts = [f"“{edited.target}” is {'the whole answer' if now.exact else 'not the answer'} now"]
    given = now.hit if now.stated is None else now.stated
    if given is not None and given != now.exact:
        parts[0] += f", and is {'' if given else 'not '}in what is written"
    if now.nll_other is not None:
        more, both = ("more" if now.nll < now.nll_other else "not more"), (exp(-now.nll), exp(-now.nll_other))
        parts.append(f"it is {more} probable than “{edited.other}” ({both[0]:.3g} to {both[1]:.3g})")
    other = [one for row in rows if row.kind == "paraphrase" and (one := row.now) is not None]
    near = [one for row in rows if row.kind == "locality" and (one := row.now) is not None]
    if other:
        parts.append(f"in other words {sum(one.exact for one in other)} of {len(other)}")
    if near:
        same, drift = sum(bool(one.next_same) for one in near), sum(one.kl for one in near) / len(near)
        parts.append(
            f"the next token of {same} of {counted(len(near), 'neighbour')} is as before (KL {drift:.2g} nats)"
        )
    missing = [name for name, some in (("paraphrases", other), ("neighbours", near)) if not some]
    if missing:
        parts.append(f"no {' or '.join(missing)} to ask of this fact: they come with a fact in a file (--facts FILE)")
    return f"Scores of one fact: {'; '.join(parts)}"


def _probes(rows: Sequence[Row]) -> str:
    """What is said in other frames, negated, and as yes or no, as counts; empty where nothing of it was asked."""
    now = {kind: [one for row in rows if row.kind == kind and (one := row.now) is not None]
           for kind in ("frame", "negation", "verification")}  # fmt: skip
    parts = []
    if frames := now["frame"]:
        parts.append(f"in other frames {sum(bool(one.stated) for one in frames)} of {len(frames)} are answered with it")
    if negated := [one for one in now["negation"] if one.nll_other is not None]:
        kept = all(one.nll >= (one.nll_other or 0.0) for one in negated)
        parts.append(
            f"negated, the new answer is {'not ' if kept else ''}the likelier" + ("" if kept else " all the same")
        )
    if asked := [one for one in now["verification"] if one.nll_other is not None]:
        right = sum(one.nll < (one.nll_other or 0.0) for one in asked)
        which = "new and the old" if len(asked) > 1 else "new"
        parts.append(f"yes or no, of the {which} statement: {right} of {len(asked)} right")
    return f"Asked otherwise: {'; '.join(parts)}" if parts else ""


def in_json(rows: Sequence[Row]) -> dict[str, Any]:
    """For a program: prompt, target, before and after of one fact, and what every other question was answered with."""
    edited = one_fact(rows)
    lead = {} if edited is None else {"prompt": edited.prompt, "target": edited.target, **_times(edited)}
    others = [
        {"kind": row.label or row.kind, "prompt": row.prompt, "target": row.target, **_times(row)}
        for row in rows
        if row is not edited
    ]
    return {**lead, "questions": others}


def _times(row: Row) -> dict[str, Any]:
    return {"before": _reading(row.before), "after": _reading(row.now)}


def _reading(one: Reading | None) -> dict[str, Any] | None:
    """What was said at one time; probabilities of answers are geometric means over their tokens."""
    if one is None:
        return None
    return {
        "next_token": one.top,
        "probability": one.top_p,
        "target_probability": exp(-one.nll),
        "other_probability": None if one.nll_other is None else exp(-one.nll_other),
        "written": one.said,
    }


def _of_new(row: Row, one: Reading) -> float | None:
    """Probability of the edit's new answer: the target, or what must not be preferred where something must stay."""
    nll = one.nll_other if row.kind == "locality" else one.nll
    return None if nll is None else exp(-nll)


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}" if value >= 0.001 else f"{value:.1e}"
