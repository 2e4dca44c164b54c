"""The graph that a circuit is cut from: who writes to the residual stream, who reads from it, and which edges exist.

Writers are `embed`, the heads `a3.h5` and the MLPs `m7`; readers are a head's query, key and value inputs `a3.h5.q`,
`.k`, `.v`, the MLPs' inputs `m7`, and `logits`. An edge says that the reader hears the writer. Under grouped queries
there is one key and one value reader for each key/value head (`a3.h1.k` is read by every query head of group 1), for
that is what the model has. This is the only file that does index arithmetic.

What an edit lets stand beside an MLP is a node of its own, `b25`: it reads what the MLP of layer 25 reads, and writes
what it adds to what that MLP writes.

Where a norm is over all heads of a layer together (after attention, as in Gemma-2, or over their queries, as in
OLMo-2) the graph is `coupled`: the edges are the same, but what one head hears changes what every head of its layer
writes. Such a head matters, and its edges count, as long as any head of its layer reaches the logits.

A mixture of experts has one reader `m3`, which the router and all experts read, and a writer for each expert, `m3.e5`;
and `m3.shared` where the layer has an expert that all tokens go through.

Where each count comes from, with S(l) = 1 + l (H + 1) writers below layer l:
    split by query, key, value   sum over l of [(H + 2K) S(l) + S(l) + H] + 1 + L (H + 1)
    not split                    H instead of H + 2K: one reader a head (`a3.h5`), its keys and values its own copy
    parallel attention           without the + H: the MLP does not hear the heads of its own layer
A node beside an MLP is a writer for every layer above, and has as many edges into it as the MLP.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from factscope.errors import GraphError, ModelError
from factscope.model.bridge import Bridge, spread
from factscope.model.hooks import standing_functions
from factscope.model.parts.experts import expert_count, has_shared, mixtures
from factscope.model.parts.writes import coupled

Kind = Literal["q", "k", "v", "head", "mlp", "beside", "logits"]
MOST = 1000  # layers, heads or experts of a layer: several times what any model has, and a file may name any number
_ROOM: ContextVar[tuple[int, ...]] = ContextVar("room", default=())


@dataclass(frozen=True)
class Reader:
    """One input: `kind` is q, k, v (key/value head `head`), head (not split), mlp, beside (an MLP) or logits."""

    name: str
    kind: Kind
    layer: int
    head: int = -1  # -1 for an MLP, what stands beside it, and the logits, which have none

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise GraphError(f"no reader is of kind {self.kind!r}; the kinds are {', '.join(get_args(Kind))}")
        if (self.head < 0) != (self.kind in ("mlp", "beside", "logits")):
            raise GraphError(f"reader {self.name} of kind {self.kind} cannot have head {self.head}")
        if self.layer < 0:
            raise GraphError(f"reader {self.name} cannot be in layer {self.layer}")


@runtime_checkable
class Edges(Protocol):
    """What a choice of edges asks of a graph: which there are, and what lies on a path to the logits.

    Masks are [writer, reader], or have further axes; an input is a place in what follows the first axis, flattened.
    """

    @property
    def allowed(self) -> np.ndarray:
        """Which edges exist."""

    @property
    def n_edges(self) -> int:
        """How many."""

    @property
    def end(self) -> int:
        """The input that the loss reads."""

    def inputs_of(self, writer: int, number: int) -> Iterable[int]:
        """Inputs from which a writer makes what input `number` hears of it."""

    def pruned(self, kept: np.ndarray) -> np.ndarray:
        """Only the edges on some path from an input to the logits."""

    def full(self) -> np.ndarray:
        """Every edge kept."""

    def empty(self) -> np.ndarray:
        """No edge kept."""


@dataclass(frozen=True)
class Graph:
    """Everything that decides which edges there are; writers and readers are numbered in the order of computation."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False  # attention and MLP read the same residual stream (GPT-J, NeoX)
    split: bool = True  # one reader each for a head's query, key and value; or one for the head
    positions: bool = False  # position embeddings are a writer of their own, and not part of `embed`
    beside: tuple[int, ...] = ()  # layers with a node beside their MLP, lowest first
    coupled: bool = False  # the heads of a layer go through one norm
    experts: tuple[int, ...] = ()  # how many a router chooses among, by layer, 0 for an MLP; empty: there are none
    shared_expert: bool = False  # layers with experts have one that all tokens go through

    def __post_init__(self) -> None:
        object.__setattr__(self, "beside", tuple(sorted(set(self.beside))))  # a file has a list
        object.__setattr__(self, "experts", tuple(self.experts))
        for what, least, count in (
            ("layers", 0, self.n_layers), ("heads", 1, self.n_heads), ("key/value heads", 1, self.n_kv_heads),
            *(("experts", 0, count) for count in self.experts),
        ):  # fmt: skip
            if type(count) is not int or not least <= count <= MOST:
                raise GraphError(f"a graph has from {least} to {MOST} {what}, not {str(count)[:40]}")
        if not set(self.beside) <= set(range(self.n_layers)):
            raise GraphError(f"a node stands beside layers {self.beside}, and there are {self.n_layers} layers")
        if self.experts and len(self.experts) != self.n_layers:
            raise GraphError(f"{self.n_layers} layers cannot have experts in {len(self.experts)}")
        if self.n_heads % self.n_kv_heads:
            raise GraphError(f"{self.n_heads} heads do not share {self.n_kv_heads} key/value heads evenly")

    @classmethod
    def of(cls, model: Bridge, *, split: bool = True, positions: bool = False) -> "Graph":
        """The graph of `model`; ModelError where edges would not be exact, as beside an edit that stands there."""
        config = model.cfg
        check_model(model)
        if positions and not hasattr(model, "pos_embed"):
            raise ModelError("this model adds no position embeddings, so they cannot be a writer of their own")
        heads, layers, mixed = int(config.n_heads), int(config.n_layers), mixtures(model)
        return cls(
            n_layers=layers,
            n_heads=heads,
            n_kv_heads=int(getattr(config, "n_key_value_heads", None) or heads),
            parallel=bool(getattr(config, "parallel_attn_mlp", False)),
            split=split,
            positions=positions,
            beside=tuple({*_ROOM.get(), *beside(model)}),
            coupled=coupled(model),
            experts=tuple(expert_count(mixed[i]) if i in mixed else 0 for i in range(layers)) if mixed else (),
            shared_expert=any(has_shared(mixture) for mixture in mixed.values()),
        )

    def check_is_of(self, model: Bridge) -> None:
        """GraphError for a graph of another model; a node beside an MLP may stand in any."""
        own = replace(Graph.of(model, split=self.split, positions=self.positions), beside=self.beside)
        if own != self:
            raise GraphError(
                f"these edges are of another model: they are of {self}, and this model's are of {own}; a circuit is "
                "run in the model that it was found in"
            )

    # ---- names and numbers ----

    @property
    def group(self) -> int:
        """Query heads to one key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_inputs(self) -> int:
        """Writers below the first layer: embed, and positions where they are their own."""
        return 2 if self.positions else 1

    def head_writer(self, layer: int, head: int = 0) -> int:
        """Number of the writer a{layer}.h{head}."""
        return self._starts[layer] + head

    def mlp_writers(self, layer: int) -> range:
        """Numbers of what the MLP of a layer writes: one writer m{layer}, or its experts."""
        first = self.head_writer(layer, self.n_heads)
        return range(first, first + len(self._mlp_names(layer)))

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """Number of the first writer of each layer, and of all writers."""
        layers = range(self.n_layers)
        sizes = (self.n_heads + len(self._mlp_names(layer)) + (layer in self.beside) for layer in layers)
        return tuple(accumulate(sizes, initial=self.n_inputs))

    def _mlp_names(self, layer: int) -> tuple[str, ...]:
        if not self.experts or not self.experts[layer]:
            return (f"m{layer}",)
        experts = tuple(f"m{layer}.e{expert}" for expert in range(self.experts[layer]))
        return (*experts, f"m{layer}.shared") if self.shared_expert else experts

    def beside_writer(self, layer: int) -> int:
        """Number of the writer b{layer}; there is none unless the layer is in `beside`."""
        return self.mlp_writers(layer).stop

    def below(self, reader: Reader) -> int:
        """How many writers, counted from the first, this reader can hear."""
        if reader.kind == "logits":
            return len(self.writers)
        heard = self.n_heads if self.after_attention(reader) else 0
        return self.head_writer(reader.layer, heard)

    def after_attention(self, reader: Reader) -> bool:
        """Whether a reader hears the attention of its own layer."""
        return reader.kind in ("mlp", "beside") and not self.parallel

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Names of the writers, in the order of computation."""
        inputs = ("embed", "positions")[: self.n_inputs]
        layers = [
            (
                *(f"a{layer}.h{head}" for head in range(self.n_heads)),
                *self._mlp_names(layer),
                *([f"b{layer}"] if layer in self.beside else []),
            )
            for layer in range(self.n_layers)
        ]
        return (*inputs, *(name for names in layers for name in names))

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """The readers, in the order of computation; a search walks them backwards."""
        return tuple(self._readers())

    @cached_property
    def reader_names(self) -> tuple[str, ...]:
        """Names of the readers, in the same order."""
        return tuple(reader.name for reader in self.readers)

    @cached_property
    def writer_index(self) -> dict[str, int]:
        """Number of each writer, by name."""
        return {name: place for place, name in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> dict[str, int]:
        """Number of each reader, by name."""
        return {name: place for place, name in enumerate(self.reader_names)}

    def _readers(self) -> Iterator[Reader]:
        shared: tuple[Kind, ...] = ("k", "v")
        for layer in range(self.n_layers):
            if self.split:
                yield from (Reader(f"a{layer}.h{head}.q", "q", layer, head) for head in range(self.n_heads))
                for kind in shared:
                    yield from (
                        Reader(f"a{layer}.h{head}.{kind}", kind, layer, head) for head in range(self.n_kv_heads)
                    )
            else:
                yield from (Reader(f"a{layer}.h{head}", "head", layer, head) for head in range(self.n_heads))
            yield Reader(f"m{layer}", "mlp", layer)
            if layer in self.beside:
                yield Reader(f"b{layer}", "beside", layer)
        yield Reader("logits", "logits", self.n_layers)

    # ---- structure ----

    @cached_property
    def allowed(self) -> np.ndarray:
        """Which edges exist, [writer, reader]."""
        limits = np.array([self.below(reader) for reader in self.readers])
        return np.arange(len(self.writers))[:, None] < limits[None, :]

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.allowed.sum())

    def nodes_of(self, reader: Reader) -> tuple[int, ...]:
        """Writers whose own input this is: a head, the heads of a key/value group, an MLP or its experts; none."""
        if reader.kind == "logits":
            return ()
        if reader.kind == "mlp":
            return tuple(self.mlp_writers(reader.layer))
        if reader.kind == "beside":
            return (self.beside_writer(reader.layer),)
        if reader.kind in "kv":
            first = reader.head * self.group
            return tuple(self.head_writer(reader.layer, head) for head in range(first, first + self.group))
        return (self.head_writer(reader.layer, reader.head),)

    def moved_by(self, reader: Reader) -> tuple[int, ...]:
        """Writers that change with this input: its nodes; for a head, where heads are coupled, all of its layer."""
        if self.coupled and reader.kind not in ("mlp", "logits"):
            first = self.head_writer(reader.layer)
            return tuple(range(first, first + self.n_heads))
        return self.nodes_of(reader)

    @cached_property
    def feeds(self) -> np.ndarray:
        """Whether a reader is a writer's own input, [reader, writer]."""
        table = np.zeros((len(self.readers), len(self.writers)), dtype=bool)
        for place, reader in enumerate(self.readers):
            table[place, list(self.nodes_of(reader))] = True
        return table

    @property
    def end(self) -> int:
        """The number of the logits' input."""
        return len(self.readers) - 1

    def inputs_of(self, writer: int, number: int) -> Iterable[int]:
        """The readers that are inputs of a writer, whoever hears it."""
        del number
        return map(int, np.flatnonzero(self.feeds[:, writer]))

    def alive(self, kept: np.ndarray) -> np.ndarray:
        """Which writers reach the logits over kept edges, [writer]."""
        alive = np.zeros(len(self.writers), dtype=bool)
        heard = np.zeros(len(self.readers), dtype=bool)
        for place in range(len(self.readers) - 1, -1, -1):
            nodes = self.moved_by(self.readers[place])
            heard[place] = not nodes or bool(alive[list(nodes)].any())
            if heard[place]:
                alive |= kept[:, place]
        return alive

    def fed(self, kept: np.ndarray) -> np.ndarray:
        """Which writers the inputs reach over kept edges, [writer]; embed and positions always."""
        fed = np.zeros(len(self.writers), dtype=bool)
        fed[: self.n_inputs] = True
        for place, reader in enumerate(self.readers):
            if kept[fed, place].any():
                fed[list(self.moved_by(reader))] = True
        return fed

    def pruned(self, kept: np.ndarray) -> np.ndarray:
        """Only the edges on some path from an input to the logits; exact edges that carry a constant go too."""
        fed = self.fed(kept)
        alive = self.alive(kept & fed[:, None])
        needed = np.array([not self.moved_by(r) or alive[list(self.moved_by(r))].any() for r in self.readers])
        live: np.ndarray = kept & fed[:, None] & needed[None, :]
        return live

    def full(self) -> np.ndarray:
        """Every edge kept."""
        return self.allowed.copy()

    def empty(self) -> np.ndarray:
        """No edge kept."""
        return np.zeros_like(self.allowed)

    def edge(self, name: str) -> tuple[int, int]:
        """Writer and reader of "a3.h5->m7"; GraphError if the graph has no such edge."""
        writer, arrow, reader = name.partition("->")
        if not arrow or writer not in self.writer_index or reader not in self.reader_index:
            raise GraphError(f"there is no edge {name!r} in {self}; an edge reads 'a3.h1->m7' or 'embed->logits'")
        pair = self.writer_index[writer], self.reader_index[reader]
        if not self.allowed[pair]:
            raise GraphError(f"there is no edge {name!r} in {self}: {writer} comes after {reader}")
        return pair

    def edge_name(self, writer: int, reader: int) -> str:
        """The edge in words, "a3.h5->m7"."""
        return f"{self.writers[writer]}->{self.reader_names[reader]}"

    def mask(self, names: Iterable[str]) -> np.ndarray:
        """The mask that keeps the named edges."""
        kept = self.empty()
        for name in names:
            kept[self.edge(name)] = True
        return kept

    def names(self, kept: np.ndarray) -> list[str]:
        """The names of the kept edges, in the order of computation."""
        return [self.edge_name(writer, reader) for reader, writer in np.argwhere(kept.T).tolist()]

    def described(self) -> dict[str, Any]:
        """The fields, for a file; the later ones only where they say something, so that older files have them all."""
        said = asdict(self)
        late = {"beside": list(self.beside), "coupled": self.coupled, "experts": list(self.experts)}
        late["shared_expert"] = self.shared_expert
        return {name: value for name, value in said.items() if name not in late} | {k: v for k, v in late.items() if v}

    def __str__(self) -> str:
        kind = "query/key/value split" if self.split else "heads not split"
        return f"the graph of {self.n_layers} layers and {self.n_heads} heads ({kind}, {self.n_edges} edges)"


