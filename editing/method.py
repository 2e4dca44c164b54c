"""An editing method as a value: what it is called, what it needs, where it writes, and the function that runs it.

A method's file holds a `Config`, the function, and one `METHOD = MethodSpec(...)`. Methods are found by listing the
rooms of `editing/methods` and the entry-point group `factscope.methods`, and imported when chosen: `method("rome")`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

import torch

from editing import methods
from editing.bypass import Bypass
from editing.delta import Delta
from editing.edit import Report
from editing.requests import RequestPrompts
from editing.scope import Scope
from editing.solve.anchor import anchored, written
from editing.solve.closed_form import KeyMetric, Solution, usual_output
from editing.solve.moments import Moments
from editing.solve.values import OnStep, Place, Values, check_layer, find_values, joined
from editing.trained.editor import Trained
from editing.trained.examples import TrainingInputs
from editing.trained.learning import Learner
from factscope.catalogue import Catalogue
from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.model.bridge import Bridge
from factscope.model.weights import MLP_OUT, PROJECTIONS, WeightName, down_projection
from factscope.runs import store
from factscope.settings import Settings, configured

T = TypeVar("T")
_FROM_MOMENTS: WeakKeyDictionary[Moments, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()
# Requests whose values are found in one batch. It stays what it is however much memory is free, for finished batches
# are named by it; a batch runs in as many parts as find room (editing/solve/values.py).
CHUNK = 32


@runtime_checkable
class MethodConfig(Protocol):
    """A method's configuration: a frozen dataclass.

    `layer` or `layers` says where the method writes; `contexts` and `context_length` how many templates are sampled and
    how long; `descent` how values are found. A method that has no use for a field leaves it out.
    """

    if TYPE_CHECKING:  # a dataclass; at run time a Protocol with fields cannot be asked about classes
        __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def for_model(cls, model: Bridge, /) -> "MethodConfig":
        """The defaults, with the layers that suit this model."""


def check_settings(config: Any, *positive: str, **least: float) -> None:
    """EditError for a setting that is not above 0, of those that are `positive`, or is below the `least` it may be."""
    for name in positive:
        if not getattr(config, name) > 0:
            raise EditError(f"{name} is {getattr(config, name):g}, and must be above 0")
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise EditError(f"{name} is {getattr(config, name):g}, and must be at least {bound:g}")


Kind = Literal["in the weights", "beside the weights", "in context"]


@dataclass(frozen=True)
class MethodSpec:
    """One editing method."""

    name: str  # as its file
    about: str  # what it does, in a clause
    Config: type[MethodConfig]
    compute: Callable[["MethodInputs", Any], "MethodOutput"]  # leaves the model bitwise as it was
    # One edit per request, in one batch.
    compute_each: Callable[["MethodInputs", Any], list["MethodOutput"]] | None = None
    # What it writes: an MLP's output, the hidden state after a block, or an MLP's output that was learned beside the
    # attention's ("parts"); beside a projection, with no weight changed; or a text before all.
    place: Place | Literal["beside", "prompt"] = "hidden"
    reads_prompts: bool = False  # of a method beside a projection: whether its gate looks at whole prompts
    needs_moments: bool = False  # whether it wants the second moment of ordinary keys
    train: Callable[[TrainingInputs, Any], Learner] | None = None  # its editor before the first step
    # Of a configuration: what its paper leaves open, what is chosen, and the setting that says otherwise.
    choices: Callable[[Any], tuple[tuple[str, str, str], ...]] | None = None
    # Raises EditError for facts that it cannot edit; asked of all before any is edited.
    check_requests: Callable[[Sequence[EditRequest], Any], None] = lambda _, __: None
    # Proves many layers together, where one by one takes too long.
    check_layers: Callable[[Bridge, tuple[int, ...]], None] | None = None
    good_for: str = ""  # a clause each, as pages and `edit methods` say it; "" where its author does not
    not_for: str = ""
    needs: str = ""  # before it can start, beside second moments and a trained editor

    @property
    def kind(self) -> Kind:
        """Where its edits are."""
        return "in context" if self.in_context else "beside the weights" if self.beside else "in the weights"

    @property
    def all_needs(self) -> str:
        """All that it needs before it can start; "nothing" where that is so."""
        wanted = ("second moments",) * self.needs_moments
        trained = (f"edit train {self.name}, once for a model",) * (self.train is not None)
        return "; ".join((*wanted, *trained, *((self.needs,) if self.needs else ()))) or "nothing"

    @property
    def in_context(self) -> bool:
        """Whether its edits are a text and no change of weights."""
        return self.place == "prompt"

    @property
    def beside(self) -> bool:
        """Whether its edits are bypasses and no change of weights."""
        return self.place == "beside"

    @property
    def value_place(self) -> Place:
        """What the values of its descent are added to."""
        return "hidden" if self.place == "prompt" or self.place == "beside" else self.place

    @property
    def by_values(self) -> bool:
        """Whether its edits write values that a descent found by a closed form: nothing else reads the weights."""
        return self.place in ("mlp", "hidden", "parts") and any(one.name == "descent" for one in fields(self.Config))

    @property
    def layer_setting(self) -> str:
        """The setting that says where it writes: "layer", "layers", or "" for an in-context method."""
        own = {field.name for field in fields(self.Config)}
        return next((name for name in ("layers", "layer") if name in own), "")

    def layers(self, config: MethodConfig) -> tuple[int, ...]:
        """The layers that a configuration writes to; none for an in-context method."""
        if not self.layer_setting:
            return ()
        own: int | tuple[int, ...] = getattr(config, self.layer_setting)
        return (own,) if isinstance(own, int) else own

    def weights(self, config: MethodConfig) -> tuple[WeightName, ...]:
        """The matrices beside or in which it writes, layer by layer: the down-projections, or those of its settings."""
        chosen: tuple[str, ...] = getattr(config, "matrices", ())
        own = [part for part in PROJECTIONS if part.partition(".")[2] in chosen] or [MLP_OUT]
        return tuple(WeightName(layer, part) for layer in self.layers(config) for part in own)

    def at_layers(self, config: MethodConfig, layers: tuple[int, ...]) -> MethodConfig:
        """The configuration with those layers; EditError where the method cannot write to them all."""
        if not self.layer_setting or (self.layer_setting == "layer" and len(layers) != 1):
            count = "one layer" if self.layer_setting else "no layer"
            raise EditError(f"{self.name} writes to {count}, not to {', '.join(map(str, layers))}")
        return replace(config, **{self.layer_setting: layers if self.layer_setting == "layers" else layers[0]})

    def contexts(self, config: MethodConfig) -> int:
        """How many templates are sampled for it, beside the bare prompt."""
        return int(getattr(config, "contexts", 0))

    def moments_name(self, moments: Moments | None) -> str:
        """What its edits say of their second moments: which, "identity" in their place, or "none" that it wants."""
        return "none" if not self.needs_moments else "identity" if moments is None else moments.name

    def config_for(self, model: Bridge, settings: Settings = (), editor: Trained | None = None) -> MethodConfig:
        """The configuration for this model: the defaults or the editor's, the model's own layers, then `settings`.

        Settings of the value optimisation are named alone ("steps") or in full ("descent.steps"). Raises SettingError
        for a name that does not exist or a value of the wrong type, and EditError for a layer that the model lacks.
        """
        begin = self.Config.for_model(model) if editor is None else configured(self.Config, editor.config)
        config = configured(begin, settings)
        self.check(model, config)
        return config

    def check(self, model: Bridge, config: MethodConfig) -> None:
        """Raise EditError unless the model has every layer that the configuration writes to."""
        if self.check_layers is not None:
            self.check_layers(model, self.layers(config))
            return
        for layer in self.layers(config):
            check_layer(model, layer)


METHODS = Catalogue("method", methods, "METHOD", MethodSpec, EditError)


def method_names() -> tuple[str, ...]:
    """All methods: those of the folder, and those of other installed packages."""
    return METHODS.names()


def method(name: str | MethodSpec) -> MethodSpec:
    """The method of that name; EditError, with the names that there are, for any other. A method is given back."""
    return name if isinstance(name, MethodSpec) else METHODS.get(name)


@dataclass(frozen=True, eq=False)
class MethodOutput:
    """What a method's `compute` gives."""

    deltas: tuple[Delta, ...]
    reports: tuple[Report, ...] = ()
    curve: torch.Tensor | None = None
    notes: tuple[str, ...] = ()
    preface: str = ""
    memory: dict[str, torch.Tensor] = field(default_factory=dict)  # what later edits read of this one, rows by name
    bypasses: tuple[Bypass, ...] = ()
    scope: Scope | None = None  # of a text: the questions before which it stands; None: all


