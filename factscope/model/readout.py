"""From a residual state to logits: the one place where the final norm, the unembedding and what follows are spelt out.

    logits = f(norm(state) W_U + b_U)      f: a multiplier (Cohere, Granite), a soft cap (Gemma-2), mostly nothing

A state is read in one of two ways.

*per-state*: normalised by itself, as the model would if the state were its last, with every bias and with f. The last
state's logits are the model's own.

*final-scale*: divided by the scale of the *final* state of its position, without the norm's and the unembedding's bias,
and with f's multiplier but not its cap. This is linear, so that what components add can be added up: a direct effect is
given in it.

A direct effect on a token is its logit in that reading less the average token's: a shift of all logits alike changes no
probability. Ranks count from 1, and a tie counts against the answer.

*Scope*: final norms that are LayerNorm or RMSNorm, with gain w or 1 + w. Nothing is assumed: `readout` proves once for
a model that the last state that the model's own forward pass leaves, read per state, gives the logits of that pass, and
that the norm taken apart is the model's norm. A model for which that does not hold is refused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from factscope.errors import ModelError, PromptError
from factscope.model.agreement import off_by, tolerance
from factscope.model.bridge import Bridge, architecture, device, device_of
from factscope.model.forward.onednn import thin_products
from factscope.model.hooks import record
from factscope.model.parts.norms import NormParts
from factscope.model.sites import Site
from factscope.model.source.checkpoint import probe

Norm = Literal["per-state", "final-scale"]
NORMS: tuple[Norm, ...] = ("per-state", "final-scale")
ROWS = 256  # states unembedded at once: 50 MB of logits with a vocabulary of 50,000


def checked(norm: str) -> Norm:
    """The reading of this name; PromptError if there is none."""
    found = next((each for each in NORMS if each == norm), None)
    if found is None:
        raise PromptError(f"there is no lens norm {norm!r}; choose {' or '.join(NORMS)}")
    return found


def rank(logits: Float[Tensor, "*rows vocab"], token: int | Int[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
    """Rank of `token` among all tokens, 1 for the most probable; a tie counts against it, and so does a NaN.

    With every edge of a model cut to zero all logits are alike, and no answer is then the first.
    """
    if isinstance(token, int):
        own = logits[..., token : token + 1]
    else:
        own = logits.gather(-1, token.to(logits.device)[..., None])
    return (~(logits < own)).sum(-1)


@dataclass(frozen=True)
class Component:
    """What one writer says at the last position when its output alone is unembedded."""

    name: str  # embed, a3.h5, m7
    log_probability: float  # of the answer's first token in the distribution that it alone would give, nats
    rank: int  # of the answer, from 1
    entropy: float  # nats
    direct_effect: float  # logits: what it adds to the answer's logit, less what it adds to the average token's
    top: tuple[str, ...]  # the tokens that it raises most

    @classmethod
    def upgraded(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What schema 1 held of a circuit's components, in the words of the lens's; it knew no entropy."""
        if "direct" not in body:
            return body
        chance = float(body["probability"])
        return {
            "name": body["name"],
            "log_probability": math.log(chance) if chance > 0 else -math.inf,
            "rank": body["rank"],
            "entropy": math.nan,
            "direct_effect": body["direct"],
            "top": body["top_tokens"],
        }


