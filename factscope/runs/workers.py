"""The same work on many items, by one process or by many: `each(model, work, items)` gives the results in order.

Several workers are processes of Ray (Moritz et al. 2018), on this machine or on a cluster. Each loads the model once
by its name, is refused where its weights are not this process's, and takes the next item whenever it is free. An item
whose worker dies goes to a new worker. Results come in the order of the items whoever computed them, and a mistake
comes in its turn, as it would without workers; so whoever writes a journal of them writes the same journal.

*Bit for bit*: every worker computes with as many threads as this process does, since a sum that is divided among
another number of threads is rounded otherwise. On another kind of processor numbers may differ in their last digits.

*Scope*: the model must be one that a name, a folder or a file gives; one that was made or changed in memory is refused.
"""

import bisect
import contextlib
import importlib.util
import logging
import os
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from factscope.errors import ModelError, UserError
from factscope.model.bridge import Bridge, device, info, spread
from factscope.model.load import load
from factscope.model.source.registry import REGISTRY
from factscope.model.weights import fingerprint

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[Bridge, T], R]  # a function of a module, or a partial or frozen dataclass of such: it is sent around

LIVES = 3  # workers that may die of one item, or while they load the model
AHEAD = 4  # items for each worker, computed before those in front of them are done
PATIENCE = 5.0  # seconds until a cluster's address counts as dead


@dataclass(frozen=True)
class Workers:
    """How many processes share the work, and where: this machine, or the Ray cluster at `address`."""

    count: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"work needs at least 1 worker, not {self.count}")

    @property
    def alone(self) -> bool:
        """Whether this process does everything itself, without Ray."""
        return self.count == 1 and self.address is None


ALONE = Workers()


def each(model: Bridge, work: Work[T, R], items: Sequence[T], workers: Workers = ALONE) -> Generator[R, None, None]:
    """`work(model, item)` for each item, in their order; leaving the loop early ends the workers.

    Raises what `work` raises; UserError where Ray or its cluster is not there, or workers die; ModelError where a
    worker cannot load the model, or loads another.
    """
    if workers.alone:
        yield from (work(model, item) for item in items)
    elif spread(model):
        raise UserError(
            "each worker has the model on one device, and this one lies on several: leave --workers or --device-map out"
        )
    elif items:
        with _ray(workers) as ray:
            pool = _Pool(ray, model, work, workers, min(workers.count, len(items)))
            try:
                yield from pool.results(items)
            finally:
                pool.end()


def check_there(workers: Workers) -> None:
    """UserError where several workers are wanted, and Ray or its cluster is not there; starts nothing."""
    if not workers.alone and importlib.util.find_spec("ray") is None:
        raise UserError("several workers need Ray, which is not installed: pip install ray, or leave --workers out")
    if workers.address is not None:
        _check_address(workers.address)


@contextlib.contextmanager
def staying(workers: Workers) -> Iterator[None]:
    """In the block, workers stay with their model from one `each` to the next; nothing where there is no need."""
    global _staying
    if workers.alone or _staying is not None:
        yield
        return
    with _ray(workers) as ray:
        _staying = []
        try:
            yield
        finally:
            for worker in _staying:
                ray.kill(worker)
            _staying = None


_staying: list[Any] | None = None  # workers that wait for the next `each`; None: they are sent home after each


# ---- in a worker ----


@dataclass(frozen=True)
class _Opening:
    """What a worker needs to know of the model before its first item."""

    spec: str
    dtype: str
    device: str
    threads: int


class _Worker:
    """A process with its own copy of the model."""

    opening: _Opening | None = None

    def open(self, opening: _Opening, work: Work[Any, Any]) -> str:
        """Load the model, unless it is here already; gives its fingerprint."""
        torch.set_num_threads(opening.threads)
        self.work = work
        if opening != self.opening:
            self.model = load(opening.spec, device=opening.device, dtype=opening.dtype)
            self.opening = opening
        return fingerprint(self.model)

    def do(self, item: Any) -> tuple[Any, list[str]]:
        """The result, and what was warned of on the way."""
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            result = self.work(self.model, item)
        return result, [str(one.message) for one in heard if one.category is UserWarning]


# ---- in this process ----


@dataclass(frozen=True)
class _Failure:
    """What an item raised, to be raised in its turn."""

    cause: BaseException


