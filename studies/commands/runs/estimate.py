"""`factscope estimate`: what traces, circuits and edits would take on a model, before it is downloaded or loaded."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from factscope.errors import UserError
from studies.commands.app import listed, tell
from studies.commands.cache import in_words
from studies.commands.command import command
from studies.commands.options import DTYPES, MODEL, AsJson, Device, OneOf, Options, argument, models, option, starting

if TYPE_CHECKING:
    from studies.estimate import Cost, Machine

NARROW = "bfloat16"
BUSY = 0.5  # processes of other work for each core, from which a speed that is measured is not the machine's own
ARITHMETIC = "all figures are arithmetic, none is a measurement"


@dataclass(frozen=True, kw_only=True)
class EstimateOptions(Options):
    """Of which model, and what."""

    architecture: Annotated[
        str,
        argument(
            "A registry name, a Hugging Face name, a folder with a config.json, or a shape: width,layers,heads,"
            "key heads,MLP width,vocabulary. No weights are needed.",
            metavar="MODEL",
            autocompletion=starting(models),
        ),
    ]
    work: Annotated[
        str | None,
        option("Of load, trace, eap-ig, acdc, moments, rome, memit: a,b,c  [dim](default: all)[/dim]"),
    ] = None
    facts: Annotated[int, option("Facts of MEMIT's edit.")] = 32
    device: Device = None
    dtype: Annotated[str, option("Precision.", panel=MODEL, of=OneOf("dtype", DTYPES))] = "float32"
    memory: Annotated[
        float | None, option("GB that the machine has  [dim](default: free on --device here)[/dim]", panel=MODEL)
    ] = None
    flops: Annotated[
        float | None,
        option("Operations a second, as 5e13  [dim](default: measured on --device here)[/dim]", panel=MODEL),
    ] = None
    as_json: AsJson = False

    def __post_init__(self) -> None:
        """UserError for a number that must be above 0 and is not."""
        super().__post_init__()
        for flag, value in (("--facts", self.facts), ("--memory", self.memory), ("--flops", self.flops)):
            if value is not None and not value > 0:
                raise UserError(f"{flag} must be above 0, not {value}")


@command(
    "estimate", EstimateOptions, "factscope estimate smollm2 --work eap-ig,rome",
    "factscope estimate 4096,32,32,8,14336,128256 --dtype bfloat16 --device cuda --memory 80 --flops 4e14",
)  # fmt: skip
def estimate(options: EstimateOptions) -> None:
    """Count the bytes and operations that a model would take, work by work, without its weights.

    Everything runs on tensors that have shapes and no numbers, which takes minutes for a large model. Seconds are what
    matrix products would take at full speed: less time than that is not possible. --device need not be here.
    """
    from factscope.model.load import DTYPES as KINDS
    from studies.estimate import Cost, Setting, checked, described, machine_of
    from studies.estimate import estimate as counted

    kinds, dtype = checked(listed(options.work) or ()), KINDS[options.dtype]
    machine = machine_of(options.device, dtype, options.memory and options.memory * 1e9, options.flops)
    setting = Setting(facts=options.facts)
    costs: list[Cost] = []
    model = {}
    for found in counted(*described(options.architecture), kinds, setting, dtype=dtype, machine=machine):
        if isinstance(found, Cost):
            costs.append(found)
        else:
            model = asdict(found)
        if not options.as_json:
            tell(_row(found, machine) if isinstance(found, Cost) else _head(model, options.dtype, machine))
    if options.as_json:
        body = {
            "model": model, "dtype": options.dtype, "counted_for": machine.kind, "bytes_free": machine.room,
            "operations_a_second": machine.speed, "load_a_core": machine.load,
        }  # fmt: skip
        tell(json.dumps(body | {"costs": [asdict(cost) for cost in costs]}, ensure_ascii=False))
        return
    tell(*_remedies(costs, model["parameters"], dtype.itemsize, machine.room))


def _head(model: dict[str, int], dtype: str, machine: "Machine") -> str:
    at = "" if machine.speed is None else f"; seconds at {machine.speed:.2g} operations a second"
    if machine.load is not None and machine.load > BUSY:
        at += f"\nOther work ran while that speed was measured ({machine.load:.1f} processes for each core): it is too "
        at += "low; --flops gives the machine's own"
    counted = "" if machine.kind == "cpu" else f"\nCounted on this CPU as work goes on {machine.kind}: {ARITHMETIC}"
    return (
        f"{model['architecture']}: {model['parameters'] / 1e9:.3g} billion weights in {dtype}, {model['layers']} "
        f"layers of {model['width']}, {model['heads']} heads, keys of {model['key_width']}, "
        f"{model['vocabulary']} tokens{at}{counted}"
    )


def _row(cost: "Cost", machine: "Machine") -> str:
    took = "" if machine.speed is None else f", {cost.seconds(machine.speed):.2g} s or more"
    full = "" if machine.room is None or cost.bytes_most <= machine.room else "  DOES NOT FIT"
    most, more = in_words(cost.bytes_most), in_words(cost.bytes_more)
    return f"{_name(cost):<8} {most:>7}, {more} of it for the work; {cost.operations:.2e} operations{took}{full}"


def _name(cost: "Cost") -> str:
    return cost.work.replace("_", "-")


def _remedies(costs: list["Cost"], parameters: int, itemsize: int, room: float | None) -> Iterator[str]:
    """For work that does not fit, the setting with which it would."""
    for cost in costs:
        if room is None or cost.bytes_most <= room:
            continue
        narrow = cost.bytes_most - parameters * (itemsize - 2)
        remedy = (
            f"--dtype {NARROW} would do, with about {in_words(narrow)}"
            if itemsize > 2 and narrow <= room
            else f"it takes a device with {in_words(narrow)}{f' and --dtype {NARROW}' if itemsize > 2 else ''}"
        )
        yield f"{_name(cost)} needs {in_words(cost.bytes_most)}, and {in_words(int(room))} are there: {remedy}"
