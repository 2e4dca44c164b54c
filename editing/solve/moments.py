"""What ordinary keys look like: the second moment C = mean of k k' over running text, layer by layer.

C tells an edit which directions of a key space are in use, so that it can write where little else reads. The text is
`corpus.py`'s. All wanted layers are collected in one pass; the blocks above the highest are not run. Position 0 is left
out and counted: it is an attention sink whose keys are enormous and the same in every document.

As many keys are counted as are asked for: by default 8 for each key dimension, and the diagonal of C is given the
weight that held-out keys ask for (`shrinkage.py`): the update's direction C^-1 k is then nearer to that of much more
text than twice as many keys give without. With fewer tokens than key dimensions nothing is collected. Whether there
were enough is measured: `changes` says by how much the direction of an update, for ordinary keys k, still moved from a
quarter of the tokens to the half and from the half to all of them. Collecting is resumable: every piece of text and the
sums after it are on disk before the next begins.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from editing.edit import base_of, in_place
from editing.solve import corpus
from editing.solve.closed_form import cholesky
from editing.solve.corpus import NOTHING, Config, pieces
from editing.solve.shrinkage import chosen, shrunk
from factscope.cache import cache_folder, digest
from factscope.errors import EditError, StoreError
from factscope.files import write_bytes_atomically
from factscope.model.bridge import Bridge, device, info, run_blocks
from factscope.model.forward.batched import padded
from factscope.model.forward.subject import check_written
from factscope.model.hooks import hooked
from factscope.model.sites import Site
from factscope.model.weights import key_width
from factscope.progress import progress
from factscope.runs import store

NAMED = "content.sha256"  # in a folder of the user's: what its moments are of
PROBES = 8  # ordinary keys whose update direction is watched for convergence


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of some layers' keys."""

    matrices: dict[str, Float[Tensor, "d_mlp d_mlp"]]  # by layer, as text; float32
    tokens: int  # keys that were counted
    left_out: int  # keys at position 0 that were not
    base: str  # fingerprint of the model
    model: str
    corpus: str  # SHA-256 of the token ids
    config: Config
    changes: dict[str, tuple[float, ...]]  # by layer: relative change of C^-1 k at 1/4 -> 1/2 -> 1 of the tokens
    conditions: dict[str, float]  # by layer: largest eigenvalue over smallest
    priors: dict[str, float] = field(default_factory=dict)  # by layer: keys a dimension that its diagonal weighs in it
    own: int = 0  # keys of what the model wrote itself

    @property
    def name(self) -> str:
        """What an edit says it used."""
        more = " and its own" if 0 < self.own < self.tokens else ""
        return f"{self.config.source}{more} text, {self.tokens} tokens, corpus {self.corpus[:12]}"

    def of(self, layer: int) -> Float[Tensor, "d_mlp d_mlp"]:
        """C of one layer, float64; EditError if it was not collected."""
        if str(layer) not in self.matrices:
            there = ", ".join(self.matrices)
            raise EditError(f"these moments hold layers {there}, not {layer}: collect it with edit moments")
        return self.matrices[str(layer)].double()

    def check(self, model: Bridge, base: str | None = None) -> None:
        """Raise EditError unless they were collected on this model; `base` is its fingerprint, if known."""
        base = base or base_of(model)
        if base != self.base:
            raise EditError(
                f"these moments were collected on {self.model} with fingerprint {self.base[:12]}, and this model has "
                f"{base[:12]}: collect them on this model"
            )


