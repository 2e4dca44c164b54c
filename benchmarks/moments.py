"""How many tokens does a second moment need? The direction of an update, and what edits do, by tokens and by prior.

    python -m benchmarks.moments [--facts COUNTERFACT.json] [--limit 20] [--reference 49152] [--edits]

The reference is C of `--reference` tokens that the model writes with a seed of its own: collected once, kept in the
cache. Beside it stand C of 2 to 16 tokens for each key dimension of the shipped text, as it was counted (prior 0) and
with the prior that held-out keys ask for; 16 tokens of the model's own text as they were counted, the default of
earlier versions; and the identity. `cosine` is that of C^-1 k with the reference's, mean over the keys k of the facts:
ROME's update of a fact goes along it. The reference has noise of its own, so that even the truth would not reach 1.

With `--edits`, ROME edits each fact alone under each C, and ES, PS, NS and the neighbours' KL are read (a value knows
nothing of C, so it is searched for once).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from editing import compute as computing
from editing.evaluation.evaluate import evaluate
from editing.requests import RequestPrompts, known
from editing.solve import corpus, moments
from editing.solve.values import find_keys
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.model import load as models
from factscope.model.bridge import info
from factscope.model.weights import key_width

SCORES = ("ES", "PS", "NS", "locality KL")


def directions(matrix, keys):
    """C^-1 k for each key, of length 1; [d, fact]."""
    ways = keys.double().T if matrix is None else torch.linalg.solve(matrix, keys.double().T)
    return ways / ways.norm(dim=0)


def scored(model, facts, found, folder):
    """ROME's edits of each fact alone under this C, read before and after."""
    edits = computing.compute_each("rome", model, facts, moments=found, folder=folder, shown=False)
    report = evaluate(model, edits, shown=False)
    return {name: round(report.score(name).value, 3) for name in SCORES}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", default="landmark_city", help="a file of facts, or a shipped relation")
    parser.add_argument("--limit", type=int, default=20, help="known facts that are edited")
    parser.add_argument("--reference", type=int, default=49152, help="tokens; 0 for none, and no cosine")
    parser.add_argument("--edits", action="store_true")
    args = parser.parse_args()
    model = models.load("smollm2")
    layer, width = info(model).edit_layer, key_width(model)
    facts = known(model, load_facts(args.facts), args.limit)
    keys = find_keys(model, RequestPrompts(requests_of(facts)), layer).bare()
    reference = args.reference and moments.collect(model, [layer], corpus.Config("self", args.reference, seed=1))
    choices = {f"shipped, {n} a dimension{why}": corpus.Config(tokens=n * width, prior=prior)
               for n in (2, 4, 8, 16) for why, prior in ((", as counted", 0.0), ("", None))}  # fmt: skip
    choices["self, 16 a dimension, as counted"] = corpus.Config("self", 16 * width, prior=0.0)
    with tempfile.TemporaryDirectory() as folder:
        for name, config in [*choices.items(), ("identity", None)]:
            began = time.process_time()
            found = None if config is None else moments.collect(model, [layer], config, shown=False)
            line = {"C": name, "processor seconds": round(time.process_time() - began, 1)}
            if reference:
                ways = [directions(one and one.of(layer), keys) for one in (found, reference)]
                line["cosine"] = round(float((ways[0] * ways[1]).sum(0).mean()), 3)
            if found is not None:
                line["prior"] = found.priors[str(layer)]
            print(json.dumps(line | (scored(model, facts, found, Path(folder)) if args.edits else {})), flush=True)
        if args.edits and reference:
            print(json.dumps({"C": "reference"} | scored(model, facts, reference, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
