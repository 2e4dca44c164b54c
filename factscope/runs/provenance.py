"""Provenance: what was run, on what, with which numbers; part of every saved result.

A figure that cannot be traced to a model, a seed and a command is not evidence. `Run.of(model, ...)` reads what there
is to read; nothing in it is needed to compute, everything in it is needed to repeat.
"""

import resource
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from factscope import __version__
from factscope.model.bridge import Bridge, device_name, info
from factscope.model.weights import fingerprint
from factscope.versions import versions


@dataclass(frozen=True)
class Run:
    """How a result came about."""

    started: str  # UTC, ISO 8601
    command: str  # as typed, or "python" from a notebook or script
    model: str
    source: str
    fingerprint: str  # SHA-256 of the running weights
    dtype: str
    device: str
    seed: int
    threads: int
    versions: dict[str, str]
    seconds: float = 0.0  # wall clock of the computation, without loading the model
    peak_memory: float = 0.0  # GB (10^9 bytes): the process on a CPU, allocated by torch on a GPU

    @classmethod
    def of(cls, model: Bridge, seed: int) -> "Run":
        """Describe `model` and this process now."""
        known = info(model)
        return cls(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=_command(),
            model=known.name,
            source=known.source,
            fingerprint=fingerprint(model),
            dtype=str(model.cfg.dtype).removeprefix("torch."),
            device=device_name(model),
            seed=seed,
            threads=torch.get_num_threads(),
            versions={"factscope": __version__} | versions(),
        )

    def ended(self, seconds: float) -> "Run":
        """The same run with its duration and peak memory filled in."""
        return replace(self, seconds=round(seconds, 3), peak_memory=round(peak_memory(), 3))

    def items(self) -> tuple[tuple[str, str], ...]:
        """Names and values as a page or a terminal shows them."""
        return (
            ("model", f"{self.model} ({self.source})"),
            ("fingerprint", self.fingerprint),
            ("seed", str(self.seed)),
            ("dtype, device, threads", f"{self.dtype}, {self.device}, {self.threads}"),
            ("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items())),
            ("started", self.started),
            ("took", f"{self.seconds:.1f} s, peak memory {self.peak_memory:.2f} GB"),
        )


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Seconds of the block, in a list of one number once it has ended; waits for a GPU to finish."""
    elapsed: list[float] = []
    start = time.perf_counter()
    try:
        yield elapsed
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        elapsed.append(time.perf_counter() - start)


def peak_memory() -> float:
    """Largest memory so far in GB: allocated by torch on the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _command() -> str:
    started = Path(sys.argv[0])
    if started.name in ("__main__.py", "command.py"):  # python -m factscope, -m studies.commands.circuit.command
        name = started.parent.name
    else:
        name = started.stem if started.parent.name == "commands" else started.name  # -m studies.commands.trace
    if name in {"factscope", "trace", "circuit", "edit"}:
        return shlex.join([name, *sys.argv[1:]])
    return "python"
