"""One Ray on this machine for the tests of a file; starting it takes longer than the tests."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


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
