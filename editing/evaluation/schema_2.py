"""What reports of edits and sequences held up to schema 2, when they had rows and scores of their own.

A row then had both answers' numbers at once and knew neither how many of an answer's tokens were right nor how many
the unedited model gives too: those are NaN here, so that no score is made of them.
"""

import math
from typing import Any

_KINDS = {
    "prompt": ("rewrite", ""),
    "paraphrase": ("paraphrase", ""),
    "neighbour": ("locality", "neighbourhood"),
    "unrelated": ("unrelated", ""),
}
_METRICS = {  # "neighbourhood top-1 same" looked at one token, which is no metric any more
    "efficacy success": "ES",
    "efficacy magnitude": "EM",
    "efficacy exact": "reliability",
    "paraphrase success": "PS",
    "paraphrase magnitude": "PM",
    "paraphrase exact": "generality",
    "neighbourhood success": "NS",
    "neighbourhood magnitude": "NM",
    "neighbourhood exact": "locality, right",
    "neighbourhood KL": "locality KL",
    "unrelated top-1 same": "unrelated, unchanged",
    "unrelated KL": "unrelated KL",
}


def row_of_schema_2(body: dict[str, Any]) -> dict[str, Any]:
    """One prompt, in the fields that a `Row` has now."""
    kind, label = _KINDS[body["kind"]]
    stays = kind in ("locality", "unrelated")
    target, other = (body["true"], body["new"]) if stays else (body["new"], body["true"])
    times = {when: _reading(body[when], body["before"]["top"], stays) for when in ("before", "after", "final")}
    asked = {"case": body["fact"], "trial": 0, "kind": kind, "label": label, "need": "all", "prompt": body["prompt"]}
    return asked | {"target": target, "other": other} | times


def _reading(one: dict[str, Any] | None, top: str, stays: bool) -> dict[str, Any] | None:
    if one is None:
        return None
    mine, other = ("true", "new") if stays else ("new", "true")
    numbers = {"nll": one[f"nll_{mine}"], "nll_other": one[f"nll_{other}"], "exact": one[f"{mine}_exact"]}
    numbers |= {"right": math.nan, "same": math.nan, "kl": one["kl"]}
    return numbers | {"top": one["top"], "next_same": one["top"] == top}


def scores_of_schema_2(method: str, soon: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A checkpoint's two tables, of facts read right after their edit and now, as one with a line for each time."""
    out = []
    for when, table in (("before", now), ("after", soon), ("final", now)):
        for one in table:
            if one["name"] in _METRICS:
                line = {"method": method, "metric": _METRICS[one["name"]], "when": when, "n": one["n"]}
                ends = {"low": math.nan, "high": math.nan} if when == "before" else {e: one[e] for e in ("low", "high")}
                value = one["before" if when == "before" else "after"]
                out.append(line | {"unit": one["unit"], "value": value} | ends)
    return out
