"""What a closed gate costs: forward passes with an edit beside the weights in place, over passes without, in one run.

    python benchmarks/closed_gate.py [--methods grace,memoe] [--facts 8] [--repeats 15] [--counts] [--model smollm2]
    python benchmarks/closed_gate.py --methods t_patcher,wise,remedi --editor EDITOR

A method that is trained (REMEDI) is tried with the editor that `edit train remedi` left in the folder EDITOR.
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
from editing.trained.editor import Trained
from editing.trained.fitting import belongs, editors_of
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


def edit_of(model, spec, asked, editor):
    """One edit of these facts, of two steps where it learns, for what it learnt has no part in what its gate costs."""
    settings = {"steps": 2} if editor is None and hasattr(spec.Config(), "steps") else {}
    config = spec.config_for(model, settings, editor)
    with torch.enable_grad():
        return compute(spec, model, asked, config, shown=False, editor=editor, allow_trained=True)


def cost_in_counts(model, tokens, edit):
    """More operations of products as a share, more calls, and whether the logits are the same."""
    products, calls, before = counted(model, tokens)
    with applied(model, [edit]):
        more, further, after = counted(model, tokens)
    same = torch.equal(before, after)
    return {"products": more / products - 1, "calls": further - calls, "of": calls, "same": same}


@torch.no_grad()
def measured(model, pairs, facts, repeats, counts):
    """What each method's edit of so many shipped facts costs, by name; `pairs` are methods with their editors."""
    every = [fact for fact in load_facts(seed=0) if fact.foil]
    asked, others = requests_of(every[:facts]), every[facts : facts + 400]
    rows = [tokenized(model, fact.prompt)[0] for fact in others]
    width = statistics.mode(map(len, rows))
    tokens = torch.tensor([list(row) for row in rows if len(row) == width][:32])
    passes(model, tokens)  # warm
    found = {"rows": len(tokens), "tokens": width}
    for spec, editor in pairs:
        edit = edit_of(model, spec, asked, editor)
        one = found[spec.name] = cost_in_counts(model, tokens, edit) if counts else timed(model, tokens, edit, repeats)
        cost = (
            f"{100 * one['products']:+.3f} % of the operations of products, {one['calls']} calls beside {one['of']}"
            if counts
            else f"{one['ratio']:+.2f} % of a pass (± {one['error']:.2f})"
        )
        print(f"{spec.name}: {cost}; logits {'the same' if one['same'] else 'NOT the same'}", flush=True)
    return found


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="of those beside the weights; all that have their editor, if left out")
    parser.add_argument("--editor", action="append", default=[], help="a folder of edit train; repeat for several")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args(words)
    editors = [Trained.load(folder) for folder in args.editor]
    specs = [method(name) for name in (args.methods.split(",") if args.methods else method_names())]
    if not args.methods:
        given = {editor.method for editor in editors}
        specs = [spec for spec in specs if spec.beside and (spec.train is None or spec.name in given)]
    pairs = list(zip(specs, editors_of(specs, editors), strict=True))
    for pair in pairs:
        belongs(*pair)
    model = models.load(args.model, device="cpu")
    print(json.dumps(measured(model, pairs, args.facts, args.repeats, args.counts)))


if __name__ == "__main__":
    main()
