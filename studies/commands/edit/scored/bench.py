"""`edit bench`: judge methods on a suite under a named protocol, in one table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from factscope.errors import UserError
from factscope.runs.folders import settled_folder
from factscope.settings import by_owner
from studies.commands.app import going_on, listed, load, note, tell, tell_shard, track
from studies.commands.command import command, run_folder
from studies.commands.edit.scored.compare import compared, show, tell_compared
from studies.commands.options import (
    DETAILS,
    OWN_TASKS,
    PROTOCOLS,
    EditorsOptions,
    Extra,
    ModelOptions,
    MomentsOptions,
    OneOf,
    RunOptions,
    Runs,
    SettingsByMethod,
    ShardOptions,
    Was,
    argument,
    key,
    option,
    several_methods,
)

SAME = (
    "scorer",
    "target",
    "words",
    "speech",
    "prompt_counts",
    "frame",
    "probes",
    "variations",
)  # names of a protocol's parts


@dataclass(frozen=True, kw_only=True)
class BenchOptions(ModelOptions, MomentsOptions, EditorsOptions, ShardOptions, RunOptions):
    """Which methods, on which cases, under which protocol."""

    suite: Annotated[
        str,
        argument(
            "Suite file, folder, shipped relation, or Hugging Face data set: owner/name or owner/name:FILE.",
            metavar="SUITE",
        ),
    ]
    methods: Annotated[str, several_methods("rome,memit,ice")]
    protocol: Annotated[
        str | None,
        option("What is measured, and when  [dim](default: the suite's usual)[/dim]", of=OneOf("protocol", PROTOCOLS)),
    ] = None
    mix: Annotated[
        tuple[str, ...], option("A further suite whose cases are mixed in, by the seed; repeat for several.")
    ] = ()
    at: Annotated[str | None, option("Read all so far again after so many cases: 10,100; edits must stay.")] = None
    tasks: Annotated[
        str | None, option(f"With --at: {', '.join(OWN_TASKS)}, or tasks of lm-eval; with commas between.")
    ] = None
    limit: Annotated[int, option("Cases, from the first on."), Was("--n")] = 100
    known: Annotated[bool, option("Only cases whose facts the model knows.", "--known")] = False
    general: Annotated[bool, option("Perplexity and unrelated facts, with all edits in.", "--general")] = False
    beside: Annotated[Path | None, option("Set this saved bench beside it.", "--compare")] = None
    settings: SettingsByMethod = ()
    scorer: Annotated[
        str | None,
        option("Instead of the protocol's: likelihood, token accuracy, strict, said or generation.", panel=DETAILS),
    ] = None
    frame: Annotated[
        str | None, option("What stands around every prompt.", panel=DETAILS, of=OneOf("frame", ("bare", "qa")))
    ] = None
    probes: Annotated[
        bool | None,
        option("Ask in other frames, negated, and as yes or no, too.", "--probes/--no-probes", panel=DETAILS),
    ] = None
    variations: Annotated[
        bool | None,
        option("Ask after a long text, under doubt, with typos, in other languages, too.", "--vary/--no-vary"),
    ] = None
    batch: Annotated[int | None, option("Cases of one edit, instead of the protocol's.", panel=DETAILS)] = None
    target: Annotated[
        str | None, option("Which answer the edit says.", panel=DETAILS, of=OneOf("target", ("new", "true", "refuse")))
    ] = None
    words: Annotated[
        int | None, option("Tokens of a greedy continuation, for failures and aliases.", panel=DETAILS)
    ] = None
    speech: Annotated[int | None, option("Tokens of the texts whose entropy is taken, as 100.", panel=DETAILS)] = None
    prompt_counts: Annotated[
        bool | None,
        option(
            "Whether the entropy of texts is taken with their prompts  [dim](default: yes, as ROME's code)[/dim]",
            "--prompt-counts/--no-prompt-counts",
            panel=DETAILS,
        ),
    ] = None
    snippets: Annotated[
        Path | None, option("Reference texts (attribute_snippets.json), with --speech.", panel=DETAILS)
    ] = None
    unrelated: Annotated[
        str | None,
        option("For --general: facts that must not change, or none  [dim](default: shipped ones)[/dim]", panel=DETAILS),
    ] = None
    text: Annotated[
        str, option("For --general: what perplexity is measured on: self, a text file, a data set.", panel=DETAILS)
    ] = "self"
    skip_bad: Annotated[bool, option("Leave out records that do not work out.", "--skip-bad", panel=DETAILS)] = False
    extra: Extra = "refuse"
    skip_conflicts: Annotated[
        bool,
        option("Leave out cases whose prompt an earlier one gives a target.", "--skip-conflicts", panel=DETAILS),
    ] = False
    split: Annotated[str, option("The split of a Hugging Face data set.", panel=DETAILS)] = "train"
    runs: Runs = Path("runs")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods; UserError where none is named."""
        names = listed(self.methods)
        if not names:
            raise UserError("--methods is empty; give some, as --methods rome,memit")
        return names


