"""Options as values: each command's options are one frozen dataclass, put together from the groups of this file.

A field says in its annotation how it looks at a terminal; `command.py` beside this file makes flags of the fields,
and reads the same fields from a config file. `settled` is what of them decides the result: a run folder keeps it as
config.yaml, and its hash names the folder of work that can be taken up again.
"""

import copy
import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from editing import methods as method_files
from editing import restraints
from factscope.cache import content, digest
from factscope.catalogue import places
from factscope.errors import UserError
from factscope.settings import owned, read

if TYPE_CHECKING:
    from editing.method import MethodSpec
    from editing.restraint import RestraintSpec
    from editing.trained.editor import Trained
    from factscope.runs.shards import Shard
    from factscope.runs.workers import Workers

MODEL, FACTS, OUTPUT, DETAILS = "Model", "Facts", "Output", "Details"  # panels of a help page, after the common ones
PANELS = (None, FACTS, MODEL, OUTPUT, DETAILS)
ASIDE = frozenset({"out", "light", "as_json", "device", "runs", "workers", "ray", "shard"})  # no result changes by them
LISTS = frozenset(
    {"sites", "methods", "layer", "by", "tasks", "others", "relations"}
)  # texts that name several things, with commas
LEAST = {"limit": 1, "held_out": 1, "random": 1, "train": 1, "validation": 1,
         "batch": 1, "samples": 1, "workers": 1, "window": 1, "edges": 1, "every": 1, "tokens": 1,
         "seed": 0, "threshold": 0, "certify": 0, "nulls": 0, "value_nulls": 0, "again": 0,
         "neighbours": 0}  # fmt: skip
CONFIG = "config.yaml"  # in a run folder: the options that made it

CIRCUIT_METHODS = ("acdc", "atp_star", "eap", "eap_ig", "exact", "relp")
ABLATIONS = ("zero", "mean", "mean_overall", "optimal", "counterfactual")
METRICS = ("probability", "log_probability", "logit_difference", "kl")
DIRECTIONS = ("noising", "denoising")
CIRCUIT_METRICS = ("nll", "logit_difference", "kl", "probability")
EXTRA = ("refuse", "keep")
FIGURE_FORMATS = ("svg", "pdf", "png")
DTYPES = ("float32", "bfloat16", "float16", "float64")
OWN_TASKS = ("repeat", "past_tense", "antonyms", "capitals")  # as editing/evaluation/tasks.py has them; a test compares
RESTRAINTS = tuple(places(restraints, "factscope.restraints", "RESTRAINT"))
PROTOCOLS = ("counterfact", "easyedit", "memit", "zsre-memit", "batch-30", "sequential", "sequential-batch", "strict",
             "wild", "generation")  # fmt: skip


@dataclass(frozen=True)
class Was:
    """A flag that has another name today; the old spelling still works, and says so."""

    flag: str


@dataclass(frozen=True)
class OneOf:
    """Values that a flag takes, however they are spelt: hyphen or underscore, upper or lower case."""

    kind: str
    values: tuple[str, ...] | Callable[[], tuple[str, ...]]  # a function: other packages may add to them

    @property
    def names(self) -> tuple[str, ...]:
        """The values as the code spells them."""
        return self.values() if callable(self.values) else self.values

    def __call__(self, text: str) -> str:
        """The value as the code spells it; UserError where there is no such value."""
        same = {_plain(value): value for value in self.names}
        if _plain(text) not in same:
            near = difflib.get_close_matches(_plain(text), same, 1)
            hint = f"did you mean {same[near[0]]}? There are " if near else "choose one of "
            raise UserError(f"there is no {self.kind} {text!r}; {hint}{', '.join(self.names)}")
        return same[_plain(text)]


BESIDE = 20  # characters of values that stand beside a flag; more would break names in two


def _plain(text: str) -> str:
    return text.strip().lower().replace("_", "-")


