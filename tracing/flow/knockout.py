"""Attention knockout: what the answer loses when the last token, or the subject's, does not see certain tokens.

Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4. For each
source of information (the subject, the relation's words, ...) and each layer, the attention of the target to the source
is masked before the softmax, in every head of a window of layers around that layer. Where the answer's probability
falls, information passes there. The window is nine of the 48 layers of GPT-2 XL in the paper, and as large a share of
another model's; layers l - w//2 up to but not including l + (w+1)//2, cut off at both ends.

*Convention*: effects are (p_knockout - p) / p of the whole answer, teacher-forced: -1 where nothing is left of it. Of
an answer of several tokens all positions that say a token of it are cut off from the source.

*Scope*: refused for models whose attention cannot be masked, or that have other ways from token to token (state spaces,
convolutions). (The authors' notebook, for its variants of single sub-layers, writes a large negative number over
weights *after* the softmax and applies the softmax again, which flattens attention instead of blocking it.)

Two engines give the same numbers. `reference` runs the whole model for every cell, with a mask: it is the definition.
`fast` runs no block below the window and no position before the target, as those do not change.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factscope.errors import ModelError, PromptError, UserError
from factscope.model.agreement import agree, finite
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.forward.at_once import cells_at_once
from factscope.model.forward.attention import attention_knockout, check_knockout, knocked_out, visible
from factscope.model.forward.ends import ending
from factscope.model.forward.partial import Frame, KeysValues, check_parts, embed
from factscope.model.parts.writes import check_writes
from factscope.model.prompts import OWN_ANSWER, Prompt, as_a_whole, with_answer_ids
from factscope.model.readout import ROWS, readout
from factscope.progress import Advance
from factscope.runs.provenance import Run, stopwatch
from tracing.causal import window_of
from tracing.flow.knockouts import closed, knockouts_of, random_sets
from tracing.flow.recall import Pool, enrichment, extraction, recorded
from tracing.flow.results import SOURCES, TARGETS, FlowResult, Knockout

MASKS = 2**24  # entries of masks that are held at once


@dataclass(frozen=True)
class FlowConfig:
    """What is knocked out; defaults are those of Geva et al. 2023, for a model of any depth."""

    window: int | None = None  # layers; None: 9 of 48, as in GPT-2 XL
    targets: tuple[str, ...] = tuple(TARGETS)
    sources: tuple[str, ...] = ()  # none: all that the prompt has
    nulls: int = 19  # random sets of equal size for each knockout
    attributes: tuple[str, ...] = ()  # words that are attributes of the subject; none: those of known facts
    seed: int = 0
    engine: str = "fast"  # or "reference"
    chunk_tokens: int = field(default=0)  # positions run at once; 0: what is fast and finds room

    def __post_init__(self) -> None:
        for name, chosen, known in (("target", self.targets, TARGETS), ("source", self.sources, SOURCES)):
            if isinstance(chosen, str):
                raise UserError(f"{name}s are a tuple, as in {name}s=({chosen!r},)")
            if other := next((one for one in chosen if one not in known), None):
                raise UserError(f"there is no {name} {other!r}; choose among {', '.join(known)}")
            if len(set(chosen)) < len(chosen):
                raise UserError(f"a {name} is there twice in {', '.join(chosen)}; name each once")
        if not self.targets:
            raise UserError("a knockout of nothing: name a target, as last token")
        if self.window is not None and self.window < 1:
            raise UserError(f"window must be at least 1, not {self.window}")
        for name in ("nulls", "chunk_tokens", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.engine not in ("fast", "reference"):
            raise UserError(f"engine cannot be {self.engine!r}; choose fast or reference")

    def layers(self, n_layers: int) -> int:
        """The window for a model of so many layers; UserError where it is larger than the model."""
        if self.window is not None and self.window > n_layers:
            raise UserError(f"a window of {self.window} layers is larger than the model, which has {n_layers}")
        return self.window or max(1, round(n_layers * 9 / 48))


def flow(
    model: Bridge,
    prompt: Prompt,
    config: FlowConfig = FlowConfig(),
    *,
    pool: Pool = (),
    advance: Advance = lambda _: None,
) -> FlowResult:
    """The flow of information in `prompt`. Without an answer, the model's own most probable next token is followed.

    `pool` are facts whose answers are attributes of their subjects, beside those that ship with us; `advance` is told
    of finished cells (`cells_of` counts them).

    Raises UserError for a knockout of nothing or a window larger than the model, and ModelError for a model whose
    attention cannot be knocked out exactly.
    """
    window = config.layers(model.cfg.n_layers)
    knockouts_of(prompt, config.targets, config.sources)  # before any work
    check_knockout(model)
    check_parts(model)
    check_writes(model)
    with torch.no_grad(), stopwatch() as seconds:
        clean = CleanRun.of(model, prompt)
        prompt = as_a_whole(clean.prompt)
        found = knockouts_of(prompt, config.targets, config.sources, len(prompt.answer_ids))
        sets = [random_sets(prompt, one, config.nulls, config.seed) for one in found]
        measured = _measured(clean, [*found, *(one for each in sets for one in each)], window, config, advance)
        null = torch.full((len(found), max(map(len, sets), default=0), model.cfg.n_layers), torch.nan)
        for number, each in enumerate(sets):
            for place, one in enumerate(each):
                null[number, place] = measured[one.queries, one.keys]
        states = recorded(model, prompt)
        result = FlowResult(
            prompt=prompt,
            settings=asdict(config),
            window=window,
            knockouts=found,
            clean=clean.log_probability,
            log_probability=torch.stack([measured[one.queries, one.keys] for one in found]),
            null=null,
            predicted=model.tokenizer.decode([int(clean.logits.argmax())]),
            enrichment=enrichment(model, prompt, states, config.attributes, pool),
            extraction=extraction(model, prompt, states),
            run=Run.of(model, config.seed),
        )
    return replace(result, run=result.run.ended(seconds[0]))


def cells_of(model: Bridge, prompt: Prompt, config: FlowConfig) -> int:
    """How many cells a flow computes, random sets included."""
    found = knockouts_of(prompt, config.targets, config.sources)
    every = {(o.queries, o.keys) for one in found for o in (one, *random_sets(prompt, one, config.nulls, config.seed))}
    return len(every) * int(model.cfg.n_layers)


# ---- the run that every cell shares ----


@dataclass(frozen=True, eq=False)
class CleanRun:
    """The run without a knockout, of the prompt and its answer but for the last token."""

    prompt: Prompt
    frame: Frame
    tokens: Int[Tensor, "1 pos"]
    before: list[Float[Tensor, "1 pos d_model"]]  # the residual stream that enters each block
    kept: list[KeysValues]
    logits: Float[Tensor, " vocab"]  # at the prompt's last token
    log_probability: float  # of the answer, nats

    @classmethod
    def of(cls, model: Bridge, prompt: Prompt) -> "CleanRun":
        """Run the prompt once, from the embeddings up."""
        if not prompt.answer_ids:
            first = int(finite(model(prompt.tensor(device(model)))[0, -1]).argmax())
            prompt = with_answer_ids(model, prompt, [first], OWN_ANSWER)
        tokens, asked = torch.tensor([(*prompt.tokens, *prompt.answer_ids[:-1])], device=device(model)), prompt.tokens
        with ending(torch.tensor([len(asked) - 1]), 0, tokens):
            frame, resid = Frame.of(model, tokens, check=False), embed(model, tokens)
            before, kept = [], []
            for layer in range(model.cfg.n_layers):
                before.append(resid)
                resid, keys_values = frame.recording_block(layer, resid)
                kept.append(keys_values)
            own = finite(model(tokens, use_cache=False)[0, len(asked) - 1 :])
        logits = frame.logits(resid[0, len(asked) - 1 :])
        if not agree(logits, own):
            raise ModelError(
                f"this model ({architecture(model)}) run block by block does not give its own logits, so its attention "
                "cannot be knocked out exactly"
            )
        said = answer_log_probability(logits[None], prompt)
        return cls(prompt, frame, tokens, before, kept, logits[0], float(said[0]))


def answer_log_probability(logits: Float[Tensor, "row pos vocab"], prompt: Prompt) -> Float[Tensor, " row"]:
    """Log-probability of the whole answer, in nats, of logits at the positions that say its tokens."""
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    ids = torch.tensor(prompt.answer_ids, device=logits.device)
    said = logits.gather(-1, ids.expand(len(logits), -1)[..., None])[..., 0] - logits.logsumexp(-1)
    return said.sum(-1)


# ---- cells, and the two engines ----


@dataclass(frozen=True, eq=False)
class Cell:
    """One knockout in one window of layers."""

    knockout: Knockout
    layer: int
    layers: range
    closed: Bool[Tensor, "query key"]


Measured = dict[tuple[tuple[int, ...], tuple[int, ...]], Float[Tensor, " layer"]]  # by queries and keys
Engine = Callable[[CleanRun, Sequence[Cell], FlowConfig], Iterator[tuple[Cell, Tensor]]]


def _measured(
    clean: CleanRun, knockouts: Sequence[Knockout], window: int, config: FlowConfig, advance: Advance
) -> Measured:
    """The answer's log-probability under each knockout, in each window; sets that are there twice are run once."""
    n_layers, positions = clean.frame.model.cfg.n_layers, clean.tokens.shape[1]
    distinct = {(one.queries, one.keys): one for one in knockouts}
    cells = []
    for one in distinct.values():
        edges = closed(one, positions)
        _check_something_left(clean.frame, one, edges)
        cells += [Cell(one, layer, window_of(layer, window, n_layers), edges) for layer in range(n_layers)]
    found: Measured = {key: torch.full((n_layers,), torch.nan) for key in distinct}
    engine: Engine = _fast if config.engine == "fast" else _reference
    for cell, value in engine(clean, cells, config):
        found[cell.knockout.queries, cell.knockout.keys][cell.layer] = float(value)
        advance(1)
    return found


