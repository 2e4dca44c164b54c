"""PMET: MEMIT whose values leave the attention its own part (Li et al. 2024, arXiv 2308.08742).

At the last of `layers`, two vectors are learned together, one added to what the attention writes at the subject and one
to what the MLP writes; only the MLP's is kept, so what the attention would have to change is not forced into an MLP.
From the lowest layer up, each takes of what the last layer's MLP still lacks

    r = (v* - v_now) / sqrt(layers remaining)          and writes it as MEMIT does

so of five layers that deliver, the first takes .45 of the whole, then .28, .16, .08 and .03. They do not deliver: what
a lower layer writes goes into the stream beside the last MLP, whose output, which alone is read again, comes no nearer.
Each then takes its part of the whole, and the stream gets .45 + .5 + .58 + .71 + 1 = 3.2 times what was learned, less
what the ridge holds back. An answer's first token only comes out surer for it; its second is lost.

Convention: v [fact, d_model] is what the last layer's MLP writes, before any norm. Scope: the last layer is 1 or above.
The loss is `Descent`'s; the authors count a target that is learned a tenth from then on, and stop by the divergence.

When not to use it: where MEMIT does; nothing makes up for the attention's vector, beside which values were learned.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.closed_form.memit import ridged
from editing.solve.closed_form import Solution
from editing.solve.layers import SpreadConfig, spread
from editing.solve.values import Descent, Keys


@dataclass(frozen=True)
class Config(SpreadConfig):
    """MEMIT's here, but for a ridge that holds back half, and the authors' divergence, as heavy as the target.

    Swept on the default model (`benchmarks/editor_defaults.py pmet`). The first ten zsRE facts of the file, whose
    answers have several tokens: a ridge of .1 answers one of them in full, 1 seven, 2.2 two, 4 none; twenty of them: .7
    answers .40, 1 .60, 1.4 .55. Twelve CounterFact facts that it knows: all are answered at .1, .7 and 1 and the
    divergence of neighbours falls (KL .023, .016, .012); at 1.4 one is lost. The divergence's weight at a sixteenth, on
    eight of these with a ridge of .1: less drift (KL .002 beside .006), and one fact of the eight unlearned.
    """

    ridge: float | Literal["auto"] = "auto"  # as MEMIT's; auto: 1 over several layers, 0.1 in one, which adds to none
    descent: Descent = field(default_factory=lambda: Descent(kl_factor=1.0))


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Values of attention and MLP together, then the MLP's layer by layer."""
    usual = 1.0 if len(config.layers) > 1 else 0.1
    memits = ridged(inputs, usual if config.ridge == "auto" else config.ridge)

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
