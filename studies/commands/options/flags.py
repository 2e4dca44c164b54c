"""How a field of an options class looks at a terminal: its words, its flag, and the names that it takes."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from editing import methods as method_files
from editing import restraints
from factscope.catalogue import places
from factscope.errors import UserError

MODEL, FACTS, OUTPUT, DETAILS = "Model", "Facts", "Output", "Details"  # panels of a help page, after the common ones
PANELS = (None, FACTS, MODEL, OUTPUT, DETAILS)
CIRCUIT_METHODS = ("acdc", "atp_star", "eap", "eap_ig", "exact", "relp")
ABLATIONS = ("zero", "mean", "mean_overall", "optimal", "counterfactual")
METRICS = ("probability", "log_probability", "logit_difference", "kl")
DIRECTIONS = ("noising", "denoising")
CIRCUIT_METRICS = ("nll", "logit_difference", "kl", "probability")
EXTRA = ("refuse", "keep")
FIGURE_FORMATS = ("svg", "pdf", "png")
TRACKERS = ("wandb", "mlflow")  # as factscope/results/trackers.py has them; a test compares
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
        same = {hyphened(value): value for value in self.names}
        if hyphened(text) not in same:
            near = difflib.get_close_matches(hyphened(text), same, 1)
            hint = f"did you mean {same[near[0]]}? There are " if near else "choose one of "
            raise UserError(f"there is no {self.kind} {text!r}; {hint}{', '.join(self.names)}")
        return same[hyphened(text)]


BESIDE = 20  # characters of values that stand beside a flag; more would break names in two


def hyphened(text: str) -> str:
    """A name as it is compared: lower case, with hyphens."""
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
