"""How long circuits take, and how much memory: `python -m benchmarks.circuits PART`, on an idle machine.

search   ACDC on the default model, whole heads, zero ablation: all decisions by the fast engine, and an even sample of
         the same decisions by the plain one, in the same process; their ratio for one decision is the result
scorers  EAP and EAP-IG (5 steps) on the default model, native grouped queries: median of the runs
growth   one EAP and one ACDC decision by layers, heads, tokens and prompts, on random models: milliseconds beside the
         multiplications and additions that are to be expected of them (of weights; in 10^6)

Every part prints JSON lines: seconds, decisions, peak memory in GB of this process. With `--journal FILE` the search
goes on where a stopped one ended, and the seconds add up to the whole.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from circuits.certificate import rise
from circuits.decisions import Decision
from circuits.engine.incremental import Fast
from circuits.engine.reference import Reference
from circuits.graph import Graph
from circuits.scorers.eap import EAP
from circuits.scorers.eap_ig import EAPIG
from circuits.search.acdc import ACDC, acdc
from circuits.task import Task
from factscope.model.load import load
from factscope.model.prompts import make_prompt
from factscope.runs.provenance import peak_memory

PROMPT, ANSWER = "The Eiffel Tower is located in the city of", "Paris"


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Median seconds, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


class Clock:
    """A journal that keeps the decisions, in a file if there is one, and ends the search when its time is up."""

    def __init__(self, limit: float, journal: Path | None) -> None:
        self.journal = journal
        lines = journal.read_text().splitlines() if journal and journal.exists() else []
        self.done = [json.loads(line) for line in lines]
        self.decisions: list[Decision] = []
        for piece in self.done:
            self._take(piece)
        self.new = 0  # made now, those of a layer begun anew among them
        self.end = time.perf_counter() + limit

    def _take(self, piece: dict[str, Any]) -> None:
        self.decisions[piece["place"] :] = [Decision(**each) for each in piece["decisions"]]

    def add(self, piece: dict[str, Any]) -> None:
        self._take(piece)
        self.new += len(piece["decisions"])
        if self.journal:
            with self.journal.open("a") as file:
                file.write(json.dumps(piece) + "\n")
        if time.perf_counter() > self.end:
            raise TimeoutError


def _search(reference: Reference, config: ACDC, fast: Fast, clock: Any) -> bool:
    """Whether it came to its end in time."""
    try:
        acdc(reference, config, clock, fast=fast)
    except TimeoutError:
        return False
    return True


def search(threshold: float, split: bool, sample: int, limit: float, journal: Path | None) -> Iterator[dict[str, Any]]:
    """What the search took, then what the plain engine takes for the same decisions."""
    model = load("smollm2", device="cpu")
    task = Task((make_prompt(model, PROMPT, answer=ANSWER),), ablation="zero")
    reference = Reference(model, Graph.of(model, split=split), task)
    prepare, fast = timed(lambda: Fast(reference))
    clock = Clock(limit, journal)
    seconds, whole = timed(lambda: _search(reference, ACDC(threshold), fast, clock))
    decisions = clock.decisions
    each = (seconds + prepare) / max(1, clock.new)
    yield {
        "threshold": threshold,
        "split": split,
        "whole search": whole,
        "down to": reference.graph.reader_names[decisions[-1].reader],
        "kept so far": sum(decision.kept for decision in decisions),
        "of": reference.graph.n_edges,
        "seconds": round(seconds + prepare, 1),
        "decisions": clock.new,
        "in all": len(decisions),
        "evaluated": fast.n_evaluated,
        "ties": sum(decision.tie for decision in decisions),
        "ms a decision": round(1e3 * each, 2),
        "peak GB": round(peak_memory(), 2),
    }
    plain: list[float] = []
    kept = reference.graph.full()
    chosen = {round((i + 0.5) * len(decisions) / sample) for i in range(sample)}
    readers = {decision.reader for decision in decisions}
    place = 0
    for number in range(len(reference.graph.readers) - 1, -1, -1):
        if number not in readers:
            kept[:, number] = False
        while place < len(decisions) and decisions[place].reader == number:
            decision = decisions[place]
            if place in chosen:
                without = kept.copy()
                without[decision.writer, number] = False
                plain.append(timed(partial(reference.loss, without))[0])  # one forward for one decision
            kept[decision.writer, number] = decision.kept
            place += 1
    forward, _ = timed(lambda: model(task.tokens(model), use_cache=False), 5)
    yield {
        "plain engine, ms a decision": round(1e3 * statistics.mean(plain), 1),
        "ratio": round(statistics.mean(plain) / each, 1),
        "plain model forward, ms": round(1e3 * forward, 1),
        "sampled": len(plain),
    }


def scorers(repeats: int) -> dict[str, Any]:
    model = load("smollm2", device="cpu")
    prompt = make_prompt(model, PROMPT, answer=ANSWER)
    task = Task((prompt,), ablation="zero")
    reference = Reference(model, Graph.of(model), task)
    first, _ = timed(lambda: EAP().score(reference), repeats)
    second, _ = timed(lambda: EAPIG(steps=5).score(reference), repeats)
    return {"EAP, s": round(first, 2), "EAP-IG 5 steps, s": round(second, 2), "peak GB": round(peak_memory(), 2)}


def growth() -> list[dict[str, Any]]:
    rows = []
    base = {"layers": 6, "heads": 6, "tokens": 8, "prompts": 1}
    for what, values in {
        "layers": (3, 6, 12),
        "heads": (3, 6, 12),
        "tokens": (8, 16, 32),
        "prompts": (1, 4, 16),
    }.items():
        for value in values:
            rows.append(base | {what: value} | _one(**(base | {what: value})))
    return rows


def _one(layers: int, heads: int, tokens: int, prompts: int) -> dict[str, Any]:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    toy = Path(__file__).parents[1] / "tests" / "toy"
    tokenizer = AutoTokenizer.from_pretrained(toy)
    torch.manual_seed(0)
    width = 64 * heads
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, initializer_range=0.1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = load(folder, device="cpu")
    text = "[Oda Voss] lives in" + " Brask lives in" * ((tokens - 4) // 3 + 1)
    prompt = make_prompt(model, text, subject=None, answer="Vey", start="none")
    reference = Reference(model, Graph.of(model, split=False), Task((prompt,) * prompts, ablation="zero"))
    fast = Fast(reference)
    slope, _ = timed(lambda: EAP().score(reference), 3)
    seconds, found = timed(lambda: acdc(reference, ACDC(0.02), fast=fast))
    graph = reference.graph
    last = found.decisions[-1]
    plain, _ = timed(lambda: rise(reference, found.kept, last.writer, last.reader), 3)
    forward = prompts * len(prompt.tokens) * (_block(fast) * layers + _unembedding(fast))
    return {
        "real tokens": len(prompt.tokens),
        "edges": graph.n_edges,
        "EAP, ms": round(1e3 * slope, 1),
        "EAP, Mflop": round(3 * forward / 1e6),  # a pass forward and one back, which costs two
        "ACDC, ms a decision": round(1e3 * seconds / len(found.decisions), 2),
        "ACDC, Mflop a decision": round(operations(fast, found.decisions) / len(found.decisions) / 1e6, 1),
        "plain engine, ms a decision": round(1e3 * plain / 2, 2),
        "plain engine, Mflop a decision": round(forward / 1e6),
        "decisions": len(found.decisions),
        "evaluated": found.n_evaluated,
        "kept": int(found.kept.sum()),
    }


def _mlp(fast: Fast, layer: int = 0) -> int:
    """Operations of one MLP at one position."""
    return 2 * sum(int(weight.numel()) for weight in fast.model.blocks[layer].mlp.parameters() if weight.ndim == 2)


def _head(fast: Fast) -> int:
    """Operations of one of a head's four matrices at one position."""
    return 2 * fast.inputs.shape[-1] * fast.kernel.d_head


