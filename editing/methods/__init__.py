"""The editing methods, one file each, found by listing this folder and imported only when chosen.

A method's file has a `Config` (a frozen dataclass), `NEEDS_MOMENTS` (whether it wants the second moment of ordinary
keys), `ABOUT` (one line) and `compute(bench, config) -> Made`, which leaves the model bitwise as it was. A file with
`IN_CONTEXT = True` touches no weight: its edits are a text before whatever is asked.
"""

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from editing.edit import Edit, EditError, base_of, in_float32, in_place
from editing.language import OPENINGS
from editing.language import contexts as sampled
from editing.moments import Moments
from editing.requests import check
from editing.values import OnStep, Place, Values, check_layer, find_values, joined
from workbench import store
from workbench.cache import kept
from workbench.errors import StoreError
from workbench.facts import Fact
from workbench.files import write_text_atomically
from workbench.models import info
from workbench.run import Run, stopwatch

CHUNK = 32  # facts whose values are found in one batch: more gains nothing on a CPU and costs memory


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


def in_context(name: str) -> bool:
    """Whether a method's edits are a text and no change of weights."""
    return getattr(method(name), "IN_CONTEXT", False)


def layers_of(config: Any) -> tuple[int, ...]:
    """The layers that a method's configuration writes to; none for an in-context one."""
    if hasattr(config, "layers"):
        return tuple(config.layers)
    return (config.layer,) if hasattr(config, "layer") else ()


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
            parts = (
                value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
            )
            return tuple(int(part) for part in parts)
        if isinstance(value, str) and (isinstance(old, bool) or value.lower() in ("none", "true", "false")):
            return {"none": None, "true": True, "false": False}[value.lower()]
        if isinstance(old, float) or old is None:
            return float(value)
        return type(old)(value)
    except (ValueError, TypeError, KeyError) as trouble:
        raise EditError(f"the setting {full} cannot be {value!r}; it is {old!r} by default") from trouble


@dataclass(frozen=True, eq=False)
class Made:
    """What a method's `compute` gives."""

    deltas: tuple[Any, ...]
    reports: tuple[Any, ...] = ()
    curve: torch.Tensor | None = None
    notes: tuple[str, ...] = ()
    preface: str = ""


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
    folder: Path | None = None  # where finished pieces of long work are kept
    on_piece: Callable[[int], None] | None = None
    ready: Values | None = None  # values that were found before, in a batch with other facts'

    def moment(self, layer: int) -> torch.Tensor | None:
        """C of one layer; None stands for the identity."""
        return None if self.moments is None else self.moments.of(layer)

    def values(self, config: Any) -> Values:
        """What must be written for each fact: at `config.layer`'s MLP, or after the last of `config.layers`.

        Found `CHUNK` facts at a time; finished chunks are kept in `folder` and taken up from there.
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
        for begin in range(0, len(self.facts), CHUNK):
            some = self.facts[begin : begin + CHUNK]
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


def compute(name: str, model: Any, facts: Sequence[Fact], config: Any = None, **how: Any) -> Edit:
    """Edit `facts` (their foil becomes the answer) with a method; the model is left bitwise as it was.

    Keyword arguments:
        moments: second moments of ordinary keys. None means the identity: a different method, and the edit says so.
        seed: of everything that is drawn.
        start: what stands before every prompt, "auto", "none" or a token.
        contexts: the templates; otherwise they are sampled from the model.
        on_step: called as on_step(step, loss [fact], probability [fact]) while values are optimised.
        shown: whether a progress bar is shown; None: on a terminal.
        folder: where finished chunks of values are kept, to go on from after an interruption, and for other methods
            that write at the same place.
        on_piece: called with the number of facts when a chunk is finished.

    Raises EditError for input that cannot work and whatever the method raises; the weights are then as before, too.
    """
    return _compute(name, model, facts, config, lambda module, bench, chosen: [module.compute(bench, chosen)], **how)[0]


def compute_each(name: str, model: Any, facts: Sequence[Fact], config: Any = None, **how: Any) -> list[Edit]:
    """One edit a fact, each for the model as it is, with everything that can be in one batch in one batch.

    The same edits as `compute` fact by fact, up to rounding, several times faster. Arguments as in `compute`.
    """

    def make(module: Any, bench: Bench, chosen: Any) -> list[Made]:
        if hasattr(module, "compute_each"):
            return list(module.compute_each(bench, chosen))
        values = bench.values(chosen)
        single = [replace(bench, facts=(fact,), ready=values.of(i)) for i, fact in enumerate(bench.facts)]
        return [module.compute(one, chosen) for one in single]

    return _compute(name, model, facts, config, make, **how)


def _compute(
    name: str,
    model: Any,
    facts: Sequence[Fact],
    config: Any,
    make: Callable[[Any, Bench, Any], list[Made]],
    *,
    moments: Moments | None = None,
    seed: int = 0,
    start: str = "auto",
    contexts: Sequence[str] | None = None,
    on_step: OnStep | None = None,
    shown: bool | None = None,
    folder: Path | None = None,
    on_piece: Callable[[int], None] | None = None,
) -> list[Edit]:
    module = method(name)
    check(facts)
    if any(edit.preface for edit in in_place(model)) and not in_context(name):
        raise EditError(f"an in-context edit is in place, and {name} cannot build on a text: take it out first")
    config = config or config_for(name, model)
    run = Run.of(model, seed)
    base, below = base_of(model, run.fingerprint), tuple(edit.digest for edit in in_place(model))
    if moments is not None and module.NEEDS_MOMENTS:
        moments.check(model, base)
    with in_float32(model), stopwatch() as seconds:
        used = tuple(contexts) if contexts is not None else _contexts(model, config, seed, start, base)
        # Values know nothing of the solver: methods that write at the same place share them.
        descent = asdict(getattr(config, "descent", config))
        said = [
            hasattr(config, "layer"),
            layers_of(config)[-1:],
            descent,
            used,
            list(map(asdict, facts)),
            base,
            below,
            start,
        ]
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
        pieces = folder / key if folder else None
        bench = Bench(model, tuple(facts), used, moments, start, seed, on_step, shown, pieces, on_piece)
        made = make(module, bench, config)
    edited = [tuple(facts)] if len(made) == 1 else [(fact,) for fact in facts]
    return [
        Edit(
            method=module.__name__.rsplit(".", 1)[-1],
            config=asdict(config),
            facts=some,
            deltas=one.deltas,
            base=base,
            model=info(model).name,
            seed=seed,
            below=below,
            moments=bench.moments_name if module.NEEDS_MOMENTS else "none",
            contexts=used,
            start_token=start,
            reports=one.reports,
            curve=one.curve,
            notes=one.notes,
            preface=one.preface,
            run=run.ended(seconds[0]),
        )
        for some, one in zip(edited, made, strict=True)
    ]


def _contexts(model: Any, config: Any, seed: int, start: str, base: str) -> tuple[str, ...]:
    """The templates: sampled once for a model without edits, then taken from the cache; of an edited one, sampled."""
    count = getattr(config, "contexts", 0)
    if not count:
        return ("{}",)
    if in_place(model):
        return sampled(model, count, config.context_length, seed, start)
    said = json.dumps([base, OPENINGS, count, config.context_length, seed, start])

    def build(folder: Path) -> None:
        write_text_atomically(
            folder / "contexts.json", json.dumps(sampled(model, count, config.context_length, seed, start))
        )

    place = kept(f"contexts/{info(model).name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}", build)
    return tuple(json.loads((place / "contexts.json").read_text(encoding="utf-8")))
