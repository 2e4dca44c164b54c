"""One edit tried at every layer, as a page and in words."""

from dataclasses import asdict
from typing import Any

import numpy as np

from editing.layer_trials import LayerChoice
from factscope.plots.labels import numbers_in_words
from factscope.plots.specs import Curves, Headline, Number, Page, Section, Series, Table
from factscope.statistics import ENOUGH


def page(choice: LayerChoice) -> Page:
    """The trials of `edit layers`."""
    x = np.array([trial.layer for trial in choice.trials])
    lines = {
        "efficacy": [t.efficacy for t in choice.trials],
        "paraphrase": [t.paraphrase for t in choice.trials],
        "neighbourhood": [t.neighbourhood for t in choice.trials],
        "neighbours unchanged": [t.unchanged for t in choice.trials],
        "mark": [t.mark for t in choice.trials],
    }
    series = tuple(Series(name, np.array(values)) for name, values in lines.items())
    said = Headline(f"{words(choice)[0]}.", (Number(f"layer {choice.best}", "does best"),))
    drawn = Curves(
        "Scores", x, series, "layer", (), "share", "", note=f"Method {choice.method}; moments: {choice.moments}."
    )
    return Page("Which layer to edit", (Section("Layers", (said, drawn, layer_table(choice))),))


def words(choice: LayerChoice) -> list[str]:
    """The layer that does best, and how sure that is."""
    said = f"Layer {choice.best} does best on {len(choice.facts)} known facts, by {choice.method}"
    return [f"{said}; {sureness(choice)}"]


def summary(choice: LayerChoice) -> dict[str, Any]:
    """Every layer's scores, and the best, for a program."""
    return {"best": choice.best, "method": choice.method, "trials": [vars(trial) for trial in choice.trials]}


def records(choice: LayerChoice) -> list[dict[str, Any]]:
    """A row a layer: its scores, and its mark, their harmonic mean."""
    return [{key: value for key, value in asdict(one).items() if key != "per_fact"} for one in choice.trials]


def sureness(choice: LayerChoice) -> str:
    """How often resamples of the facts say the same, and which layers could as well be the best."""
    shares = choice.shares()
    if not shares:
        return f"fewer than {ENOUGH} subjects do not say how sure that is"
    often = f"so it does in {shares[choice.best]:.0%} of resamples of the facts"
    if len(likely := choice.likely()) == 1:
        return often
    return f"{often}, and the best is among layers {numbers_in_words(likely)} in 95 % of them"


def layer_table(choice: LayerChoice) -> Table:
    """One row per layer."""
    shares = choice.shares()
    columns = ("layer", "efficacy", "paraphrase", "neighbourhood", "unchanged", "KL, nats", "mark", "best in")
    rows = tuple(
        (t.layer, *(round(v, 3) for v in (t.efficacy, t.paraphrase, t.neighbourhood, t.unchanged, t.kl, t.mark)),
         round(shares[t.layer], 3) if shares else None)
        for t in choice.trials
    )  # fmt: skip
    note = "Mark: the harmonic mean of the four shares. Best in: the share of bootstraps over facts with the best mark."
    return Table("Layers", columns, rows, note)
