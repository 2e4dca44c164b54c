"""Speed of editing, as ratios within one run: batched values, the two forms of the solver, moments, one whole edit.

    python benchmarks/editing_speed.py [--facts 32] [--alone 4] [--tokens 12288]

Second moments are taken from the cache, or collected first and not timed. Facts are the shipped ones that have a foil.
"""

import argparse
import json
import time

import torch

from editing import methods, moments
from editing.language import contexts
from editing.methods.rome import Config as Rome
from editing.requests import known
from editing.solver import Metric, solve
from editing.values import Descent, find_values
from workbench import models
from workbench.facts import load_facts
from workbench.run import peak_memory


def seconds(function, repeat=1):
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--alone", type=int, default=4, help="facts that are also done one at a time")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=moments.Config.tokens)
    args = parser.parse_args()
    model = models.load("smollm2")
    layers = list(models.info(model).edit_layers)
    config = moments.Config(tokens=args.tokens)
    moment = moments.collect(model, sorted({*layers, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}), config, shown=False)
    say = lambda **what: print(json.dumps(what), flush=True)  # noqa: E731
    say(threads=torch.get_num_threads(), moments=moment.name)

    fact = next(f for f in load_facts("landmark_city") if f.foil)
    layer = Rome.for_model(model).layer
    before = peak_memory()
    whole = seconds(lambda: methods.compute("rome", model, [fact], moments=moment, shown=False), repeat=2)
    say(one_rome_edit_seconds=round(whole, 2), peak_GB=round(peak_memory(), 2), peak_before_GB=round(before, 2))

    facts = known(model, [f for f in load_facts() if f.foil], args.facts)
    context = contexts(model, 5, 10, 0)
    descent = Descent(steps=args.steps, stop=0.0)  # the same number of steps for all
    batch, singles = [], []
    clock = time.perf_counter()
    batch.append(find_values(model, facts, layer, context, descent, check=False))
    together = (time.perf_counter() - clock) / len(facts)
    clock = time.perf_counter()
    for one in facts[: args.alone]:
        singles.append(find_values(model, [one], layer, context, descent, check=False))
    alone = (time.perf_counter() - clock) / args.alone
    off = max(float((s.delta[0] - batch[0].delta[i]).norm() / s.delta[0].norm()) for i, s in enumerate(singles))
    say(facts=len(facts), steps=args.steps, batched_seconds_a_fact=round(together, 3),
        alone_seconds_a_fact=round(alone, 3), ratio=round(alone / together, 2), relative_difference=off)  # fmt: skip

    matrix = moment.of(layer)
    keys = torch.randn(64, len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    residuals = torch.randn(64, model.cfg.d_model, dtype=torch.float64)
    metric = Metric(matrix)
    by_keys = seconds(lambda: solve(keys, residuals, metric, ridge=100.0, form="keys"), repeat=3)
    by_dimensions = seconds(lambda: solve(keys, residuals, metric, ridge=100.0, form="dimensions"), repeat=3)
    say(facts=64, n_by_n_seconds=round(by_keys, 4), d_by_d_seconds=round(by_dimensions, 4),
        ratio=round(by_dimensions / by_keys, 1), factoring_once=round(seconds(lambda: Metric(matrix)), 3))  # fmt: skip

    rows = torch.randint(1, 40_000, (16, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare = seconds(lambda: model(rows, use_cache=False), repeat=2)
        low = seconds(lambda: model(rows, use_cache=False, stop_at_layer=max(layers) + 1), repeat=2)

        def collect(some):
            for found in moments.keys_of_text(model, some, rows.tolist()).values():
                _ = found.T @ found

        some = seconds(lambda: collect(layers), repeat=2)
        every = seconds(lambda: collect(range(model.cfg.n_layers)), repeat=2)
    say(moments_over_bare_forward=round(bare / some, 2), over_the_blocks_it_runs=round(low / some, 2),
        all_layers_over_bare_forward=round(bare / every, 2), layers=layers)  # fmt: skip


if __name__ == "__main__":
    main()
