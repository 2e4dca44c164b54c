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
from pathlib import Path, PurePath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from editing.edit import base_of, in_place
from editing.solve import corpus
from editing.solve.corpus import NOTHING, Config, pieces
from editing.solve.sums import Sums
from editing.weights.extremes import bounds
from factscope.cache import cache_folder, digest
from factscope.errors import EditError, StoreError
from factscope.files import sweep, write_bytes_atomically
from factscope.model.bridge import Bridge, info, run_up_to
from factscope.model.forward.at_once import bytes_of, fitting
from factscope.model.forward.batched import padded
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.subject import check_written
from factscope.model.hooks import hooked
from factscope.model.sites import Site
from factscope.model.source.room import counting, free
from factscope.model.weights import key_width
from factscope.plots.escape import slug
from factscope.progress import progress
from factscope.runs import store

NAMED = "content.sha256"  # in a folder of the user's: what its moments are of
# Bytes for each number of C: of a layer's sums, and of what one C is made of at the end; a test counts no more.
SUMMED, MADE = 10, 74
DAY = 86400.0  # seconds after which nobody is still writing a file


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
    sweep(place, age=DAY)  # not younger files: other processes may be at work in the cache
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
    name = info(model).name  # of an owner and a model, or, of a model that was wrapped, whatever its files say
    plain = name if PurePath(name).is_relative_to(".") and ".." not in PurePath(name).parts else slug(name)
    return cache_folder() / "moments" / f"{plain}-{named[:16]}"


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
    _check_room(len(names), key_width(model))
    sums = Sums.taken_up(work, {name: key_width(model, int(name)) for name in names}, NOTHING)
    done = sums.state["tokens"]
    with progress(f"second moments of {len(layers)} layers, tokens", wanted, done, shown) as advance:
        for rows, after in pieces(model, config, place, sums.state):
            sums.corpus = hashlib.sha256(sums.corpus + json.dumps(rows).encode()).digest()
            advance(add_piece(sums, model, rows, after, wanted))
            sums.keep(work)
    if sums.state["tokens"] < wanted:
        raise EditError(
            f"the text has only {sums.state['tokens']} tokens to count, and {wanted} are asked for: give more text, or "
            f"ask for fewer tokens, of {key_width(model)} at least"
        )
    matrices, changes, conditions, priors = {}, {}, {}, {}
    for name in names:
        matrix, changes[name], priors[name] = sums.estimated(name, wanted, config.prior)
        most, least = bounds(matrix)
        matrices[name], conditions[name] = matrix.float(), most / max(least, 1e-300)
    shutil.rmtree(work, ignore_errors=True)
    return Moments(
        matrices, wanted, sums.state["left_out"], base, info(model).name, sums.corpus.hex(), config, changes,
        conditions, priors,
    )  # fmt: skip


def _check_room(layers: int, width: int) -> None:
    """EditError where the sums of so many layers, and what one layer's C is made of at the end, find no room."""
    room, size = free("cpu"), width * width
    needed = [SUMMED * size * count + MADE * size for count in (layers, 1)]
    if room is None or needed[0] <= room or counting():
        return
    few = layers > 1 and needed[1] <= room
    remedy = (
        "collect them layer by layer before, with edit moments --layer"
        if few
        else "edits can do without, with --moments identity"
    )
    raise EditError(
        f"second moments of {layers} layer{'s' * (layers > 1)} with keys of {width} dimensions take "
        f"{needed[0] / 1e9:.2g} GB of the processor's memory, and {room / 1e9:.2g} are free: {remedy}"
    )


def add_piece(sums: Sums, model: Bridge, rows: Sequence[Sequence[int]], after: Mapping[str, int], wanted: int) -> int:
    """Read these documents and add the keys of their layers, of `wanted` in all; gives how many were counted.

    `after` is the state of the text after them.
    """
    keys = keys_of_text(model, [int(name) for name in sums.layers], rows)
    count = after["tokens"] - sums.state["tokens"]
    for name in sums.layers:
        sums.add(name, keys.pop(int(name))[:count], wanted)
    sums.state = dict(after)
    return count


def keys_of_text(
    model: Bridge, layers: Sequence[int], rows: Sequence[Sequence[int]]
) -> dict[int, Float[Tensor, "token d"]]:
    """Keys at every position but the first of these documents, for all `layers` in one pass, if it finds room."""
    longest = max(len(row) for row in rows)
    size = fitting(model, len(rows), bytes_of(model, 1, longest, 0, 0), f"the states of a text of {longest} tokens")
    parts = [_keys(model, layers, rows[first : first + size]) for first in range(0, len(rows), size)]
    return parts[0] if len(parts) == 1 else {layer: torch.cat([part[layer] for part in parts]) for layer in layers}


@thin_products()
def _keys(model: Bridge, layers: Sequence[int], rows: Sequence[Sequence[int]]) -> dict[int, Float[Tensor, "token d"]]:
    tokens = padded(model, rows)
    counted = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    for row, ids in enumerate(rows):
        counted[row, 1 : len(ids)] = True
    found: dict[int, Tensor] = {}

    def keeper(layer: int) -> Any:
        def keep(activation: Tensor) -> None:
            found[layer] = activation[counted].float()

        return keep

    with hooked(model, [(Site("mlp_hidden", layer), keeper(layer)) for layer in layers]):
        run_up_to(model, tokens, max(layers))
    return found
