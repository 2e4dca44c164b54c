"""R-ROME: ROME with one key throughout (Gupta et al. 2024, "Rebuilding ROME").

    dW = u r' / (k . u)          r = v* - W k,   u = C^-1 k,   k averaged over contexts everywhere

The division is by k C^-1 k > 0, so no edit explodes, and dW is the smallest change, measured on ordinary keys, that
gives the averaged key its value. The bare prompt's key is close to the averaged one but not it, so the target is met
there only nearly: that is the price.

When not to use it: as ROME, for many facts at once.
"""

from dataclasses import dataclass

from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.closed_form import rome


@dataclass(frozen=True)
class Config(rome.Config):
    """The same as ROME's."""


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Facts one after another, each on the weights that those before it left."""
    return rome.in_turn(inputs, config, averaged=True)


METHOD = MethodSpec(
    "r_rome",
    "ROME with the averaged key throughout, so that nothing is divided by a small number",
    Config,
    compute,
    place="mlp",
    needs_moments=True,
    good_for="one fact whose key differs from context to context",
    not_for="many facts at once: what was written first fades",
)
