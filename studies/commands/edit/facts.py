"""`edit facts check`: what a file of facts or cases holds, and what is wrong with it, before it is used."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from studies.commands.app import note, tell
from studies.commands.command import command, group
from studies.commands.options import AsJson, Extra, OneOf, Options, argument, option


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """Which file, and how it is read."""

    file: Annotated[
        str,
        argument(
            "Suite or fact file, folder, or Hugging Face data set: owner/name or owner/name:FILE.", metavar="FILE"
        ),
    ]
    target: Annotated[str, option("Which answer an edit would say.", of=OneOf("target", ("new", "true")))] = "new"
    split: Annotated[str, option("The split of a Hugging Face data set.")] = "train"
    skip_bad: Annotated[bool, option("Count bad records instead of ending at the first.", "--skip-bad")] = False
    extra: Extra = "refuse"
    as_json: AsJson = False


@command(
    "edit facts check",
    CheckOptions,
    "edit facts check counterfact.json",
    "edit facts check zsre.json --target true --skip-bad",
)
def check(options: CheckOptions) -> None:
    """Read every record of a file and say what it holds; the first bad one is named with its index and field."""
    import warnings

    from factscope.data.conflicts import conflicts, summary
    from factscope.data.load import load_cases

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cases = load_cases(
            options.file,
            split=options.split,
            target=options.target,
            on_bad="skip" if options.skip_bad else "refuse",
            extra=options.extra,
        )
    kinds = Counter(f"{t.kind}{f', {t.label}' if t.label else ''}" for case in cases for t in case.trials)
    if options.as_json:
        body = {"suite": cases[0].suite, "cases": len(cases), "facts": sum(len(c.requests) for c in cases)}
        body |= {"trials": dict(kinds), "left_out": [text for c in cases for text in c.left_out]}
        body |= {"bad": [str(one.message) for one in caught], "conflicts": [vars(one) for one in conflicts(cases)]}
        tell(json.dumps(body, ensure_ascii=False))
        return
    tell(f"{cases[0].suite}: {len(cases)} cases, {sum(len(case.requests) for case in cases)} facts to edit")
    for name, count in kinds.items():
        tell(f"  {count:>7}  {name}")
    gone = [(case.id, text) for case in cases for text in case.left_out]
    if gone:
        tell(f"  {len(gone):>7}  questions cannot be asked and are left out; the first: {gone[0][0]}: {gone[0][1]}")
    for one in caught:
        note(f"Note: {one.message}")
    for text in summary(conflicts(cases)):
        note(f"Note: {text}.")


app = group("facts", "Look at a file of facts before it is used.", (check,), "edit facts check counterfact.json")
