"""Maps of edited weights as a page and in words; numbers in, specs out."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from editing.edit import Edit
from editing.weights.maps import READ_AS, MatrixMap, WeightMaps
from editing.weights.sparsity import column_energy, concentration, row_energy
from factscope.model.weights import MLP_OUT, PROJECTIONS, WeightName
from factscope.plots.labels import four_digits, numbers_in_words
from factscope.plots.specs import Cell, Curves, Heatmap, Page, Section, Series, Spec, Table, Text
from factscope.results.provenance import provenance

DRAWN = 12  # matrices whose picture a page has
WITHIN = (1, 10, 50)
THIN = 5  # matrices, or edits, of one figure
FEW = 0.1  # of a matrix's rows: an edit that changes no more moves neurons that can be named
NAMED = 30  # neurons of a table


def page(maps: WeightMaps) -> Page:
    """Where each edit changes the weights, how sparsely, and what the change says in words."""
    several = len({one.edit for one in maps.matrices}) > 1
    sections = [
        Section("What was found", tuple(Text(f"{line}.") for line in words(maps))),
        Section(
            "Where",
            (*_by_layer(maps), *_pictures(maps.matrices[:DRAWN])),
            "Rows are what a matrix reads, columns what it writes. A down-projection's row is what one hidden neuron "
            "writes, which the survey of editing calls a column of the value layer.",
        ),
        Section("How sparsely", (_rank(maps), _sparsity(maps))),
    ]
    if maps.ranks:
        sections.append(Section("In words", (*((_hits(maps),) if several else ()), _ranks(maps)), IN_WORDS))
    if maps.run is not None:
        edits = ", ".join(dict.fromkeys(one.edit[:12] for one in maps.matrices))
        card = provenance(maps.run, ("edits", edits))
        sections.append(Section("What was run", (card,)))
    return Page("Weights under edits", tuple(sections), f"{maps.model}, {', '.join(_methods(maps))}")


IN_WORDS = (
    "The five rows that change most are unembedded as a state would be, before the edit and after it, and so are the "
    "five strongest directions of the change, at both ends. A rank is the best of the five, of the first token at "
    "which the two answers differ; 1 is the top of the vocabulary."
)


def words(maps: WeightMaps) -> list[str]:
    """A line a method: how many matrices, how large, how sparse; and where the target stands in what they say."""
    said = []
    for method in _methods(maps):
        own = [one for one in maps.matrices if one.method == method]
        layers = sorted({WeightName.of(one.weight).layer for one in own})
        parts = ", ".join(dict.fromkeys(WeightName.of(one.weight).part.partition(".")[2] for one in own))
        top = _between([one.rows.percent for one in own], "{:.0%}")
        ranks = _between([one.rank for one in own], "{}")
        where = f"{parts} of layer{'s' if len(layers) > 1 else ''} {numbers_in_words(layers)}"
        if not any(one.rank for one in own):
            said.append(f"{method} changes nothing in {where}: what it writes is zero")
            continue
        size, few = _between([one.norm for one in own], "{:.2%}"), _between([one.half for one in own], "{:.1%}")
        line = (
            f"{method} changes {where} by {size} of the norm, rank {ranks}; the largest 1 % of rows hold {top} of the "
            f"change, and half of it is in {few} of all entries"
        )
        found = [maps.hit(method, "target", read_as, 10) for read_as in READ_AS]
        if not np.isnan(found[0]):
            line += (
                f"; the target is among the ten first words of its five largest rows in {found[0]:.0%} before, "
                f"{found[1]:.0%} after, and of its directions in {found[2]:.0%}"
            )
        said.append(line)
    return said


def summary(maps: WeightMaps) -> dict[str, Any]:
    """The numbers of every matrix, and the ranks, for a program."""
    return {"model": maps.model, "matrices": records(maps), "ranks": [asdict(one) for one in maps.ranks]}


def records(maps: WeightMaps) -> list[dict[str, Any]]:
    """A row a matrix: where it is, how much of it changes, and how sparsely."""
    return [
        {
            **{name: getattr(one, name) for name in ("edit", "method", "weight", "norm", "rank", "effective_rank")},
            "changed": one.changed,
            "half": one.half,
            **{f"rows_{name}": value for name, value in asdict(one.rows).items()},
            **{f"columns_{name}": value for name, value in asdict(one.columns).items()},
        }
        for one in maps.matrices
    ]


def inside(edits: Sequence[Edit]) -> tuple[Spec, ...]:
    """What edits in the weights look like inside: which neurons they move, where these are few, and thin factors."""
    return (*neurons(edits), *factors(edits))


def factors(edits: Sequence[Edit]) -> tuple[Curves, ...]:
    """How edits of low rank are spread over rows and columns of their matrices; of edits of another kind, nothing."""
    thin = [(edit, delta) for edit in edits for delta in edit.deltas if delta.low_rank][:THIN]
    if not thin:
        return ()
    share = np.linspace(0.0, 1.0, 101)
    series = []
    for edit, delta in thin:
        name = delta.weight.removeprefix("blocks.")
        name = f"{edit.name[:6]}: {name}" if len(edits) > 1 else name
        for side, energy in (("rows", row_energy(delta)), ("columns", column_energy(delta))):
            held = np.concatenate([[0.0], concentration(energy).numpy()])
            drawn = np.interp(share, np.linspace(0.0, 1.0, len(held)), held)
            series.append(Series(f"{name}, {side}", drawn))
    note = (
        "Share of ||dW||² in the largest rows (what is read) and columns (what is written), read from the two factors. "
        "A change that is spread evenly is the diagonal; one that steps up at the left lies in few of them."
    )
    return (
        Curves("How sparse the factors are", share, tuple(series), "share of rows or columns", (), "share", note=note),
    )


def neurons(edits: Sequence[Edit]) -> tuple[Spec, ...]:
    """The neurons that edits of few rows move, by layer and one by one; nothing where an edit changes many rows.

    A row of a down-projection is what one neuron writes, and dw its change by all facts of the edit together.
    """
    moved = {edit.name: _moved(edit) for edit in edits}
    found = [edit for edit in edits if moved[edit.name]]
    if not found:
        return ()
    several = len(edits) > 1
    layers = np.arange(max(max(edit.layers) for edit in found) + 1)
    counts = {
        edit.name: np.bincount([layer for layer, _, _ in moved[edit.name]], minlength=len(layers)) for edit in found
    }
    series = tuple(Series(f"{edit.method} {edit.name[:6]}", counts[edit.name].astype(float)) for edit in found[:THIN])
    told = sorted(((edit, *one) for edit in found for one in moved[edit.name]), key=lambda one: -one[3])
    whole = {edit.name: sum(size**2 for _, _, size in moved[edit.name]) for edit in found}
    rows = tuple(
        (
            *((edit.name[:6],) if several else ()),
            layer,
            number,
            four_digits(size),
            round(size**2 / whole[edit.name], 3),
        )
        for edit, layer, number, size in told[:NAMED]
    )
    note = "A row of a down-projection is what one neuron writes; dw is its change, by all facts of an edit together."
    if len(told) > NAMED:
        note += f" The {NAMED} that move furthest, of {len(told)}."
    columns = (*(("edit",) if several else ()), "layer", "neuron", "‖dw‖", "share of ‖dW‖²")
    return (
        Curves("Neurons by layer", layers, series, "layer", (), "neurons that are changed"),
        Table("Neurons that are changed", columns, rows, note),
    )


def _moved(edit: Edit) -> list[tuple[int, int, float]]:
    """Layer, number and ||dw|| of each neuron that an edit moves; empty unless all it changes is few rows of W_out."""
    found = []
    if not all(delta.low_rank for delta in edit.deltas):
        return []
    for delta in edit.deltas:
        name, energy = WeightName.of(delta.weight), row_energy(delta)
        rows = energy.nonzero()[:, 0].tolist()
        if name.part != MLP_OUT or len(rows) > FEW * len(energy):
            return []
        found += [(name.layer, row, float(energy[row].sqrt())) for row in rows]
    return found


def _methods(maps: WeightMaps) -> list[str]:
    return list(dict.fromkeys(one.method for one in maps.matrices))


def _between(values: list[Any], form: str) -> str:
    """One number, or the smallest and the largest."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _by_layer(maps: WeightMaps) -> list[Heatmap]:
    """||dW|| / ||W|| by layer and matrix, the mean over a method's edits; every method on one scale."""
    parts, drawn = list(PROJECTIONS), []
    for method in _methods(maps):
        grid = np.full((maps.n_layers, len(parts)), np.nan)
        own = [one for one in maps.matrices if one.method == method]
        for name in dict.fromkeys(one.weight for one in own):
            weight = WeightName.of(name)
            grid[weight.layer, parts.index(weight.part)] = np.mean([one.norm for one in own if one.weight == name])
        drawn.append(grid)
    used = [column for column in range(len(parts)) if any(np.isfinite(grid[:, column]).any() for grid in drawn)]
    top = max(float(np.nanmax(grid)) for grid in drawn)
    names = tuple(parts[column].partition(".")[2] for column in used)
    layers = tuple(map(str, range(maps.n_layers)))
    return [
        Heatmap(
            f"{method}: size of the change",
            grid[:, used],
            layers,
            names,
            column_title="matrix",
            value_title="||dW|| / ||W||",
            limits=(0.0, top),
        )
        for method, grid in zip(_methods(maps), drawn, strict=True)
    ]


