"""Causal tracing: corrupt the subject, restore one state, and see how much of the answer comes back.

Meng et al. 2022 (ROME), section 2. The clean run and the corrupted runs go through the model once, as rows of one
batch. Then, for each cell (kind, layer, token), the corrupted runs are continued with that one state set to its clean
value. A window restores the MLP or attention outputs of several layers around the cell's, ten by default: layers
l - w//2 up to but not including l + (w+1)//2, cut off at both ends, as in ROME's code.

Two engines give the same numbers. `reference` runs the whole model for every cell, by hooks alone: it is the
definition. `fast` runs the blocks above the restored layer on the positions from the restored one on (`workbench.tail`)
and batches cells: a batch climbs through the layers and takes new cells in where they begin.

Severed runs restore a residual state while every later MLP (or attention) output of that token is held at its corrupted
value, with the same noise draw. (ROME's notebook holds them at the values of a second, different draw.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tracing import corrupt
from tracing.corrupt import Corruption
from tracing.results import KINDS, WINDOWED, Grid, TraceResult
from workbench.errors import NoGap, UserError
from workbench.hooks import Patch, patched, record
from workbench.metrics import Metric, Target, metric, probability
from workbench.models import device
from workbench.progress import Advance
from workbench.prompts import Prompt, with_answer_ids
from workbench.run import Run, stopwatch
from workbench.sites import Site
from workbench.tail import Frame, KeysValues, embed

SEVERED = {"severed_mlp": "mlp", "severed_attn": "attn"}


@dataclass(frozen=True)
class Config:
    """How to trace; defaults are ROME's."""

    sites: tuple[str, ...] = ("resid", "mlp", "attn")
    corruption: str = "noise"  # or "swap"
    samples: int = 10
    noise: float = 3.0  # standard deviations of the subjects' embeddings
    noise_level: float | None = None  # the level itself, instead of a multiple
    swaps: tuple[str, ...] = ()  # subjects to swap in; none: others of the same relation
    window: int = 10  # layers, for mlp and attn
    metric: str = "probability"
    seed: int = 1  # ROME's
    engine: str = "fast"  # or "reference"
    chunk_tokens: int = field(default=0)  # positions run at once; 0: 512 on a CPU (caches), 65536 on a GPU

    def __post_init__(self) -> None:
        for kind in self.sites:
            if kind not in KINDS:
                raise UserError(f"there is no site {kind!r}; choose among {', '.join(KINDS)}")
        choices = {"corruption": ("noise", "swap"), "engine": ("fast", "reference")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} cannot be {getattr(self, name)!r}; choose {' or '.join(allowed)}")
        if not self.sites:
            raise UserError("no site to restore at; choose among " + ", ".join(KINDS))
        if self.samples < 1 or self.window < 1:
            raise UserError(f"samples ({self.samples}) and window ({self.window}) must be at least 1")
        metric(self.metric)


def trace(
    model: Any,
    prompt: Prompt,
    config: Config = Config(),
    *,
    corruption: Corruption | None = None,
    advance: Advance = lambda _: None,
) -> TraceResult:
    """Trace `prompt`. Without an answer, the model's own most probable next token is traced, as in ROME.

    `corruption` replaces the one that `config` describes; `advance` is told of finished cells (`cells_of` counts them).

    Raises NoGap if the corruption does not hurt the answer.
    """
    with torch.no_grad(), stopwatch() as seconds:
        runs = Runs.of(model, prompt, config, corruption)
        prompt, total = runs.prompt, runs.toward * (runs.clean - runs.corrupted).mean()
        if not total > 1e-6:
            raise NoGap(
                f"corrupting {prompt.subject!r} does not hurt the answer {prompt.answer!r}: {config.metric} "
                f"{runs.clean.mean():.4g} clean, {runs.corrupted.mean():.4g} corrupted, so there is nothing to restore; "
                "trace another answer, or corrupt more (--set noise=5)"
            )
        engine = _fast if config.engine == "fast" else _reference
        grids = tuple(_grid(runs, kind, config, engine, advance) for kind in config.sites)
    measured = Run.of(model, config.seed).ended(seconds[0])
    return TraceResult(
        prompt=prompt,
        settings=asdict(config),
        metric=config.metric,
        unit=metric(config.metric).unit,
        toward=runs.toward,
        clean=runs.clean.cpu(),
        corrupted=runs.corrupted.cpu(),
        clean_probability=float(probability(runs.clean_logits, runs.targets[0])),
        corrupted_probability=float(probability(runs.corrupted_logits, runs.targets[0]).mean()),
        predicted=model.tokenizer.decode([int(runs.clean_logits.argmax())]),
        noise_level=runs.corruption.level,
        swapped=runs.corruption.subjects,
        grids=grids,
        run=measured,
    )