class _Pool:
    """Workers that take the next item whenever they are free, and are replaced where they die."""

    def __init__(self, ray: Any, model: Bridge, work: Work[Any, Any], workers: Workers, count: int) -> None:
        self.ray, self.count, self.where = ray, count, workers.address or "this machine"
        place, known = device(model), info(model)
        spec = known.name if known.name in REGISTRY else known.source
        dtype = str(model.cfg.dtype).removeprefix("torch.")
        self.name, self.fingerprint = known.name, fingerprint(model)
        self.opening = ray.put(_Opening(spec, dtype, place.type, torch.get_num_threads()))
        self.work = ray.put(work)
        self.kind = ray.remote(num_cpus=1, num_gpus=self._share_of_gpu() if place.type == "cuda" else 0)(_Worker)
        self.busy: dict[Any, tuple[Any, int | None]] = {}  # what is awaited -> whose it is, and the item's number
        self.idle: list[Any] = []
        self.deaths: Counter[int | None] = Counter()  # by the item's number; None: while the model was loaded

    def _share_of_gpu(self) -> float:
        """Of a GPU, for each worker; UserError where there is none."""
        there = float(self.ray.cluster_resources().get("GPU", 0))
        if not there:
            raise UserError(f"Ray finds no GPU on {self.where} for its workers; use --device cpu, or --workers 1")
        return min(1.0, there / self.count)

    def results(self, items: Sequence[T]) -> Iterator[Any]:
        """Every item's result in order; what an item raised is raised in its turn."""
        waiting = list(range(len(items)))
        found: dict[int, Any] = {}
        for _ in range(self.count):
            self._hire()
        for turn in range(len(items)):
            while turn not in found:
                while self.idle and waiting and waiting[0] <= turn + AHEAD * self.count:
                    worker, number = self.idle.pop(), waiting.pop(0)
                    self.busy[worker.do.remote(items[number])] = worker, number
                self._hear(waiting, found)
            result = found.pop(turn)
            if isinstance(result, _Failure):
                raise result.cause
            value, heard = result
            for words in heard:
                warnings.warn(words, stacklevel=2)
            yield value

    def _hear(self, waiting: list[int], found: dict[int, Any]) -> None:
        """Wait for one worker; what it did is found, and where it died its item waits again, for another worker."""
        from ray.exceptions import RayError, RayTaskError

        (ready,), _ = self.ray.wait([*self.busy])
        worker, number = self.busy.pop(ready)
        try:
            result = self.ray.get(ready)
        except RayTaskError as trouble:
            if number is None:
                raise self._unopened(trouble.cause) from trouble
            found[number] = _Failure(trouble.cause)
        except RayError as trouble:
            self._count_death(number, trouble)
            if number is not None:
                bisect.insort(waiting, number)
            self._hire()
            return
        else:
            if number is None:
                self._check(result)
            else:
                found[number] = result
        self.idle.append(worker)

    def _hire(self) -> None:
        """A new worker, who begins with loading the model."""
        worker = _staying.pop() if _staying else self.kind.remote()
        self.busy[worker.open.remote(self.opening, self.work)] = worker, None

    def _count_death(self, number: int | None, trouble: BaseException) -> None:
        """Count a death; UserError where it was one too many."""
        self.deaths[number] += 1
        if self.deaths[number] >= LIVES:
            when = (
                "while they loaded the model" if number is None else f"of the same piece of work (number {number + 1})"
            )
            raise UserError(
                f"workers die {when}, after {LIVES - 1} trials anew ({_short(trouble)}); memory is the usual reason: "
                "use fewer --workers"
            ) from trouble

    def _unopened(self, cause: BaseException) -> UserError:
        """What a worker says that cannot load the model."""
        return ModelError(f"a worker on {self.where} cannot load {self.name}: {_short(cause)}")

    def _check(self, theirs: str) -> None:
        """ModelError for a worker with other weights."""
        if theirs != self.fingerprint:
            raise ModelError(
                f"a worker on {self.where} loads other weights as {self.name} (fingerprint {theirs[:12]}, here "
                f"{self.fingerprint[:12]}): workers load a model by its name, so take out what was changed in memory, "
                "or give every machine the same files"
            )

    def end(self) -> None:
        """Send all workers home, whatever they do; those that are free may stay where they are wanted again."""
        for worker, _ in self.busy.values():
            self.ray.kill(worker)
        for worker in self.idle:
            if _staying is None:
                self.ray.kill(worker)
            else:
                _staying.append(worker)


def _short(trouble: BaseException) -> str:
    words = " ".join(str(trouble).split())
    return words[:200] + ("..." if len(words) > 200 else "")


@contextlib.contextmanager
def _ray(workers: Workers) -> Iterator[Any]:
    """Ray, connected: as the caller has connected it, or to what `workers` names, and then only for the block."""
    check_there(workers)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing needs the network
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    if ray.is_initialized():
        yield ray
        return
    how: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    if workers.address is None:
        how |= {"num_cpus": workers.count, "include_dashboard": False}
    else:
        how["address"] = workers.address
    try:
        with _unheard():
            ray.init(**how)
    except Exception as trouble:  # a bare Exception where the machine is too busy for Ray's half minute
        raise UserError(_not_there(workers.address, trouble)) from trouble
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What Ray's own programs write to standard error while they start goes nowhere; what went wrong, we say."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_address(address: str) -> None:
    """UserError where nobody listens; Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        if address != "auto":
            raise UserError(f"--ray {address!r} is no address of a cluster: write HOST:PORT, ray://HOST:PORT or auto")
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as trouble:
        raise UserError(_not_there(address, trouble)) from trouble


def _not_there(address: str | None, trouble: BaseException) -> str:
    if address is None:
        return f"Ray cannot be started on this machine ({_short(trouble)}); leave --workers out"
    return (
        f"there is no Ray cluster at {address} ({_short(trouble)}); begin one with `ray start --head`, or leave --ray "
        "out for workers on this machine"
    )
