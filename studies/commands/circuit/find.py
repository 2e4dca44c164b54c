"""`circuit find`: the circuit of one prompt, or of several facts of a relation."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import new_folder, settled_folder
from studies.commands.app import JOURNAL, listed, load, tell_notes, tell_result
from studies.commands.asked import check_prompt
from studies.commands.circuit.study import study_of
from studies.commands.command import command, run_folder
from studies.commands.options import (
    DETAILS,
    FACTS,
    CircuitMethod,
    CircuitOptions,
    CircuitSettings,
    EdgeMetric,
    FactsOptions,
    Foil,
    ModelOptions,
    OneOf,
    PromptOptions,
    RunOptions,
    Unknown,
    Was,
    WorkersOptions,
    key,
    option,
)


@dataclass(frozen=True, kw_only=True)
class FindOptions(PromptOptions, CircuitOptions, FactsOptions, ModelOptions, WorkersOptions, RunOptions):
    """For what a circuit is found, and how."""

    method: CircuitMethod = "eap_ig"
    foil: Foil = None
    faithful: Annotated[
        float | None,
        option("As few edges as keep so much of what the model does (with a scorer)  [dim](default: 0.6)[/dim]"),
    ] = None
    swap: Annotated[
        str | None, option("The one subject of the counterfactual ablation, for this fact without its relation.")
    ] = None
    others: Annotated[
        str | None,
        option("Other subjects, with commas between  [dim](default: of the shipped facts)[/dim]"),
    ] = None
    limit: Annotated[
        int,
        option("So many known facts of one length (with --facts); the others are held out.", panel=FACTS),
        Was("--examples"),
    ] = 5
    unknown: Unknown = False
    metric: EdgeMetric = "nll"
    evaluate: Annotated[bool, option("Evaluate and name roles.", "--evaluate/--no-evaluate")] = True
    select: Annotated[
        str | None,
        option(
            "How edges are chosen (with a scorer)  [dim](default: greedy)[/dim]",
            panel=DETAILS,
            of=OneOf("selection", ("greedy", "top", "threshold")),
        ),
    ] = None
    signed: Annotated[bool, option("Choose by signed score: edges that help.", "--signed", panel=DETAILS)] = False
    confident: Annotated[
        bool, option("Choose by the lower bound of a score over the facts.", "--confident", panel=DETAILS)
    ] = False
    by_role: Annotated[bool, option("Edges at token roles: facts of any length share one circuit.", "--by-role")] = (
        False
    )
    pairs: Annotated[
        bool,
        option(
            "With --by-role: an edge into a key or value for each role that attends, too.", "--pairs", panel=DETAILS
        ),
    ] = False
    split_positions: Annotated[bool, option("Position embeddings apart.", "--split-positions", panel=DETAILS)] = False
    engine: Annotated[
        str | None,
        option(
            "The engine of acdc: fast, or the plain one  [dim](default: fast)[/dim]",
            panel=DETAILS,
            of=OneOf("engine", ("fast", "reference")),
        ),
    ] = None
    certify: Annotated[
        float | None, option("Share of ACDC's decisions that the plain engine measures again.", panel=DETAILS)
    ] = None
    like: Annotated[
        Path | None,
        option("An ACDC run with another threshold, whose first decisions are taken over.", panel=DETAILS),
    ] = None
    settings: CircuitSettings = ()


@command(
    "circuit find",
    FindOptions,
    'circuit find "The Eiffel Tower is located in the city of"',
    'circuit find "[Steve Jobs] founded the company called" --others "Bill Gates,Jeff Bezos,Jack Ma"',
    'circuit find "The capital of France is" --method acdc --threshold 0.05 --no-split-qkv',
    "circuit find --facts country_capital --limit 8 --method eap-ig --edges 3000",
    'circuit find "The Eiffel Tower is located in the city of" --by-role',
    'circuit find "The Eiffel Tower is located in the city of" --by-role --pairs',
)
def find(options: FindOptions) -> None:
    """Find the circuit of one prompt, or of several facts of a relation."""
    check(options)
    check_prompt(options.prompt, options.subject)
    words = options.prompt or str(options.facts)
    # The same search finds the same folder, and so takes up where it was stopped.
    own = settled_folder("circuit", words, key(options)) if _shared(options) else new_folder("circuit", words)
    crew = options.crew()
    with run_folder("circuit find", options, own) as folder:
        from studies.circuit_inputs import KNOWN, TaskOptions

        ablation, others = options.ablation or "auto", listed(options.others) or ()
        known = None if options.unknown else KNOWN
        how = TaskOptions(options.metric, ablation, options.start, known, options.evaluate, options.extra, others)
        found, page = _by_role(options, how, folder) if options.by_role else _plain(options, how, folder, crew)
    tell_result(found, page, options, folder=str(folder))


def _plain(options: FindOptions, how: Any, folder: Path, crew: Any) -> tuple[Any, Path]:
    """The circuit whose edges are kept at every position, and its page."""
    from factscope.runs import store
    from studies.circuit import circuit_study
    from studies.saved import save_with_page

    method, like = _method(options), study_of(options.like).circuit if options.like is not None else None
    model = load(options)
    work = _inputs(model, options, how, method)
    tell_notes(work.notes)
    study = circuit_study(
        model, work, method, evaluate=options.evaluate, like=like, seed=options.seed,
        split=options.split_qkv, positions=options.split_positions,
        journal=folder / JOURNAL if method.shared else None, workers=crew, shown=None,
        told=lambda found: store.save(found, folder),
    )  # fmt: skip
    tell_notes(study.circuit.notes[len(work.notes) :])
    return study, save_with_page(study, folder, options.light)


def _by_role(options: FindOptions, how: Any, folder: Path) -> tuple[Any, Path]:
    """The circuit by token roles, and its page; saved before it is drawn."""
    from circuits.by_role.circuit import scorer_by_gradient
    from studies import by_role
    from studies.saved import save_with_page

    method = scorer_by_gradient(_method(options))
    model = load(options)
    if options.prompt is None:
        inputs = by_role.by_role_facts(
            model, str(options.facts), options.relation, options.limit, options=how, seed=options.seed
        )
    else:
        inputs = by_role.by_role_prompt(
            model,
            options.prompt,
            subject=options.subject,
            answer=options.answer,
            options=replace(how, facts=by_role.FACTS),
        )
    tell_notes(inputs.notes)
    found = by_role.circuit_by_role(
        model, inputs, method, evaluate=options.evaluate, seed=options.seed, split=options.split_qkv,
        pairs=options.pairs,
    )  # fmt: skip
    tell_notes(found.notes[len(inputs.notes) :])
    return found, save_with_page(found, folder, options.light)


def _shared(options: FindOptions) -> bool:
    """Whether the method is long work in pieces; UserError where there is none of that name."""
    from circuits.method import method_class

    return bool(method_class(options.method).shared)


def check(options: FindOptions) -> None:
    """UserError for options that do not go together."""
    if options.workers > 1 or options.ray is not None:
        _check_workers(options)
    if (options.prompt is None) == (options.facts is None):
        raise UserError("give either a PROMPT or --facts; see circuit find --help")
    if options.facts is not None and any((options.subject, options.answer, options.foil, options.swap, options.others)):
        raise UserError("--subject, --answer, --foil, --swap and --others belong to a single PROMPT")
    if options.swap is not None and options.others is not None:
        raise UserError("--swap is the one other subject, and --others names several; give one of the two")
    if options.others is not None and options.method == "acdc":
        raise UserError("acdc searches one prompt, cut to zero or to --swap, so --others would change nothing")
    if options.method != "acdc" and options.like is not None:
        raise UserError("--like takes over the decisions of ACDC; a scorer makes none")
    if options.by_role:
        _check_by_role(options)
    elif options.pairs:
        raise UserError("--pairs tells apart which role attends to a key or value, so it goes with --by-role")


def _check_workers(options: FindOptions) -> None:
    """UserError where nothing can be shared."""
    if options.method == "acdc" and not options.certify:
        raise UserError(
            "each decision of acdc rests on those before it, so nobody can share the search; workers measure decisions "
            "again: give --certify, or --method exact for single cuts, which workers share"
        )
    if not _shared(options):
        raise UserError(
            f"{options.method} scores all edges in a few passes, which nobody need share; leave --workers out"
        )


def _check_by_role(options: FindOptions) -> None:
    """UserError for options that a search by token roles does not know."""
    for flag, given in (
        ("--swap", options.swap),
        ("--foil", options.foil),
        ("--split-positions", options.split_positions),
    ):
        if given:
            raise UserError(f"--by-role joins facts of one wording and any length, and has no use for {flag}")
    if options.pairs and not options.split_qkv:
        raise UserError("--pairs is of keys and values, so it needs them split: leave out --no-split-qkv")
    if options.metric.startswith("logit"):
        raise UserError("--by-role asks about other subjects, and a logit difference needs a wrong answer for each")


def _method(options: FindOptions) -> Any:
    """How the circuit is found, before a model is loaded; UserError for a setting that the method lacks."""
    from circuits.method import method

    flags = {name: getattr(options, name) for name in ("threshold", "edges", "faithful", "select", "engine", "certify")}
    flags |= {name: getattr(options, name) or None for name in ("signed", "confident")}
    return method(options.method, flags, options.settings)


def _inputs(model: Any, options: FindOptions, how: Any, method: Any) -> Any:
    """What the circuit is found for: the prompt, or the facts."""
    from studies.circuit_inputs import about_facts, about_prompt

    if options.prompt is None:
        return about_facts(
            model, str(options.facts), options.relation, options.limit, seed=options.seed, method=method, options=how
        )
    return about_prompt(
        model, options.prompt, subject=options.subject, answer=options.answer, foil=options.foil, swap=options.swap,
        method=method, options=how,
    )  # fmt: skip