def cells_of(model: Any, prompt: Prompt, config: Config) -> int:
    """How many cells a trace computes: those from the subject's first token on."""
    positions = len(prompt.tokens) - prompt.subject_span[0]
    heads = {"head": model.cfg.n_heads}
    return sum(positions * model.cfg.n_layers * heads.get(kind, 1) for kind in config.sites)


# ---- cells ----


@dataclass(frozen=True)
class Cell:
    """One restoration: at `position`, the clean output of `site` in `layers`; with `severed`, later ones held."""

    kind: str
    index: tuple[int, ...]  # where it belongs in the grid, without the position
    position: int
    site: str  # resid, mlp, attn or head
    layers: range
    head: int | None = None
    severed: str | None = None  # "mlp" or "attn"


def window_of(layer: int, width: int, n_layers: int) -> range:
    """The layers that a window around `layer` restores (ROME's rule)."""
    return range(max(0, layer - width // 2), min(n_layers, layer - (-width // 2)))


def _cells(runs: "Runs", kind: str, config: Config, position: int) -> list[Cell]:
    layers = runs.frame.model.cfg.n_layers
    if kind == "head":
        heads = runs.frame.model.cfg.n_heads
        return [Cell(kind, (i, h), position, "head", range(i, i + 1), h) for i in range(layers) for h in range(heads)]
    site = kind if kind in WINDOWED else "resid"
    width = config.window if kind in WINDOWED else 1
    return [
        Cell(kind, (i,), position, site, window_of(i, width, layers), severed=SEVERED.get(kind)) for i in range(layers)
    ]


Engine = Callable[["Runs", Sequence[Cell], Config], Iterator[tuple[Cell, Tensor]]]


def _grid(runs: "Runs", kind: str, config: Config, engine: Engine, advance: Advance) -> Grid:
    cfg = runs.frame.model.cfg
    positions = len(runs.prompt.tokens)
    shape = (cfg.n_layers, cfg.n_heads, positions) if kind == "head" else (cfg.n_layers, positions)
    effect, error = torch.zeros(shape), torch.zeros(shape)
    # Before the subject nothing differs between the clean and the corrupted runs: those effects are exactly zero.
    for position in range(runs.prompt.subject_span[0], positions):
        for cell, measured in engine(runs, _cells(runs, kind, config, position), config):
            gains = runs.toward * (measured - runs.corrupted)
            effect[(*cell.index, position)] = gains.mean()
            error[(*cell.index, position)] = gains.std() / len(gains) ** 0.5 if len(gains) > 1 else 0.0
            advance(1)
    return Grid(kind, effect, error)


# ---- the runs that every cell shares ----


@dataclass(frozen=True, eq=False)
class Runs:
    """The clean and corrupted runs, with what restoring needs of them. Row 0 of `tokens` is clean."""

    prompt: Prompt
    frame: Frame
    corruption: Corruption
    metric: Metric
    targets: tuple[Target, ...]  # one per sample
    before: list[Float[Tensor, "row pos d_model"]]  # residual stream entering each block, and after the last
    kept: list[KeysValues]  # keys and values of the corrupted rows
    outputs: dict[Site, Float[Tensor, "row pos *out"]]  # what blocks added, where a kind asks for it
    clean_logits: Float[Tensor, "vocab"]
    corrupted_logits: Float[Tensor, "sample vocab"]
    clean: Float[Tensor, "sample"]
    corrupted: Float[Tensor, "sample"]

    @property
    def toward(self) -> int:
        """The metric's good direction."""
        return self.metric.toward

    @classmethod
    def of(cls, model: Any, prompt: Prompt, config: Config, corruption: Corruption | None) -> "Runs":
        """Run clean and corrupted rows once, from the embeddings up."""
        frame = Frame.of(model, prompt.tensor(device(model)))
        if not prompt.answer_ids:
            first = int(model(prompt.tensor(device(model)))[0, -1].argmax())
            prompt = with_answer_ids(model, prompt, [first], "the model's own prediction")
        corruption = corruption or _corruption(model, prompt, config)
        tokens = torch.cat([prompt.tensor(device(model)), corruption.tokens])
        with patched(model, corruption.patches(prompt, 1)):
            resid = embed(model, tokens)
        wanted = {
            site for kind in config.sites for site in (SEVERED.get(kind), kind) if site in ("mlp", "attn", "head")
        }
        before, kept, outputs = [resid], [], {}
        for layer in range(model.cfg.n_layers):
            sites = [Site(kind, layer) for kind in sorted(wanted)]
            with record(model, sites) as seen:
                resid, (keys, values) = frame.recording_block(layer, resid)
            outputs.update(seen)
            before.append(resid)
            kept.append((keys[1:], values[1:]))
        logits = frame.logits(resid[:, -1])
        targets = _targets(prompt, corruption, logits[0])
        measure = metric(config.metric)
        if config.metric == "logit_difference" and any(target.foil is None for target in targets):
            raise UserError("the logit difference needs a wrong answer to compare with: give one with --foil")
        return cls(
            prompt,
            frame,
            corruption,
            measure,
            targets,
            before,
            kept,
            outputs,
            logits[0],
            logits[1:],
            torch.stack([measure(logits[0], target) for target in targets]),
            torch.stack([measure(row, target) for row, target in zip(logits[1:], targets, strict=True)]),
        )

    def measured(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "cell sample"]:
        """The metric of rows laid out cell by cell, sample by sample, each against its own target."""
        grouped = logits.unflatten(0, (-1, len(self.targets)))
        if all(target.foil == self.targets[0].foil for target in self.targets):
            return self.metric(grouped, self.targets[0])
        return torch.stack([self.metric(grouped[:, i], target) for i, target in enumerate(self.targets)], 1)


def _corruption(model: Any, prompt: Prompt, config: Config) -> Corruption:
    if config.corruption == "swap":
        return corrupt.swap(model, prompt, config.samples, config.seed, config.swaps)
    return corrupt.noise(model, prompt, config.samples, config.noise, config.seed, config.noise_level)


def _targets(prompt: Prompt, corruption: Corruption, clean: Tensor) -> tuple[Target, ...]:
    """Each sample's target: with a foil of the prompt's own, else that of its counterfactual subject."""
    own = prompt.foil_ids[0] if prompt.foil_ids else None
    return tuple(Target(prompt.answer_ids[0], own if own is not None else foil, clean) for foil in corruption.foils)


# ---- the two engines ----


def _reference(runs: Runs, cells: Sequence[Cell], config: Config) -> Iterator[tuple[Cell, Tensor]]:
    """One forward pass of the whole model for each cell, clean row included, by hooks alone."""
    model, corruption = runs.frame.model, runs.corruption
    tokens = torch.cat([runs.prompt.tensor(device(model)), corruption.tokens])
    noising = corruption.patches(runs.prompt, 1)
    layers = range(model.cfg.n_layers)
    for cell in cells:
        patches = list(noising)
        if cell.severed:
            with patched(model, noising), record(model, [Site(cell.severed, i) for i in layers]) as ordinary:
                model(tokens)
            patches += [
                Patch(site, value[1:, cell.position : cell.position + 1], slice(1, None), [cell.position])
                for site, value in ordinary.items()
            ]
        patches += [Patch(Site(cell.site, i, cell.head), _first_row, positions=[cell.position]) for i in cell.layers]
        with patched(model, patches):
            logits = model(tokens)[1:, -1]
        yield cell, runs.measured(logits)[0]


def _first_row(activations: Tensor) -> Tensor:
    return activations[:1].expand_as(activations)


def _fast(runs: Runs, cells: Sequence[Cell], config: Config) -> Iterator[tuple[Cell, Tensor]]:
    """Cells of one position, in batches that climb through the layers; see the module's head."""
    samples = len(runs.targets)
    width = (len(runs.prompt.tokens) - cells[0].position) * samples
    budget = config.chunk_tokens or (65536 if runs.before[0].is_cuda else 512)
    ordered = sorted(cells, key=_enters)
    size = max(1, budget // width)
    for begin in range(0, len(ordered), size):
        chunk = ordered[begin : begin + size]
        yield from zip(chunk, runs.measured(runs.frame.logits(_climb(runs, chunk))), strict=True)


def _enters(cell: Cell) -> int:
    """The first block that has to be run for a cell: the one after a restored residual state, else the restored one."""
    return cell.layers[0] + (cell.site == "resid")


def _climb(runs: Runs, cells: Sequence[Cell]) -> Float[Tensor, "rows d_model"]:
    """The last position's final residual stream for `cells`, which share a position and are in order of entry."""
    position, samples, top = cells[0].position, len(runs.targets), runs.frame.model.cfg.n_layers
    single = position == len(runs.prompt.tokens) - 1
    active = runs.before[0].new_empty(0, *runs.before[0][:, position:].shape[1:])
    waiting = list(cells)
    for layer in range(_enters(cells[0]), top + 1):
        entering = [_entry(runs, waiting.pop(0)) for _ in range(sum(_enters(cell) == layer for cell in waiting))]
        if layer == top:
            return torch.cat([state[:, -1] for state in (active, *entering)])
        active = torch.cat([active, *entering])
        n_active = len(active) // samples
        keys, values = (part[:, :, :position].repeat(n_active, 1, 1, 1) for part in runs.kept[layer])
        if layer == top - 1 and not single:
            # Of the last block only the last position is wanted, and what is restored elsewhere no longer reaches it.
            active = runs.frame.last_block(active, (keys, values))
            continue
        with patched(runs.frame.model, _patches(runs, cells[:n_active], layer)):
            active = runs.frame.block(layer, active, (keys, values))
    raise AssertionError("every cell enters at the top or below it")


def _entry(runs: Runs, cell: Cell) -> Float[Tensor, "sample pos d_model"]:
    """The corrupted residual stream where `cell` begins, from its position on, restored if it is a residual state."""
    state = runs.before[_enters(cell)][:, cell.position :]
    if cell.site != "resid":
        return state[1:]
    return torch.cat([state[:1, :1].expand(len(state) - 1, -1, -1), state[1:, 1:]], 1)


def _patches(runs: Runs, cells: Sequence[Cell], layer: int) -> list[Patch]:
    """What to write in block `layer` for `cells`, whose rows follow one another; at most one patch a site and head."""
    samples = len(runs.targets)
    rows: dict[tuple[Site, bool], list[int]] = {}
    for number, cell in enumerate(cells):
        mine = range(number * samples, (number + 1) * samples)
        if cell.site != "resid" and layer in cell.layers:
            rows.setdefault((Site(cell.site, layer, cell.head), True), []).extend(mine)
        elif cell.severed and layer > cell.layers[0]:
            rows.setdefault((Site(cell.severed, layer), False), []).extend(mine)
    patches = []
    for (site, clean), chosen in rows.items():
        kept = runs.outputs[Site(site.kind, layer)][:, cells[0].position]
        value = kept[:1] if clean else kept[1:].repeat(len(chosen) // samples, 1)
        if site.head is not None:
            value = value[:, site.head]
        patches.append(Patch(site, value[:, None], chosen, [0]))
    return patches
