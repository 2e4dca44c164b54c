"""Circuits averaged by layer, as a page and in words."""

from typing import Any

import numpy as np
import torch

from circuits.analysis.layers import Mean, Profile
from factscope.plots.labels import counted
from factscope.plots.specs import Curves, Headline, Page, Palette, Section, Series, Table, state_labels


def words(found: Profile) -> list[str]:
    """The one sentence to remember."""
    heads, mlps = found.active_heads.value, found.active_mlps.value
    layers = torch.arange(len(heads)).float()
    centre = [float((layers * part).sum() / part.sum()) if part.sum() else float("nan") for part in (heads, mlps)]
    return [
        f"{counted(len(found.names), 'circuit')}: {float(heads.mean()):.0%} of all heads, around layer "
        f"{centre[0]:.1f}, and {float(mlps.mean()):.0%} of all MLPs, around layer {centre[1]:.1f}."
    ]


def page(found: Profile) -> Page:
    """Where the circuits lie, and where the answer is known: Fig. 2, 3 and 6 of Yao et al. 2024."""
    layers = np.arange(len(found.active_heads.value))
    active = Curves(
        "Share of each layer that is in the circuit",
        layers,
        (_series("heads", found.active_heads, "red"), _series("MLPs", found.active_mlps, "green")),
        y_title="share",
        note="Bands: one standard error over circuits.",
    )
    pictures = [_curves(found, what) for what in ("rank", "probability")]
    listed = Table("The circuits", ("run", "first prompt"), tuple(zip(found.names, found.prompts, strict=True)))
    return Page(
        f"Layers of {counted(len(found.names), 'circuit')}",
        (
            Section("Where they are", (Headline(" ".join(words(found))), active)),
            Section("What is known where", (*pictures, listed)),
        ),
    )


def summary(found: Profile) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "circuits": found.names,
        "heads": found.active_heads.value.tolist(),
        "mlps": found.active_mlps.value.tolist(),
    }


def records(found: Profile) -> list[dict[str, Any]]:
    """A row a quantity and layer: the mean over circuits and its standard error."""
    named = {"heads in the circuit": found.active_heads, "MLP in the circuit": found.active_mlps}
    rows = [
        {"quantity": name, "layer": str(layer), "mean": float(mean.value[layer]), "error": float(mean.error[layer])}
        for name, mean in named.items()
        for layer in range(len(mean.value))
    ]
    return rows + [
        {"quantity": name, "layer": label, "mean": float(mean.value[state]), "error": float(mean.error[state])}
        for name, mean in found.curves.items()
        for state, label in enumerate(state_labels(len(mean.value)))
    ]


def _curves(found: Profile, what: str) -> Curves:
    series = tuple(
        _series(name.removeprefix(what).strip("_, ").replace("_", " ") or name, mean, None, log=what == "rank")
        for name, mean in found.curves.items()
        if name.startswith(what)
    )
    names = state_labels(len(next(iter(found.curves.values())).value))
    return Curves(
        f"{what.capitalize()} of the answer after each layer",
        np.arange(len(names)),
        series,
        x_labels=names,
        y_title=what,
        log_y=what == "rank",
        note="Logit lens at the last position, averaged over a circuit's prompts."
        + (" Rank 1 is the first; geometric means." if what == "rank" else ""),
    )


def _series(name: str, mean: Mean, palette: Palette | None, log: bool = False) -> Series:
    value, error = mean.value.double().numpy(), mean.error.double().numpy()
    if np.isnan(error).all():
        return Series(name, value, palette=palette)
    low, high = (value * np.exp(-error), value * np.exp(error)) if log else (value - error, value + error)
    return Series(name, value, low, high, palette)
