"""Table 1 of Knowledge Circuits over many relations, and what its Figures 2, 3 and 6 average (Yao et al. 2024).

For every relation a circuit is found on facts that the model knows (D_val), and asked on other facts: those that the
model knows, and all (D_test, in the paper unfiltered, where a circuit may find what the model itself does not). Hit@10
of the model and the circuit stands beside that of random circuits, of as many edges, and of as many for each reader.

The answer's way up (Fig. 3, 6) is averaged over *all* facts of a relation that the model knows, of whatever length, and
not over those alone that a circuit was found on. Heads that several relations' circuits share (the paper's special
components) stand beside the number that chance would give circuits of these sizes.

Convention: shares from 0 to 1; ranks count from 1 and are averaged as logarithms; probabilities read per state.
Scope: a circuit is found on facts of one length; the paper pads facts of any length, so its D_val is wider.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuits.analysis.faithfulness import Ranked, known_and_all, random_circuit, random_degrees
from circuits.analysis.head_roles import roles
from circuits.circuit import Circuit
from circuits.engine.reference import Reference
from circuits.engine.writes import Mask
from circuits.find import find
from circuits.graph import Graph, place_of
from circuits.method import Method
from circuits.task import Task
from factscope.cache import digest
from factscope.data.fact import SHIPPED, Fact, closest, slug
from factscope.data.load import load_facts
from factscope.errors import UserError
from factscope.model.bridge import Bridge
from factscope.model.prompts import Prompt
from factscope.model.weights import fingerprint
from factscope.plots.show import shown
from factscope.progress import progress
from factscope.results.result import Result
from factscope.runs.journal import Journal
from factscope.runs.provenance import Run, stopwatch
from factscope.runs.shards import Shard
from factscope.runs.workers import ALONE, Workers, each
from studies.circuit_inputs import DEFAULT, KNOWN, CircuitInputs, TaskOptions, about_facts
from tracing.logit_lens import answers_by_layer

EXAMPLES = 8  # known facts that a circuit is found on
HELD_OUT = 40  # facts that it is asked on
RANDOM = 3  # random circuits of each kind
DOMAINS = {"animal_young": "commonsense", "verb_past_tense": "linguistic", "word_antonym": "linguistic"}  # of ours
CURVES = ("log rank", "log-probability", "probability", "probability of the subject", "log rank at the subject")


@dataclass(frozen=True)
class Hit10:
    """Hit@10 on one set of facts."""

    n: int
    model: float
    circuit: float
    random: float  # mean over random circuits of as many edges
    degrees: float  # mean over random circuits in which each reader hears as many writers


@dataclass(frozen=True)
class Curve:
    """A quantity at the embedding and after each layer: its mean over prompts, and the mean of its square."""

    mean: tuple[float, ...]
    square: tuple[float, ...]


@dataclass(frozen=True)
class RelationCircuit:
    """One relation's row."""

    relation: str
    domain: str
    facts: int
    known: int
    edges: int
    share: float  # of all edges
    faithfulness: float
    found: Hit10  # on the facts that the circuit was found on
    known_test: Hit10 | None  # other facts that the model knows
    all_test: Hit10 | None  # other facts, whether it knows them or not
    heads: dict[str, str]  # of the circuit, with their roles
    active_heads: tuple[float, ...]  # share of each layer's heads
    active_mlps: tuple[float, ...]
    curves: dict[str, Curve]  # of CURVES, over the known facts
    seconds: float
    notes: tuple[str, ...]

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "RelationCircuit":
        """A row as a journal holds it."""
        tests = {name: Hit10(**line[name]) if line[name] else None for name in ("found", "known_test", "all_test")}
        curves = {name: Curve(tuple(one["mean"]), tuple(one["square"])) for name, one in line["curves"].items()}
        lists = {name: tuple(line[name]) for name in ("active_heads", "active_mlps", "notes")}
        return cls(**{**line, **tests, **lists, "curves": curves})


