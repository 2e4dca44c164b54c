"""MEMoE's tables, row by row: the paper's numbers where it prints them, and ours under them (Wang and Li 2024).

    python -m benchmarks.memoe_variants experts --facts COUNTERFACT.json [--limit 30] [--batch 30] [--all]

The first word is a table: `batch` (Tables 1 and 4), `sequential` (Table 2), `consistency` (Table 3), `experts`, `layer`
and `top_k` (Figure 4), `anchors` (what the anchor gives, and what the scope), or `gaps` (settings that the paper leaves
open). `--only "experts=2 top_k=2"` tries settings of your own in the place of a table's.

Facts are those that the model knows, or with `--all` the first of the file. In batches each edit of so many facts is on
the unedited model and taken out again; in a sequence it stays, and all are read at the end. Scores by token accuracy as
in the protocols `batch-30` and `sequential-batch`; locality is of neighbours, and "same answer" that theirs is
unchanged. How the experts were used is of each edit alone, the mean over edits. `similar` is of groups by k-means on
cosine similarity, five as in the paper or fewer where facts are few, of what the router reads at a prompt's last token.
Seconds are of the processor.
"""

import argparse
import json
import time
from dataclasses import replace
from statistics import fmean

import torch

from editing.compute import compute
from editing.edit import commit, in_place, revert
from editing.evaluation.evaluate import evaluate
from editing.evaluation.protocol import PROTOCOLS
from editing.evaluation.routing import groups, routing
from editing.method import method
from editing.requests import known, target_prompts
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.model.forward.batched import padded, states_at
from factscope.model.load import load
from factscope.model.sites import Site

GROUPS = 5
SCORES = {
    "reliability": "reliability", "generality": "generality", "locality": "locality, same answer",
    "average": "average of three",
}  # fmt: skip
# Reliability, generality, locality, average; nothing where the paper has no number in its text.
PAPER: dict[str, dict[str, tuple[float | None, ...]]] = {
    "batch": {
        "GPT2-XL zsRE, batch 30": (95.69, 88.18, 100, 94.62),
        "GPT2-XL CounterFact, batch 30": (93.78, 85.15, 100, 92.98),
        "LLaMA2-7B zsRE, batch 30": (100, 90.30, 100, 96.77),
        "LLaMA2-7B CounterFact, batch 30": (99.69, 88.30, 100, 96.33),
        "LLaMA2-7B zsRE, batch 10": (100, 90.12, None, None),
        "LLaMA2-7B zsRE, batch 100": (99.84, 80.91, None, None),
        "LLaMA2-7B zsRE, batch 1000": (99.30, 75.70, None, None),
    },
    "sequential": {
        "GPT2-XL zsRE, 10 x 100": (74.69, 58.18, 98.93, 77.27),
        "GPT2-XL CounterFact, 10 x 100": (88.12, 54.78, 99.45, 80.78),
        "LLaMA2-7B zsRE, 10 x 100": (69.50, 42.63, 99.70, 70.61),
        "LLaMA2-7B CounterFact, 10 x 100": (54.62, 43.40, 99.69, 65.90),
    },
    "consistency": {"LLaMA2-7B: similar 63 to 80, same 74 to 85": (None, None, None, None)},
    "experts": {"LLaMA2-7B: only generality changes; 4 is best": (None, None, None, None)},
    "layer": {"LLaMA2-7B: only generality changes; 16 of 32 is best": (None, None, None, None)},
    "top_k": {"LLaMA2-7B: only generality changes; 1 is best": (None, None, None, None)},
}


