"""Proofs hold from one command to the next: what was proven of a model is kept, a small file for each proof.

A proof (factscope/model/agreement.py) is of weights, of how the model is set up, and of the programs that run it. All
of that names its file, with the sources of this folder, so that whatever changes is proven anew; so is every model that
was in memory, and one beside whose modules anything stands. Refusals are not kept: they are told, and proven, each
time.
"""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from factscope.cache import cache_folder, content, digest
from factscope.files import write_text_atomically
from factscope.model.bridge import Bridge, device_name
from factscope.model.hooks import standing
from factscope.model.weights import fingerprint
from factscope.versions import versions

FOLDER = "proofs"  # in the cache
WORTH = 0.2  # seconds of a proof, from which on a file is worth it
_LOADED: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # models that came from files, and their own hooks


def came_from_files(model: Bridge) -> None:
    """From now on what is proven of this model is kept; it must be as it was loaded."""
    _LOADED[model] = _hooks(model)


@contextmanager
def keeping(model: Bridge, verb: str) -> Iterator[bool]:
    """Whether the proof of `verb` is known; where it is not and the block comes to its end, it is kept."""
    if standing(model) or _LOADED.get(model) != _hooks(model):
        yield False
        return
    said = _said(model, verb)
    place = cache_folder() / FOLDER / f"{digest(said)[:32]}.json"
    if place.is_file():
        yield True
        return
    begin = time.perf_counter()
    yield False
    if time.perf_counter() - begin >= WORTH:
        with suppress(OSError):  # a cache that cannot be written to costs a proof each time, and nothing else
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(place, json.dumps(said, indent=1))


def _hooks(model: Bridge) -> int:
    """How many functions are called beside the modules; the library has some of its own."""
    every = {*model.modules(), *model.original_model.modules()}
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in every)


def _said(model: Bridge, verb: str) -> dict[str, Any]:
    """Whatever a proof depends on."""
    return {
        "proven": verb,
        "weights": fingerprint(model),
        "configuration": digest(json.loads(model.original_model.config.to_json_string(use_diff=False))),
        "modules": digest(sorted({_running(module) for module in model.original_model.modules()})),
        "device": device_name(model),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "programs": versions(),
        "sources": _sources(),
    }


def _running(module: torch.nn.Module) -> str:
    """What runs when a module is called: its class, and the code of its `forward`, which anyone may have replaced."""
    forward = getattr(module.forward, "__func__", module.forward)
    code = getattr(forward, "__code__", None)
    return f"{type(module).__qualname__} {'' if code is None else digest(code.co_code.hex())}"


@cache
def _sources() -> str:
    """The code that proves, and what it proves with."""
    return content(sorted(Path(__file__).parent.rglob("*.py")))