@shown("studies.pages.relations")
@dataclass(frozen=True, eq=False)
class RelationTable(Result):
    """All relations' circuits in one model."""

    source: str
    rows: tuple[RelationCircuit, ...]
    left_out: dict[str, str]  # relation -> why it has no circuit
    n_heads: int  # of the model
    n_edges: int
    settings: dict[str, Any]
    run: Run


@dataclass(frozen=True)
class TableOptions:
    """How each relation's row is made."""

    method: Method = DEFAULT
    task: TaskOptions = field(default_factory=TaskOptions)
    examples: int = EXAMPLES
    held_out: int = HELD_OUT
    random: int = RANDOM
    split: bool = True  # queries, keys and values apart
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("examples", "held_out", "random"):
            if getattr(self, name) < 1:
                raise UserError(f"a table needs {name.replace('_', ' ')} of 1 or more, not {getattr(self, name)}")


def relation_table(
    model: Bridge,
    source: str = SHIPPED,
    relations: Sequence[str] = (),
    options: TableOptions = TableOptions(),
    **how: Any,
) -> RelationTable:
    """Find and ask a circuit for every relation of `source`, or for those named; keywords: as of `found_circuits`.

    Raises UserError for a relation that the source lacks, and where no relation has a circuit; ModelError as `Graph`.
    """
    graph = Graph.of(model, split=options.split)  # a model without one is refused before any work
    run = Run.of(model, options.seed)
    with stopwatch() as seconds:
        lines = found_circuits(model, source, relations, options, **how)
    rows = tuple(RelationCircuit.read(line["row"]) for line in lines.values() if "row" in line)
    left_out = {name: str(line["left out"]) for name, line in lines.items() if "left out" in line}
    if not rows:
        first, why = next(iter(left_out.items()))
        raise UserError(f"none of the {len(left_out)} relations has a circuit; of {first}: {why}")
    settings = {"method": options.method.name, "examples": options.examples, "held out": options.held_out}
    settings |= {"metric": options.task.metric, "ablation": options.task.ablation, "known": str(options.task.known)}
    settings |= {"random circuits": options.random, "split": options.split}
    heads = int(model.cfg.n_layers) * int(model.cfg.n_heads)
    return RelationTable(source, rows, left_out, heads, graph.n_edges, settings, run.ended(seconds[0]))


def found_circuits(
    model: Bridge,
    source: str,
    relations: Sequence[str],
    options: TableOptions,
    *,
    folder: str | Path,
    shown: bool | None = None,
    workers: Workers = ALONE,
    shard: Shard | None = None,
) -> dict[str, dict[str, Any]]:
    """The line of every relation as the journal keeps it, by name; of a shard, of its relations alone.

    Args:
        folder: where each finished relation is recorded; the same call goes on from there, and so does one that names
            other relations. A search that records its decisions does so there, too.
        workers: who finds the circuits; the numbers do not depend on it.
        shard: only this part of the relations; None: all.
    """
    facts, identity = by_relation(source, relations, options.task.extra), _work(model, source, options)
    keys = {name: digest([name, [each.id for each in of]]) for name, of in facts.items()}
    if shard is not None:
        identity |= shard.said(len(keys), items=digest(list(keys.values())))
        keys = {name: keys[name] for name in shard.part(list(keys))}
    with Journal(Path(folder) / "journal.jsonl", identity) as log:
        done = {str(line["key"]): line for line in log.done}
        missing = [name for name, key in keys.items() if key not in done]
        work = partial(_line, source=source, options=options, searches=Path(folder).absolute() / "searches")
        with (
            progress("relations", len(keys), len(keys) - len(missing), shown=shown) as advance,
            closing(each(model, work, [facts[name] for name in missing], workers)) as found,
        ):
            for name, line in zip(missing, found, strict=True):
                done[keys[name]] = {"key": keys[name], **line}
                log.add(done[keys[name]])
                advance(1)
    return {name: done[key] for name, key in keys.items()}


