"""The editing methods, one file each, found by listing this folder and imported only when chosen.

A method's file has a `Config` (a frozen dataclass), `NEEDS_MOMENTS` (whether it wants the second moment of ordinary
keys), `ABOUT` (one line) and `compute(bench, config) -> MethodOutput`, which leaves the model bitwise as it was. A file
with `IN_CONTEXT = True` touches no weight: its edits are a text before whatever is asked.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editing import methods
from editing.solve.moments import Moments
from editing.solve.values import OnStep, Place, Values, check_layer, find_values, joined
from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.runs import store
from factscope.settings import Settings, configured

CHUNK = 32  # requests whose values are found in one batch: more gains nothing on a CPU and costs memory


def method_names() -> tuple[str, ...]:
    """All methods, by listing the folder."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(methods.__path__)))


def method(name: str) -> Any:
    """The module of a method; EditError, with the names there are, if there is none."""
    key = name.lower().replace("-", "_")
    if key not in method_names():
        raise EditError(f"there is no method {name!r}; choose one of {', '.join(method_names())}")
    return importlib.import_module(f"editing.methods.{key}")


def config_for(name: str, model: Any, settings: Settings = ()) -> Any:
    """A method's configuration for this model: its defaults, the model's own layers, then `settings`.

    Settings of the value optimisation are named alone ("steps") or in full ("descent.steps"). Raises SettingError for a
    name that does not exist, and a value of the wrong type.
    """
    return configured(method(name).Config.for_model(model), settings)


def in_context(name: str) -> bool:
    """Whether a method's edits are a text and no change of weights."""
    return getattr(method(name), "IN_CONTEXT", False)


def layers_of(config: Any) -> tuple[int, ...]:
    """The layers that a method's configuration writes to; none for an in-context one."""
    if hasattr(config, "layers"):
        return tuple(config.layers)
    return (config.layer,) if hasattr(config, "layer") else ()


@dataclass(frozen=True, eq=False)
class MethodOutput:
    """What a method's `compute` gives."""

    deltas: tuple[Any, ...]
    reports: tuple[Any, ...] = ()
    curve: torch.Tensor | None = None
    notes: tuple[str, ...] = ()
    preface: str = ""


@dataclass(frozen=True, eq=False)
class MethodInputs:
    """What every method starts from, once the input has been checked."""

    model: Any
    requests: tuple[EditRequest, ...]
    contexts: tuple[str, ...]
    moments: Moments | None
    start: str
    seed: int
    on_step: OnStep | None
    shown: bool | None
    folder: Path | None = None  # where finished pieces of long work are kept
    on_piece: Callable[[int], None] | None = None
    ready: Values | None = None  # values that were found before, in a batch with other facts'

    def moment(self, layer: int) -> torch.Tensor | None:
        """C of one layer; None stands for the identity."""
        return None if self.moments is None else self.moments.of(layer)

    def values(self, config: Any) -> Values:
        """What must be written for each request: at `config.layer`'s MLP, or after the last of `config.layers`.

        Found `CHUNK` requests at a time; finished chunks are kept in `folder` and taken up from there.
        """
        if self.ready is not None:
            return self.ready
        single = hasattr(config, "layer")
        layers = (config.layer,) if single else config.layers
        for layer in layers:
            check_layer(self.model, layer)
            self.moment(layer)  # an absent one is found out before an hour is spent
        place: Place = "mlp" if single else "hidden"
        parts: list[Values] = []
        for begin in range(0, len(self.requests), CHUNK):
            some = self.requests[begin : begin + CHUNK]
            found = self._from_folder(begin)
            if found is None:
                found = find_values(
                    self.model, some, layers[-1], self.contexts, config.descent,
                    place=place, start=self.start, on_step=self.on_step, check=begin == 0,
                )  # fmt: skip
                if self.folder is not None:
                    store.save(found, self.folder / f"values-{begin:05d}")
            parts.append(found)
            if self.on_piece is not None:
                self.on_piece(len(some))
        return joined(parts)

    def _from_folder(self, begin: int) -> Values | None:
        try:
            return store.load(self.folder / f"values-{begin:05d}", Values) if self.folder is not None else None
        except StoreError:
            return None

    @property
    def moments_name(self) -> str:
        """What a report says was used."""
        return "identity" if self.moments is None else self.moments.name
