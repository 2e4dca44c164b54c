"""Ordinary text: what a model reads so that an edit knows which directions of its keys are in use.

By default it is the text that ships with us (`factscope/data/text/`: documents that SmolLM2-135M wrote by itself, so
that no data set and no sampling is needed), and where that has too few tokens for a model, or its tokenizer does not
know the words, the model itself goes on writing. Or it is the model's own writing alone ("self"), a file, a folder, or
a Hugging Face data set. Documents come in pieces, so that reading can stop after any piece and go on later.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from editing.contexts import OPENINGS
from factscope.cache import content, digest
from factscope.data.shipped import documents
from factscope.errors import EditError, PromptError
from factscope.files import write_bytes_atomically
from factscope.model.bridge import Bridge
from factscope.model.forward.generate import sample
from factscope.model.prompts import document_bounds, start_ids, token_ids
from factscope.model.weights import key_width

SHIPPED = "shipped"
SELF = "self"
IDENTITY = "identity"  # no text: the identity stands in for second moments
TAKEN = (
    "give shipped, self, a text file, a folder of .txt files, or a Hugging Face data set (owner/name or "
    "owner/name@COMMIT)"
)
PER_DIMENSION = 8  # tokens by default, for each dimension of a key; see benchmarks/moments.py
ATTEMPTS = 20  # at a piece of text
LETTERS = 2  # of the shipped text in a token, at least; a tokenizer of English has about four
Draw = Callable[[int, int], list[list[int]]]  # number of the piece, documents -> token ids; empty at the text's end
NOTHING = {"pieces": 0, "tokens": 0, "left_out": 0}  # read so far


@dataclass(frozen=True)
class Config:
    """Which text, how much of it, and how far second moments are taken as they were counted."""

    source: str = SHIPPED  # "shipped", "self", a text file, a folder of .txt files, or a Hugging Face data set
    tokens: int | None = None  # keys to count; None: `PER_DIMENSION` times the key dimension
    document: int = 128  # tokens of one document, or as many as the model can read; longer ones are cut
    rows: int = 96  # documents of one piece of work; fewer read the weights as often for less text
    seed: int = 0
    start: str = "auto"
    prior: float | None = None  # keys a dimension that the diagonal weighs (shrinkage.py); None: as held-out keys ask

    def wanted(self, model: Bridge) -> int:
        """How many keys are counted on this model."""
        return self.tokens if self.tokens is not None else PER_DIMENSION * key_width(model)


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


def settled(model: Bridge, config: Config) -> tuple[Config, int]:
    """The configuration as it will be read, and how many of its keys will be of the model's own writing.

    The shipped text, where a model cannot read it, is its own text instead.
    """
    tokens, document = config.wanted(model), min(config.document, int(model.cfg.n_ctx))
    config = replace(config, tokens=tokens, document=document)
    if config.source != SHIPPED:
        return config, tokens if config.source == SELF else 0
    there = 0
    for row in _tokenised(model, config):
        if (there := there + len(row) - 1) >= tokens:
            return config, 0
    return (config if there else replace(config, source=SELF)), tokens - there


def _documents(config: Config, wanted: int, state: dict[str, int]) -> int:
    """How many documents the next piece needs, if they are as long as those before; at most `config.rows`."""
    length = state["tokens"] / state["left_out"] if state["tokens"] else config.document - 1
    return min(config.rows, math.ceil((wanted - state["tokens"]) / length))


def _drawing(model: Bridge, config: Config, place: Path, read: int) -> Draw:
    """How pieces are drawn; `read` documents of a given text were drawn before."""
    if config.source == SELF:
        return lambda number, count: _self_written(model, config, place, number, count)
    rows = islice(_tokenised(model, config), read, None)
    if config.source == SHIPPED:
        return lambda number, count: list(islice(rows, count)) or _self_written(model, config, place, number, count)
    return lambda _, count: list(islice(rows, count))


def _tokenised(model: Bridge, config: Config) -> Iterator[list[int]]:
    first, unknown = start_ids(model, config.start), getattr(model.tokenizer, "unk_token_id", None)
    for text in texts(config.source):
        try:
            ids = token_ids(model, text)
        except PromptError:  # a token that the model was never given
            if config.source == SHIPPED:
                continue
            raise
        if config.source == SHIPPED and (unknown in ids or len(text) < LETTERS * len(ids)):
            continue  # in another language than the tokenizer's: no ordinary text of this model
        ids = ids[: config.document - len(first)]
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
    for _ in range(ATTEMPTS):  # a document may be empty by chance; those of a model that never writes are all
        if rows := _without_tail(sample(model, begin, config.document, generator).tolist(), model, len(first)):
            break
    else:
        raise EditError("the model ends each text where it begins: give a text for its second moments")
    write_bytes_atomically(file, json.dumps(rows).encode())
    return rows


def _without_tail(rows: list[list[int]], model: Bridge, begun: int) -> list[list[int]]:
    """Each row up to where the model ended its document."""
    ends = document_bounds(model)
    out = []
    for row in rows:
        stop = next((i for i, token in enumerate(row) if i >= begun and token in ends), len(row))
        if stop > 1:
            out.append(row[:stop])
    return out


def texts(source: str) -> Iterator[str]:
    """Documents: shipped, of a text file (parted by empty lines), a folder of .txt files, or a data set's "text"."""
    if source == SHIPPED:
        yield from documents()
        return
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
    if source in (SELF, SHIPPED) or not path.is_dir():
        return [path] if source not in (SELF, SHIPPED) and path.is_file() else []
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise EditError(f"there is no .txt file in {source}: {TAKEN}")
    return files


def is_file(source: str) -> bool:
    """Whether a source names files of the user's, which may change; EditError for an empty folder."""
    return bool(_files(source))


def content_of(source: str) -> str:
    """What names a text: SHA-256 of the files or of the shipped text; a data set's name and commit; "self" and
    "identity" themselves.

    Raises EditError as `texts` does.
    """
    if source in (SELF, IDENTITY):
        return source
    if source == SHIPPED:
        return f"{SHIPPED} {digest(documents())}"
    return content(files) if (files := _files(source)) else "@".join(_commit(source))
