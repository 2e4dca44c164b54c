"""The sums behind second moments: symmetric, so their lower triangle alone, a piece of text at a time.

k k' is the same above and below its diagonal. A `Triangle` holds it in rows of blocks from the left edge to the
diagonal, little more than half of the matrix, and adds a piece of keys by the products of those blocks alone. `Sums`
holds one for each layer, in float64, and what C was at a quarter and at half of the wanted keys, in float32 as C itself
is kept. Of all activations no more is held than those of one piece.

On disk every layer's sums are a file of their own, written anew after each piece, and what C was at a quarter and a
half is written once. One small file names the piece that all of them are of, and is written last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from editing.solve.closed_form import cholesky
from editing.solve.shrinkage import chosen, shrunk
from factscope.files import write_bytes_atomically

BLOCK = 1024  # rows of a block; up to so many dimensions the triangle is the whole matrix
PROBES = 8  # ordinary keys whose update direction is watched for convergence
PARTS = ("quarter", "half")  # of the wanted keys, at which C is kept


class Triangle:
    """A symmetric matrix, from the left edge to the block of the diagonal."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self.rows = list(rows)

    @classmethod
    def zeros(cls, width: int) -> "Triangle":
        """Of nothing, float64."""
        ends = [min(begin + BLOCK, width) for begin in range(0, width, BLOCK)]
        starts = [0, *ends[:-1]]
        return cls(
            [torch.zeros(end - begin, end, dtype=torch.float64) for begin, end in zip(starts, ends, strict=True)]
        )

    def add(self, keys: Float[Tensor, "token d"]) -> None:
        """Add the sum of k k' over these keys."""
        for row in self.rows:
            end = row.shape[1]
            row += (keys[:, end - len(row) : end].T @ keys[:, :end]).double().cpu()

    def over(self, count: int) -> "Triangle":
        """Divided by this, in float32."""
        return Triangle([(row / count).float() for row in self.rows])

    def whole(self) -> Float[Tensor, "d d"]:
        """Both triangles, float64."""
        width = self.rows[-1].shape[1]
        out = torch.empty(width, width, dtype=torch.float64)
        for row in self.rows:
            end = row.shape[1]
            begin = end - len(row)
            out[begin:end, :end] = row
            out[:begin, begin:end] = row[:, :begin].T
        return out


@dataclass(eq=False)
class Sums:
    """Of all layers that are collected together."""

    layers: dict[str, Triangle]
    state: dict[str, int]  # pieces, tokens, left out
    corpus: bytes = b""  # SHA-256 of what was read
    parts: dict[str, dict[str, Triangle]] = field(default_factory=dict)  # part, layer -> C at that part of the keys
    probes: dict[str, Float[Tensor, "probe d"]] = field(default_factory=dict)

    @classmethod
    def of(cls, widths: Mapping[str, int], state: Mapping[str, int]) -> "Sums":
        """Of nothing, for layers of these key dimensions."""
        return cls({name: Triangle.zeros(width) for name, width in widths.items()}, dict(state))

    def add(self, name: str, found: Float[Tensor, "token d"], wanted: int) -> None:
        """Add the keys of one piece of text, of `wanted` in all, after those that `state` says were added before."""
        before, begin = self.state["tokens"], 0
        if name not in self.probes:
            self.probes[name] = found[:: max(1, len(found) // PROBES)][:PROBES].double().cpu()
        for part, mark in (*zip(PARTS, (wanted // 4, wanted // 2), strict=True), ("", before + len(found))):
            some = found[begin : max(mark - before, 0)]
            self.layers[name].add(some)
            begin += len(some)
            if part and before < mark <= before + len(found):
                self.parts.setdefault(part, {})[name] = self.layers[name].over(mark)

    def estimated(self, name: str, keys: int, prior: float | None) -> tuple[Tensor, tuple[float, ...], float]:
        """C of a layer, its `changes`, and the prior: the one that is given, or the one that half of the keys ask for.

        `changes` is ||A^-1 k - B^-1 k|| / ||B^-1 k|| from each part A to the next B, each scaled so that k B^-1 k = 1;
        the mean over the probes k.
        """
        whole, half = self.layers[name].whole() / keys, self.parts["half"][name].whole()
        first = keys // 2
        if prior is None:
            prior = chosen(half, (whole * keys - first * half) / (keys - first), first)
        directions = [self._directions(name, shrunk(half, first, prior))]
        del half
        quarter = self.parts["quarter"][name].whole()
        directions = [self._directions(name, shrunk(quarter, keys // 4, prior)), *directions]
        del quarter
        whole = shrunk(whole, keys, prior)
        directions.append(self._directions(name, whole))
        moved = [(one - then).norm(dim=0) / then.norm(dim=0) for one, then in pairwise(directions)]
        return whole, tuple(float(each.mean()) for each in moved), prior

    def _directions(self, name: str, matrix: Tensor) -> Float[Tensor, "d probe"]:
        probes = self.probes[name].T
        eye = torch.eye(len(matrix), dtype=matrix.dtype)
        found = torch.cholesky_solve(probes, cholesky(matrix + 1e-9 * matrix.diagonal().mean() * eye)[0])
        return found / (probes * found).sum(0)

    # ---- on disk ----

    def keep(self, work: Path) -> None:
        """Write what is new since the last time; a stop at any moment leaves the last piece or this."""
        said = {"state": self.state, "corpus": self.corpus.hex(), "layers": list(self.layers), "parts": [*self.parts]}
        number = self.state["pieces"]
        for name, triangle in self.layers.items():
            _write(work / f"{name}-{number}.safetensors", triangle.rows, self.probes[name])
            for part, kept in self.parts.items():
                if name in kept and not (work / f"{name}-{part}.safetensors").is_file():
                    _write(work / f"{name}-{part}.safetensors", kept[name].rows)
        write_bytes_atomically(work / "state.json", json.dumps(said).encode())
        for name in self.layers:
            (work / f"{name}-{number - 1}.safetensors").unlink(missing_ok=True)

    @classmethod
    def taken_up(cls, work: Path, widths: Mapping[str, int], nothing: Mapping[str, int]) -> "Sums":
        """As they were kept in the folder; of nothing where it holds none, or files that were cut short."""
        try:
            said = json.loads((work / "state.json").read_text(encoding="utf-8"))
            made = cls({}, said["state"], bytes.fromhex(said["corpus"]))
            for name in said["layers"]:
                made.layers[name], probes = _read(work / f"{name}-{made.state['pieces']}.safetensors")
                made.probes[name] = probes["probes"]
                for part in said["parts"]:
                    made.parts.setdefault(part, {})[name] = _read(work / f"{name}-{part}.safetensors")[0]
        except (OSError, SafetensorError, KeyError, ValueError):
            return cls.of(widths, nothing)
        return made


def _write(place: Path, rows: Sequence[Tensor], probes: Tensor | None = None) -> None:
    tensors = {f"row.{number:04d}": row.contiguous() for number, row in enumerate(rows)}
    if probes is not None:
        tensors["probes"] = probes.contiguous()
    write_bytes_atomically(place, save(tensors))


def _read(place: Path) -> tuple[Triangle, dict[str, Tensor]]:
    tensors = load_file(place)
    rows = [tensors.pop(name) for name in sorted(name for name in tensors if name.startswith("row."))]
    return Triangle(rows), tensors
