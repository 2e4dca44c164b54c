"""Commands from start to page: where the seconds go, and how many fewer they are than in another checkout.

    python -m benchmarks.commands [--only trace,edit,diff] [--repeats 3] [--before CHECKOUT] [--threads 2]

Each command runs in a process of its own, as a person runs it, on the README's prompt and the default model; once
before, to warm up (the model, second moments and compiled files are then in their caches). A row gives the median of
the wall seconds and of the processor's, and how the wall seconds of that run divide: `imports` of the libraries, `load`
(the model and the proofs of what is assumed of it), `hash` (fingerprints), `checks` (of the layers that are edited, and
of what partial forward passes assume), `page` (saving and drawing), and `work`, which is all the rest. `limit` is the
time of the process that imports the same libraries and loads the same weights by plain transformers, and does nothing
with them: no command can be faster. With --before the same rows come from another checkout, in turns with these.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROMPT = "[The Eiffel Tower] is located in the city of"
COMMANDS = {
    "trace": ("studies.commands.trace", PROMPT),
    "edit": ("studies.commands.edit.command", "apply", PROMPT, "--target", "Rome", "--method", "rome"),
    "diff": ("studies.commands.circuit.command", "diff", PROMPT, "--target", "Rome", "--methods", "rome"),
}
HERE = Path(__file__).parents[1]

# Runs a command with the functions of each phase timed; a phase within another counts for itself alone.
CHILD = """
import functools, importlib, json, os, sys, time
begin, spent, open_phases = time.perf_counter(), {}, []
def timed(phase, function):
    @functools.wraps(function)
    def call(*args, **more):
        open_phases.append(0.0)
        start = time.perf_counter()
        try:
            return function(*args, **more)
        finally:
            took, inner = time.perf_counter() - start, open_phases.pop()
            spent[phase] = spent.get(phase, 0.0) + took - inner
            if open_phases:
                open_phases[-1] += took
    return call
def libraries():
    import torch, transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    import transformer_lens.model_bridge
timed("imports", libraries)()
for place, name, phase in (
    ("factscope.model.weights", "fingerprint", "hash"),
    ("factscope.model.load", "load", "load"),
    ("editing.solve.values", "check_layer", "checks"),
    ("factscope.plots.page", "write_page", "page"),
    ("factscope.runs.store", "save", "page"),
):
    module = importlib.import_module(place)
    setattr(module, name, timed(phase, getattr(module, name)))
module, *sys.argv[1:] = sys.argv[1:]
code = 0
try:
    importlib.import_module(module).main()
except SystemExit as end:
    code = end.code or 0
spent["whole"] = time.perf_counter() - begin
with open(os.environ["PHASES"], "w") as file:
    json.dump(spent | {"cpu": time.process_time()}, file)
sys.exit(code)
"""
LIMIT = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
import transformer_lens.model_bridge, torch
AutoTokenizer.from_pretrained(sys.argv[1])
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    limit = statistics.median(bare(given.threads) for _ in range(given.repeats))
    print(json.dumps({"limit": round(limit, 2), "threads": given.threads}), flush=True)
    trees = {"now": HERE} if given.before is None else {"before": given.before.resolve(), "now": HERE}
    for name in given.only.split(","):
        found: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
        for turn in range(given.repeats + 1):
            for tree, place in trees.items():
                phases = run(COMMANDS[name], place, given.threads)
                if turn:  # the first warms up
                    found[tree].append(phases)
        for tree, runs in found.items():
            print(json.dumps({"command": name, "of": tree} | row(runs, limit)), flush=True)


def run(command: tuple[str, ...], tree: Path, threads: int) -> dict[str, float]:
    """One run of a command of a checkout, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        phases = Path(folder, "phases.json")
        ended = subprocess.run(
            [sys.executable, "-c", CHILD, *command], cwd=folder, env=_environment(tree, threads, PHASES=str(phases)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {ended.stderr[-500:]}")
        found: dict[str, float] = json.loads(phases.read_text(encoding="utf-8"))
    return found


def bare(threads: int) -> float:
    """Seconds of a process that imports the libraries and loads the default model's weights."""
    place = "from factscope.model.load import place_of; from factscope.model.source.registry import REGISTRY as r"
    place += "; print(place_of('smollm2', r['smollm2']))"
    here = _environment(HERE, threads)
    weights = subprocess.run([sys.executable, "-c", place], env=here, capture_output=True, text=True, check=True).stdout
    line = f"import time; t = time.perf_counter(){LIMIT}print(time.perf_counter() - t)"
    said = subprocess.run(
        [sys.executable, "-c", line, weights.strip()], env=here, capture_output=True, text=True, check=True
    ).stdout
    return float(said.split()[-1])


def row(runs: list[dict[str, float]], limit: float) -> dict[str, Any]:
    """The median run's seconds by phase."""
    median = sorted(runs, key=lambda one: one["whole"])[len(runs) // 2]
    phases = {name: value for name, value in median.items() if name not in ("whole", "cpu")}
    phases["work"] = median["whole"] - sum(phases.values())
    cpu = statistics.median(one["cpu"] for one in runs)
    told = {"seconds": median["whole"], "cpu": cpu, "limit share": limit / median["whole"]} | phases
    return {name: round(value, 2) for name, value in told.items()}


def _environment(tree: Path, threads: int, **more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)} | more


if __name__ == "__main__":
    main()
