"""MEND: a network that turns the gradient of one edit into a better change (Mitchell et al. 2022, arXiv 2110.11309).

The gradient of an answer's loss in a matrix W [d_in d_out] is a sum of x d' over tokens (their eq. 2). For every token
z = [x | d], standardised coordinate by coordinate, passes two layers of a small network (eq. 3),

    z <- z + max(0, s_k * (z V U + b) + o_k)        V [z rank], U [rank z]; s_k, o_k, b [z], k the matrix

which matrices of one shape share but for s and o, and comes out as [x~ | d~]. The change is one step with them:

    dW = -alpha_k sum over tokens of x~ d~'         a Delta of rank = tokens

The network learns on other facts: after the edit of one wording, c_edit times the loss of the new answer behind
another wording, and c_loc times KL(unedited || edited) behind prompts that must stay. At its start (U = 0) it is one
step down the gradient with standardised factors, which is an editor already.

Convention: the change is subtracted, as in the paper; the authors' code adds it and lets Adam carry alpha through zero.
Differences, each a choice: the statistics that standardise are those of `standard` training edits, taken before
training (theirs run along, and are lost when training is resumed); V has Xavier's scale (theirs is `randn`, which makes
their rate of 1e-6 move); what must stay are neighbours, the same subject's other relations and other facts, where
theirs is one text or question. The addition is never negative: the network can only raise standardised factors.

Scope: MLP matrices that are matrices of their own. Many facts in one edit share one backward pass of their mean loss.
When not to use it: for edits in sequence, for which it was not trained; for facts unlike those it was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.trained.changing import ChangeLearner
from editing.trained.examples import Asker, TrainingInputs
from editing.trained.factors import (
    as_edits,
    asked_gradients,
    bearing,
    gradients,
    last_matrices,
    shape_of,
    standardised,
    statistics,
    two_layers,
)
from editing.trained.facts import Example
from editing.trained.learning import Parts
from editing.trained.tail import Slopes, Thin, matrices
from factscope.model.bridge import Bridge, device
from factscope.model.weights import WeightName, live_weights


@dataclass(frozen=True)
class Config:
    """The authors' network, loss and start of alpha; rank, rates and steps are scaled to 20 relations and two cores.

    Their rank is 1920 and their training a day on a GPU. `edit_weight` moves the editor along a line between wordings
    and neighbours: after 300 steps on the shipped facts, 48 validation facts have at 0.3 a reliability of .88, a
    generality of .69 and .75 of the neighbours kept (KL of what must stay .15 nats), and at 0.1 .67, .52 and .85 (.07).
    After all steps a hundred CounterFact facts have an S of .29 at 0.3 (NS .12) and of .54 at 0.1 (NS .34).
    """

    layers: tuple[int, ...] = (27, 28, 29)  # set by for_model: the last three, as theirs
    matrices: tuple[str, ...] = ("W_gate", "W_in", "W_out")  # set by for_model: those that the model has
    rank: int = 256
    alpha: float = 1e-4  # at the start
    learning_rate: float = 1e-4
    alpha_rate: float = 1e-2  # of alpha, as a multiple of its start
    edit_weight: float = 0.1  # theirs
    keep_weight: float = 1.0
    standard: int = 256  # training edits whose statistics standardise
    steps: int = 1000
    batch: int = 8
    every: int = 100  # steps between two scores on validation facts

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """The last three MLPs, and their matrices."""
        layers, have = last_matrices(model, cls.matrices, 3)
        return cls(layers=layers, matrices=have)


# ---- the network ----


@dataclass(frozen=True, eq=False)
class Network:
    """Which matrix has which network, and what standardises its input."""

    shapes: dict[WeightName, str]
    state: Parts  # "SHAPE.mean" and "SHAPE.std" [z]

    def start(self, config: Config, generator: torch.Generator) -> Parts:
        """Nothing is added to standardised factors; alpha, in multiples of `config`'s, is 1."""
        return two_layers(self.shapes, config.rank, generator) | {"alpha": torch.ones(len(self.shapes))}

    def factors(self, parts: Parts, found: Slopes, config: Config) -> dict[WeightName, Thin]:
        """x~ and -alpha d~ of every matrix, row by row; zero for tokens whose gradient is none."""
        out: dict[WeightName, Thin] = {}
        seen: dict[str, int] = {}
        for number, (name, shape) in enumerate(self.shapes.items()):
            x, d = found.read[name], found.slope[name]
            k = seen[shape] = seen.get(shape, -1) + 1
            z = standardised(self.state, shape, torch.cat([x, d], -1))
            for layer in "12":
                net = {letter: parts[f"{shape}.{letter}{layer}"] for letter in "VUbso"}
                inner = net["s"][k] * (z @ net["V"] @ net["U"] + net["b"]) + net["o"][k]
                z = z + inner.clamp_min(0)  # whose slope at 0 is 1, unlike relu's: it is where the training begins
            kept = bearing(x, d)[..., None].to(z)
            left, right = (z * kept).split([x.shape[-1], d.shape[-1]], -1)
            out[name] = left, -config.alpha * parts["alpha"][number] * right
        return out


