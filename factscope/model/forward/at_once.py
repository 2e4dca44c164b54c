"""How many pieces of a grid run at once: as many as is fast, and no more than find room in the memory that is free.

Cells of a trace, rows of texts, points of a gradient, facts of a descent: more of them at once are faster up to some
number that is known for each, and with the memory that machines have this number decides. Only where less is free do
fewer run together. Their numbers differ by the rounding of a sum that is taken in another order, and by no more. Where
not even one finds room, that is told before the work, with the setting that would do.

A cell is some rows of a prompt, which run from some position on and whose last one is unembedded. What is held of a
position that runs is taken as `STATES` vectors of the stream's width and `HIDDEN` of the MLP's, of every position's
keys and values as `KEYS` vectors, of what attends to what as `SCORES` numbers in float32, and of an answer as `LOGITS`
rows of the vocabulary in float32; a test counts that it is no more.
"""

from factscope.errors import ModelError
from factscope.model.bridge import Bridge, device
from factscope.model.source.room import counting, free, kind_of

FAST = {"cpu": 2048, "cuda": 65536}  # positions that run at once
STATES, HIDDEN, KEYS, SCORES, LOGITS = 12, 3, 6, 4, 4
SHARE = 0.8  # of the free memory


def fitting(model: Bridge, most: int, each: int, what: str, remedy: str = "", beside: int = 0) -> int:
    """How many of `most` pieces of `each` bytes run at once where the model is, with `beside` bytes held anyway.

    Raises ModelError where not even one finds room: `what` (a plural) needs it, and `remedy` would do; else what always
    helps is named. Work that is only counted is counted with one piece.
    """
    fit = count_of(model, each, most, beside)
    if fit < 1 and not counting():
        place = device(model)
        raise ModelError(
            f"{what} need {(each + beside) / 1e9:.2g} GB beside the model, and {(free(str(place)) or 0) / 1e9:.2g} are "
            f"free on {place}: {remedy or smaller(model)}"
        )
    return max(1, fit)


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