def option(words: str, *flags: str, panel: str | None = None, of: OneOf | None = None, **more: Any) -> Any:
    """How a field looks as a flag; `of` names its values, which stand after the words where they are many."""
    if of is not None:
        shown = "|".join(of.names)
        if len(shown) > BESIDE:
            words, shown = f"{words.rstrip('.')}: {', '.join(of.names)}.", of.kind.upper().replace(" ", "_")
        more = {"parser": of, "metavar": shown, "autocompletion": starting(lambda: of.names)} | more
    return typer.Option(*flags, help=words, rich_help_panel=panel, **more)


def argument(words: str, **more: Any) -> Any:
    """How a field looks as an argument."""
    return typer.Argument(help=words, **more)


def starting(values: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """Shell completion: those of `values` that begin with what is written."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete


def methods() -> tuple[str, ...]:
    """The editing methods: ours by listing, those of other packages by their entry points; none is imported."""
    return tuple(places(method_files, "factscope.methods", "METHOD"))


def models() -> list[str]:
    """The registry's names; a path or a Hugging Face name is taken as well."""
    from factscope.model.source.registry import REGISTRY

    return sorted(REGISTRY)


def shipped() -> list[str]:
    """The shipped relations; a path or a data set is taken as well."""
    import factscope.data

    return sorted(file.stem for file in Path(factscope.data.__path__[0], "relations").glob("*.json"))


SHIPPED = {"autocompletion": starting(shipped)}

# ---- groups ----

Layer = Annotated[str | None, option("Layer, or layers 4,5,6  [dim](default: the model's)[/dim]")]
Device = Annotated[str | None, option("cpu, cuda, cuda:1 ...  [dim](default: a GPU if any)[/dim]", panel=MODEL)]
Extra = Annotated[
    str,
    option(
        "Columns of your own in a file of facts: refuse them, or keep them unused.", panel=FACTS, of=OneOf("way", EXTRA)
    ),
]
Runs = Annotated[Path, option("The folder that holds the saved edits and their stack.", panel=OUTPUT)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command's options are; UserError for an empty text, a number out of range, or a name that is twice."""

    def __post_init__(self) -> None:
        for field in fields(type(self)):
            value, flag = getattr(self, field.name), field.flag
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not text.strip():
                    raise UserError(f"{flag} is empty; {field.remedy}")
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{flag} must be a number, not {value}")
            least = LEAST.get(field.name)
            if least is not None and isinstance(value, int | float) and value < least:
                raise UserError(f"{flag} must be at least {least}, not {value}")
            if field.name in LISTS and isinstance(value, str):
                names = [_plain(part) for part in value.split(",") if part.strip()]
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise UserError(f"{flag} names {twice} twice; name it once")


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """One prompt, its subject and its answer."""

    prompt: Annotated[
        str | None,
        argument("A sentence that stops before the answer; \\[brackets] mark the subject.", metavar="PROMPT"),
    ] = None
    subject: Annotated[str | None, option("The subject, as it stands in the prompt.")] = None
    answer: Annotated[str | None, option("The answer  [dim](default: the fact's or the model's own)[/dim]")] = None


@dataclass(frozen=True, kw_only=True)
class FactsOptions(Options):
    """Many facts, and which of them."""

    facts: Annotated[
        str | None,
        option("Many facts: shipped relation, file, folder or Hugging Face data set.", panel=FACTS, **SHIPPED),
    ] = None
    relation: Annotated[str | None, option("Of --facts, only this relation.", panel=FACTS, **SHIPPED)] = None
    limit: Annotated[int | None, option("Of --facts, at most so many.", panel=FACTS)] = None
    extra: Extra = "refuse"


@dataclass(frozen=True, kw_only=True)
class KnownFactsOptions(FactsOptions):
    """Many facts, of which those can be chosen that the model knows."""

    known: Annotated[
        bool, option("Of --facts, only those whose answer the model puts first.", "--known", panel=FACTS)
    ] = False


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which model, where, and what begins its texts."""

    model: Annotated[
        str,
        option("Registry name, Hugging Face name, folder or .gguf file.", panel=MODEL, autocompletion=starting(models)),
    ] = "smollm2"
    adapter: Annotated[Path | None, option("Folder of a LoRA adapter (PEFT) that is merged into it.", panel=MODEL)] = (
        None
    )
    device: Device = None
    dtype: Annotated[str, option("Precision.", panel=MODEL, of=OneOf("dtype", DTYPES))] = "float32"
    start: Annotated[str, option("What begins the text: auto, none, or a token of the model.", panel=MODEL)] = "auto"


@dataclass(frozen=True, kw_only=True)
class SavedModelOptions(Options):
    """A model that a saved run brings, unless another is asked for."""

    model: Annotated[
        str | None,
        option("The model  [dim](default: the saved one's)[/dim]", panel=MODEL, autocompletion=starting(models)),
    ] = None
    device: Device = None
    dtype: Annotated[
        str | None, option("Precision  [dim](default: the saved one's)[/dim]", panel=MODEL, of=OneOf("dtype", DTYPES))
    ] = None


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """Where a result goes, and how it is told."""

    out: Annotated[Path | None, option("Where to write  [dim](default: a new folder in runs/)[/dim]", panel=OUTPUT)] = (
        None
    )
    light: Annotated[
        bool, option("A small page, with plotly.js beside it and not inside.", "--light", panel=OUTPUT)
    ] = False
    as_json: Annotated[bool, option("Print the summary for programs.", "--json", panel=OUTPUT)] = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(OutputOptions):
    """Of work that draws by chance."""

    seed: Annotated[int, option("Of everything that is drawn.", panel=DETAILS)] = 0


@dataclass(frozen=True, kw_only=True)
class WorkersOptions(Options):
    """Who does long work; no number depends on it."""

    workers: Annotated[
        int, option("Processes that share the work, each with its own copy of the model.", panel=DETAILS)
    ] = 1
    ray: Annotated[
        str | None, option("The address of a Ray cluster for them  [dim](default: this machine)[/dim]", panel=DETAILS)
    ] = None

    def crew(self) -> "Workers":
        """The workers that were asked for; UserError where Ray or its cluster is not there."""
        from factscope.runs.workers import Workers, check_there

        found = Workers(self.workers, self.ray)
        check_there(found)
        return found


@dataclass(frozen=True, kw_only=True)
class ShardOptions(WorkersOptions):
    """Long work that is dealt out among the jobs of an array."""

    shard: Annotated[
        str | None, option("Only this part of the work, as 2/4; factscope merge joins all.", panel=DETAILS)
    ] = None

    def part(self, folder: Path) -> tuple["Shard | None", Path]:
        """The shard that was asked for, and its own folder beside that of the whole; None and `folder` without."""
        if self.shard is None:
            return None, folder
        from factscope.runs.shards import Shard

        found = Shard.read(self.shard)
        return found, folder.with_name(f"{folder.name}-{found.number}of{found.of}")


@dataclass(frozen=True, kw_only=True)
class MomentsOptions(Options):
    """Second moments of keys."""

    moments: Annotated[
        str,
        option("Second moments from: shipped, self, a text file, a folder, a data set, or identity.", panel=DETAILS),
    ] = "shipped"
    tokens: Annotated[
        int | None,
        option("Tokens of text for second moments  [dim](default: 8 for each key dimension)[/dim]", panel=DETAILS),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EditOptions(MomentsOptions):
    """How to edit."""

    method: Annotated[str, option("How to edit.", of=OneOf("method", methods))] = "rome"
    layer: Layer = None
    restrain: Annotated[
        str | None,
        option("A restraint on the sum of what was edited.", of=OneOf("restraint", RESTRAINTS)),
    ] = None
    settings: Annotated[
        tuple[str, ...],
        option("A setting of the method, or restrain.KEY of the restraint.", "--set", metavar="KEY=VALUE"),
    ] = ()

    def method_with_settings(self, name: str | None = None) -> tuple["MethodSpec", list[str]]:
        """The method, or the one of that name, and its settings; UserError for settings that cannot be its."""
        from editing.method import method

        spec = method(name or self.method)
        return spec, at_layer(parted(self.settings, self.restrain)[0], spec, self.layer)

    def restraint_with_config(self) -> tuple["RestraintSpec | None", Any]:
        """The restraint and its config; None and None where none is asked for."""
        from editing.restraint import restraint

        aside = parted(self.settings, self.restrain)[1]
        if self.restrain is None:
            return None, None
        spec = restraint(self.restrain)
        return spec, spec.config_for(aside)


@dataclass(frozen=True, kw_only=True)
class AllowTrained(Options):
    """Of methods that are trained."""

    allow_trained: Annotated[
        bool,
        option("Edit facts that the editor was trained on, too; they are counted.", "--allow-trained", panel=DETAILS),
    ] = False


@dataclass(frozen=True, kw_only=True)
class EditorOptions(AllowTrained):
    """The editor of a method that is trained."""

    editor: Annotated[Path | None, option("Of a method that is trained: what edit train saved.")] = None

    def loaded(self) -> "Trained | None":
        """The editor; None where none is given."""
        from editing.trained.editor import Trained

        return None if self.editor is None else Trained.load(self.editor)


@dataclass(frozen=True, kw_only=True)
class EditorsOptions(AllowTrained):
    """The editors of several methods, or of several layers."""

    editor: Annotated[
        tuple[Path, ...], option("Of a method that is trained: what edit train saved; repeat for several.")
    ] = ()

    def loaded(self) -> "tuple[Trained, ...]":
        """The editors, in order."""
        from editing.trained.editor import Trained

        return tuple(Trained.load(folder) for folder in self.editor)


@dataclass(frozen=True, kw_only=True)
class CircuitOptions(Options):
    """How a circuit is found."""

    edges: Annotated[int | None, option("Of a scorer, so many edges.")] = None
    threshold: Annotated[float | None, option("Edges that cost less are cut  [dim](acdc: 0.1)[/dim]")] = None
    ablation: Annotated[
        str | None,
        option(
            "What stands for a cut edge  [dim](default: counterfactual for eap and its kin where another subject fits, "
            "else zero)[/dim]",
            of=OneOf("ablation", ABLATIONS),
        ),
    ] = None
    split_qkv: Annotated[
        bool, option("Queries, keys and values apart, or whole heads.", "--split-qkv/--no-split-qkv")
    ] = True


# ---- fields as flags, and as texts ----


@dataclass(frozen=True)
class Field:
    """A field of an options class, with what its annotation says."""

    name: str
    hint: Any  # its type
    look: Any  # typer's OptionInfo or ArgumentInfo
    was: str | None
    default: Any  # MISSING where it must be given

    @property
    def is_argument(self) -> bool:
        """Whether it is written without a flag."""
        return isinstance(self.look, typer.models.ArgumentInfo)

    @property
    def flag(self) -> str:
        """As the user writes it: --facts, or an argument in capitals."""
        return str(self.look.metavar or self.name).upper() if self.is_argument else f"--{self.key}"

    @property
    def remedy(self) -> str:
        """What to do where it is empty."""
        if self.name == "prompt":
            return "write the beginning of a sentence whose next word is the answer"
        return "give one" if self.default is dataclasses.MISSING else "give one, or leave it out"

    @property
    def key(self) -> str:
        """Its name in a config file: the flag without dashes."""
        if self.is_argument:
            return self.name
        declared = self.look.default if isinstance(self.look.default, str) else f"--{self.name}"
        return declared.split("/")[0].removeprefix("--").replace("_", "-")


def fields(options: type) -> Iterator[Field]:
    """The fields of an options class by panels: arguments, what is common; in each its own first, then its groups'."""
    hints = typing.get_type_hints(options, include_extras=True)
    known = {each.name: each for each in dataclasses.fields(options)}
    order = [name for cls in options.__mro__ for name in vars(cls).get("__annotations__", {}) if name in known]
    found = []
    for name in dict.fromkeys(order):
        hint, *notes = typing.get_args(hints[name])
        look = next(one for one in notes if isinstance(one, typer.models.ParameterInfo))
        look = _reader(look, hint, name)
        was = next((one.flag for one in notes if isinstance(one, Was)), None)
        found.append(Field(name, hint, look, was, known[name].default))
    rank = {"subject": 0, "answer": 1}  # what goes with the prompt stands first
    return iter(
        sorted(
            found,
            key=lambda field: (
                not field.is_argument,
                PANELS.index(field.look.rich_help_panel),
                rank.get(field.name, len(rank)),
            ),
        )
    )


_METAVARS = {int: "<int>", float: "<float>", Path: "<path>"}


def _reader(look: Any, hint: Any, name: str) -> Any:
    """The look of a number or a path, read as in a config file; an empty path is not the working directory."""
    kind = next((one for one in (hint, *typing.get_args(hint)) if one in _METAVARS), None)
    if kind is None or look.parser is not None:
        return look
    own = isinstance(look, typer.models.ArgumentInfo)
    flag = str(look.metavar or name).upper() if own else f"--{name.replace('_', '-')}"

    def parse(text: str) -> Any:
        if not str(text).strip():
            raise UserError(f"{flag} is empty; give one, or leave it out")
        return read(text, kind, flag)

    look = copy.copy(look)
    look.parser, look.metavar = parse, look.metavar or (None if own else _METAVARS[kind])
    return look


def settled(options: Any) -> dict[str, Any]:
    """The options that decide the result, as plain values by their keys in a config file."""
    return _settled(options, lambda field: getattr(options, field.name))


def usual(options: type) -> dict[str, Any]:
    """What `settled` says of an options class where nothing else is asked for."""
    return _settled(options, lambda field: None if field.default is dataclasses.MISSING else field.default)


def _settled(options: Any, value_of: Callable[[Field], Any]) -> dict[str, Any]:
    found = {}
    for field in fields(options if isinstance(options, type) else type(options)):
        value = value_of(field)
        if field.name not in ASIDE and value is not None and value != ():
            found[field.key] = _bare(value)
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_bare(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def changed(options: Any, besides: Sequence[str] = ()) -> list[str]:
    """The flags of the options that differ from their defaults."""
    every = [field for field in fields(type(options)) if field.name not in besides]
    return [f"--{field.key}" for field in every if getattr(options, field.name) != field.default]


def key(options: Any) -> str:
    """Eight characters for these options: the same wherever the result would be the same.

    A file that an option names counts by what it holds, but for the model, which the journals know by its weights.
    """
    return digest(by_content(settled(options)))[:8]


def by_content(said: dict[str, Any]) -> dict[str, Any]:
    """Settled options, with what a file or folder holds in the place of its name."""
    return {name: value if name == "model" else _held(value) for name, value in said.items()}


def _held(value: Any) -> Any:
    """The SHA-256 of what a file or folder holds, where the value names one, or each of several; else the value."""
    if isinstance(value, list):
        return [_held(one) for one in value]
    try:
        place = Path(value).expanduser() if isinstance(value, str) and value else None
        if place is None or not place.exists():
            return value
        return content(sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place])
    except OSError:  # a text too long for a path, or a file that the reader of facts will complain of
        return value


# ---- what several commands read from their options ----


def parted(settings: Sequence[str], restrain: str | None = None) -> tuple[list[str], list[str]]:
    """The pairs of --set for the method, and those for the restraint (restrain.KEY=VALUE) without their prefix.

    Raises UserError: no pair, or one of a restraint where none is asked for.
    """
    restraint, method = owned(settings, "restrain")
    if restraint and restrain is None:
        raise UserError(
            f"--set restrain.{restraint[0]} is a setting of a restraint, and none was asked for: add --restrain"
        )
    return method, restraint


def numbers(text: str) -> tuple[int, ...]:
    """Layers as 4,5,6; UserError if they are not whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--layer {text!r}: write whole numbers, as 4,5,6") from None


def at_layer(settings: Sequence[str], method: "MethodSpec", layer: str | None) -> list[str]:
    """A method's settings with those layers, under its own name for them; UserError if it writes to none, or to one."""
    if layer is None:
        return list(settings)
    wanted = numbers(layer)
    if method.in_context:
        raise UserError(f"--layer {layer!r}: this method writes to no layer; leave it out")
    if method.layer_setting == "layer" and len(wanted) > 1:
        raise UserError(f"--layer {layer!r}: this method writes to one layer; give one number")
    return [*settings, f"{method.layer_setting}={layer}"]