def _pictures(matrices: Sequence[MatrixMap]) -> list[Heatmap]:
    """|dW|, block by block, as a multiple of its mean size; all on one scale, so that sparse and even can be told."""
    blocks = [one.blocks.numpy() / (float(one.blocks.square().mean().sqrt()) or 1.0) for one in matrices]
    top = max(float(each.max()) for each in blocks)
    return [_picture(one, each, top) for one, each in zip(matrices, blocks, strict=True)]


def _picture(one: MatrixMap, blocks: np.ndarray, top: float) -> Heatmap:
    labels = [
        tuple(f"{begin}" for begin in np.linspace(0, size, count, endpoint=False).round().astype(int))
        for size, count in zip(one.shape, blocks.shape, strict=True)
    ]
    return Heatmap(
        f"{one.method} {one.edit[:6]}: {one.weight}",
        blocks,
        labels[0],
        labels[1],
        row_title="row (read)",
        column_title="column (written)",
        value_title="|dW|",
        unit="times its root mean square",
        limits=(0.0, top),
        note="Root mean square of blocks of entries; a label is a block's first row or column.",
    )


def _rank(maps: WeightMaps) -> Table:
    """How large the change of each matrix is, and of how many dimensions."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (one.edit[:6], one.method, one.weight, round(100 * one.norm, 3), one.rank, round(one.effective_rank, 2),
         round(100 * one.changed, 2), round(100 * one.half, 2))
        for one in maps.matrices
    )  # fmt: skip
    note = (
        "|dW| / |W|: Frobenius norm of the change beside the matrix's. Entries changed: those that are another number "
        "in the model's own precision; a change of rank 1 moves nearly all of them, each by a little. Half in: the "
        "fewest entries that hold half of ||dW||² (about 10 % for entries drawn from a normal distribution)."
    )
    columns = (
        "edit",
        "method",
        "weight",
        "|dW| / |W|, %",
        "rank",
        "effective rank",
        "entries changed, %",
        "half in, %",
    )
    return Table("Size and rank", columns, rows, note)


def _sparsity(maps: WeightMaps) -> Table:
    """How much of each matrix's change its largest rows and columns hold."""
    names = (f"{side}, {name}" for side in ("rows", "columns") for name in ("largest 1", "largest 5", "largest 1 %"))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (one.edit[:6], one.weight,
         *(round(100 * v, 2) for spread in (one.rows, one.columns) for v in (spread.one, spread.five, spread.percent)))
        for one in maps.matrices
    )  # fmt: skip
    note = "Per cent of ||dW||² in the largest rows (what is read) and columns (what is written)."
    return Table("Rows and columns", ("edit", "weight", *names), rows, note)


