"""What an editor learnt, as a value: saved, digested, held to one model, and honest about the facts that it has seen.

An editor's score on the facts that it was trained on says nothing about any other fact. So an editor keeps a digest of
every subject with its relation and of every prompt that its training and its validation met, and an edit of one of
these is refused, or counted and said.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs import store
from factscope.runs.provenance import Run


@dataclass(frozen=True)
class EditorScore:
    """One number of an editor on facts of one kind."""

    facts: str  # "trained", "validation", "held-out subjects" or "new relations"
    metric: str  # a share of its questions, or "loss" in nats
    step: int  # of training; the start is step 0
    value: float
    n: int


@shown("editing.pages.trained")
@dataclass(frozen=True, eq=False)
class Trained(Result):
    """An editor; see the module's text. Make one with `editing.trained.train.train_editor`."""

    method: str
    config: dict[str, Any]
    base: str  # fingerprint of the unedited model that it edits
    model: str
    start_token: str
    seed: int
    tensors: dict[str, Tensor]  # what was learnt, float32, on the CPU
    seen: tuple[str, ...]  # sorted digests of the questions of training and validation
    counts: dict[str, int]  # facts of each kind, as the scores name them
    new_relations: tuple[str, ...]  # whose facts no training met
    curve: dict[str, Tensor] = field(default_factory=dict)  # by part of the loss, one number a step, nats
    scores: tuple[EditorScore, ...] = ()
    together: int = 1  # facts of one edit in the scores
    best: int = 0  # the step that was kept: of the smallest loss on validation facts
    run: Run | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", self._hash())

    def _hash(self) -> str:
        """SHA-256 of everything that decides what it writes, and of what it has seen."""
        said = [self.method, self.config, self.base, self.start_token, list(self.seen)]
        hashed = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.tensors.items()):
            hashed.update(name.encode() + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()

    @property
    def name(self) -> str:
        """Twelve digits that tell it from any other."""
        return self.digest[:12]

    @classmethod
    def load(cls, folder: str | Path) -> "Trained":
        """Read an editor back; StoreError if a file was cut short or altered."""
        editor = store.load(folder, cls)
        if editor._hash() != editor.digest:
            raise StoreError(f"{folder} was altered since it was saved: its hash is not the one it names")
        return editor

    def check(self, base: str, start: str) -> None:
        """EditError unless it is an editor for this model and this start of texts."""
        if self.base != base:
            raise EditError(
                f"editor {self.name} was trained for {self.model} with fingerprint {self.base[:12]}, and this model "
                f"has {base[:12]}: train one for it"
            )
        if self.start_token != start:
            raise EditError(
                f"editor {self.name} was trained on texts that begin with {self.start_token!r}, not {start!r}"
            )

    def known(self, requests: Sequence[EditRequest]) -> tuple[EditRequest, ...]:
        """Those that its training or validation met: the same prompt, or the same subject and relation."""
        seen = set(self.seen)
        return tuple(one for one in requests if seen & {*questions(one.subject, one.relation, (one.prompt,))})


def questions(subject: str, relation: str, prompts: Iterable[str]) -> tuple[str, ...]:
    """Digests by which a fact is known again: of its subject and relation, and of every prompt."""
    said = [f"fact\0{subject.casefold()}\0{relation}", *(f"prompt\0{prompt.casefold()}" for prompt in prompts)]
    return tuple(hashlib.sha256(text.encode()).hexdigest()[:12] for text in said)
