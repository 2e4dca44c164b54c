"""`circuit diff`: edit a fact and show what changed inside, beside what edits that mean nothing change."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import settled_folder
from studies.commands.app import listed, load, note, tell, track
from studies.commands.asked import check_prompt, request_from
from studies.commands.command import command, run_folder
from studies.commands.options import (
    CIRCUIT_METRICS,
    DETAILS,
    CircuitMethod,
    CircuitOptions,
    EditOptions,
    EditorsOptions,
    ModelOptions,
    OneOf,
    PromptOptions,
    RunOptions,
    Target,
    key,
    option,
)


@dataclass(frozen=True, kw_only=True)
class DiffOptions(PromptOptions, EditOptions, EditorsOptions, CircuitOptions, ModelOptions, RunOptions):
    """Which edit, what is asked, and how it is looked at."""

    target: Target = None
    edit: Annotated[Path | None, option("A saved edit, or hub:OWNER/NAME, instead of a new one.")] = None
    methods: Annotated[str | None, option("Several, side by side: rome,ft-m,memit.")] = None
    ask: Annotated[str | None, option("Another prompt to look at than the edited one: a neighbour, a second hop.")] = (
        None
    )
    old: Annotated[str | None, option("The answer before (with --ask).")] = None
    new: Annotated[str | None, option("The answer that the edit may bring (with --ask).")] = None
    circuit_method: CircuitMethod = "eap_ig"
    metric: Annotated[
        str | None,
        option(
            "Its metric  [dim](default: logit_difference; acdc: kl)[/dim]",
            of=OneOf("metric", CIRCUIT_METRICS),
        ),
    ] = None
    samples: Annotated[int, option("Noise draws of each trace.", panel=DETAILS)] = 4
    nulls: Annotated[int, option("Scrambled edits of equal norm.", panel=DETAILS)] = 3
    value_nulls: Annotated[
        int, option("Further nulls that read as the edit does and write at random.", panel=DETAILS)
    ] = 19
    again: Annotated[int, option("Searches again in the unedited model, on other wordings.", panel=DETAILS)] = 3
    neighbours: Annotated[int, option("Neighbour prompts whose circuits are compared, too.", panel=DETAILS)] = 2

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods to edit by, as the code spells them."""
        return tuple(one.replace("-", "_") for one in listed(self.methods) or (self.method,))


@command(
    "circuit diff",
    DiffOptions,
    'circuit diff "[The Eiffel Tower] is located in the city of" --target Rome',
    'circuit diff "[The Eiffel Tower] is located in the city of" --target Rome --methods rome,ft-m,memit',
    'circuit diff --edit runs/20261121-140000-edit-the-eiffel-tower --ask "[The Louvre] is located in the city of" '
    "--old Paris --new Rome",
)
def diff(options: DiffOptions) -> None:
    """Edit a fact, and compare trace, circuit, heads and lens before and after with edits that mean nothing."""
    check(options)
    check_prompt(options.prompt, options.subject)
    check_prompt(options.ask)
    own = settled_folder("circuit-diff", options.prompt or str(options.edit), key(options))
    with run_folder("circuit diff", options, own) as folder:
        from studies.edit_effects.page import save
        from studies.edit_effects.study import edit_studies

        gentler, config = options.restraint_with_config()[1], _config(options)
        editors, kept = _editors(options), _kept(options)
        model = load(options)
        edits = _restrained(model, options, kept or _made(model, options, editors, folder), gentler)
        asked = _asked(model, options, edits[0].start_token)
        request = asked or edits[0].requests[0]
        if options.neighbours and not request.neighbours:
            note(
                f"Note: no prompts are known that should stay as they are beside {request.prompt!r}, so none is "
                "compared."
            )
        found = edit_studies(model, edits, config, asked=asked, folder=folder, shown=None)
        pages = save(found, folder, options.light)
    _tell(found, folder, pages, options.as_json)
    for study, page in zip(found, pages, strict=False):  # the last page is that of all of them
        track(study, page, options)


