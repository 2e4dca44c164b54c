"""What stands beside the weights, drawn: what its gate met, balls of a codebook, clusters of an index, shared rows, the
load of experts.

Numbers in, specs out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from editing.bypass import KINDS, Bypass, join
from editing.bypasses.blocks import index
from editing.bypasses.codebook import balls
from editing.bypasses.side import shards
from editing.edit import Edit
from editing.evaluation.routing import Routing, consistency, mean_load, routing
from factscope.plots.figures.slides import Points, Scatter
from factscope.plots.specs import Heatmap, Spec, Table
from factscope.statistics import principal_plane

MOST = 300  # balls that are drawn
ROWS = 30  # facts, and rows of a heat map, that are shown
SLOTS = 64  # neurons of a heat map
TOLD = 5  # edits of a stack that have a picture of their own
About = Literal["edit", "paraphrase", "neighbour"]
NAMES: dict[About, str] = {"edit": "prompts as edited", "paraphrase": "paraphrases", "neighbour": "neighbours"}


def beside(edits: Sequence[Edit]) -> tuple[Spec, ...]:
    """A line for each bypass that the edits come to, and a picture of those that have one; nothing without a bypass."""
    parts = join([part for edit in edits for part in edit.bypasses])
    rows = tuple(
        (part.layer, KINDS.get(part.kind).about,
         ", ".join(f"{name} {' × '.join(map(str, tensor.shape))}" for name, tensor in part.tensors.items()))
        for part in parts
    )  # fmt: skip
    if not rows:
        return ()
    drawn: list[Spec] = [codebook(part) for part in parts if part.kind == "codebook" and len(part.words) > 1]
    drawn += [clusters(part) for part in parts if part.kind == "blocks" and len(part.words) > 1]
    drawn += [overlaps(part) for part in parts if part.kind == "residual" and len(part.words) > 1]
    drawn += [spread(part) for part in parts if part.kind == "side"]
    drawn += [shifts(part) for part in parts if part.kind == "shift"]
    neurons = [edit for edit in edits if edit.bypasses and edit.bypasses[0].kind == "neurons"]
    drawn += [picture for edit in neurons[:TOLD] for picture in fires(edit)]
    routed = [edit for edit in edits if edit.met and edit.bypasses[0].kind == "experts"]
    whole = Table("What stands beside the weights", ("layer", "what", "tensors"), rows)
    return (whole, *opened(edits), *probed(edits), *drawn, *experts(routed))


def opened(edits: Sequence[Edit]) -> tuple[Table, ...]:
    """How often the gate of an edit opened, by what the prompt was."""
    met = [one for edit in edits for one in edit.met]
    rows = tuple(
        (name, len(some), sum(one.opened for one in some), sum(one.opened for one in some) / len(some))
        for about, name in NAMES.items()
        if (some := [one for one in met if one.about == about])
    )
    note = (
        "Each edit's own gate, when the edit was computed. A prompt at which it stays closed is answered as by the "
        "model without the edit, to the last bit."
    )
    return (Table("What the gate met", ("prompts", "asked", "opened", "share"), rows, note),) if rows else ()


def codebook(part: Bypass) -> Scatter:
    """The balls of a codebook on the two principal components of their keys."""
    radii, _, own = balls(part)
    labels = tuple(part.words[number] for number in own)
    what = f"Each ball is the neighbourhood of one key, in which its value is written; layer {part.layer}."
    places = part.tensors["keys"][list(own)].double()
    what += f" Radii are {float(radii.min()):.3g} to {float(radii.max()):.3g}."
    if len(own) > 1:
        what += f" The nearest two keys are {float(torch.pdist(places).min()):.3g} apart in all dimensions."
    keys = Round("keys", places.numpy(), labels, tuple(radii.tolist()))
    return plane("Balls of the codebook", what, keys)


def clusters(part: Bypass) -> Scatter:
    """The clusters of an index, and the points that they are made of."""
    found = index(part)
    which = part.tensors["which"].long().tolist()
    told = tuple(f"{part.words[point]}, block {which[point]}" for point in found.points.tolist())
    what = (
        f"A prompt that falls into a ball is answered with the block of the ball's nearest point; the gate stands in "
        f"layer {part.numbers['gate']:g}, the blocks in layer {part.layer}."
    )
    if found.forgotten:
        what += f" {found.forgotten} of {len(part.words)} points were cut off by another target and are forgotten."
    centres = Round("centres", found.centres.double().numpy(), found.targets, tuple(found.radii.tolist()))
    points = Round("points", part.tensors["keys"][found.points].double().numpy(), told)
    return plane("Clusters of the index", what, centres, points)


@dataclass(frozen=True, eq=False)
class Round:
    """Places in many dimensions, with a ball around each or none."""

    name: str
    places: np.ndarray  # [place d]
    labels: tuple[str, ...]
    radii: tuple[float, ...] = ()


def plane(title: str, what: str, *groups: Round) -> Scatter:
    """Groups of places on the two principal components of all of them."""
    every = np.concatenate([group.places for group in groups])
    axes, shares = principal_plane(every)
    note = (
        f"{what} The components carry {shares[0]:.0%} and {shares[1]:.0%} of the keys' variance, so balls that overlap "
        f"here may be far apart in the {every.shape[1]} dimensions of the keys."
    )
    if (most := max(len(group.labels) for group in groups)) > MOST:
        note += f" The first {MOST} of {most}."
    drawn = []
    for group in groups:
        flat = ((group.places - every.mean(0)) @ axes)[:MOST]
        radii = group.radii[:MOST]
        drawn.append(
            Points(group.name, np.asarray(flat[:, 0]), np.asarray(flat[:, 1]), group.labels[:MOST], radii=radii)
        )
    return Scatter(title, tuple(drawn), "first component", "second component", "", False, note)


def overlaps(part: Bypass) -> Heatmap:
    """Which facts of a residual memory share rows."""
    masks = part.tensors["masks"][:ROWS].double()
    shared = (masks @ masks.T).numpy() / part.numbers["active"]
    names = tuple(f"{number + 1} {word}" for number, word in enumerate(part.words[:ROWS]))
    chance = part.numbers["active"] / masks.shape[1]
    note = (
        f"Share of the rows of one fact that are the other's too; random masks share {chance:.2f}. A prompt reads the "
        "rows of the fact that it overlaps most, where that reaches the fact's floor: "
        + ", ".join(f"{floor:.2f}" for floor in part.tensors["floor"][:ROWS].tolist())
        + "."
    )
    if len(part.words) > ROWS:
        note += f" The first {ROWS} of {len(part.words)} facts."
    return Heatmap(
        "Rows that facts share", shared, names, names, "fact", "fact", "overlap", limits=(0.0, 1.0), palette="green",
        note=note,
    )  # fmt: skip


def spread(part: Bypass) -> Table:
    """The shards of a side memory that speak: how much of the matrix each changes, and from where on it answers."""
    changes, threshold = shards(part)
    rows = tuple(
        (number + 1, float((change != 0).double().mean()), float(change.norm()), float(above))
        for number, (change, above) in enumerate(zip(changes[:ROWS], threshold, strict=False))
    )
    note = (
        "A shard answers a prompt for which it and the projection write further apart than its threshold, on average "
        "over the prompt's tokens; of several the furthest."
    )
    if part.numbers["merge"]:
        note += f" It is {len(part.tensors['changes'])} shards, merged."
    columns = ("shard", "share of entries that changed", "norm of the change", "answers above a distance of")
    return Table("Shards of the side memory", columns, rows, note)


def shifts(part: Bypass) -> Table:
    """Whose name is shifted where, and how far."""
    norms = part.tensors["values"].norm(dim=-1).tolist()
    rows = tuple((word, round(norm, 3)) for word, norm in zip(part.words, norms, strict=True))[:ROWS]
    note = f"Length of the vector that is added after block {part.layer} where the name ends."
    return Table("Shifts", ("name", "length"), rows, note)


def fires(edit: Edit) -> tuple[Heatmap, ...]:
    """At which prompts the neurons beside an MLP fire, and at how many of their tokens; nothing without a neuron."""
    (part,) = edit.bypasses
    size = part.tensors["values"].norm(dim=-1).numpy()
    if not len(size) or not edit.met:
        return ()
    rows = [
        (name, mean_load(own)) for about, name in NAMES.items() if (own := [m for m in edit.met if m.about == about])
    ]
    met = sorted(edit.met, key=lambda one: list(NAMES).index(one.about))[:ROWS]
    rows += [(f"{one.about[0].upper()}: {one.prompt}", one.load) for one in met]
    rows.reverse()  # the last row is drawn at the top
    often = np.array([one.load for one in edit.met]).mean(0)
    order = np.argsort(-(size * often), kind="stable")[:SLOTS]
    note = (
        "Share of a prompt's tokens at which each neuron writes: first the means, then prompt by prompt (E: as edited, "
        "P: paraphrase, N: neighbour). Neurons are in the order of how often they fire times how far they write. One "
        "that fires in every row changes all prompts; one that fires in the edited ones alone is a gate."
    )
    if len(size) > SLOTS:
        note += f" The first {SLOTS} of {len(size)} neurons."
    several = len(set(part.words)) > 1
    columns = tuple(f"{number} {part.words[number]}" if several else f"{number}" for number in order)
    drawn = Heatmap(
        f"What the neurons fire for: edit {edit.name[:6]}", np.array([load for _, load in rows])[:, order],
        tuple(name for name, _ in rows), columns, "prompts", "neuron", "share of tokens", limits=(0.0, 1.0),
        palette="green", note=note,
    )  # fmt: skip
    return (drawn,)


def probed(edits: Sequence[Edit]) -> tuple[Table, ...]:
    """Which answer the subject's state spoke for before the edit, where the method asks that."""
    rows = [
        (request.prompt, request.target, request.old, *(round(value, 3) for value in both),
         "old" if both[1] > both[0] else "new")
        for edit in edits if "probe" in edit.memory
        for request, both in zip(edit.requests, edit.memory["probe"].tolist(), strict=True) if request.old
    ]  # fmt: skip
    note = (
        "Cosine of the vector that a statement becomes with the unedited state where the subject's name ends, both "
        "less their means over shipped facts. Where the old answer is nearer, the model holds it before it is asked. "
        f"Of {len(rows)} facts the old answer is nearer in {sum(row[-1] == 'old' for row in rows)}."
    )
    columns = ("prompt", "new", "old", "near the new", "near the old", "nearer")
    return (Table("What the subject's state says before the edit", columns, tuple(rows[:ROWS]), note),) if rows else ()


