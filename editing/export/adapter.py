"""An edit of low rank as an adapter that PEFT loads on the unedited model: the two factors, beside the weights.

A change left @ right of a weight [d_in, d_out] becomes, under the name of the module that holds the weight,

    lora_A.weight [rank, d_in] = left'        lora_B.weight [d_out, rank] = right'        scale lora_alpha / r = 1

in adapter_model.safetensors, and adapter_config.json says which modules have which rank. PEFT writes lora_A and lora_B
in this orientation for `Linear` and for GPT-2's `Conv1D` alike; `fan_in_fan_out` tells it that the latter's weight is
[d_in, d_out]. Several edits are merged, their factors side by side.

Before the folder gets its name, it is read back and laid over plain transformers by PEFT's rules, and must give the
edited model's logits on the edits' own prompts; where the `peft` package is installed, it must do the same.

Scope: matrices of MLPs and of attention that are a `Linear` or a `Conv1D` by themselves, and changes of low rank. The
base model must be the one that was edited: with other weights (another quantisation, say) the adapter is another edit.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from editing.delta import Delta
from editing.edit import Edit, applied, in_place
from editing.export.folder import card, new_folder, plain_model
from editing.export.modules import Place, place_of
from editing.merge.stack import check_weights, merged
from editing.requests import bare_prompt
from factscope.errors import EditError, StoreError
from factscope.files import write_text_atomically
from factscope.model.agreement import off_by, tolerance
from factscope.model.bridge import Bridge, info
from factscope.model.forward.batched import padded
from factscope.model.source.registry import loadable

CONFIG, TENSORS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."  # PEFT's names
ASKED = 16  # edited prompts that the adapter is held against the edited model on


def export_adapter(model: Bridge, edits: Sequence[Edit], folder: str | Path) -> Path:
    """Write the edits, merged, as a PEFT adapter of `model` into `folder`, which must be new or empty.

    Raises EditError (a change that is no thin product, an edit of another model, edits in place, a module that PEFT has
    no such adapter for) and StoreError (cannot write, or what was written is not the edited model).
    """
    stack = thin(edits)
    if in_place(model):
        raise EditError("take the edits that are in place out first: an adapter stands beside the unedited model")
    with new_folder(folder) as building:
        with applied(model, edits):  # an edit of another model is refused here, before anything is written
            tokens = _asked(model, stack)
            own = model(tokens, use_cache=False)
        plain = plain_model(model).to(tokens.device)
        adapted: dict[str, list[tuple[Delta, Place]]] = {}
        for delta in stack.deltas:
            place = place_of(model, plain, delta.weight)
            adapted.setdefault(place.module, []).append((delta, place))
        _write(building, plain, adapted, info(model).source)
        _compare(building, plain, tokens, own)
        write_text_atomically(building / "README.md", _card(stack, info(model).source))
        stack.save(building / "edit")
    return Path(folder)


def thin(edits: Sequence[Edit]) -> Edit:
    """The edits as one edit of two thin factors a weight; EditError where they are not."""
    check_weights(edits, "an adapter is two thin factors beside a weight")
    stack = merged(edits)
    if not stack.deltas:
        raise EditError(f"edit {stack.name} changes no weight, so there is nothing of it to export")
    for delta in stack.deltas:
        if not delta.low_rank:
            kind = "keeps single entries of its change (RECT)" if delta.keep is not None else "is of full rank"
            raise EditError(
                f"what {stack.method} changes in {delta.weight} {kind}, and an adapter is two thin factors: leave "
                "--peft out to export the whole model"
            )
    return stack


def _write(folder: Path, plain: Any, adapted: Mapping[str, Sequence[tuple[Delta, Place]]], source: str) -> None:
    tensors, ranks = {}, {}
    for name, held in adapted.items():
        module = plain.get_submodule(name)
        if not isinstance(module, torch.nn.Linear | Conv1D):
            raise EditError(f"{name} is a {type(module).__name__}, for which PEFT has no adapter of two factors")
        width = module.weight.shape[isinstance(module, Conv1D)]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.cat([d.left.T for d, _ in held if d.left is not None])
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.cat([_written(d.right, at, width) for d, at in held], 1)
        ranks[name] = sum(len(delta.right) for delta, _ in held)
    usual = Counter(ranks.values()).most_common(1)[0][0]
    # PEFT matches the end of a module's name; older versions want something before it, so the first word is left out.
    pattern = {name.partition(".")[2]: rank for name, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": source,
        "inference_mode": True,
        "target_modules": list(ranks),
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(plain.get_submodule(name), Conv1D) for name in ranks),
    }
    write_text_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / TENSORS, {"format": "pt"})


def _written(right: Float[Tensor, "rank _"], place: Place, width: int) -> Float[Tensor, "width rank"]:
    """The right factor turned over, and zero where the module writes what is not of this weight."""
    if place.columns is None:
        return right.T.contiguous()
    return right.new_zeros(width, len(right)).index_copy_(0, place.columns, right.T)


# ---- whether it does what the edit does ----


def _asked(model: Bridge, edit: Edit) -> Tensor:
    """Edited prompts with their targets, right-padded: where the edit acts."""
    rows = []
    for request in edit.requests[:ASKED]:
        prompt = bare_prompt(model, request, edit.start_token)
        rows.append((*prompt.tokens, *prompt.answer_ids))
    return padded(model, rows)


@torch.no_grad()
def _compare(folder: Path, plain: Any, tokens: Tensor, own: Tensor) -> None:
    """StoreError unless the adapter in the folder, on the plain unedited model, gives the edited model's logits."""
    with laid_over(plain, folder):
        found = {"plain transformers": plain(input_ids=tokens, use_cache=False).logits}
    if find_spec("peft") is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what PEFT asks transformers for is theirs to settle
            peft = import_module("peft").PeftModel.from_pretrained(plain, str(folder)).eval()
        found["PEFT"] = peft(input_ids=tokens, use_cache=False).logits
    for reader, logits in found.items():
        off = off_by(logits, own)
        if not off <= tolerance(own.dtype):
            raise StoreError(
                f"the adapter does not give the edited model's logits in {reader} (off by {off:.2g} standard "
                "deviations), so nothing is left of it"
            )


