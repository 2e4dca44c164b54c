"""Models for the tests, and the check that every test gives them back as it found them.

`tiny("gpt2")` and its kin are random models of each shape that matters, made in a second; `family("bloom")` is the
random model of any causal family (helpers/architectures.py); `toy` knows an invented world (tests/toy); `smollm2` is
the real default model. `run_command` runs a command in this process as a user would.
"""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.typechecked import check_shapes

check_shapes()  # before anything of ours is imported
# ruff: noqa: E402

from factscope.errors import ModelError
from factscope.model.load import load
from factscope.model.weights import fingerprint
from helpers.architectures import save_family
from helpers.commands import invoke
from helpers.models import TOY, hooks_left, save_tiny

SLOW = ("default_model", "browser", "notebook", "ray")
FLAGS = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_in")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for commands that tests start; tiny models are slower on more threads
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


_LOADED: dict[str, tuple[Any, str, list[str]]] = {}  # name -> model, its fingerprint, the library's own hooks
_REFUSED: dict[str, ModelError] = {}  # families that load refuses
_LENT: set[str] = set()  # the models that the test at hand has asked for


def _kept(name: str, make: Callable[[], Any]) -> Any:
    _LENT.add(name)
    if name in _REFUSED:
        raise _REFUSED[name]
    if name not in _LOADED:
        try:
            model = make()
        except ModelError as refusal:
            _REFUSED[name] = refusal.with_traceback(None)
            raise
        _LOADED[name] = (model, fingerprint(model), hooks_left(model))
    return _LOADED[name][0]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """tiny(name) gives the random model "gpt2", "llama" (grouped queries, RMS norm, gated), "neox" or "gemma3"."""
    root = tmp_path_factory.mktemp("tiny")
    return lambda name: _kept(name, lambda: load(str(save_tiny(name, root / name)), device="cpu"))


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """family(name) gives the random model of one row of helpers/architectures.py, or the ModelError of loading it."""
    root = tmp_path_factory.mktemp("families")

    return lambda name: _kept(f"family {name}", lambda: load(str(save_family(name, root / name)), device="cpu"))


@pytest.fixture(scope="session")
def toy() -> Any:
    """The trained toy; its facts are tests/toy/toy_*.json."""
    return _kept("toy", lambda: load(str(TOY), device="cpu"))


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The default model, on the CPU."""
    return _kept("smollm2", lambda: load("smollm2", device="cpu"))


@pytest.fixture(autouse=True)
def given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: no hook, no flag, the same weights, no gradient left on the models that it borrowed."""
    _LENT.clear()
    yield
    names = set(request.fixturenames) | _LENT
    for name, (model, before, hooks) in _LOADED.items():
        if name in names or ("tiny" in names and name not in ("toy", "smollm2") and not name.startswith("family ")):
            assert hooks_left(model) == hooks, f"hooks left on {name}"
            assert not [flag for flag in FLAGS if getattr(model.cfg, flag)], f"flags left on {name}"
            assert fingerprint(model) == before, f"{name} has other weights than before"
            assert all(parameter.grad is None for parameter in model.parameters()), f"gradients left on {name}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few long tests first, then those of many short ones, so that the processes end together."""
    count = Counter(item.path for item in items)
    slow = {item.path for item in items if "repo" in item.path.parts or any(map(item.get_closest_marker, SLOW))}
    items.sort(key=lambda item: (item.path not in slow, -count[item.path], str(item.path)))  # stable within a file


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through it again and again."""
    gc.freeze()


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """run_command("trace", "--help") in a folder of its own: exit_code, stdout and stderr as a user would see them."""
    monkeypatch.chdir(tmp_path)

    return invoke
