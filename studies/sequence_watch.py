"""Inside the model while edits pile up: two facts' traces and circuits at every checkpoint.

One of them is edited first and must hold, the other is never edited and must not change. What is kept at a checkpoint
is how far each is from the unedited model: numbers, one curve each on the sequence's page. For a whole difference of
one edit, with its nulls, there is `circuit diff`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuits.analysis.diff import diff
from circuits.circuit import Circuit
from factscope.data.fact import Fact
from factscope.data.request import EditRequest, requests_of
from factscope.model.bridge import Bridge
from studies.edit_effects.model_state import Config, Experiment, TraceMaps

CONFIG = Config(samples=2, nulls=0, value_nulls=0, again=0, neighbours=0)


@dataclass(frozen=True, eq=False)
class SequenceWatch:
    """What a checkpoint compares with; call it as `editing.sequence.run`'s `on_checkpoint`."""

    asks: Mapping[str, Experiment]  # by what the fact is: "edited first", "not edited"
    before: Mapping[str, tuple[TraceMaps, Circuit]]

    @classmethod
    def of(
        cls,
        model: Bridge,
        edited: Sequence[Fact | EditRequest],
        unrelated: Sequence[Fact],
        start: str,
        seed: int,
        config: Config = CONFIG,
    ) -> "SequenceWatch":
        """Trace and search the unedited model for the first edited fact, and for the first unrelated one with a foil.

        Raises EditError and PromptError as `Experiment.of` does.
        """
        chosen = dict(zip(("edited first",), requests_of(edited[:1]), strict=True))
        chosen |= dict(zip(("not edited",), requests_of(fact for fact in unrelated if fact.foil), strict=False))
        asks = {name: Experiment.of(model, one, replace(config, seed=seed), start) for name, one in chosen.items()}
        return cls(asks, {name: (ask.trace(), ask.search(ask.prompt)) for name, ask in asks.items()})

    def __call__(self, *_: Any) -> dict[str, float]:
        """How far trace and circuit are from the unedited model's, logits and shares; nan without a trace."""
        found: dict[str, float] = {}
        for name, ask in self.asks.items():
            trace, circuit = self.before[name]
            now = ask.trace()
            for site in ask.config.sites:
                one, other = trace.towards(site), now.towards(site)
                gone = one is None or other is None
                largest = math.nan if gone else float((other - one).abs().max())  # type: ignore[operator]
                found[f"{name}: largest change of the trace, {site} (logits)"] = largest
            change = diff(circuit, ask.search(ask.prompt), draws=0)
            found[f"{name}: edge effects changed (share of their sum)"] = change.relative_change
            found[f"{name}: circuits unlike (1 - Jaccard)"] = 1 - change.jaccard
        return found
