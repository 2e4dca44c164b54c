"""What an edit lets stand beside an MLP, as a node of the graph: b(x) = y'(x) - y(x).

x is the residual stream as the node hears it, y what the layer's MLP writes for it, and y' what becomes of that once
the edit has had its say. So the edited layer writes m(x) + b(x), and with every edge kept this is the edited model. An
edge into the node moves what its gate and its memory read, and leaves what the MLP reads; an edge into the MLP the
other way round. A gate is a step, so a cut may close it, and a gradient sees what is written behind it alone.

Gates decide at the last position, or at each, or by all of a prompt: a node is therefore always computed at all
positions.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.graph import Graph
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import ending
from factscope.model.hooks import Hook, apart, hooked, standing_functions
from factscope.model.sites import Site

Keep = Callable[[int, Tensor], None]
Hear = Callable[[int, Tensor], Tensor]  # a layer, what runs there -> what its node hears


class Beside:
    """The node beside one layer's MLP; where nothing stands it writes 0."""

    def __init__(self, model: Bridge, layer: int, tokens: Int[Tensor, "row pos"]) -> None:
        self.model, self.layer, self.tokens = model, layer, tokens
        own = [(site, function) for site, function in standing_functions(model) if site.kind != "tokens"]
        self.functions = [hook for hook in own if hook[0].layer == layer]
        block = model.blocks[layer]
        self._norm = getattr(block, "ln2", block.ln1).original_component
        self._mlp = block.mlp.original_component

    def __call__(self, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What is written for these inputs; rows are the prompts' tokens, over and over."""
        if not self.functions:
            return torch.zeros_like(x)
        seen: dict[str, Tensor] = {"mlp_read": self._norm(x)}

        def keep(kind: str) -> Hook:
            return Site(kind, self.layer), lambda out: seen.__setitem__(kind, out)

        with apart(self.model), hooked(self.model, [keep("mlp_hidden"), keep("mlp_write")]):
            self._mlp(seen["mlp_read"])
        before = seen["mlp_write"]
        tokens = self.tokens.repeat(len(x) // len(self.tokens), 1)
        with ending(torch.full((len(x),), x.shape[1] - 1), tokens=tokens):
            for site, function in self.functions:
                changed = function(seen[site.kind])
                if changed is not None:
                    seen[site.kind] = changed
        return seen["mlp_write"] - before


def hooks(
    model: Bridge, graph: Graph, tokens: Int[Tensor, "row pos"], keep: Keep, hear: Hear = lambda _, x: x
) -> list[Hook]:
    """Hooks of the nodes beside MLPs, for a run with nothing standing there; `keep` is handed what they write.

    `hear` turns what runs at a node's input into what it hears. They stand behind hooks that read what the MLP writes,
    and before those that change what it reads.
    """
    inputs: dict[int, Tensor] = {}
    made: list[Hook] = []

    def pair(layer: int, node: Beside) -> list[Hook]:
        def listen(x: Tensor) -> None:
            inputs[layer] = hear(layer, x)

        def write(out: Tensor) -> Tensor:
            more = node(inputs.pop(layer))
            keep(graph.beside_writer(layer), more)
            return out + more

        return [(Site("mlp_in", layer), listen), (Site("mlp", layer), write)]

    for layer in graph.beside:
        made += pair(layer, Beside(model, layer, tokens))
    return made
