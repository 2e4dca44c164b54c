"""What knowledge neurons look like: the few neurons of a fact, and all of them by layer, beside a trace of the fact."""

from typing import Any

import numpy as np

from factscope.plots.labels import counted, heading, settings_in_words
from factscope.plots.specs import (
    Card,
    Curves,
    Headline,
    Heatmap,
    Number,
    Page,
    Palette,
    Section,
    Series,
    Spec,
    Table,
    Text,
)
from factscope.results.provenance import provenance
from tracing.neurons import Agreement, agreements
from tracing.results import NeuronResult, TraceResult


def page(result: NeuronResult) -> Page:
    """The page of one fact's neurons alone."""
    return Page(
        f"Neurons: {result.prompt.text} … {result.prompt.answer}",
        (*sections(result), Section("What was run", (_card(result),))),
        f"Knowledge neurons of {result.run.model}",
    )


def sections(result: NeuronResult, trace: TraceResult | None = None) -> tuple[Section, ...]:
    """The neurons for a page; with a trace of the same fact, the two side by side."""
    told = Headline(" ".join(_sentences(result, trace)), _numbers(result))
    layers: list[Spec] = [_by_layer(result)]
    if trace is not None and _has_mlp(trace):
        layers.append(_traced(trace))
    return (
        Section("Knowledge neurons", (told, *_notes(result), _table(result)), _MEANING),
        Section("Neurons by layer", (*layers, _wordings(result)), _beside(trace)),
        Section("Do the attributions add up?", (_complete(result),), _COMPLETE),
    )


_MEANING = (
    "A neuron's attribution is what it adds to the answer's probability as it fires at the last token, the token that "
    "predicts: the slope along the way from no activation to its own, layer by layer (integrated gradients). The "
    "fact's neurons are those above the threshold under most wordings."
)
_COMPLETE = (
    "The attributions of a layer must add up to what the answer loses when all neurons of the layer are set to zero. A "
    "layer whose gap is above the tolerance is done again with twice as many points, for the wordings where it is."
)


def _beside(trace: TraceResult | None) -> str:
    if trace is None or not _has_mlp(trace):
        return "Summed over all neurons of a layer, mean over the wordings."
    window = int(str(trace.settings["window"]))
    many = f"windows of {window} layers" if window > 1 else "one layer"
    return (
        "Two questions about the same MLPs. The attribution asks which neurons push the answer up where it is "
        "predicted, in a run that is whole. The trace asks which MLPs bring the answer back in a run whose subject is "
        f"corrupted, at each token, by {many}. They need not agree."
    )


def words(result: NeuronResult, trace: TraceResult | None = None) -> list[str]:
    """What was found, in sentences."""
    return _sentences(result, trace)


def summary(result: NeuronResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "model": result.run.model,
        "fingerprint": result.run.fingerprint,
        "prompt": result.prompt.text,
        "answer": result.prompt.answer,
        "unit": result.unit,
        "wordings": list(result.wordings),
        "neurons": [
            {
                "layer": neuron.layer,
                "index": neuron.index,
                "wordings": neuron.wordings,
                "attribution": neuron.attribution,
                "activation": neuron.activation,
                "raises": list(neuron.raises),
            }
            for neuron in result.neurons
        ],
        "share": result.share,
        "by_layer": result.by_layer.tolist(),
        "points": result.points.max(0).values.tolist(),
        "largest_gap": result.gap.max(0).values.tolist(),
        "notes": list(result.notes),
        "seconds": result.run.seconds,
    }


def records(result: NeuronResult) -> list[dict[str, Any]]:
    """A row a neuron of the fact: its attribution in `unit`, and in how many wordings it was found."""
    return [
        {"layer": one.layer, "neuron": one.index, "wordings": one.wordings, "attribution": one.attribution,
         "unit": result.unit}
        for one in result.neurons
    ]  # fmt: skip


def _sentences(result: NeuronResult, trace: TraceResult | None) -> list[str]:
    named = ", ".join(
        f"{neuron} ({neuron.attribution:+.3f}, in {neuron.wordings} of {result.deciding})" for neuron in result.neurons
    )
    many = counted(len(result.neurons), "neuron")
    verb = "carries" if len(result.neurons) == 1 else "carry"
    by_layer = result.by_layer.numpy()
    found = [
        f"{many} {verb} {str(result.prompt.answer).strip()!r} at the last token (layer.neuron, {result.unit}, "
        f"and in how many wordings): {named}.",
        f"Of all neurons together, those of layer {int(by_layer.argmax())} carry most, {by_layer.max():+.3f}"
        f"{_late(by_layer)}.",
    ]
    return found + ([_agreement(one) for one in agreements(trace, result)] if trace is not None else [])


