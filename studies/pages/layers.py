"""Which layer to edit, as a page and in words: the measures side by side, their ranks, and how they agree."""

from dataclasses import asdict
from typing import Any

import numpy as np

from editing.pages import layer_trials
from factscope.plots.labels import as_sentence, counted, four_digits, numbers_in_words
from factscope.plots.specs import Cell, Curves, Headline, Number, Page, Section, Series, Spec, Table
from factscope.statistics import ranks
from studies.layers import LayerStudy, Measure


def page(study: LayerStudy) -> Page:
    """The measures side by side, their ranks, and how they agree."""
    x = np.array(study.layers)
    numbers = tuple(Number(_favourite(study, one.way), f"favoured by {one.way}") for one in study.measures)
    said = Headline(" ".join(_sentences(study)), numbers)
    drawn: list[Spec] = []
    for one in study.measures:
        band = (np.array(one.low), np.array(one.high)) if one.low else (None, None)
        series = Series(one.way, np.array(one.values), *band)
        note = as_sentence(f"{one.meaning}; {one.facts} facts")
        drawn.append(Curves(one.way.capitalize(), x, (series,), "layer", (), one.way, one.unit, note=note))
    sections = [
        Section("Which layer", (said, *drawn, layer_table(study))),
        *([Section("How they agree", (agreement_table(study),))] if study.agreements else []),
    ]
    if study.outcome is not None:
        sections += [Section("Editing at every layer", layer_trials.page(study.outcome).sections[0].specs)]
    return Page("Which layer to edit", tuple(sections), f"{counted(len(study.facts), 'fact')}, {study.run.model}")


def layer_table(study: LayerStudy) -> Table:
    """One row a layer: every measure, and its rank, 1 for the largest."""
    columns = ["layer"] + [name for one in study.measures for name in (one.way, f"rank by {one.way}")]
    ordered = [ranks(-np.asarray(one.values, dtype=float)) for one in study.measures]
    rows = []
    for place, layer in enumerate(study.layers):
        cells: list[Cell] = [layer]
        for one, rank in zip(study.measures, ordered, strict=True):
            cells += [four_digits(one.values[place]), float(rank[place])]
        rows.append(tuple(cells))
    return Table(
        "Layers", tuple(columns), tuple(rows), "; ".join(f"{one.way}: {one.meaning}" for one in study.measures)
    )


def agreement_table(study: LayerStudy) -> Table:
    """Spearman's correlation of every pair of measures."""
    rows = tuple(
        (f"{one.one} and {one.other}", *(None if x != x else float(f"{x:.3g}") for x in (one.rho, one.p)), one.layers)
        for one in study.agreements
    )
    note = (
        "Spearman's rank correlation over layers; p two-sided: of all ways to move the one's layers around or to turn "
        "them around (neighbours stay alike), the share with as large a correlation; of n layers at least 1 / (2 n)."
    )
    return Table("Rank correlation", ("between", "rho", "p", "layers"), rows, note)


def _favourite(study: LayerStudy, way: str) -> str:
    best = study.best(way)
    return "none, as all are alike" if best is None else f"layer {best}"


def _among(one: Measure) -> str:
    """The layers that resamples of the facts favour; a circuit is one, and a few facts tell nothing."""
    return f" (in 95 % of resamples of the facts: {numbers_in_words(one.likely)})" if one.likely else ""


def words(study: LayerStudy) -> list[str]:
    """What editing at each layer did, what each way favours, and how the ways agree."""
    tried = [
        f"layer {trial.layer:>3}  efficacy {trial.efficacy:.2f}  paraphrase {trial.paraphrase:.2f}  "
        f"neighbourhood {trial.neighbourhood:.2f}  unchanged {trial.unchanged:.2f}  mark {trial.mark:.3f}"
        for trial in (study.outcome.trials if study.outcome else ())
    ]
    return [*tried, *_sentences(study)]


def _sentences(study: LayerStudy) -> list[str]:
    favoured = ", ".join(f"{one.way} favours {_favourite(study, one.way)}{_among(one)}" for one in study.measures)
    said = [f"On {len(study.facts)} known facts, {favoured}."]
    for one in study.agreements:
        how = (
            "cannot be compared: one is the same everywhere"
            if one.rho != one.rho
            else f"rho {one.rho:+.2f}, p {one.p:.2g}"
        )
        said.append(f"{one.one.capitalize()} and {one.other} over {one.layers} layers: {how}.")
    return said


def summary(study: LayerStudy) -> dict[str, Any]:
    """The numbers that a program would ask for first, the best layer the first way's; null for what is no number."""
    trials = study.outcome.trials if study.outcome else ()
    return {
        "best": study.best(study.measures[0].way),
        "facts": len(study.facts),
        "layers": study.layers,
        "agreements": [_plain(one) for one in study.agreements],
        "trials": [_plain(one) for one in trials],
        "measures": [_plain(one) for one in study.measures],
    }


def records(study: LayerStudy) -> list[dict[str, Any]]:
    """A row a layer and way of asking: the value in its unit, with its 95 % interval where it is known."""
    return [
        {"way": one.way, "layer": layer, "value": one.values[place], "unit": one.unit, "facts": one.facts,
         "low": one.low[place] if one.low else None, "high": one.high[place] if one.high else None}
        for one in study.measures
        for place, layer in enumerate(study.layers)
    ]  # fmt: skip


def _plain(value: Any) -> dict[str, Any]:
    """Fields for a program, null for what is no number."""
    return {
        name: tuple(None if part != part else part for part in found)
        if isinstance(found, tuple)
        else None
        if found != found
        else found
        for name, found in asdict(value).items()
    }
