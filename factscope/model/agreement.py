"""What is assumed of a model is proven on the model at hand, once for each verb, before any work.

A proof runs a few tokens and compares with what the model itself says, or plain transformers, and never with our own
code. Whether logits are numbers, how far they are from the model's own, and how far is mere rounding, has one answer
for all proofs. A model for which a proof fails, or breaks off in whatever way, is refused for that verb in one
sentence. Only memory that runs out proves nothing, and logits that are not numbers may be an edit's, soon undone. What
was proven is kept from one command to the next (factscope/model/proofs.py).
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from factscope.errors import ModelError, UserError
from factscope.model.bridge import architecture
from factscope.model.forward.onednn import thin_products
from factscope.model.proofs import keeping

_PROVEN: WeakKeyDictionary[Any, dict[str, str | None]] = WeakKeyDictionary()  # by model and verb, the refusal if any


@torch.no_grad()
def require(model: Any, verb: str, prove: Callable[[], None]) -> None:
    """ModelError unless `prove` comes to its end on this model, now or when `verb` was first asked for.

    `verb` reads in a sentence, as in "cannot be traced"; `prove` raises whatever it likes.
    """
    known = _PROVEN.setdefault(model, {})
    if verb not in known:
        try:
            with keeping(model, verb) as proven, thin_products():
                if not proven:
                    prove()  # a dozen passes of a few tokens each: most of its time is their products
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as trouble:
            words = f"{type(trouble).__name__}: {' '.join(str(trouble).split())[:200]}"
            known[verb] = f"this model ({architecture(model)}) cannot be {verb} exactly: {words}"
            raise ModelError(known[verb]) from trouble
        known[verb] = None
    if refusal := known[verb]:
        raise ModelError(refusal)


def finite(logits: Tensor) -> Tensor:
    """The logits, if they are numbers; else a ModelError, for nothing can be read of them."""
    if bool(logits.isnan().any()) or bool((logits == torch.inf).any()):
        raise ModelError(
            "the model's logits are not numbers (NaN or infinite), so nothing can be read of them: its weights are "
            "broken, by an edit perhaps, or they overflow this dtype; --dtype float32 tells which"
        )
    return logits


@torch.no_grad()
def off_by(found: Tensor, own: Tensor) -> float:
    """Largest distance of logits from the model's own, in standard deviations of these; NaN where ours are.

    Raises ModelError where the model's own are not numbers.
    """
    own = finite(own.float())
    return float((found.float().to(own.device) - own).abs().max()) / (float(own.std()) + 1e-12)


def tolerance(dtype: torch.dtype) -> float:
    """How far `off_by` may be by rounding alone, when sums are taken in another order."""
    return 1e-3 if dtype.itemsize >= 4 else 0.1


def agree(found: Tensor, own: Tensor) -> bool:
    """Whether logits are the model's own up to rounding."""
    return off_by(found, own) <= tolerance(own.dtype)
