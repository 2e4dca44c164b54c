"""One step of a bench: an edit of some cases by one method, and what is read of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from editing.edit import Edit, commit, revert, unedited
from editing.evaluation.protocol import ORDERS
from editing.evaluation.read import Outputs, readings
from editing.evaluation.table import table
from editing.sequence.yardstick import Yardstick
from factscope.data.case import Case
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.runs.memory import watched
from factscope.runs.provenance import stopwatch
from studies.bench.method_result import Cost
from studies.bench.setting import MethodSetting, Setting


@contextmanager
def naming(method: str) -> Iterator[None]:
    """An EditError in the block says which method it is of."""
    try:
        yield
    except EditError as trouble:
        raise EditError(f"{method}: {trouble}") from trouble


@dataclass(frozen=True, eq=False)
class Maker:
    """One method's edits, and what is read of them."""

    setting: Setting
    wanted: MethodSetting
    stats: Any

    def made(self, steps: Sequence[Sequence[Case]], clean: Sequence[Outputs]) -> Iterator[tuple[dict[str, Any], Edit]]:
        """Each step: what goes into the journal, and its edit, which stays in place if edits stay.

        `clean` is what the unedited model says to each.
        """
        setting, model = self.setting, self.setting.model
        requests = [tuple(one for case in step for one in case.requests) for step in steps]
        with watched() as memory, stopwatch() as seconds:
            edits = self._computed(requests)
        for before, step, edit in zip(clean, steps, edits, strict=True):
            cost = Cost(seconds[0] / len(edits), memory(), stored(edit), len(edits))
            commit(model, (edit,))
            try:
                now = setting.heard(step)
                alone = not setting.protocol.stays and len(step) == len(setting.cases)
                elsewhere = general(model, setting.yardstick) if alone else {}
            finally:
                if not setting.protocol.stays:
                    revert(model, (edit,))
            piece = {"cost": asdict(cost), "cases": [case.id for case in step], "general": elsewhere}
            yield piece | self.read(step, before, now), edit

    def _computed(self, requests: Sequence[tuple[EditRequest, ...]]) -> list[Edit]:
        model, run = self.setting.model, replace(self.wanted.run, moments=self.stats)
        if len(requests) > 1 and all(len(some) == 1 for some in requests):
            alone = [one for (one,) in requests]
            if len({one.key for one in alone}) == len(alone):
                return run.compute_each(model, alone, shown=False)
        return [run.compute(model, some, shown=False) for some in requests]

    def read(self, cases: Sequence[Case], before: Outputs, now: Outputs) -> dict[str, Any]:
        """Plain data: the readings before and now of every question of these cases, and their texts."""
        asked = [one for case in cases for one in self.setting.asked[case.id]]
        first, then = readings(asked, before, before), readings(asked, now, before)
        return {
            "before": [asdict(one) for one in first],
            "now": [asdict(one) for one in then],
            "speech": [before.speech, now.speech],
        }


def general(model: Bridge, yardstick: Yardstick | None) -> dict[str, float]:
    """What the edited model still does elsewhere; nothing without a yardstick."""
    if yardstick is None:
        return {}
    now = yardstick.perplexity(model)
    rows = yardstick.rows(yardstick.read(model))
    with unedited(model):
        before = yardstick.perplexity(model)
    found = {"perplexity": now, "perplexity before": before}
    return found | {one.metric: one.value for one in table("", rows, ORDERS["sequence"]) if one.when == "final"}


def stored(edit: Edit) -> float:
    """MB of an edit: its factors, what stands beside them, or its text and what chooses its questions."""
    parts = [part for delta in edit.deltas for part in (delta.left, delta.right, delta.keep) if part is not None]
    parts += [part for one in edit.bypasses for part in one.tensors.values()]
    parts += edit.scope.parts() if edit.scope is not None else []
    return (sum(part.numel() * part.element_size() for part in parts) + len(edit.preface.encode())) / 1e6
