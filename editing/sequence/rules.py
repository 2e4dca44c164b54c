"""Rules to stop by: a line that a quantity of a sequence must not cross."""

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

from factscope.errors import EditError

QUANTITIES = {
    "retention": "share of the edits so far whose prompt prefers the new answer now",
    "paraphrase": "the same for their paraphrases",
    "neighbourhood": "share of their neighbours that still prefer the true answer",
    "unchanged": "share of unrelated facts whose next token is the unedited model's",
    "kl": "KL(unedited || now) at unrelated facts, nats",
    "perplexity": "of the fixed text, times the unedited model's",
    "condition": "largest singular value over smallest, times the unedited weight's; the worst weight",
    "norm": "||dW|| / ||W||, Frobenius; the largest",
}


@dataclass(frozen=True)
class Rule:
    """A line that a quantity must not cross, as "retention<0.5" or "perplexity>2"."""

    quantity: str
    sign: str
    limit: float

    @classmethod
    def of(cls, text: str) -> "Rule":
        """Read one; EditError, naming what there is, if it cannot be."""
        found = re.fullmatch(r"\s*(\w+)\s*([<>])\s*([-+.\deE]+)\s*", text)
        try:
            quantity, sign, limit = found.groups() if found else ("", "", "")
            rule = cls(quantity, sign, float(limit))
        except ValueError:
            rule = cls("", "", 0.0)
        if rule.quantity not in QUANTITIES or not math.isfinite(rule.limit):
            raise EditError(
                f"{text!r} is no rule: write one of {', '.join(QUANTITIES)}, then < or > and a number, as retention<0.5"
            )
        return rule

    def __str__(self) -> str:
        return f"{self.quantity}{self.sign}{self.limit:g}"

    def broken(self, now: Mapping[str, float]) -> bool:
        """Whether the line is crossed; what is not a number has crossed every line, what was not measured none."""
        value = now.get(self.quantity)
        if value is None:
            return False
        return value != value or {"<": operator.lt, ">": operator.gt}[self.sign](value, self.limit)


# Where "it begins to collapse" is said aloud; conventions of this project, none is from a paper.
WARN = (Rule("retention", "<", 0.8), Rule("unchanged", "<", 0.7), Rule("perplexity", ">", 1.5),
        Rule("condition", ">", 10.0))  # fmt: skip
