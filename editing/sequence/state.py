"""A sequence of edits as far as it has come: how a piece of work is done, and how it is known again from the journal.

All of the state follows from the model, the facts and the pieces, so that a sequence that was stopped and one that was
not cannot differ. A piece says which edit was computed or what was read, and the fingerprint of the weights after it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor, tensor

from editing.edit import Edit, commit, in_place, revert
from editing.evaluation.evaluate import questions
from editing.evaluation.metrics import full
from editing.evaluation.protocol import ORDERS
from editing.evaluation.read import Asked, Reading, Row
from editing.evaluation.table import table
from editing.merge.stack import merged
from editing.requests import RequestPrompts
from editing.restraint import restrained
from editing.sequence.keys import key_movement, ordinary_keys
from editing.sequence.result import Checkpoint, Config
from editing.sequence.rules import QUANTITIES, WARN, Rule
from editing.sequence.yardstick import Yardstick
from editing.solve.values import read_subjects
from editing.spectrum import Spectrum, spectrum
from factscope.data.case import Case
from factscope.data.request import EditRequest
from factscope.errors import StoreError
from factscope.model.bridge import Bridge
from factscope.model.sites import Site
from factscope.model.weights import WeightName, as_matrix, fingerprint, live_weights
from factscope.runs.provenance import stopwatch

EDITS = "edits"  # in the run folder
PROTOCOL = replace(ORDERS["sequence"], words=0)  # nothing is written: thousands of facts are read again and again

Hook = Callable[[Any, Checkpoint], dict[str, Any] | None]


@dataclass(frozen=True)
class Step:
    """One piece of work: an edit of facts `begin` to `facts`, or a checkpoint after `facts`."""

    facts: int
    edit: bool = False
    begin: int = 0
    restrain: bool = False
    last: bool = False
    beside: bool = False  # the restrained form is read and put aside again
    which: int = 0  # of the restraint's configurations


class State:
    """The sequence as far as it has come. All of it follows from the model, the facts and the pieces in the journal."""

    def __init__(
        self,
        model: Bridge,
        method: str,
        requests: Sequence[EditRequest],
        settings: Config,
        folder: Path,
        yardstick: Yardstick,
        weights: Sequence[WeightName],
    ) -> None:
        self.model, self.method, self.requests = model, method, requests
        self.settings, self.yardstick = settings, yardstick
        self.folder, self.layer, self.names = folder / EDITS, weights[-1].layer, [str(name) for name in weights]
        live = {name: as_matrix(name, live_weights(model)[name].detach()) for name in self.names}
        self.matrices = {name: matrix.double().cpu().clone() for name, matrix in live.items()}
        asked = [questions(model, [Case.of(request)], settings.start) for request in requests]
        self.ends = list(accumulate(map(len, asked), initial=0))  # of each fact's questions among all
        self.asked = Asked.of(model, [one for some in asked for one in some], PROTOCOL, settings.start)
        self.before = self._written(0, len(requests))
        self.stack: list[Edit] = []  # what is in place
        self.weights = fingerprint(model)  # of the model with it
        self.done = 0  # facts
        self.digests: list[str] = []  # of every edit that was computed
        self.seconds: list[float] = []
        self.immediate: list[Reading] = []
        self.now: list[Reading] = []
        self.written: list[list[float]] = []
        self.values: dict[str, Tensor] = {}
        self.checkpoints: list[Checkpoint] = []
        self.keys = ordinary_keys(model, yardstick.facts, self.names, settings.start)
        self.ended = False  # a rule was met

    # ---- new pieces ----

    def compute(self, step: Step, make: Callable[[Sequence[EditRequest]], Edit]) -> dict[str, Any]:
        """Compute the next edit, save it, put it in, and read its own facts."""
        with stopwatch() as seconds:
            edit = make(self.requests[step.begin : step.facts])
            edit.save(self._place(step))
            commit(self.model, (edit,))
            found = self._read(step.begin, step.facts)
            written = self._written(step.begin, step.facts).tolist()
        piece = {"count": step.facts - step.begin, "digest": edit.digest, "seconds": seconds[0], "written": written}
        piece |= {"readings": [asdict(one) for one in found], "weights": fingerprint(self.model)}
        self._add_edit(step, piece, edit)
        return piece

    def measure(self, step: Step, restraint_config: Any, rules: Sequence[Rule], hook: Hook | None) -> dict[str, Any]:
        """Restrain if it is time, then read everything and ask whether to stop."""
        piece: dict[str, Any] = {}
        stack = self.stack
        if step.restrain:
            piece["restraint"] = _in_short(asdict(restraint_config))
            piece["digest"] = self._restrain(step, restraint_config)
        with stopwatch() as seconds:
            sums = {delta.weight: delta for delta in merged(self.stack).deltas} if self.stack else {}
            spectra = [spectrum(n, self.done, self.matrices[n], sums.get(n)) for n in self.names]
            piece |= {
                "keys": {n: key_movement(self.matrices[n], sums.get(n), keys) for n, keys in self.keys.items()},
                "readings": [asdict(one) for one in self._read(0, self.done)],
                "unrelated": [asdict(one) for one in self.yardstick.read(self.model)],
                "perplexity": self.yardstick.perplexity(self.model),
                "spectra": [asdict(one) for one, _ in spectra],
                "singular": {one.weight: values.tolist() for one, values in spectra},
                "weights": fingerprint(self.model),
            }
        piece["seconds"] = seconds[0]
        made = self._checkpoint(step, piece)
        broken = None if step.beside else next((rule for rule in rules if rule.broken(made.quantities)), None)
        if broken is not None and not step.last:
            number = made.quantities[broken.quantity]
            piece["stopped"] = f"{broken} was met after {self.done} facts, with {broken.quantity} {number:.4g}"
        if (step.last or "stopped" in piece or (step.beside and self.ended)) and not step.which:
            piece["values"] = {"restrained" if step.restrain else "end": self._written(0, self.done).tolist()}
        if hook is not None:
            piece["extra"] = hook(self.model, made) or {}
        if step.beside:
            revert(self.model, self.stack)
            commit(self.model, stack)
            self.stack = stack
        self._add_checkpoint(step, piece)
        return piece

    def _restrain(self, step: Step, config: Any) -> str:
        """Put the restrained form of what is in place in its stead, saved; its digest."""
        revert(self.model, self.stack)
        held = restrained(self.model, self.stack, str(self.settings.restrain), config)
        held.save(self._place(step))
        commit(self.model, (held,))
        self.stack = [held]
        return held.digest

    # ---- pieces of earlier runs ----

    def take_up(self, step: Step, piece: dict[str, Any]) -> None:
        """Know what a piece of the journal says, without touching the model."""
        edit = Edit.load(self._place(step)) if "digest" in piece else None
        if edit is not None and edit.digest != piece["digest"]:
            raise StoreError(
                f"{self._place(step)} is not the edit that the journal names: start again in another folder"
            )
        if step.edit and edit is not None:
            self._add_edit(step, piece, edit)
        else:
            self.stack = [edit] if edit is not None and not step.beside else self.stack
            self._add_checkpoint(step, piece)

    def put_in_place(self) -> None:
        """Bring the model to where the journal ends; StoreError unless it is bitwise what it was there."""
        if in_place(self.model) or not self.stack:
            return
        commit(self.model, self.stack)
        if fingerprint(self.model) != self.weights:
            raise StoreError(f"the edits in {self.folder} do not give the weights that the journal names: start again")

    def _add_edit(self, step: Step, piece: dict[str, Any], edit: Edit) -> None:
        self.stack.append(edit)
        self.done, self.weights = step.facts, piece["weights"]
        self.digests.append(edit.digest)
        self.seconds.append(piece["seconds"])
        self.immediate += [Reading(**one) for one in piece["readings"]]
        self.written += piece["written"]

    def _add_checkpoint(self, step: Step, piece: dict[str, Any]) -> None:
        self.weights = self.weights if step.beside else piece["weights"]
        self.ended = self.ended or "stopped" in piece
        self.values |= {name: tensor(value) for name, value in piece.get("values", {}).items()}
        self.checkpoints.append(self._checkpoint(step, piece))

    # ---- readings ----

    def rows(self) -> list[Row]:
        """Every question of the facts so far: before any edit, right after its own edit, and now."""
        return self.asked.rows(self.immediate, self.now)

    def _checkpoint(self, step: Step, piece: dict[str, Any]) -> Checkpoint:
        now = [Reading(**one) for one in piece["readings"]]
        self.now = self.now if step.beside else now
        rows = self.asked.rows(self.immediate, now)
        unrelated = self.yardstick.rows([Reading(**one) for one in piece["unrelated"]])
        scores = table(self.method, [*rows, *unrelated], PROTOCOL)
        spectra = tuple(Spectrum(**one) for one in piece["spectra"])
        first = self.checkpoints[0] if self.checkpoints else None
        quantities = _quantities(
            {one.metric: one.value for one in scores if one.when == "final"}, spectra, piece["perplexity"], first
        )
        return Checkpoint(
            facts=self.done,
            edits=len(self.digests),
            restrained=step.restrain,
            scores=scores,
            held=tuple(
                full(row.final, PROTOCOL.scorer) for row in rows if row.kind == "rewrite" and row.final is not None
            ),
            perplexity=piece["perplexity"],
            spectra=spectra,
            singular={name: tensor(values) for name, values in piece["singular"].items()},
            quantities=quantities,
            warnings=tuple(str(rule) for rule in WARN if rule.broken(quantities)),
            weights=piece["weights"],
            seconds=piece["seconds"],
            extra=piece.get("extra", {}),
            restraint=piece.get("restraint", ""),
            keys={name: (one[0], one[1]) for name, one in piece.get("keys", {}).items()},
        )

    def _read(self, begin: int, end: int) -> list[Reading]:
        """All questions of facts `begin` to `end`."""
        return self.asked.read(self.model, self.ends[begin], self.ends[end])

    def _written(self, begin: int, end: int) -> Tensor:
        """What the MLP writes at each subject's last token [fact, d_model]."""
        if begin == end:
            return self.matrices[self.names[0]].new_zeros(0, self.model.cfg.d_model).float()
        site = Site("mlp_write", self.layer)
        prompts = RequestPrompts(self.requests[begin:end], start=self.settings.start)
        return read_subjects(self.model, prompts, [site])[site][:, 0]

    def _place(self, step: Step) -> Path:
        kind = "edit" if step.edit else "restrained"
        return self.folder / f"{kind}-{step.facts:05d}{f'-{step.which}' if step.which else ''}"


def _quantities(
    scores: dict[str, float], spectra: Sequence[Any], perplexity: float, first: Checkpoint | None
) -> dict[str, float]:
    """The numbers that rules are about; those that were not measured are absent."""
    named = {
        "retention": "ES",
        "paraphrase": "PS",
        "neighbourhood": "NS",
        "unchanged": "unrelated, unchanged",
        "kl": "unrelated KL",
    }
    found = {name: scores[score] for name, score in named.items() if score in scores}
    before = {one.weight: one.condition for one in (first.spectra if first else spectra)}
    found["perplexity"] = perplexity / (first.perplexity if first else perplexity)
    found["condition"] = max(one.condition / before[one.weight] for one in spectra)
    found["norm"] = max(one.share for one in spectra)
    assert set(found) <= set(QUANTITIES)
    return found


def _in_short(settings: dict[str, Any]) -> str:
    """Settings of a restraint as a copy is called by them: mode log, alpha 2.718."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
