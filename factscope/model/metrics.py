"""What we measure at the last position: small functions over logits, each with its unit and its good direction.

A metric takes logits [..., vocab] and a `Target`, and gives one number a row. `toward` is +1 where a larger number
means more like the clean answer and -1 where a smaller one does, so that `toward * (restored - corrupted)` is an effect
that is positive when restoring helped, whatever the metric.

Adding one is one decorated function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.errors import UserError


@dataclass(frozen=True, eq=False)
class Target:
    """What a row of logits is measured against: token ids, and the clean run's logits where the metric needs them."""

    answer: int
    foil: int | None = None
    clean: Float[Tensor, " vocab"] | None = None


@dataclass(frozen=True)
class Metric:
    """A named measurement: its function, unit, direction and definition."""

    name: str
    unit: str
    toward: int
    definition: str
    function: Callable[[Tensor, Target], Tensor]

    def __call__(self, logits: Float[Tensor, "*rows vocab"], target: Target) -> Float[Tensor, "*rows"]:
        """Measure each row, in float32 at least."""
        return self.function(logits.float() if logits.dtype.itemsize < 4 else logits, target)


METRICS: dict[str, Metric] = {}  # by name, in the order of this file


def metric(name: str) -> Metric:
    """The metric called `name`; UserError, with the names there are, if there is none."""
    if name not in METRICS:
        raise UserError(f"there is no metric {name!r}; choose one of {', '.join(METRICS)}")
    return METRICS[name]


def _metric(name: str, unit: str, toward: int) -> Callable[[Callable[[Tensor, Target], Tensor]], Metric]:
    def register(function: Callable[[Tensor, Target], Tensor]) -> Metric:
        definition = (function.__doc__ or "").strip().splitlines()[0]
        METRICS[name] = Metric(name, unit, toward, definition, function)
        return METRICS[name]

    return register


@_metric("probability", "probability", +1)
def probability(logits: Tensor, target: Target) -> Tensor:
    """Probability of the answer's first token."""
    return torch.softmax(logits, -1)[..., target.answer]


@_metric("log_probability", "nats", +1)
def log_probability(logits: Tensor, target: Target) -> Tensor:
    """Log-probability of the answer's first token."""
    return torch.log_softmax(logits, -1)[..., target.answer]


@_metric("logit_difference", "logits", +1)
def logit_difference(logits: Tensor, target: Target) -> Tensor:
    """Logit of the answer's first token minus that of the foil's."""
    if target.foil is None:
        raise UserError("the logit difference needs a wrong answer to compare with: give one with --foil")
    return logits[..., target.answer] - logits[..., target.foil]


@_metric("kl", "nats", -1)
def kl(logits: Tensor, target: Target) -> Tensor:
    """Kullback-Leibler divergence from the clean run's next-token distribution to this row's, KL(clean || row)."""
    if target.clean is None:
        raise ValueError("KL needs the clean run's logits in the target")
    clean = torch.log_softmax(target.clean.to(logits), -1)
    return (clean.exp() * (clean - torch.log_softmax(logits, -1))).sum(-1)