@contextmanager
def laid_over(plain: Any, folder: str | Path) -> Iterator[None]:
    """In the block, a plain transformers model answers with the adapter in `folder`, read as PEFT reads it.

    Raises StoreError where names, ranks and tensors do not fit together.
    """
    config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    tensors = load_file(Path(folder) / TENSORS)
    with ExitStack() as hooks:
        for name, module in plain.named_modules():
            if not any(name == target or name.endswith(f".{target}") for target in config["target_modules"]):
                continue
            rank, alpha = (_by_name(config[p], name, config[d]) for p, d in PATTERNS)
            first, second = (tensors.pop(f"{PREFIX}{name}.lora_{side}.weight", None) for side in "AB")
            if first is None or second is None or not len(first) == second.shape[1] == rank:
                raise StoreError(f"the adapter has no factors of rank {rank} for {name}")
            hooks.callback(module.register_forward_hook(_adding(first, second, alpha / rank)).remove)
        if tensors:
            raise StoreError(f"the adapter has {next(iter(tensors))}, for which its configuration names no module")
        yield


PATTERNS = (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))  # exceptions by name, and what else holds


def _by_name(exceptions: Mapping[str, int], name: str, usual: int) -> int:
    return next((value for end, value in exceptions.items() if re.match(rf"(.*\.)?({end})$", name)), usual)


def _adding(first: Tensor, second: Tensor, scale: float) -> Callable[[Any, Any, Tensor], Tensor]:
    def hook(_: Any, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        read = given[0].to(first.dtype)
        return out + (scale * (read @ first.to(read.device).T) @ second.to(read.device).T).to(out.dtype)

    return hook


def _card(edit: Edit, source: str) -> str:
    front = f"---\nlibrary_name: peft\nbase_model: {json.dumps(source)}\ntags: [lora, factscope]\n---\n\n"
    return f"""{front}{card(edit)}
## Load

This is an adapter, and the base model stays as it is. On any other weights than those of the fingerprint above it is
another edit.

```python
{_base(source)}
from peft import PeftModel

edited = PeftModel.from_pretrained(base, "this folder")
```

Factscope loads both at once, without PEFT: `fs.load_model("this folder")`, or `--model "this folder"`.
"""


def _base(source: str) -> str:
    """The lines that load the unedited model; what transformers cannot load as it is comes by way of Factscope."""
    name = loadable(source)
    if name != source or source.endswith(".gguf"):
        return f"import factscope as fs\nbase = fs.plain_model(fs.load_model({json.dumps(name)}))"
    given = json.dumps(name)
    return f"from transformers import AutoModelForCausalLM\nbase = AutoModelForCausalLM.from_pretrained({given})"