def by_relation(source: str, relations: Sequence[str] = (), extra: str = "refuse") -> dict[str, tuple[Fact, ...]]:
    """The facts of a source by relation, of all or of those named. Raises UserError for one that it lacks."""
    found: dict[str, list[Fact]] = {}
    for fact in load_facts(source, extra=extra):
        found.setdefault(fact.relation, []).append(fact)
    if missing := next((name for name in relations if name not in found), None):
        raise UserError(f"there is no relation {missing!r} in {source}{closest(missing, found)}")
    return {name: tuple(found[name]) for name in (relations or found)}


def domain_of(fact: Fact) -> str:
    """The kind of knowledge: of LRE the folder that the relation lies in, of ours as the paper would sort it."""
    if fact.source == SHIPPED:
        return DOMAINS.get(fact.relation, "factual")
    above = Path(fact.source).parts[:-1]
    return above[-1] if above else "all"


def _work(model: Bridge, source: str, options: TableOptions) -> dict[str, Any]:
    return {"table": "relations", "model": fingerprint(model), "source": source, "how": repr(options)}


def _line(model: Bridge, facts: Sequence[Fact], source: str, options: TableOptions, searches: Path) -> dict[str, Any]:
    """A relation's row as the journal keeps it, or why there is none."""
    name = facts[0].relation
    try:
        row = relation_circuit(model, source, facts, options, searches / f"{slug(name)}.jsonl")
    except UserError as trouble:
        return {"left out": str(trouble)}
    return {"row": asdict(row)}


def relation_circuit(
    model: Bridge, source: str, facts: Sequence[Fact], options: TableOptions, journal: Path | None = None
) -> RelationCircuit:
    """One relation's row. Raises what `about_facts` and `find` do."""
    name, seed = facts[0].relation, options.seed
    with stopwatch() as seconds:
        inputs = about_facts(
            model, source, name, options.examples, method=options.method, options=options.task, seed=seed
        )
        journal = journal if options.method.shared else None
        circuit = find(model, inputs.task, options.method, split=options.split, journal=journal, seed=seed)
        prompts = (*inputs.task.prompts, *inputs.held_out)
        known = (options.task.known or KNOWN).prompts(model, prompts)
        notes = [*inputs.notes, *circuit.notes]
        tests = _tests(model, circuit, inputs, options, notes)
        parts = roles(model, circuit, inputs.answers, shuffles=1, seed=seed)
        curves = curves_of(model, known)
    return RelationCircuit(
        relation=name,
        domain=domain_of(facts[0]),
        facts=len(prompts),
        known=len(known),
        edges=circuit.n_edges,
        share=circuit.n_edges / circuit.graph.n_edges,
        faithfulness=circuit.faithfulness,
        found=tests[0],
        known_test=tests[1] if tests[1].n else None,
        all_test=tests[2] if tests[2].n else None,
        heads={head.name: head.role for head in parts.heads},
        active_heads=tuple(parts.active_heads.tolist()),
        active_mlps=tuple(parts.active_mlps.tolist()),
        curves=curves,
        seconds=seconds[0],
        notes=tuple(dict.fromkeys(notes)),
    )


def _tests(
    model: Bridge, circuit: Circuit, inputs: CircuitInputs, options: TableOptions, notes: list[str]
) -> tuple[Hit10, Hit10, Hit10]:
    """Hit@10 on the circuit's own facts, on other known ones, and on all others."""
    graph, generator, kept = circuit.graph, np.random.default_rng(options.seed), circuit.mask
    sizes = [random_circuit(graph, int(kept.sum()), generator) for _ in range(options.random)]
    degrees = [random_degrees(graph, kept, generator) for _ in range(options.random)]
    held_out = inputs.held_out[: options.held_out]
    own, rest = known_and_all(model, circuit.task, held_out, options.task.known or KNOWN, notes)

    def on(tasks: Sequence[Task]) -> Hit10:
        return hit10([Reference(model, graph, task) for task in tasks], kept, sizes, degrees)

    return on([circuit.task]), on(own), on([*own, *rest])


