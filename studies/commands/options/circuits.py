"""Options of how a circuit is found, and what it is measured by."""

from dataclasses import dataclass
from typing import Annotated

from studies.commands.options.flags import ABLATIONS, CIRCUIT_METHODS, CIRCUIT_METRICS, DETAILS, OneOf, option
from studies.commands.options.values import Options

CircuitMethod = Annotated[str, option("How circuits are found.", of=OneOf("circuit method", CIRCUIT_METHODS))]
EdgeMetric = Annotated[str, option("What an edge's cost is measured in.", of=OneOf("metric", CIRCUIT_METRICS))]
CircuitSettings = Annotated[
    tuple[str, ...], option("Any other setting of the method.", "--set", metavar="KEY=VALUE", panel=DETAILS)
]
SplitQkv = Annotated[bool, option("Queries, keys and values apart, or whole heads.", "--split-qkv/--no-split-qkv")]
Foil = Annotated[str | None, option("A wrong answer, for the logit difference.")]
Unknown = Annotated[bool, option("Go on with a fact whose answer is not in the top 10.", "--unknown")]


@dataclass(frozen=True, kw_only=True)
class CircuitOptions(Options):
    """How a circuit is found."""

    edges: Annotated[int | None, option("So many edges (with a scorer).")] = None
    threshold: Annotated[float | None, option("Edges that cost less are cut  [dim](acdc: 0.1)[/dim]")] = None
    ablation: Annotated[
        str | None,
        option(
            "What stands for a cut edge  [dim](default: counterfactual for eap and its kin where another subject fits, "
            "else zero)[/dim]",
            of=OneOf("ablation", ABLATIONS),
        ),
    ] = None
    split_qkv: SplitQkv = True
