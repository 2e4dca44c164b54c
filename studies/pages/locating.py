"""Whether locating finds the fact, as a page and in words."""

from typing import Any

import numpy as np

from factscope.plots.labels import settings_in_words
from factscope.plots.specs import Card, Cell, Curves, Headline, Number, Page, Palette, Section, Series, Table, Text
from factscope.results.provenance import provenance
from factscope.statistics import ENOUGH
from studies.tables.locating import KINDS, Located, LocatingStudy

COLOURS: dict[str, Palette] = {"same fact": "green", "same subject": "purple", "same relation": "orange"}
FEW = f"No bands: under {ENOUGH} subjects are too few for a bootstrap."


def words(study: LocatingStudy) -> list[str]:
    """What each method finds, one sentence each."""
    return [_sentence(each) for each in study.located]


def page(study: LocatingStudy) -> Page:
    """The result in words first, then RSim by the number of places for each method."""
    facts = [each for each in study.located if each.found == "the fact"]
    first = (
        f"{len(facts)} of {len(study.located)} ways of locating find the fact: its two wordings agree more than two "
        "facts of its subject, and more than two of its relation."
    )
    head = Headline(
        first,
        tuple(Number(each.found, f"{each.method}, {each.place}") for each in study.located[:4]),
    )
    reading = (
        "Places are located for each prompt, and the n highest of two prompts compared. RSim is 0 where two prompts "
        "share no more than unrelated ones, and 1 where they share everything. If two wordings of one fact (green) "
        "agree no more than two facts of one subject (purple), the subject was found; if no more than one relation's "
        "facts about two subjects (orange), the relation."
    )
    notes = (Text("\n\n".join(study.notes)),) if study.notes else ()
    pictures = tuple(_curves(each) for each in study.located)
    return Page(
        f"Does locating find the fact? {len(study.subjects)} subjects, {len(study.relations)} relations",
        (
            Section("The answer", (head, Text("\n\n".join(words(study))), *notes, _table(study))),
            Section("Agreement by number of places", pictures, reading),
            Section("How it was measured", (_pairs(study), _card(study))),
        ),
        subtitle=", ".join(study.relations),
    )


def summary(study: LocatingStudy) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "subjects": list(study.subjects),
        "relations": list(study.relations),
        "located": [
            {
                "method": each.method,
                "place": each.place,
                "finds": each.found,
                "rsim": dict(zip(KINDS, each.rsim.mean(1).tolist(), strict=True)),
            }
            for each in study.located
        ],
    }


def records(study: LocatingStudy) -> list[dict[str, Any]]:
    """A row for each method, kind of pair and number of places."""
    return [
        {
            "method": each.method,
            "place": each.place,
            "pairs": kind,
            "n": n,
            "similarity": float(each.similarity[k, i]),
            "unrelated": float(each.similarity[-1, i]),
            "rsim": float(each.rsim[k, i]),
            "low": float(each.low[k, i]),
            "high": float(each.high[k, i]),
        }
        for each in study.located
        for k, kind in enumerate(KINDS)
        for i, n in enumerate(each.sizes)
    ]


def _sentence(each: Located) -> str:
    fact, subject, relation = each.rsim.mean(1).tolist()
    return (
        f"{each.method} ({each.place}) finds {each.found}: RSim {fact:.2f} for two wordings of a fact, {subject:.2f} "
        f"for two facts of a subject, {relation:.2f} for two of a relation (mean over n)."
    )


def _curves(each: Located) -> Curves:
    values, low, high = (found.numpy() for found in (each.rsim, each.low, each.high))
    ends = (low, high) if each.sure else ([None] * len(KINDS),) * 2
    series = tuple(
        Series(kind, value, low, high, COLOURS[kind])
        for kind, value, low, high in zip(KINDS, values, *ends, strict=True)
    )
    return Curves(
        f"RSim of {each.method}: {each.place}",
        np.arange(len(each.sizes)),
        series,
        x_title=f"n, of {each.place}",
        x_labels=tuple(str(n) for n in each.sizes),
        y_title="RSim",
        note="Bands: 95 %, by a bootstrap over subjects." if each.sure else FEW,
    )


def _table(study: LocatingStudy) -> Table:
    def cell(each: Located, kind: int) -> str:
        ends = f" [{each.low[kind].mean():.2f}, {each.high[kind].mean():.2f}]" if each.sure else ""
        return f"{each.rsim[kind].mean():.2f}{ends}"

    rows: list[tuple[Cell, ...]] = []
    for each in study.located:
        cells = [cell(each, kind) for kind in range(len(KINDS))]
        unrelated = round(float(each.similarity[-1].mean()), 2)
        rows.append((f"{each.method}, {each.place}", *cells, unrelated, each.found))
    note = (
        "RSim, mean over n; in brackets the mean ends of its 95 % intervals, of five subjects or more. Unrelated: "
        "Sim of another subject and relation."
    )
    return Table("What is found", ("located by", *KINDS, "unrelated", "finds"), tuple(rows), note=note)


def _pairs(study: LocatingStudy) -> Table:
    return Table("Pairs of prompts", ("kind", "pairs"), tuple(study.pairs.items()))


def _card(study: LocatingStudy) -> Card:
    items = (
        ("subjects", ", ".join(study.subjects)),
        ("relations", ", ".join(study.relations)),
        ("prompts", " / ".join(study.prompts)),
        ("settings", settings_in_words(study.settings)),
    )
    return provenance(study.run, *items)