@command(
    "edit bench",
    BenchOptions,
    "edit bench counterfact.json --methods rome,memit,ft-m,ice --protocol counterfact --limit 100",
    "edit bench MQuAKE-CF-3k-v2.json --methods memit,ike --protocol generation --limit 50",
    "edit bench zsre.json --mix recent.json --methods memit --protocol sequential --at 10,100 --tasks repeat,capitals",
    "edit bench zsre.json --methods memit --protocol zsre-memit --compare runs/bench-zsre-1a2b3c4d",
)
def bench(options: BenchOptions) -> None:
    """Run methods on a suite's cases under a protocol; one table, resumable, every question kept."""
    _check(options)
    how, cases = _cases(options)
    shard, own = options.part(settled_folder("bench", Path(options.suite).stem, key(options), options.runs))
    crew = options.crew()
    with run_folder("edit bench", options, own) as folder:
        from factscope.plots.page import write_page
        from factscope.runs import store
        from studies.bench import compare as bench_compare
        from studies.bench import page as bench_view

        other = bench_compare.load(options.beside) if options.beside is not None else None
        result = _result(options, how, cases, folder, other, workers=crew, shard=shard)
        if shard is not None:
            tell_shard(shard, folder)
            return
        store.save(result, folder)
        bench_view.write_tables(result, folder)
        page = write_page(bench_view.page(result), folder / "page.html", light=options.light)
    if options.as_json:
        body = bench_view.summary(result) | ({"comparison": compared(result, other)} if other is not None else {})
        tell(json.dumps(body | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
    else:
        _tell(result, page)
    if other is not None and not options.as_json:
        tell_compared(result, other, f"this beside {options.beside}")
    track(result, page, options)


def _check(options: BenchOptions) -> None:
    """UserError for options that do not go together, or a method that there is not."""
    from editing.method import method

    if options.snippets is not None and not options.speech:
        raise UserError("--snippets is for texts that the model writes: give their length with --speech 100")
    _at(options)
    if options.tasks is not None and options.at is None:
        raise UserError("--tasks are asked at checkpoints, and there is none: give --at, as --at 10,100")
    if not options.general and (options.unrelated is not None or options.text != "self"):
        raise UserError("--unrelated and --text are for --general; give that too, or leave them out")
    for name in options.chosen:
        method(name)
    by_owner(options.settings)


def _cases(options: BenchOptions) -> tuple[Any, Any]:
    """The protocol, and the suite's cases."""
    from editing.evaluation.protocol import protocol, usual
    from editing.evaluation.read import without_conflicts
    from factscope.data.load import load_cases

    parts = {"size": options.batch}
    parts |= {name: getattr(options, name) for name in SAME}
    how = protocol(options.protocol or "counterfact", **parts)
    limit = None if options.known or options.skip_conflicts else options.limit
    on_bad = "skip" if options.skip_bad else "refuse"
    cases = load_cases(
        options.suite, also=options.mix, seed=options.seed if options.mix else None, limit=limit,
        split=options.split, target=how.target, on_bad=on_bad, extra=options.extra,
    )  # fmt: skip
    if options.mix:
        _tell_contradictions(cases)
    if options.protocol is None:
        how = protocol(usual(cases[0].suite), **parts)
        note(f"Protocol: {how.name}, the usual one for {cases[0].suite}; choose another with --protocol.")
    if options.skip_conflicts:
        cases = _without(cases, without_conflicts(cases), options.limit if not options.known else None)
    return how, cases


def _tell_contradictions(cases: Any) -> None:
    """Say which cases of a mixture contradict each other in other words; the same prompt is refused where it stays."""
    from factscope.data.conflicts import conflicts

    found = [one for one in conflicts(cases) if one.kind != "twice"]
    if found:
        note(f"Note: the mixture contradicts itself {len(found)} times, first {found[0]}.")


def _at(options: BenchOptions) -> tuple[int, ...]:
    """After how many cases all are read again; UserError for what is no number above 0."""
    parts = listed(options.at) or ()
    if options.at is not None and (not parts or not all(part.isdecimal() and int(part) for part in parts)):
        raise UserError(f"--at {options.at!r}: write numbers of cases, as 10,100")
    return tuple(sorted({int(part) for part in parts}))


def _result(options: BenchOptions, how: Any, cases: Any, folder: Path, other: Any, **who: Any) -> Any:
    """The bench itself, or of a shard nothing but its journals, after everything that refuses it."""
    from editing.evaluation.reference_texts import Snippets
    from editing.evaluation.tasks import Tasks
    from editing.sequence import yardstick as measuring
    from factscope.model.prompts import start_token
    from studies.bench import bench as grid
    from studies.bench import compare as bench_compare

    references = None if options.snippets is None else Snippets.load(options.snippets)
    editors = options.loaded()
    n, seed, start = options.limit, options.seed, options.start
    model = load(options)
    cases = grid.known_cases(model, cases, n, start) if options.known else cases
    if len(cases) < n:
        note(f"Note: {len(cases)} cases are edited, not {n}: there are no more.")
    if other is not None:
        begins = start_token(model, start)[0] or "none"
        planned = bench_compare.Planned(how, cases[0].suite, grid.digest(cases), begins)
        refuse(bench_compare.obstacles(planned, other), options.beside)
    tasks = Tasks.of(model, listed(options.tasks) or (), seed=seed, start=start) if options.tasks else None
    yardstick = None
    if options.general:
        edited = [request for case in cases for request in case.requests]
        how_general = measuring.Config(options.unrelated, text=options.text, seed=seed, start=start)
        yardstick = measuring.yardstick(model, edited, how_general)
    with going_on(folder):
        run: Any = grid.bench if options.shard is None else grid.bench_shard
        result = run(
            model, cases, options.chosen, how, folder, known=options.known, mixed=bool(options.mix),
            source=" + ".join(Path(one).name for one in (options.suite, *options.mix)), at=_at(options), tasks=tasks,
            settings=by_owner(options.settings), moments=options.moments, tokens=options.tokens, snippets=references,
            seed=seed, start=start, yardstick=yardstick, editors=editors, allow_trained=options.allow_trained,
            say=lambda words: note(f"Note: {words}."), **who,
        )  # fmt: skip
    if options.general and options.shard is None and not any(trial.general for trial in result.trials):
        note("Note: nothing general is measured where every edit is taken out again; choose another protocol.")
    return result


def _tell(result: Any, page: Path) -> None:
    """The result for people."""
    from factscope.plots.labels import counted, heading
    from studies.bench import page as bench_view

    title = heading(f"{result.suite}, {counted(len(result.cases), 'case')}")
    show(replace(bench_view.score_table(result), title=title))
    for table in bench_view.further(result):
        show(table)
    for name, value in bench_view.facts_of(result):
        tell(f"{name}: {value}")
    tell(f"Page: {page}; also table.md, scores.csv, rows.csv and rows.parquet")


def refuse(reasons: Sequence[str], other: Path | None) -> None:
    """Raise UserError if two results must not be subtracted."""
    if reasons:
        raise UserError(
            f"{other} is not subtracted, as its numbers mean something else: {'; '.join(reasons)}; leave --compare "
            "out, or set the two side by side with edit compare"
        )


def _without(cases: Any, kept: Any, n: int | None) -> Any:
    if len(kept) < len(cases):
        note(f"Note: {len(cases) - len(kept)} cases are left out: an earlier one gives the same prompt a target.")
    return kept[:n]
