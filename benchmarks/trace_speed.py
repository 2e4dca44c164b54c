"""How fast is the default trace against the usual structure, where does the speed come from, what does it cost?

    python benchmarks/trace_speed.py                      # the default trace of the README's prompt
    python benchmarks/trace_speed.py --scaling            # cost against layers, tokens and samples
    python benchmarks/trace_speed.py --device cuda        # the same on a GPU

The usual structure (ROME's tracer and its descendants) is one forward pass of the whole model for each cell, with one
clean row and the samples as its batch. It is timed on cells drawn at random, their median times the number of cells;
the effects of those cells are compared. Everything is timed in one process, one after another, with nothing beside it.
"""

import argparse
import copy
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from factscope.model.hooks import patched
from factscope.model.load import load
from factscope.model.prompts import make_prompt
from factscope.runs.provenance import peak_memory
from tracing import causal
from tracing.causal import Cell, Config, Runs, cells_of, trace

PROMPT = "The Eiffel Tower is located in the city of"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--start", default="auto")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cells", type=int, default=30, help="cells on which the usual structure is timed and compared"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scaling", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        (scaling if options.scaling else default_trace)(options)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result; waits for a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    result = action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def default_trace(options: argparse.Namespace) -> None:
    model = load(options.model, device=options.device)
    prompt, config = make_prompt(model, options.prompt, start=options.start), Config()
    resting = peak_memory()
    fast = [timed(lambda: trace(model, prompt, config)) for _ in range(options.repeats)]
    seconds, result = statistics.median(t for t, _ in fast), fast[0][1]
    peak = peak_memory()

    runs = Runs.of(model, prompt, config, None)
    n_cells = len(prompt.tokens) * model.cfg.n_layers * len(config.sites)
    computed = cells_of(model, prompt, config)
    every = [
        (kind, position, number)
        for kind in config.sites
        for position in range(prompt.subject_span[0], len(prompt.tokens))
        for number in range(model.cfg.n_layers)
    ]
    chosen = [causal._cells(runs, k, config, p)[n] for k, p, n in random.Random(0).sample(every, options.cells)]
    steps = {
        "usual: whole model, clean row and samples": lambda cell: next(causal._reference(runs, [cell], config))[1],
        "no clean row, last position unembedded": lambda cell: _blocks(runs, cell, 0),
        "only blocks from the restored one up": lambda cell: _blocks(runs, cell, cell.layers.start),
        "only positions from the restored one on": lambda cell: _alone(runs, cell, config),
    }
    table, worst = [], 0.0
    for name, step in steps.items():
        times = []
        for number, cell in enumerate([chosen[0], *chosen]):  # the first warms up
            took, measured = timed(partial(step, cell))
            if number:
                times.append(took)
                effect = float((runs.toward * (measured - runs.corrupted)).mean())
                mine = float(result.grid(cell.kind).effect[(*cell.index, cell.position)])
                worst = max(worst, abs(effect - mine))
        # The tail steps differ from cell to cell, so their mean counts; the usual structure does not, so its median.
        each = statistics.median(times) if name.startswith("usual") else statistics.fmean(times)
        table.append((name, each * (n_cells if name.startswith("usual") else computed)))
    table.append(("cells in batches, shared beginnings, short last block", seconds))

    usual = table[0][1]
    print(f"\n{options.prompt!r}, {model.cfg.n_layers} layers, {len(prompt.tokens)} tokens, {config.samples} samples")
    print("\n| step | seconds | times faster than usual |\n| --- | ---: | ---: |")
    for name, total in table:
        print(f"| {name} | {total:.1f} | {usual / total:.2f} |")
    speed, operations = _matrix_speed(model), _operations(model, runs, config)
    print(f"\nlargest difference of an effect over {len(chosen)} cells: {worst:.1e}")
    print(f"peak memory {peak:.2f} GB ({resting:.2f} GB with the model loaded)")
    print(
        f"matrix products of the trace: {operations / 1e12:.2f} TFLOP; this machine multiplies float32 matrices of "
        f"that shape at {speed / 1e9:.0f} GFLOP/s, so they need {operations / speed:.1f} s of its {seconds:.1f} s"
    )
    print(json.dumps({"ratio": usual / seconds, "seconds": seconds, "worst": worst, "peak_gb": peak}))


