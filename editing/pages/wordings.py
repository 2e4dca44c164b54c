"""What became of edits in hard wordings: for each wording how often the old answer is back, in words and as a table."""

from collections.abc import Sequence

import numpy as np

from editing.evaluation.read import Row
from factscope.data.questions.variations import LENGTHS
from factscope.plots.labels import counted
from factscope.plots.specs import Cell, Curves, Section, Series, Spec, Table, Text
from factscope.statistics import INTERVALS, interval

ABOUT = (
    "The edited prompts in hard wordings. Back: of the edits that hold on their own prompt, the share in which the old "
    "answer is again at least as likely as the new one. Given: every token of the answer is the argmax; the first of "
    "both columns is the unedited model's, which tells how hard the wording is by itself."
)


def wordings(rows: Sequence[Row]) -> tuple[Section, ...]:
    """The section of a page; none where no hard wording was asked."""
    table = wording_table(rows)
    if not table.rows:
        return ()
    specs: tuple[Spec, ...] = (Text(" ".join(wording_words(rows))), table, *_curve(rows))
    return (Section("In hard wordings", specs, ABOUT),)


def wording_words(rows: Sequence[Row]) -> list[str]:
    """How many edits go back in some hard wording and where most do, in a sentence; none where none was asked."""
    if not any(row.kind == "variation" and row.other is not None for row in rows):
        return []
    found = _back(rows)
    if not found:
        return ["No edit holds on its own prompt, so none can go back in a hard wording."]
    held = {case for some in found.values() for case, _ in some}
    gone = {case for some in found.values() for case, back in some if back}
    back = {label: [one for _, one in some] for label, some in found.items()}
    worst = max(back, key=lambda label: (float(np.mean(back[label])), label))
    whose = "holds on its own prompt" if len(held) == 1 else "hold on their own prompt"
    said = (
        f"Hard wordings: of {counted(len(held), 'edit')} that {whose}, {len(gone) or 'none'} "
        f"go{'es' * (len(gone) < 2)} back to the old answer in any of {len(back)} wordings"
    )
    most = f"; most often in “{worst}”, {sum(back[worst])} of {len(back[worst])}" if gone else ""
    return [f"{said}{most}."]


def wording_table(rows: Sequence[Row]) -> Table:
    """A row for each hard wording."""
    back = _back(rows)
    cells: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(row.label for row in rows if row.kind == "variation"):
        some = [row for row in rows if row.kind == "variation" and row.label == label]
        gone = [value for _, value in back.get(label, ())]
        times = [row.before for row in some], [one for row in some if (one := row.now) is not None]
        given = [
            _share([getattr(one, name) for one in readings]) for name in ("exact", "exact_other") for readings in times
        ]
        cells.append((label, len(some), len(gone), _share(gone), *given))
    columns = ("wording", "asked", "of edits that hold", "back", "new given, before", "now", "old given, before", "now")
    return Table("Hard wordings", columns, tuple(cells))


def _curve(rows: Sequence[Row]) -> tuple[Curves, ...]:
    """The share that is back over the length of what stands before; of one length there is no curve."""
    back = _back(rows)
    every = {n: [gone for _, gone in back.get(f"long context, {n} sentences", ())] for n in LENGTHS}
    found = {n: some for n, some in every.items() if some}
    if len(found) < 2 or max(map(len, found.values())) < 2:
        return ()  # one length is no curve, and one fact no share
    ends = [interval([float(one) for one in some], "share") for some in found.values()]
    low, high = (np.array([each[side] for each in ends]) for side in (0, 1))
    values = np.array([np.mean(some) for some in found.values()])
    return (
        Curves(
            "Back at the old answer after a long text",
            np.array(list(found)),
            (Series("back", values, low, high),),
            "sentences before the prompt",
            y_title="share of the edits that hold",
            note=f"Bands: {INTERVALS}.",
        ),
    )


def _held(rows: Sequence[Row]) -> set[str]:
    """The cases whose own prompts all prefer the new answer now."""
    own = [(row.case, now) for row in rows if row.kind == "rewrite" and (now := row.now) is not None]
    fallen = {case for case, now in own if now.nll_other is None or now.nll >= now.nll_other}
    return {case for case, _ in own} - fallen


def _back(rows: Sequence[Row]) -> dict[str, list[tuple[str, bool]]]:
    """By wording, each case that holds on its own prompt with whether the old answer is back."""
    held = _held(rows)
    found: dict[str, list[tuple[str, bool]]] = {}
    for row in rows:
        now = row.now
        if row.kind == "variation" and row.case in held and now is not None and now.nll_other is not None:
            found.setdefault(row.label, []).append((row.case, now.nll >= now.nll_other))
    return found


def _share(values: Sequence[bool | None]) -> Cell:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None
