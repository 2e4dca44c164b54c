"""Files written whole or not at all.

A page or a result that stops halfway looks like a result. So the bytes go to a temporary file in the same folder, are
forced to the disk, and only then take the name of the file in one step; on any failure the old file is still there,
untouched, and the temporary one is gone.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from workbench.errors import StoreError


def write_bytes_atomically(path: str | Path, content: bytes) -> Path:
    """Write the file whole, making its folder if need be, or raise `StoreError` and change nothing; gives the path."""
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _usual_permissions(path))
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
            raise StoreError(f"cannot write {path}: {reason}; choose another folder or make room") from error
        raise
    return path


def write_text_atomically(path: str | Path, content: str) -> Path:
    """The same for text, as UTF-8 with the line ends that it has; a lone surrogate becomes a question mark."""
    return write_bytes_atomically(path, content.encode("utf-8", errors="replace"))


def _usual_permissions(path: Path) -> int:
    """Those of the file that is replaced, else what `open` would have given; a temporary file is private by default."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return 0o666 & ~mask
