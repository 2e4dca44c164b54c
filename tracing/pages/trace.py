"""What a trace looks like: a result in, a page out, drawn from saved values alone."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from factscope.plots.labels import heading, layers_in_words, settings_in_words
from factscope.plots.specs import Card, Headline, Heatmap, Number, Page, Palette, Section, Spec, Table, Text
from factscope.results.provenance import provenance
from tracing.causal import window_of
from tracing.pages import logit_lens
from tracing.results import KINDS, WINDOWED, Grid, LensResult, TraceResult

PALETTES: dict[str, Palette] = {
    "resid": "purple",
    "mlp": "green",
    "attn": "red",
    "head": "red",
    "severed_mlp": "green",
    "severed_attn": "red",
}
_SINK = (
    "Position 0 is where models park attention, with a state hundreds of times larger than others; it has no say in "
    "the colours."
)


def strongest_in_words(result: TraceResult) -> dict[str, str]:
    """The strongest cell "on the subject" and that "after it", as phrases; sub-layers before whole states.

    Restoring the last token's residual state near the top restores everything by construction, so the residual stream
    speaks only where nothing else was traced.
    """
    grids = [g for g in result.grids if g.kind in ("mlp", "attn", "head")] or list(result.grids)
    (first, after), everywhere = result.prompt.subject_span, range(len(result.prompt.tokens))
    phrases = {}
    for where, wanted in (("on the subject", range(first, after)), ("after it", range(after, len(everywhere)))):
        skip = [position for position in everywhere if position not in wanted]
        cells = [(*found, grid) for grid in grids for found in grid.strongest(1, skip) if found[1] > 0]
        if cells:
            index, effect, error, grid = max(cells, key=lambda cell: cell[1])
            phrases[where] = _cell_in_words(result, grid, index, effect, error)
    return phrases or {"in what was traced": "no single state"}


def words(result: TraceResult) -> list[str]:
    """Two lines: the answer with its probabilities, and the strongest cells."""
    prompt = result.prompt
    answer = str(prompt.answer).strip()
    what = "probability" if len(prompt.answer_ids) == 1 else "probability of its first token"
    return [
        f"{answer}: {what} {result.clean_probability:.3f} clean, {result.corrupted_probability:.4f} with "
        f"{prompt.subject!r} corrupted",
        "Strongest " + "; ".join(f"{where}: {cell}" for where, cell in strongest_in_words(result).items()),
    ]


def doubts(result: TraceResult) -> list[str]:
    """What a reader should hold against the numbers."""
    found = []
    gap, clean = result.total_effect, abs(float(result.clean.mean()))
    if gap < 2 * result.total_effect_error:
        found.append("The total effect is within two standard errors of zero: more samples are needed to say anything")
    if result.metric == "probability" and gap < 0.05 * clean:
        found.append(
            f"The corruption takes away only {gap / clean:.1%} of the answer's probability, so shares mean little"
        )
    if len(result.corrupted) == 1:
        found.append("One sample gives no standard error")
    settings, count = result.settings, len(result.corrupted)
    asked = int(str(settings.get("samples", 0)))
    if settings.get("corruption") == "swap" and not settings.get("swaps") and count < asked:
        found.append(f"Only {count} other subjects fit, of the {asked} samples asked for")
    return found


def _shares_mean_something(result: TraceResult) -> bool:
    """Whether what was lost is large enough to be divided by: beyond its error, and not a trifle of a probability."""
    gap, clean = result.total_effect, abs(float(result.clean.mean()))
    return not (gap < 2 * result.total_effect_error or (result.metric == "probability" and gap < 0.05 * clean))


def _cell_in_words(result: TraceResult, grid: Grid, index: tuple[int, ...], effect: float, error: float) -> str:
    layer, position = index[0], index[-1]
    if grid.kind in WINDOWED:
        layers = window_of(layer, int(str(result.settings["window"])), grid.effect.shape[0])
        what = f"{KINDS[grid.kind]}s of {layers_in_words(layers)}"
    elif grid.kind == "head":
        what = f"head a{layer}.h{index[1]}"
    else:
        what = f"{KINDS[grid.kind]} of layer {layer}"
    share = f", {effect / result.total_effect:.0%} of what was lost" if _shares_mean_something(result) else ""
    sure = "" if math.isnan(error) else f" ± {error:.2g}"
    role = result.prompt.roles()[position]
    place = f"{result.prompt.labels[position]!r} ({role})"
    return f"{what} at {place}: {effect:+.3g}{sure} {result.unit}{share}"


def summary(result: TraceResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "model": result.run.model,
        "fingerprint": result.run.fingerprint,
        "prompt": result.prompt.text,
        "subject": result.prompt.subject,
        "subject_from": result.prompt.subject_from,
        "start_token": result.prompt.start_token,
        "answer": result.prompt.answer,
        "answer_from": result.prompt.answer_from,
        "predicted": result.predicted,
        "clean_probability": result.clean_probability,
        "corrupted_probability": result.corrupted_probability,
        "metric": result.metric,
        "unit": result.unit,
        "total_effect": result.total_effect,
        "total_effect_standard_error": None if math.isnan(result.total_effect_error) else result.total_effect_error,
        "strongest": {
            grid.kind: [
                {
                    "layer": index[0],
                    **({"head": index[1]} if len(index) == 3 else {}),
                    "position": index[-1],
                    "token": result.prompt.labels[index[-1]],
                    "effect": effect,
                    "standard_error": None if math.isnan(error) else error,
                }
                for index, effect, error in grid.strongest(5)
            ]
            for grid in result.grids
        },
        "notes": [*result.prompt.notes, *doubts(result)],
        "seconds": result.run.seconds,
    }


def records(result: TraceResult) -> list[dict[str, Any]]:
    """A row a cell: what was restored where, its effect and standard error in `unit`; `head` where heads are apart."""
    rows = []
    for grid in result.grids:
        for index in np.ndindex(*grid.effect.shape):
            layer, *head, pos = index
            rows.append(
                {"site": grid.kind, "layer": layer, "head": head[0] if head else None, "pos": pos,
                 "token": result.prompt.labels[pos], "effect": float(grid.effect[index]),
                 "error": float(grid.error[index]), "unit": result.unit}
            )  # fmt: skip
    return rows


# ---- pages ----


def page(result: TraceResult, lens: LensResult | None = None) -> Page:
    """The page of one trace."""
    prompt = result.prompt
    sections = [
        Section("What was found", (_headline(result), *_notes(result))),
        Section("Where the answer comes back", heatmaps(result), _explanation(result)),
        Section("Strongest cells", (_strongest_table(result),)),
    ]
    if lens is not None:
        sections += logit_lens.sections(lens)
    sections.append(Section("What was run", (_card(result),)))
    return Page(f"Trace: {prompt.text} … {prompt.answer}", tuple(sections), f"Causal trace of {result.run.model}")


def heatmaps(result: TraceResult) -> tuple[Spec, ...]:
    """One picture per kind: layers by tokens; heads as their strongest position and one map at the last token."""
    drawn: list[Spec] = []
    for grid in result.grids:
        if grid.kind == "head":
            drawn += _head_maps(result, grid)
        else:
            drawn.append(
                _heatmap(
                    result, KINDS[grid.kind] + _window_words(result, grid.kind), grid.effect, grid.error, grid.kind
                )
            )
    return tuple(drawn)


def _heatmap(result: TraceResult, title: str, effect: Tensor, error: Tensor, kind: str) -> Heatmap:
    prompt = result.prompt
    positive = bool((effect >= -2 * error.nan_to_num() - 0.02 * effect.abs().max()).all())
    return Heatmap(
        title=heading(title),
        values=effect.numpy(),
        rows=tuple(str(layer) for layer in range(effect.shape[0])),
        columns=prompt.labels,
        value_title="indirect effect",
        unit=result.unit,
        scale="sequential" if positive else "diverging",
        limits=from_zero(effect[:, 1:]) if positive else None,
        palette=PALETTES[kind],
        marked=tuple(prompt.subject_positions),
        left_out=(0,),
        hover={
            "standard error": error.numpy(),
            "share of the total effect": (effect / result.total_effect).numpy(),
            f"restored {result.metric}": (float(result.corrupted.mean()) + result.toward * effect).numpy(),
        },
    )


def from_zero(effect: Tensor) -> tuple[float, float]:
    """Limits of colours that begin at no effect: what noise leaves below zero has the colour of zero."""
    top = float(effect.nan_to_num().max())
    return 0.0, top if top > 0 else 1.0


def _head_maps(result: TraceResult, grid: Grid) -> list[Spec]:
    heads = tuple(f"h{head}" for head in range(grid.effect.shape[1]))
    rows = tuple(str(layer) for layer in range(grid.effect.shape[0]))
    places = {"last subject token": result.prompt.subject_span[1] - 1, "last token": len(result.prompt.tokens) - 1}
    return [
        Heatmap(
            title=f"Heads restored at the {name}, {result.prompt.labels[position]!r}",
            values=grid.effect[:, :, position].numpy(),
            rows=rows,
            columns=heads,
            column_title="head",
            value_title="indirect effect",
            unit=result.unit,
            scale="diverging",
            hover={"standard error": grid.error[:, :, position].numpy()},
        )
        for name, position in places.items()
    ]


def _window_words(result: TraceResult, kind: str) -> str:
    layers = result.grid(kind).effect.shape[0]
    window = min(int(str(result.settings["window"])), layers)
    return "" if kind not in WINDOWED else ", all layers" if window == layers else f", {window} layers at a time"


def _headline(result: TraceResult) -> Headline:
    prompt = result.prompt
    sentence = "; and ".join(f"{where}, {cell}" for where, cell in strongest_in_words(result).items())
    sentence = f"Restoring these brings back most: {sentence}."
    samples = len(result.corrupted)
    how = "swapped subjects" if result.swapped else "noise draws"
    return Headline(
        sentence,
        (
            Number(f"{result.clean_probability:.3f}", f"probability of {prompt.answer!r}, clean"),
            Number(f"{result.corrupted_probability:.4f}", f"with {prompt.subject!r} corrupted ({samples} {how})"),
            Number(
                f"{result.total_effect:.3g}"
                + ("" if math.isnan(result.total_effect_error) else f" ± {result.total_effect_error:.2g}"),
                f"total effect: {result.metric.replace('_', ' ')} lost"
                + (f" ({result.unit})" if result.unit != result.metric else ""),
            ),
        ),
    )


def _notes(result: TraceResult) -> tuple[Spec, ...]:
    prompt = result.prompt
    notes = prompt.remarks()
    if result.predicted != prompt.answer and not str(prompt.answer).startswith(result.predicted):
        notes.append(f"The model's own most probable next token is {result.predicted!r}.")
    notes += [f"{doubt}." for doubt in doubts(result)]
    if result.swapped:
        notes.append("Swapped in: " + ", ".join(result.swapped) + ".")
    return (Text("\n\n".join(notes)),)


def _explanation(result: TraceResult) -> str:
    metric, samples = result.metric.replace("_", " "), len(result.corrupted)
    return (
        "Each cell: the corrupted run with that one state set to its clean value; the colour is the indirect effect: "
        f"the {metric} that comes back ({result.unit}, mean of {samples} samples). "
        "Zero before the subject, by construction. " + _SINK
    )


def _strongest_table(result: TraceResult) -> Table:
    rows = []
    for grid in result.grids:
        for index, effect, error in grid.strongest(6):
            head = f".h{index[1]}" if len(index) == 3 else ""
            share = round(100 * effect / result.total_effect, 1)
            numbers = (round(effect, 4), None if math.isnan(error) else round(error, 4), share)
            role = result.prompt.roles()[index[-1]]
            rows.append(
                (KINDS[grid.kind], f"{index[0]}{head}", result.prompt.labels[index[-1]], index[-1], role, *numbers)
            )
    columns = (
        "restored",
        "layer",
        "token",
        "position",
        "role",
        f"effect ({result.unit})",
        "standard error",
        "% of total",
    )
    return Table("Strongest cells of each kind", columns, tuple(rows))


def _card(result: TraceResult) -> Card:
    """Everything needed to run it again."""
    level = "" if result.noise_level is None else f", noise of standard deviation {result.noise_level:.4f}"
    items = (
        *result.prompt.items(),
        ("corruption", f"{result.settings['corruption']}, {len(result.corrupted)} samples{level}"),
        ("metric", result.metric if result.metric == result.unit else f"{result.metric} ({result.unit})"),
        ("settings", settings_in_words(result.settings)),
    )
    return provenance(result.run, *items)
