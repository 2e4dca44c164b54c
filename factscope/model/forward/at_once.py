"""How many pieces of a grid run at once: as many as is fast, and no more than find room in the memory that is free.

Cells of a trace, rows of texts, points of a gradient, facts of a descent: more of them at once are faster up to some
number that is known for each, and with the memory that machines have this number decides. Only where less is free do
fewer run together. Their numbers differ by the rounding of a sum that is taken in another order, and by no more. Where
not even one finds room, that is told before the work, with the setting that would do.

A cell is some rows of a prompt, which run from some position on and whose last one is unembedded. What is held of a
position that runs is taken as `STATES` vectors of the stream's width and `HIDDEN` of the MLP's, of every position's
keys and values as `KEYS` vectors, of what attends to what as `SCORES` numbers in float32, and of an answer as `LOGITS`
rows of the vocabulary in float32; a test counts that it is no more.

Where slopes go back through a pass, its graph holds of each layer what every position computed: `SLOPE_STATES` vectors
of the stream's width, `SLOPE_HIDDEN` of the MLP's and `SLOPE_SCORES` numbers of attention, and of an answer
`SLOPE_LOGITS` rows of the vocabulary, in float32 whatever the model's type is. Tests count that it is no more.
"""

from collections.abc import Callable, Iterable, Iterator

from factscope.errors import ModelError
from factscope.model.bridge import Bridge, device
from factscope.model.forward.widened import WIDE
from factscope.model.source.room import counting, free, kind_of

FAST = {"cpu": 2048, "cuda": 65536}  # positions that run at once
STATES, HIDDEN, KEYS, SCORES, LOGITS = 12, 3, 6, 4, 4
SLOPE_STATES, SLOPE_HIDDEN, SLOPE_SCORES, SLOPE_LOGITS = 14, 6, 4, 5
SHARE = 0.8  # of the free memory


def fitting(model: Bridge, most: int, each: int, what: str, remedy: str = "", beside: int = 0) -> int:
    """How many of `most` pieces of `each` bytes run at once where the model is, with `beside` bytes held anyway.

    Raises ModelError where not even one finds room: `what` (a plural) needs it, and `remedy` would do; else what always
    helps is named. Work that is only counted is counted with one piece.
    """
    fit = count_of(model, each, most, beside)
    if fit < 1 and not counting():
        place = device(model)
        usable = SHARE * (free(str(place)) or 0)
        raise ModelError(
            f"{what} need {(each + beside) / 1e9:.2g} GB beside the model, and {usable / 1e9:.2g}, {SHARE:.0%} of what "
            f"is free on {place}, may be taken: {remedy or smaller(model)}"
        )
    return max(1, fit)


def parted(
    model: Bridge, batches: Iterable[list[int]], need: Callable[[list[int]], tuple[int, str] | tuple[int, str, str]]
) -> Iterator[list[int]]:
    """The batches of rows, each in as many parts as find room; `need` gives what `fitting` asks: bytes of a row, what.

    Raises ModelError where not one row finds room.
    """
    for batch in batches:
        size = fitting(model, len(batch), *need(batch))
        yield from (batch[i : i + size] for i in range(0, len(batch), size))


def count_of(model: Bridge, each: int, most: int, beside: int = 0) -> int:
    """How many of `most` pieces find room where the model is, none included; all where the system does not say."""
    room = free(str(device(model)))
    return most if room is None else min(most, max(0, int((SHARE * room - beside) / each)))


def smaller(model: Bridge) -> str:
    """What leaves more memory free, whatever is done."""
    device_ = "" if kind_of(device(model)) == "cpu" else "--device cpu, "
    narrow = "--dtype bfloat16 or " if int(model.cfg.dtype.itemsize) > 2 else ""
    return f"use {device_}{narrow}a smaller model"


def cells_at_once(model: Bridge, rows: int, length: int, begin: int, asked: int = 0) -> int:
    """How many cells of `rows` rows of `length` tokens run at once from position `begin` on.

    `asked` positions stand in the place of `FAST`.

    Raises ModelError where not even one finds room.
    """
    most = max(1, (asked or FAST.get(kind_of(device(model)), FAST["cpu"])) // (rows * (length - begin)))
    each = bytes_of(model, 1, length, begin)
    fewer = count_of(model, each, rows - 1)
    remedy = f"--samples {fewer} would do" if fewer else ""
    return fitting(model, most, rows * each, f"{rows} rows of {length} tokens", remedy)


def bytes_of(model: Bridge, rows: int, length: int, begin: int, answers: int = 1) -> int:
    """Bytes that a cell holds at its highest, at most; `answers` positions of each row are unembedded."""
    width, size, run = int(model.cfg.d_model), int(model.cfg.dtype.itemsize), length - begin
    state = size * (STATES * width + HIDDEN * int(getattr(model.cfg, "d_mlp", None) or 4 * width))
    attending = 4 * SCORES * int(model.cfg.n_heads) * run * length
    return rows * (
        run * state + attending + length * size * KEYS * width + 4 * LOGITS * answers * int(model.cfg.d_vocab)
    )


def slope_bytes(model: Bridge, layers: int, run: int, before: int, answers: int) -> int:
    """Bytes that a row's graph holds at most, of so many layers, where `run` positions after `before` others run.

    `answers` of the positions are unembedded.
    """
    width, heads = int(model.cfg.d_model), int(model.cfg.n_heads)
    state = SLOPE_STATES * width + SLOPE_HIDDEN * int(getattr(model.cfg, "d_mlp", None) or 4 * width)
    attending = SLOPE_SCORES * heads * run * (before + run)
    return WIDE.itemsize * (layers * (run * state + attending) + SLOPE_LOGITS * answers * int(model.cfg.d_vocab))


def check_slopes(model: Bridge, layer: int, rows: int, length: int, answers: int, facts: int = 1) -> None:
    """ModelError where the graph of `rows` texts from a layer on, which run together, finds no room.

    Each has at most `length` tokens, `answers` of them asked for. With several `facts`, the number of them that would
    do is named.
    """
    each = slope_bytes(model, len(model.blocks) - layer, length, 0, answers)
    fewer = count_of(model, -(-rows // facts) * each, facts - 1)
    what = f"the gradients of {rows} texts of {length} tokens" if rows > 1 else f"the gradients of {length} tokens"
    fitting(model, 1, rows * each, what, f"--limit {fewer} would do" if fewer else "")