def experts(edits: Sequence[Edit]) -> tuple[Spec, ...]:
    """The load of each edit's experts, by prompt and by relation, and which expert each prompt met."""
    if not edits:
        return ()
    rows = [row for edit in edits for row in _loads(edit, several=len(edits) > 1)]
    width = max(len(load) for _, load in rows)
    values = np.array([[*load, *[np.nan] * (width - len(load))] for _, load in rows[:ROWS]])
    columns = tuple(f"expert {number}" for number in range(width))
    note = (
        "Share of the tokens whose most likely expert it is, of prompts in scope; specialised experts differ from row "
        "to row, balanced ones are alike within a row."
    )
    load = Heatmap(
        "Load of the experts", values, tuple(name for name, _ in rows[:ROWS]), columns, "prompts", "expert", "share",
        limits=(0.0, 1.0), palette="green", note=note,
    )  # fmt: skip
    found = [(edit, one) for edit in edits if (one := routing(edit)) is not None]
    return (load, *((_use(found),) if found else ()), _routes(edits))


def _use(found: Sequence[tuple[Edit, Routing]]) -> Table:
    """Numbers of each edit's router."""
    rows = tuple(
        (edit.name[:6], edit.config["experts"], edit.config["top_k"], len(one.by_group), *(
            round(value, 3) for value in (one.same, one.similar, one.specialisation, one.balance)))
        for edit, one in found[:ROWS]
    )  # fmt: skip
    note = (
        "Consistency: share of what is asked that goes to the expert which most of it goes to, of a fact with its "
        "paraphrases (same) and of a relation (similar). Specialisation: how far a relation's load is from that of "
        "all, 0 alike, 1 apart. Balance: 1 where all experts are used alike."
    )
    columns = (
        "edit", "experts", "top k", "relations", "consistency, same", "consistency, similar", "specialisation",
        "balance",
    )  # fmt: skip
    return Table("How the experts are used", columns, rows, note)


