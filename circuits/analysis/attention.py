"""What the strongest heads of a circuit attend to: token by token, as probabilities and weighted by what they carry.

An attention weight says from where a head reads, not how much comes from there: a start token that holds most of the
attention often has a value near zero. The weighted pattern is the size of what the head writes at a query from each
key, the norm of (weight x value x output matrix), as a share of the row (Kobayashi et al. 2020, arXiv 2004.10102).

Convention: rows are queries, columns keys; every row sums to 1, and nothing is read from later tokens.
Scope: the full model on the circuit's first prompt; norms of a head's parts do not add up to the norm of its sum.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.state import State
from circuits.graph import place_of

SHOWN = 6  # heads


@dataclass(frozen=True, eq=False)
class HeadPattern:
    """One head's attention on one prompt."""

    name: str
    effect: float  # sum of the sizes of its drawn edges' effects, in the loss's unit
    attention: Float[Tensor, "query key"]
    weighted: Float[Tensor, "query key"]  # share of what is written that comes from each key


def strongest_heads(circuit: Circuit, most: int = SHOWN) -> dict[str, float]:
    """The heads whose drawn edges have the largest effects together, the largest first, each with that sum."""
    sums = (circuit.scores.abs().double().numpy() * circuit.drawn).sum(1)
    heads = [place for place, name in enumerate(circuit.graph.writers) if name.startswith("a") and sums[place] > 0]
    return {circuit.graph.writers[n]: float(sums[n]) for n in sorted(heads, key=lambda n: -sums[n])[:most]}


def patterns(state: State, heads: dict[str, float]) -> tuple[HeadPattern, ...]:
    """The patterns of these heads in the state's first row, where the state is that of the full model."""
    found = []
    for name, effect in heads.items():
        layer, head = place_of(name)
        assert head is not None
        pair = head // state.graph.group if state.graph.split else head
        q, k, v = state.queries[layer][head], state.keys[layer][pair], state.values[layer][pair]  # [row, pos, d_head]
        attention = state.kernel.pattern(layer, q[None], k[None], [head])[0, 0].double()
        given = v[0] @ state.kernel.layers[layer].out[head]
        # [key], for a weight of 1; a norm's scale is that of the query, and so the same for all keys
        written = state.share(layer, given, 0, len(given) - 1).double().norm(dim=-1)
        sizes = attention * written
        weighted = sizes / sizes.sum(-1, keepdim=True).clamp_min(1e-12)
        found.append(HeadPattern(name, effect, attention.float().cpu(), weighted.float().cpu()))
    return tuple(found)
