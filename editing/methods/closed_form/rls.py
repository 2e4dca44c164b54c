"""RLS: the optimum over a whole sequence of edits, reached edit by edit (RLSEdit 2026, arXiv 2601.15686).

    W = argmin  sum over all edits so far of |k W - v|^2  +  w tr((W - W0)' (C + n I) (W - W0))

That is recursive least squares: with A what the edits before have left, each edit is MEMIT's solve in another measure,

    dW = A^-1 K' (K A^-1 K' + I)^-1 R          A <- A + K'K,   at first A = w (C + n I)

and for given keys and values it does not matter how the sequence is cut into edits, nor in which order they come. Keys
move when weights change, so an edit remembers its keys as they were used (`Edit.memory`), and A is made from the edits
in place. The first edit of a sequence is MEMIT's. With n > 0 this is ENCORE's objective (arXiv 2502.01636), with n = 0
MEMIT with past keys: one file, three settings. Values are searched for until every target token of every context was
the argmax at four readings (ENCORE's early stop), a third of MEMIT's passes; `--set patience=none` searches as MEMIT.

w is fixed by the first edit in place, as MEMIT fixes lambda: `ridge` times the mean leverage of its keys. The paper's
code takes what lacks, R, for the whole value and subtracts K W from it once more; here the paper's equation is kept.

Convention: keys [fact, d_in]; `identity` is n as a share of the mean of C's diagonal. Scope: what other methods put in
place has no keys, so it is not held; the edit's notes count it.

When not to use it: for one edit it is MEMIT; the more edits are held, the less room there is for the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.edit import Edit, in_place, remembered
from editing.method import MethodInputs, MethodOutput, MethodSpec
from editing.methods.closed_form.memit import leverage
from editing.solve.closed_form import KeyMetric, Solution, solve
from editing.solve.layers import SpreadConfig, spread
from editing.solve.values import Descent, Keys
from factscope.model.weights import down_projection


@dataclass(frozen=True)
class Config(SpreadConfig):
    """MEMIT's, but for ENCORE's early stop; the authors' mu^2 w is 15,000 or 20,000, in units of their C.

    Swept for the stop alone, eight known CounterFact facts of the default model, each edited alone, with moments of
    the model's own text, by `python benchmarks/editor_defaults.py memit`: a patience of 1, 2, 4, or none takes 7, 8, 10
    or 32 passes a fact; PS .62, .75, .88, .88; generality .00, .12, .25, .38; KL at neighbours .001, .001, .001, .003
    nats. All are learned (ES and reliability 1), and no neighbour's preference moves. Not swept over long sequences.
    """

    ridge: float = 0.1  # as MEMIT's
    descent: Descent = field(default_factory=lambda: Descent(patience=4))  # ENCORE's 4, 3 and 2 of three models
    identity: float = 0.0  # n over the mean of C's diagonal; RLSEdit: 0, ENCORE: above


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Values for all facts on the model as it is, then layer by layer, holding what the edits in place have written."""
    here, memory = in_place(inputs.model), dict[str, Tensor]()

    def rule(layer: int, keys: Keys, lacking: Float[Tensor, "fact d_model"]) -> Solution:
        own, name = keys.halves().float().cpu(), _memory(layer)
        memory[name] = own
        first = next((edit.memory[name] for edit in here if name in edit.memory), own)
        metric, past = measure(inputs.metric(layer), first.double(), config), remembered(here, name)
        return solve(own.double(), lacking, metric if past is None else metric.holding(past), ridge=1.0)

    written = spread(inputs, config, rule)
    return replace(written, notes=(*_notes(here, inputs, config), *written.notes), memory=memory)


def measure(ordinary: KeyMetric, first: Float[Tensor, "fact d_in"], config: Config) -> KeyMetric:
    """w (C + n I), with w from the keys of the sequence's first edit; `ordinary` is C."""
    weight = config.ridge * leverage(first, ordinary)
    if not config.identity:
        return ordinary.times(weight)
    usual = ordinary.dense(first.shape[1])
    return KeyMetric(
        usual + config.identity * usual.diagonal().mean() * torch.eye(len(usual), dtype=usual.dtype)
    ).times(weight)


def _notes(here: Sequence[Edit], inputs: MethodInputs, config: Config) -> tuple[str, ...]:
    """What keeps the edits in place and this one from being the optimum of one sequence."""
    names = [_memory(layer) for layer in config.layers]
    silent = sum(any(d.weight in map(down_projection, config.layers) for d in e.deltas) and not e.memory for e in here)
    said = [f"{silent} of the edits in place remember no keys, so what they wrote is not held"] if silent else []
    held = [edit for edit in here if any(name in edit.memory for name in names)]
    moments = "identity" if inputs.moments is None else inputs.moments.name
    asked = (moments, config.ridge, config.identity, config.layers)
    if any(asked != (e.moments, *(e.config.get(k) for k in ("ridge", "identity")), _layers(e)) for e in held):
        said.append("edits in place had other layers, moments, ridge or identity: together they solve no one problem")
    if any(set(edit.below) - {other.digest for other in here} for edit in held):
        said.append("an edit below those in place was taken out: they were computed to hold it as well")
    return tuple(said)


def _layers(edit: Edit) -> tuple[int, ...]:
    return tuple(edit.config.get("layers", ()))


def _memory(layer: int) -> str:
    """The name under which keys are remembered."""
    return f"keys of {down_projection(layer)}"


METHOD = MethodSpec(
    "rls",
    "MEMIT over a sequence: what earlier edits wrote is held (RLSEdit; ENCORE with identity above 0)",
    Config,
    compute,
    place="hidden",
    needs_moments=True,
    good_for="edits one after another: the first are still told after a hundred",
    not_for="one edit alone, where it is MEMIT",
)