def _late(by_layer: np.ndarray) -> str:
    """From which layer up half of what layers add is added; layers that take away do not count."""
    up = by_layer.clip(0)
    if len(up) < 3 or not up.sum() > 0:
        return ""
    half = len(up) - 1 - int(np.searchsorted(np.cumsum(up[::-1]), up.sum() / 2))
    return f"; half of what layers add is added by layer {half} and those above, of {len(up)} layers"


def _agreement(one: Agreement) -> str:
    where = "the subject's last token" if one.role == "last subject" else "the last token"
    rho = "" if one.rho != one.rho else f" (rank correlation over layers {one.rho:+.2f})"
    return (
        f"At {where}, the trace restores most by the MLPs around layer {one.traced}; the neurons' attribution peaks in "
        f"layer {one.attributed}{rho}."
    )


def _has_mlp(trace: TraceResult) -> bool:
    return any(grid.kind == "mlp" for grid in trace.grids)


def _numbers(result: NeuronResult) -> tuple[Number, ...]:
    gaps, many = result.gap.max(0).values, result.deciding > 1
    return (
        Number(str(len(result.neurons)), f"neurons of the fact, of {result.attribution[0].numel():,}"),
        Number(f"{result.share:.0%}", "of the wordings, at least") if many else Number("1", "wording"),
        Number(f"{float(result.whole[0]):.3f}", f"{result.settings['of']} of {result.prompt.answer!r}"),
        Number(f"{float(gaps.max()):.4f}", f"largest gap to completeness, layer {int(gaps.argmax())}"),
    )


def _notes(result: NeuronResult) -> tuple[Spec, ...]:
    notes = [heading(note) + "." for note in result.notes]
    return (Text("\n\n".join(notes)),) if notes else ()


def _table(result: NeuronResult) -> Table:
    rows = tuple(
        (
            str(neuron),
            neuron.layer,
            f"{neuron.wordings} of {result.deciding}",
            round(neuron.attribution, 4),
            round(neuron.activation, 3),
            " ".join(repr(token) for token in neuron.raises),
        )
        for neuron in result.neurons
    )
    columns = ("neuron", "layer", "wordings", f"attribution ({result.unit})", "activation", "raises most, as it fires")
    return Table("The fact's neurons", columns, rows)


def _by_layer(result: NeuronResult) -> Curves:
    layers = np.arange(result.attribution.shape[1])
    series = (
        Series("all neurons of the layer, last token", result.by_layer.numpy(), palette="green"),
        Series("the fact's neurons", result.chosen_by_layer.numpy(), palette="orange"),
    )
    return Curves("Attribution by layer", layers, series, y_title="attribution", unit=result.unit)


def _traced(trace: TraceResult) -> Curves:
    effect = trace.grid("mlp").effect
    places = {"last subject token": trace.prompt.subject_span[1] - 1, "last token": len(trace.prompt.tokens) - 1}
    colours: tuple[Palette, Palette] = ("purple", "red")
    series = tuple(
        Series(f"MLPs restored at the {name}", effect[:, place].numpy(), palette=colour)
        for (name, place), colour in zip(places.items(), colours, strict=True)
    )
    title = "Causal trace of the same fact, by layer"
    return Curves(title, np.arange(len(effect)), series, y_title="indirect effect", unit=trace.unit)


def _wordings(result: NeuronResult) -> Heatmap:
    values = result.attribution.sum(-1).T.numpy()
    return Heatmap(
        title="Attribution by layer and wording",
        values=values,
        rows=tuple(str(layer) for layer in range(len(values))),
        columns=result.wordings,
        column_title="wording",
        value_title="attribution",
        unit=result.unit,
        scale="diverging",
    )


def _complete(result: NeuronResult) -> Table:
    carried, lost = result.by_layer, (result.whole[:, None] - result.without).mean(0)
    rows = tuple(
        (layer, int(result.points[:, layer].max()), round(float(carried[layer]), 4), round(float(lost[layer]), 4),
         round(float(result.gap[:, layer].max()), 5))
        for layer in range(len(carried))
    )  # fmt: skip
    columns = ("layer", "points", f"sum of attributions ({result.unit})", "lost without the layer", "largest gap")
    return Table("Completeness, layer by layer", columns, rows)


def _card(result: NeuronResult) -> Card:
    prompt = result.prompt
    items = (
        ("prompt", prompt.text),
        ("answer", f"{prompt.answer} (from: {prompt.answer_from})"),
        ("wordings", " / ".join(result.wordings)),
        ("start token", prompt.start_token or "none"),
        ("settings", settings_in_words(result.settings)),
    )
    return provenance(result.run, *items)
