"""Speed of editing, as ratios within one run: batched values, the two forms of the solver, moments, one whole edit.

    python benchmarks/editing_speed.py [--facts 32] [--alone 4] [--tokens 24576]

Second moments are taken from the cache, or collected first and not timed. Facts are the shipped ones that have a foil.
"One at a time" is timed twice: with the same code, and as published, by passes of the whole model over whole prompts.
"""

import argparse
import json
import time

import torch

from editing import compute as computing
from editing.contexts import contexts
from editing.methods.closed_form.rome import Config as Rome
from editing.requests import RequestPrompts, essence_prompt, known, target_prompts
from editing.solve import corpus, moments, values
from editing.solve.closed_form import KeyMetric, solve
from editing.solve.values import Descent, find_values
from factscope.data.load import load_facts
from factscope.data.request import requests_of
from factscope.model import load as models
from factscope.model.bridge import info
from factscope.model.forward.batched import padded
from factscope.model.forward.onednn import thin_products
from factscope.model.hooks import hooked
from factscope.model.sites import Site
from factscope.runs.provenance import peak_memory


def seconds(function, repeat=1):
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def whole_passes(model, fact, layer, context, steps):
    """The same loss and slope as published: the whole model runs over the fact's whole prompts, all logits are made."""
    prompts = [*target_prompts(model, fact, context, "auto"), essence_prompt(model, fact, "auto")]
    tokens = padded(model, [(*p.tokens, *p.answer_ids[:-1]) for p in prompts])
    row, end = torch.arange(len(prompts)), torch.tensor([p.subject_span[1] - 1 for p in prompts])
    delta, clean = torch.zeros(model.cfg.d_model, requires_grad=True), None

    def add(write):
        write = write.clone()
        write[row, end] = write[row, end] + delta
        return write

    for _ in range(steps):
        with hooked(model, [(Site("mlp_write", layer), add)]):
            logp = model(tokens, use_cache=False).log_softmax(-1)
        loss = delta.new_zeros(())
        for number, prompt in enumerate(prompts[:-1]):
            first, count = len(prompt.tokens) - 1, len(prompt.answer_ids)
            asked = logp[number, first : first + count].gather(1, torch.tensor(prompt.answer_ids)[:, None])
            loss = loss - asked.mean() / len(context)
        now = logp[-1, end[-1]]
        clean = now.detach() if clean is None else clean
        loss = loss + Descent.kl_factor * (clean.exp() * (clean - now)).sum()
        (slope,) = torch.autograd.grad(loss, delta)
    return float(loss.detach()), slope


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--alone", type=int, default=4, help="facts that are also done one at a time")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=corpus.Config.tokens)
    args = parser.parse_args()
    model = models.load("smollm2")
    layers = list(info(model).edit_layers)
    config = corpus.Config(tokens=args.tokens)
    moment = moments.collect(model, sorted({*layers, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}), config, shown=False)
    say = lambda **what: print(json.dumps(what), flush=True)  # noqa: E731
    say(threads=torch.get_num_threads(), moments=moment.name)

    fact = next(f for f in load_facts("landmark_city") if f.foil)
    layer = Rome.for_model(model).layer
    before = peak_memory()
    edits = []
    edit = lambda: edits.append(computing.compute("rome", model, [fact], moments=moment, shown=False))  # noqa: E731
    first, again = seconds(edit), seconds(edit, repeat=2)  # the first samples the contexts, unless they are cached
    curve = edits[0].curve
    assert curve is not None
    say(one_rome_edit_seconds=round(again, 2), the_first_one=round(first, 2), passes=len(curve),
        peak_GB=round(peak_memory(), 2), peak_before_GB=round(before, 2))  # fmt: skip

    facts = known(model, requests_of(f for f in load_facts() if f.foil), args.facts)
    context = contexts(model, 5, 10, 0)
    descent = Descent(steps=args.steps, stop=0.0)  # the same number of steps for all
    batch, singles = [], []
    clock = time.perf_counter()
    batch.append(find_values(model, RequestPrompts(facts, context), layer, descent, check=False))
    together = (time.perf_counter() - clock) / len(facts)
    clock = time.perf_counter()
    for one in facts[: args.alone]:
        singles.append(find_values(model, RequestPrompts([one], context), layer, descent, check=False))
    alone = (time.perf_counter() - clock) / args.alone
    off = max(float((s.delta[0] - batch[0].delta[i]).norm() / s.delta[0].norm()) for i, s in enumerate(singles))
    say(facts=len(facts), steps=args.steps, batched_seconds_a_fact=round(together, 3),
        alone_seconds_a_fact=round(alone, 3), ratio=round(alone / together, 2), relative_difference=off)  # fmt: skip
    clock = time.perf_counter()
    for one in facts[: args.alone]:
        whole_passes(model, one, layer, context, args.steps)
    published = (time.perf_counter() - clock) / args.alone
    say(whole_passes_one_at_a_time_seconds_a_fact=round(published, 3), ratio=round(published / together, 2))

    groups = values._groups(model, RequestPrompts(facts[:1], context), layer)
    above = sum(p.numel() for block in model.blocks[layer + 1 :] for p in block.parameters() if p.ndim == 2)
    positions = sum(group.suffix.resid.shape[0] * group.suffix.resid.shape[1] for group in groups)
    wanted = sum(len(group.targets) for group in groups)
    work = 4 * (positions * above + wanted * model.cfg.d_model * model.cfg.d_vocab) / 1e9  # forward and backward
    delta = torch.zeros(1, model.cfg.d_model)
    with thin_products():
        step = seconds(lambda: values._losses(groups, delta, len(context), descent, "mlp"), repeat=10)
    rows, weight = torch.randn(2048, 1536), torch.randn(1536, 1536)
    peak = 2 * 2048 * 1536 * 1536 / 1e9 / seconds(lambda: rows @ weight.T, repeat=10)
    say(one_fact_positions=positions, GFLOP_a_step=round(work, 1), step_seconds=round(step, 3),
        GFLOP_a_second=round(work / step), of_a_large_product=round(peak))  # fmt: skip

    matrix = moment.of(layer)
    keys = torch.randn(64, len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    residuals = torch.randn(64, model.cfg.d_model, dtype=torch.float64)
    metric = KeyMetric(matrix)
    by_keys = seconds(lambda: solve(keys, residuals, metric, ridge=100.0, form="keys"), repeat=3)
    by_dimensions = seconds(lambda: solve(keys, residuals, metric, ridge=100.0, form="dimensions"), repeat=3)
    say(facts=64, n_by_n_seconds=round(by_keys, 4), d_by_d_seconds=round(by_dimensions, 4),
        ratio=round(by_dimensions / by_keys, 1),
        factoring_once=round(seconds(lambda: KeyMetric(matrix)), 3))  # fmt: skip

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