# ---- learning ----


class Editor(ChangeLearner):
    """MEND while it learns."""

    def __init__(self, asker: Asker, config: Config, seed: int) -> None:
        super().__init__(asker, config.edit_weight, config.keep_weight)
        model, self.config = asker.model, config
        weights = live_weights(model)
        names = matrices(model, config.layers, config.matrices)
        shapes = {name: shape_of(name, weights) for name in names}
        self.state = statistics(shapes, [found for _, found in gradients(asker, names, config.standard, seed)])
        self.network = Network(shapes, self.state)
        start = self.network.start(config, torch.Generator().manual_seed(seed))
        self.parts = {name: part.to(device(model)) for name, part in start.items()}
        self.rates = {name: config.alpha_rate if name == "alpha" else config.learning_rate for name in self.parts}

    def changes(self, parts: Parts, batch: Sequence[Example]) -> dict[WeightName, Thin]:
        """The change of each example, from its own prompt."""
        found = self.asker.tail.slopes(self.asker.edits(batch), tuple(self.network.shapes))
        return self.network.factors(parts, found, self.config)


def train(inputs: TrainingInputs, config: Config) -> Editor:
    """The editor at its start."""
    check_settings(config, rank=1, batch=1, steps=0, every=1, standard=2)
    return Editor(Asker(inputs, min(config.layers)), config, inputs.seed)


# ---- editing ----


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One backward pass of the mean loss over all facts; all their tokens side by side."""
    return _edits(inputs, config, share=len(inputs.requests))[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """A change for every fact alone; they share the pass."""
    return _edits(inputs, config, share=1)


def _edits(inputs: MethodInputs, config: Config, share: int) -> list[MethodOutput]:
    model, editor = inputs.model, inputs.editor
    assert editor is not None  # `compute` of editing/compute.py has seen to it
    names, weights = matrices(model, config.layers, config.matrices), live_weights(model)
    here = {name: tensor.to(device(model)) for name, tensor in editor.tensors.items()}
    network = Network({name: shape_of(name, weights) for name in names}, here)
    pairs, found = asked_gradients(inputs, names)
    scaled = replace(found, slope={name: d / share for name, d in found.slope.items()})
    with torch.no_grad():
        factors = network.factors(here, scaled, config)
    groups = [slice(None)] if share > 1 else [slice(i, i + 1) for i in range(len(pairs))]
    return as_edits(factors, found.losses, groups)


METHOD = MethodSpec(
    "mend",
    "a network learns on other facts how a gradient becomes a better change",
    Config,
    compute,
    compute_each,
    place="mlp",
    train=train,
    good_for="many single edits, in a fraction of a second each",
    not_for="facts unlike those it was trained on, neighbours that must stay, or one edit after another",
)
