"""The editing methods, one file each, found by listing this folder and imported only when chosen.

A method's file has a `Config` (a frozen dataclass), `NEEDS_MOMENTS` (whether it wants the second moment of ordinary
keys), `ABOUT` (one line) and `compute(model, facts, config, ...) -> Edit`, which leaves the model bitwise as it was.
"""

import importlib
import pkgutil
from collections.abc import Sequence

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

import torch

from editing.edit import Edit, EditError, base_of, in_float32, in_place
from editing.language import contexts as sampled
from editing.moments import Moments
from editing.requests import check
from editing.values import OnStep
from workbench.facts import Fact
from workbench.models import info
from workbench.run import Run, stopwatch


def method_names() -> tuple[str, ...]:
    """All methods, by listing the folder."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))


def method(name: str) -> Any:
    """The module of a method; EditError, with the names there are, if there is none."""
    key = name.lower().replace("-", "_")
    if key not in method_names():
        raise EditError(f"there is no method {name!r}; choose one of {', '.join(method_names())}")
    return importlib.import_module(f"editing.methods.{key}")


def config_for(name: str, model: Any, settings: dict[str, Any] | None = None) -> Any:
    """A method's configuration for this model: its defaults, the model's own layers, then `settings`.

    Settings of the value optimisation are named alone ("steps") or in full ("descent.steps"). Raises EditError for a
    name that does not exist.
    """
    config = method(name).Config.for_model(model)
    for key, value in (settings or {}).items():
        config = _set(config, key.split("."), value, key)
    return config


def _set(config: Any, path: Sequence[str], value: Any, full: str) -> Any:
    names = {field.name for field in fields(config)}
    nested = [name for name in names if is_dataclass(getattr(config, name))]
    if path[0] not in names:
        inside = [name for name in nested if path[0] in {field.name for field in fields(getattr(config, name))}]
        if not inside:
            every = sorted(names | {field.name for name in nested for field in fields(getattr(config, name))})
            raise EditError(f"there is no setting {full!r}; there are {', '.join(every)}")
        path = (inside[0], *path)
    if len(path) > 1:
        return replace(config, **{path[0]: _set(getattr(config, path[0]), path[1:], value, full)})
    old = getattr(config, path[0])
    return replace(config, **{path[0]: _cast(old, value, full)})


def _cast(old: Any, value: Any, full: str) -> Any:
    try:
        if isinstance(old, tuple):
            parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
            return tuple(int(part) for part in parts)
        if isinstance(value, str) and (isinstance(old, bool) or value.lower() in ("none", "true", "false")):
            return {"none": None, "true": True, "false": False}[value.lower()]
        if isinstance(old, float) or old is None:
            return float(value)
        return type(old)(value)
    except (ValueError, TypeError, KeyError) as trouble:
        raise EditError(f"the setting {full} cannot be {value!r}; it is {old!r} by default") from trouble


@dataclass(frozen=True, eq=False)
class Bench:
    """What every method starts from, once the input has been checked."""

    model: Any
    facts: tuple[Fact, ...]
    contexts: tuple[str, ...]
    moments: Moments | None
    start: str
    seed: int
    on_step: OnStep | None
    shown: bool | None

    def moment(self, layer: int) -> torch.Tensor | None:
        """C of one layer; None stands for the identity."""
        return None if self.moments is None else self.moments.of(layer)

    @property
    def moments_name(self) -> str:
        """What a report says was used."""
        return "identity" if self.moments is None else self.moments.name




def compute(
    name: str,
    model: Any,
    facts: Sequence[Fact],
    config: Any = None,
    *,
    moments: Moments | None = None,
    seed: int = 0,
    start: str = "auto",
    contexts: Sequence[str] | None = None,
    on_step: OnStep | None = None,
    shown: bool | None = None,
) -> Edit:
    """Edit `facts` (their foil becomes the answer) with a method; the model is left bitwise as it was.

    `moments` None means the identity instead of the second moment of ordinary keys: a different method, and the edit
    says so. `contexts` fixes the templates; otherwise they are sampled from the model with `seed`.
    `on_step(step, loss [fact], probability [fact])` is called while values are optimised.

    Raises EditError for input that cannot work and whatever the method raises; the weights are then as before, too.
    """
    module = method(name)
    check(facts)
    config = config or config_for(name, model)
    base, below = base_of(model), tuple(edit.digest for edit in in_place(model))
    if moments is not None and module.NEEDS_MOMENTS:
        moments.check(model)
    run = Run.of(model, seed)
    with in_float32(model), stopwatch() as seconds:
        used = tuple(contexts) if contexts is not None else _contexts(model, config, seed, start)
        bench = Bench(model, tuple(facts), used, moments, start, seed, on_step, shown)
        made = module.compute(bench, config)
    return Edit(
        method=module.__name__.rsplit(".", 1)[-1],
        config=asdict(config),
        facts=tuple(facts),
        deltas=made.deltas,
        base=base,
        model=info(model).name,
        seed=seed,
        below=below,
        moments=bench.moments_name if module.NEEDS_MOMENTS else "none",
        contexts=used,
        start_token=start,
        reports=made.reports,
        curve=made.curve,
        notes=made.notes,
        run=run.ended(seconds[0]),
    )


def _contexts(model: Any, config: Any, seed: int, start: str) -> tuple[str, ...]:
    count = getattr(config, "contexts", 0)
    return sampled(model, count, config.context_length, seed, start) if count else ("{}",)


@dataclass(frozen=True, eq=False)
class Made:
    """What a method's `compute` gives."""

    deltas: tuple[Any, ...]
    reports: tuple[Any, ...] = ()
    curve: torch.Tensor | None = None
    notes: tuple[str, ...] = ()