def _hits(maps: WeightMaps) -> Table:
    columns = ("method", "answer", "read as", *(f"Hit@{within}" for within in WITHIN), "n")
    rows = []
    for method in _methods(maps):
        for answer in ("target", "old"):
            for read_as in READ_AS:
                n = sum((r.method, r.answer, r.read_as) == (method, answer, read_as) for r in maps.ranks)
                if n:
                    hits = (round(maps.hit(method, answer, read_as, within), 3) for within in WITHIN)
                    rows.append((method, answer, read_as, *hits, n))
    return Table(
        "Hits", columns, tuple(rows), "Share of facts and matrices in which the answer is within so many ranks."
    )


def _ranks(maps: WeightMaps) -> Table:
    place = {(r.edit, r.weight, r.fact, r.answer, r.read_as): r.rank for r in maps.ranks}
    seen = dict.fromkeys((r.edit, r.method, r.weight, r.fact, r.answer, r.token) for r in maps.ranks)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (edit[:6], method, weight, fact, answer, token,
         *(place[edit, weight, fact, answer, read_as] for read_as in READ_AS))
        for edit, method, weight, fact, answer, token in seen
    )  # fmt: skip
    return Table("Ranks", ("edit", "method", "weight", "fact", "answer", "token", *READ_AS), rows[:500])
