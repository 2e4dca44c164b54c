"""KE, KnowledgeEditor: a network reads what shall be changed, and gates the gradient (De Cao, Aziz and Titov 2021).

An LSTM reads "what the model says >> what it shall say || the prompt", both ways. From its last states a small network
gives, for every matrix W [d_in d_out], a, b [d_in], c, e [d_out] and a gate g (arXiv 2104.08164, eq. 4 and 5),

    dW = g (G o a c' + b e')          a = d_in softmax(.), b = softmax(.), g = scale * sigmoid(.)

G is the gradient of the new answer's loss, a sum of x d' over tokens. A mask of rank one keeps it one: G o a c' is the
sum of (x o a)(d o c)', so the whole is a Delta of rank tokens + 1, and no dense matrix is ever formed.

Training is constrained: the loss of the new answer behind another wording is made small while KL(unedited || edited)
behind prompts that must stay is held under `margin`, by a multiplier that rises where it is above and falls where it is
below, never under 0.

Convention: c begins at -1, e at 0 and the gate half open: the untrained edit is one step down the gradient, `scale` / 2
long. `scale` is the largest of ten values whose untrained edits leak less than `leak`, unless it is given. Differences,
each a choice: the LSTM reads the model's own embeddings (theirs, a trained copy: 28 million numbers here); of what the
model says, the next token; matrices are the MLPs' of the last layers (theirs, all of the model); the last layer of the
network begins at 0 and is not weight-normed; Adam, not RMSprop; the margin stays (theirs is tightened as edits begin to
succeed). The mask's factor d_in makes an even mask 1.

Scope: MLP matrices that are matrices of their own. Many facts in one edit are the sum of each alone. When not to use
it: it is a baseline. On models that predict the next token it was never published to work (Mitchell et al. 2022 found
.00 to .25 of edits to succeed); MEND is its successor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from editing.method import MethodInputs, MethodOutput, MethodSpec, check_settings
from editing.trained.changing import ChangeLearner
from editing.trained.examples import Asker, TrainingInputs
from editing.trained.factors import as_edits, asked_gradients, last_matrices, quiet
from editing.trained.facts import Example, examples
from editing.trained.learning import Parts
from editing.trained.tail import Slopes, Thin, matrices
from factscope.model.bridge import Bridge, device
from factscope.model.forward.scoring import Pair
from factscope.model.weights import WeightName, live_weights

LSTM, OUTER, INNER = 128, 1024, 128  # widths, theirs: of each direction; of what all matrices share; of each matrix's
MARKS = (" >>", " ||")  # between what is said and wanted, and before the prompt


@dataclass(frozen=True)
class Config:
    """The authors' network, multiplier and rate; margin and steps are ours.

    Theirs: 200,000 steps of 64, margin 1e-3 and less for a model of questions and answers. Swept on the default model,
    200 steps (`edit train ke --set steps=200 --set margin=...`), then a hundred CounterFact facts: a margin of .01 has
    S .54, .05 has .52, .2 has .30, with more told in other words (PS .63, .65, .84) and fewer neighbours left (NS .36,
    .32, .13). Of 300 steps the state after 200 has the lowest loss on validation facts.
    """

    layers: tuple[int, ...] = (27, 28, 29)  # set by for_model: the last three, as MEND
    matrices: tuple[str, ...] = ("W_gate", "W_in", "W_out")  # set by for_model: those that the model has
    scale: float = 0.0  # 0: the largest of ten whose untrained edits leak less than `leak`
    leak: float = 0.1  # nats of KL behind prompts that must stay
    margin: float = 0.05  # nats, the same
    dual_rate: float = 0.1  # theirs
    learning_rate: float = 3e-4
    steps: int = 300
    batch: int = 8
    every: int = 100  # steps between two scores on validation facts

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """The last three MLPs, and their matrices."""
        layers, have = last_matrices(model, cls.matrices, 3)
        return cls(layers=layers, matrices=have)


# ---- the network ----


class Network:
    """What is read, and what is made of it for every matrix."""

    def __init__(self, model: Bridge, names: Sequence[WeightName]) -> None:
        weights = live_weights(model)
        self.model = model
        self.shapes = {name: (weights[str(name)].shape[0], weights[str(name)].shape[1]) for name in names}
        self.lstm = torch.nn.LSTM(int(model.cfg.d_model), LSTM, batch_first=True, bidirectional=True)
        ids = [model.tokenizer.encode(mark, add_special_tokens=False) for mark in MARKS]
        self.marks: tuple[list[int], list[int]] = (ids[0], ids[1])

    def start(self, generator: torch.Generator) -> Parts:
        """Random but for the last layer of each matrix, which is 0."""
        drawn = lambda rows, columns: torch.randn(rows, columns, generator=generator) / rows**0.5  # noqa: E731
        parts: Parts = {}
        for name, parameter in self.lstm.named_parameters():
            uniform = 2 * torch.rand(parameter.shape, generator=generator) - 1  # as PyTorch begins an LSTM
            parts[f"lstm.{name}"] = uniform / LSTM**0.5
        parts |= {"outer.W": drawn(2 * LSTM, OUTER), "outer.b": torch.zeros(OUTER)}
        for matrix, (rows, columns) in self.shapes.items():
            parts |= {f"{matrix}.W": drawn(OUTER, INNER), f"{matrix}.b": torch.zeros(INNER)}
            parts[f"{matrix}.out"] = torch.zeros(INNER + 1, 2 * (rows + columns) + 1)  # the last row is added
        return parts

    def read(self, parts: Parts, found: Slopes, pairs: Sequence[Pair]) -> Float[Tensor, "row outer"]:
        """The condition of each edit; what stands beside it in a batch has no part in it."""
        said, wanted = self.marks
        rows = [[own, *said, *pair.answer, *wanted, *pair.prompt] for own, pair in zip(found.said, pairs, strict=True)]
        at = parts["outer.W"].device
        with torch.no_grad():
            embedded = [self.model.embed(torch.tensor([row], device=at))[0].float() for row in rows]
        packed = torch.nn.utils.rnn.pack_sequence(embedded, enforce_sorted=False)
        own = {name.removeprefix("lstm."): part for name, part in parts.items() if name.startswith("lstm.")}
        _, (last, _) = torch.func.functional_call(self.lstm, own, (packed,))
        both = last.transpose(0, 1).flatten(1)  # [row, both directions]
        return torch.tanh(both @ parts["outer.W"] + parts["outer.b"])

    def factors(
        self, parts: Parts, scale: Tensor, found: Slopes, condition: Float[Tensor, "row outer"]
    ) -> dict[WeightName, Thin]:
        """Left and right of every matrix's change, row by row: a factor for each token, and b with e."""
        out: dict[WeightName, Thin] = {}
        for name, (rows, columns) in self.shapes.items():
            inner = torch.tanh(condition @ parts[f"{name}.W"] + parts[f"{name}.b"])
            last = parts[f"{name}.out"]
            alpha, beta, gamma, e, gate = (inner @ last[:-1] + last[-1]).split([rows, rows, columns, columns, 1], -1)
            a, b, c = rows * alpha.softmax(-1), beta.softmax(-1), gamma - 1
            left = torch.cat([found.read[name] * a[:, None], b[:, None]], 1)
            right = torch.cat([found.slope[name] * c[:, None], e[:, None]], 1)
            out[name] = left, scale.to(right) * gate.sigmoid()[:, None] * right
        return out


