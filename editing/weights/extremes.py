"""The largest and the smallest singular value of a matrix, by Lanczos' iteration; never the whole spectrum.

All singular values of a large weight take half a minute, and a table of an edit asks for two of them. Lanczos (1950)
builds, from one random vector, the small tridiagonal matrix that a symmetric operator is within the space of its
powers; the largest eigenvalue of it tends to the operator's, and its eigenvector's last entry bounds the distance. The
operator is A'A for the largest value and (A'A)^-1, through one Cholesky factor, for the smallest. Every new vector is
made orthogonal to all before it, twice, so that no value is found again. A symmetric matrix takes A's place itself.

`TOLERANCE` bounds the relative error of a squared singular value. Where A'A is so ill-conditioned that its factor says
too little of the smallest value (a condition above `STEEP`), that one comes from the full decomposition.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 1e-9
STEEP = 1e4  # condition of A: float64 knows the smallest eigenvalue of A'A to 1e-16 times its square
SMALL = 256  # of the thinner side: below it the full decomposition takes no longer


def largest(matrix: Float[Tensor, "d_in d_out"]) -> float:
    """The largest singular value; computed in float64."""
    matrix = _thin(matrix)
    if matrix.shape[1] < SMALL:
        return float(torch.linalg.matrix_norm(matrix, 2))
    return math.sqrt(_top(lambda vector: matrix.T @ (matrix @ vector), matrix))


def extremes(matrix: Float[Tensor, "d_in d_out"]) -> tuple[float, float]:
    """The largest and the smallest singular value; computed in float64."""
    matrix = _thin(matrix)
    if matrix.shape[1] >= SMALL:
        most, least = bounds(matrix.T @ matrix)
        if least > most / STEEP**2:
            return math.sqrt(most), math.sqrt(least)
    values = torch.linalg.svdvals(matrix)
    return float(values[0]), float(values[-1])


def bounds(matrix: Float[Tensor, "n n"]) -> tuple[float, float]:
    """The largest and the smallest eigenvalue of a symmetric matrix without negative ones; computed in float64."""
    matrix = matrix.double()
    factor, singular = torch.linalg.cholesky_ex(matrix)
    if len(matrix) < SMALL or bool(singular):
        values = torch.linalg.eigvalsh(matrix)
        return float(values[-1]), float(values[0])
    most = _top(lambda vector: matrix @ vector, matrix)
    return most, 1 / _top(lambda vector: torch.cholesky_solve(vector[:, None], factor)[:, 0], matrix)


def _thin(matrix: Tensor) -> Tensor:
    matrix = matrix.detach().double()
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


def _top(apply: Callable[[Tensor], Tensor], matrix: Tensor) -> float:
    """The largest eigenvalue of a symmetric operator on vectors as long as the matrix's rows."""
    size = matrix.shape[1]
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype).to(matrix.device)
    basis, diagonal, beside = [start / start.norm()], list[float](), list[float]()
    while True:
        image = apply(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        beside.append(float(image.norm()))
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        small += torch.diag(torch.tensor(beside[:-1], dtype=torch.float64), 1)
        values, vectors = torch.linalg.eigh(small, UPLO="U")
        top = float(values[-1])
        if len(basis) == size or beside[-1] * abs(float(vectors[-1, -1])) <= TOLERANCE * abs(top):
            return top
        basis.append(image / beside[-1])
