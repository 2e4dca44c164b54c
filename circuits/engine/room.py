"""What circuits hold, and whether it finds room: told before the work, with the number of prompts that would do.

A circuit's prompts run together, for the loss is their mean. What is held of them is vectors of the stream's width for
every writer and every reader, and in a backward pass what each layer computes of each row. Tests count that it is no
more than what is said here.
"""

from circuits.graph import Graph
from factscope.model.bridge import Bridge
from factscope.model.forward.at_once import count_of, fitting
from factscope.model.forward.onednn import suits

WRITTEN, READ = 3, 3  # vectors for each writer and each reader: scores want both ends and their difference, in float32
STATES, HIDDEN, INPUTS, SCORES = 10, 5, 3, 4  # a layer's in a backward pass: of the stream, the MLP, each reader, heads


def check_state(model: Bridge, graph: Graph, rows: int, positions: int) -> None:
    """ModelError where what all readers hear and all writers write in these prompts finds no room."""
    _fitting(model, 1, _of_nodes(model, graph, positions), 0, rows, f"the states of {_prompts(rows, positions)}")


def points_at_once(model: Bridge, graph: Graph, rows: int, positions: int, copies: int, most: int) -> int:
    """At how many of `most` points gradients are taken in one pass; ModelError where not even one finds room.

    A prompt is run as `copies` rows.
    """
    cfg, size = model.cfg, int(model.cfg.dtype.itemsize)
    hidden = int(getattr(cfg, "d_mlp", None) or 4 * int(cfg.d_model))
    vectors = (STATES + INPUTS * (graph.n_heads + 2 * graph.n_kv_heads)) * int(cfg.d_model) + HIDDEN * hidden
    layer = positions * (size * vectors + 4 * SCORES * graph.n_heads * positions)
    each, nodes = copies * graph.n_layers * layer, _of_nodes(model, graph, positions)
    return _fitting(model, most, each, nodes, rows, f"the gradients of {_prompts(rows, positions)}")


def check_copies(model: Bridge) -> None:
    """ModelError where the copies that `packed` makes of the MLPs and the unembedding find no room."""
    parts = (*(block.mlp for block in model.blocks), model.unembed)
    each = sum(4 * one.numel() for part in parts for one in part.parameters() if one.ndim == 2 and suits(one))
    if each:
        fitting(model, 1, each, "copies of the MLPs and the unembedding, laid out for this processor,")


def _of_nodes(model: Bridge, graph: Graph, positions: int) -> int:
    vectors = WRITTEN * len(graph.writers) + READ * len(graph.readers)
    return vectors * positions * int(model.cfg.d_model) * max(4, int(model.cfg.dtype.itemsize))


def _prompts(rows: int, positions: int) -> str:
    return f"{rows} prompt{'s' * (rows > 1)} of {positions} tokens"


def _fitting(model: Bridge, most: int, each: int, beside: int, rows: int, what: str) -> int:
    """`fitting` of what each prompt holds, with the number of prompts that would find room as the remedy."""
    fewer = count_of(model, each + beside, rows - 1)
    return fitting(model, most, rows * each, what, f"--limit {fewer} would do" if fewer else "", rows * beside)
