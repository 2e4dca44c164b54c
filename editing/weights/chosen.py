"""Which matrices are changed: those of some layers, by the names that a setting gives them."""

from collections.abc import Collection, Sequence

from factscope.errors import EditError
from factscope.model.bridge import Bridge, architecture
from factscope.model.weights import PROJECTIONS, WeightName, as_matrix, live_weights


def projections(
    model: Bridge, layers: Sequence[int], names: Sequence[str], among: Collection[str] = PROJECTIONS
) -> dict[WeightName, tuple[int, int]]:
    """These matrices of these layers and the shape [d_in, d_out] of each, the lowest layer first.

    `names` are TransformerLens's without the part of the block, "W_Q". Raises EditError for a name that is not of
    `among`, and for a matrix that the model does not have by itself, or whose output it does not show.
    """
    parts = {part.partition(".")[2]: part for part in among}
    unknown = [name for name in names if name not in parts]
    if unknown or not names:
        said = f"there is no matrix {unknown[0]!r}" if unknown else "no matrix is named"
        raise EditError(f"{said}: give some of {', '.join(parts)} with --set matrices=...")
    weights, found = live_weights(model), {}
    for layer in sorted(set(layers)):
        for name in dict.fromkeys(names):
            weight = WeightName(layer, parts[name])
            matrix = as_matrix(str(weight), weights[str(weight)]) if str(weight) in weights else None
            if matrix is None or matrix.ndim != 2:
                raise EditError(
                    f"this model ({architecture(model)}) has no {weight} as a matrix of its own; give others with "
                    f"--set matrices=..., of {', '.join(parts)}"
                )
            found[weight] = (matrix.shape[0], matrix.shape[1])
    return found
