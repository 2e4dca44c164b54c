"""Ray for tests: one on this machine for the tests of a file, which takes long to start, and a pretended one."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from factscope.runs import workers


@contextmanager
def local_ray(*tests: ModuleType) -> Iterator[None]:
    """Ray with two workers, which know the functions of the test files as they stand in this process."""
    import ray

    from factscope.runs.workers import Workers, staying

    for module in tests:
        ray.cloudpickle.register_pickle_by_value(module)
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, object_store_memory=2**27
    )
    try:
        with staying(Workers(2)):
            yield
    finally:
        ray.shutdown()


class PretendRay:
    """Ray in this process, quick enough for any schedule: workers finish in an order drawn from a seed, some die.

    What would be sent to a worker is pickled and unpickled as Ray does it; `deaths` of all calls end with the worker,
    and so does every call with the item `deadly`.
    """

    def __init__(self, seed: int = 0, deaths: int = 0, deadly: Any = None) -> None:
        self.draw, self.deaths, self.hired, self.deadly = random.Random(seed), deaths, 0, deadly

    def put(self, value: Any) -> Any:
        return _sent(value)

    def cluster_resources(self) -> dict[str, float]:
        return {}

    def remote(self, **_: Any) -> Callable[[type], Any]:
        return lambda kind: SimpleNamespace(remote=partial(self._hire, kind))

    def _hire(self, kind: type) -> Any:
        self.hired += 1
        worker = kind()
        return SimpleNamespace(open=_Asked(worker.open), do=_Asked(worker.do))

    def wait(self, calls: list[Any]) -> tuple[list[Any], list[Any]]:
        done = self.draw.choice(calls)
        return [done], [one for one in calls if one is not done]

    def get(self, call: Any) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        if self.deaths and call.name == "do" and self.draw.random() < 0.5:
            self.deaths -= 1
            raise RayActorError
        if self.deadly is not None and call.name == "do" and call.arguments == (self.deadly,):
            raise RayActorError
        try:
            return _sent(call())
        except Exception as trouble:
            raise RayTaskError("do", "", trouble) from trouble

    def kill(self, worker: Any) -> None:
        del worker


class _Asked:
    """A method of a worker, called when its result is awaited."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def remote(self, *arguments: Any) -> Any:
        return _Call(self.method, _sent(arguments))


@dataclass(eq=False)
class _Call:
    method: Any
    arguments: tuple[Any, ...]

    @property
    def name(self) -> str:
        return str(self.method.__name__)

    def __call__(self) -> Any:
        return self.method(*self.arguments)


def _sent(value: Any) -> Any:
    from ray import cloudpickle

    return cloudpickle.loads(cloudpickle.dumps(value))


@contextmanager
def pretended(model: Any, ray: PretendRay) -> Iterator[None]:
    """In the block this Ray stands for the real one, and its workers borrow `model` instead of loading theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_ray", lambda _: nullcontext(ray))
        patch.setattr(workers, "load", lambda *_, **__: model)
        yield
