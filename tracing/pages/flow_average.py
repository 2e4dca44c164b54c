"""What the flow of many facts looks like: curves by source over layers with their intervals, and what is recalled."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from factscope.plots.labels import counted, layers_in_words, numbers_in_words, setting_in_words
from factscope.plots.specs import (
    Card,
    Curves,
    Headline,
    Number,
    Page,
    Section,
    Series,
    Spec,
    Table,
    state_labels,
)
from factscope.results.provenance import provenance
from factscope.statistics import ENOUGH, interval, interval_in_words, percentile_bootstrap
from tracing.causal import window_of
from tracing.flow.results import PARTS, SOURCES, TARGETS, FlowAverage
from tracing.pages.flow import COLOURS, LEAST, NOWHERE, WRITERS, change_by_layer, falls, order, windows


def words(result: FlowAverage) -> list[str]:
    """How many facts; then each target's sources in the order of their strongest layers; then what is recalled."""
    lines = [
        f"{counted(len(result.facts), 'fact')}, {len(result.skipped)} skipped: probability {result.clean.mean():.3f} "
        f"({windows(result.window)})"
    ]
    for target in TARGETS:
        numbers = [n for n in _present(result) if result.knockouts[n][0] == target]
        if numbers:
            told = "; ".join(
                _in_words(result, number) for number in sorted(numbers, key=lambda n: order(result.mean[n]))
            )
            lines.append(f"Without attention of {TARGETS[target]} to {told}")
    return [*lines, _extraction_words(result)]


def _present(result: FlowAverage) -> list[int]:
    """Knockouts that any fact has."""
    return [number for number in range(len(result.knockouts)) if not result.mean[number].isnan().all()]


def _layer(result: FlowAverage, number: int) -> int:
    return int(result.mean[number].nan_to_num(torch.inf).argmin())


def _in_words(result: FlowAverage, number: int) -> str:
    source, layer = SOURCES[result.knockouts[number][1]], _layer(result, number)
    if not falls(result.mean[number]):
        return f"{source}: {NOWHERE}"
    low, high = float(result.low[number, layer]), float(result.high[number, layer])
    sure = "" if low != low else f" ({low:+.0%} to {high:+.0%})"
    layers = layers_in_words(window_of(layer, result.window, result.mean.shape[1]))
    return f"{source}: {result.mean[number, layer]:+.0%}{sure} in {layers}"


def summary(result: FlowAverage) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "facts": len(result.facts),
        "skipped": result.skipped,
        "probability": float(result.clean.mean()),
        "window": result.window,
        "knockouts": [
            {
                "target": result.knockouts[number][0],
                "source": result.knockouts[number][1],
                "layer": (layer := _layer(result, number)),
                "relative_change": float(result.mean[number, layer]),
                "from": _number(result.low[number, layer]),
                "to": _number(result.high[number, layer]),
                "random_words": _number(result.null[number, layer]),
            }
            for number in _present(result)
        ],
        "extraction_rate": {part: float(_extracted(result, number).mean()) for number, part in enumerate(PARTS)},
        "seconds": result.run.seconds,
    }


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def records(result: FlowAverage) -> list[dict[str, Any]]:
    """A row a knockout and layer: the mean change of the probability with its 95 % interval, and of how many facts."""
    counts = (~result.per_fact[:, :, 0].isnan()).sum(0)
    return [
        {"target": result.knockouts[number][0], "source": result.knockouts[number][1], "layer": layer,
         "change": float(result.mean[number, layer]), "low": float(result.low[number, layer]),
         "high": float(result.high[number, layer]), "null": float(result.null[number, layer]),
         "facts": int(counts[number])}
        for number in _present(result)
        for layer in range(result.mean.shape[1])
    ]  # fmt: skip


# ---- the page ----


def page(result: FlowAverage) -> Page:
    """The page of an average over facts."""
    headline = Headline(
        _points(result),
        (
            Number(str(len(result.facts)), f"facts followed ({len(result.skipped)} skipped)"),
            Number(f"{result.clean.mean():.3f}", "probability of the answer, clean"),
            Number(counted(result.window, "layer"), "in which attention is knocked out at a time"),
        ),
    )
    skipped = Table("Skipped facts", ("fact", "why"), tuple(result.skipped.items()))
    sections = [
        Section("What was found", (headline,)),
        Section("What answers lose without a source", curves(result), _EXPLANATION),
        Section("Beside random words", (_table(result),)),
        *_recall(result),
        *([Section("What was left out", (skipped,))] if result.skipped else []),
        Section("What was run", (_card(result),)),
    ]
    return Page(
        f"Average flow: {result.source}",
        tuple(sections),
        f"Attention knockout, {counted(len(result.facts), 'fact')}, {result.run.model}",
    )


def _points(result: FlowAverage) -> str:
    """The two critical points: where the last token reads the relation, and where it reads the subject."""
    keys = [("last token", source) for source in ("subject", "relation")]
    main = [n for n in _present(result) if result.knockouts[n] in keys] or _present(result)[:2]
    told = [
        f"where {TARGETS[result.knockouts[n][0]]} does not see {_in_words(result, n)}"
        for n in sorted(main, key=lambda n: order(result.mean[n]))
    ]
    return f"What the probability of the answer loses, {'; '.join(told)}. {_extraction_words(result)}."


