"""How edits fail, from what the model writes: the four kinds of the KnowEdit survey (Zhang et al. 2024, section 4.5).

What is looked at: the edits' own prompts that the target does not answer in full after the edit, where a continuation
was written. The survey sorts by hand; the rules here are ours, in this order:

    meaningless           no word at all, or one word makes up more than half of at least four and is of neither answer
    partial replacement   words of the target beside words of the old answer that the target does not have
    missing tokens        some words of the target, and none of the old answer's own
    unrelated             no word of the target
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from editing.evaluation.read import Row

KINDS = ("meaningless", "partial replacement", "missing tokens", "unrelated")


@dataclass(frozen=True)
class Failure:
    """One edit that did not work."""

    case: str
    kind: str  # one of KINDS
    prompt: str
    target: str
    said: str


def failures(rows: Sequence[Row]) -> tuple[Failure, ...]:
    """Every rewrite that failed and was continued, in order."""
    found = []
    for row in rows:
        now = row.now
        if row.kind == "rewrite" and now is not None and now.said is not None and not (now.exact or now.hit):
            found.append(Failure(row.case, kind_of(now.said, row.target, row.other), row.prompt, row.target, now.said))
    return tuple(found)


def kind_of(said: str, target: str, old: str | None) -> str:
    """Which of `KINDS` a continuation is."""
    words = re.findall(r"\w+", said.casefold())
    new = set(re.findall(r"\w+", target.casefold()))
    before = set(re.findall(r"\w+", (old or "").casefold())) - new
    often, count = Counter(words).most_common(1)[0] if words else ("", 0)
    if not words or (len(words) > 3 and count > len(words) / 2 and often not in new | before):
        return "meaningless"
    if not new & set(words):
        return "unrelated"
    return "partial replacement" if before & set(words) else "missing tokens"
