"""Whether a model's weights find room, asked before they are read: from the headers of its files, in a moment.

What is needed is the number of weights times the size of the asked type; a trace or a search needs some more, a file
held in another type not, since weights are read one after another. What is there is what the system says: the memory
that is free or can be freed, no more than the container's limit leaves, or the GPU's free memory.

Work that is only counted (factscope/model/weightless.py) runs as on the machine that is asked about: `as_on` says what
is free there, and of which kind its device is.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

from factscope.errors import ModelError
from factscope.files import parsed_json, read_json

SMALLER = (("bfloat16", torch.bfloat16),)  # what may be asked for instead

Free = Callable[[], float | None]  # bytes that can be had; None where nobody knows
_OTHER: ContextVar[tuple[str, Free] | None] = ContextVar("machine", default=None)


@contextmanager
def as_on(kind: str, room: Free) -> Iterator[None]:
    """In the block, work on the CPU runs as on another machine, with a device of this kind ("cuda") and `room`."""
    token = _OTHER.set((kind, room))
    try:
        yield
    finally:
        _OTHER.reset(token)


def counting() -> bool:
    """Whether work is only counted, for another machine."""
    return _OTHER.get() is not None


def kind_of(place: torch.device) -> str:
    """The kind of device that work at `place` runs on or is counted for: "cpu", "cuda"."""
    other = _OTHER.get()
    return place.type if other is None else other[0]


def check_room(spec: str, place: str, dtype: torch.dtype, device: str) -> None:
    """ModelError where the weights in the files at `place` do not fit into the device's memory; silent if unknown."""
    count, room = weights_in(place), free(device)
    if count is None or room is None or count * dtype.itemsize <= room:
        return
    needed = f"{spec} has {count / 1e9:.3g} billion weights, {_gb(count * dtype.itemsize)} in {str(dtype)[6:]}"
    fits = [name for name, kind in SMALLER if count * kind.itemsize <= min(room, count * dtype.itemsize - 1)]
    remedy = f"--dtype {fits[0]} needs half of it" if fits else "use a smaller model, or a larger machine"
    if not fits and torch.device(device).type != "cpu":
        remedy = "use --device cpu, or a smaller model"
    raise ModelError(f"{needed}, and there are {_gb(room)} free on {device}; {remedy}")


def weights_in(place: str) -> int | None:
    """How many numbers the safetensors of a model hold; None where they are not here yet."""
    files = sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else _cached(place)
    return sum(size for file in files for size in _sizes(file)) if files else None


def _cached(name: str) -> list[Path]:
    """The files of a Hugging Face name that were downloaded before; none where one is missing."""
    from huggingface_hub import try_to_load_from_cache

    whole = try_to_load_from_cache(name, "model.safetensors")
    if isinstance(whole, str):
        return [Path(whole)]
    index = try_to_load_from_cache(name, "model.safetensors.index.json")
    if not isinstance(index, str):
        return []
    parts = sorted(set(read_json(index)["weight_map"].values()))
    found = [Path(index).with_name(part) for part in parts]
    return found if all(part.is_file() for part in found) else []


def _sizes(file: Path) -> Iterator[int]:
    """Of each tensor in a file; nothing of one that cannot be read, of which the loader will say more."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = parsed_json(opened.read(length).decode()) if length <= file.stat().st_size else {}
        yield from [math.prod(said["shape"]) for name, said in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


def free(device: str) -> float | None:
    """Bytes that can be had on a device; None where the system does not say."""
    other = _OTHER.get()
    if other is not None:
        return other[1]()
    place = torch.device(device)
    if place.type == "cuda":
        kept = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)  # freed, for the next tensors
        return float(torch.cuda.mem_get_info(place)[0] + kept)
    if place.type != "cpu":
        return None
    limits = [found for found in (_available(), _left_to_container()) if found is not None]
    return min(limits) if limits else None


def _available() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_to_container() -> float | None:
    """Of a memory limit that a container sets (cgroups, second version)."""
    folder = Path("/sys/fs/cgroup")
    try:
        most, used = ((folder / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    if not most.isdecimal():
        return None
    cached = next((float(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0.0)
    return float(most) - float(used) + cached


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
