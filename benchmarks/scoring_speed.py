"""Scoring answers: batched with shared beginnings against one prompt at a time, in one run, with the same scores.

    python benchmarks/scoring_speed.py [--cases 12] [--model smollm2] [--context]

The questions are what CounterFact asks of shipped facts: the prompt, its paraphrases and its neighbours, each with two
answers. One prompt at a time means one forward pass of the model for each answer, all positions unembedded, as plain
code would. With --context an in-context edit of 8 demonstrations stands before every question.
"""

import argparse
import json
import statistics
import time

import torch

from editing import compute as computing
from editing.evaluation.read import asked_of
from factscope.data.case import Case
from factscope.data.load import load_facts
from factscope.data.request import EditRequest
from factscope.model import load as models
from factscope.model.forward.prefix import prefaced
from factscope.model.forward.scoring import Pair, score


@torch.no_grad()
def one_at_a_time(model, pairs):
    out = []
    for pair in pairs:
        row = prefaced(model, pair.row)
        logp = model(torch.tensor([row]))[0].log_softmax(-1)
        at = range(len(row) - len(pair.answer), len(row))
        out.append(-sum(float(logp[p, t]) for p, t in zip(at, pair.answer, strict=True)) / len(pair.answer))
    return out


def timed(work):
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--context", action="store_true")
    args = parser.parse_args()
    model = models.load(args.model, device="cpu")
    facts = [fact for fact in load_facts(seed=0) if fact.foil][: args.cases]
    asked = [
        one for fact in facts for one in asked_of(model, Case(fact.id, "shipped", (EditRequest.of(fact),)), "auto")
    ]
    pairs = [Pair(pair.prompt, pair.answer) for one in asked for pair in one.pairs]
    if args.context:
        computing.compute("ike", model, facts[:1], shown=False).commit(model)
    score(model, pairs[:4])  # both are warm
    one_at_a_time(model, pairs[:2])
    slow, fast = [], []
    for _ in range(args.repeats):  # in turn, so that a slow minute hits both
        seconds, plain = timed(lambda: one_at_a_time(model, pairs))
        slow.append(seconds)
        seconds, said = timed(lambda: score(model, pairs))
        fast.append(seconds)
    apart = max(abs(a - b.nll) for a, b in zip(plain, said, strict=True))
    print(json.dumps({
        "pairs": len(pairs), "threads": torch.get_num_threads(), "one at a time, s": round(statistics.median(slow), 2),
        "batched, s": round(statistics.median(fast), 2),
        "ratio": round(statistics.median(slow) / statistics.median(fast), 2), "largest difference, nats": apart,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
