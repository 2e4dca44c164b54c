"""`edit bench` and `edit facts check`: judge methods on a suite under a protocol; check a file of facts or cases."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from studies.commands import common
from studies.commands.common import listed, note, tell, writable
from studies.commands.edit_options import (
    Device,
    Dtype,
    Json,
    Model,
    MomentsFrom,
    Out,
    Runs,
    Seed,
    Start,
    Tokens,
    setting,
)
from workbench.errors import UserError

EXAMPLES = common.examples(
    "edit bench counterfact.json --methods rome,memit,ft-m,ice --protocol counterfact --n 100",
    "edit bench MQuAKE-CF-3k-v2.json --methods memit,ike --protocol generation --n 50",
    "edit bench zsre.json --methods memit --protocol zsre-memit --compare runs/bench-zsre-1a2b3c4d",
)
CHECKS = common.examples("edit facts check counterfact.json", "edit facts check zsre.json --target true --skip-bad")


def bench(
    suite: Annotated[str, typer.Argument(help="Suite file, folder, Hugging Face data set or shipped relation.")],
    methods: Annotated[str, typer.Option(help="As rome,memit,ft-m,ice; all of them are listed by docs/suites.md.")],
    protocol: Annotated[
        str,
        typer.Option(
            help="counterfact, easyedit, memit, zsre-memit, batch-30, sequential, sequential-batch, strict, generation."
        ),
    ] = "counterfact",
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
    snippets: Annotated[
        Path | None, typer.Option(help="Reference texts (attribute_snippets.json), with --speech.")
    ] = None,
    known: Annotated[bool, typer.Option("--known", help="Only cases whose facts the model knows.")] = False,
    general: Annotated[
        bool, typer.Option("--general", help="Perplexity and unrelated facts, with all edits in.")
    ] = False,
    compare: Annotated[Path | None, typer.Option(help="Set this saved bench beside it.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out records that do not work out.")] = False,
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
    from editing.protocols import protocol as protocol_of

    asked = listed(methods)
    if not asked:
        raise UserError("--methods is empty; give some, as --methods rome,memit")
    how = protocol_of(protocol, scorer=scorer, size=batch, target=target, words=words, speech=speech)
    chosen = per_method(settings or [])
    said = (suite, asked, how, n, known, general, skip_bad, split, moments, tokens, model, seed, start, dtype, settings)
    key = common.settled_folder("bench", Path(suite).stem, said).name
    with writable(out or runs / key) as folder:
        from editing.methods import method
        from editing.reference import Snippets
        from studies import bench as grid
        from studies import bench_view
        from workbench import store
        from workbench.cases import load_cases
        from workbench.files import write_text_atomically
        from workbench.plots.page import write_page

        for name in asked:
            method(name)
        beside = bench_view.load(compare) if compare is not None else None
        cases = load_cases(
            suite, limit=None if known else n, split=split, target=how.target, on_bad="skip" if skip_bad else "refuse"
        )
        loaded = common.loader(model, device, dtype)()
        cases = _known(loaded, cases, n, start, suite) if known else cases
        if len(cases) < n:
            note(f"Note: {len(cases)} cases are edited, not {n}: there are no more.")
        try:
            result = grid.bench(
                loaded, cases, asked, how, folder, source=Path(suite).name, settings=chosen, moments=moments,
                tokens=tokens, yardstick=_yardstick(loaded, cases, seed, start) if general else None,
                snippets=None if snippets is None else Snippets.load(snippets), seed=seed, start=start,
            )  # fmt: skip
        except KeyboardInterrupt:
            note(f"Stopped; what is done is in {folder}, and the same command goes on from there.")
            raise
        if general and not any(trial.general for trial in result.trials):
            note("Note: nothing general is measured where every edit is taken out again; choose another protocol.")
        store.save(result, folder)
        write_text_atomically(folder / "table.md", bench_view.markdown(result))
        bench_view.write_rows(result, folder)
        page = write_page(bench_view.page(result), folder / "page.html", light=light)
    if as_json:
        body = {"cases": len(result.cases), "protocol": vars(how), "scores": [vars(one) for one in result.scores]}
        body |= {"failures": {trial.method: bench_view.failed(trial) for trial in result.trials}}
        tell(json.dumps(body | {"folder": str(folder), "page": str(page)}, ensure_ascii=False))
    else:
        columns, rows = bench_view.lines(result)
        turned = list(zip(columns[1:], *(row[1:] for row in rows), strict=True))  # a row a metric: that fits a terminal
        _show((columns[0], *(str(row[0]) for row in rows)), turned, title=f"{result.suite}, {len(result.cases)} cases")
        for name, value in bench_view.facts_of(result):
            tell(f"{name}: {value}")
        tell(f"Page: {page}; also table.md, rows.csv and rows.parquet")
    if beside is not None:
        _show(*bench_view.side_by_side(result, beside), title=f"this beside {compare}")
        reasons = bench_view.obstacles(result, beside)
        if reasons:
            raise UserError(
                f"these two are not subtracted, as their numbers mean different things: {'; '.join(reasons)}"
            )


facts = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Look at a file of facts before it is used.")


@facts.callback(epilog=CHECKS)
def _facts() -> None:
    """Look at a file of facts before it is used."""


@facts.command(epilog=CHECKS)
def check(
    file: Annotated[str, typer.Argument(help="Suite or fact file, folder, or Hugging Face data set.")],
    target: Annotated[str, typer.Option(help="new or true: which answer an edit would say.")] = "new",
    split: Annotated[str, typer.Option(help="Of a Hugging Face data set.")] = "train",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count bad records instead of ending at the first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every record of a file and say what it holds; the first bad one is named with its index and field."""
    import warnings

    from workbench.cases import load_cases

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cases = load_cases(file, split=split, target=target, on_bad="skip" if skip_bad else "refuse")
    kinds = Counter(f"{t.kind}{f', {t.label}' if t.label else ''}" for case in cases for t in case.trials)
    if as_json:
        body = {"suite": cases[0].suite, "cases": len(cases), "facts": sum(len(c.facts) for c in cases)}
        body |= {"trials": dict(kinds), "left_out": [text for c in cases for text in c.left_out]}
        tell(json.dumps(body | {"bad": [str(one.message) for one in caught]}, ensure_ascii=False))
        return
    tell(f"{cases[0].suite}: {len(cases)} cases, {sum(len(case.facts) for case in cases)} facts to edit")
    for name, count in kinds.items():
        tell(f"  {count:>7}  {name}")
    gone = [(case.id, text) for case in cases for text in case.left_out]
    if gone:
        tell(f"  {len(gone):>7}  questions cannot be asked and are left out; the first: {gone[0][0]}: {gone[0][1]}")
    for one in caught:
        note(f"Note: {one.message}")
    for text in _conflicts(cases):
        note(f"Note: {text}.")


