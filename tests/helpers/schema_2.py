"""Rows and tables of edits as results of schema 2 held them, made from today's: to ask whether old folders load."""

from typing import Any

NAMES = {
    "ES": "efficacy success",
    "EM": "efficacy magnitude",
    "reliability": "efficacy exact",
    "PS": "paraphrase success",
    "PM": "paraphrase magnitude",
    "generality": "paraphrase exact",
    "NS": "neighbourhood success",
    "NM": "neighbourhood magnitude",
    "locality, right": "neighbourhood exact",
    "locality KL": "neighbourhood KL",
    "unrelated, unchanged": "unrelated top-1 same",
    "unrelated KL": "unrelated KL",
}


def row_as_schema_2(row: dict[str, Any]) -> dict[str, Any]:
    """One prompt with the numbers of both answers side by side."""
    kinds = {"rewrite": "prompt", "paraphrase": "paraphrase", "locality": "neighbour"}
    swap = row["kind"] == "locality"

    def reading(one: dict[str, Any] | None) -> dict[str, Any] | None:
        if one is None:
            return None
        numbers = (one["nll_other"], one["nll"]) if swap else (one["nll"], one["nll_other"])
        exact = (False, one["exact"]) if swap else (one["exact"], False)
        names = ("nll_new", "nll_true", "new_exact", "true_exact", "top", "kl")
        return dict(zip(names, (*numbers, *exact, one["top"], one["kl"]), strict=True))

    new, true = (row["other"], row["target"]) if swap else (row["target"], row["other"])
    asked = {"fact": row["case"], "kind": kinds[row["kind"]], "prompt": row["prompt"], "new": new, "true": true}
    return asked | {when: reading(row[when]) for when in ("before", "after", "final")}


def table_as_schema_2(lines: list[dict[str, Any]], when: str) -> list[dict[str, Any]]:
    """A table of one time, with what was read before any edit beside it."""
    before = {one["metric"]: one["value"] for one in lines if one["when"] == "before"}
    kept = [one for one in lines if one["when"] == when and one["metric"] in NAMES]
    return [
        {"name": NAMES[one["metric"]], "before": before[one["metric"]], "after": one["value"]}
        | {name: one[name] for name in ("unit", "n", "low", "high")}
        for one in kept
    ]
