"""Single edits with rollback on CounterFact facts that the model knows: every method in one table.

    python benchmarks/editing_quality.py COUNTERFACT.json [--count 50] [--methods rome,memit] [--out table.json]

A fact is known when the greedy next token after its prompt is the first token of its true answer. Facts are taken in
the order of the file. No start token by default, as EasyEdit has none. Finished edits are kept in a journal beside
--out, so an interrupted run goes on where it stopped.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from editing import compute as computing
from editing import method as methods
from editing.contexts import contexts
from editing.evaluation.evaluate import evaluate
from editing.evaluation.protocol import ORDERS
from editing.evaluation.read import Reading, Row
from editing.evaluation.table import table
from editing.requests import known
from editing.solve import moments
from factscope.data.load import load_facts
from factscope.model import load as models
from factscope.runs.journal import Journal

CHUNK = 10  # facts edited side by side, between two looks at the clock


PROTOCOL = replace(ORDERS["single"], words=0)
PICKED = ("ES", "reliability", "PS", "NS", "locality, unchanged", "locality KL")


def as_row(kept):
    return Row(**{k: Reading(**v) if isinstance(v, dict) else v for k, v in kept.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("facts", type=Path)
    parser.add_argument("--count", type=int, default=50)
    weights = [name for name in methods.method_names() if not methods.method(name).in_context]
    parser.add_argument("--methods", default=",".join(weights))
    parser.add_argument("--set", action="append", default=[], help="method.name=value")
    parser.add_argument("--start", default="none")
    parser.add_argument("--tokens", type=int, default=moments.Config.tokens)
    parser.add_argument("--identity", action="store_true", help="the identity instead of second moments")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long; run again to go on")
    parser.add_argument("--out", type=Path, default=Path("editing_quality.jsonl"))
    args = parser.parse_args()
    begun = time.perf_counter()
    model = models.load("smollm2")
    facts = known(model, [f for f in load_facts(args.facts, on_bad="skip") if f.foil], args.count, args.start)
    context = contexts(model, 5, 10, 0, args.start)
    settings = [s.split("=", 1) for s in args.set]
    work = {"facts": [f.id for f in facts], "start": args.start, "tokens": args.tokens, "identity": args.identity}
    for name in args.methods.split(","):
        chosen = {k.split(".", 1)[1]: v for k, v in settings if k.split(".", 1)[0] == name}
        spec = methods.method(name)
        config = spec.config_for(model, chosen)
        layers = spec.layers(config)
        moment = None
        if spec.needs_moments and not args.identity:
            asked = sorted({*layers, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
            moment = moments.collect(model, asked, moments.Config(tokens=args.tokens), shown=True)
        tag = "-".join([name, *(f"{k}={v}" for k, v in chosen.items()), *(["identity"] * args.identity)])
        with Journal(args.out.with_name(f"{args.out.stem}-{tag}.jsonl"), {**work, "method": tag}) as journal:
            for begin in range(len(journal.done), len(facts), CHUNK):
                if time.perf_counter() - begun > args.seconds:
                    return
                clock = time.perf_counter()
                edits = computing.compute_each(
                    spec, model, facts[begin : begin + CHUNK], config, moments=moment, start=args.start,
                    contexts=context if spec.contexts(config) else None, shown=False,
                    folder=args.out.parent / "values",
                )  # fmt: skip
                seconds = (time.perf_counter() - clock) / len(edits)
                report = evaluate(model, edits, protocol=PROTOCOL, start=args.start, shown=False)
                for edit in edits:
                    rows = [asdict(row) for row in report.rows if row.case == edit.requests[0].id]
                    journal.add({"seconds": seconds, "rows": rows})
            rows = [as_row(row) for piece in journal.done for row in piece["rows"]]
            seconds = torch.tensor([piece["seconds"] for piece in journal.done]).median()
            scores = {(s.metric, s.when): s.value for s in table(tag, rows, PROTOCOL)}
            line = {name: round(scores[name, "after"], 3) for name in PICKED if (name, "after") in scores}
            before = round(scores["NS", "before"], 3)
            print(json.dumps({"method": tag, "n": len(journal.done), **line, "NS before": before,
                              "median seconds": round(float(seconds), 2)}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