def collect(
    model: Bridge,
    layers: Sequence[int],
    config: Config | None = None,
    *,
    folder: Path | None = None,
    shown: bool | None = None,
) -> Moments:
    """Second moments of `layers`, from `folder` (the cache by default) as far as they are there, else collected.

    Raises EditError: fewer tokens than key dimensions, a text that is not there, edits in place.
    """
    config = config or Config()
    if in_place(model):
        raise EditError("moments are collected on the model as it was: take the edits out first")
    for layer in layers:
        check_written(model, layer)
    if (tokens := config.wanted(model)) < (width := key_width(model)):
        raise EditError(
            f"{tokens} tokens cannot fill a second moment of {width} dimensions: ask for at least {width}, better ten "
            "times as many"
        )
    if config.document < 2:
        raise EditError("documents of one token have only the position that is left out: ask for longer ones")
    config, own = corpus.settled(model, config)
    base = base_of(model)
    named = _name(config, base)
    place = folder or _kept(model, named)
    known = _load(place / "done", base)
    if folder is not None:
        _check_own(
            folder, named, None if known is None else known.config == config and not corpus.is_file(config.source)
        )
    if known is not None:
        known = replace(known, config=config)  # the same text may have been called otherwise
    missing = [layer for layer in layers if known is None or str(layer) not in known.matrices]
    if known is not None and not missing:
        return known
    fresh = replace(_collect(model, missing, config, base, place, shown), own=own)
    if known is not None and known.corpus == fresh.corpus:
        fresh = Moments(
            known.matrices | fresh.matrices, fresh.tokens, fresh.left_out, base, fresh.model, fresh.corpus, config,
            known.changes | fresh.changes, known.conditions | fresh.conditions, known.priors | fresh.priors, own,
        )  # fmt: skip
    store.save(fresh, place / "done")
    return fresh


def _name(config: Config, base: str) -> str:
    return digest([replace(config, source=corpus.content_of(config.source)), base])


def _kept(model: Bridge, named: str) -> Path:
    return cache_folder() / "moments" / f"{info(model).name}-{named[:16]}"


def place_of(model: Bridge, moments: Moments) -> Path:
    """The folder of the cache for what belongs to these moments: their text, and what else is read of it."""
    return _kept(model, _name(moments.config, moments.base))


def _check_own(folder: Path, named: str, same: bool | None) -> None:
    """EditError if a folder that the user chose holds moments of another text or model, or of other settings.

    `same` says of moments of an older version that are there whether they are certainly those that are asked for.
    """
    file = folder / NAMED
    found = file.read_text(encoding="utf-8") if file.is_file() else named if same in (None, True) else ""
    if found != named:
        raise EditError(
            f"{folder} holds second moments of another text, model or setting: choose another folder with --out"
        )
    write_bytes_atomically(file, named.encode())


def _load(folder: Path, base: str) -> Moments | None:
    try:
        found = store.load(folder, Moments)
    except StoreError:
        return None
    if not found.priors:  # of an older version, which took C as it was counted
        found = replace(found, priors=dict.fromkeys(found.matrices, 0.0), config=replace(found.config, prior=0.0))
    return found if found.base == base and found.tokens == found.config.tokens else None  # once, more were counted