def _conflicts(cases: Any) -> list[str]:
    """Prompts that are given two targets: each can be edited alone, and together they are refused."""
    targets: dict[tuple[str, str], tuple[str, str | None]] = {}
    found = []
    for case in cases:
        for fact in case.facts:
            key = (fact.subject.casefold(), fact.template.casefold())
            id_, target = targets.setdefault(key, (fact.id, fact.foil))
            if target != fact.foil:
                found.append(
                    f"{fact.prompt!r} has two targets, {target!r} and {fact.foil!r} (facts {id_!r} and {fact.id!r}): "
                    "an edit of both at once is refused"
                )
    return found


def per_method(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """The settings of --set METHOD.KEY=VALUE, by method."""
    out: dict[str, dict[str, Any]] = {}
    for text in pairs:
        key, value = setting(text)
        name, dot, rest = key.partition(".")
        if not dot:
            raise UserError(f"--set {text!r}: say whose setting it is, as rome.layer=5")
        out.setdefault(name.lower().replace("-", "_"), {})[rest] = value
    return out


def _known(model: Any, cases: Any, n: int, start: str, suite: str) -> Any:
    """The first n cases whose facts the model all knows."""
    from editing.requests import known
    from workbench.cases import UNSAID

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


def _yardstick(model: Any, cases: Any, seed: int, start: str) -> Any:
    from editing.drift import Yardstick, fixed_text, unrelated_facts

    others = unrelated_facts(model, [fact for case in cases for fact in case.facts], seed=seed, start=start)
    return Yardstick.of(model, others, *fixed_text(model, "self", seed=seed, start=start), start)


def _show(columns: tuple[str, ...], rows: list[tuple[Any, ...]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            *("" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        )
    width = None if Console().is_terminal else 40 + 14 * len(columns)
    Console(width=width).print(table)
