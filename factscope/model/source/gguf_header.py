"""What a GGUF file says it is, read from its header, so that one that is no whole model is refused before any work.

A header is a count of tensors, pairs of names and values, and for each tensor its name, shape, format and place; the
numbers follow it (ggml's description of the format, versions 2 and 3). A file may be a part of a model that was split,
an adapter (LoRA), the vision part of a model (mmproj), or a download that stopped: each of these is one sentence here.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from factscope.errors import ModelError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_MOST_AXES = 4
_ALIGNED = 32  # bytes, where the file does not say


@dataclass(frozen=True)
class Header:
    """`said`: each pair, of a list its length; `tensors`: how many the file holds; `size`: bytes that they need."""

    said: Mapping[str, Any]
    tensors: int
    size: int


def check_gguf(file: Path) -> None:
    """ModelError, in one sentence, for a file that is not a whole causal language model with its tokenizer in GGUF."""
    if not file.is_file():
        raise ModelError(f"there is no file {file}")
    _check_kind(file.name, read_header(file))


def read_header(file: Path) -> Header:
    """The header of a GGUF file. ModelError for another format, and for a file that ends before it should."""
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ModelError(f"{file.name} does not begin like a GGUF file; it is another format or was cut short")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                found = _Reader(data).header()
            except (struct.error, ValueError, ArithmeticError, MemoryError) as trouble:
                raise ModelError(
                    f"the header of the GGUF file {file.name} cannot be read: it was cut short or is damaged; download "
                    "it again"
                ) from trouble
            if len(data) < found.size:
                raise ModelError(
                    f"the GGUF file {file.name} was cut short: its tensors take {found.size:,} bytes and it has "
                    f"{len(data):,}; download it again"
                )
    return found


def _check_kind(name: str, header: Header) -> None:
    said = header.said
    parts, kind = said.get("split.count", 1), said.get("general.type", "model")
    if parts != 1:
        raise ModelError(
            f"{name} is one of {parts} parts of a GGUF model; join them (llama.cpp: llama-gguf-split --merge "
            "FIRST.gguf WHOLE.gguf) and give the whole file"
        )
    if kind == "adapter":
        raise ModelError(
            f"{name} is a GGUF adapter (LoRA) and no model; give its base with --model and the adapter as PEFT wrote "
            "it, a folder, with --adapter"
        )
    if kind == "mmproj" or said.get("general.architecture") == "clip":
        raise ModelError(f"{name} is the vision part (mmproj) of a model; give the GGUF file of its language model")
    if kind != "model" or not header.tensors:
        raise ModelError(f"{name} is a GGUF file without a model's weights ({kind!r}); give the file that has them")
    if "general.architecture" not in said:
        raise ModelError(f"the GGUF file {name} does not name its architecture, so it cannot be read as a model")
    if said.get("tokenizer.ggml.model") in (None, "none", "no_vocab") or not said.get("tokenizer.ggml.tokens"):
        raise ModelError(
            f"the GGUF file {name} has no tokenizer in it; give another GGUF file of the model, or the Hugging Face "
            "folder or name that it was made from"
        )


class _Reader:
    """The bytes of a file, from the first to the last; struct.error or ValueError where they do not make sense."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def header(self) -> Header:
        if (version := self.number("I")) not in (2, 3):
            raise ValueError(f"version {version}")
        tensors, pairs = self.number("Q"), self.number("Q")
        said = {}
        for _ in range(pairs):
            key = self.text()
            said[key] = self.value(self.number("I"))
        ends = [self.end_of_tensor() for _ in range(tensors)]
        aligned = max(1, int(said.get("general.alignment", _ALIGNED)))
        return Header(said, tensors, math.ceil(self.at / aligned) * aligned + max(ends, default=0))

    def end_of_tensor(self) -> int:
        """Where the next tensor's numbers end, counted from where all numbers begin."""
        self.text()
        axes = self.number("I")
        if axes > _MOST_AXES:
            raise ValueError(f"{axes} axes")
        count = math.prod(self.number("Q") for _ in range(axes))
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self.number("I"))]
        end: int = self.number("Q") + count // block * size
        return end

    def value(self, kind: int) -> Any:
        """A number or a text; of a list, its length."""
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            return self.number(_NUMBERS.get(kind, "no such kind"))
        each, count = self.number("I"), self.number("Q")
        if each == _TEXT:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            self.skip(count * struct.calcsize(_NUMBERS.get(each, "no such kind")))
        return count

    def text(self) -> str:
        size = self.number("Q")
        self.skip(size)
        return self.data[self.at - size : self.at].decode("utf-8")

    def number(self, kind: str) -> Any:
        (found,) = struct.unpack_from(f"<{kind}", self.data, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return found

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("beyond the end")
