"""One closed form behind ROME, MEMIT and all their kin: R-ROME, EMMET, PMET, AlphaEdit, RLS, UltraEdit and MALMEN.

Given the edit's keys K [fact, d_in] (what the MLP's down-projection reads where the subject ends) and residuals
R [fact, d_out] (what it should write there, less what it writes), the change of W [d_in, d_out] that meets them while
disturbing ordinary keys least is, with C the second moment of ordinary keys and lambda >= 0,

    dW = A^-1 K' (P A^-1 K' + lambda I)^-1 R            (transposed: R (K^T A^-1 K + L)^-1 K^T A^-1 in the papers)

A is C (ROME, R-ROME, MEMIT, PMET, EMMET), the identity (UltraEdit, MALMEN), or either with what is to be held too,
`guarded` (RLS: the keys of earlier edits; AlphaEdit is the limit in which all but the quiet directions are held without
end). P is K, except in ROME, where it is the bare prompt's key; K is the averaged key, projected in AlphaEdit.

The factors are left = A^-1 K' (...)^-1 [d_in, fact] and right = R, so a change of n facts has rank n and is never
formed. By the push-through identity the same left is (lambda A + K'K)^-1 K' when P = K: the d-by-d form, which is the
smaller one once there are more facts than key dimensions. Everything is in float64, by Cholesky: no inverse.
"""

from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta
from editing.edit import Report
from factscope.errors import EditError

# Below this cosine between a key and the direction written to, the division by it makes "disabling edits" (Gupta et
# al. 2024): an update hundreds of times the usual size. Healthy edits are at 0.3 and more.
FAINT = 0.02


@dataclass(frozen=True, eq=False)
class Solution:
    """A change in factors, float64, and what the solver met."""

    left: Float[Tensor, "d_in fact"]
    right: Float[Tensor, "fact d_out"]
    residual: float
    division: float
    condition: float
    leverage: float
    note: str = ""

    def dense(self) -> Float[Tensor, "d_in d_out"]:
        """The whole change."""
        return self.left @ self.right

    def delta(self, weight: str) -> Delta:
        """The change as an edit keeps it: float32, in factors while those are smaller than the whole."""
        (d_in, rank), d_out = self.left.shape, self.right.shape[1]
        if rank * (d_in + d_out) >= d_in * d_out:
            return Delta(weight, self.dense().float().cpu())
        return Delta(weight, self.right.float().cpu(), self.left.float().cpu())

    def report(
        self, weight: str, matrix: Float[Tensor, "d_in d_out"], moment: Tensor | None, usual: float | None = None
    ) -> Report:
        """With the size of the change relative to `matrix`, and, in the measure of ordinary keys, its disturbance.

        `usual` is `usual_output` of the two, where it is known: the one large product here.
        """
        matrix = matrix.double()
        within = self.left.T @ (self.left if moment is None else moment @ self.left)  # [fact, fact]
        disturbed = float((within * (self.right @ self.right.T)).sum())
        usual = usual_output(matrix, moment) if usual is None else usual
        size = float(((self.left.T @ self.left) * (self.right @ self.right.T)).sum())
        return Report(
            weight,
            residual=self.residual,
            division=self.division,
            condition=self.condition,
            leverage=self.leverage,
            disturbance=disturbed / usual if usual else float("nan"),
            norm=(max(size, 0.0) ** 0.5) / float(matrix.norm()) if float(matrix.norm()) else float("nan"),
            note=self.note,
        )


def usual_output(matrix: Float[Tensor, "d_in d_out"], moment: Float[Tensor, "d_in d_in"] | None) -> float:
    """tr(W' C W): mean squared length of what the weight writes for ordinary keys; float64."""
    matrix = matrix.double()
    return float((matrix * (matrix if moment is None else moment @ matrix)).sum())


class KeyMetric:
    """The symmetric positive definite A of the closed form, factored once; `None` is the identity.

    A multiple of it, and it with a few keys held besides, need no factor of their own: `times` and `holding`.
    """

    def __init__(self, matrix: Float[Tensor, "d_in d_in"] | None) -> None:
        self.matrix = None if matrix is None else matrix.double()
        self.jitter = 0.0
        self.factor: Tensor | None = None
        self.scale = 1.0
        self.held: Tensor | None = None  # keys
        self._spread = self._inner = torch.empty(0)
        if self.matrix is not None:
            self.factor, self.jitter = cholesky(self.matrix)

    def times(self, scale: float) -> "KeyMetric":
        """scale A."""
        if self.held is not None:
            return KeyMetric(scale * self.dense(self.held.shape[1]))
        other = copy(self)
        other.scale = self.scale * scale
        return other

    def holding(self, keys: Float[Tensor, "fact d_in"]) -> "KeyMetric":
        """A + K'K, by Woodbury's identity while there are fewer keys than dimensions; else factored anew."""
        held = keys.double() if self.held is None else torch.cat([self.held, keys.double()])
        if len(held) >= held.shape[1]:
            return KeyMetric(guarded(self._plain(held.shape[1]), held))
        other = copy(self)
        other.held, other._spread = held, self._bare(held.T)
        other._inner, _ = cholesky(torch.eye(len(held), dtype=held.dtype, device=held.device) + held @ other._spread)
        return other

    def solve(self, columns: Float[Tensor, "d_in n"]) -> Float[Tensor, "d_in n"]:
        """A^-1 columns."""
        bare = self._bare(columns)
        if self.held is None:
            return bare
        return bare - self._spread @ torch.cholesky_solve(self.held @ bare, self._inner)

    def dense(self, width: int) -> Float[Tensor, "d_in d_in"]:
        """A itself."""
        plain = self._plain(width)
        return plain if self.held is None else guarded(plain, self.held)

    def _plain(self, width: int) -> Tensor:
        return self.scale * matrix_of(self.matrix, width)

    def _bare(self, columns: Tensor) -> Tensor:
        solved = columns if self.factor is None else torch.cholesky_solve(columns, self.factor)
        return solved if self.scale == 1.0 else solved / self.scale


