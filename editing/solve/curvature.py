"""How steeply the loss of ordinary text rises along a change of a matrix: two second moments, and what lies flat.

    loss(W + D) - loss(W)  ~  1/2 tr(D B D' A)        A = mean of k k',  B = mean of g g'

k is what the matrix reads at a token of ordinary text (A is the second moment C of `editing.solve.moments`), g [d_out]
the slope of the text's summed loss by what it writes there: the curvature as K-FAC factors it (Martens and Grosse
2015). Where the text is the model's own, its tokens are samples of what the model predicts, so B is the Fisher's; of
another text it is the empirical Fisher's.

In the eigenvectors of both, a change's entry (i, j) is as steep as the product a_i b_j of their eigenvalues. `Flat`
keeps the entries below the steepness at which the sum of all products, the steepest first, reaches a share of the
whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from editing.edit import unedited
from editing.solve.corpus import NOTHING, pieces
from editing.solve.moments import Moments, place_of
from factscope.errors import EditError, StoreError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import padded
from factscope.model.hooks import hooked
from factscope.model.sites import Site
from factscope.progress import progress
from factscope.runs import store

PER_DIMENSION = 16  # tokens, for each dimension of what the matrix writes
DOCUMENTS = 8  # of a pass forward and back


@dataclass(frozen=True, eq=False)
class SlopeMoment:
    """B of one layer, and the number of tokens that it is the mean of."""

    matrix: Float[Tensor, "d_out d_out"]  # float32, (nats per unit of what the layer writes) squared
    tokens: int
    corpus: str  # of the moments whose text was read


def slopes_of_text(model: Bridge, layer: int, moments: Moments, shown: bool | None = None) -> SlopeMoment:
    """B of what the MLP of `layer` writes, from the beginning of the text that `moments` are of; kept in the cache.

    Edits that are in place are taken out for it. Raises EditError where the text has fewer tokens than B dimensions.
    """
    place = place_of(model, moments)
    kept = place / f"slopes-{layer}"
    try:
        found = store.load(kept, SlopeMoment)
        if found.corpus == moments.corpus:
            return found
    except StoreError:
        pass
    with unedited(model):
        found = _collected(model, layer, moments, place, shown)
    store.save(found, kept)
    return found


def _collected(model: Bridge, layer: int, moments: Moments, place: Path, shown: bool | None) -> SlopeMoment:
    width = int(model.cfg.d_model)
    wanted, total, tokens = PER_DIMENSION * width, torch.zeros(width, width, dtype=torch.float64), 0
    with progress(f"slopes at layer {layer}, tokens", wanted, 0, shown) as advance:
        for rows, _ in pieces(model, moments.config, place, dict(NOTHING)):
            for begin in range(0, len(rows), DOCUMENTS):
                found = slopes(model, layer, rows[begin : begin + DOCUMENTS])[: wanted - tokens]
                total += (found.T @ found).double().cpu()
                tokens += len(found)
                advance(len(found))
                if tokens >= wanted:
                    return SlopeMoment((total / tokens).float(), tokens, moments.corpus)
    if tokens < width:
        raise EditError(
            f"the text of these moments gives {tokens} slopes, and B has {width} dimensions: collect moments of more "
            "text"
        )
    return SlopeMoment((total / tokens).float(), tokens, moments.corpus)


def slopes(model: Bridge, layer: int, rows: Sequence[Sequence[int]]) -> Float[Tensor, "token d_out"]:
    """Slope of each document's summed loss (nats) by what the MLP of `layer` writes, at all positions but the ends.

    The first is an attention sink, and is left out as moments leave it out; at the last nothing is asked.
    """
    tokens = padded(model, [row for row in rows if len(row) > 2])
    if not len(tokens):
        return torch.zeros(0, int(model.cfg.d_model), device=tokens.device)
    lengths = torch.tensor([len(row) for row in rows if len(row) > 2], device=tokens.device)
    asked = torch.arange(tokens.shape[1] - 1, device=tokens.device) < (lengths - 1)[:, None]
    written: list[Tensor] = []

    def leaf(write: Tensor) -> Tensor:
        written.append(write.detach().requires_grad_())
        return written[-1]

    with torch.enable_grad(), hooked(model, [(Site("mlp_write", layer), leaf)]):
        logp = model(tokens, use_cache=False)[:, :-1].float().log_softmax(-1)
        loss = -logp.gather(2, tokens[:, 1:, None])[..., 0][asked].sum()
        (slope,) = torch.autograd.grad(loss, written)
    counted = asked.clone()
    counted[:, 0] = False
    return slope[:, :-1][counted].float().detach()


class Flat:
    """The projection of a change [.., d_in, d_out] on what lies flat."""

    def __init__(self, a: Float[Tensor, "d_in d_in"], b: Float[Tensor, "d_out d_out"], energy: float) -> None:
        """`energy`, between 0 and 1, is the share of all steepness that a change may not touch."""
        (self.a, self.left), (self.b, self.right) = (torch.linalg.eigh(matrix.double()) for matrix in (a, b))
        steep = self.a.clamp_min(0)[:, None] * self.b.clamp_min(0)
        falling = steep.flatten().sort(descending=True).values
        reached = int((falling.cumsum(0) < energy * falling.sum()).sum())
        self.limit = float(falling[min(reached, len(falling) - 1)])  # a change along no entry as steep as this
        self.kept = (steep < self.limit).float()
        self.left, self.right = self.left.float(), self.right.float()

    def to(self, place: torch.device) -> "Flat":
        """On another device."""
        self.left, self.right, self.kept = (t.to(place) for t in (self.left, self.right, self.kept))
        return self

    def __call__(self, change: Tensor) -> Tensor:
        """The part of the change that lies flat."""
        inside: Tensor = self.left @ ((self.left.T @ change @ self.right) * self.kept) @ self.right.T
        return inside
