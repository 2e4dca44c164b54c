"""RelP, relevance patching (Rezaei Jafari et al. 2025, arXiv 2508.21258): EAP with propagation rules for gradients.

The gradient that EAP multiplies a writer's change by is replaced by the coefficient of layer-wise relevance
propagation. Each rule is a gradient of something that has the model's values and another slope:

    LN-rule         a norm's scale is held: x / sg(scale)                               (Ali et al. 2022)
    Identity-rule   an activation is a gain: x * sg(act(x) / x)                         (Jafari et al. 2024)
    Half-rule       each factor of a gated product has half of it: slope 1/2 act(g) for up, 1/2 up act(g) / g for g
                                                                                         (Arras et al. 2019)
    0-rule          linear maps are as they are                                          (Montavon et al. 2019)
    AH-rule         attention probabilities are held                                     (Ali et al. 2022)

The AH-rule leaves nothing for queries and keys, so no edge into them would ever be found. The authors' own example
(github.com/FarnoushRJ/RelP) runs the first three alone, and so does this; `attention=held` adds the AH-rule.

Convention: as EAP's, in the loss's unit; positive: the edge helps. The loss itself keeps its gradient.
Scope: LayerNorm or RMSNorm before each part, and MLPs of one hidden layer, gated or not; others are refused.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from circuits.engine.reference import Reference
from circuits.engine.relevance import coefficients
from circuits.scorers.eap import Attribution
from factscope.errors import UserError

AttentionRule = Literal["gradient", "held"]


@dataclass(frozen=True)
class RelP(Attribution):
    """Whether attention probabilities pass a gradient on (queries and keys then have one) or are held."""

    name: ClassVar[str] = "relp"

    attention: AttentionRule = "gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention not in get_args(AttentionRule):
            raise UserError(
                f"RelP has no rule {self.attention!r} for attention; choose one of {', '.join(get_args(AttentionRule))}"
            )

    def gradient(self, reference: Reference, clean: Tensor) -> Tensor:
        """The propagation coefficients at every reader's input in the clean run."""
        del clean
        return coefficients(reference, attention_held=self.attention == "held")


METHOD = RelP