def _loads(edit: Edit, several: bool) -> list[tuple[str, tuple[float, ...]]]:
    """Names and mean loads: of the prompts as edited, of paraphrases, and of each relation where there are several."""
    own = [one for one in edit.met if one.opened]
    relations = dict.fromkeys(request.relation for request in edit.requests)
    groups = {name: [one for one in own if one.about == about] for about, name in NAMES.items()}
    if len(relations) > 1:
        groups |= {
            relation: [one for one in own if edit.requests[one.fact].relation == relation and one.about != "neighbour"]
            for relation in relations
        }
    before = f"{edit.name[:6]}: " if several else ""
    return [(before + name, mean_load(some)) for name, some in groups.items() if some]


def _routes(edits: Sequence[Edit]) -> Table:
    """Fact by fact: the expert that answers most of the prompt, and how much of the fact goes to one expert."""
    rows = []
    for edit in edits:
        for number, request in enumerate(edit.requests):
            own = [one for one in edit.met if one.fact == number and one.opened and one.about != "neighbour"]
            if own:
                first = [int(np.argmax(one.load)) for one in own]
                others = ", ".join(map(str, first[1:])) or None
                rows.append((request.prompt, request.target, first[0], others, consistency(own)))
    mean = f" Mean over {len(rows)} facts: {np.mean([row[-1] for row in rows]):.2f}." if rows else ""
    note = (
        "Consistency: the share of a fact's tokens, in its prompt and its paraphrases, that go to the expert which "
        f"most of them go to; 1 where one expert answers all.{mean}"
    )
    if len(rows) > ROWS:
        note += f" The first {ROWS} are shown."
    columns = ("prompt", "target", "expert", "of its paraphrases", "consistency")
    return Table("Which expert each prompt met", columns, tuple(rows[:ROWS]), note)
