"""Files that lie, explode or would run code if anybody let them: what the hostile campaign is armed with."""

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors

from campaigns.trial import CANARY
from factscope.runs import store
from helpers.models import TOY

SCRIPT = '<script>alert(1)</script><img src=x onerror="alert(1)">'
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
DEEP = 200_000


class Touch:
    """Pickled, it makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (CANARY, "w"))


def pickled() -> bytes:
    """A pickle that runs code."""
    return pickle.dumps(Touch())


def torch_pickled() -> bytes:
    """As torch.save writes one."""
    import io

    packed = io.BytesIO()
    torch.save({"weight": Touch()}, packed)
    return packed.getvalue()


def lying_safetensors(lie: str) -> bytes:
    """A safetensors file whose header says what is not so."""
    entry: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    said: dict[str, Any] = {"x": entry}
    if lie == "long":
        return struct.pack("<Q", 2**62) + b"{}"
    if lie == "gigabytes":
        return struct.pack("<Q", 50 * 2**30) + b"{}"
    if lie == "deep":
        body = b'{"x":' * DEEP
        return struct.pack("<Q", len(body)) + body
    if lie == "list":
        return struct.pack("<Q", 3) + b"[1]"
    if lie == "overlap":
        said = {"x": entry, "y": entry}
    if lie == "beyond":
        entry["data_offsets"] = [0, 2**40]
    if lie == "overflow":
        entry["shape"] = [2**40, 2**40]
    if lie == "no shape":
        del entry["shape"]
    if lie == "dtype":
        entry["dtype"] = "PICKLE"
    if lie == "number":
        said = {"x": 7}
    body = json.dumps(said).encode()
    return struct.pack("<Q", len(body)) + body + bytes(8)


LIES = ("long", "gigabytes", "deep", "list", "overlap", "beyond", "overflow", "no shape", "dtype", "number")


def gguf(lie: str) -> bytes:
    """A GGUF file that ends early, or whose counts are beyond any file."""

    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    counts = {"tensors": (2**60, 0), "pairs": (0, 2**60)}.get(lie, (0, 1))
    head = b"GGUF" + struct.pack("<IQQ", 3, *counts)
    pair = text("general.architecture") + struct.pack("<I", 8)
    body = {
        "string": pair + struct.pack("<Q", 2**62),
        "array": text("x") + struct.pack("<IIQ", 9, 4, 2**61),
        "nested": text("x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000,
        "type": text("x") + struct.pack("<I", 999),
        "script": pair + text(SCRIPT),
        "pickle": pickled(),
        "traversal": pair + text("../../../etc/passwd"),
    }
    return head + body.get(lie, b"")


GGUFS = ("tensors", "pairs", "string", "array", "nested", "type", "script", "pickle", "traversal")


def run_folder(folder: Path, kind: str, result: Any, tensors: bytes | None = None) -> Path:
    """A run folder with a sound hash: what is in it is as a stranger wants it."""
    import hashlib

    packed = safetensors.save({"x": torch.zeros(2)}) if tensors is None else tensors
    document = {
        "kind": kind,
        "schema": store.SCHEMA,
        "tensors_sha256": hashlib.sha256(packed).hexdigest(),
        "tensors": {},
        "result": result,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / store.JSON).write_text(json.dumps(document))
    (folder / store.TENSORS).write_bytes(packed)
    return folder


def model_folder(folder: Path, **changes: Any) -> Path:
    """The toy's folder, with files written over it: by name, bytes, text or what is changed in the JSON."""
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("*.py", "toy_*.json", "__pycache__"))
    for name, content in changes.items():
        file = folder / name
        if isinstance(content, dict):
            before = json.loads(file.read_text()) if file.is_file() else {}
            file.write_text(json.dumps(before | content))
        elif isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content)
    return folder


def graphml(inside: str, head: str = "") -> str:
    """A GraphML document around nodes and edges."""
    return (
        f'<?xml version="1.0"?>{head}<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
        '<key id="l" for="graph" attr.name="layout" attr.type="string"/>'
        '<key id="r" for="edge" attr.name="readers" attr.type="string"/>'
        '<key id="s" for="edge" attr.name="score" attr.type="double"/>'
        f'<graph edgedefault="directed">{inside}</graph></graphml>'
    )


def laughs() -> str:
    """The bomb of a billion laughs."""
    entities = "".join(f'<!ENTITY l{number} "{f"&l{number - 1};" * 10 if number else "lol"}">' for number in range(12))
    return graphml('<node id="&l11;"/>', f"<!DOCTYPE graphml [{entities}]>")


def aliases(depth: int = 40) -> str:
    """The same in YAML."""
    lines = ["&a0 [x, x]"] + [f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, depth)]
    return f"sites: [{', '.join(lines)}]\n"
