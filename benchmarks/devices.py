"""What a device gives: seconds, memory, the share of its speed by kind of work, and whether its numbers are a CPU's.

    python -m benchmarks.devices work [--device cuda] [--dtype float32] [--only trace,rome] [--facts COUNTERFACT.json]
    python -m benchmarks.devices work --shape 4096,32,32,8,14336 --dtype bfloat16 ...   # random weights of that shape
    python -m benchmarks.devices agree --device cuda      # the same trace, scores and edits on both

A row is printed for each kind of work. `seconds` is the median of the repeats after one that warms up; long work runs
once. `TFLOP` are the operations of matrix products (factscope/runs/counting.py), of a batch in proportion to a part of
it; `share` is what they would take at the speed at which the device multiplies two large matrices of the model's dtype
in the same process, over the seconds. Few rows of a small model cannot fill a GPU, and `share` says so. `GB` is the
peak beyond what was held before. A shape is width, layers, heads, key heads, width of an MLP: a Llama with random
weights, for the time and memory that a real one of its size will need; its answers mean nothing.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.circuits import Clock, operations
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.eap_ig import EAPIG
from circuits.search.acdc import ACDC, acdc
from circuits.task import Task
from editing.compute import compute
from editing.solve import corpus, moments
from factscope.data.load import load_facts
from factscope.data.request import EditRequest, distinct, requests_of
from factscope.model.bridge import Bridge, device, info
from factscope.model.load import DTYPES, load
from factscope.model.prompts import make_prompt
from factscope.runs import counting
from factscope.runs.memory import watched
from tracing.causal import Config as Trace
from tracing.causal import trace

PROMPT, ANSWER = "The Eiffel Tower is located in the city of", "Paris"
COUNTED = 20  # facts of a batch whose operations are counted; the rest is in proportion
Work = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["work", "agree"])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--shape", help="width,layers,heads,key heads,MLP width: random weights instead of a model")
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--facts", default=None, help="of MEMIT's batch; otherwise the shipped facts with a foil")
    parser.add_argument("--n", type=int, default=1000, help="facts of MEMIT's batch")
    parser.add_argument("--only", default="forward,trace,eap-ig,acdc,moments,rome,memit")
    parser.add_argument("--tokens", type=int, default=None, help="of second moments")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which ACDC is stopped")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    agree(given) if given.part == "agree" else work(given)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def timed(action: Work) -> tuple[float, Any]:
    """Seconds and result; waits for a GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    begin = time.perf_counter()
    result = action()
    wait()
    return time.perf_counter() - begin, result


# ---- what the device takes ----


def work(given: argparse.Namespace) -> None:
    took, model = timed(lambda: opened(given))
    wanted, row = given.only.split(","), Row(speed(model), given.repeats)
    say(device=named(model), dtype=given.dtype, parameters=sum(p.numel() for p in model.parameters()),
        load_seconds=round(took, 1), limit_TFLOP_a_second=round(row.limit, 2))  # fmt: skip
    prompt = make_prompt(model, PROMPT, answer=ANSWER)
    if "forward" in wanted:
        tokens = torch.randint(5, 1000, (16, 128), device=device(model))
        with torch.no_grad():
            row("forward pass, 16 x 128 tokens", lambda: model(tokens, use_cache=False))
    if "trace" in wanted:
        config = Trace(metric="kl") if given.shape else Trace()  # random weights give no answer that could be hurt
        row("causal trace, three kinds, 10 samples", lambda: trace(model, prompt, config))
    if "eap-ig" in wanted:
        reference = Reference(model, Graph.of(model), Task((prompt,), ablation="zero"))
        row("EAP-IG, 5 steps, one prompt", lambda: EAPIG(steps=5).score(reference))
    if "acdc" in wanted:
        search(model, prompt, given.limit, row)
    if {"rome", "memit", "moments"} & set(wanted):
        edits(model, given, wanted, row)


class Row:
    """Times an action and prints its row."""

    def __init__(self, limit: float, repeats: int) -> None:
        self.limit, self.repeats = limit, repeats

    def __call__(self, name: str, action: Work, **more: Any) -> None:
        operations = counted(action)
        with watched() as peak:
            took = statistics.median(timed(action)[0] for _ in range(self.repeats))
        self.say(name, took, operations, peak(), **more)

    def once(self, name: str, action: Work, operations: float | None = None, **more: Any) -> Any:
        """A row of work that is too long to repeat; its result."""
        with watched() as peak:
            took, result = timed(action)
        self.say(name, took, operations, peak(), **more)
        return result

    def say(self, name: str, took: float, operations: float | None, peak: float | None, **more: Any) -> None:
        """`operations` in TFLOP, `peak` in MB."""
        if operations is not None:
            more = {"TFLOP": round(operations, 3), "share": round(operations / self.limit / took, 3)} | more
        say(work=name, seconds=round(took, 3), GB=None if peak is None else round(peak / 1e3, 2), **more)


def counted(action: Work) -> float:
    """TFLOP of its matrix products."""
    with counting.counted() as found:
        action()
    return found.operations / 1e12


