"""An edit is a value before it is a deed: what changes in which weight, and how to take it back bit for bit.

An `Edit` holds one `Delta` for each changed weight, as two thin factors in float32, so it is kilobytes where the model
is gigabytes. `with edit.applied(model):` puts it in and takes it out; `commit` leaves it in and `revert` takes it out
later, in any order. Adding and subtracting a float does not come back to the same float, so nothing is subtracted: the
first change of a weight keeps a copy of it, and every state after that is computed from the copy and the edits that
are in place. An edit knows the fingerprint of the model it was made for and refuses any other.

An edit may also stand beside the weights, as its `bypasses` (editing/bypass.py): they are hooks, and without them the
model is bitwise as it was. Or it is a text, its `preface`, that the model reads before whatever it is asked through
`factscope.model.forward.batched`, or before what its `scope` is about; what runs the model directly does not see it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass, Met, functions, join, read_prompts
from editing.bypass import check as check_bypass
from editing.delta import Delta
from editing.evaluation.read import Row
from editing.scope import Scope, chooser
from factscope.data.request import EditRequest, saved_request
from factscope.errors import EditError, StoreError
from factscope.model.bridge import Bridge
from factscope.model.forward.prefix import Preface, put_before
from factscope.model.hooks import stand, standing
from factscope.model.weights import WeightName, as_matrix, fingerprint, from_matrix, live_weights
from factscope.plots.show import shown
from factscope.results.result import Result
from factscope.runs import store
from factscope.runs.provenance import Run


@dataclass(frozen=True, eq=False)
class Report:
    """What the solver met in one layer; the numbers that explain an edit that went wrong."""

    weight: str
    residual: float  # ||k dW - r|| / ||r|| over all facts: 0 where the edit does what was asked of this layer
    division: float  # smallest |k u| / (||k|| ||u||), u the direction written to: near 0 the update explodes
    condition: float  # of the n x n system that was solved
    leverage: float  # mean of k C^-1 k: the scale that lambda must be compared with
    disturbance: float  # tr(dW' C dW) / tr(W' C W): share of the layer's usual output that changes
    norm: float  # ||dW|| / ||W||, Frobenius
    note: str = ""


@shown("editing.pages.edit")
@dataclass(frozen=True, eq=False)
class Edit(Result):
    """A change of what a model knows; see the module's text. Make one with `editing.compute`."""

    method: str
    config: dict[str, Any]
    requests: tuple[EditRequest, ...]
    deltas: tuple[Delta, ...]  # one for each changed weight
    base: str  # fingerprint of the model without any edit
    model: str
    seed: int
    below: tuple[str, ...] = ()  # digests of the edits that were in place when this one was computed
    moments: str = "none"  # fingerprint of the statistics used, "identity", or "none"
    contexts: tuple[str, ...] = ()  # the templates that keys and values were averaged over
    start_token: str = "auto"  # what was put in front of every prompt, as asked for
    reports: tuple[Report, ...] = ()
    curve: Float[Tensor, "step fact"] | None = None  # loss of each value optimisation, nats; NaN after its stop
    restraints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    preface: str = ""  # of an in-context edit, which has no deltas: ends in a line break
    memory: dict[str, Tensor] = field(default_factory=dict)  # what later edits read of this one, rows by name
    bypasses: tuple[Bypass, ...] = ()  # what stands beside a projection and speaks where a gate opens
    scope: Scope | None = None  # of an in-context edit: the questions before which its texts stand; None: all
    editor: str = ""  # digest of the trained editor that made it
    rows: tuple[Row, ...] = ()  # of one fact: what the model said and says now, where it was asked; not in the digest
    met: tuple[Met, ...] = ()  # how prompts about its facts met the gate
    run: Run | None = None
    former: tuple[dict[str, Any], ...] = ()  # the facts of an edit of schema 1, of which its digest is
    digest: str = field(default="")

    def __post_init__(self) -> None:
        if len({delta.weight for delta in self.deltas}) < len(self.deltas):
            raise EditError(f"an edit by {self.method} has several changes of one weight: compute it again")
        if not self.digest:
            object.__setattr__(self, "digest", self._hash())

    def _hash(self) -> str:
        """SHA-256 of everything that decides what the edit does."""
        hashed = hashlib.sha256()
        asked = list(self.former) or [asdict(one) for one in self.requests]
        said = [self.method, self.config, asked, self.base, self.seed, list(self.below), self.moments]
        said += [list(self.contexts), list(self.restraints), [delta.weight for delta in self.deltas]]
        said += [self.preface] if self.preface else []
        said += [[one.layer, one.floor, one.most, one.texts] for one in (self.scope,) if one]
        said += [list(self.scope.subjects)] if self.scope is not None and self.scope.subjects else []
        said += [[one.kind, one.layer, one.numbers, one.words, sorted(one.tensors)] for one in self.bypasses]
        hashed.update(json.dumps(said, sort_keys=True, default=str).encode())
        parts = [part for delta in self.deltas for part in (delta.left, delta.right, delta.keep)]
        parts += [one.tensors[name] for one in self.bypasses for name in sorted(one.tensors)]
        parts += [] if self.scope is None else self.scope.parts()
        for part in parts:
            hashed.update(b"-" if part is None else part.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, rows in sorted(self.memory.items()):  # without a memory, the hash is as it always was
            hashed.update(name.encode() + rows.reshape(-1).view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()

    @property
    def name(self) -> str:
        """Twelve digits that tell it from any other."""
        return self.digest[:12]

    @property
    def layers(self) -> tuple[int, ...]:
        """Where it acts, lowest first; nowhere for a text."""
        written = {WeightName.of(delta.weight).layer for delta in self.deltas}
        return tuple(sorted(written | {part.layer for part in self.bypasses}))

    @contextmanager
    def applied(self, model: Bridge) -> Iterator[None]:
        """The block runs on the edited model; afterwards, also after an exception, the weights are bitwise as before.

        Raises EditError: another model, a weight it does not have, the edit already in place.
        """
        with applied(model, (self,)):
            yield

    def commit(self, model: Bridge) -> None:
        """Put the edit in and leave it there; EditError as in `applied`."""
        commit(model, (self,))

    def revert(self, model: Bridge) -> None:
        """Take the edit out, whatever was put in after it; EditError if it is not in place."""
        revert(model, (self,))

    @classmethod
    def upgraded(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What was saved of an edit, with requests where there were facts whose foil was the target."""
        if "facts" not in body:
            return body
        facts = body["facts"]
        return {name: value for name, value in body.items() if name != "facts"} | {
            "requests": [saved_request(fact) for fact in facts],
            "former": facts,
        }

    @classmethod
    def load(cls, folder: str | Path) -> "Edit":
        """Read an edit back; StoreError if a file was cut short or altered."""
        edit = store.load(folder, cls)
        if edit._hash() != edit.digest:
            raise StoreError(f"{folder} was altered since it was saved: its hash is not the one it names")
        return edit


# ---- the edits that are in place ----


@dataclass(eq=False)
class _Ledger:
    """What a model was before its edits, and which are in place, in order."""

    base: str
    saved: dict[str, Tensor] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)

    def state(self, name: str, edits: Sequence[Edit]) -> Tensor:
        """The weight under these edits: the saved tensor itself, or a fresh sum rounded once."""
        changes = [delta for edit in edits for delta in edit.deltas if delta.weight == name]
        saved = self.saved[name]
        if not changes:
            return saved
        total = as_matrix(name, saved).double()
        thin = [delta for delta in changes if delta.low_rank]
        if thin:  # one product for all of them: a hundred edits cost little more than one
            left = torch.cat([delta.left.double() for delta in thin if delta.left is not None], 1)
            total = total + (left @ torch.cat([delta.right.double() for delta in thin])).to(total.device)
        for delta in changes:
            if not delta.low_rank:
                total = total + delta.dense().to(total.device)
        return from_matrix(name, total, saved).to(saved.dtype)


_LEDGERS: WeakKeyDictionary[Any, _Ledger] = WeakKeyDictionary()


def in_place(model: Bridge) -> tuple[Edit, ...]:
    """The edits that are committed, in order."""
    ledger = _LEDGERS.get(model)
    return tuple(ledger.edits) if ledger else ()


def remembered(edits: Sequence[Edit], name: str) -> Tensor | None:
    """What edits remember under `name`: the rows of the first, then those of the next; None where they have no such."""
    rows = [edit.memory[name] for edit in edits if name in edit.memory]
    return torch.cat(rows) if rows else None


def base_of(model: Bridge, now: str | None = None) -> str:
    """Fingerprint of the model without the edits that are in place; `now`, if known, is that of the running weights."""
    ledger = _LEDGERS.get(model)
    return ledger.base if ledger else now or fingerprint(model)


def commit(model: Bridge, edits: Sequence[Edit]) -> None:
    """Put several edits in, in order, all or none."""
    if not edits:
        return
    ledger = _LEDGERS.get(model) or _Ledger(fingerprint(model))
    weights = live_weights(model)
    for edit in edits:
        _check(edit, ledger, weights)
    if len({edit.digest for edit in edits}) < len(edits):
        raise EditError("the same edit is there twice; leave one out")
    for edit in edits:
        for part in edit.bypasses:
            check_bypass(part, model, edit.name)
    _put(model, ledger, weights, [*ledger.edits, *edits])


def revert(model: Bridge, edits: Sequence[Edit]) -> None:
    """Take several edits out, in any order, all or none."""
    ledger = _LEDGERS.get(model)
    here = {edit.digest for edit in ledger.edits} if ledger else set()
    gone = {edit.digest for edit in edits}
    if gone - here:
        raise EditError(f"edit {sorted(gone - here)[0][:12]} is not in place, so it cannot be taken out")
    if ledger is None or not gone:
        return
    _put(model, ledger, live_weights(model), [edit for edit in ledger.edits if edit.digest not in gone])


def _put(model: Bridge, ledger: _Ledger, weights: dict[str, Tensor], edits: list[Edit]) -> None:
    """Let exactly these edits be in place: in the weights, beside them and before every prompt."""
    before = list(ledger.edits)
    parts = together(edits)  # may be refused, so before the rest
    digests = [edit.digest for edit in edits if edit.bypasses]
    _move(ledger, weights, edits)
    try:
        digest = hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""
        stand(model, digest, functions(parts, model), read_prompts(parts))
    except BaseException:
        _move(ledger, weights, before)
        raise
    if edits:
        _LEDGERS[model] = ledger
    else:
        _LEDGERS.pop(model, None)
    _say_before(model, edits)


def together(edits: Sequence[Edit]) -> list[Bypass]:
    """What stands beside the weights once all these edits are in place; EditError names two that exclude each other."""
    try:
        return join([part for edit in edits for part in edit.bypasses])
    except EditError as trouble:
        for later, earlier in ((n, m) for n in range(len(edits)) for m in range(n)):
            try:
                join([*edits[earlier].bypasses, *edits[later].bypasses])
            except EditError as why:
                both = f"{_called(edits[earlier])} and {_called(edits[later])}"
                raise EditError(f"the edits {both} exclude each other: {why}") from trouble
        raise


def _called(edit: Edit) -> str:
    """An edit in a sentence: its name, and its first fact."""
    more = f" and {len(edit.requests) - 1} more" if len(edit.requests) > 1 else ""
    return f"{edit.name} ({edit.requests[0]}{more})" if edit.requests else edit.name


def _say_before(model: Bridge, edits: Sequence[Edit]) -> None:
    """Put the texts of the in-context edits among `edits` before every prompt, or before those that they are about."""
    told = [edit for edit in edits if edit.preface]
    text = "".join(edit.preface for edit in told if edit.scope is None)
    scopes = [edit.scope for edit in told if edit.scope is not None]
    start = told[0].start_token if told else ""
    choose = chooser(text, scopes, start) if scopes else None
    put_before(model, Preface(text, start, choose) if told else None)


def parts_in_place(model: Bridge, kind: str, layer: int) -> list[Bypass]:
    """What edits in place let stand beside a layer by this kind of bypass, in order."""
    return [part for edit in in_place(model) for part in edit.bypasses if (part.kind, part.layer) == (kind, layer)]


@contextmanager
def unedited(model: Bridge) -> Iterator[None]:
    """The block runs on the unedited model; the edits that were in place come back after it."""
    edits = in_place(model)
    revert(model, edits)
    try:
        yield
    finally:
        commit(model, edits)


@contextmanager
def set_aside(model: Bridge, kind: str, *layers: int) -> Iterator[None]:
    """The block runs without what edits in place do by this kind of bypass beside these layers; all else stands."""
    parts = [part for edit in in_place(model) for part in edit.bypasses]
    others = join([part for part in parts if part.kind != kind or part.layer not in layers])
    digest, whole = standing(model), join(parts)
    stand(model, f"{digest} without {kind}", functions(others, model), read_prompts(others))
    try:
        yield
    finally:
        stand(model, digest, functions(whole, model), read_prompts(whole))


@contextmanager
def applied(model: Bridge, edits: Sequence[Edit]) -> Iterator[None]:
    """Several edits at once, in order; out again when the block ends, however it ends."""
    commit(model, edits)
    try:
        yield
    finally:
        revert(model, edits)


def _check(edit: Edit, ledger: _Ledger, weights: dict[str, Tensor]) -> None:
    if edit.base != ledger.base:
        raise EditError(
            f"edit {edit.name} was made for {edit.model} with fingerprint {edit.base[:12]}, and this model has "
            f"{ledger.base[:12]}: load the model it was made for"
        )
    if any(edit.digest == other.digest for other in ledger.edits):
        raise EditError(f"edit {edit.name} is in place already")
    for delta in edit.deltas:
        shape = (delta.right if delta.left is None else delta.left).shape[0], delta.right.shape[1]
        if delta.weight not in weights or as_matrix(delta.weight, weights[delta.weight]).shape != shape:
            raise EditError(f"edit {edit.name} changes {delta.weight} {tuple(shape)}, which this model does not have")
        if not all(torch.isfinite(part).all() for part in (delta.left, delta.right) if part is not None):
            raise EditError(f"edit {edit.name} has numbers that are not finite in {delta.weight}; compute it again")


@torch.no_grad()
def _move(ledger: _Ledger, weights: dict[str, Tensor], edits: list[Edit]) -> None:
    """Bring the weights to the state under `edits`: all of them, or none if anything goes wrong on the way."""
    touched = {delta.weight for edit in (*ledger.edits, *edits) for delta in edit.deltas}
    fresh = {name: weights[name].detach().clone() for name in touched - set(ledger.saved)}
    before = {**fresh, **{name: ledger.state(name, ledger.edits) for name in touched & set(ledger.saved)}}
    for name in touched:
        if not torch.equal(weights[name], before[name]):
            raise EditError(f"{name} was changed by something else while edits were in place; load the model again")
    ledger.saved.update(fresh)
    after = {name: ledger.state(name, edits) for name in touched}
    try:
        for name, tensor in after.items():
            weights[name].copy_(tensor)
        ledger.edits = edits
    except BaseException:  # an interrupt too: back to where it was
        for name, tensor in before.items():
            weights[name].copy_(tensor)
        for name in fresh:
            del ledger.saved[name]
        raise
    still = {delta.weight for edit in edits for delta in edit.deltas}
    for name in touched - still:
        del ledger.saved[name]
