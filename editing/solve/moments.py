"""What ordinary keys look like: the second moment C = mean of k k' over running text, layer by layer.

C tells an edit which directions of a key space are in use, so that it can write where little else reads. The text can
be a file, a folder, a Hugging Face data set, or (the default) what the model itself writes from its start token: no
data set is needed. All wanted layers are collected in one pass; the blocks above the highest are not run. Position 0
is left out and counted: it is an attention sink whose keys are enormous and the same in every document.

As many keys are counted as are asked for: by default 16 for each key dimension, so that of white keys the eigenvalues
of C lie within (1 +- 1/4)^2 of the true ones (Marchenko and Pastur 1967). With fewer tokens than key dimensions C is
singular, and such a C is refused. Whether there were enough is measured: `changes` says by how much the direction of an
update, C^-1 k for ordinary keys k, still moved from a quarter of the tokens to the half and from the half to all of
them. Collecting is resumable: every piece of text and the sums after it are on disk before the next begins.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from editing.contexts import OPENINGS
from editing.edit import base_of, in_place
from editing.solve.closed_form import cholesky
from factscope.cache import cache_folder, content, digest
from factscope.errors import EditError, StoreError
from factscope.files import write_bytes_atomically
from factscope.model.bridge import Bridge, device, info, run_blocks
from factscope.model.forward.batched import padded
from factscope.model.forward.generate import sample
from factscope.model.forward.subject import check_written
from factscope.model.hooks import hooked
from factscope.model.prompts import start_ids, token_ids
from factscope.model.sites import Site
from factscope.model.weights import key_width
from factscope.progress import progress
from factscope.runs import store

SELF = "self"
IDENTITY = "identity"  # no text: the identity stands in for second moments
TAKEN = "give self, a text file, a folder of .txt files, or a Hugging Face data set (owner/name or owner/name@COMMIT)"
NAMED = "content.sha256"  # in a folder of the user's: what its moments are of
PER_DIMENSION = 16  # tokens by default, for each dimension of a key
ATTEMPTS = 20  # at a piece of text
PROBES = 8  # ordinary keys whose update direction is watched for convergence


@dataclass(frozen=True)
class Config:
    """Which text, and how much of it."""

    source: str = SELF  # "self", a text file, a folder of .txt files, or a Hugging Face data set
    tokens: int | None = None  # keys to count; None: `PER_DIMENSION` times the key dimension
    document: int = 128  # tokens of one document, or as many as the model can read; longer ones are cut
    rows: int = 96  # documents of one piece of work; fewer read the weights as often for less text
    seed: int = 0
    start: str = "auto"

    def wanted(self, model: Bridge) -> int:
        """How many keys are counted on this model."""
        return self.tokens if self.tokens is not None else PER_DIMENSION * key_width(model)


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

    @property
    def name(self) -> str:
        """What an edit says it used."""
        return f"{self.config.source} text, {self.tokens} tokens, corpus {self.corpus[:12]}"

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
    document = min(config.document, int(model.cfg.n_ctx))
    config = replace(config, tokens=(tokens := config.wanted(model)), document=document)
    if in_place(model):
        raise EditError("moments are collected on the model as it was: take the edits out first")
    for layer in layers:
        check_written(model, layer)
    if tokens < (width := key_width(model)):
        raise EditError(
            f"{tokens} tokens cannot fill a second moment of {width} dimensions: ask for at least {width}, better ten "
            "times as many"
        )
    if config.document < 2:
        raise EditError("documents of one token have only the position that is left out: ask for longer ones")
    base = base_of(model)
    named = _name(config, base)
    place = folder or _kept(model, named)
    known = _load(place / "done", base)
    if folder is not None:
        _check_own(folder, named, None if known is None else known.config == config and not _files(config.source))
    if known is not None:
        known = replace(known, config=config)  # the same text may have been called otherwise
    missing = [layer for layer in layers if known is None or str(layer) not in known.matrices]
    if known is not None and not missing:
        return known
    fresh = _collect(model, missing, config, base, place, shown)
    if known is not None and known.corpus == fresh.corpus:
        fresh = Moments(
            known.matrices | fresh.matrices, fresh.tokens, fresh.left_out, base, fresh.model, fresh.corpus, config,
            known.changes | fresh.changes, known.conditions | fresh.conditions,
        )  # fmt: skip
    store.save(fresh, place / "done")
    return fresh


def _name(config: Config, base: str) -> str:
    return digest([replace(config, source=content_of(config.source)), base])


def _kept(model: Bridge, named: str) -> Path:
    return cache_folder() / "moments" / f"{info(model).name}-{named[:16]}"


def place_of(model: Bridge, moments: Moments) -> Path:
    """The folder of the cache for what belongs to these moments: their text, and what else is read of it."""
    return _kept(model, _name(moments.config, moments.base))


def content_of(source: str) -> str:
    """What names a text: SHA-256 of the file, or of the folder's files; a data set's name and commit; "self" and
    "identity" themselves.

    Raises EditError as `texts` does.
    """
    if source in (SELF, IDENTITY):
        return source
    return content(files) if (files := _files(source)) else "@".join(_commit(source))


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
    return found if found.base == base and found.tokens == found.config.tokens else None  # once, more were counted


@torch.no_grad()
def _collect(
    model: Bridge, layers: Sequence[int], config: Config, base: str, place: Path, shown: bool | None
) -> Moments:
    names, wanted = [str(layer) for layer in layers], config.wanted(model)
    work = place / ("work-" + "-".join(names))
    sums, state, corpus = _resume(work, {name: key_width(model, int(name)) for name in names})
    with progress(f"second moments of {len(layers)} layers, tokens", wanted, state["tokens"], shown) as advance:
        for rows, after in pieces(model, config, place, state):
            corpus = hashlib.sha256(corpus + json.dumps(rows).encode()).digest()
            keys = keys_of_text(model, layers, rows)
            for name, layer in zip(names, layers, strict=True):
                found = keys[layer][: after["tokens"] - state["tokens"]]
                if not state["pieces"]:
                    sums[f"{name}.probes"] = found[:: max(1, len(found) // PROBES)][:PROBES].double().cpu()
                _add(sums, name, found, state["tokens"], wanted)
            state = after
            _keep(work, sums, state, corpus)
            advance(len(found))
    if state["tokens"] < wanted:
        raise EditError(
            f"the text has only {state['tokens']} tokens to count, and {wanted} are asked for: give more text, or ask "
            f"for fewer tokens, of {key_width(model)} at least"
        )
    matrices = {name: sums[f"{name}.sum"] / state["tokens"] for name in names}
    changes = {name: _changes(sums, name, matrices[name]) for name in names}
    spectra = {name: torch.linalg.eigvalsh(matrix) for name, matrix in matrices.items()}
    conditions = {name: float(s[-1] / s[0].clamp_min(1e-300)) for name, s in spectra.items()}
    shutil.rmtree(work, ignore_errors=True)
    return Moments(
        {name: matrix.float() for name, matrix in matrices.items()},
        state["tokens"], state["left_out"], base, info(model).name, corpus.hex(), config, changes, conditions,
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


def _changes(sums: dict[str, Tensor], name: str, final: Tensor) -> tuple[float, ...]:
    """||C_half^-1 k - C_full^-1 k|| / ||C_full^-1 k||, each scaled so that k C^-1 k = 1, averaged over the probes."""
    probes, out, before = sums[f"{name}.probes"].T, [], None
    for matrix in (sums[f"{name}.quarter"], sums[f"{name}.half"], final):
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


# ---- text ----

Draw = Callable[[int, int], list[list[int]]]  # number of the piece, documents -> token ids; empty at the text's end
NOTHING = {"pieces": 0, "tokens": 0, "left_out": 0}  # read so far


def pieces(
    model: Bridge, config: Config, place: Path, state: dict[str, int]
) -> Iterator[tuple[list[list[int]], dict[str, int]]]:
    """The text after what `state` says was read, a piece of documents at a time, with the state after it.

    All positions but the first of each document are counted, until there are as many as wanted.
    """
    wanted, draw = config.wanted(model), _drawing(model, config, place, state["left_out"])
    while state["tokens"] < wanted and (rows := draw(state["pieces"], _documents(config, wanted, state))):
        counted = state["tokens"] + sum(len(row) - 1 for row in rows)
        state = {
            "pieces": state["pieces"] + 1,
            "tokens": min(counted, wanted),
            "left_out": state["left_out"] + len(rows),
        }
        yield rows, state


def _documents(config: Config, wanted: int, state: dict[str, int]) -> int:
    """How many documents the next piece needs, if they are as long as those before; at most `config.rows`."""
    length = state["tokens"] / state["left_out"] if state["tokens"] else config.document - 1
    return min(config.rows, math.ceil((wanted - state["tokens"]) / length))


def _drawing(model: Bridge, config: Config, place: Path, read: int) -> Draw:
    """How pieces are drawn; `read` documents of a given text were drawn before."""
    if config.source == SELF:
        return lambda number, count: _self_written(model, config, place, number, count)
    rows = islice(_tokenised(model, config), read, None)
    return lambda _, count: list(islice(rows, count))


def _tokenised(model: Bridge, config: Config) -> Iterator[list[int]]:
    first = start_ids(model, config.start)
    for text in texts(config.source):
        ids = token_ids(model, text)[: config.document - len(first)]
        if len(ids) + len(first) >= 2:
            yield [*first, *ids]


def _self_written(model: Bridge, config: Config, place: Path, number: int, count: int) -> list[list[int]]:
    """Piece `number` of the model's own text, of `count` documents: plain sampling at temperature 1, by its own seed.

    Kept in `place`, where other layers of the same model find it. Raises EditError where every document is empty.
    """
    file = place / "text" / f"{number:05d}-{count}.json"
    try:
        return list(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass
    first = start_ids(model, config.start)
    if not first:  # no document start: begin with an opening word
        first = token_ids(model, OPENINGS[number % len(OPENINGS)])
    begin: Int[Tensor, "row pos"] = torch.tensor([first] * count)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
    rows: list[list[int]] = []
    for _ in range(
        ATTEMPTS
    ):  # the last document of all may be empty; that of a model that never writes is not the last
        if rows := _without_tail(sample(model, begin, config.document, generator).tolist(), model, len(first)):
            break
    else:
        raise EditError("the model ends each text where it begins: give a text for its second moments")
    write_bytes_atomically(file, json.dumps(rows).encode())
    return rows


def _without_tail(rows: list[list[int]], model: Bridge, begun: int) -> list[list[int]]:
    """Each row up to where the model ended its document."""
    ends = {getattr(model.tokenizer, "eos_token_id", None), *start_ids(model)}
    out = []
    for row in rows:
        stop = next((i for i, token in enumerate(row) if i >= begun and token in ends), len(row))
        if stop > 1:
            out.append(row[:stop])
    return out


def texts(source: str) -> Iterator[str]:
    """Documents of a text file (parted by empty lines), a folder of .txt files, or a Hugging Face data set's "text"."""
    files = _files(source)
    for file in files:
        yield from (part for part in file.read_text(encoding="utf-8", errors="replace").split("\n\n") if part.strip())
    if files:
        return
    name, commit = _commit(source)
    try:
        import datasets
    except ImportError as trouble:
        raise EditError(
            f"reading {source} from Hugging Face needs the package datasets: pip install datasets"
        ) from trouble
    try:
        rows = datasets.load_dataset(name, revision=commit, split="train", streaming=True)
        yield from (row["text"] for row in rows if row["text"])
    except KeyError as trouble:
        raise EditError(f"{source} has no column named text") from trouble
    except Exception as trouble:
        raise EditError(f"{source} could not be read from Hugging Face: {str(trouble)[:200]}") from trouble


@cache
def _commit(source: str) -> tuple[str, str]:
    """A data set's name and the commit that is read: what `owner/name` is today, or the one named behind an @."""
    name, _, asked = source.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise EditError(f"there is no text at {source}: {TAKEN}")
    if re.fullmatch("[0-9a-f]{40}", asked):
        return name, asked
    from huggingface_hub import HfApi

    try:
        return name, str(HfApi().dataset_info(name, revision=asked or None).sha)
    except Exception as trouble:  # the hub, the network and an offline setting each raise their own
        why = " ".join(str(trouble).split())[:200]
        raise EditError(
            f"Hugging Face could not be asked which commit of the data set {source} to read: {why}. Without a network, "
            f"name one that was read before: {name}@COMMIT, of 40 digits"
        ) from trouble


def _files(source: str) -> list[Path]:
    """The text files that a source names; none where it is "self" or a data set. EditError for an empty folder."""
    path = Path(source).expanduser()
    if source == SELF or not path.is_dir():
        return [path] if source != SELF and path.is_file() else []
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise EditError(f"there is no .txt file in {source}: {TAKEN}")
    return files
