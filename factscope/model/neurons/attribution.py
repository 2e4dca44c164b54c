"""How much of an answer each neuron carries: integrated gradients over the hidden activations of one MLP.

Dai et al. 2022, *Knowledge Neurons in Pretrained Transformers*, equations 1 and 2. With a the hidden activations of a
layer's MLP at the prompt's last token (what its down-projection reads: in a gated MLP, act(gate) times up), and P(t)
the probability of the answer's token when this one vector of this one layer is t a instead,

    Attr = a * (1/m) sum_j dP(t_j a)/da        t_j = (j + 1/2) / m, j = 0 ... m - 1

the midpoint rule (the authors take t_j = j/m). An answer of several tokens is teacher-forced: each token has a row of
its own, changed at that row's last position, and their attributions are summed.

Completeness: over the neurons of a layer, attributions sum to P(a) - P(0), up to the error of the rule. That gap is
given for every layer, and a layer whose gap is above the tolerance is done again with twice as many points, for the
prompts where it is.

*Convention*: in units of probability (or of logits, the answer's less the average token's); positive where the neuron,
as it fires, raises the answer. *Scope*: models whose MLPs have one down-projection, whose product with what it reads is
what it writes; others are refused in one sentence.

Nothing below the changed layer runs again, and above it only the last position does, which reads the others through
kept keys and values. The slope with respect to what is written is summed along the path and goes through the
down-projection once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import ModelError, UserError
from factscope.model.agreement import agree, finite, require
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.forward.at_once import fitting, slope_bytes
from factscope.model.forward.batched import padded
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.scoring import Pair
from factscope.model.forward.subject import Row, Suffix, check_written, landed, measure_shares, suffix
from factscope.model.hooks import record, standing
from factscope.model.readout import readout
from factscope.model.sites import Site
from factscope.model.source.checkpoint import probe
from factscope.model.weights import down_projection, key_width, live_weights
from factscope.progress import Advance

CHUNK = 128  # points of paths that run at once, or as many as find room: it decides nothing but rounding


@dataclass(frozen=True)
class Path:
    """How attributions are integrated."""

    points: int = 20  # m, the authors'
    tolerance: float = 0.01  # of a layer's gap, in the unit of `of`; above it the layer is done again with 2 m
    doublings: int = 4  # at most
    of: str = "probability"  # or "logit"
    tokens: str = "all"  # of the answer, or "first"

    def __post_init__(self) -> None:
        if self.points < 1 or self.doublings < 0:
            raise UserError(f"a path has 1 point or more and 0 doublings or more, not {self.points}, {self.doublings}")
        if not self.tolerance > 0:
            raise UserError(f"the tolerance of a gap must be above 0, not {self.tolerance}")
        for name, allowed in {"of": ("probability", "logit"), "tokens": ("all", "first")}.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} cannot be {getattr(self, name)!r}; choose {' or '.join(allowed)}")


@dataclass(frozen=True, eq=False)
class Attribution:
    """What every neuron of some layers carries of the answers of some pairs; float32, on the CPU.

    Neurons are counted to the widest layer; a narrower one has zeros behind its own.
    """

    layers: tuple[int, ...]
    value: Float[Tensor, "pair layer d_mlp"]  # summed over the answer's tokens
    activation: Float[Tensor, "pair layer d_mlp"]  # at the prompt's last token
    whole: Float[Tensor, " pair"]  # P(a), summed over the answer's tokens
    without: Float[Tensor, "pair layer"]  # P(0)
    points: Int[Tensor, "pair layer"]  # m

    @property
    def gap(self) -> Float[Tensor, "pair layer"]:
        """How far the attributions of a layer are from adding up to P(a) - P(0)."""
        return (self.value.sum(-1) - (self.whole[:, None] - self.without)).abs()


def check_neurons(model: Bridge, layers: Sequence[int]) -> None:
    """ModelError unless the neurons of these layers, the lowest first, can be changed one by one, exactly.

    The lowest is proven as `check_written` proves it; of all of them, in one pass, that what is written is the product
    of the down-projection and its neurons, and that it lands in the residual stream as `landed` says.
    """
    if standing(model):
        raise ModelError(
            "an edit beside the weights is in place, whose gate looks at whole prompts, and attributions run parts of "
            "them: take it out first"
        )
    for layer in layers:
        if not 0 <= layer < model.cfg.n_layers:
            raise ModelError(f"there is no layer {layer}: this model has layers 0 to {model.cfg.n_layers - 1}")

    def prove() -> None:
        check_written(model, layers[0])
        live, kinds = live_weights(model), ("mlp_hidden", "mlp_write", "mlp")
        unlike = [i for i in layers if down_projection(i) not in live or live[down_projection(i)].ndim != 2]
        if unlike:
            raise ModelError(
                f"layer {unlike[0]} of this model ({architecture(model)}) has no MLP with one down-projection, so it "
                "has no neurons to attribute an answer to: its MLP is of experts, its weights are packed by a "
                "quantiser, or it has no MLP"
            )
        measure_shares(model, layers)
        with record(model, [Site(kind, i) for i in layers for kind in kinds]) as seen:
            model(probe(readout(model).n_tokens, device(model)), use_cache=False)
        for layer in layers:
            hidden, write, added = (seen[Site(kind, layer)].flatten(0, 1) for kind in kinds)
            product = (hidden.float() @ live[down_projection(layer)].float()).to(write)
            lands = landed(model, layer, torch.zeros_like(write), write)
            for ours, own in ((product, write), (lands, added)):  # less what is the same for all tokens, as a bias
                if not agree(ours - ours[:1], own - own[:1]):
                    raise ModelError(
                        f"what the MLP of layer {layer} of this model ({architecture(model)}) adds is not what its "
                        "neurons write, so no answer can be attributed to them"
                    )

    require(model, f"attributed to the neurons of layers {', '.join(map(str, layers))}", prove)


@thin_products()
def attribute(
    model: Bridge,
    pairs: Sequence[Pair],
    layers: Sequence[int] | None = None,
    path: Path = Path(),
    advance: Advance = lambda _: None,
) -> Attribution:
    """Attributions of every neuron of `layers` (all of them by default) for every pair of prompt and answer.

    `advance` is told of finished layers. Raises ModelError for a model whose MLPs do not show their neurons.
    """
    layers = tuple(sorted(range(model.cfg.n_layers) if layers is None else layers))
    check_neurons(model, layers)
    ends = _Ends.of(model, pairs, layers, path)
    value = torch.zeros(len(pairs), len(layers), key_width(model))
    activation, without = torch.zeros_like(value), torch.zeros(len(pairs), len(layers))
    points = torch.full((len(pairs), len(layers)), path.points)
    whole, first = ends.summed(ends.whole()), ends.first
    for place, layer in enumerate(layers):
        width = ends.hidden[layer].shape[1]
        activation[:, place, :width] = ends.hidden[layer][first].float().cpu()
    found = Attribution(layers, value, activation, whole, without, points)

    def filled(some: "_Ends", asked: Sequence[int], count: int) -> None:
        own = list(dict.fromkeys(some.owner.tolist()))
        for layer, slope, nothing in some.slopes(asked, count):
            place = layers.index(layer)
            carried = some.hidden[layer].float() * (slope @ some.weights[layer].float().T)
            value[own, place, : carried.shape[1]] = some.summed(carried)
            without[own, place] = some.summed(nothing)
            points[own, place] = count
            if some is ends:
                advance(1)

    filled(ends, layers, path.points)
    for doubling in range(1, path.doublings + 1):
        for place, layer in enumerate(layers):
            off = (found.gap[:, place] > path.tolerance) & (points[:, place] == path.points * 2 ** (doubling - 1))
            if bool(off.any()):
                filled(ends.of_pairs(off.nonzero()[:, 0].tolist()), [layer], path.points * 2**doubling)
    return found


@dataclass(frozen=True, eq=False)
class _Ends:
    """One row for each token of each answer, with what stands at its last position in a plain run."""

    part: Suffix  # from the lowest layer on, the last position alone
    path: Path
    owner: Int[Tensor, " row"]  # the pair of each row
    token: Int[Tensor, " row"]  # that is asked for at the row's end
    hidden: dict[int, Float[Tensor, "row d_mlp"]]
    write: dict[int, Float[Tensor, "row d_model"]]
    resid: dict[int, Float[Tensor, "row d_model"]]  # after the block
    weights: dict[int, Float[Tensor, "d_mlp d_model"]]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Bridge, pairs: Sequence[Pair], layers: Sequence[int], path: Path) -> "_Ends":
        """Run every row once, and hold what is kept of it against the model's own logits."""
        rows, owner, token = [], [], []
        for number, pair in enumerate(pairs):
            for place in range(1 if path.tokens == "first" else len(pair.answer)):
                tokens = (*pair.prompt, *pair.answer[:place])
                rows.append(Row(tokens, len(tokens) - 1, (len(tokens) - 1,)))
                owner.append(number)
                token.append(pair.answer[place])
        part = suffix(model, rows, layers[0])
        part.check()
        at = torch.arange(len(rows)), torch.tensor([row.subject for row in rows])
        with record(model, [Site(kind, i) for i in layers for kind in ("mlp_hidden", "mlp_write", "resid")]) as seen:
            model(padded(model, [row.tokens for row in rows]), use_cache=False)
        hidden, write, resid = (
            {i: seen[Site(kind, i)][at] for i in layers} for kind in ("mlp_hidden", "mlp_write", "resid")
        )
        live = live_weights(model)
        weights = {i: live[down_projection(i)].detach().to(hidden[i].device) for i in layers}
        return cls(part, path, torch.tensor(owner), torch.tensor(token), hidden, write, resid, weights)

    @torch.no_grad()
    def whole(self) -> Float[Tensor, " row"]:
        """P(a) of each row."""
        return self._said(self.part, torch.zeros_like(self.part.write), self.token)

    @property
    def first(self) -> list[int]:
        """The first row of each pair."""
        owner = self.owner.tolist()
        return [owner.index(pair) for pair in dict.fromkeys(owner)]

    def of_pairs(self, pairs: Sequence[int]) -> "_Ends":
        """The rows of these pairs alone."""
        keep = [row for row, owner in enumerate(self.owner.tolist()) if owner in pairs]
        hidden, write, resid = ({i: r[keep] for i, r in each.items()} for each in (self.hidden, self.write, self.resid))
        part, owner, token = self.part.narrowed(keep), self.owner[keep], self.token[keep]
        return _Ends(part, self.path, owner, token, hidden, write, resid, self.weights)

    def summed(self, rows: Float[Tensor, " row *rest"]) -> Float[Tensor, " pair *rest"]:
        """Over the rows of each pair, in the order of the pairs."""
        rows, (own, place) = rows.float().cpu(), self.owner.unique(return_inverse=True)
        return torch.zeros(len(own), *rows.shape[1:]).index_add(0, place, rows)

    def slopes(self, layers: Sequence[int], points: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each layer: the mean slope along the path with respect to what is written [row d_model], and P(0) [row].

        All points of all rows are laid side by side, P(0) among them with no weight, and run `CHUNK` at a time.

        Raises ModelError where not even one finds room.
        """
        rows, model = len(self.token), self.part.frame.model
        before = max(row.subject for row in self.part.rows)
        each = slope_bytes(model, len(model.blocks), 1, before, 1)
        size = fitting(model, CHUNK, each, f"the gradients of a prompt of {before + 1} tokens")
        share = torch.tensor([*((j + 0.5) / points for j in range(points)), 0.0]).repeat(rows)
        index = torch.arange(rows).repeat_interleave(points + 1)
        chunks = [(some, self.part.narrowed(index[some].tolist())) for some in torch.arange(len(index)).split(size)]
        for layer in layers:
            slope = torch.zeros_like(self.write[layer], dtype=torch.float32)
            nothing = torch.zeros(rows)
            product = self.hidden[layer] @ self.weights[layer]
            for some, part in chunks:
                own, along = index[some].to(slope.device), share[some].to(slope.device)
                moved = ((along - 1)[:, None] * product[own]).detach().requires_grad_()
                with torch.enable_grad():
                    here = replace(part, layer=layer, resid=self.resid[layer][own][:, None])
                    said = self._said(here, landed(model, layer, self.write[layer][own], moved),
                                      self.token[index[some]])  # fmt: skip
                    (gradient,) = torch.autograd.grad(said.sum(), moved)
                inside = along > 0
                slope.index_add_(0, own[inside], gradient[inside].float() / points)
                nothing[index[some][~inside.cpu()]] = said.detach()[~inside].float().cpu()
            yield layer, slope, nothing

    def _said(self, part: Suffix, added: Tensor, token: Tensor) -> Float[Tensor, " row"]:
        """What the last position of each row gives the token, with `added` to the residual stream after the layer."""
        logits = finite(part.frame.logits(part.run(added)[:, 0]).float())
        own = token.to(logits.device)[:, None]
        if self.path.of == "logit":
            return logits.gather(1, own)[:, 0] - logits.mean(-1)
        return logits.softmax(-1).gather(1, own)[:, 0]
