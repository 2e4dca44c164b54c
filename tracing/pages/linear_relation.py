"""What a relation's linear map looks like: how faithful and how causal it is, layer by layer, and fact by fact."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from factscope.plots.labels import counted, settings_in_words
from factscope.plots.specs import (
    Card,
    Curves,
    Headline,
    Number,
    Page,
    Palette,
    Section,
    Series,
    Spec,
    Table,
    Text,
    state_labels,
    state_name,
)
from factscope.results.provenance import provenance
from factscope.statistics import wilson
from tracing.states.results import RelationResult


def words(result: RelationResult) -> list[str]:
    """How faithful the map of the chosen layer is, how causal, and beside what."""
    n, layer = len(result.subjects), result.decoded.layer
    low, high = wilson(result.decoded.right[:, layer].float().tolist())
    beside = [f"{_share(result.decoded.bias_alone[:, layer]):.0%} by the bias alone"]
    if len(result.decoded.null):
        beside.append(f"{float(result.decoded.null[:, :, layer].float().mean()):.0%} by turned maps")
    edited = result.edited
    return [
        f"{result.relation}: a map from the subject's state after {state_name(result.state)} says the model's own "
        f"first token for {_share(result.decoded.right[:, layer]):.0%} [{low:.0%}, {high:.0%}] of "
        f"{counted(n, 'held-out subject')} ({', '.join(beside)})",
        f"Through its pseudo-inverse of rank {int(edited.rank[layer])}, {_share(edited.right[:, layer]):.0%} of "
        f"{counted(len(edited.subjects), 'subject')} get another's answer (random steps of equal length "
        f"{_share(edited.random[:, layer]):.0%}, the other's own state {_share(edited.substituted[:, layer]):.0%})",
        f"From {counted(len(result.examples), 'example')} ({', '.join(result.examples)}); beta "
        f"{float(result.decoded.beta[layer]):g}, rank and layer chosen on {counted(len(result.choice), 'other fact')}; "
        f"{counted(len(result.skipped), 'fact')} not known behind the examples",
    ]


def summary(result: RelationResult) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    layer = result.decoded.layer
    return {
        "model": result.run.model,
        "fingerprint": result.run.fingerprint,
        "relation": result.relation,
        "template": result.template,
        "layer": state_labels(result.state + 1)[-1],
        "beta": float(result.decoded.beta[layer]),
        "rank": int(result.edited.rank[layer]),
        "faithfulness": _share(result.decoded.right[:, layer]),
        "bias_alone": _share(result.decoded.bias_alone[:, layer]),
        "turned": _null(result, layer),
        "causality": _share(result.edited.right[:, layer]),
        "random": _share(result.edited.random[:, layer]),
        "substituted": _share(result.edited.substituted[:, layer]),
        "facts": len(result.subjects),
        "examples": list(result.examples),
        "skipped": len(result.skipped),
        "seconds": result.run.seconds,
    }


def records(result: RelationResult) -> list[dict[str, Any]]:
    """A row a layer: faithfulness and causality (shares of held-out facts, with 95 % intervals), and what is beside."""
    labels, rows = state_labels(max(result.states) + 1), []
    for place, state in enumerate(result.states):
        low, high = wilson(result.decoded.right[:, place].float().tolist())
        causal_low, causal_high = wilson(result.edited.right[:, place].float().tolist())
        rows.append(
            {"layer": labels[state], "beta": float(result.decoded.beta[place]),
             "faithfulness": _share(result.decoded.right[:, place]), "low": low, "high": high,
             "log_probability": float(result.decoded.log_probability[:, place].mean()),
             "bias_alone": _share(result.decoded.bias_alone[:, place]), "turned": _null(result, place),
             "rank": int(result.edited.rank[place]), "causality": _share(result.edited.right[:, place]),
             "causality_low": causal_low, "causality_high": causal_high,
             "random": _share(result.edited.random[:, place]),
             "substituted": _share(result.edited.substituted[:, place]), "facts": len(result.subjects)}
        )  # fmt: skip
    return rows


def _share(right: Bool[Tensor, " fact"]) -> float:
    return float(right.float().mean())


def _null(result: RelationResult, place: int) -> float | None:
    null = result.decoded.null
    return float(null[:, :, place].float().mean()) if len(null) else None


# ---- the page ----


def page(result: RelationResult) -> Page:
    """The page of one relation."""
    sections = [
        Section("What was found", (_headline(result), Text("\n\n".join(f"{line}." for line in words(result))))),
        Section("Layer by layer", (_faithfulness(result), _causality(result)), _HOW),
        Section("Fact by fact", (_facts(result), _edits(result), *_skipped(result))),
        Section("What was run", (_card(result),)),
    ]
    return Page(f"Linear map: {result.relation}", tuple(sections), f"A relation of {result.run.model}")


_HOW = (
    "Faithfulness: the share of held-out facts for which beta W s + b, unembedded, has the model's own first token. "
    "Causality: the share whose answer becomes that of another subject when the step that W's pseudo-inverse gives is "
    "added to the subject's state. Bands are 95 % (Wilson). beta and rank of each layer are chosen on facts that no "
    "share counts."
)


def _headline(result: RelationResult) -> Headline:
    layer = result.decoded.layer
    return Headline(
        f"After {state_name(result.state)}, the subject's state gives the answer to "
        f"{result.template.replace('{}', '…')!r} by a linear map for "
        f"{_share(result.decoded.right[:, layer]):.0%} of held-out subjects.",
        (
            Number(f"{_share(result.decoded.right[:, layer]):.0%}", "faithfulness"),
            Number(f"{_share(result.decoded.bias_alone[:, layer]):.0%}", "by the bias alone"),
            Number(f"{_share(result.edited.right[:, layer]):.0%}", "causality"),
            Number(f"{_share(result.edited.random[:, layer]):.0%}", "by random steps of equal length"),
        ),
    )


def _line(name: str, right: Bool[Tensor, "fact state"], palette: Palette, band: bool = False) -> Series:
    shares = right.float().mean(0).numpy()
    if not band:
        return Series(name, shares, palette=palette)
    low, high = np.array([wilson(column) for column in right.float().T.tolist()]).T
    return Series(name, shares, low, high, palette)


def _over_layers(result: RelationResult, title: str, y_title: str, series: tuple[Series, ...]) -> Curves:
    labels = state_labels(max(result.states) + 1)
    return Curves(
        title,
        np.array(result.states),
        series,
        x_title="layer that the subject's state leaves",
        x_labels=tuple(labels[state] for state in result.states),
        y_title=y_title,
    )


def _faithfulness(result: RelationResult) -> Curves:
    decoded = result.decoded
    series = [_line("the map", decoded.right, "blue", band=True), _line("its bias alone", decoded.bias_alone, "orange")]
    if len(decoded.null):
        series.append(Series("turned maps", decoded.null.float().mean((0, 1)).numpy(), palette="red"))
    return _over_layers(result, "Faithfulness", "share of held-out facts", tuple(series))


def _causality(result: RelationResult) -> Curves:
    edited = result.edited
    return _over_layers(
        result,
        "Causality",
        "share that says the other's answer",
        (
            _line("step of the map's pseudo-inverse", edited.right, "blue", band=True),
            _line("random step of equal length", edited.random, "red"),
            _line("the other subject's state", edited.substituted, "green"),
        ),
    )


def _facts(result: RelationResult) -> Table:
    decoded, layer = result.decoded, result.decoded.layer
    return Table(
        f"What the map after {state_name(result.state)} says",
        ("subject", "the model says", "the map says", "same", "log-probability (nats)"),
        tuple(
            (subject, answer, said, "yes" if right else "no", round(float(chance), 2))
            for subject, answer, said, right, chance in zip(
                result.subjects, decoded.answers, decoded.says, decoded.right[:, layer],
                decoded.log_probability[:, layer], strict=True,
            )
        ),
    )  # fmt: skip


def _edits(result: RelationResult) -> Table:
    edited, layer = result.edited, result.decoded.layer
    rows = zip(edited.subjects, edited.targets, edited.wanted, edited.says, edited.right[:, layer], strict=True)
    return Table(
        f"Subjects' states after {state_name(result.state)} moved to another's answer",
        ("subject", "moved towards", "wanted", "the model then says", "reached"),
        tuple((*row[:-1], "yes" if row[-1] else "no") for row in rows),
    )


def _skipped(result: RelationResult) -> tuple[Spec, ...]:
    if not result.skipped:
        return ()
    return (Table("Facts that were left out", ("fact", "why"), tuple(result.skipped.items()), folded=True),)


def _card(result: RelationResult) -> Card:
    items = (
        ("relation", result.relation),
        ("template", result.template),
        ("examples", ", ".join(result.examples)),
        ("facts that chose", ", ".join(result.choice)),
        ("largest singular value", f"{float(torch.linalg.matrix_norm(result.weight, 2)):.3g}"),
        ("settings", settings_in_words(result.settings)),
    )
    return provenance(result.run, *items)