def matrix_of(moment: Float[Tensor, "d_in d_in"] | None, width: int) -> Float[Tensor, "d_in d_in"]:
    """C in float64; None is the identity."""
    return torch.eye(width, dtype=torch.float64) if moment is None else moment.double()


def guarded(matrix: Float[Tensor, "d_in d_in"], keys: Float[Tensor, "fact d_in"]) -> Float[Tensor, "d_in d_in"]:
    """A + K'K: the measure in which what these keys give is held as well."""
    return matrix + keys.double().T @ keys.double()


def solve(
    keys: Float[Tensor, "fact d_in"],
    residuals: Float[Tensor, "fact d_out"],
    metric: KeyMetric,
    *,
    ridge: float = 0.0,
    at: Float[Tensor, "fact d_in"] | None = None,
    form: str = "auto",
) -> Solution:
    """The closed form of this file.

    Args:
        keys: K; the update lies in the span of A^-1 K'.
        residuals: R, what must be added at `at`.
        metric: A.
        ridge: lambda, in the units of K A^-1 K'. 0 meets every residual exactly (ROME, R-ROME).
        at: P; the keys where the residuals are to be met, K itself if left out (ROME: the bare prompt's keys).
        form: "keys" solves n by n, "dimensions" d by d (needs ridge > 0 and no `at`), "auto" the smaller.

    Raises EditError: two facts with the same key and no ridge, a key that is orthogonal to what it would write.
    """
    keys, residuals = keys.double(), residuals.double()
    probes = keys if at is None else at.double()
    solved = metric.solve(keys.T)  # [d_in, fact]
    gram = probes @ solved
    if form == "auto":
        form = "dimensions" if at is None and ridge > 0 and keys.shape[0] > keys.shape[1] else "keys"
    if form == "dimensions":
        left, condition = _by_dimensions(keys, metric, ridge)
    else:
        left, condition = _by_keys(gram, solved, ridge, symmetric=at is None)
    if not bool(torch.isfinite(left).all()):
        raise EditError("the edit's equations have no finite solution: two facts share a key; leave one of them out")
    met = probes @ left @ residuals
    size = float(residuals.norm())
    cosine = gram.diagonal().abs() / (probes.norm(dim=1) * solved.norm(dim=0)).clamp_min(1e-300)
    notes = []
    if at is not None and float(cosine.min()) < FAINT:  # elsewhere k A^-1 k' > 0 is divided by
        notes.append(
            f"division factor {float(cosine.min()):.3g}: the key hardly points where the update is written, so the "
            "update is large and may break the model (a disabling edit); R-ROME does not have this trouble"
        )
    if metric.jitter:
        notes.append(f"the second moment was singular; {metric.jitter:.2g} was added to its diagonal")
    return Solution(
        left=left,
        right=residuals,
        residual=float((met - residuals).norm()) / size if size else 0.0,
        division=float(cosine.min()),
        condition=condition,
        leverage=float((keys * solved.T).sum(1).mean()),
        note="; ".join(notes),
    )


def _by_keys(gram: Tensor, solved: Tensor, ridge: float, symmetric: bool) -> tuple[Tensor, float]:
    """A^-1 K' (P A^-1 K' + ridge)^-1: a system as large as the number of facts."""
    count = gram.shape[0]
    system = gram + ridge * torch.eye(count, dtype=gram.dtype, device=gram.device)
    condition = float(torch.linalg.cond(system)) if count <= 512 else float("nan")
    if condition > 1e14:
        raise EditError(
            f"the edit's equations cannot be told apart (condition {condition:.1g}): two facts have the same key, or a "
            "key is orthogonal to what it would write; leave one out, or use a method with a ridge (memit)"
        )
    if symmetric:
        factor, jitter = cholesky(system)
        if not jitter:
            return torch.cholesky_solve(solved.T, factor).T, condition
    return torch.linalg.solve(system.T, solved.T).T, condition


def _by_dimensions(keys: Tensor, metric: KeyMetric, ridge: float) -> tuple[Tensor, float]:
    """(ridge A + K'K)^-1 K': a system as large as the key, the same for any number of facts."""
    if not ridge > 0:
        raise EditError("the d-by-d form needs a ridge above zero")
    factor, _ = cholesky(guarded(ridge * metric.dense(keys.shape[1]).to(keys.device), keys))
    return torch.cholesky_solve(keys.T, factor), float("nan")


def cholesky(matrix: Float[Tensor, "n n"]) -> tuple[Tensor, float]:
    """The lower factor, and what had to be added to the diagonal to get it (0.0 for a definite matrix)."""
    matrix = (matrix + matrix.T) / 2
    factor, trouble = torch.linalg.cholesky_ex(matrix)
    jitter = 0.0
    while bool(trouble):
        scale = float(matrix.diagonal().mean())
        jitter = max(jitter * 100, 1e-12 * scale)
        if not 0 < jitter < 1e-3 * scale:
            raise EditError("the second moment is not positive definite; collect it over more text (edit moments)")
        eye = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        factor, trouble = torch.linalg.cholesky_ex(matrix + jitter * eye)
    return factor, jitter