def _check_something_left(frame: Frame, knockout: Knockout, edges: Bool[Tensor, "query key"]) -> None:
    queries = list(knockout.queries)
    for layer in range(frame.model.cfg.n_layers):
        if not (visible(frame, layer)[queries] & ~edges[queries]).any(-1).all():
            raise PromptError(
                f"without {SOURCES[knockout.source]} {TARGETS[knockout.target]} has nothing left to attend to in layer "
                f"{layer}; choose other sources"
            )


def _reference(clean: CleanRun, cells: Sequence[Cell], _: FlowConfig) -> Iterator[tuple[Cell, Tensor]]:
    """One forward pass of the whole model for each cell, with a mask."""
    model, asked = clean.frame.model, len(clean.prompt.tokens) - 1
    for cell in cells:
        masked = attention_knockout(model, dict.fromkeys(cell.layers, cell.closed[None]))
        with masked, ending(torch.tensor([asked]), 0, clean.tokens):
            logits = model(clean.tokens, use_cache=False)[:, asked:]
        yield cell, answer_log_probability(logits, clean.prompt)[0]


def _fast(clean: CleanRun, cells: Sequence[Cell], config: FlowConfig) -> Iterator[tuple[Cell, Tensor]]:
    """Only the blocks from the window up, only the positions from the target on, many cells at a time."""
    positions = clean.tokens.shape[1]
    read = readout(clean.frame.model)
    for first in sorted({cell.knockout.queries[0] for cell in cells}):
        own = sorted((c for c in cells if c.knockout.queries[0] == first), key=lambda cell: cell.layers.start)
        most = cells_at_once(clean.frame.model, 1, positions, first, config.chunk_tokens)
        size = max(1, min(most, MASKS // positions**2))
        for begin in range(0, len(own), size):
            some = own[begin : begin + size]
            last = _climb(clean, some, first)[:, len(clean.prompt.tokens) - 1 - first :]
            for rows, part in zip(last.split(ROWS), _parts(some), strict=True):
                yield from zip(part, answer_log_probability(read.logits(rows), clean.prompt), strict=True)


def _parts(cells: Sequence[Cell]) -> Iterator[Sequence[Cell]]:
    return (cells[begin : begin + ROWS] for begin in range(0, len(cells), ROWS))


def _climb(clean: CleanRun, cells: Sequence[Cell], first: int) -> Float[Tensor, "cell pos d_model"]:
    """The final residual stream from position `first` on, of cells in the order in which their windows begin.

    A cell joins where its window begins; below, it is the clean run. What stands before `first` never changes.
    """
    active, asked = clean.before[0].new_empty(0, *clean.before[0][:, first:].shape[1:]), len(clean.prompt.tokens) - 1
    for layer in range(cells[0].layers.start, clean.frame.model.cfg.n_layers):
        joining = sum(cell.layers.start == layer for cell in cells)
        active = torch.cat([active, clean.before[layer][:, first:].expand(joining, -1, -1)])
        present, frame = cells[: len(active)], clean.frame
        if any(layer in cell.layers for cell in present):
            edges = torch.stack([cell.closed & (layer in cell.layers) for cell in present])
            frame = knocked_out(frame, layer, edges)
        keys, values = (part[:, :, :first].expand(len(active), -1, -1, -1) for part in clean.kept[layer])
        rows = clean.tokens.expand(len(active), -1)
        with ending(torch.full((len(active),), asked), first, rows):
            active = frame.block(layer, active, (keys, values))
    return active