def edits(model: Bridge, given: argparse.Namespace, wanted: Sequence[str], row: Row) -> None:
    layers = sorted({*info(model).edit_layers, info(model).edit_layer})
    config = corpus.Config(tokens=given.tokens)
    collect = lambda folder: moments.collect(model, layers, config, folder=folder, shown=False)  # noqa: E731
    if "moments" in wanted:
        with tempfile.TemporaryDirectory() as folder:
            tokens = config.wanted(model)
            row.once("second moments", lambda: collect(Path(folder)), layers=len(layers), tokens=tokens)
    if not {"rome", "memit"} & set(wanted):
        return
    found, requests = collect(None), asked(given)
    if "rome" in wanted:
        row("ROME, one fact", lambda: compute("rome", model, requests[:1], moments=found, shown=False))
    if "memit" in wanted:
        few = requests[:COUNTED]
        whole = counted(lambda: compute("memit", model, few, moments=found, shown=False)) * len(requests) / len(few)
        all_of_them = lambda: compute("memit", model, requests, moments=found, shown=False)  # noqa: E731
        row.once("MEMIT, one batch", all_of_them, whole, facts=len(requests))


def asked(given: argparse.Namespace) -> list[EditRequest]:
    """The first facts of the file, whether the model knows them or not: the time is the same."""
    facts = load_facts(given.facts) if given.facts else load_facts()
    return list(requests_of(distinct([f for f in facts if f.foil])[: given.n]))


def search(model: Bridge, prompt: Any, limit: float, row: Row) -> None:
    """ACDC, whole heads, zero ablation, as far as it comes in its time."""
    reference = Reference(model, Graph.of(model, split=False), Task((prompt,), ablation="zero"))
    clock: Any = Clock(limit, None)  # stands for a journal
    with watched() as peak:
        begin = time.perf_counter()
        fast = Fast(reference)
        try:
            acdc(reference, ACDC(0.1), clock, fast=fast)
            ended = True
        except TimeoutError:
            ended = False
        took = time.perf_counter() - begin
    flop = operations(fast, clock.decisions) / 1e12
    row.say("exact ACDC, whole heads", took, flop, peak(), decisions=len(clock.decisions), to_its_end=ended)


def opened(given: argparse.Namespace) -> Bridge:
    """The model asked for, or a Llama of the shape asked for with random weights and the model's own tokenizer."""
    if not given.shape:
        return load(given.model, device=given.device, dtype=given.dtype)
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, heads, key_heads, mlp = map(int, given.shape.split(","))
    tokenizer = load(given.model, device="cpu").tokenizer
    shape = LlamaConfig(
        vocab_size=128_256, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        torch.set_default_dtype(DTYPES[given.dtype])
        with torch.device(given.device or "cpu"):
            random = LlamaForCausalLM(shape)
        torch.set_default_dtype(torch.float32)
        random.save_pretrained(folder)
        del random
        tokenizer.save_pretrained(folder)
        return load(folder, device=given.device, dtype=given.dtype)


def speed(model: Bridge) -> float:
    """TFLOP a second of a large product of the model's dtype on its device: the limit of what is matrix products."""
    place = device(model)
    side = 8192 if place.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=place, dtype=model.cfg.dtype) for _ in range(2))
    times = [timed(lambda: left @ right)[0] for _ in range(8)]
    return float(2 * side**3 / statistics.median(times[3:]) / 1e12)


def named(model: Bridge) -> str:
    place = device(model)
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return f"{place.type}, {torch.get_num_threads()} threads"


# ---- the same numbers on both ----


def agree(given: argparse.Namespace) -> None:
    """The largest difference between the CPU and the device, relative to the largest number."""
    found = [results(load(given.model, device=place, dtype=given.dtype)) for place in ("cpu", given.device)]
    for name in found[0]:
        ours, theirs = found[0][name].double(), found[1][name].double()
        say(what=name, largest=float(ours.abs().max()), off=float((ours - theirs).abs().max() / ours.abs().max()))


def results(model: Bridge) -> dict[str, torch.Tensor]:
    """What each kind of work gives.

    Of an edit by closed form the change; of one by gradients the losses of its steps, since Adam's first steps go by
    the gradient's sign, and where it is nearly 0 rounding decides.
    """
    prompt = make_prompt(model, PROMPT, answer=ANSWER)
    traced = trace(model, prompt, Trace(samples=2))
    reference = Reference(model, Graph.of(model), Task((prompt,), ablation="zero"))
    facts = [f for f in load_facts("landmark_city") if f.foil][:1]
    found = {f"trace, {grid.kind}": torch.as_tensor(grid.effect) for grid in traced.grids}
    found["EAP-IG"] = torch.as_tensor(EAPIG(steps=5).score(reference))
    for name in ("rome", "memit"):
        edit = compute(name, model, facts, contexts=["{}", "Yesterday. {}"], shown=False)
        found[name] = torch.cat([delta.dense().flatten().cpu() for delta in edit.deltas])
    tuned = compute("ft_m", model, facts, shown=False)
    assert tuned.curve is not None
    found["ft_m, loss by step"] = tuned.curve[:, 0].cpu()
    return found


if __name__ == "__main__":
    main()
