"""Where downloads and conversions are kept, and how they get there without ever being half there.

Everything lives under one folder: `FACTSCOPE_CACHE` if it is set, else the platform's user cache. A finished entry is a
folder that was built elsewhere on the same disk and renamed into place, under a lock, so that an interrupted first run
leaves nothing that a second one could mistake for a model.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from factscope.errors import StoreError


def cache_folder() -> Path:
    """The folder that holds everything we keep between runs."""
    return Path(os.environ.get("FACTSCOPE_CACHE") or user_cache_dir("factscope"))


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """The cached folder `name`, built by `build(folder)` the first time.

    Raises StoreError if the cache cannot be written.
    """
    final = cache_folder() / name
    if final.is_dir():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock"):
            if final.is_dir():  # another process was quicker
                return final
            building = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
            try:
                build(building)
                building.chmod(0o755)
                building.rename(final)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as trouble:
        raise StoreError(
            f"cannot keep {name} in {cache_folder()}: {trouble.strerror or trouble}; "
            "free some space or point FACTSCOPE_CACHE at a folder that can be written"
        ) from trouble
    return final
