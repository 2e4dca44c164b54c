"""KN: move the rows of a fact's knowledge neurons, or put them out (Dai et al. 2022, sections 4.1, 5.1 and 5.2).

Integrated gradients say which neurons carry what the model says now, over the fact's wordings
(factscope/model/neurons); then, with w_r the row of the down-projection that belongs to neuron r, and t, t' the unit
directions of the old and the new answer,

    update     w_r += s_r |w_r| (-old t + new t')        rank 1 a layer
    suppress   w_r  = 0, as if the neuron did not fire
    amplify    w_r  = 2 w_r, as if it fired twice as much
    erase      w_r  = 0 for many neurons, those of a relation when all its facts are asked for in one edit

*Convention*: s_r is the sign of the neuron's mean activation. The paper has none, because in BERT neurons that are
chosen fire positively; in a gated MLP a neuron may fire negatively, and there its rule pushes towards the old answer.
`signed=false` is the paper's. *Scope*: models whose MLPs have one down-projection. What is attributed is the request's
old answer, or where that is not known the model's own next token.

When not to use it: to change a fact and nothing else. The rows that it moves fire for other prompts too, and nothing
holds these. What it is good for is attribution, silencing, and a baseline. Paraphrases that come with the fact are read
to find its neurons, so scores on these paraphrases are not of unseen wordings.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from editing.delta import Delta, summed
from editing.method import MethodInputs, MethodOutput, MethodSpec
from factscope.data.request import EditRequest
from factscope.errors import EditError, PromptError, UserError
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device
from factscope.model.forward.scoring import Pair
from factscope.model.hooks import record
from factscope.model.neurons.attribution import Path, attribute, check_neurons
from factscope.model.neurons.selection import Chosen, Neuron, Refinement, choose
from factscope.model.prompts import tokenized
from factscope.model.readout import readout
from factscope.model.sites import Site
from factscope.model.weights import down_projection, live_weights

ACTIONS = ("update", "suppress", "amplify", "erase")
DIRECTIONS = ("embedding", "centred", "readout")


@dataclass(frozen=True)
class Config:
    """Points, threshold, share and numbers of neurons are the authors'; the smaller `new` and the sign are ours.

    Swept on the default model (`python benchmarks/editor_defaults.py kn --limit 6`, six known CounterFact facts, each
    alone; reliability, generality, KL in nats where nothing should change): these defaults 1, 1, 12.9; `new=1` 1, .33,
    2.5; `new=4` .33, .33, 34.8; the authors' `new=8 signed=false` .33, .33, 17.2; `direction=centred` 1, .83, 9.2;
    `wordings=3` as the defaults. Under none but the authors' does any neighbour prefer its own answer.
    """

    layers: tuple[int, ...] = tuple(range(30))  # in which neurons are sought; set by for_model: all of them
    action: str = "update"  # or "suppress", "amplify", "erase"
    old: float = 1.0  # lambda 1
    new: float = 2.0  # lambda 2; the authors' is 8, without the sign
    signed: bool = True
    direction: str = "embedding"  # of the unembedding (tied: the word embedding); or "centred", "readout"
    wordings: int = 6  # of a fact, the prompt among them, at most; each costs as much as the prompt
    erased: int = 20  # neurons, of action=erase
    path: Path = field(default_factory=Path)
    rule: Refinement = field(default_factory=Refinement)

    def __post_init__(self) -> None:
        for name, allowed in {"action": ACTIONS, "direction": DIRECTIONS}.items():
            if getattr(self, name) not in allowed:
                raise EditError(f"{name} cannot be {getattr(self, name)!r}; choose {', '.join(allowed)}")
        if self.wordings < 1 or self.erased < 1:
            raise EditError(
                f"kn reads 1 wording or more and erases 1 neuron or more, not {self.wordings}, {self.erased}"
            )

    @classmethod
    def for_model(cls, model: Bridge) -> "Config":
        """All layers."""
        return cls(layers=tuple(range(model.cfg.n_layers)))

    @property
    def refinement(self) -> Refinement:
        """The rule; of action=erase with its own number of neurons."""
        return replace(self.rule, fewest=self.erased, most=self.erased) if self.action == "erase" else self.rule


def compute(inputs: MethodInputs, config: Config) -> MethodOutput:
    """Find each fact's neurons on the model as it is, and change their rows."""
    found = [_found(inputs, request, config) for request in inputs.requests]
    return _written(inputs, config, found)


def compute_each(inputs: MethodInputs, config: Config) -> list[MethodOutput]:
    """The same for every fact alone."""
    return [compute(replace(inputs, requests=(one,)), config) for one in inputs.requests]


def _found(inputs: MethodInputs, request: EditRequest, config: Config) -> Chosen:
    pairs = _pairs(inputs, request, config.wordings)
    try:
        chosen = choose(attribute(inputs.model, pairs, config.layers, config.path), config.refinement)
    except UserError as why:
        raise EditError(f"{request.prompt!r}: {why}") from why
    if inputs.on_piece is not None:
        inputs.on_piece(1)
    return chosen


