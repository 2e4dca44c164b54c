"""Mixtures of experts: what each expert writes, and the router's choice.

A router decides twice for each token: *which* experts it goes to, the k of the largest score, and *how much* of each is
taken. The second is a smooth function of what the router reads. The first jumps: a change of any size may send a token
to another expert, whose output then has nothing to do with the change. So in a run whose inputs were changed, the
choice is that of the unchanged run, `Routing(..., choices)`, and the weights are computed anew at that choice. This is
also what a gradient sees: it flows through the weights, and knows nothing of the choice.

An expert writes its output times its weight, at the tokens that chose it, and nothing at the others. What a layer with
experts adds beside them (an expert that all tokens go through) is `shared`.

*Scope*: layers whose `experts` module is called with tokens, choices and weights, as those of transformers are, and
whose router chooses by `topk`. Models whose attention is a mixture too (JetMoe), or whose experts are given weighted
tokens (Llama-4), are not among them.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from factscope.errors import ModelError
from factscope.model.agreement import agree
from factscope.model.bridge import Bridge, architecture, run_blocks

SHARED = ("shared_expert", "shared_experts", "shared_mlp")  # what all tokens go through, by transformers' names
Choices = dict[int, list[Tensor]]  # by layer: what each top-k gave, [row x pos, ...]


def mixtures(model: Bridge) -> dict[int, Any]:
    """The sub-layers that are mixtures of experts, by layer."""
    found = {}
    for layer, block in enumerate(model.blocks):
        inner = getattr(getattr(block, "mlp", None), "original_component", None)
        if inner is not None and isinstance(getattr(inner, "experts", None), nn.Module):
            found[layer] = inner
    return found


def expert_count(mixture: Any) -> int:
    """How many experts a router chooses among."""
    return max(int(parameter.shape[0]) for parameter in mixture.experts.parameters())


def has_shared(mixture: Any) -> bool:
    """Whether all tokens go through an expert beside those that they choose."""
    return any(getattr(mixture, name, None) is not None for name in SHARED)


@dataclass(frozen=True, eq=False)
class _Call:
    """What one layer's experts were asked."""

    tokens: Float[Tensor, "token d_model"]
    chosen: Tensor  # [token, choice]
    weights: Tensor  # [token, choice]


@dataclass(eq=False)
class Routing:
    """Listens to the mixtures of experts in a run, and makes their choices where `choices` are given."""

    mixtures: Mapping[int, Any]
    choices: Choices | None = None
    made: Choices = field(default_factory=dict)  # in this run
    asked: dict[int, _Call] = field(default_factory=dict)
    whole: dict[int, Tensor] = field(default_factory=dict)  # what each mixture gave, [row, pos, d_model]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Runs in the block are listened to."""
        if not self.mixtures:
            yield
            return
        choosing = _Choosing(self)
        with ExitStack() as stack:
            for layer, mixture in self.mixtures.items():
                hooks = (
                    mixture.register_forward_pre_hook(choosing.entering(layer), with_kwargs=True),
                    mixture.register_forward_hook(choosing.leaving(layer)),
                    mixture.experts.register_forward_pre_hook(self._hearing(layer), with_kwargs=True),
                )
                for hook in hooks:
                    stack.callback(hook.remove)
            stack.enter_context(choosing)
            yield

    def given(self, layer: int) -> Float[Tensor, "expert row pos d_model"]:
        """What each expert of a layer gave in the run, weighted; zero at the tokens that did not choose it."""
        call, whole, mixture = self.asked[layer], self.whole[layer], self.mixtures[layer]
        n_tokens, n_experts = len(call.tokens), expert_count(mixture)
        parts = call.tokens.new_zeros(n_experts + 1, n_tokens, whole.shape[-1])  # the last for a choice of none
        rows = torch.arange(n_tokens, device=call.tokens.device)
        for place in range(call.chosen.shape[-1]):
            only = slice(place, place + 1)
            parts[call.chosen[:, place], rows] += mixture.experts.forward(
                call.tokens, call.chosen[:, only], call.weights[:, only]
            )
        given: Tensor = parts[:-1].unflatten(1, whole.shape[:2])
        return given

    def _hearing(self, layer: int) -> Any:
        def hear(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            every = (*given, *named.values())
            if len(every) < 3 or every[1].shape != every[2].shape:
                raise TypeError("experts that are not given tokens, choices and weights")
            self.asked[layer] = _Call(*every[:3])

        return hear


NO_EXPERTS = Routing({})


class _Choosing(TorchFunctionMode):
    """Within a mixture, notes what each top-k chooses, or chooses as it is told."""

    def __init__(self, routing: Routing) -> None:
        super().__init__()
        self.routing, self.layer = routing, -1

    def entering(self, layer: int) -> Any:
        def enter(*_: Any) -> None:
            self.layer = layer
            self.routing.made[layer] = []

        return enter

    def leaving(self, layer: int) -> Any:
        def leave(_: Any, __: Any, out: Any) -> None:
            self.layer = -1
            self.routing.whole[layer] = out[0] if isinstance(out, tuple) else out

        return leave

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in the place of each of its functions."""
        kwargs = kwargs or {}
        if self.layer < 0 or function not in (torch.topk, Tensor.topk):
            return function(*args, **kwargs)
        made = self.routing.made[self.layer]
        if self.routing.choices is None:
            found = function(*args, **kwargs)
            made.append(found[1])
            return found
        chosen = self.routing.choices[self.layer][len(made)]
        made.append(chosen)
        dim = kwargs.get("dim", args[2] if len(args) > 2 else -1)
        return torch.return_types.topk((args[0].gather(dim, chosen), chosen))


@torch.no_grad()
def choices_of(model: Bridge, tokens: Tensor) -> Choices:
    """What the routers choose in a plain run of `tokens` [row, pos]."""
    routing = Routing(mixtures(model))
    if routing.mixtures:
        with routing.installed():
            run_blocks(model, tokens)
    return routing.made


def repeated(choices: Choices, times: int) -> Choices:
    """The choices of a batch that stands there several times, one after another."""
    return {layer: [one.repeat(times, *[1] * (one.dim() - 1)) for one in made] for layer, made in choices.items()}


def last_alone(choices: Choices, n_positions: int) -> Choices:
    """The choices of the last position of each row."""
    return {layer: [one[n_positions - 1 :: n_positions] for one in made] for layer, made in choices.items()}


@torch.no_grad()
def check_experts(model: Bridge, routing: Routing) -> None:
    """ModelError unless each mixture that was heard is the sum of its experts and of what does not depend on them."""
    for layer, mixture in routing.mixtures.items():
        call, whole = routing.asked[layer], routing.whole[layer]

        def silent(_: Any, __: Any, out: Tensor) -> Tensor:
            return torch.zeros_like(out)

        handle = mixture.experts.register_forward_hook(silent)
        try:
            out = mixture(call.tokens.view(whole.shape))
        finally:
            handle.remove()
        rest = out[0] if isinstance(out, tuple) else out
        if not agree(routing.given(layer).sum(0) + rest, whole) or (bool(rest.any()) and not has_shared(mixture)):
            raise ModelError(
                f"layer {layer} of this architecture ({architecture(model)}) is not the sum of what its experts give, "
                "so they cannot be told apart"
            )
