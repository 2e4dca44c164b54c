"""The versions of the programs that numbers come from."""

import platform
from importlib import metadata

LIBRARIES = ("torch", "transformer-lens", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Of Python and of the libraries, by name."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in LIBRARIES}
