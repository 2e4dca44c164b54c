"""Blocks: low-rank maps beside projections, of which an index of clusters chooses one for each prompt.

    y' := y + (x A_b) B_b         at every position of a row whose prompt falls into a cluster of the index

x is what the down-projection reads, y what it writes; A_b [d_in rank] and B_b [rank d_out] are block b's. The index
looks, at the prompt's last token, at what the down-projection of the gate's layer reads: that of the block itself or
one below. Of the cluster into which it falls, the nearest point says the block (Yu et al. 2024, MELO).

An edit keeps its own points as they were made: key, reach, target and block. The clusters are what comes of all edits
in place, one point after another; d is the distance to the nearest cluster's centre, r that cluster's radius, e the new
point's reach.

    no cluster yet, or d > e + r         a new cluster around the point, of radius e
    within, the same target              one point more: the centre is the mean of the points, the radius the largest
                                         distance to them, or the smallest of their reaches if that is larger
    within, another target               a new cluster of radius d / 2 at most, and r is cut to d / 2 - 1e-5; points of
                                         the old cluster outside of it are forgotten, and a cluster without points goes

So an edit can be taken out of the middle, as with a codebook. (In the authors' code a split can also make the old
cluster's radius larger.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from editing.bypass import Bypass, BypassKind, Load, Write, check_whole, scrambled_rows, whole_prompt
from editing.bypasses.codebook import GAP, apart, nearest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends


@dataclass(eq=False)
class Cluster:
    """Points of one target."""

    target: str
    points: list[int]
    centre: Float[Tensor, " d_in"]
    radius: float


@dataclass(frozen=True, eq=False)
class Index:
    """The clusters that all points come to."""

    centres: Float[Tensor, "cluster d_in"]
    radii: Float[Tensor, " cluster"]
    points: Int[Tensor, " point"]  # those that are not forgotten, the latest first
    cluster: Int[Tensor, " point"]  # of each of them
    targets: tuple[str, ...]  # of each cluster
    forgotten: int


def index(part: Bypass) -> Index:
    """Clusters, from points in their order; EditError where one key is asked for two targets."""
    keys, reach = part.tensors["keys"].double(), part.tensors["reach"].tolist()
    found: list[Cluster] = []
    for point, target in enumerate(part.words):
        far = [float((one.centre - keys[point]).norm()) for one in found]
        near = min(range(len(found)), key=far.__getitem__, default=-1)
        if near < 0 or far[near] > reach[point] + found[near].radius:
            found.append(Cluster(target, [point], keys[point], reach[point]))
        elif found[near].target == target:
            _grow(found[near], point, keys, reach)
        else:
            found.append(Cluster(target, [point], keys[point], min(reach[point], far[near] / 2)))
            _cut(found[near], far[near], keys, target)
    kept = [one for one in found if one.points]
    owner = {point: number for number, one in enumerate(kept) for point in one.points}
    points = sorted(owner, reverse=True)
    return Index(
        torch.stack([one.centre for one in kept]).float(), torch.tensor([one.radius for one in kept]),
        torch.tensor(points), torch.tensor([owner[point] for point in points]),
        tuple(one.target for one in kept), len(part.words) - len(points),
    )  # fmt: skip


def _grow(own: Cluster, point: int, keys: Tensor, reach: Sequence[float]) -> None:
    own.points.append(point)
    own.centre = keys[own.points].mean(0)
    largest = float((keys[own.points] - own.centre).norm(dim=-1).max())
    own.radius = max(largest, min(reach[one] for one in own.points))


def _cut(own: Cluster, distance: float, keys: Tensor, target: str) -> None:
    if distance <= 2 * GAP:
        raise EditError(f"one key is asked for two targets, {own.target!r} and {target!r}: take one of the edits out")
    own.radius = min(own.radius, distance / 2 - GAP)
    own.points = [one for one in own.points if float((keys[one] - own.centre).norm()) <= own.radius]


class Gate:
    """Which block speaks in each row."""

    def __init__(self, part: Bypass) -> None:
        self.index, self.which = index(part), part.tensors["which"].long()
        self.keys = part.tensors["keys"][self.index.points]

    def __call__(self, x: Tensor, now: Ends) -> Int[Tensor, " row"]:
        """The block of each row, -1 for none; x [row pos d_in] is what the gate's layer reads."""
        check_whole(now, x.shape[1])
        query = x[torch.arange(len(x), device=x.device), now.last.to(x.device)]
        cluster = nearest(self.index.centres, self.index.radii, query).cpu()
        far = apart(query, self.keys).cpu()
        point = far.masked_fill(self.index.cluster[None] != cluster[:, None], torch.inf).argmin(-1)
        return torch.where(cluster >= 0, self.which[self.index.points[point]], -1)


