"""Options of edits: the method, its settings, its second moments, its restraint, its trained editor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from factscope.errors import UserError
from factscope.settings import owned
from studies.commands.options.flags import DETAILS, RESTRAINTS, OneOf, methods, option
from studies.commands.options.values import Options

if TYPE_CHECKING:
    from editing.method import MethodSpec
    from editing.restraint import RestraintSpec
    from editing.trained.editor import Trained

Target = Annotated[str | None, option("What the model shall say instead.")]
SettingsByMethod = Annotated[tuple[str, ...], option("A setting of one method.", "--set", metavar="METHOD.KEY=VALUE")]
Layer = Annotated[str | None, option("Layer, or layers 4,5,6  [dim](default: the model's)[/dim]")]


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
        option(
            "A setting of the method, as edit methods lists them, or restrain.KEY of the restraint.",
            "--set",
            metavar="KEY=VALUE",
        ),
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

    editor: Annotated[Path | None, option("What edit train saved, for a method that is trained.")] = None

    def loaded(self) -> "Trained | None":
        """The editor; None where none is given."""
        from editing.trained.editor import Trained

        return None if self.editor is None else Trained.load(self.editor)


@dataclass(frozen=True, kw_only=True)
class EditorsOptions(AllowTrained):
    """The editors of several methods, or of several layers."""

    editor: Annotated[
        tuple[Path, ...], option("What edit train saved, for a method that is trained; repeat for several.")
    ] = ()

    def loaded(self) -> "tuple[Trained, ...]":
        """The editors, in order."""
        from editing.trained.editor import Trained

        return tuple(Trained.load(folder) for folder in self.editor)


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


def several_methods(example: str) -> Any:
    """How --methods looks."""
    return option(f"Of {', '.join(methods())}; as {example}.")


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
