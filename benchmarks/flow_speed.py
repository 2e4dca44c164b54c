"""How fast is the grid of attention knockouts of one fact against one forward pass of the whole model for each cell?

    python benchmarks/flow_speed.py                       # the README's prompt on the default model
    python benchmarks/flow_speed.py --device cuda         # the same on a GPU

The slow way (`FlowConfig(engine="reference")`) is a forward pass with an attention mask for each knockout and layer. It
is timed on the grid of one source, and counted for all of them by the number of cells; the numbers of these cells are
compared. Seconds are of the clock and of the processor; the ratio is of the processor's, in one process.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from factscope.model.load import load
from factscope.model.prompts import make_prompt
from tracing.flow.knockout import FlowConfig, cells_of, flow

PROMPT = "The Eiffel Tower is located in the city of"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load(options.model, device=options.device)
    prompt = make_prompt(model, options.prompt)
    bare, whole = FlowConfig(nulls=0), FlowConfig()
    one = replace(bare, sources=("relation",), targets=("last token",))
    flow(model, prompt, one)  # what is proven of a model once
    grid = [timed(lambda: flow(model, prompt, bare)) for _ in range(options.repeats)]
    full = [timed(lambda: flow(model, prompt, whole)) for _ in range(options.repeats)]
    quick = timed(lambda: flow(model, prompt, one))
    usual = timed(lambda: flow(model, prompt, replace(one, engine="reference")))
    cells = {name: cells_of(model, prompt, config) for name, config in (("grid", bare), ("all", whole), ("one", one))}
    fast, slow = quick[2].log_probability, usual[2].log_probability
    each = usual[1] / cells["one"]
    processor = statistics.median(used for _, used, _ in grid)
    found = {
        "model": model.cfg.model_name,
        "threads": options.threads,
        "tokens": len(prompt.tokens),
        "cells": cells["grid"],
        "seconds": round(statistics.median(wall for wall, _, _ in grid), 2),
        "processor_seconds": round(processor, 2),
        "cells_with_random_sets": cells["all"],
        "seconds_with_random_sets": round(statistics.median(wall for wall, _, _ in full), 2),
        "processor_seconds_with_random_sets": round(statistics.median(used for _, used, _ in full), 2),
        "reference_processor_seconds_per_cell": round(each, 3),
        "ratio": round(each * cells["grid"] / processor, 1),
        "ratio_with_random_sets": round(each * cells["all"] / statistics.median(used for _, used, _ in full), 1),
        "largest_difference_nats": float((fast - slow).abs().max()),
    }
    print(json.dumps(found, indent=1))


def timed(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the clock, of the processor, and the result; waits for a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, used = time.perf_counter(), time.process_time()
    result = action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - used, result


if __name__ == "__main__":
    main()
