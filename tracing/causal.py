"""Causal tracing: corrupt the subject, restore one state, and see how much of the answer comes back.

Meng et al. 2022 (ROME), section 2. The clean run and the corrupted runs go through the model once, as rows of one
batch. Then, for each cell (kind, layer, token), the corrupted runs are continued with that one state set to its clean
value. A window restores the MLP or attention outputs of several layers around the cell's, ten by default: layers
l - w//2 up to but not including l + (w+1)//2, cut off at both ends, as in ROME's code.

Two engines give the same numbers. `reference` runs the whole model for every cell, by hooks alone: it is the
definition. `fast` never repeats what is known: see the comment above it.

Severed runs restore a residual state while every later MLP (or attention) output of that token is held at its corrupted
value, with the same noise draw. (ROME's notebook holds them at the values of a second, different draw.)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from factscope.errors import NoGap, UserError
from factscope.model.agreement import finite
from factscope.model.bridge import Bridge, device
from factscope.model.forward.at_once import cells_at_once
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.partial import Frame, KeysValues, check_parts, embed
from factscope.model.hooks import Patch, patched, record
from factscope.model.metrics import Metric, Target, metric, probability
from factscope.model.parts.writes import check_writes
from factscope.model.prompts import OWN_ANSWER, Prompt, with_answer_ids
from factscope.model.sites import Site
from factscope.progress import Advance
from factscope.runs.provenance import Run, stopwatch
from factscope.statistics import standard_error
from tracing import corruption as corrupt
from tracing.corruption import Corruption
from tracing.results import KINDS, WINDOWED, Grid, TraceResult

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
    seed: int = 0
    engine: str = "fast"  # or "reference"
    chunk_tokens: int = field(default=0)  # positions run at once; 0: what is fast and finds room

    def __post_init__(self) -> None:
        _check_sites(self.sites)
        choices = {"corruption": ("noise", "swap"), "engine": ("fast", "reference")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} cannot be {getattr(self, name)!r}; choose {' or '.join(allowed)}")
        for name in ("samples", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("noise", "noise_level"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name} must be a number above 0, not {value}")
        if not 0 <= self.seed < 2**32 - 1:
            raise UserError(f"the seed must be between 0 and 2**32 - 2, not {self.seed}")
        if self.chunk_tokens < 0:
            raise UserError(f"chunk_tokens must be 0 (chosen for the device) or more, not {self.chunk_tokens}")
        if self.swaps and self.corruption != "swap":
            raise UserError(f"swaps are for the corruption 'swap', and this one is {self.corruption!r}")
        metric(self.metric)

    @property
    def stream(self) -> int:
        """The seed of NumPy's stream for this seed: 0, the default, draws ROME's noise, which is NumPy's 1."""
        return self.seed + 1


def _check_sites(sites: tuple[str, ...]) -> None:
    if isinstance(sites, str):
        raise UserError(f"sites are a tuple, as in sites=({sites!r},)")
    for kind in sites:
        if kind not in KINDS:
            raise UserError(f"there is no site {kind!r}; choose among {', '.join(KINDS)}")
    if len(set(sites)) < len(sites):
        raise UserError(f"a site is there twice in {', '.join(sites)}; name each once")
    if not sites:
        raise UserError("no site to restore at; choose among " + ", ".join(KINDS))


