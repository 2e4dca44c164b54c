"""What a closed gate costs: forward passes with an edit beside the weights in place, over passes without, in one run.

    python benchmarks/closed_gate.py [--methods grace,memoe] [--facts 8] [--repeats 15] [--counts] [--model smollm2]

Prompts are shipped facts about other subjects, of one length, so that no gate opens; whether none did is checked by the
logits, which are the unedited model's to the last bit. Passes with and without the edit take turns, and turns to be the
first of a pair, for the second finds other things in the caches; the ratio is the median over pairs, its error the
middle half of them over the root of their number.
With `--counts` no time is taken: floating-point operations of matrix products and calls of torch's operators are
counted in one pass with and one without, so that other work on the machine says nothing.
"""

import argparse
import json
import statistics
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from editing.compute import compute
from editing.edit import applied
from editing.method import method, method_names
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.model import load as models
from factscope.model.prompts import tokenized
from factscope.runs import counting


def passes(model, tokens):
    start = time.perf_counter()
    logits = model(tokens, use_cache=False)
    return time.perf_counter() - start, logits


class Calls(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def counted(model, tokens):
    with counting.counted() as products:
        logits = model(tokens, use_cache=False)
    with Calls() as calls:
        model(tokens, use_cache=False)
    return products.operations, calls.number, logits


def timed(model, tokens, edit, repeats):
    """Percent that an edit in place adds to a pass, over pairs of passes, each of which begins every other pair."""
    ratios, seconds, same = [], [], True
    for number in range(repeats):
        pair = {}
        for edits in ([], [edit]) if number % 2 else ([edit], []):
            with applied(model, edits):  # put in place outside of the time that is taken
                pair[len(edits)] = passes(model, tokens)
        ratios.append(100 * (pair[1][0] / pair[0][0] - 1))
        seconds.append(pair[0][0])
        same = same and torch.equal(pair[0][1], pair[1][1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(middle, 2),
        "error": round((high - low) / len(ratios) ** 0.5, 2),
        "milliseconds": round(1e3 * statistics.median(seconds), 1),
        "same": same,
    }


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    untrained = [name for name in method_names() if method(name).beside and method(name).train is None]
    parser.add_argument("--methods", default=",".join(untrained))
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args()
    model = models.load(args.model, device="cpu")
    facts = [fact for fact in load_facts(seed=0) if fact.foil]
    asked, others = requests_of(facts[: args.facts]), facts[args.facts : args.facts + 400]
    rows = [tokenized(model, fact.prompt)[0] for fact in others]
    width = statistics.mode(map(len, rows))
    tokens = torch.tensor([list(row) for row in rows if len(row) == width][:32])
    passes(model, tokens)  # warm
    found = {"rows": len(tokens), "tokens": width}
    for name in args.methods.split(","):
        spec = method(name)
        settings = {"steps": 2} if hasattr(spec.Config(), "steps") else {}
        with torch.enable_grad():
            edit = compute(name, model, asked, spec.config_for(model, settings), shown=False)
        if args.counts:
            products, calls, before = counted(model, tokens)
            with applied(model, [edit]):
                more, further, after = counted(model, tokens)
            same = torch.equal(before, after)
            found[name] = {"products": more / products - 1, "calls": further - calls, "of": calls, "same": same}
            print(
                f"{name}: {100 * found[name]['products']:+.3f} % of the operations of products, {further - calls} "
                f"calls beside {calls}; logits {'the same' if same else 'NOT the same'}",
                flush=True,
            )
            continue
        found[name] = timed(model, tokens, edit, args.repeats)
        print(
            "{0}: {ratio:+.2f} % of a pass (± {error:.2f}); logits {1}".format(
                name, "the same" if found[name]["same"] else "NOT the same", **found[name]
            ),
            flush=True,
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
