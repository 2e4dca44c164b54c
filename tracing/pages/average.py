"""What an average over facts looks like: layers by token roles, and curves with their intervals."""

from typing import Any

import numpy as np
import torch

from factscope.plots.specs import Card, Curves, Headline, Heatmap, Number, Page, Palette, Section, Series, Spec, Table
from tracing.pages.trace import PALETTES
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
        Section("Layer by layer, with 95 % bootstrap intervals over facts", curves(result)),
        *([Section("What was left out", (skipped,))] if result.skipped else []),
        Section("What was run", (_card(result),)),
    ]
    return Page(
        f"Average causal trace: {result.source}", tuple(sections), f"{len(result.facts)} facts, {result.run.model}"
    )


def maps(result: AverageResult) -> tuple[Spec, ...]:
    """Layers by roles, one map a kind."""
    return tuple(
        Heatmap(
            title=KINDS[kind][0].upper() + KINDS[kind][1:],
            values=result.mean[number].numpy(),
            rows=tuple(str(layer) for layer in range(result.mean.shape[1])),
            columns=result.roles,
            column_title="token",
            value_title="average indirect effect",
            unit=result.unit,
            palette=PALETTES[kind],
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
        title = KINDS[kind][0].upper() + KINDS[kind][1:]
        drawn.append(Curves(title, x, series, y_title="average indirect effect", unit=result.unit))
    return tuple(drawn)


def words(result: AverageResult) -> list[str]:
    """Two lines: how many facts and their averages, and where each kind peaks."""
    metric = result.metric.replace("_", " ")
    return [
        f"{len(result.facts)} facts traced, {len(result.skipped)} skipped: {metric} {result.clean.mean():.3f} clean, "
        f"{result.corrupted.mean():.4f} corrupted",
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


def _peaks(result: AverageResult) -> str:
    found = []
    for kind in ("mlp", "attn", "resid"):
        if kind in result.kinds:
            mean = torch.nan_to_num(result.mean[result.kinds.index(kind)], nan=-torch.inf)
            for role in ("last subject", "last token"):
                column = mean[:, result.roles.index(role)]
                layer = int(column.argmax())
                found.append(
                    f"{KINDS[kind]} at the {role.removesuffix(' token')} token: {column[layer]:+.3f} at layer {layer}"
                )
    return "Peaks: " + "; ".join(found) + "."


def _role_words(result: AverageResult) -> str:
    counts = ", ".join(f"{role} {int(n)}" for role, n in zip(result.roles, result.count, strict=True))
    return f"Mean over a role's tokens within a fact, then over facts. Facts that have the role: {counts}."


def _card(result: AverageResult) -> Card:
    settings = tuple((name, str(value)) for name, value in result.settings.items())
    return Card("Provenance", (("facts", result.source), *settings, *result.run.items()), result.run.command)
