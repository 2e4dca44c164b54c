"""`edit facts check`: what a file of facts or cases holds, and what is wrong with it, before it is used."""

import json
from collections import Counter
from typing import Annotated

import typer

from studies.commands import app as common
from studies.commands.app import note, tell
from studies.commands.options import Json

EXAMPLES = common.examples("edit facts check counterfact.json", "edit facts check zsre.json --target true --skip-bad")

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Look at a file of facts before it is used.")


@app.callback(epilog=EXAMPLES)
def _facts() -> None:
    """Look at a file of facts before it is used."""


@app.command(epilog=EXAMPLES)
def check(
    file: Annotated[
        str, typer.Argument(help="Suite or fact file, folder, or Hugging Face data set: owner/name or owner/name:FILE.")
    ],
    target: Annotated[str, typer.Option(help="new or true: which answer an edit would say.")] = "new",
    split: Annotated[str, typer.Option(help="Of a Hugging Face data set.")] = "train",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count bad records instead of ending at the first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every record of a file and say what it holds; the first bad one is named with its index and field."""
    import warnings

    from factscope.data.conflicts import conflicts, summary
    from factscope.data.load import load_cases

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cases = load_cases(file, split=split, target=target, on_bad="skip" if skip_bad else "refuse")
    kinds = Counter(f"{t.kind}{f', {t.label}' if t.label else ''}" for case in cases for t in case.trials)
    if as_json:
        body = {"suite": cases[0].suite, "cases": len(cases), "facts": sum(len(c.facts) for c in cases)}
        body |= {"trials": dict(kinds), "left_out": [text for c in cases for text in c.left_out]}
        body |= {"bad": [str(one.message) for one in caught], "conflicts": [vars(one) for one in conflicts(cases)]}
        tell(json.dumps(body, ensure_ascii=False))
        return
    tell(f"{cases[0].suite}: {len(cases)} cases, {sum(len(case.facts) for case in cases)} facts to edit")
    for name, count in kinds.items():
        tell(f"  {count:>7}  {name}")
    gone = [(case.id, text) for case in cases for text in case.left_out]
    if gone:
        tell(f"  {len(gone):>7}  questions cannot be asked and are left out; the first: {gone[0][0]}: {gone[0][1]}")
    for one in caught:
        note(f"Note: {one.message}")
    for text in summary(conflicts(cases)):
        note(f"Note: {text}.")
