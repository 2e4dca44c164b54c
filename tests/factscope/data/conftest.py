"""A file of records, for the tests of what reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(value) makes mine.json of records, of a text as it stands, or of bytes."""

    def write_(value: Any, name: str = "mine.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_
