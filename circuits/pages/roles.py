"""What the roles of a circuit's heads look like: counts beside chance, each head and part, curves over the layers."""

import math

import numpy as np
from torch import Tensor

from circuits.analysis.head_roles import Roles
from factscope.model.prompts import Prompt
from factscope.plots.figures.slides import Slides
from factscope.plots.specs import Curves, Heatmap, Series, Spec, Table, state_labels


def role_specs(roles: Roles) -> tuple[Spec, ...]:
    """Counts against chance, the heads' table, what each part writes, and the curves over layers."""
    order = sorted(
        roles.heads, key=lambda head: (head.role == "none", -abs(head.direct_subject + head.direct_relation))
    )
    heads = Table(
        "Heads at the last position",
        ("head", "role", "attention S", "attention R", "D subject", "D relation", "D rest", "writes most"),
        tuple(
            (
                head.name, head.role, head.attention_subject, head.attention_relation, head.direct_subject,
                head.direct_relation, head.direct_rest, " ".join(repr(token) for token in head.top_tokens[:6]),
            )
            for head in order
        ),
        note="S subject, R relation; D: direct attribution to the answer in logits. The sink (position 0) is left out.",
    )  # fmt: skip
    counts = Table(
        "Roles, and how many chance gives",
        ("role", "heads", "chance", "chance, 19 of 20 below"),
        tuple((role, roles.counts[role], roles.chance[role], roles.chance_high[role]) for role in roles.counts),
        note="Chance: the same heads with the labels subject, relation and rest shuffled over the positions.",
    )
    parts = Table(
        "What each part writes",
        ("part", "towards the answer (logits)", "rank of the answer", "probability", "writes most"),
        tuple(
            (
                part.name,
                part.direct_effect,
                part.rank,
                math.exp(part.log_probability),
                " ".join(repr(token) for token in part.top[:8]),
            )
            for part in sorted(roles.components, key=lambda part: -abs(part.direct_effect))
        ),
        folded=True,
    )
    layers = np.arange(len(roles.active_heads))
    active = Curves(
        "Where the circuit is",
        layers,
        (
            Series("share of heads", roles.active_heads.double().numpy(), palette="red"),
            Series("MLP", roles.active_mlps.double().numpy(), palette="green"),
        ),
        y_title="in the circuit",
    )
    return (counts, heads, _curve(roles, "rank", True), _curve(roles, "probability", False), active, parts)


def attention_specs(roles: Roles, prompt: Prompt) -> tuple[Spec, ...]:
    """The attention of the strongest heads, token by token, and the same weighted by what is carried."""
    if not roles.patterns:
        return ()
    shown = roles.patterns[::-1]  # the last state of a slider is shown first
    names = tuple(f"{head.name} ({_role(roles, head.name)})" for head in shown)
    plain = tuple(_tokens("Attention", "attention", head.attention, prompt) for head in shown)
    weighted = tuple(_tokens("Share of what is written", "share", head.weighted, prompt) for head in shown)
    return (
        Slides("Where each head attends to", names, plain, "head", "Rows are queries, columns keys; a row sums to 1."),
        Slides(
            "What each head carries from where",
            names,
            weighted,
            "head",
            "The size of what a head writes from each token, as a share of the row: a start token that holds much "
            "attention often carries little.",
        ),
    )


def _role(roles: Roles, name: str) -> str:
    return next((head.role for head in roles.heads if head.name == name), "none").replace("none", "no role")


def _tokens(title: str, value: str, pattern: Tensor, prompt: Prompt) -> Heatmap:
    """A map of tokens by tokens, the first query at the top."""
    values = pattern.double().numpy().copy()
    values[np.triu_indices(len(values), 1)] = np.nan
    return Heatmap(
        title,
        values[::-1],
        rows=prompt.labels[::-1],
        columns=prompt.labels,
        row_title="query",
        column_title="",  # the slider stands there; the note says what columns are
        value_title=value,
        palette="red",
        limits=(0.0, 1.0),
        marked=tuple(prompt.subject_positions),
    )


def _curve(roles: Roles, what: str, log: bool) -> Curves:
    series = tuple(
        Series(name.removeprefix(what).strip("_, ").replace("_", " ") or name, values.double().numpy())
        for name, values in roles.curves.items()
        if name.startswith(what)
    )
    names = state_labels(len(next(iter(roles.curves.values()))))
    return Curves(
        f"{what.capitalize()} of the answer after each layer",
        np.arange(len(names)),
        series,
        x_labels=names,
        y_title=what,
        log_y=log,
        note="Logit lens at the last position. Rank 1 is the first. Final scale: every state "
        f"divided by the last state's norm, not its own.{_averaged(roles, log)}",
    )


def _averaged(roles: Roles, log: bool) -> str:
    n = roles.settings.get("prompts", 1)
    return f" {'Geometric mean' if log else 'Mean'} over {n} prompts." if n > 1 else ""
