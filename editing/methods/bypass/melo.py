"""MELO: blocks of low rank beside projections, and an index of clusters that says which block answers (Yu et al. 2024).

Every `facts_per_block` facts of an edit train a block of their own, LoRA's factors beside the down-projection of each
of `layers`, Adam on

    loss = -(1/T) sum_t log p(target_t | prompt, target_<t)

with A drawn and B 0 at the start. What the gate's layer reads at each fact's last token is a point of the index. A
prompt that falls into a cluster is answered with the block of its nearest point, at every token, and all others by the
model as it is; how clusters grow, split and forget stands in editing/bypasses/blocks.py.

Convention: a block is added. Scope: models whose MLPs have one down-projection.

Differences, each a choice: the index reads what the gate layer's projection reads (theirs, what it writes, which an
edit beside the same layer would change); the radius is `reach` of the median distance between such keys, GRACE's rule,
as a distance means something in one layer only (theirs is a number for each model, 75 and .5); the gate stands in the
lowest layer of the blocks, so that a circuit sees one node (`gate_below`: so many layers below; theirs 1, with blocks
in two layers); targets are one where their texts are (theirs, where the sums of their token ids are); every block has
the scale 1 (theirs multiplies each by the number of blocks); training ends at `stop` (theirs halves the rate every 20
steps).

When not to use it: for facts that will be asked in other words, as GRACE; where several facts share a block, each
prompt in the cluster of one hears what was learned for the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass
from editing.edit import set_aside
from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.methods.fine_tuning import lora
from editing.solve.ordinary import at_ends, reaches
from editing.solve.training import Training, train
from editing.solve.values import side_by_side
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.subject import check_written
from factscope.model.sites import Site
from factscope.model.weights import WeightName


@dataclass(frozen=True)
class Config:
    """Rank and steps are the authors'; layers and reach are GRACE's, and nothing but the size of a block was tried.

    Four known shipped facts of the default model in one edit: all learned, in one block after 31 steps and in four
    after 15. Either way none of 12 paraphrases opens the gate, nor any of 12 neighbours.
    """

    layers: tuple[int, ...] = (25,)  # set by for_model: five sixths of the way up; theirs the last two of 48
    gate_below: int = 0  # layers between the gate and the lowest block; theirs 1
    reach: float = 0.15  # of a new cluster, in median distances between keys of unlike prompts
    rank: int = 2
    facts_per_block: int = 4  # theirs for gpt2-xl; 100 for questions and answers
    steps: int = 50
    learning_rate: float = 1e-2
    stop: float = 0.01  # nats

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """With the layer at the same height."""
        return cls(layers=(int(model.cfg.n_layers) * 5 // 6,))

    @property
    def gate(self) -> int:
        """The layer whose reading decides."""
        return min(self.layers) - self.gate_below


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """A block for every few facts, in one index."""
    return _trained(inputs, config, [tuple(range(len(inputs.requests)))])[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """An index of one point and a block for each fact, all of them trained side by side."""
    return _trained(inputs, config, [(fact,) for fact in range(len(inputs.requests))])


def _trained(inputs: MethodInputs, config: Config, edits: Sequence[tuple[int, ...]]) -> list[MethodOutput]:
    """Blocks learn without those of edits in place: where these here will speak, those will not."""
    _check(inputs.model, config)
    site = Site("mlp_hidden", config.gate)
    keys = at_ends(inputs.model, inputs.requests, site, inputs.start).cpu()
    reach, note = reaches(inputs.model, site, inputs.start, config.reach, keys, inputs.requests)
    factors = lora.Config(layers=config.layers, rank=config.rank, alpha=float(config.rank))
    how = Training(config.steps, config.learning_rate, config.stop)

    def learned(some: Sequence[int], apart: bool) -> list[MethodOutput]:
        own = replace(inputs, requests=tuple(inputs.requests[fact] for fact in some))
        return train(own, how, lambda groups: lora.Factors(inputs.model, factors, len(groups), inputs.seed), apart)

    with set_aside(inputs.model, "blocks", *config.layers):
        if len(edits) > 1:
            each = learned(range(len(inputs.requests)), apart=True)
            return [
                _output(inputs, config, [one], fact, (keys, reach), note) for one, fact in zip(each, edits, strict=True)
            ]
        (facts,) = edits
        few = [facts[i : i + config.facts_per_block] for i in range(0, len(facts), config.facts_per_block)]
        return [_output(inputs, config, [learned(some, False)[0] for some in few], facts, (keys, reach), note)]


def _check(model: Bridge, config: Config) -> None:
    for layer in config.layers:
        check_written(model, layer)
    check_settings(config, "reach", "learning_rate", "steps", "facts_per_block")
    if not 0 <= config.gate_below <= min(config.layers):
        raise EditError(
            f"the gate would stand {config.gate_below} layers below layer {min(config.layers)}: give gate_below from 0 "
            f"to {min(config.layers)}"
        )


def _output(
    inputs: MethodInputs,
    config: Config,
    blocks: Sequence[MethodOutput],
    facts: Sequence[int],
    points: tuple[Float[Tensor, "fact d_in"], Float[Tensor, " fact"]],
    note: str,
) -> MethodOutput:
    """The points of these facts, and their blocks beside each layer."""
    own = {name: tensor[list(facts)].clone() for name, tensor in zip(("keys", "reach"), points, strict=True)}
    own["which"] = torch.arange(len(facts)).div(config.facts_per_block, rounding_mode="floor").float()
    words, parts = tuple(inputs.requests[fact].target for fact in facts), []
    for number, weight in enumerate(blocks[0].deltas):
        deltas = [block.deltas[number] for block in blocks]
        factors = {"left": [one.left for one in deltas if one.left is not None], "right": [one.right for one in deltas]}
        tensors = own | {name: torch.stack(some) for name, some in factors.items()}
        layer = WeightName.of(weight.weight).layer
        parts.append(Bypass("blocks", layer, tensors, {"gate": float(config.gate)}, words))
    curve = side_by_side([block.curve for block in blocks if block.curve is not None])
    return MethodOutput((), curve=curve, notes=(note,), bypasses=tuple(parts))


METHOD = MethodSpec(
    "melo",
    "blocks of low rank, and GRACE's kind of index that says which block answers",
    Config,
    compute,
    compute_each,
    place="beside",
    reads_prompts=True,
    good_for="a long sequence of edits that may change nothing else, each of low rank",
    not_for="facts that will be asked in other words",
)