def _block(fast: Fast) -> int:
    return _mlp(fast) + fast.graph.n_heads * 4 * _head(fast)


def _unembedding(fast: Fast) -> int:
    return 2 * fast.inputs.shape[-1] * int(fast.model.cfg.d_vocab)


def operations(fast: Fast, decisions: Sequence[Decision]) -> int:
    """What the decisions of a search take if nothing is thrown away: the weights' products in what each cut reaches."""
    fast.kept = fast.graph.full()
    t, total, place = fast.tokens.shape[1], 0, 0
    for number in range(len(fast.graph.readers) - 1, -1, -1):
        end = place
        while end < len(decisions) and decisions[end].reader == number:
            end += 1
        if end == place:
            fast.kept[:, number] = False
            continue
        each = _unembedding(fast)
        for step in fast.plan(number).steps:
            width = 1 if step.last else t
            if step.kind == "mlp":
                each += width * _mlp(fast, step.layer)
            for kind, readers in step.readers.items() if step.kind == "heads" else ():
                matrices = {"q": width, "k": t, "v": t, "head": width + 2 * t}[kind]
                each += len(readers) * matrices * _head(fast)
            each += len(step.nodes) * width * _head(fast) if step.kind == "heads" else 0
        total += each * (end - place) * len(fast.tokens)
        for decision in decisions[place:end]:
            fast.kept[decision.writer, number] = decision.kept
        place = end
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["search", "scorers", "growth"])
    parser.add_argument("--threshold", type=float, default=0.1)
    parser.add_argument("--split", action="store_true")
    parser.add_argument("--sample", type=int, default=24)
    parser.add_argument("--limit", type=float, default=200.0, help="seconds after which the search is stopped")
    parser.add_argument("--journal", type=Path, help="file for the decisions of a search in parts")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if given.part == "search":
        for part in search(given.threshold, given.split, given.sample, given.limit, given.journal):
            print(json.dumps(part), flush=True)
    elif given.part == "scorers":
        print(json.dumps(scorers(given.repeats)), flush=True)
    else:
        for row in growth():
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
