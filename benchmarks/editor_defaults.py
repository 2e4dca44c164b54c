"""Defaults of editing methods, each setting on the same few facts: what is learned, what else moves, what it costs.

    python benchmarks/editor_defaults.py rls --facts COUNTERFACT.json [--limit 8] [--order sequence|together] [--all]

Each line is one setting of the method (the first one, without a name, its defaults), edited and read on the facts that
the model knows, or with `--all` on the first of the file. Values that several settings have in common are searched for
once. Seconds are of the processor, so that they say the same beside other work. `--only "ridge=0.3" "ridge=1"` tries
settings of your own.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from editing.compute import compute, compute_each
from editing.edit import commit, in_place, revert
from editing.evaluation.evaluate import evaluate
from editing.evaluation.protocol import ORDERS
from editing.method import method
from editing.requests import known
from editing.solve import moments
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.model.load import load

SWEEPS = {
    "memit": ("", "patience=1", "patience=2", "patience=4"),
    "rls": ("", "ridge=0.03", "ridge=0.3", "ridge=1", "identity=0.1", "identity=1"),
    "pmet": ("", "ridge=0.1", "ridge=0.7", "ridge=1.4", "ridge=2.2", "ridge=4", "kl_factor=0.25", "kl_factor=0.0625"),
    "lora": ("", "matrices=W_Q,W_V", "matrices=W_V,W_O", "matrices=W_Q,W_V layers=0,1,2,3,4,5,6,7,8,9"),
    "adalora": ("", "learning_rate=0.02", "alpha=128", "allocate=30 steps=60", "layers=1,2,3"),
    "ft_m": ("", "steps=50", "steps=100", "layer=6", "layer=21", "learning_rate=0.0005 steps=50"),
    "ft_bf": (
        "",
        "batch=32",
        "batch=16",
        "batch=4",
        "learning_rate=0.0005",
        "steps=50",
        "layer=6",
        "layer=12",
        "layer=22",
    ),
    "kn": ("", "new=1", "new=4", "new=8 signed=false", "direction=centred", "wordings=3"),
    "grace": ("", "steps=50 learning_rate=0.5", "steps=50", "learning_rate=0.5", "begin=random", "layer=20"),
    "crispedit": ("", "energy=0.5", "energy=0.7", "energy=0.95", "energy=0.99"),
}
SHOWN = ("ES", "PS", "NS", "reliability", "generality", "locality, unchanged", "locality KL")


def edits_of(model, name, requests, config, moment, order, folder):
    """An edit a fact, each on the unedited model or each on top of those before; or one for all, "together"."""
    if order == "together":
        return [compute(name, model, requests, config, moments=moment, shown=False, folder=folder)]
    if order == "single":
        return compute_each(name, model, requests, config, moments=moment, shown=False, folder=folder)
    made = []
    try:
        for request in requests:
            made.append(compute(name, model, [request], config, moments=moment, shown=False, folder=folder))
            commit(model, made[-1:])
    finally:
        revert(model, in_place(model))
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=SWEEPS)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--order", choices=("single", "sequence", "together"), default="single")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args()
    model, spec = load(args.model), method(args.method)
    requests = requests_of(fact for fact in load_facts(args.facts) if fact.foil)
    requests = requests[: args.limit] if args.all else known(model, requests, args.limit)
    protocol, begin = replace(ORDERS[args.order], words=0), spec.config_for(model)
    moment = moments.collect(model, spec.layers(begin), shown=False) if spec.needs_moments else None
    print(json.dumps({"method": args.method, "facts": len(requests), "order": args.order}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for setting in args.only or SWEEPS[args.method]:
            config, clock = spec.config_for(model, setting.split()), time.process_time()
            edits = edits_of(model, args.method, requests, config, moment, args.order, Path(folder))
            spent = (time.process_time() - clock) / len(requests)
            report = evaluate(model, edits, protocol=protocol, shown=False)
            when = "final" if args.order == "sequence" else "after"
            scores = {s.metric: round(s.value, 3) for s in report.scores if s.when == when and s.metric in SHOWN}
            passes = sum(int(e.curve.isfinite().sum()) for e in edits if e.curve is not None) / len(requests)
            norm = max((r.norm for e in edits for r in e.reports), default=float("nan"))
            print(json.dumps({"setting": setting, **scores, "passes": round(passes, 1), "norm": round(norm, 4),
                              "processor_s_a_fact": round(spent, 2)}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