@torch.no_grad()
def _collect(
    model: Bridge, layers: Sequence[int], config: Config, base: str, place: Path, shown: bool | None
) -> Moments:
    names, wanted = [str(layer) for layer in layers], config.wanted(model)
    work = place / ("work-" + "-".join(names))
    sums, state, read = _resume(work, {name: key_width(model, int(name)) for name in names})
    with progress(f"second moments of {len(layers)} layers, tokens", wanted, state["tokens"], shown) as advance:
        for rows, after in pieces(model, config, place, state):
            read = hashlib.sha256(read + json.dumps(rows).encode()).digest()
            keys = keys_of_text(model, layers, rows)
            for name, layer in zip(names, layers, strict=True):
                keys_read = keys[layer][: after["tokens"] - state["tokens"]]
                if not state["pieces"]:
                    sums[f"{name}.probes"] = keys_read[:: max(1, len(keys_read) // PROBES)][:PROBES].double().cpu()
                _add(sums, name, keys_read, state["tokens"], wanted)
            state = after
            _keep(work, sums, state, read)
            advance(len(keys_read))
    if state["tokens"] < wanted:
        raise EditError(
            f"the text has only {state['tokens']} tokens to count, and {wanted} are asked for: give more text, or ask "
            f"for fewer tokens, of {key_width(model)} at least"
        )
    found = {name: _estimated(sums, name, wanted, config.prior) for name in names}
    spectra = {name: torch.linalg.eigvalsh(matrix) for name, (matrix, _, _) in found.items()}
    conditions = {name: float(s[-1] / s[0].clamp_min(1e-300)) for name, s in spectra.items()}
    shutil.rmtree(work, ignore_errors=True)
    return Moments(
        {name: matrix.float() for name, (matrix, _, _) in found.items()},
        wanted, state["left_out"], base, info(model).name, read.hex(), config,
        {name: changes for name, (_, changes, _) in found.items()}, conditions,
        {name: prior for name, (_, _, prior) in found.items()},
    )  # fmt: skip


def keys_of_text(
    model: Bridge, layers: Sequence[int], rows: Sequence[Sequence[int]]
) -> dict[int, Float[Tensor, "token d"]]:
    """Keys at every position but the first of these documents, for all `layers` in one pass."""
    tokens = padded(rows).to(device(model))
    counted = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    for row, ids in enumerate(rows):
        counted[row, 1 : len(ids)] = True
    found: dict[int, Tensor] = {}

    def keeper(layer: int) -> Any:
        def keep(activation: Tensor) -> None:
            found[layer] = activation[counted].float()

        return keep

    top = max(layers) + 1
    stop = {"stop_at_layer": top} if top < model.cfg.n_layers else {}
    with hooked(model, [(Site("mlp_hidden", layer), keeper(layer)) for layer in layers]):
        if stop:
            model(tokens, use_cache=False, **stop)
        else:
            run_blocks(model, tokens)
    return found


def _add(sums: dict[str, Tensor], name: str, found: Float[Tensor, "token d"], before: int, wanted: int) -> None:
    """Sum k k' of these keys after `before` others; C at exactly a quarter and half of the wanted ones is kept."""
    begin = 0
    for part, mark in (("quarter", wanted // 4), ("half", wanted // 2), ("", before + len(found))):
        some = found[begin : max(mark - before, 0)]
        sums[f"{name}.sum"] += (some.T @ some).double().cpu()
        begin += len(some)
        if part and before < mark <= before + len(found):
            sums[f"{name}.{part}"] = sums[f"{name}.sum"] / mark


def _estimated(
    sums: dict[str, Tensor], name: str, keys: int, prior: float | None
) -> tuple[Tensor, tuple[float, ...], float]:
    """C of a layer, its `changes`, and the prior: the one that is given, or the one that half of the keys ask for."""
    whole, half = sums[f"{name}.sum"] / keys, sums[f"{name}.half"]
    first = keys // 2
    if prior is None:
        prior = chosen(half, (sums[f"{name}.sum"] - first * half) / (keys - first), first)
    parts = [shrunk(sums[f"{name}.quarter"], keys // 4, prior), shrunk(half, first, prior), shrunk(whole, keys, prior)]
    return parts[-1], _changes(parts, sums[f"{name}.probes"].T), prior


def _changes(parts: Sequence[Tensor], probes: Float[Tensor, "d probe"]) -> tuple[float, ...]:
    """||A^-1 k - B^-1 k|| / ||B^-1 k|| from each part A to the next B, each scaled so that k B^-1 k = 1; mean of k."""
    out, before = [], None
    for matrix in parts:
        directions = torch.cholesky_solve(
            probes, cholesky(matrix + 1e-9 * matrix.diagonal().mean() * torch.eye(len(matrix)))[0]
        )
        directions = directions / (probes * directions).sum(0)
        if before is not None:
            out.append(float(((directions - before).norm(dim=0) / directions.norm(dim=0)).mean()))
        before = directions
    return tuple(out)


# ---- resuming ----


def _resume(work: Path, widths: Mapping[str, int]) -> tuple[dict[str, Tensor], dict[str, int], bytes]:
    """Sums, state and the corpus's digest, as they were kept or of nothing."""
    try:
        sums = load_file(work / "parts.safetensors")
        state = {name: int(sums.pop(f"state.{name}")) for name in ("pieces", "tokens", "left_out")}
        return sums, state, bytes(sums.pop("corpus").tolist())
    except (OSError, SafetensorError, KeyError, ValueError):  # nothing there, or cut short: begin anew
        zeros = {f"{name}.sum": torch.zeros(width, width, dtype=torch.float64) for name, width in widths.items()}
        return zeros, dict(NOTHING), b""


def _keep(work: Path, sums: dict[str, Tensor], state: dict[str, int], corpus: bytes) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in sums.items()}
    tensors |= {f"state.{name}": torch.tensor(value) for name, value in state.items()}
    tensors["corpus"] = torch.tensor(list(corpus), dtype=torch.uint8)
    write_bytes_atomically(work / "parts.safetensors", save(tensors))