def check(options: DiffOptions) -> None:
    """UserError for options that do not go together."""
    if (options.prompt is None) == (options.edit is None):
        raise UserError("give either a PROMPT with --target, or --edit; see circuit diff --help")
    if options.prompt is not None and options.target is None:
        raise UserError("--target is missing: what shall the model say instead?")
    made = (options.target, options.methods, options.layer, options.subject, options.answer, options.editor)
    if options.edit is not None and any(made):
        raise UserError(
            "--target, --methods, --layer, --editor, --subject and --answer are of a new edit; --edit brings its own"
        )
    if len({one is None for one in (options.ask, options.old, options.new)}) > 1:
        raise UserError("--ask, --old and --new belong together: the other prompt, its answer, and the edit's")


def _config(options: DiffOptions) -> Any:
    from studies.edit_effects.model_state import Config

    return Config(
        circuit=options.circuit_method, edges=options.edges, threshold=options.threshold,
        ablation=options.ablation or "", metric=options.metric or "", split=options.split_qkv,
        samples=options.samples, nulls=options.nulls, value_nulls=options.value_nulls, again=options.again,
        neighbours=options.neighbours, seed=options.seed,
    )  # fmt: skip


def _editors(options: DiffOptions) -> list[Any]:
    """The editor of each method, or None, before a model is loaded; UserError for settings that are not a method's."""
    from editing.trained.fitting import belongs, editors_of

    if options.edit is not None:
        return []
    specs = [options.method_with_settings(name)[0] for name in options.chosen]
    editors = editors_of(specs, options.loaded())
    for spec, editor in zip(specs, editors, strict=True):
        belongs(spec, editor)
    return editors


def _kept(options: DiffOptions) -> list[Any]:
    """The saved edit that was named, read before a model is loaded; none where an edit is to be made."""
    from studies.edit import load_edits

    return [] if options.edit is None else load_edits(options.edit)


def _restrained(model: Any, options: DiffOptions, edits: list[Any], gentler: Any) -> list[Any]:
    """The edits; restrained, where that was asked for."""
    from editing.restraint import restrained

    if options.restrain is None:
        return edits
    return [restrained(model, [edit], options.restrain, gentler) for edit in edits]


def _made(model: Any, options: DiffOptions, editors: list[Any], folder: Path) -> list[Any]:
    """One edit for each method, kept in the folder as soon as it is made, and taken from there."""
    from studies.edit import MethodRun, make_by_each, moments_for

    asked = request_from(
        model, str(options.prompt), str(options.target), subject=options.subject, answer=options.answer,
        start=options.start,
    )  # fmt: skip
    runs = []
    for name, editor in zip(options.chosen, editors, strict=True):
        spec, pairs = options.method_with_settings(name)
        config, seed, start = spec.config_for(model, pairs, editor), options.seed, options.start
        runs.append(MethodRun(spec, config, None, seed, start, editor, options.allow_trained))
        if spec.in_context:
            raise UserError(
                f"{spec.name} changes nothing in the model, so there is nothing to see inside: choose another method"
            )
        if spec.reads_prompts:
            raise UserError(
                f"the gate of {spec.name} looks at whole prompts, and a trace runs parts of them: choose another "
                "method, or find circuits alone while its edit is in place"
            )

    def moments(spec: Any, config: Any) -> Any:
        return moments_for(model, spec, config, options.moments, options.tokens, options.seed, options.start)

    return make_by_each(model, asked, runs, folder / "edits", moments)


def _asked(model: Any, options: DiffOptions, start: str) -> Any:
    """The other prompt as a request: what it answers, and what the edit may make of it; None where there is none."""
    if options.ask is None:
        return None
    subject = options.subject if options.ask == options.prompt else None
    return request_from(
        model, options.ask, str(options.new), subject=subject, answer=options.old, start=start, whose="its"
    )


def _tell(found: Any, folder: Path, pages: Any, as_json: bool) -> None:
    from studies.edit_effects.words import summary, words

    if as_json:
        said = [summary(study) | {"page": str(page)} for study, page in zip(found, pages, strict=False)]
        body = said[0] if len(said) == 1 else {"methods": said, "page": str(pages[-1])}
        tell(json.dumps(body | {"folder": str(folder)}, ensure_ascii=False))
        return
    for study in found:
        tell(*([f"{study.method}:"] if len(found) > 1 else []), *words(study))
    tell(f"Page: {pages[-1]}")