_EXPLANATION = (
    "Each point: the mean over facts of the relative change of the whole answer's probability, where the attention to "
    "these tokens is masked before the softmax in the layers around. Bands: 95 % bootstrap intervals over subjects, "
    f"each layer by itself; none where fewer than {ENOUGH} subjects have such tokens. Where an answer was improbable, "
    "a knockout may raise its probability to several times what it was. The start token holds no word: models park "
    "attention there, and its line shows what disturbing that costs."
)


def curves(result: FlowAverage) -> tuple[Spec, ...]:
    """A picture for each target, a line for each source with its interval."""
    drawn = []
    for target in TARGETS:
        lines, null = [], []
        for number in (n for n in _present(result) if result.knockouts[n][0] == target):
            source = result.knockouts[number][1]
            band = tuple(100 * end[number].numpy() for end in (result.low, result.high))
            known = not np.isnan(band[0]).all()
            low, high = band if known else (None, None)
            lines.append(Series(SOURCES[source], 100 * result.mean[number].numpy(), low, high, COLOURS[source]))
            if source == "subject" and not result.null[number].isnan().all():
                null.append(Series("as many random words", 100 * result.null[number].numpy()))
        if lines:
            drawn.append(change_by_layer(target, (*lines, *null)))
    return tuple(drawn)


def _table(result: FlowAverage) -> Table:
    rows = []
    for number in _present(result):
        layer = _layer(result, number)
        target, source = result.knockouts[number]
        values = result.per_fact[:, number, layer]
        low, high = (float(end[number, layer]) for end in (result.low, result.high))
        null = result.null[number, layer]
        rows.append(
            (
                target,
                source,
                numbers_in_words(window_of(layer, result.window, result.mean.shape[1]))
                if falls(result.mean[number])
                else None,
                round(100 * float(result.mean[number, layer]), 1),
                interval_in_words(100 * low, 100 * high, int((~values.isnan()).sum())),
                round(float(result.log_per_fact[:, number, layer].nanmean()), 3),
                None if null.isnan() else round(100 * float(null), 1),
                int((~values.isnan()).sum()),
            )
        )
    columns = ("target", "source", "layers", "change %", "95 % interval", "nats", "random words, %", "facts")
    return Table("Each knockout in the layers where it costs most", columns, tuple(rows))


# ---- attributes and extraction ----


def _extracted(result: FlowAverage, part: int) -> Tensor:
    """For each fact, whether any layer's update extracts the answer."""
    return result.extracts[:, part].amax(1)


def _extraction_words(result: FlowAverage) -> str:
    told = []
    for number, part in enumerate(PARTS):
        every = _extracted(result, number).tolist()
        low, high = interval(every, "share", groups=result.subjects)
        told.append(f"the {WRITERS[part]} of a layer in {sum(every) / len(every):.0%} ({low:.0%} to {high:.0%})")
    return f"Of these facts, the answer is extracted at the last token by {' and by '.join(told)}"


def _recall(result: FlowAverage) -> list[Section]:
    known = ~result.attributes.isnan().all(1)
    sections = []
    if known.any():
        labels = state_labels(result.attributes.shape[1])
        lines = []
        for name, values, colour in (
            ("attributes of the subject", result.attributes, COLOURS["subject"]),
            ("attributes of other subjects", result.attributes_null, COLOURS["last subject"]),
        ):
            mean, low, high = (100 * one.numpy() for one in percentile_bootstrap(values, 0, result.subjects))
            if not np.isnan(mean).all():
                bare = np.isnan(low).all()
                lines.append(Series(name, mean, None if bare else low, None if bare else high, colour))
        rate = Curves(
            "Attributes rate at the subject's last token", np.arange(len(labels)), tuple(lines), x_labels=labels,
            y_title="share of the first 50 words", unit="%", least=LEAST,
        )  # fmt: skip
        told = f"Of {counted(int(known.sum()), 'fact')} whose subjects have known attributes."
        sections.append(Section("What the subject's last token holds", (rate,), told))
    layers = np.arange(result.extracts.shape[2])
    shares = Curves(
        "Facts whose answer a layer's update extracts",
        layers,
        tuple(_shares(result, number, part) for number, part in enumerate(PARTS)),
        y_title="share of facts",
        unit="%",
    )
    sections.append(Section("Where answers are extracted", (shares,), f"{_extraction_words(result)}."))
    return sections


def _shares(result: FlowAverage, number: int, part: str) -> Series:
    columns = [result.extracts[:, number, layer].tolist() for layer in range(result.extracts.shape[2])]
    mean = np.array([sum(column) / len(column) for column in columns])
    ends = np.array([interval(column, "share", groups=result.subjects) for column in columns])
    colour = COLOURS["start token"] if part == "attn" else COLOURS["itself"]
    return Series(WRITERS[part], 100 * mean, 100 * ends[:, 0], 100 * ends[:, 1], colour)


def _card(result: FlowAverage) -> Card:
    settings = tuple((name, setting_in_words(value)) for name, value in result.settings.items())
    return provenance(result.run, ("facts", result.source), ("layers at a time", str(result.window)), *settings)
