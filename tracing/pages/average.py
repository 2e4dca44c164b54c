"""What an average over facts looks like: layers by token roles, and curves with their intervals."""

from typing import Any

import numpy as np
import torch

from factscope.plots.labels import counted, heading, numbers_in_words
from factscope.plots.specs import Card, Curves, Headline, Heatmap, Number, Page, Palette, Section, Series, Spec, Table
from factscope.results.provenance import provenance
from factscope.statistics import ENOUGH, likely_best, resampled_means, shares_of_best
from tracing.pages.trace import PALETTES, from_zero
from tracing.results import KINDS, AverageResult


def page(result: AverageResult) -> Page:
    """The page of an average over facts."""
    headline = Headline(
        _peaks(result),
        (
            Number(str(len(result.facts)), f"facts traced ({len(result.skipped)} skipped)"),
            Number(f"{result.clean.mean():.3f}", f"{result.metric.replace('_', ' ')}, clean"),
            Number(f"{result.corrupted.mean():.3f}", "corrupted"),
            Number(f"{result.total.mean():.3f}", f"average total effect, {result.unit}"),
        ),
    )
    skipped = Table("Skipped facts", ("fact", "why"), tuple(result.skipped.items()))
    sections = [
        Section("What was found", (headline,)),
        Section("Average indirect effect by token role", maps(result), _role_words(result)),
        Section("Layer by layer", curves(result), _INTERVALS),
        *([Section("What was left out", (skipped,))] if result.skipped else []),
        Section("What was run", (_card(result),)),
    ]
    return Page(
        f"Average causal trace: {result.source}",
        tuple(sections),
        f"{counted(len(result.facts), 'fact')}, {result.run.model}",
    )


_INTERVALS = (
    "Bands: 95 % bootstrap intervals over facts, those of one subject together, each layer by itself; a role that "
    f"fewer than {ENOUGH} subjects have has none. A peak is told with how often resamples have it."
)


def maps(result: AverageResult) -> tuple[Spec, ...]:
    """Layers by roles, one map a kind."""
    return tuple(
        Heatmap(
            title=heading(KINDS[kind]),
            values=result.mean[number].numpy(),
            rows=tuple(str(layer) for layer in range(result.mean.shape[1])),
            columns=result.roles,
            column_title="token",
            value_title="average indirect effect",
            unit=result.unit,
            palette=PALETTES[kind],
            limits=from_zero(result.mean[number]),
            marked=tuple(
                i for i, role in enumerate(result.roles) if role.endswith(" subject") and "before" not in role
            ),
            hover={"95 % from": result.low[number].numpy(), "to": result.high[number].numpy()},
        )
        for number, kind in enumerate(result.kinds)
    )


def curves(result: AverageResult) -> tuple[Spec, ...]:
    """The two roles that matter, last subject token and last token, with their intervals."""
    colours: dict[str, Palette] = {"last subject": "purple", "last token": "red", "first after": "blue"}
    x = np.arange(result.mean.shape[1])
    drawn = []
    for number, kind in enumerate(result.kinds):
        series = tuple(
            Series(role, result.mean[number, :, i].numpy(), result.low[number, :, i].numpy(),
                   result.high[number, :, i].numpy(), colours[role])
            for role in colours
            for i in [result.roles.index(role)]
            if result.count[i]
        )  # fmt: skip
        title = heading(KINDS[kind])
        drawn.append(Curves(title, x, series, y_title="average indirect effect", unit=result.unit))
    return tuple(drawn)


def words(result: AverageResult) -> list[str]:
    """Two lines: how many facts and their averages, and where each kind peaks."""
    metric = result.metric.replace("_", " ")
    return [
        f"{counted(len(result.facts), 'fact')} traced, {len(result.skipped)} skipped: {metric} "
        f"{result.clean.mean():.3f} clean, {result.corrupted.mean():.4f} corrupted",
        _peaks(result),
    ]


def summary(result: AverageResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "facts": len(result.facts),
        "skipped": result.skipped,
        "total_effect": float(result.total.mean()),
        "clean": float(result.clean.mean()),
        "corrupted": float(result.corrupted.mean()),
        "roles": result.roles,
        "kinds": result.kinds,
    }


def records(result: AverageResult) -> list[dict[str, Any]]:
    """A row a kind, layer and token role: the mean effect in `unit` with its 95 % interval, and of how many facts."""
    return [
        {"site": result.kinds[kind], "layer": layer, "role": result.roles[role],
         "effect": float(result.mean[kind, layer, role]), "low": float(result.low[kind, layer, role]),
         "high": float(result.high[kind, layer, role]), "facts": int(result.count[role]), "unit": result.unit}
        for kind, layer, role in np.ndindex(*result.mean.shape)
    ]  # fmt: skip


def _peaks(result: AverageResult) -> str:
    """Each kind's peak at the two tokens that matter, and the layers where it is in 95 % of bootstraps over facts."""
    found = []
    for kind in ("mlp", "attn", "resid"):
        if kind in result.kinds:
            mean = torch.nan_to_num(result.mean[result.kinds.index(kind)], nan=-torch.inf)
            for role in ("last subject", "last token"):
                place = result.roles.index(role)
                layer = int(mean[:, place].argmax())
                found.append(
                    f"{KINDS[kind]} at the {role.removesuffix(' token')} token: {mean[layer, place]:+.3f} at layer "
                    f"{layer}{_elsewhere(result, result.kinds.index(kind), place)}"
                )
    few = "" if len(_groups(result)) >= ENOUGH else f" {_few(result)}"
    return "Peaks: " + "; ".join(found) + "." + few


def _groups(result: AverageResult) -> set[str]:
    return set(result.subjects or result.facts)


def _few(result: AverageResult) -> str:
    count = len(_groups(result))
    return f"{counted(count, 'subject')} {'is' if count == 1 else 'are'} too few to say how sure these layers are."


def _elsewhere(result: AverageResult, kind: int, role: int) -> str:
    """The layers where the peak could as well be."""
    if len(_groups(result)) < ENOUGH:
        return ""
    draws = resampled_means(result.per_fact[:, kind, :, role].double().numpy(), groups=result.subjects)
    layers = likely_best(shares_of_best(draws[~np.isnan(draws).any(1)]))
    return f" (in 95 % of resamples: {numbers_in_words(layers)})"


def _role_words(result: AverageResult) -> str:
    counts = ", ".join(f"{role} {int(n)}" for role, n in zip(result.roles, result.count, strict=True))
    return f"Mean over a role's tokens within a fact, then over facts. Facts that have the role: {counts}."


def _card(result: AverageResult) -> Card:
    settings = tuple((name, str(value)) for name, value in result.settings.items())
    return provenance(result.run, ("facts", result.source), *settings)
