"""Does long work grow? Memory over an average of 1,000 facts and a sequence of 200 edits, on the trained toy.

    python -m benchmarks.growth [--facts 1000] [--edits 200]

The toy is so small that what is kept of each fact or edit would be seen beside it. Ten times on the way, after garbage
is collected and given back, two numbers are read: the MB that the process holds (its resident set), and the MB of all
tensors that are alive. Work that keeps something of each piece gains as much in the second half as in the first.
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from editing.method import method
from editing.sequence.run import sequence
from editing.sequence.state import Config
from editing.sequence.yardstick import Yardstick, fixed_text, unrelated_facts
from factscope.data.fact import Fact
from factscope.model.load import load
from factscope.runs.memory import resident
from tracing.average import average
from tracing.causal import Config as TraceConfig
from tracing.sweep import Sweep

TOY = Path(__file__).parents[1] / "tests" / "toy"
TOWN = TOY / "toy_town.json"
LOOKS = 10
OPENINGS = ["".join(words) for words in product(("", "Today, ", "Well, ", "Now, "), repeat=2)]


def facts_of(count: int | None) -> list[Fact]:
    """So many different prompts about the toy's people, or all there are: a few words stand before them."""
    facts: list[Fact] = []
    for relation in map(json.loads, (file.read_text(encoding="utf-8") for file in sorted(TOY.glob("toy_*.json")))):
        answers = sorted({fact["answer"] for fact in relation["facts"]})
        for opening in OPENINGS:
            for template in relation["templates"]:
                facts += [
                    Fact(
                        f"{relation['relation']}/{opening}/{template}/{fact['subject']}",
                        relation["relation"],
                        fact["subject"],
                        opening + template,
                        fact["answer"],
                        next(one for one in answers if one != fact["answer"]),
                    )
                    for fact in relation["facts"]
                ]
    if count is None:
        return facts
    if count > len(facts):
        raise SystemExit(f"the toy has {len(facts)} prompts")
    return facts[:: len(facts) // count][:count]


Looks = list[tuple[float, float]]  # MB of the process, and of living tensors


def alive() -> float:
    """MB of the storages of all tensors that Python knows."""
    storages = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter):
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return float(sum(storages.values())) / 1e6


def looking(every: int, found: Looks) -> Callable[..., None]:
    """A hook that looks at the process's memory after each `every` calls."""
    calls = [0]

    def look(*_: Any) -> None:
        calls[0] += 1
        if calls[0] % every == 0:
            gc.collect()
            found.append((resident(), alive()))

    return look


def averaged(model: Any, count: int, folder: Path) -> Looks:
    """MB, at each tenth of so many traced facts; those that cannot be traced, for nothing is lost, are passed over."""
    found: Looks = []
    config, sweep = TraceConfig(sites=("mlp",), samples=1), Sweep(known=False, wanted=count)
    average(
        model, facts_of(None), config, sweep, journal=folder / "journal.jsonl", shown=False,
        traced=looking(count // LOOKS, found),
    )  # fmt: skip
    return found


def edited(model: Any, count: int, folder: Path) -> Looks:
    """MB, ten times during a sequence of so many edits by ROME, looked at as often."""
    found: Looks = []
    asked = facts_of(count)
    spec = method("rome")
    config: Any = spec.at_layers(spec.Config(), (0,))
    config = replace(config, descent=replace(config.descent, steps=4))
    yardstick = Yardstick.of(
        model, unrelated_facts(model, asked[:4], TOWN, count=4), *fixed_text(model, documents=2, tokens=12), "auto"
    )
    sequence(
        model, asked, "rome", Config(every=count // LOOKS), folder / "sequence", yardstick, config=config,
        contexts=("{}", "Today, {}"), say=lambda _: None, shown=False, on_checkpoint=looking(1, found),
    )  # fmt: skip
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load(str(TOY), device="cpu")
    for work, count in ((averaged, args.facts), (edited, args.edits)):
        with tempfile.TemporaryDirectory() as folder:
            looks = work(model, count, Path(folder))
        print(f"{work.__name__} {count}: " + ", ".join(f"{held:.0f} ({live:.2f})" for held, live in looks), flush=True)


if __name__ == "__main__":
    main()
