"""One edit tried at every layer, as a page and in words."""

import numpy as np

from editing.layer_trials import LayerChoice
from factscope.plots.specs import Curves, Headline, Number, Page, Section, Series, Table


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
    said = Headline(
        f"Layer {choice.best} does best on {len(choice.facts)} facts.", (Number(str(choice.best), "layer"),)
    )
    drawn = Curves(
        "Scores", x, series, "layer", (), "share", "", note=f"Method {choice.method}; moments: {choice.moments}."
    )
    return Page("Which layer to edit", (Section("Layers", (said, drawn, layer_table(choice))),))


def words(choice: LayerChoice) -> list[str]:
    """The layer that does best."""
    return [f"Layer {choice.best} does best on {len(choice.facts)} known facts, by {choice.method}"]


def layer_table(choice: LayerChoice) -> Table:
    """One row per layer."""
    columns = ("layer", "efficacy", "paraphrase", "neighbourhood", "unchanged", "KL, nats", "mark")
    rows = tuple(
        (t.layer, *(round(v, 3) for v in (t.efficacy, t.paraphrase, t.neighbourhood, t.unchanged, t.kl, t.mark)))
        for t in choice.trials
    )
    return Table("Layers", columns, rows, "Mark: the harmonic mean of the four shares.")