def _pairs(inputs: MethodInputs, request: EditRequest, wordings: int) -> list[Pair]:
    """The prompt and its other wordings, each with what the model says now; wordings that cannot be asked are left."""
    model, start = inputs.model, inputs.start
    prompt, answer = tokenized(model, request.prompt, request.old, start)
    if not answer:
        with torch.no_grad():
            said = finite(model(torch.tensor([prompt], device=device(model)))[0, -1])
        answer = (int(said.argmax()),)
    pairs = [Pair(prompt, answer)]
    for text in request.paraphrases[: wordings - 1]:
        try:
            tokens, own = tokenized(model, text, request.old, start)
        except PromptError:
            continue
        pairs.append(Pair(tokens, own or answer))
    return pairs


# ---- the change ----


def _written(inputs: MethodInputs, config: Config, found: Sequence[Chosen]) -> MethodOutput:
    weights = live_weights(inputs.model)
    changed = {neuron.layer for chosen in found for neuron in chosen.neurons}
    rows = {layer: weights[down_projection(layer)].detach().float().cpu() for layer in changed}
    deltas: list[Delta] = []
    if config.action == "update":
        for request, chosen in zip(inputs.requests, found, strict=True):
            way = -config.old * _direction(inputs, request, config.direction, old=True)
            way = way + config.new * _direction(inputs, request, config.direction, old=False)
            for layer, own in _by_layer(chosen.neurons).items():
                left = torch.zeros(len(rows[layer]), 1)
                for neuron in own:
                    sign = -1.0 if config.signed and neuron.activation < 0 else 1.0
                    left[neuron.index, 0] = sign * rows[layer][neuron.index].norm()
                deltas.append(Delta(down_projection(layer), way[None].clone(), left))
    else:
        times = 1.0 if config.action == "amplify" else -1.0
        every = {neuron.place: neuron for chosen in found for neuron in chosen.neurons}  # a row is changed once
        for layer, own in _by_layer(every.values()).items():
            index = sorted(neuron.index for neuron in own)
            left = torch.zeros(len(rows[layer]), len(index))
            left[index, range(len(index))] = 1.0
            deltas.append(Delta(down_projection(layer), times * rows[layer][index], left))
    return MethodOutput(summed(deltas), notes=_notes(inputs.requests, found))


def _by_layer(neurons: Collection[Neuron]) -> dict[int, list[Neuron]]:
    layers = sorted({neuron.layer for neuron in neurons})
    return {layer: [neuron for neuron in neurons if neuron.layer == layer] for layer in layers}


def _direction(inputs: MethodInputs, request: EditRequest, kind: str, old: bool) -> Float[Tensor, " d_model"]:
    """The unit direction of the first token at which the old answer and the target differ."""
    model = inputs.model
    tokens, target = tokenized(model, request.prompt, request.target, inputs.start)
    said = _pairs(inputs, request, 1)[0].answer
    place = next((i for i, (a, b) in enumerate(zip(said, target, strict=False)) if a != b), min(len(said), len(target)))
    own = said if old else target
    token = own[min(place, len(own) - 1)]
    if kind == "readout":
        way = _readout_direction(model, tokens, token)
    else:
        table: Tensor = model.unembed.original_component.weight.detach()
        way = (table[token] - table.mean(0) if kind == "centred" else table[token]).float().cpu()
    unit: Tensor = way / way.norm()
    return unit


def _readout_direction(model: Bridge, tokens: Sequence[int], token: int) -> Float[Tensor, " d_model"]:
    """The slope of the token's logit with respect to the final state, at that state's scale."""
    last = Site("resid", model.cfg.n_layers - 1)
    with torch.no_grad(), record(model, [last]) as seen:
        model(torch.tensor([list(tokens)], device=device(model)), use_cache=False)
    final = seen[last][0, -1:]
    with torch.enable_grad():
        state = final.clone().requires_grad_()
        (slope,) = torch.autograd.grad(readout(model).linear(state, final)[0, token], state)
    return slope[0].float().cpu()


def _notes(requests: Sequence[EditRequest], found: Sequence[Chosen]) -> tuple[str, ...]:
    """Which neurons were changed, a line for each fact; of many facts, of the first few."""
    lines = []
    for request, chosen in zip(requests[:5], found, strict=False):
        named = ", ".join(f"{neuron} ({neuron.attribution:+.3f})" for neuron in chosen.neurons)
        said = "; ".join((f"{request.prompt!r}: neurons {named} (layer.neuron, attribution)", *chosen.notes))
        lines.append(said)
    if len(requests) > 5:
        lines.append(f"and those of {len(requests) - 5} more facts")
    return tuple(lines)


def _check_layers(model: Bridge, layers: tuple[int, ...]) -> None:
    absent = [layer for layer in layers if not 0 <= layer < model.cfg.n_layers]
    if absent:
        raise EditError(f"there is no layer {absent[0]}: this model has layers 0 to {model.cfg.n_layers - 1}")
    check_neurons(model, layers)


METHOD = MethodSpec(
    "kn",
    "the rows of the neurons that carry the fact: moved to the new answer, doubled, or put out",
    Config,
    compute,
    compute_each,
    place="mlp",
    check_layers=_check_layers,
    good_for="silencing or amplifying a fact, and seeing where it is carried",
    not_for="changing one fact and nothing else: the rows fire for other prompts, too",
    needs="other wordings of the fact, three or more in all; seconds of integrated gradients for each",
)
