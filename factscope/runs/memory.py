"""How much more memory a block takes at its highest than before it: on a GPU from torch, on Linux from the kernel.

What the process has freed but not given back would hide the block's own use, so it is given back first (glibc).
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_OURS = Path("/proc/self")


@contextmanager
def watched() -> Iterator[Callable[[], float | None]]:
    """Yields a function that gives, after the block, the MB at most beyond those held before; None if unknown."""
    found: list[float | None] = [None]
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        before: float | None = torch.cuda.memory_allocated() / 1e6
    else:
        _trim()
        before = _status("VmRSS") if _reset() else None
    try:
        yield lambda: found[0]
    finally:
        if before is not None:
            peak = torch.cuda.max_memory_allocated() / 1e6 if gpu else _status("VmHWM")
            found[0] = None if peak is None else max(peak - before, 0.0)


def resident() -> float:
    """MB that the process holds now, on Linux, once what is free has been given back."""
    _trim()
    held = _status("VmRSS")
    if held is None:
        raise OSError("this system does not say how much memory a process holds")
    return held


def _reset() -> bool:
    """Begin a new high-water mark; the kernel allows it for the own process."""
    try:
        (_OURS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(name: str) -> float | None:
    """A line of the process's status, in MB."""
    for line in (_OURS / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024 / 1e6
    return None
