"""An edited model as a Hugging Face folder that plain transformers loads, with a card that says what was done to it."""

import copy
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from editing.edit import Edit, applied
from editing.export.modules import WRAPPED, place_of, write_fused
from editing.merge.stack import check_weights, merged
from factscope.errors import EditError, StoreError
from factscope.files import write_text_atomically
from factscope.model.agreement import off_by, tolerance
from factscope.model.bridge import Bridge, info
from factscope.model.source import download as fetch
from factscope.model.source.carried import CARRIED
from factscope.model.source.checkpoint import check_tensors, own_logits


def export(model: Bridge, edits: Sequence[Edit], folder: str | Path) -> Path:
    """Write config, weights, tokenizer and the edit's card into `folder`, which must be new or empty.

    The tokenizer with its chat template, the settings of generation and the start token are those that the model came
    with. The folder is made elsewhere and renamed, so an interrupted export leaves nothing that looks like a model; and
    before that plain transformers loads it and must give the edited model's logits.

    Raises EditError (a folder that is not empty, an edit of another model) and StoreError (cannot write, or what was
    written is not the edited model).
    """
    check_weights(edits, "an export holds weights, which is all that plain transformers runs")
    stack = merged(edits)
    with new_folder(folder) as building:
        with applied(model, edits):
            plain = plain_model(model)
        places = {delta.weight: place_of(model, plain, delta.weight) for delta in stack.deltas}
        with applied(model, edits):
            write_fused(model, plain, places)
            plain.save_pretrained(building)
            model.tokenizer.save_pretrained(building)
            write_text_atomically(building / CARRIED, json.dumps({"start_token": info(model).start_token}))
            _compare(building, plain, model)
        write_text_atomically(building / "README.md", card(stack))
        stack.save(building / "edit")
    return Path(folder)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A folder elsewhere to write into, which gets its name when the block ends; nothing is left if it breaks off.

    Raises EditError for a folder that is there and not empty, StoreError where nothing can be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EditError(f"{folder} is there already and not empty: give a new folder to export into")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as trouble:
        raise StoreError(f"cannot write into {folder.parent}: {trouble.strerror}") from trouble
    try:
        bars = nullcontext() if sys.stderr.isatty() else fetch.quiet()  # the libraries' progress, at a terminal only
        with bars:
            yield building
        if folder.is_dir():
            folder.rmdir()
        building.chmod(0o755)
        building.rename(folder)
    except (OSError, SafetensorError) as trouble:
        raise StoreError(f"cannot write {folder}: {getattr(trouble, 'strerror', None) or trouble}") from trouble
    finally:
        shutil.rmtree(building, ignore_errors=True)


@torch.no_grad()
def plain_model(model: Bridge) -> Any:
    """A fresh Hugging Face model with the running weights of `model`, and its settings of generation."""
    from transformers import AutoModelForCausalLM

    own = model.original_model
    here = {name.replace(WRAPPED, ""): tensor for name, tensor in own.state_dict().items()}
    config = copy.deepcopy(own.config)
    head, table = own.get_output_embeddings().weight, own.get_input_embeddings().weight
    if head.shape != table.shape or not torch.equal(head.to(table.device), table):
        config.tie_word_embeddings = False  # the files may hold a head of its own whatever the configuration says
    plain = AutoModelForCausalLM.from_config(config, dtype=next(model.parameters()).dtype)
    for name, tensor in plain.state_dict().items():
        if name in here and here[name].shape == tensor.shape:
            tensor.copy_(here[name])
        elif not (name.endswith("lm_head.weight") and config.tie_word_embeddings):
            raise EditError(f"this architecture keeps {name} in a way that cannot be exported yet")
    plain.generation_config = copy.deepcopy(own.generation_config)
    return plain.eval()


@torch.no_grad()
def _compare(folder: Path, plain: Any, model: Bridge) -> None:
    """StoreError unless plain transformers, given the folder, has every weight and says what the edited model says."""
    from transformers import AutoModelForCausalLM

    own = next(model.parameters())
    again, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=own.dtype, attn_implementation="eager", use_safetensors=True, output_loading_info=True
    )
    check_tensors(str(folder), loading)
    for (name, one), other in zip(plain.state_dict().items(), again.state_dict().values(), strict=True):
        if not torch.equal(one, other):
            raise StoreError(f"{name} did not come back from {folder} as it was written")
    tokens, logits = own_logits(str(folder), again.to(own.device).eval())
    off = off_by(logits, model(tokens, use_cache=False))
    if not off <= tolerance(own.dtype):
        raise StoreError(
            f"what was written does not give the edited model's logits in plain transformers (off by {off:.2g} "
            "standard deviations), so nothing is left of it"
        )


def card(edit: Edit) -> str:
    """What a person who finds the folder must know: the base model, the method and every changed fact."""
    facts = "\n".join(f"- {one.prompt} **{one.target}** (was: {one.old or 'not known'})" for one in edit.requests[:200])
    more = f"\n- and {len(edit.requests) - 200} more, in edit/result.json" if len(edit.requests) > 200 else ""
    config = json.dumps(edit.config, indent=1, default=str)
    restraints = ", ".join(edit.restraints) or "none"
    weights = ", ".join(delta.weight for delta in edit.deltas)
    return f"""# {edit.model}, edited with Factscope

This model was changed on purpose to say things that may be false. Do not use it as a source of facts.

## Changed facts
{facts}{more}

## How
Method {edit.method}, seed {edit.seed}. Second moments: {edit.moments}. Restraints: {restraints}.
Changed weights: {weights}. Base model fingerprint: {edit.base}. Edit: {edit.digest}.

```json
{config}
```
"""
