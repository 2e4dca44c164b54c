"""ICE: tell the model the new fact before every question, and change nothing (Cohen et al. 2024's in-context baseline).

    Imagine that The Louvre is located in the city of Berlin.
    <the question>

Every paper on editing compares with it, because it costs nothing and weights that were changed should do better. A line
break parts the fact from the question, so that the question's tokens are those it has alone.

When not to use it: where the model itself is to be changed or looked into. Its edits act on what is asked through
`factscope.model.forward.batched`, fill the context as they add up, and cannot be exported.
"""

from dataclasses import dataclass, replace

from editing.method import MethodInputs, MethodOutput, MethodSpec
from factscope.model.bridge import Bridge


@dataclass(frozen=True)
class Config:
    """The opening is RippleEdits' own."""

    opening: str = "Imagine that"

    @classmethod
    def for_model(cls, _: Bridge) -> "Config":
        """The same for every model."""
        return cls()


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One sentence a fact, in order."""
    return MethodOutput((), preface="".join(f"{config.opening} {ended(str(request))}\n" for request in inputs.requests))


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """One edit a fact."""
    return [compute(replace(inputs, requests=(request,)), config) for request in inputs.requests]


def ended(text: str) -> str:
    """The text with a full stop where none of its own ends it ("I don't know.", "Washington, D.C.")."""
    return text if text.rstrip("\"'”’)").endswith((".", "!", "?", "…", "。")) else f"{text}."


METHOD = MethodSpec(
    "ice",
    "the new fact as a sentence before every question",
    Config,
    compute,
    compute_each,
    place="prompt",
    good_for="a baseline that costs nothing",
    not_for="a model that is itself to be changed or looked into; many facts, which fill the context",
    needs="room in the context",
)