def hit10(engines: Sequence[Ranked], kept: Mask, sizes: Sequence[Mask], degrees: Sequence[Mask]) -> Hit10:
    """Hit@10 over the prompts of all engines; NaN where there are none."""

    def share(masks: Sequence[Mask]) -> float:
        return _within([rank for engine in engines for mask in masks for rank in engine.ranks(mask)])

    full = [rank for engine in engines for rank in engine.clean_ranks()]
    return Hit10(len(full), _within(full), share([kept]), share(sizes), share(degrees))


def _within(ranks: Sequence[int]) -> float:
    return sum(KNOWN.holds(rank) for rank in ranks) / len(ranks) if ranks else float("nan")


def curves_of(model: Bridge, prompts: Sequence[Prompt]) -> dict[str, Curve]:
    """The answer's way up, and the subject's, over prompts of any length; see CURVES."""
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in CURVES}
    for prompt in prompts:
        places = [len(prompt.tokens) - 1, *prompt.subject_positions]
        tokens = [prompt.answer_ids[0], prompt.tokens[prompt.subject_positions[-1]]]
        logs, ranks = answers_by_layer(model, prompt, tokens, places)
        found = (
            ranks[0, 0].double().log(), logs[0, 0], logs[0, 0].exp(), logs[1, 0].exp(),
            ranks[0, 1:].amin(0).double().log(),
        )  # fmt: skip
        for name, values in zip(CURVES, found, strict=True):
            rows[name].append(values.double())
    made = {name: torch.stack(values) for name, values in rows.items()}
    return {
        name: Curve(tuple(values.mean(0).tolist()), tuple(values.square().mean(0).tolist()))
        for name, values in made.items()
    }


# ---- what is read from the rows ----


def pooled(rows: Sequence[RelationCircuit], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a curve over all known facts of the rows, and its standard error over facts; NaN for a single fact."""
    counts = np.array([row.known for row in rows], dtype=float)
    mean, square = (
        (np.array([getattr(row.curves[name], of) for row in rows]) * counts[:, None]).sum(0) / counts.sum()
        for of in ("mean", "square")
    )
    n = counts.sum()
    spread = np.sqrt(np.clip(square - mean**2, 0, None) / (n - 1)) if n > 1 else np.full_like(mean, np.nan)
    return mean, spread


def domains(table: RelationTable) -> dict[str, tuple[RelationCircuit, ...]]:
    """The rows by kind of knowledge, in the table's order."""
    names = dict.fromkeys(row.domain for row in table.rows)
    return {name: tuple(row for row in table.rows if row.domain == name) for name in names}


@dataclass(frozen=True)
class SharedHead:
    """A head, and the relations whose circuits hold it, with its role in each."""

    name: str
    relations: dict[str, str]

    @property
    def place(self) -> tuple[int, int]:
        """Layer and head."""
        layer, head = place_of(self.name)
        return layer, head or 0


def shared_heads(table: RelationTable) -> tuple[SharedHead, ...]:
    """Every head of some circuit, those of most relations first."""
    found: dict[str, dict[str, str]] = {}
    for row in table.rows:
        for name, role in row.heads.items():
            found.setdefault(name, {})[row.relation] = role
    made = [SharedHead(name, relations) for name, relations in found.items()]
    return tuple(sorted(made, key=lambda head: (-len(head.relations), head.place)))


def shared_by_chance(table: RelationTable, least: int) -> float:
    """How many heads at least `least` circuits would hold if each drew its heads at random, in expectation.

    A head is then in each circuit independently, with that circuit's share of the model's heads.
    """
    chance = np.array([1.0])  # of 0, 1, ... circuits
    for row in table.rows:
        share = len(row.heads) / table.n_heads
        chance = np.convolve(chance, [1 - share, share])
    return float(table.n_heads * chance[least:].sum())


def overlap(table: RelationTable) -> np.ndarray:
    """Jaccard index of the heads of every two relations' circuits, [relation, relation]; NaN where both have none."""
    held = [set(row.heads) for row in table.rows]
    return np.array([[len(a & b) / len(a | b) if a | b else np.nan for b in held] for a in held])
