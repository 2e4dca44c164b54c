"""What stands beside the weights, drawn: the balls of a codebook in the plane of its keys; numbers in, specs out."""

from collections.abc import Sequence

import numpy as np

from editing.bypass import KINDS, Bypass, join
from editing.bypasses.codebook import balls
from editing.edit import Edit
from factscope.plots.figures.slides import Points, Scatter
from factscope.plots.specs import Spec, Table
from factscope.statistics import principal_plane

MOST = 300  # balls that are drawn


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
    drawn = [codebook(part) for part in parts if part.kind == "codebook" and len(part.words) > 1]
    return (Table("What stands beside the weights", ("layer", "what", "tensors"), rows), *drawn)


def codebook(part: Bypass) -> Scatter:
    """The balls of a codebook on the two principal components of their keys."""
    radii, _, own = balls(part)
    keys = part.tensors["keys"][list(own)].double().numpy()
    plane, shares = principal_plane(keys)
    places = ((keys - keys.mean(0)) @ plane)[:MOST]
    labels = tuple(part.words[number] for number in own[:MOST])
    note = (
        f"Each ball is the neighbourhood of one key, in which its value is written; layer {part.layer}. The components "
        f"carry {shares[0]:.0%} and {shares[1]:.0%} of the keys' variance, so balls that overlap here may be far apart "
        f"in the {keys.shape[1]} dimensions of the keys."
    )
    if len(own) > MOST:
        note += f" The first {MOST} of {len(own)}."
    points = Points(
        "keys", np.asarray(places[:, 0]), np.asarray(places[:, 1]), labels, radii=tuple(radii.tolist()[:MOST])
    )
    return Scatter("Balls of the codebook", (points,), "first component", "second component", "", False, note)
