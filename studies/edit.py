"""From requests to a saved, scored, drawn edit: the recipe behind `edit apply` and `edit evaluate`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from editing import compute as computing
from editing.edit import Edit, applied, base_of, commit, in_place, revert
from editing.evaluation.evaluate import EditReport, evaluate, questions, usual_order
from editing.evaluation.protocol import ORDERS, Protocol, protocol_of
from editing.evaluation.read import Asked
from editing.method import MethodConfig, MethodSpec, method
from editing.pages import edit as pages
from editing.requests import check
from editing.restraint import RestraintSpec, restrained
from editing.sequence.state import EDITS
from editing.solve import corpus
from editing.solve import moments as second_moments
from editing.solve.moments import Moments
from editing.spectrum import Spectrum, spectra
from editing.trained.editor import Trained
from editing.trained.fitting import check_config, check_editor, editors_of
from factscope.data.case import Case
from factscope.data.fact import Fact
from factscope.data.request import EditRequest
from factscope.errors import EditError, StoreError
from factscope.model.bridge import Bridge
from factscope.plots.page import write_page
from factscope.plots.show import shown
from factscope.results.hub import local
from factscope.results.result import Result
from factscope.runs import store
from factscope.settings import Settings


@shown("studies.pages.edit")
@dataclass(frozen=True, eq=False)
class EditScores(Result):
    """What is saved beside an edit: its report and the spectra of the weights it changed."""

    report: EditReport
    spectra: tuple[Spectrum, ...] = ()


@dataclass(frozen=True, eq=False)
class MethodRun:
    """A method with all that it is run with on one model."""

    spec: MethodSpec
    config: MethodConfig
    moments: Moments | None = None  # None: the identity, or a method that wants none
    seed: int = 0
    start: str = "auto"
    editor: Trained | None = None  # of a method that is trained
    allow_trained: bool = False  # whether facts may be edited that it was trained on

    def compute(self, model: Bridge, asked: Sequence[EditRequest | Fact], **how: Any) -> Edit:
        """One edit for all requests; keyword arguments as of `editing.compute`."""
        return computing.compute(self.spec, model, asked, self.config, **self._own, **how)

    def compute_each(self, model: Bridge, asked: Sequence[EditRequest | Fact], **how: Any) -> list[Edit]:
        """One edit per request, in one batch."""
        return computing.compute_each(self.spec, model, asked, self.config, **self._own, **how)

    @property
    def _own(self) -> dict[str, Any]:
        own = {"moments": self.moments, "seed": self.seed, "start": self.start}
        return own | {"editor": self.editor, "allow_trained": self.allow_trained}


def method_runs(
    model: Bridge,
    names: Sequence[str],
    asked: Sequence[EditRequest],
    settings: Mapping[str, Settings],
    editors: Sequence[Trained],
    like: computing.Options,
) -> list[tuple[MethodRun, tuple[str, ...]]]:
    """Each method as it will be run, but for its second moments, and what its edits say of their editor.

    `settings` are by method; of `like` the seed, the start and whether facts of the training are allowed count. Raises
    EditError for whatever would refuse the edits of `asked`, before any is computed.
    """
    specs, found = list({spec.name: spec for spec in map(method, names)}.values()), []
    if idle := set(settings) - {spec.name for spec in specs}:
        raise EditError(
            f"settings are given for {', '.join(sorted(idle))}, and the methods are {', '.join(s.name for s in specs)}"
        )
    base = base_of(model)
    for spec, editor in zip(specs, editors_of(specs, editors), strict=True):
        said = check_editor(spec, editor, asked, base, like.start, like.allow_trained)
        config = spec.config_for(model, settings.get(spec.name, ()), editor)
        check_config(spec, model, config, editor, asked)
        found.append((MethodRun(spec, config, None, like.seed, like.start, editor, like.allow_trained), said))
    return found


def moments_for(
    model: Bridge, spec: MethodSpec, config: MethodConfig, source: str, tokens: int | None, seed: int, start: str
) -> Moments | None:
    """Second moments of the layers that a method writes to; None for a method that wants none, and as `moments_at`."""
    return moments_at(model, spec.layers(config), source, tokens, seed, start) if spec.needs_moments else None


def moments_at(
    model: Bridge, layers: Sequence[int], source: str, tokens: int | None, seed: int, start: str
) -> Moments | None:
    """Second moments, from the cache or collected now; None for "identity"."""
    if source == corpus.IDENTITY:
        return None
    return second_moments.collect(model, layers, corpus.Config(source, tokens, seed=seed, start=start))


def make(
    model: Bridge,
    asked: Sequence[EditRequest | Fact],
    run: MethodRun,
    *,
    below: Sequence[Edit] = (),
    restraint: RestraintSpec | None = None,
    restraint_config: Any = None,
    batch: int | None = None,
    **how: Any,
) -> list[Edit]:
    """One edit for all requests, or with `batch` one for every so many, each on top of those before.

    A restraint makes one edit of all of them. The model is left as it was. Other keyword arguments: as of
    `editing.compute`.
    """
    size = batch or len(asked)
    parts = [asked[i : i + size] for i in range(0, len(asked), size)]
    made: list[Edit] = []
    with applied(model, below):
        try:
            for part in parts:
                made.append(run.compute(model, part, **how))
                if len(parts) > 1:
                    commit(model, made[-1:])
        finally:
            if len(parts) > 1 and made:
                here = {edit.digest for edit in in_place(model)}
                revert(model, [edit for edit in made if edit.digest in here])
    return made if restraint is None else [restrained(model, made, restraint, restraint_config)]


def make_by_each(
    model: Bridge,
    asked: EditRequest,
    runs: Sequence[MethodRun],
    folder: Path,
    moments: Callable[[MethodSpec, MethodConfig], Moments | None],
) -> list[Edit]:
    """One edit by each method, kept in `folder` as soon as it is made; the same call takes it from there.

    `moments` gives a method's second moments, and is asked only for edits that are not there yet. Raises EditError for
    a trained method whose editor does not belong here, before any edit, and StoreError where the folder holds another
    edit than is asked for.
    """
    check((asked,))
    base, made = base_of(model), []
    for run in runs:
        check_editor(run.spec, run.editor, (asked,), base, run.start, run.allow_trained)
        check_config(run.spec, model, run.config, run.editor, (asked,))
    for run in runs:
        place, editor = folder / run.spec.name, run.editor.digest if run.editor is not None else ""
        if (place / store.JSON).is_file():
            edit = Edit.load(place)
            if (edit.config, edit.requests, edit.base, edit.editor) != (asdict(run.config), (asked,), base, editor):
                raise StoreError(f"{place} holds another edit than was asked for; begin anew with another --out")
        else:
            edit = replace(run, moments=moments(run.spec, run.config)).compute(model, (asked,))
            edit.save(place)
        made.append(edit)
    return made


def told(model: Bridge, edit: Edit) -> Edit:
    """The edit of one fact with what the model, as it stands, says without it and with it; another as it is."""
    if len(edit.requests) != 1:
        return edit
    start = edit.start_token
    asked = Asked.of(model, questions(model, map(Case.of, edit.requests), start), ORDERS["single"], start)
    with edit.applied(model):
        return replace(edit, rows=tuple(asked.rows(asked.read(model))))


def usual_protocol(
    edits: Sequence[Edit],
    order: str | None = None,
    *,
    probes: bool,
    said: bool = True,
    variations: bool = False,
    facts: Any = None,
) -> Protocol:
    """How edits are scored where nothing else is asked for, as `evaluate` has it; also with more questions."""
    found = protocol_of(order or usual_order(edits, facts))
    return replace(found, probes=probes, variations=variations, words=found.words if said else 0)


def score(model: Bridge, edits: Sequence[Edit], **how: Any) -> EditScores:
    """Everything that is read and counted about finished edits; keyword arguments as of `evaluate`."""
    return EditScores(evaluate(model, edits, **how), spectra(model, edits, each=len(edits) <= 10))


def save(folder: Path, edits: Sequence[Edit], scores: EditScores, light: bool = False) -> Path:
    """Write one edit into `folder`, several into `folder`/edit-0001 ...; the report beside; the page's path."""
    if len(edits) == 1:
        edits[0].save(folder)
    else:
        for number, edit in enumerate(edits, start=1):
            edit.save(folder / f"edit-{number:04d}")
    store.save(scores, folder / "report")
    return write_page(pages.scored(edits, scores.report, scores.spectra), folder / "page.html", light=light)


def load_edits(folder: Path) -> list[Edit]:
    """The edit in `folder`, or the several in its subfolders, in order.

    StoreError if there is none, or where a command was stopped while it saved several: how many are missing cannot be
    seen. Those of a sequence stand in its `edits`, each as soon as it is made, and are taken as they are.
    `hub:owner/name` stands for the folder of an uploaded edit, which is downloaded once.
    """
    folder = local(folder)
    parts = sorted(folder.glob("edit-*/" + store.JSON))
    if parts and not (folder / store.JSON).exists():
        if folder.name != EDITS and not (folder / "report" / store.JSON).is_file():
            raise StoreError(
                f"{folder} holds {len(parts)} edits and no report: the command that made them was stopped while it "
                "saved them, and there may be more; give the same command again"
            )
        return [Edit.load(part.parent) for part in parts]
    return [Edit.load(folder)]
