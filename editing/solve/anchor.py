"""The norm anchor: every value as long as values are on the model before any edit (NAS 2026, arXiv 2602.02543).

With v0 what the last layer's MLP writes at the bare subject and v* = v0 + delta what it should write, the norm of v*
grows from edit to edit of a long sequence, each edit inflating the next one's. So v* keeps its direction and gets a
fixed length: m, the mean |v*| over values found for facts of no interest on the model as it was,

    delta := m v* / |v*| - v0

and where |v*| > 2 m, nothing is written for this fact, and the edit's notes say so. m is found once for a model, a
layer and a way of finding values, and kept: on bare prompts, as the authors do, of shipped facts, where theirs are of
the benchmark that is measured.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from editing.edit import unedited
from editing.requests import BARE, RequestPrompts
from editing.solve.values import DRIFT, Descent, Place, Values, find_values, read_subjects
from editing.weights.lent import in_float32
from factscope.cache import digest, kept
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.errors import EditError
from factscope.files import write_text_atomically
from factscope.model.bridge import Bridge, info
from factscope.model.sites import Site

FAR = 2.0  # times the usual length: the authors' bound beyond which nothing is written
CHUNK = 32  # facts of one batch


@dataclass(frozen=True)
class Anchoring:
    """Where and how the values are found whose length is the usual one."""

    layer: int
    place: Place
    descent: Descent
    start: str

    def length(self, model: Bridge, base: str) -> float:
        """m of the model before any edit, whose fingerprint is `base`; edits in place are out meanwhile."""
        said = digest([base, DRIFT, asdict(self)])

        def build(folder: Path) -> None:
            with unedited(model), in_float32(model, ()):
                found = self._lengths(model)
            write_text_atomically(folder / "length.json", json.dumps(float(found.mean())))

        place = kept(f"anchors/{info(model).name}-{said[:16]}", build)
        return float(json.loads((place / "length.json").read_text(encoding="utf-8")))

    def _lengths(self, model: Bridge) -> Float[Tensor, " fact"]:
        """|v*| of so many shipped facts, in an order that their ids draw."""
        facts = sorted((fact for fact in load_facts() if fact.foil), key=lambda fact: digest(fact.id))
        requests = requests_of(facts[: self.descent.anchors])
        plain, lengths = replace(self.descent, anchors=0), []
        for begin in range(0, len(requests), CHUNK):
            prompts = RequestPrompts(requests[begin : begin + CHUNK], BARE, self.start)
            found = find_values(model, prompts, self.layer, plain, place=self.place)
            lengths.append((written(model, prompts, self.layer, self.place) + found.delta).norm(dim=1))
        return torch.cat(lengths)


def written(model: Bridge, prompts: RequestPrompts, layer: int, place: Place) -> Float[Tensor, "fact d_model"]:
    """v0: what the MLP writes at the subjects of the bare prompts; after a norm that follows it, if values are."""
    site = Site("mlp" if place == "hidden" else "mlp_write", layer)
    return read_subjects(model, replace(prompts, contexts=BARE), [site])[site][:, 0]


def anchored(values: Values, before: Float[Tensor, "fact d_model"], length: float) -> Values:
    """The values with v* = v0 + delta brought to this length; `before` is v0. EditError where v* or the length is 0."""
    whole = before + values.delta
    sizes = whole.norm(dim=1)
    if not length > 0 or not bool((sizes > 0).all()):
        raise EditError("a value of length 0 has no direction to be anchored by: leave anchors at 0")
    far = sizes > FAR * length
    delta = torch.where(far[:, None], 0.0, whole * (length / sizes)[:, None] - before)
    notes = tuple(
        f"a value {size / length:.1f} times as long as usual: nothing was written for it" if one else ""
        for one, size in zip(far.tolist(), sizes.tolist(), strict=True)
    )
    return replace(values, delta=delta, notes=notes)
