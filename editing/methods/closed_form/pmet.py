"""PMET: MEMIT whose values leave the attention its own part (Li et al. 2024, arXiv 2308.08742).

At the last of `layers`, two vectors are learned together, one added to what the attention writes at the subject and one
to what the MLP writes; only the MLP's is kept, so what the attention would have to change is not forced into an MLP.
From the lowest layer up, each takes of what the last layer's MLP still lacks

    r = (v* - v_now) / sqrt(layers remaining)          and writes it as MEMIT does

so of five layers that deliver, the first takes .45 of the whole, then .28, .16, .08 and .03.

Convention: v [fact, d_model] is what the last layer's MLP writes, before any norm. Scope: the last layer is 1 or above.
The loss is `Descent`'s; the authors count a target that is learned a tenth from then on, and stop by the divergence.

When not to use it: where MEMIT does; the lower layers reach the last MLP's output only through what it reads.
"""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.closed_form.memit import ridged
from editing.solve.closed_form import Solution
from editing.solve.layers import SpreadConfig, spread
from editing.solve.values import Descent, Keys


@dataclass(frozen=True)
class Config(SpreadConfig):
    """MEMIT's here, but for the authors' divergence, which weighs as much as the target.

    Swept on the default model, the first eight CounterFact facts that it knows (`benchmarks/editor_defaults.py pmet`):
    a ridge of .03 or .3 beside .1 changes nothing but one answer in other words (generality .13, .25 and .25); the
    divergence at a quarter or a sixteenth leaves less drift (KL .003 and .002 beside .006), PS 1.00 beside .88, and one
    fact of the eight unlearned (reliability .88 beside 1.00).
    """

    descent: Descent = field(default_factory=lambda: Descent(kl_factor=1.0))


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Values of attention and MLP together, then the MLP's layer by layer."""
    memits = ridged(inputs, config.ridge)

    def rule(layer: int, keys: Keys, lacking: Float[Tensor, "fact d_model"]) -> Solution:
        left = len(config.layers) - config.layers.index(layer)
        return memits(layer, keys, lacking * left**0.5)  # an equal share is 1 / left

    return spread(inputs, config, rule, kind="mlp_write")


METHOD = MethodSpec(
    "pmet",
    "MEMIT with values for the MLP learned beside values for the attention",
    Config,
    compute,
    place="parts",
    needs_moments=True,
    good_for="the comparison with MEMIT, on statements",
    not_for="questions with an answer of several tokens, of which MEMIT tells more",
)