def settings_of(table, layers):
    """The rows of a table: settings, and the number of facts of an edit where it is the table's own."""
    if table == "batch":
        return [("", size) for size in (10, 30, 100, 1000)]
    if table == "sequential":
        return [("sequence=own", None), ("sequence=continue", None)]
    rows = {
        "consistency": ("", "anchored=false"),
        "experts": tuple(f"experts={count}" for count in range(1, 7)),
        "layer": tuple(f"layer={round(share * (layers - 1))}" for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
        "top_k": ("top_k=1", "top_k=2", "top_k=3", "top_k=4", "top_k=2 renormalised=true"),
        "anchors": ("", "anchored=false", "scope=always", "scope=always anchored=false"),
        "gaps": ("", "noise=0", "noise=3", "balance=0", "balance=0.1", "strength=0.3", "strength=3"),
    }
    return [(row, None) for row in rows[table]]


def made(model, requests, config, size, stays):
    """An edit of every `size` facts: each on the unedited model, or each on top of those before."""
    edits = []
    try:
        for begin in range(0, len(requests), size):
            edits.append(compute("memoe", model, requests[begin : begin + size], config, shown=False))
            if stays:
                commit(model, edits[-1:])
    finally:
        revert(model, in_place(model))
    return edits


@torch.no_grad()
def alike(model, edit, layer):
    """The group of each fact of an edit, by k-means on what the router reads at its prompt's end."""
    rows = [target_prompts(model, one, ("{}",), edit.start_token)[0].tokens for one in edit.requests]
    ends, site = torch.tensor([len(row) - 1 for row in rows]), Site("mlp_hidden", layer)
    seen = states_at(model, padded(model, rows), ends, [site])[site]
    found = groups(seen[torch.arange(len(rows)), ends].float().cpu(), min(GROUPS, max(1, len(rows) // 2)))
    return {fact: f"group {number}" for fact, number in enumerate(found.tolist())}


def used(model, edits, layer):
    """How the experts were used, the mean over edits."""
    found = [one for edit in edits if (one := routing(edit, alike(model, edit, layer))) is not None]
    names = ("same", "similar", "specialisation", "balance")
    return {name: round(100 * fmean(getattr(one, name) for one in found), 1) for name in names} if found else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ("batch", "sequential", "consistency", "experts", "layer", "top_k", "anchors", "gaps")
    parser.add_argument("table", choices=tables)
    parser.add_argument("--facts", default=None)
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--batch", type=int, help="facts of an edit; by default 30, and 10 in a sequence")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--all", action="store_true", help="also facts that the model does not know")
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args()
    model, spec = load(args.model), method("memoe")
    facts = requests_of(fact for fact in load_facts(args.facts) if fact.foil)
    requests = facts[: args.limit] if args.all else known(model, facts, args.limit)
    stays = args.table == "sequential"
    protocol = replace(PROTOCOLS["sequential-batch" if stays else "batch-30"], words=0)
    heading = ["", "batch", *SCORES, "same", "similar", "specialisation", "balance", "s a fact"]
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading), flush=True)
    for row, numbers in PAPER.get(args.table, {}).items():
        print("| " + " | ".join([f"paper: {row}", "", *map(shown, numbers), *[""] * 5]) + " |", flush=True)
    rows = [(one, None) for one in args.only] if args.only else settings_of(args.table, int(model.cfg.n_layers))
    for setting, own in rows:
        size = own or args.batch or (10 if stays else 30)
        if own and own > max(10, len(requests)):
            continue  # the facts are fewer than this batch
        config, clock = spec.config_for(model, setting.split()), time.process_time()
        edits = made(model, requests, config, size, stays)
        spent = (time.process_time() - clock) / len(requests)
        report = evaluate(model, edits, protocol=protocol, shown=False)
        scores = {one.metric: 100 * one.value for one in report.scores if one.when == ("final" if stays else "after")}
        use = used(model, edits, spec.layers(config)[0])
        cells = [f"ours: {setting or 'as it is'}", str(min(size, len(requests)))]
        cells += [shown(scores.get(name)) for name in SCORES.values()]
        cells += [shown(use.get(name)) for name in ("same", "similar", "specialisation", "balance")]
        print("| " + " | ".join([*cells, f"{spent:.2f}"]) + " |", flush=True)
    print(
        json.dumps(
            {"facts": len(requests), "known": not args.all, "protocol": protocol.name, "start": report.start_token}
        )
    )


def shown(number):
    return "" if number is None else f"{number:.2f}"


if __name__ == "__main__":
    main()
