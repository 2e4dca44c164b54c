"""Options of the model that a command loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from studies.commands.options.flags import DTYPES, MODEL, OneOf, models, option, starting
from studies.commands.options.values import Options

Device = Annotated[str | None, option("cpu, cuda, cuda:1 ...  [dim](default: a GPU if any)[/dim]", panel=MODEL)]


MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # how transformers divides a model among devices
DeviceMap = Annotated[
    str | None, option("Spread it over several GPUs, as accelerate does.", panel=MODEL, of=OneOf("map", MAPS))
]


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
    device_map: DeviceMap = None
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
    device_map: DeviceMap = None
    dtype: Annotated[
        str | None, option("Precision  [dim](default: the saved one's)[/dim]", panel=MODEL, of=OneOf("dtype", DTYPES))
    ] = None
