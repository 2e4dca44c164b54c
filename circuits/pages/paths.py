"""Direct path patching, as a page and in words."""

from typing import Any

import numpy as np

from circuits.analysis.paths import PathEffects
from circuits.graph import Graph, place_of
from factscope.plots.labels import as_sentence, counted
from factscope.plots.specs import Card, Headline, Heatmap, Number, Page, Section, Spec, Table, Text
from factscope.results.provenance import provenance

MAPS = 6  # receivers that have a map of all layers each
MATRIX = 40  # senders and receivers of the matrix: the strongest
STRONGEST = 200  # rows of the table


def words(found: PathEffects) -> list[str]:
    """The strongest direct effects, and how large the whole is."""
    ranked = _ranked(found)
    named = ", ".join(f"{sender} -> {receiver} {effect:+.3g}" for sender, receiver, effect in ranked[:5])
    what = "rise" if found.direction == "noising" else "fall"
    said = [
        f"Direct effects ({what} of the loss, {found.unit}), of {counted(len(ranked), 'path')} the strongest: {named}",
        f"Between the two runs the loss goes from {found.loss_from:.3g} to {found.loss_to:.3g}",
    ]
    if found.together is not None:
        values = found.together.numpy()
        order = np.argsort(-np.nan_to_num(np.abs(values), nan=-1))[:3]
        said.append(
            "On all receivers at once: " + ", ".join(f"{found.senders[i]} {values[i]:+.3g}" for i in order.tolist())
        )
    return said


def page(found: PathEffects) -> Page:
    """A map of senders by layer for each receiver, the matrix, and the table."""
    prompts = found.task.prompts
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    told = tuple(Text(as_sentence(note)) for note in found.notes)
    specs: list[Spec] = [Headline(words(found)[0] + ".", _numbers(found)), *told]
    if len(found.receivers) <= MAPS:
        specs += [_map(found.graph, found, name, found.effect[:, i].numpy()) for i, name in enumerate(found.receivers)]
    else:
        specs.append(_matrix(found))
    if found.together is not None:
        specs.append(_map(found.graph, found, "all receivers at once", found.together.numpy()))
    return Page(
        f"Paths: {prompts[0].text}{more}",
        (
            Section("Who tells whom", tuple(specs), _reading(found)),
            Section("Paths", (_table(found),)),
            Section("How it was measured", (_card(found),)),
        ),
        subtitle=f"direct path patching · {found.direction}",
    )


def summary(found: PathEffects) -> dict[str, Any]:
    """The numbers that a program would ask for first."""
    return {
        "direction": found.direction,
        "unit": found.unit,
        "loss_from": found.loss_from,
        "loss_to": found.loss_to,
        "strongest": {f"{sender}->{receiver}": effect for sender, receiver, effect in _ranked(found)[:20]},
    }


def records(found: PathEffects) -> list[dict[str, Any]]:
    """A row for each path: sender, receiver, effect and its share of the whole."""
    return [
        {"sender": sender, "receiver": receiver, "effect": effect, "unit": found.unit, "share": effect / _whole(found)}
        for sender, receiver, effect in _ranked(found)
    ]


def _ranked(found: PathEffects) -> list[tuple[str, str, float]]:
    """All paths that there are, the largest effect first."""
    effect = found.effect.double().numpy()
    places = np.argwhere(np.isfinite(effect)).tolist()
    paths = [(found.senders[i], found.receivers[j], float(effect[i, j])) for i, j in places]
    return sorted(paths, key=lambda path: -abs(path[2]))


def _whole(found: PathEffects) -> float:
    """What the whole exchange does to the loss, with the effects' sign; NaN where it does nothing."""
    gap = found.loss_to - found.loss_from
    gap = gap if found.direction == "noising" else -gap
    return gap if abs(gap) > 1e-6 else float("nan")


def _reading(found: PathEffects) -> str:
    if found.direction == "noising":
        way = "into the clean run, one path at a time, goes what the sender writes when it is ablated"
        meaning = "how far the loss rises"
    else:
        way = "into the corrupt run, one path at a time, goes what the sender writes on the clean prompt"
        meaning = "how far the loss falls"
    return (
        f"Direct path patching: {way}; all others hear what they heard. A number is {meaning} ({found.unit}); "
        "positive: the path helps the answer."
    )


def _numbers(found: PathEffects) -> tuple[Number, ...]:
    best = _ranked(found)[0]
    share = best[2] / _whole(found)
    return (
        Number(f"{best[2]:+.3g}", f"{best[0]} -> {best[1]}, {found.unit}"),
        *((Number(f"{share:.0%}", "of what all paths together do"),) if np.isfinite(share) else ()),
    )


def _map(graph: Graph, found: PathEffects, receiver: str, effect: np.ndarray) -> Heatmap:
    """Senders by layer and head, the MLP in a column of its own; the embedding below layer 0."""
    values = np.full((graph.n_layers + 1, graph.n_heads + 1), np.nan)
    for name, value in zip(found.senders, effect, strict=True):
        layer, head = place_of(name)
        if layer < 0:
            values[0, -1] = value
        else:
            values[layer + 1, graph.n_heads if head is None else head] = value
    return Heatmap(
        f"Direct effect on {receiver}",
        values,
        rows=("embed", *(str(layer) for layer in range(graph.n_layers))),
        columns=(*(f"h{head}" for head in range(graph.n_heads)), "MLP"),
        column_title="sender",
        value_title="effect",
        unit=found.unit,
        scale="diverging",
        note="Blank: not among the senders, or not heard. The embedding is in the MLP's column.",
    )


def _matrix(found: PathEffects) -> Heatmap:
    """The senders and receivers of the largest effects."""
    effect = found.effect.double().numpy()
    size = np.nan_to_num(np.abs(effect), nan=-1)
    rows = sorted(np.argsort(-size.max(1), kind="stable")[:MATRIX].tolist())
    columns = sorted(np.argsort(-size.max(0), kind="stable")[:MATRIX].tolist())
    return Heatmap(
        "Direct effects, senders by receivers",
        effect[np.ix_(rows, columns)],
        rows=tuple(found.senders[i] for i in rows),
        columns=tuple(found.receivers[j] for j in columns),
        row_title="sender",
        column_title="receiver",
        value_title="effect",
        unit=found.unit,
        scale="diverging",
        note=f"The {len(rows)} senders and {len(columns)} receivers of the largest effects. Blank: not heard.",
    )


def _table(found: PathEffects) -> Table:
    ranked = _ranked(found)
    rows = tuple(
        (sender, receiver, round(effect, 5), round(effect / _whole(found), 4))
        for sender, receiver, effect in ranked[:STRONGEST]
    )
    columns = ("sender", "receiver", f"effect ({found.unit})", "share of the whole")
    note = f"The strongest {STRONGEST} of {len(ranked)}." if len(ranked) > STRONGEST else ""
    return Table("Paths by effect", columns, rows, note=note)


def _card(found: PathEffects) -> Card:
    prompts = found.task.prompts
    corrupt = found.task.corrupt
    items = (
        ("prompts", " / ".join(prompt.text for prompt in prompts)),
        *((("other subject", " / ".join(prompt.subject for prompt in corrupt)),) if corrupt else ()),
        ("answer", " / ".join(str(prompt.answer) for prompt in prompts)),
        ("metric", found.task.metric),
        ("ablation", found.task.ablation),
        ("direction", found.direction),
        ("loss of the run that is patched", f"{found.loss_from:.4g}"),
        ("loss with every edge exchanged", f"{found.loss_to:.4g}"),
    )
    return provenance(found.run, *items)
