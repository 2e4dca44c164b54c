"""Where downloads and conversions are kept, under which name, and how they get there without ever being half there.

What is kept is named by its content, never by the file that it came from: a text that changes under its name is another
text. Everything lives under one folder: `FACTSCOPE_CACHE` if it is set, else the platform's user cache. A finished
entry is a folder that was built elsewhere on the same disk and renamed into place, under a lock, so that an interrupted
first run leaves nothing that a second one could mistake for a model.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_dir

from factscope.errors import StoreError


def cache_folder() -> Path:
    """The folder that holds everything we keep between runs."""
    return Path(os.environ.get("FACTSCOPE_CACHE") or user_cache_dir("factscope"))


def digest(value: Any) -> str:
    """SHA-256 of a value: dataclasses, lists, dictionaries, numbers and texts, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=asdict).encode()).hexdigest()


def content(files: Iterable[Path]) -> str:
    """SHA-256 of what the files hold, in their order; their names do not count."""
    found = []
    for file in files:
        with file.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return found[0] if len(found) == 1 else digest(found)


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
