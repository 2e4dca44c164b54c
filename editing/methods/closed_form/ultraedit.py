"""UltraEdit: one pass forward and back instead of a search for values (Gu et al. 2025, arXiv 2505.14679).

At each edited matrix and each position that predicts a target token stand its key h and the slope g of the loss with
respect to what it writes. Both are standardised, coordinate by coordinate, by statistics over everything that this
editor has met, (h^, g^), and a step down the slope is written by ridge regression without second moments:

    V = -(strength / d_in) |h^|^2 g^            dW = H' (H H' + I)^-1 V          A = I and lambda = 1 in editing/solve

The loss is the sum of -log p over target tokens, where the authors take the mean over a mini-batch: the slope of a
token then depends on its own fact alone, so neither the order of facts nor how they are cut into passes matters. The
size of the loss does not, either: g^ is free of its scale. An edit remembers the count, mean and squared deviations of
its own rows; the next edit pools those of all edits in place with its own, so undoing an edit takes its share out.

Convention: H [token, d_in], V [token, d_out]; `strength` is the authors' learning rate times d_in. Scope: the
down-projections; the targets alone, in the bare prompt: no context is sampled and no subject is needed.

When not to use it: for one fact that must be met. Nothing is solved for, the step is as long as `strength` says, and
the statistics of the first fact are those of a handful of tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.edit import in_place, remembered
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.solve.closed_form import KeyMetric, solve
from editing.trained.factors import answer_gradients, of_sums
from editing.trained.tail import Slopes, matrices
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.weights import WeightName, live_weights


@dataclass(frozen=True)
class Config:
    """The authors' models have layers of their own, and a `strength` of 0.004 to 0.014.

    Swept on the default model, 8 known CounterFact facts, each alone (ES, reliability, PS, NS of 1.00 before, KL in
    nats): 0.03 and less (0, 0, 0, 1.00, 0), 0.1 (0, 0, .12, 1.00, .00), 0.3 (.38, .25, .12, .88, .03), 1 (1.00, .88,
    .25, .50, .27). All 8 in one edit: 0.3 (.50, .38, .12, .75, .07), 1 (1.00, 1.00, .12, .75, 1.23). Layers 10 to 17
    at 0.3 (.38, .12, 0, .88, .68) and 4 to 8 at 0.1 (0, 0, 0, 1.00, .12) hurt more and teach no more. Statistics of 64
    shipped facts beforehand do not help: 1 (.75, .75, .12, .75, .19). So facts are learned here, and paraphrases not.
    """

    layers: tuple[int, ...] = (20, 21, 22, 23, 24, 25, 26, 27)  # set by for_model: the last third but for the top
    strength: float = 1.0
    pooled: bool = True  # one set of statistics for all matrices of a shape, as the authors; or one for each matrix

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """From two thirds of the depth to fourteen fifteenths."""
        count = int(model.cfg.n_layers)
        first = min(2 * count // 3, count - 1)
        return cls(layers=tuple(range(first, max(first + 1, 14 * count // 15))))


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """One pass over all facts, then one solve a layer."""
    _, found = _read(inputs, config)
    return _written(inputs, config, found, found.losses)


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone; they share the pass."""
    owner, found = _read(inputs, config)
    losses = found.losses.split(1)
    return [_written(inputs, config, found.at(owner == fact), loss) for fact, loss in enumerate(losses)]


# ---- statistics ----