def place_of(name: str) -> tuple[int, int | None]:
    """Layer and head of a node: (-1, None) for inputs, (l, h) for heads, (l, None) for what MLPs and experts write."""
    if found := re.fullmatch(r"a(\d+)\.h(\d+)(?:\.[qkv])?", name):
        return int(found[1]), int(found[2])
    if found := re.fullmatch(r"[mb](\d+)(?:\.e\d+|\.shared)?", name):
        return int(found[1]), None
    if name in ("embed", "positions"):
        return -1, None
    raise GraphError(f"{name!r} is no node of a circuit: there are embed, a3.h5, m7, b7 and logits")


def beside(model: Bridge) -> tuple[int, ...]:
    """The layers beside whose MLP an edit in place stands."""
    return tuple(sorted({site.layer for site, _ in standing_functions(model) if site.kind == "mlp_write"}))


@contextmanager
def room(layers: Sequence[int]) -> Iterator[None]:
    """Graphs that are made in the block have a node beside these layers' MLPs, also where nothing stands there.

    So the circuits of a model with and without an edit are cut from one graph; where nothing stands, b7 writes 0.
    """
    token = _ROOM.set(tuple(layers))
    try:
        yield
    finally:
        _ROOM.reset(token)


def check_model(model: Bridge) -> None:
    """ModelError for what has no graph: no stack of blocks with a norm after it; and for one on several devices."""
    config = model.cfg
    name = str(getattr(config, "architecture", None) or "this model")
    if spread(model):
        raise ModelError(
            "this model lies on several devices, and an edge joins parts of all of them: load it onto one for circuits "
            "(--device cuda; --dtype bfloat16 takes half the memory)"
        )
    if not hasattr(model, "blocks") or not hasattr(model, "ln_final"):
        raise ModelError(f"{name} has no stack of blocks with a norm after it, so it has no edge circuits")
