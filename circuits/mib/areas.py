"""One number for a ranking of edges: CPR, CMD and AUROC, as the Mechanistic Interpretability Benchmark has them.

    CPR  = area under f(C_k)          edges by signed score; higher is better, and above 1 where a circuit overshoots
    CMD  = area under |1 - f(C_k)|    edges by size of score; 0 is best
    f    = (m(C) - m(empty)) / (m(full) - m(empty)),  m the mean logit difference, empty: every edge patched

over circuits of k = .001 ... 1 of all edges, by the trapezoid rule on a linear axis, so that the last step is half of
the area. AUROC is of the edges that were planted, against all others, by the size of their scores: the chance that a
planted edge has the larger score, ties half.

*As the benchmark's code has it* the ROC curve is drawn through the ten circuit sizes alone, begins at the smallest
instead of at (0, 0), and its area is divided by the last false positive rate. Both are given.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from factscope.errors import UserError
from factscope.statistics import ranks

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # shares of all edges, as published


def area_under(values: Sequence[float], sizes: Sequence[float] = SIZES) -> float:
    """CPR, of the faithfulness at each size."""
    return float(np.trapezoid(values, sizes))


def area_from_1(values: Sequence[float], sizes: Sequence[float] = SIZES) -> float:
    """CMD, of the faithfulness at each size."""
    return float(np.trapezoid(np.abs(1 - np.asarray(values)), sizes))


def auroc(sizes: Float[np.ndarray, " edge"], truth: Bool[np.ndarray, " edge"]) -> float:
    """The chance that a true edge is larger than another, ties half (Mann and Whitney).

    Raises UserError where no edge, or every edge, is true.
    """
    n, others = int(truth.sum()), int((~truth).sum())
    if not n or not others:
        raise UserError(f"{n} of {n + others} edges are true, and an AUROC needs both kinds")
    above = float(ranks(np.asarray(sizes, dtype=float))[truth].sum()) - n * (n + 1) / 2
    return above / (n * others)


def auroc_of_sizes(chosen: Sequence[Bool[np.ndarray, " edge"]], truth: Bool[np.ndarray, " edge"]) -> float:
    """The benchmark's own: through the rates of these circuits, divided by the last false positive rate.

    NaN where no circuit has a false edge. Raises what `auroc` does.
    """
    auroc(np.zeros(len(truth)), truth)
    hits = [float(kept[truth].mean()) for kept in chosen]
    false = [float(kept[~truth].mean()) for kept in chosen]
    return float(np.trapezoid(hits, false)) / false[-1] if false[-1] > 0 else float("nan")
