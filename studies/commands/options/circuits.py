"""Options of what a circuit is measured by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from studies.commands.options.flags import (
    ABLATIONS,
    OneOf,
    option,
)
from studies.commands.options.values import Options

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class CircuitOptions(Options):
    """How a circuit is found."""

    edges: Annotated[int | None, option("Of a scorer, so many edges.")] = None
    threshold: Annotated[float | None, option("Edges that cost less are cut  [dim](acdc: 0.1)[/dim]")] = None
    ablation: Annotated[
        str | None,
        option(
            "What stands for a cut edge  [dim](default: counterfactual for eap and its kin where another subject fits, "
            "else zero)[/dim]",
            of=OneOf("ablation", ABLATIONS),
        ),
    ] = None
    split_qkv: Annotated[
        bool, option("Queries, keys and values apart, or whole heads.", "--split-qkv/--no-split-qkv")
    ] = True