# ---- learning ----


class Editor(ChangeLearner):
    """KE while it learns; it is scored by NLL + KL, the same number whatever the multiplier is."""

    def __init__(self, asker: Asker, config: Config, seed: int) -> None:
        super().__init__(asker)
        model, self.config = asker.model, config
        self.network = Network(model, matrices(model, config.layers, config.matrices))
        start = self.network.start(torch.Generator().manual_seed(seed)) | {"dual": torch.ones(())}
        self.parts = {name: part.to(device(model)) for name, part in start.items()}
        self.rates = {name: config.dual_rate if name == "dual" else config.learning_rate for name in self.parts}
        self.state = {"scale": torch.tensor(config.scale)}
        if not config.scale:
            batch = examples(asker.facts.trained, config.batch, f"scale {seed}")
            quiet(self.state["scale"], config.leak, lambda: asker.after(batch, self.changes(self.parts, batch)))

    def changes(self, parts: Parts, batch: Sequence[Example]) -> dict[WeightName, Thin]:
        """The change of each example, from its own prompt."""
        pairs = self.asker.edits(batch)
        found = self.asker.tail.slopes(pairs, tuple(self.network.shapes))
        return self.network.factors(parts, self.state["scale"], found, self.network.read(parts, found, pairs))

    def losses(self, parts: Parts, batch: Sequence[Example]) -> dict[str, Tensor]:
        """NLL + multiplier (KL - margin), means over the examples; the multiplier itself goes the other way."""
        after = self.asker.after(batch, self.changes(parts, batch))
        edit, keep = after.other.mean(), after.moved.mean()
        over = keep - self.config.margin
        rising = parts["dual"] * over.detach()
        loss = edit + parts["dual"].detach() * over - (rising - rising.detach())
        return {"loss": loss, "edit": edit, "keep": keep, "multiplier": parts["dual"].detach().clone()}

    def projected(self, parts: Parts) -> Parts:
        """A multiplier is never under 0."""
        return parts | {"dual": parts["dual"].clamp_min(0)}


def train(inputs: TrainingInputs, config: Config) -> Editor:
    """The editor at its start."""
    check_settings(config, "leak", batch=1, steps=0, every=1, scale=0, margin=0)
    return Editor(Asker(inputs, min(config.layers)), config, inputs.seed)


# ---- editing ----


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """The sum of the changes of every fact."""
    return _edits(inputs, config, [slice(None)])[0]


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The change of every fact; they share the passes."""
    return _edits(inputs, config, [slice(i, i + 1) for i in range(len(inputs.requests))])


def _edits(inputs: MethodInputs, config: Config, groups: Sequence[slice]) -> list[MethodOutput]:
    model, editor = inputs.model, inputs.editor
    assert editor is not None  # `compute` of editing/compute.py has seen to it
    names = matrices(model, config.layers, config.matrices)
    here = {name: tensor.to(device(model)) for name, tensor in editor.tensors.items()}
    network = Network(model, names)
    pairs, found = asked_gradients(inputs, names)
    with torch.no_grad():
        factors = network.factors(here, here["scale"], found, network.read(here, found, pairs))
    return as_edits(factors, found.losses, groups)


METHOD = MethodSpec(
    "ke",
    "an LSTM reads the edit and gates its gradient (KnowledgeEditor)",
    Config,
    compute,
    compute_each,
    place="mlp",
    train=train,
    good_for="a baseline of trained editors",
    not_for="anything else: it was never published to work on models that predict the next token",
)
