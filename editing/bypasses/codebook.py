"""A codebook: keys with a radius around each, and for each a value that takes the place of what is written.

The query is what the down-projection reads at the prompt's last token. Within the radius of its nearest key, that
key's value is written there in the place of the projection's output; everywhere else nothing changes (Hartvigsen et al.
2023).

An edit keeps its own entries as they were made: key, value, reach and target. The codebook is what comes of all edits
in place, one after another, by the paper's table: d is the distance to the nearest key j, e the new entry's reach.

    no key yet, or d > e + r_j           a new entry, of radius e
    within, another target               a new entry, of radius d / 2, and r_j shrinks to d / 2 - 1e-5
    within, the same target              entry j takes the new value, and r_j grows to d if it was smaller

So an edit can be taken out of the middle: the codebook is then what the others give, and no remnant of it is left.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass, BypassKind, Load, Write, concatenated, scrambled_rows, whole_prompt
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends

GAP = 1e-5  # between two balls after a split


def join(parts: Sequence[Bypass]) -> Bypass:
    """All entries, in order; how they divide the space is found when they are put in place."""
    joined = concatenated(parts, SHAPES)
    balls(joined)
    return joined


def balls(part: Bypass) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """What the entries come to: each ball's radius [ball] and value [ball d_out], and the entry whose key it has.

    Raises EditError where one key is asked for two targets.
    """
    keys, values, reach = (part.tensors[name] for name in SHAPES)
    own: list[int] = []
    radii: list[float] = []
    written: list[Tensor] = []
    for number, target in enumerate(part.words):
        near, far = -1, float("inf")
        if own:
            distances = (keys[own].double() - keys[number].double()).norm(dim=-1)
            near = int(distances.argmin())
            far = float(distances[near])
        if far > float(reach[number]) + (radii[near] if own else 0.0):
            own.append(number)
            radii.append(float(reach[number]))
            written.append(values[number])
        elif part.words[own[near]] == target:
            written[near] = values[number]
            radii[near] = max(radii[near], far)
        elif far <= 2 * GAP:
            raise EditError(
                f"one key is asked for two targets, {part.words[own[near]]!r} and {target!r}: take one of the edits out"
            )
        else:
            radii[near] = far / 2 - GAP
            own.append(number)
            radii.append(far / 2)
            written.append(values[number])
    return torch.tensor(radii), torch.stack(written), tuple(own)


def writer(part: Bypass, _: Bridge) -> Write:
    """Write the value of the ball that a prompt's last token falls into, there."""
    radii, values, own = balls(part)
    return partial(_write, part.tensors["keys"][list(own)], radii, values)


def apart(query: Float[Tensor, "row d_in"], keys: Float[Tensor, "entry d_in"]) -> Float[Tensor, "row entry"]:
    """Euclidean distances, each by its differences: the faster way through products loses small ones in float32."""
    return torch.cdist(query.float(), keys.to(query.device), compute_mode="donot_use_mm_for_euclid_dist")


def nearest(keys: Tensor, radii: Tensor, query: Tensor) -> Tensor:
    """The ball that each query [row d_in] falls into, [row]; -1 for none."""
    distance, place = apart(query, keys).min(-1)
    return torch.where(distance <= radii.to(query.device)[place], place, -1)


def _write(keys: Tensor, radii: Tensor, values: Tensor, x: Tensor, y: Tensor, now: Ends) -> Tensor | None:
    last = now.last.to(y.device) - now.begun
    here = ((last >= 0) & (last < y.shape[1])).nonzero()[:, 0]  # rows whose prompt ends in this pass
    if not len(here):
        return None
    place = nearest(keys, radii, x[here, last[here]])
    opened = place >= 0
    if not bool(opened.any()):
        return None
    rows = here[opened]
    return y.index_put((rows, last[rows]), values.to(y)[place[opened]])


def load(part: Bypass, _: Bridge) -> Load:
    """All of a prompt, for the ball that its last token falls into."""
    radii, own = balls(part)[::2]

    def ball(x: Tensor, now: Ends) -> Tensor:
        at = torch.arange(len(x), device=x.device), now.last.to(x.device) - now.begun
        return nearest(part.tensors["keys"][list(own)], radii, x[at])

    return whole_prompt(ball, len(own))


SHAPES = {"keys": ("entry", "d_in"), "values": ("entry", "d_out"), "reach": ("entry",)}
KIND = BypassKind(
    "codebook",
    "a codebook of keys with a radius, each with a value that is written in place of the projection's output",
    SHAPES,
    join,
    writer,
    scrambled_rows,
    load,
)