@dataclass(frozen=True, eq=False)
class Statistics:
    """Count, mean and summed squared deviation of rows, coordinate by coordinate, in float64."""

    count: float
    mean: Float[Tensor, " d"]
    squares: Float[Tensor, " d"]

    @classmethod
    def of(cls, rows: Float[Tensor, "row d"]) -> "Statistics":
        """Of these rows, in two passes."""
        rows = rows.double()
        mean = rows.mean(0)
        return cls(float(len(rows)), mean, (rows - mean).square().sum(0))

    def joined(self, other: "Statistics") -> "Statistics":
        """Of the rows of both together (Chan, Golub and LeVeque 1979)."""
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        return Statistics(
            count, mean, self.squares + other.squares + apart.square() * (self.count * other.count / count)
        )

    def standardised(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """The rows less the mean, over the standard deviation; 0 in a coordinate that never varied."""
        spread = (self.squares / self.count).sqrt()
        return torch.where(spread > 0, (rows - self.mean) / spread.clamp_min(torch.finfo(spread.dtype).tiny), 0.0)

    def row(self) -> Float[Tensor, "1 numbers"]:
        """As an edit remembers them."""
        return torch.cat([self.mean.new_tensor([self.count]), self.mean, self.squares])[None]

    @classmethod
    def from_row(cls, row: Float[Tensor, " numbers"]) -> "Statistics":
        """Read back."""
        mean, squares = row[1:].chunk(2)
        return cls(float(row[0]), mean, squares)


# ---- the pass ----


def _read(inputs: MethodInputs, config: Config) -> tuple[Int[Tensor, " token"], Slopes]:
    """Keys, and slopes of the summed loss, at the positions that predict target tokens, float64; whose each is."""
    owner, found = answer_gradients(inputs, matrices(inputs.model, config.layers, ("W_out",)))
    summed = of_sums(found, owner)
    read, slope = ({name: rows.double().cpu() for name, rows in some.items()} for some in (summed.read, summed.slope))
    if not all(bool(torch.isfinite(rows).all()) for rows in (*read.values(), *slope.values())):
        raise EditError("a slope of the loss is not finite; nothing was changed. Use float32")
    return owner, Slopes(read, slope, found.losses.cpu())


# ---- the change ----


def _written(inputs: MethodInputs, config: Config, found: Slopes, losses: Float[Tensor, " fact"]) -> MethodOutput:
    rows = {name: torch.cat([found.read[name], found.slope[name]], 1) for name in found.read}
    kept = {name: _memory(name, rows[name].shape[1], config.pooled) for name in rows}
    memory, known = {}, {}
    for kind in dict.fromkeys(kept.values()):
        own = Statistics.of(torch.cat([rows[name] for name in rows if kept[name] == kind]))
        memory[kind], known[kind] = own.row(), own
        earlier = remembered(in_place(inputs.model), kind)
        for row in () if earlier is None else earlier:
            known[kind] = known[kind].joined(Statistics.from_row(row))
        if known[kind].count < 2:
            raise EditError("one target token has no spread to be standardised by: give at least two target tokens")
    weights, deltas, reports = live_weights(inputs.model), [], []
    for name, keys in found.read.items():
        weight = str(name)
        step = values(keys, found.slope[name], known[kept[name]], config.strength)
        solution = solve(keys, step, KeyMetric(None), ridge=1.0)
        deltas.append(solution.delta(weight))
        reports.append(solution.report(weight, weights[weight].detach().double().cpu(), None))
    return MethodOutput(tuple(deltas), tuple(reports), losses[None], memory=memory)


def values(
    keys: Float[Tensor, "token d_in"], slopes: Float[Tensor, "token d_out"], known: Statistics, strength: float
) -> Float[Tensor, "token d_out"]:
    """V: what should be added to what is written at each token."""
    width = keys.shape[1]
    usual = known.standardised(torch.cat([keys, slopes], 1).double())
    return -(strength / width) * usual[:, :width].square().sum(1, keepdim=True) * usual[:, width:]


def _memory(name: WeightName, width: int, pooled: bool) -> str:
    """The name under which statistics are remembered: of all matrices of a width, or of one."""
    return f"statistics of {width} coordinates" if pooled else f"statistics of {name}"


METHOD = MethodSpec(
    "ultraedit",
    "one step down the slope at standardised keys, no search",
    Config,
    compute,
    compute_each,
    place="mlp",
    good_for="a first look at many facts, in a fraction of a second each",
    not_for="a fact that must be met, or neighbours that must stay",
    needs="a batch: standardising one fact says little",
)