def _blocks(runs: Runs, cell: Cell, first: int) -> torch.Tensor:
    """One cell, all positions, from block `first` up, by hooks on the blocks."""
    model, top = runs.frame.model, runs.frame.model.cfg.n_layers
    resid = runs.before[first][1:]
    for layer in range(first, top):
        patches = []
        if layer in cell.layers:
            site = causal.Site(cell.site, layer)
            clean = runs.before[layer + 1] if cell.site == "resid" else runs.outputs[site]
            patches = [causal.Patch(site, clean[:1, cell.position : cell.position + 1], positions=[cell.position])]
        with patched(model, patches):
            resid = runs.frame.block(layer, resid)
    return runs.measured(runs.frame.logits(resid[:, -1]))[0]


def _alone(runs: Runs, cell: Cell, config: Config) -> torch.Tensor:
    return next(causal._fast(runs, [cell], replace(config, chunk_tokens=1)))[1]


def _matrix_speed(model: Any) -> float:
    """Multiply-adds of a gated MLP's up projection on 1,500 rows, times two, a second: the limit here."""
    place = next(model.embed.parameters()).device
    rows = torch.randn(1500, model.cfg.d_model, device=place)
    weight = torch.randn(model.cfg.d_mlp, model.cfg.d_model, device=place)
    times = [timed(lambda: torch.nn.functional.linear(rows, weight))[0] for _ in range(40)]
    return 2 * rows.numel() * int(model.cfg.d_mlp) / statistics.median(times[10:])


def _operations(model: Any, runs: Runs, config: Config) -> float:
    """Two operations for each weight of a block and each position it is run on, and for the unembedding's rows."""
    block = sum(p.numel() for p in model.original_model.model.layers[0].parameters() if p.ndim == 2)
    samples, n_tokens, top = config.samples, len(runs.prompt.tokens), model.cfg.n_layers
    total = 0
    for kind in config.sites:
        for position in range(runs.prompt.subject_span[0], n_tokens):
            cells, width = causal._cells(runs, kind, config, position), n_tokens - position
            per_start: dict[int, int] = {}
            for cell in sorted(cells, key=lambda cell: -cell.layers.stop):
                shared = cell.layers.start in per_start
                begin = cell.layers.stop if shared else cell.layers.start + 1
                per_start[cell.layers.start] = 1
                total += block * samples * max(0, width * (top - 1 - begin) + (begin < top) * 1)
            total += model.cfg.d_model * model.cfg.d_vocab * samples * len(cells)
    return 2.0 * total


def scaling(options: argparse.Namespace) -> None:
    """The MLP windows alone, so that each measurement is short."""
    model = load(options.model, device=options.device)
    words = "The old stone bridge over the river in the middle of the city of Paris was built long ago by the king of"
    config = Config(sites=("mlp",))

    def median(prompt: Any, config: Config, of: Any = model) -> float:
        return statistics.median(timed(lambda: trace(of, prompt, config))[0] for _ in range(options.repeats))

    print("\n| tokens after the start | seconds | per pair of positions, ms |\n| ---: | ---: | ---: |")
    for count in (6, 9, 12, 18):
        text = " ".join(words.split()[:count])
        prompt = make_prompt(model, text, subject="The old stone bridge", answer="England")
        n = len(prompt.tokens) - 1
        took = median(prompt, replace(config, metric="kl"))
        print(f"| {n} | {took:.2f} | {1e3 * took / (n * (n + 1) / 2):.1f} |")
    prompt = make_prompt(model, options.prompt)
    print("\n| samples | seconds | per sample |\n| ---: | ---: | ---: |")
    for samples in (2, 5, 10, 20):
        took = median(prompt, replace(config, samples=samples))
        print(f"| {samples} | {took:.2f} | {took / samples:.3f} |")
    print("\n| layers (random weights) | seconds | per pair of layers, ms |\n| ---: | ---: | ---: |")
    for depth in (6, 12, 24):
        other = _random(model, depth)
        took = median(make_prompt(other, options.prompt), replace(config, metric="kl"), other)
        print(f"| {depth} | {took:.2f} | {1e3 * took / (depth * (depth + 1) / 2):.1f} |")


def _random(model: Any, depth: int) -> Any:
    """A model of the same width with another number of layers."""
    from transformers import AutoModelForCausalLM

    shape = copy.deepcopy(model.original_model.config)
    shape.num_hidden_layers = depth
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return load(folder)


if __name__ == "__main__":
    main()