def trace(
    model: Bridge,
    prompt: Prompt,
    config: Config = Config(),
    *,
    corruption: Corruption | None = None,
    advance: Advance = lambda _: None,
) -> TraceResult:
    """Trace `prompt`. Without an answer, the model's own most probable next token is traced, as in ROME.

    `corruption` replaces the one that `config` describes; `advance` is told of finished cells (`cells_of` counts them).

    Raises NoGap if the corruption does not hurt the answer, and ModelError for a model that cannot be traced exactly.
    """
    check_parts(model)
    check_writes(model)
    with torch.no_grad(), stopwatch() as seconds:
        runs = Runs.of(model, prompt, config, corruption)
        prompt, total = runs.prompt, runs.toward * (runs.clean - runs.corrupted).mean()
        if not total > 1e-6:
            clean, corrupted = f"{runs.clean.mean():.4g} clean", f"{runs.corrupted.mean():.4g} corrupted"
            raise NoGap(
                f"corrupting {prompt.subject!r} does not hurt the answer {prompt.answer!r}: {config.metric} "
                f"{clean}, {corrupted}, so there is nothing to restore; "
                "trace another answer, or corrupt more, as with --set noise=5"
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


def cells_of(model: Bridge, prompt: Prompt, config: Config) -> int:
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
            error[(*cell.index, position)] = standard_error(gains)
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
    clean_logits: Float[Tensor, " vocab"]
    corrupted_logits: Float[Tensor, "sample vocab"]
    clean: Float[Tensor, " sample"]
    corrupted: Float[Tensor, " sample"]
    _restored: dict[Site, Float[Tensor, "sample pos d_model"]] = field(default_factory=dict)

    @property
    def toward(self) -> int:
        """The metric's good direction."""
        return self.metric.toward

    @classmethod
    def of(cls, model: Bridge, prompt: Prompt, config: Config, corruption: Corruption | None) -> "Runs":
        """Run clean and corrupted rows once, from the embeddings up."""
        frame = Frame.of(model, prompt.tensor(device(model)))
        if not prompt.answer_ids:
            first = int(finite(model(prompt.tensor(device(model)))[0, -1]).argmax())
            prompt = with_answer_ids(model, prompt, [first], OWN_ANSWER)
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
        logits = finite(frame.logits(resid[:, -1]))
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

    def restored(self, cell: Cell) -> Float[Tensor, "sample pos d_model"]:
        """The corrupted runs after the cell's first block, had it been restored at each position; made once."""
        layer = cell.layers.start
        if cell.site == "resid":
            return self.before[layer + 1][:1].expand(len(self.targets), -1, -1)
        site = Site(cell.site, layer, cell.head)
        if site not in self._restored:
            clean = self.outputs[Site(cell.site, layer)][:1]
            value = clean if cell.head is None else clean[:, :, cell.head]
            with patched(self.frame.model, [Patch(site, value)]):
                self._restored[site] = self.frame.block(layer, self.before[layer][1:])
        return self._restored[site]

    def measured(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "cell sample"]:
        """The metric of rows laid out cell by cell, sample by sample, each against its own target."""
        grouped = logits.unflatten(0, (-1, len(self.targets)))
        if all(target.foil == self.targets[0].foil for target in self.targets):
            return self.metric(grouped, self.targets[0])
        return torch.stack([self.metric(grouped[:, i], target) for i, target in enumerate(self.targets)], 1)


def _corruption(model: Bridge, prompt: Prompt, config: Config) -> Corruption:
    if config.corruption == "swap":
        return corrupt.swap(model, prompt, config.samples, config.stream, config.swaps)
    return corrupt.noise(model, prompt, config.samples, config.noise, config.stream, config.noise_level)


def _targets(prompt: Prompt, corruption: Corruption, clean: Tensor) -> tuple[Target, ...]:
    """Each sample's target: with a foil of the prompt's own, else that of its counterfactual subject."""
    own = prompt.foil_ids[0] if prompt.foil_ids else None
    return tuple(Target(prompt.answer_ids[0], own if own is not None else foil, clean) for foil in corruption.foils)


# ---- the two engines ----


def _reference(runs: Runs, cells: Sequence[Cell], _: Config) -> Iterator[tuple[Cell, Tensor]]:
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


# What a restored run shares with runs that are known, it takes from them; the rest is computed, many cells at a time.
#   - Blocks below the restored layer, and positions before the restored one: as in the corrupted run.
#   - Inside the restored block too only the restored position changes, since attention has already read its inputs. So
#     one pass over a block, restored at all positions at once, gives the start of every cell of that layer.
#   - Two windows cut off at the bottom are one run up to where the shorter one ends.
#   - The last block is run for the last position alone, and only that position is unembedded.
# A batch of cells that share a position climbs through the layers and takes each cell in where it begins.


def _fast(runs: Runs, cells: Sequence[Cell], config: Config) -> Iterator[tuple[Cell, Tensor]]:
    """Only the blocks above the restored layer, only the positions from the restored one on, in batches."""
    ordered = sorted(cells, key=lambda cell: (cell.layers.start, cell.layers.stop))
    length, begun = len(runs.prompt.tokens), cells[0].position
    size = cells_at_once(runs.frame.model, len(runs.targets), length, begun, config.chunk_tokens)
    for begin in range(0, len(ordered), size):
        with thin_products():  # which halves the time of the linear layers on an AMD processor
            climbed, last = _climb(runs, ordered[begin : begin + size])
            measured = runs.measured(runs.frame.logits(last))
        yield from zip(climbed, measured, strict=True)


def _climb(runs: Runs, cells: Sequence[Cell]) -> tuple[list[Cell], Float[Tensor, "rows d_model"]]:
    """`cells`, which share a position, in the order of their rows in the last position's final residual stream."""
    position, samples, top = cells[0].position, len(runs.targets), runs.frame.model.cfg.n_layers
    longest = {cell.layers.start: cell for cell in cells if cell.head is None}  # sorted: the last of each start
    forks = {c: longest[c.layers.start] for c in cells if c.head is None and c is not longest[c.layers.start]}
    arrivals: dict[int, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell in forks):  # whom to fork from is there first
        arrivals.setdefault(cell.layers.stop if cell in forks else cell.layers.start + 1, []).append(cell)

    climbing: list[Cell] = []
    active = runs.before[0].new_empty(0, *runs.before[0][:, position:].shape[1:])
    for layer in range(min(arrivals), top + 1):
        for cell in arrivals.get(layer, []):
            if cell in forks:
                row = climbing.index(forks[cell]) * samples
                state = active[row : row + samples]
            else:
                restored = runs.restored(cell)[:, position : position + 1]
                state = torch.cat([restored, runs.before[layer][1:, position + 1 :]], 1)
            active = torch.cat([active, state[:, -active.shape[1] :]])
            climbing.append(cell)
        if layer == top:
            return climbing, active[:, -1]
        keys, values = (part[:, :, :position].repeat(len(climbing), 1, 1, 1) for part in runs.kept[layer])
        if layer == top - 1 and active.shape[1] > 1:
            # What is restored in the last block at another position than the last no longer reaches the answer.
            active = runs.frame.last_block(active, (keys, values))
        else:
            with patched(runs.frame.model, _patches(runs, climbing, layer)):
                active = runs.frame.block(layer, active, (keys, values))
    raise AssertionError("every cell arrives at the top or below it")


def _patches(runs: Runs, cells: Sequence[Cell], layer: int) -> list[Patch]:
    """What to write in block `layer`, above the first restored one, for `cells`, whose rows follow one another."""
    samples = len(runs.targets)
    rows: dict[tuple[str, bool], list[int]] = {}
    for number, cell in enumerate(cells):
        mine = range(number * samples, (number + 1) * samples)
        if layer in cell.layers:
            rows.setdefault((cell.site, True), []).extend(mine)
        elif cell.severed:
            rows.setdefault((cell.severed, False), []).extend(mine)
    patches = []
    for (kind, clean), chosen in rows.items():
        kept = runs.outputs[Site(kind, layer)][:, cells[0].position]
        value = kept[:1] if clean else kept[1:].repeat(len(chosen) // samples, 1)
        patches.append(Patch(Site(kind, layer), value[:, None], chosen, [0]))
    return patches
