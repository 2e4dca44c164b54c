"""How many cells of a grid run at once: as many as is fast, and no more than find room in the memory that is free.

A cell is some rows of a prompt, which run from some position on and whose last one is unembedded. On two cores nothing
is gained beyond `FAST` positions, and with the memory that machines have this is what decides; only where less is free
do fewer cells run together. Their numbers differ by the rounding of a sum that is taken in another order, and by no
more.

What is held of a position that runs is taken as `STATES` vectors of the stream's width and `HIDDEN` of the MLP's, of
every position's keys and values as `KEYS` vectors, and of an answer as `LOGITS` rows of the vocabulary in float32; a
test counts that it is no more.
"""

from factscope.errors import ModelError
from factscope.model.bridge import Bridge, device
from factscope.model.source.room import free

FAST = {"cpu": 2048, "cuda": 65536}  # positions that run at once
STATES, HIDDEN, KEYS, LOGITS = 12, 3, 6, 4
SHARE = 0.8  # of the free memory


def cells_at_once(model: Bridge, rows: int, length: int, begin: int, asked: int = 0) -> int:
    """How many cells of `rows` rows of `length` tokens run at once from position `begin` on.

    `asked` positions stand in the place of `FAST`.

    Raises ModelError where not even one finds room.
    """
    place = device(model)
    most = max(1, (asked or FAST.get(place.type, FAST["cpu"])) // (rows * (length - begin)))
    room = free(str(place))
    if room is None:
        return most
    fit = int(SHARE * room / bytes_of(model, rows, length, begin))
    if fit < 1:
        each = bytes_of(model, 1, length, begin)
        fewer = int(SHARE * room / each)
        remedy = f"--samples {fewer} would do" if fewer else "use --device cpu, --dtype bfloat16 or a smaller model"
        raise ModelError(
            f"{rows} rows of {length} tokens need {rows * each / 1e9:.2g} GB beside the model, and "
            f"{room / 1e9:.2g} are free on {place}: {remedy}"
        )
    return min(most, fit)


def bytes_of(model: Bridge, rows: int, length: int, begin: int) -> int:
    """Bytes that a cell holds at its highest, at most."""
    width, size = int(model.cfg.d_model), int(model.cfg.dtype.itemsize)
    state = size * (STATES * width + HIDDEN * int(getattr(model.cfg, "d_mlp", None) or 4 * width))
    return rows * ((length - begin) * state + length * size * KEYS * width + 4 * LOGITS * int(model.cfg.d_vocab))
