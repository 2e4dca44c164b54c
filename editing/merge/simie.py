"""SimIE: many edits, each computed alone on the unedited model, made one that honours each on its own prompts.

Each edit i changes W by D_i. With K_i [token d_in] what W reads on the edit's prompts and targets, in the unedited
model, the merged change does on each edit's own tokens what that edit does, as nearly as a ridge allows:

    dW = argmin sum_i ||K_i (dW - D_i)||^2 + lambda tr(dW' A dW)  =  (lambda A + sum_i K_i'K_i)^-1 sum_i K_i'K_i D_i

(ICML 2025, with A the identity; here lambda = share * tr(sum K'K) / tr(A), so that it belongs to no one model.) A
change of two thin factors stays one: its left factor becomes (...)^-1 K_i'(K_i left_i), its right factor stays. The
order of the edits does not matter, and an edit is taken out of the merge exactly: merge the others.

Scope: edits of the weights that were computed apart, each on the unedited model. Entries that RECT left out are changed
again, since the merged change is solved for. No edit is computed anew.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Edit, base_of, in_place
from editing.merge.stack import check_weights, merged
from editing.requests import bare_prompt, check
from editing.solve.moments import Moments
from editing.weights.lent import in_float32
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.batched import ROWS, padded, states_at
from factscope.model.sites import Site
from factscope.model.weights import MLP_OUT, PROJECTIONS, WeightName

METHOD = "simie"


@dataclass(frozen=True)
class Config:
    """The published lambda of 10,000 belongs to the keys of models of seven billion; the share was not swept."""

    share: float = 1e-3  # of the mean eigenvalue of sum K'K over that of A

    def __post_init__(self) -> None:
        if self.share <= 0:
            raise EditError(f"the share must be above 0, not {self.share:g}: without a ridge there is no one solution")


def simie(model: Bridge, edits: Sequence[Edit], config: Config = Config(), moments: Moments | None = None) -> Edit:
    """One edit of all; `moments` are the measure A of what shall not change, in place of the identity.

    The model is only read. Raises EditError: an edit that is not of the weights, that was computed on top of another or
    for another model, edits in place, one prompt with two targets.
    """
    check_weights(edits, "a merge is of changes of weights")
    stack = merged(edits)
    check(stack.requests)
    for edit in edits:
        if edit.below:
            raise EditError(f"edit {edit.name} was computed on top of others; SimIE merges edits of the unedited model")
    if in_place(model):
        raise EditError("take the edits that are in place out first: SimIE reads keys of the unedited model")
    if base_of(model) != stack.base:
        raise EditError(f"edit {stack.name} was made for another model ({stack.model}): load that one")
    names = list(dict.fromkeys(delta.weight for delta in stack.deltas))
    other = [name for name in names if WeightName.of(name).part != MLP_OUT]
    if moments is not None and other:
        raise EditError(f"second moments are of what down-projections read, and {other[0]} is none: merge without them")
    keys = [_keys(model, edit, names) for edit in edits]
    changed: list[list[Delta]] = [[] for _ in edits]
    for name in names:
        owners = [(number, delta) for number, edit in enumerate(edits) for delta in edit.deltas if delta.weight == name]
        measure = None if moments is None else moments.of(WeightName.of(name).layer).double()
        parts = joined(
            [keys[number][name] for number, _ in owners], [delta for _, delta in owners], config.share, measure
        )
        for (number, _), part in zip(owners, parts, strict=True):
            changed[number].append(part)
    one = merged([replace(edit, deltas=tuple(own), digest="") for edit, own in zip(edits, changed, strict=True)])
    return replace(
        one,
        method=f"{METHOD} of {'+'.join(dict.fromkeys(edit.method for edit in edits))}",
        config=asdict(config) | {"edits": {edit.digest: edit.config for edit in edits}},
        moments="identity" if moments is None else moments.name,
        notes=(f"{len(edits)} edits, each computed on the unedited model: {', '.join(edit.name for edit in edits)}",),
        reports=(),
        curve=None,
        digest="",
    )


def merged_digests(edit: Edit) -> tuple[str, ...]:
    """Digests of the edits that a merge was made of, in order; none for any other edit."""
    return tuple(edit.config["edits"]) if edit.method.startswith(f"{METHOD} of ") else ()


def joined(
    keys: Sequence[Float[Tensor, "_ d_in"]],
    deltas: Sequence[Delta],
    share: float,
    measure: Float[Tensor, "d_in d_in"] | None = None,
) -> list[Delta]:
    """What each change of one weight becomes; their sum is the merged change. Keys in float64, of each its own."""
    width = keys[0].shape[1]
    read = torch.cat(list(keys))
    measure = torch.eye(width, dtype=torch.float64) if measure is None else measure
    ridge = share * float(read.square().sum()) / float(measure.trace())
    factor = torch.linalg.cholesky(ridge * measure + read.T @ read)

    def held(own: Tensor, change: Tensor) -> Tensor:
        return torch.cholesky_solve(own.T @ (own @ change.double()), factor).float()

    return [
        replace(delta, left=held(own, delta.left))
        if delta.low_rank and delta.left is not None
        else Delta(delta.weight, held(own, delta.dense()))
        for own, delta in zip(keys, deltas, strict=True)
    ]


@torch.no_grad()
def _keys(model: Bridge, edit: Edit, names: Sequence[str]) -> dict[str, Float[Tensor, "_ d_in"]]:
    """What each weight reads at every token of the edit's prompts and targets, float64."""
    sites = {str(one): Site(PROJECTIONS[one.part][0], one.layer) for one in map(WeightName.of, names)}
    rows, ends = [], []
    for request in edit.requests:
        prompt = bare_prompt(model, request, edit.start_token)
        rows.append((*prompt.tokens, *prompt.answer_ids))
        ends.append(len(prompt.tokens) - 1)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    with in_float32(model):
        for begin in range(0, len(rows), ROWS):
            some, last = rows[begin : begin + ROWS], torch.tensor(ends[begin : begin + ROWS])
            seen = states_at(model, padded(model, some), last, list(sites.values()))
            for name, site in sites.items():
                found[name] += [
                    seen[site][row, : len(tokens)].flatten(1).double().cpu() for row, tokens in enumerate(some)
                ]
    return {name: torch.cat(parts) for name, parts in found.items()}