@dataclass(frozen=True, eq=False)
class MethodInputs:
    """What every method starts from, once the input has been checked."""

    method: MethodSpec
    model: Bridge
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
    length: float | None = None  # that values are brought to, where the descent has anchors
    editor: Trained | None = None  # of a method that is trained
    usual: dict[int, float] = field(default_factory=dict)  # usual output by layer; `replace` hands the same on

    @property
    def prompts(self) -> RequestPrompts:
        """The requests in the contexts that they are read in."""
        return RequestPrompts(self.requests, self.contexts, self.start)

    def moment(self, layer: int) -> torch.Tensor | None:
        """C of one layer; None stands for the identity."""
        return None if self.moments is None else self.moments.of(layer)

    def once(self, name: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What follows from the second moments alone: computed once for all edits with these moments."""
        if self.moments is None:
            return make()
        known = _FROM_MOMENTS.setdefault(self.moments, {})
        if name not in known:
            known[name] = make()
        found: T = known[name]
        return found

    def metric(self, layer: int) -> KeyMetric:
        """C of one layer, factored."""
        return self.once(("metric", layer), lambda: KeyMetric(self.moment(layer)))

    def report(self, solution: Solution, layer: int, before: torch.Tensor) -> Report:
        """What a solution does at a layer; `before` is its weight as it is now, the same for edits side by side."""
        if layer not in self.usual:
            self.usual[layer] = usual_output(before, self.moment(layer))
        return solution.report(down_projection(layer), before, self.moment(layer), self.usual[layer])

    def values(self, config: Any) -> Values:
        """What must be written for each request: at the place where the method writes, in the last of its layers.

        Found `CHUNK` requests at a time; finished chunks are kept in `folder` and taken up from there.
        """
        if self.ready is not None:
            return self.ready
        found = self._found(config)
        if self.length is None:
            return found
        top = self.method.layers(config)[-1]
        return anchored(found, written(self.model, self.prompts, top, self.method.value_place), self.length)

    def _found(self, config: Any) -> Values:
        layers = self.method.layers(config)
        for layer in layers:
            self.moment(layer)  # an absent one is found out before an hour is spent
        place = self.method.value_place
        parts: list[Values] = []
        for begin in range(0, len(self.requests), CHUNK):
            some = self.requests[begin : begin + CHUNK]
            found = self._from_folder(begin)
            if found is None:
                found = find_values(
                    self.model, replace(self.prompts, requests=some), layers[-1], config.descent,
                    place=place, on_step=self.on_step, check=begin == 0,
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