class Writer:
    """Add what each row's block says, at every position."""

    def __init__(self, part: Bypass) -> None:
        self.part, self.gate = part, Gate(part)
        self.on = cache(lambda device: (part.tensors["left"].to(device), part.tensors["right"].to(device)))

    def __call__(self, x: Tensor, y: Tensor, now: Ends) -> Tensor | None:
        """The rows whose gate opens rewritten, all others as they are; None where none opens."""
        chosen: Tensor = now.once(self.part, lambda: self.asked(x, now))
        out: Tensor | None = None
        for block in sorted(set(chosen.tolist()) - {-1}):
            left, right = (some[block] for some in self.on(x.device))
            rows = (chosen == block).nonzero()[:, 0].to(x.device)
            out = y.clone() if out is None else out
            out[rows] = y[rows] + ((x[rows].float() @ left) @ right).to(y)
        return out

    def asked(self, x: Tensor, now: Ends) -> Tensor:
        """Where the gate is the layer's own."""
        if gate_layer(self.part) != self.part.layer:
            raise EditError(
                f"an edit is in place whose gate stands in layer {gate_layer(self.part)} and writes in layer "
                f"{self.part.layer}, and this runs parts of the model: take the edit out"
            )
        return self.gate(x, now)


def gate_layer(part: Bypass) -> int:
    """Whose down-projection's input decides."""
    return int(part.numbers["gate"])


def join(parts: Sequence[Bypass]) -> Bypass:
    """All points and blocks, in order; thinner blocks are filled up with zeros. EditError where gates differ."""
    if len({gate_layer(part) for part in parts}) > 1:
        raise EditError(
            "the gates of these edits stand in different layers, so they share no index: compute them alike"
        )
    rank = max(part.tensors["left"].shape[-1] for part in parts)
    tensors: dict[str, list[Tensor]] = {name: [] for name in SHAPES}
    blocks = 0
    for part in parts:
        own, more = part.tensors, rank - part.tensors["left"].shape[-1]
        filled = {
            "which": own["which"] + blocks, "left": pad(own["left"], (0, more)),
            "right": pad(own["right"], (0, 0, 0, more)),
        }  # fmt: skip
        for name in SHAPES:
            tensors[name].append(filled.get(name, own[name]))
        blocks += len(own["left"])
    words = tuple(word for part in parts for word in part.words)
    joined = replace(parts[0], tensors={name: torch.cat(some) for name, some in tensors.items()}, words=words)
    index(joined)
    return joined


def writer(part: Bypass, _: Bridge) -> Write:
    """The blocks of all edits in place."""
    return Writer(part)


def load(part: Bypass, _: Bridge) -> Load:
    """All of a prompt, for the block that the index chooses."""
    return whole_prompt(Gate(part), len(part.tensors["left"]))


def decide(part: Bypass) -> Gate:
    """The gate, for a pass that reaches its layer before the block's."""
    return Gate(part)


SHAPES = {
    "keys": ("point", "d_in"),
    "reach": ("point",),
    "which": ("point",),
    "left": ("block", "d_in", "rank"),
    "right": ("block", "rank", "d_out"),
}
KIND = BypassKind(
    "blocks",
    "blocks of low rank, of which an index of clusters chooses one for each prompt",
    SHAPES,
    join,
    writer,
    partial(scrambled_rows, written="right"),
    load,
    prompts=True,
    gate_layer=gate_layer,
    decide=decide,
)