@dataclass(frozen=True, eq=False)
class Readout:
    """The reading of one model's states; `readout` makes and proves it."""

    model: Bridge
    factor: float = 1.0  # f's multiplier
    splits: bool = True  # whether the norm taken apart is the model's norm

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary."""
        return int(self.model.unembed.original_component.weight.shape[0])

    def logits(self, states: Float[Tensor, "*rows d_model"], unembed: Any = None) -> Float[Tensor, "*rows vocab"]:
        """What the model would answer if each state were its last; `unembed` may be a faster copy of its own."""
        model, last = self.model, states.reshape(-1, 1, states.shape[-1])
        normed = model.ln_final(last.to(device_of(model.ln_final, last)))
        out = (unembed or model.unembed)(normed.to(device_of(model.unembed, normed)))[:, 0]
        logits: Tensor = model.adapter.apply_output_logits_transform(out)
        return logits.reshape(*states.shape[:-1], logits.shape[-1])

    def linear(
        self, states: Float[Tensor, "*rows d_model"], final: Float[Tensor, "*final d_model"]
    ) -> Float[Tensor, "*rows vocab"]:
        """Logits that add up: each state divided by its `final` state's scale, no bias, no cap."""
        normed = self._held(states, final)
        with thin_products():
            return functional.linear(normed, self._unembedding(normed)) * self.factor

    def read(
        self, states: Float[Tensor, "*rows d_model"], final: Float[Tensor, "*final d_model"], norm: Norm
    ) -> Float[Tensor, "*rows vocab"]:
        """`logits` or `linear`, in float32 at least."""
        found = self.logits(states) if norm == "per-state" else self.linear(states, final)
        return found.float() if found.dtype.itemsize < 4 else found

    def direct(
        self, states: Float[Tensor, "*rows d_model"], final: Float[Tensor, "*final d_model"], token: int
    ) -> Float[Tensor, "*rows"]:
        """Direct effect of each state on `token`, in logits: positive where it raises the token above the average.

        Elhage et al. 2021, the logits as a sum over paths. The states may be parts of a state, by component or by the
        token that they were read from: the effects of parts add up to that of the whole.
        """
        normed = self._held(states, final)
        matrix = self._unembedding(normed)
        return normed @ (matrix[token] - matrix.mean(0)) * self.factor

    def components(
        self,
        names: Sequence[str],
        states: Float[Tensor, "writer d_model"],
        final: Float[Tensor, " d_model"],
        answer: int,
        norm: Norm,
        top: int,
    ) -> tuple[Component, ...]:
        """Each writer's output at the last position, read by itself; its direct effect is always in final-scale."""
        logits = self.read(states, final, norm)
        logs = torch.log_softmax(logits, -1)
        entropy = -(logs.exp() * logs).sum(-1)
        columns = (logs[:, answer], rank(logits, answer), entropy, self.direct(states, final, answer))
        raised = self.linear(states, final).topk(min(top, logits.shape[-1]), -1).indices.tolist()
        decode = self.model.tokenizer.decode
        return tuple(
            Component(name, log, place, spread, direct, tuple(decode([token]) for token in tokens))
            for name, log, place, spread, direct, tokens in zip(
                names, *(column.tolist() for column in columns), raised, strict=True
            )
        )

    def _held(self, states: Tensor, final: Tensor) -> Tensor:
        """States through the final norm at the scale of `final`, without its bias."""
        if not self.splits:
            raise ModelError(
                f"the final norm of this model ({architecture(self.model)}) is neither LayerNorm nor RMSNorm, so its "
                "logits cannot be split into what components add"
            )
        return NormParts.of(self.model, self.model.ln_final).held(states, final.to(states.device))

    def _unembedding(self, like: Tensor) -> Float[Tensor, "vocab d_model"]:
        weight: Tensor = self.model.unembed.original_component.weight
        return weight.detach().to(like)


# ---- the proof ----


@dataclass(frozen=True)
class _Proof:
    """What was found when a model was proven."""

    off: float  # largest distance from the model's own logits, in their standard deviations
    factor: float = 1.0
    splits: bool = False


_PROOFS: WeakKeyDictionary[Any, _Proof] = WeakKeyDictionary()


def readout(model: Bridge) -> Readout:
    """The reading of `model`'s states; ModelError if they do not give the model's own logits."""
    proof = prove(model)
    if not proof.off <= tolerance(next(model.parameters()).dtype):
        raise ModelError(
            f"the final norm and unembedding of this architecture ({architecture(model)}) do not give the model's own "
            f"logits (off by {proof.off:.2g} standard deviations), so its states cannot be read exactly"
        )
    return Readout(model, proof.factor, proof.splits)


@torch.no_grad()
def prove(model: Bridge) -> _Proof:
    """One forward pass of the model, once: its own logits, against what is read from the last state that it leaves.

    `load` calls it, while nobody's hooks are on the model; what is wrong is said when the model's states are read.
    """
    if model in _PROOFS:
        return _PROOFS[model]
    if not all(hasattr(model, part) for part in ("ln_final", "unembed", "adapter")):
        return _PROOFS.setdefault(model, _Proof(float("inf")))
    size = Readout(model).n_tokens
    tokens = probe(size, device(model))[:1]
    last = Site("resid", model.cfg.n_layers - 1)
    with record(model, [last]) as seen:
        own = model(tokens, use_cache=False)[0]
    state = seen[last][0]
    if state.shape != (tokens.shape[1], model.cfg.d_model):  # several streams (DeepSeek-V4)
        return _PROOFS.setdefault(model, _Proof(float("inf")))
    read = Readout(model).logits(state)
    off = off_by(read, own)
    return _PROOFS.setdefault(model, _Proof(off, _factor(model), _splits(model, state)))


def _factor(model: Bridge) -> float:
    """The multiplier in what follows the unembedding: its slope at zero, where a soft cap has slope one."""
    with torch.enable_grad():
        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(model.adapter.apply_output_logits_transform(zero), zero)
    return float(slope)


def _splits(model: Bridge, state: Float[Tensor, "pos d_model"]) -> bool:
    """Whether the norm, taken apart, is the model's own norm on these states."""
    try:
        part = NormParts.of(model, model.ln_final)
        own = model.ln_final.original_component(state.to(device_of(model.ln_final, state)))
        found = part.centre(state) / part.scale(state) * part.gain.to(state) + part.bias.to(state)
    except (AttributeError, TypeError, RuntimeError):
        return False
    loose = 1e-3 if state.dtype.itemsize >= 4 else 0.02
    return bool(torch.allclose(found, own.to(found), rtol=loose, atol=loose * float(own.abs().max())))
