"""`edit bench`: judge methods on a suite under a named protocol, in one table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from factscope.errors import UserError
from factscope.runs.folders import settled_folder, writable
from factscope.settings import by_owner
from studies.commands import app as common
from studies.commands.app import listed, note, tell
from studies.commands.edit.compare import compared, show, tell_compared
from studies.commands.options import Device, Dtype, Json, Model, MomentsFrom, Out, Runs, Seed, Start, Tokens

EXAMPLES = common.examples(
    "edit bench counterfact.json --methods rome,memit,ft-m,ice --protocol counterfact --n 100",
    "edit bench MQuAKE-CF-3k-v2.json --methods memit,ike --protocol generation --n 50",
    "edit bench zsre.json --methods memit --protocol zsre-memit --compare runs/bench-zsre-1a2b3c4d",
)


def bench(
    suite: Annotated[
        str,
        typer.Argument(
            help="Suite file, folder, shipped relation, or Hugging Face data set: owner/name or owner/name:FILE."
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(
            help="Of alphaedit, emmet, ft-l, ft-m, ice, ike, memit, r-rome and rome, as rome,memit,ice.",
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="counterfact, easyedit, memit, zsre-memit, batch-30, sequential, sequential-batch, strict or "
            "generation  [dim](default: the suite's usual one)[/dim]"
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="Cases, from the first on.")] = 100,
    scorer: Annotated[
        str | None, typer.Option(help="Instead of the protocol's: likelihood, token accuracy, strict or generation.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Cases of one edit, instead of the protocol's.")] = None,
    target: Annotated[str | None, typer.Option(help="new or true: which answer the edit says.")] = None,
    words: Annotated[
        int | None, typer.Option(help="Tokens of a greedy continuation, for failures and aliases.")
    ] = None,
    speech: Annotated[int | None, typer.Option(help="Tokens of the texts whose entropy is taken, as 100.")] = None,
    prompt_counts: Annotated[
        bool | None,
        typer.Option(
            "--prompt-counts/--no-prompt-counts",
            help="Whether the entropy of texts is taken with their prompts  [dim](default: yes, as ROME's code)[/dim]",
        ),
    ] = None,
    snippets: Annotated[
        Path | None, typer.Option(help="Reference texts (attribute_snippets.json), with --speech.")
    ] = None,
    known: Annotated[bool, typer.Option("--known", help="Only cases whose facts the model knows.")] = False,
    general: Annotated[
        bool, typer.Option("--general", help="Perplexity and unrelated facts, with all edits in.")
    ] = False,
    unrelated: Annotated[
        str | None,
        typer.Option(help="For --general: facts that must not change, or none  [dim](default: shipped ones)[/dim]"),
    ] = None,
    text: Annotated[
        str, typer.Option(help="For --general: what perplexity is measured on: self, a text file, a data set.")
    ] = "self",
    beside: Annotated[Path | None, typer.Option("--compare", help="Set this saved bench beside it.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out records that do not work out.")] = False,
    skip_conflicts: Annotated[
        bool, typer.Option("--skip-conflicts", help="Leave out cases whose prompt an earlier one gives a target.")
    ] = False,
    split: Annotated[str, typer.Option(help="Of a Hugging Face data set.")] = "train",
    moments: MomentsFrom = "self",
    tokens: Tokens = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    start: Start = "auto",
    device: Device = None,
    dtype: Dtype = "float32",
    out: Out = None,
    runs: Runs = Path("runs"),
    light: Annotated[bool, typer.Option("--light", help="A small page, with plotly.js beside it.")] = False,
    as_json: Json = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.KEY=VALUE", help="A setting of one method.")
    ] = None,
) -> None:
    """Run methods on a suite's cases under a protocol; one table, resumable, every question kept."""
    if n < 1:
        raise UserError(f"--n must be at least 1, not {n}")
    if snippets is not None and not speech:
        raise UserError("--snippets is for texts that the model writes: give their length with --speech 100")
    if not general and (unrelated is not None or text != "self"):
        raise UserError("--unrelated and --text are for --general; give that too, or leave them out")
    asked = listed(methods)
    if not asked:
        raise UserError("--methods is empty; give some, as --methods rome,memit")
    from editing.evaluation.protocol import protocol as protocol_of
    from editing.evaluation.protocol import usual
    from editing.evaluation.read import without_conflicts
    from editing.evaluation.reference_texts import Snippets
    from editing.method import method
    from factscope.data.load import load_cases

    for name in asked:
        method(name)
    chosen = by_owner(settings or [])
    parts = {"scorer": scorer, "size": batch, "target": target, "words": words, "speech": speech}
    parts["prompt_counts"] = prompt_counts
    how = protocol_of(protocol or "counterfact", **parts)
    cases = load_cases(
        suite,
        limit=None if known or skip_conflicts else n,
        split=split,
        target=how.target,
        on_bad="skip" if skip_bad else "refuse",
    )
    if protocol is None:
        how = protocol_of(usual(cases[0].suite), **parts)
        note(f"Protocol: {how.name}, the usual one for {cases[0].suite}; choose another with --protocol.")
    if skip_conflicts:
        cases = _without(cases, without_conflicts(cases), n if not known else None)
    said = (suite, asked, how, n, known, general, skip_bad, split, moments, tokens, model, seed, start, dtype, settings)
    key = settled_folder("bench", Path(suite).stem, (*said, skip_conflicts, unrelated, text)).name
    with writable(out or runs / key) as folder:
        from factscope.plots.page import write_page
        from factscope.runs import store
        from studies.bench import bench as grid
        from studies.bench import compare as bench_compare
        from studies.bench import page as bench_view

        other = bench_compare.load(beside) if beside is not None else None
        references = None if snippets is None else Snippets.load(snippets)
        loaded = common.loader(model, device, dtype)()
        cases = _known(loaded, cases, n, start, suite) if known else cases
        if len(cases) < n:
            note(f"Note: {len(cases)} cases are edited, not {n}: there are no more.")
        if other is not None:
            token = grid.start_token_of(loaded, start)
            planned = bench_compare.Planned(how, cases[0].suite, grid.digest(cases), token)
            refuse(bench_compare.obstacles(planned, other), beside)
        try:
            result = grid.bench(
                loaded, cases, asked, how, folder, source=Path(suite).name, known=known, settings=chosen,
                moments=moments, tokens=tokens, snippets=references, seed=seed, start=start,
                yardstick=_yardstick(loaded, cases, seed, start, unrelated, text) if general else None,
                say=lambda words: note(f"Note: {words}."),
            )  # fmt: skip
        except KeyboardInterrupt:
            note(f"Stopped; what is done is in {folder}, and the same command goes on from there.")
            raise
        if general and not any(trial.general for trial in result.trials):
            note("Note: nothing general is measured where every edit is taken out again; choose another protocol.")
        page = write_page(bench_view.page(result), folder / "page.html", light=light)
        bench_view.write_tables(result, folder)
        store.save(result, folder)  # last: where there is a result, everything else is there, too
    if as_json:
        body = {"cases": len(result.cases), "protocol": vars(how), "comparable_with": result.comparable}
        body |= {"scores": [vars(one) for one in result.scores]}
        body |= {"costs": {trial.method: bench_view.cost_of(trial) for trial in result.trials}}
        body |= {"general": {trial.method: trial.general for trial in result.trials if trial.general}}
        body |= {"failures": {trial.method: bench_view.failed(trial) for trial in result.trials}}
        if other is not None:
            body |= {"comparison": compared(result, other)}
        tell(json.dumps(body | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
        return
    show(replace(bench_view.score_table(result), title=f"{result.suite}, {len(result.cases)} cases"))
    for table in bench_view.further(result):
        show(table)
    for name, value in bench_view.facts_of(result):
        tell(f"{name}: {value}")
    tell(f"Page: {page}; also table.md, scores.csv, rows.csv and rows.parquet")
    if other is not None:
        tell_compared(result, other, f"this beside {beside}")


def refuse(reasons: Sequence[str], other: Path | None) -> None:
    """Raise UserError if two results must not be subtracted."""
    if reasons:
        raise UserError(
            f"{other} is not subtracted, as its numbers mean something else: {'; '.join(reasons)}; leave --compare "
            "out, or set the two side by side with edit compare"
        )


def _known(model: Any, cases: Any, n: int, start: str, suite: str) -> Any:
    """The first n cases whose facts the model all knows."""
    from editing.requests import known
    from factscope.data.case import UNSAID

    told = [fact for case in cases for fact in case.facts if fact.answer != UNSAID]
    if not told:
        raise UserError(f"{suite} does not say what was true before, so --known cannot be asked for")
    found: list[Any] = []
    begin = 0
    while begin < len(cases) and len(found) < n:
        some = cases[begin : begin + 64]
        ids = {fact.id for fact in known(model, [f for case in some for f in case.facts], None, start)}
        found += [case for case in some if all(fact.id in ids for fact in case.facts)]
        begin += 64
    if not found:
        raise UserError(f"the model knows none of the facts in {suite}; leave --known out")
    return tuple(found[:n])


def _without(cases: Any, kept: Any, n: int | None) -> Any:
    if len(kept) < len(cases):
        note(f"Note: {len(cases) - len(kept)} cases are left out: an earlier one gives the same prompt a target.")
    return kept[:n]


def _yardstick(model: Any, cases: Any, seed: int, start: str, unrelated: str | None, text: str) -> Any:
    from editing.sequence.yardstick import Yardstick, fixed_text, unrelated_facts

    edited = [fact for case in cases for fact in case.facts]
    others = () if unrelated == "none" else unrelated_facts(model, edited, unrelated, seed=seed, start=start)
    return Yardstick.of(model, others, *fixed_text(model, text, seed=seed, start=start), start)
