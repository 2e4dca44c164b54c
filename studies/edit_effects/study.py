"""What did the edit do inside? Trace, circuit, heads and lens before it, after it, and after edits that mean nothing.

The same questions (`studies/edit_effects/model_state.py`) are asked of the model as it is, of the edited one, and of
the model under each null, an edit of the same norm in the same weights with its directions scrambled. Besides, the
unedited model is searched again on other wordings of the fact with a jittered cut, which tells how well a circuit is
known at all; and the circuits of neighbours, which the edit ought to leave alone, are found before and after. What is
known of the model before is found once, for all edits and nulls. Each finished part is kept in the run folder, so that
an interrupted study goes on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from circuits.analysis.cross_faithfulness import CrossFaithfulness, cross_faithfulness, entries
from circuits.analysis.diff import diff
from circuits.analysis.head_changes import head_changes
from circuits.circuit import Circuit
from circuits.graph import room
from editing.bypass import read_prompts
from editing.edit import Edit, in_place
from editing.evaluation.evaluate import EditReport, questions
from editing.evaluation.protocol import ORDERS
from editing.evaluation.read import Asked
from editing.nulls import scrambled
from editing.spectrum import Spectrum, spectra
from factscope.data.case import Case
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt, start_token
from factscope.model.weights import fingerprint
from factscope.runs.parts import Parts, parts_in
from factscope.runs.provenance import Run
from studies.edit_effects.measures import measures
from studies.edit_effects.model_state import Config, Experiment, ModelState, NeighbourState, call
from studies.edit_effects.result import EditStudy, NeighbourStudy, Rerun

# Of a trace, a circuit, a table of heads, a lens, cross-faithfulness, a card and a spectrum: each one's share of time.
COSTS = (60.0, 10.0, 5.5, 1.0, 40.0, 2.0, 0.5)


def edit_studies(
    model: Bridge,
    edits: Sequence[Edit],
    config: Config = Config(),
    *,
    asked: EditRequest | None = None,
    folder: Path | None = None,
    shown: bool | None = False,
) -> list[EditStudy]:
    """Study each edit alone on the same model; what is known of the model before is found once, for all of them.

    `asked` is what is asked on all sides, if not the first edit's first request: a second hop, a neighbour. With
    `folder`, finished parts are kept there. The model is left bitwise as it was.

    Raises EditError if edits are in place or were made for another model, NoGap and the errors of the searches.
    """
    _check(model, edits)
    request = asked or edits[0].requests[0]
    ask = Experiment.of(model, request, config, edits[0].start_token)
    work = {
        "edits": [edit.digest for edit in edits],
        "asked": asdict(request),
        "config": asdict(config),
        "model": fingerprint(model),
    }
    beside = {part.layer for edit in edits for part in edit.bypasses}  # a node of every graph, so that graphs compare
    with torch.no_grad(), room(sorted(beside)), parts_in(folder, work, costs(ask, edits), shown) as parts:
        before = ask.side(parts, "before", "before")
        again = tuple(
            Rerun(prompt.text, parts.get(f"before: again {n}", Circuit, call(ask.search, prompt, n + 1)))
            for n, prompt in enumerate(ask.again)
        )
        calm = [
            parts.get(f"before: neighbour {n}", NeighbourState, call(ask.near, prompt))
            for n, prompt in enumerate(ask.neighbours)
        ]
        return [
            _study(ask, parts, edit, before, again, calm, f"{edit.name} " if len(edits) > 1 else "") for edit in edits
        ]


def costs(ask: Experiment, edits: Sequence[Edit]) -> list[float]:
    """What each part costs beside a lens, in the order in which they are made; measured on the default model."""
    trace, circuit, heads, lens, cross, cards, weights = COSTS
    near = [circuit + heads] * len(ask.neighbours)
    out = [trace, circuit, heads, lens, *[circuit] * len(ask.again), *near]
    nulls = _nulls(ask.config)
    for _ in edits:
        out += [trace, circuit, heads, lens]
        for _, _, traced in nulls:
            out += [*([trace] if traced else ()), circuit, heads, lens]
        out += [*near, cross, cards * (1 + len(nulls)), weights * (1 + len(nulls))]
    return out


def _check(model: Bridge, edits: Sequence[Edit]) -> None:
    """EditError for edits that cannot be seen inside, or not on this model as it is."""
    if not edits:
        raise EditError("there is no edit to study")
    if in_place(model):
        raise EditError("take the edits that are in place out first; a study puts its own in and takes them out")
    for edit in edits:
        if edit.preface:
            raise EditError(
                f"an in-context edit ({edit.name}) changes nothing in the model, so there is nothing to see inside: "
                "leave it out"
            )
        if read_prompts(edit.bypasses):
            raise EditError(
                f"the gate of edit {edit.name} by {edit.method} looks at whole prompts, and a trace runs parts of "
                "them: leave it out, or find circuits alone while it is in place"
            )
        if edit.base != fingerprint(model):
            raise EditError(
                f"edit {edit.name} was made for {edit.model} with fingerprint {edit.base[:12]}, and this model has "
                f"{fingerprint(model)[:12]}: load the model it was made for"
            )


def _study(
    ask: Experiment,
    parts: Parts,
    edit: Edit,
    before: ModelState,
    again: tuple[Rerun, ...],
    calm: list[NeighbourState],
    tag: str,
) -> EditStudy:
    model, config, run = ask.model, ask.config, Run.of(ask.model, ask.config.seed)
    nulls = _nulls(config)
    changes = [scrambled(edit, config.seed + number, kind) for kind, number, _ in nulls]
    after = ask.side(parts, "after", "after", edit, tag)
    sides = tuple(
        ask.side(parts, f"{kind} {number + 1}", kind, change, tag, traced)
        for (kind, number, traced), change in zip(nulls, changes, strict=True)
    )
    values, others = ([side.heads for side in sides if (side.kind == "values") is fair] for fair in (True, False))
    neighbours = tuple(
        _neighbour(ask, parts, edit, f"{tag}after: neighbour {n}", prompt, near)
        for n, (prompt, near) in enumerate(zip(ask.neighbours, calm, strict=True))
    )
    cross = parts.get(
        f"{tag}after: cross-faithfulness", CrossFaithfulness,
        lambda: cross_faithfulness(model, edit, before.circuit, after.circuit, seed=config.seed),
    )  # fmt: skip
    cards = parts.get(f"{tag}after: cards", _Cards, lambda: _cards(model, edit, changes))
    weights = parts.get(f"{tag}after: spectra", _Weights, lambda: _weights(model, edit, changes))
    level = max((diff(before.circuit, side.circuit, draws=0).largest_change for side in sides), default=0.0)
    notes = [*ask.notes, *(trace.note for trace in (before.trace, after.trace) if trace.note)]
    mine = [name for name in parts.seconds if name.startswith(("before", tag))]
    seconds = {name.removeprefix(tag): parts.seconds[name] for name in mine}
    study = EditStudy(
        request=ask.request,
        answers=ask.answers,
        edit=edit.digest,
        method=edit.method,
        edited=tuple(f"{one.prompt} {one.old} -> {one.target}" for one in edit.requests),
        layers=edit.layers,
        config=asdict(config),
        before=before,
        after=after,
        nulls=sides,
        again=again,
        neighbours=neighbours,
        diff=diff(before.circuit, after.circuit, seed=config.seed, level=level),
        heads=head_changes(before.heads, after.heads, values, others),
        cross=cross,
        entries=entries(before.circuit, after.circuit, edit.layers),
        report=cards.reports[0],
        null_reports=cards.reports[1:],
        spectra=weights.spectra[0],
        null_spectra=tuple(one for each in weights.spectra[1:] for one in each),
        measures=(),
        notes=tuple(notes),
        seconds=seconds,
        run=None,
    )
    return replace(study, measures=measures(study), run=run.ended(sum(seconds.values())))


def _nulls(config: Config) -> list[tuple[str, int, bool]]:
    """Kind, number and whether it is traced of every null: those that answer to the same inputs before others."""
    directions, values = range(config.nulls), range(config.value_nulls)
    return [
        *(("directions", number, number < config.traced_nulls - config.value_nulls) for number in directions),
        *(("values", number, number < config.traced_nulls) for number in values),
    ]


def _neighbour(
    ask: Experiment, parts: Parts, edit: Edit, name: str, prompt: Prompt, before: NeighbourState
) -> NeighbourStudy:
    now = parts.get(name, NeighbourState, call(ask.near, prompt, edit))
    return NeighbourStudy(prompt.text, str(prompt.foil), before.circuit, now.circuit, before.heads, now.heads)


@dataclass(frozen=True, eq=False)
class _Cards:
    reports: tuple[EditReport, ...]


@dataclass(frozen=True, eq=False)
class _Weights:
    spectra: tuple[tuple[Spectrum, ...], ...]


def _cards(model: Bridge, edit: Edit, nulls: Sequence[Edit]) -> _Cards:
    """The evaluation card of the edit and of each null, from one reading of the model before."""
    run, protocol = Run.of(model, edit.seed), replace(ORDERS["single"], words=0)
    asked = Asked.of(model, questions(model, map(Case.of, edit.requests), edit.start_token), protocol, edit.start_token)
    reports = []
    for change in (edit, *nulls):
        with change.applied(model):
            rows = asked.rows(asked.read(model))
        reports.append(EditReport.of(protocol, (change,), rows, start_token(model, edit.start_token)[0] or "none", run))
    return _Cards(tuple(reports))


def _weights(model: Bridge, edit: Edit, nulls: Sequence[Edit]) -> _Weights:
    return _Weights(tuple(spectra(model, [change]) for change in (edit, *nulls)))
