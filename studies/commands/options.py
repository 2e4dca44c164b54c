"""Options that the subcommands of `edit` share: one wording, one default."""

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import editing
from factscope.errors import UserError
from factscope.settings import owned

Model = Annotated[str, typer.Option(help="Registry name, Hugging Face name, folder or .gguf file.")]
EditModel = Annotated[str | None, typer.Option("--model", help="The model  [dim](default: the edit's)[/dim]")]
EditType = Annotated[str | None, typer.Option("--dtype", help="float32, ...  [dim](default: the edit's)[/dim]")]
METHODS = sorted(found.name for found in pkgutil.iter_modules([f"{editing.__path__[0]}/methods"]))  # none is imported
Method = Annotated[str, typer.Option("--method", help=f"{', '.join(METHODS[:-1])} or {METHODS[-1]}.")]
Start = Annotated[str, typer.Option(help="What begins the text: auto, none, or a token of the model.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...  [dim](default: a GPU if any)[/dim]")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")]
Seed = Annotated[int, typer.Option(help="Of the contexts and of the text for second moments.")]
Out = Annotated[Path | None, typer.Option(help="Where to write  [dim](default: a new folder in runs/)[/dim]")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary for programs.")]
MomentsFrom = Annotated[
    str, typer.Option("--moments", help="self, a text file, a folder, a Hugging Face data set, or identity.")
]
Tokens = Annotated[int | None, typer.Option(help="Tokens of text for second moments  [dim](default: 24000)[/dim]")]
Runs = Annotated[Path, typer.Option(help="The folder that holds the saved edits and their stack.")]


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


def at_layer(settings: Sequence[str], method: Any, layer: str | None) -> list[str]:
    """A method's settings with those layers, under its own name for them; UserError if it writes to none, or to one."""
    if layer is None:
        return list(settings)
    wanted = numbers(layer)
    config = method.Config()
    if hasattr(config, "layers"):
        return [*settings, f"layers={layer}"]
    if not hasattr(config, "layer"):
        raise UserError(f"--layer {layer!r}: this method writes to no layer; leave it out")
    if len(wanted) > 1:
        raise UserError(f"--layer {layer!r}: this method writes to one layer; give one number")
    return [*settings, f"layer={layer}"]
