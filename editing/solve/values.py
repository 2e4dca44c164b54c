"""Keys and values: where an edit is written, and what must be written there.

The key of a fact is what its MLP's down-projection reads at the subject's last token, averaged over contexts. The value
is found by gradient descent on one vector a fact, `delta`, added there in every context until the model says the
target (Meng et al. 2022, 2023):

    loss = mean over contexts of -(1/T) sum_t log p(target_t | context, prompt, target_<t)        teacher forced
         + kl_factor * KL( p_delta(. | "{subject} is a") || p0(.) )   read at the SUBJECT's last token, as the code does
         + weight_decay * ||delta|| / ||init||^2                      the norm itself, not its square
    Adam; stop where the loss is below `stop`; after each step ||delta|| <= clamp * ||init||; the last step only reads

`init` is what the MLP writes (ROME) or the hidden state after the block (MEMIT) at the bare prompt's subject: their
clamps are not comparable. PMET adds two vectors at once, to what the layer's attention writes and to what its MLP
writes, each with its own decay and clamp; what is learned for the attention is thrown away. All facts are optimised in
one batch. Nothing couples them (each has its own loss, its own Adam moments, its own stop), so a batch gives what one
at a time gives, up to rounding, and its rows run in as many parts as find room in the memory that is free.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from editing.requests import RequestPrompts, essence_prompt
from editing.solve.adam import Adam
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.at_once import parted, slope_bytes
from factscope.model.forward.batched import ROWS, padded, states_at
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.subject import Row, Suffix, buckets, check_written, landed, suffix
from factscope.model.hooks import hooked, record
from factscope.model.sites import Site

Place = Literal["mlp", "hidden", "parts"]  # parts: the attention's output and the MLP's, of one layer

DRIFT = "KL(edited || unedited)"  # part of what names kept values: those of the other direction are not taken up


@dataclass(frozen=True)
class Descent:
    """How values are found; ROME's where not said otherwise.

    ROME's weight decay of 0.5 is in units of 1 / ||init||: on the default model it holds most losses above `stop`, so
    no fact ends early and the hard ones are not learned. EasyEdit's 0.001 lets easy facts end after some ten steps; the
    hard ones, which set the share of facts that are learned at all, then have forty.
    """

    steps: int = 40  # at most, where the authors always take 20; the last one reads the loss and does not step
    learning_rate: float = 0.5
    weight_decay: float = 1e-3  # EasyEdit's for Llama models
    kl_factor: float = 0.0625
    clamp: float = 4.0  # times ||init||: the MLP's output in ROME, the hidden state in MEMIT (EasyEdit's for Llama)
    stop: float = 0.05  # nats
    patience: int | None = None  # ENCORE's: end once every target token was the argmax at so many readings
    anchors: int = 0  # shipped facts whose values say how long a value is (editing/solve/anchor.py; NAS: 1,000); 0: off


@dataclass(frozen=True, eq=False)
class Values:
    """What must be written for each fact, and how it was found."""

    delta: Float[Tensor, "fact d_model"]
    init: Float[Tensor, "fact d_model"]  # MLP output or hidden state at the bare prompt's subject, unedited
    losses: Float[Tensor, "step fact"]  # nats; NaN after a fact's stop
    probability: Float[Tensor, " fact"]  # of the target, geometric mean over tokens, mean over contexts, at the end
    steps: tuple[int, ...]  # updates taken
    notes: tuple[str, ...] = ()  # what a person should know, fact by fact; "" where nothing

    @property
    def target(self) -> Float[Tensor, "fact d_model"]:
        """v* (or z*): init + delta."""
        return self.init + self.delta

    def of(self, fact: int) -> "Values":
        """One fact's alone."""
        one = slice(fact, fact + 1)
        losses = self.losses[:, one]
        return Values(
            self.delta[one],
            self.init[one],
            losses[~losses[:, 0].isnan()],
            self.probability[one],
            self.steps[one],
            self.notes[one],
        )

    def said(self, requests: Sequence[EditRequest]) -> tuple[str, ...]:
        """The notes, each with its fact."""
        return tuple(f"{one.id}: {note}" for one, note in zip(requests, self.notes, strict=False) if note)


def joined(parts: Sequence[Values]) -> Values:
    """The values of several batches, one after another."""
    return Values(
        torch.cat([part.delta for part in parts]),
        torch.cat([part.init for part in parts]),
        side_by_side([part.losses for part in parts]),
        torch.cat([part.probability for part in parts]),
        tuple(n for part in parts for n in part.steps),
        tuple(note for part in parts for note in part.notes),
    )


def side_by_side(curves: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, "step fact"]:
    """Curves [step fact] of several lengths; the shorter are filled up with NaN."""
    longest = max(map(len, curves))
    pad = torch.nn.functional.pad
    return torch.cat([pad(curve, (0, 0, 0, longest - len(curve)), value=torch.nan) for curve in curves], 1)


OnStep = Callable[[int, Tensor, Tensor], None]  # step, loss [fact], probability [fact]


@thin_products()
def find_values(
    model: Bridge,
    prompts: RequestPrompts,
    layer: int,
    config: Descent,
    *,
    place: Place = "mlp",
    on_step: OnStep | None = None,
    check: bool = True,
) -> Values:
    """Optimise one value a fact, all in one batch; `check` proves the batch against the model's own logits first.

    Raises EditError if a loss is not finite (which step, which fact) and ModelError where the model cannot be run from
    a layer on. No weight is touched.
    """
    requests, contexts = prompts.requests, len(prompts.contexts)
    if place == "parts" and layer == 0:
        raise EditError("values of attention and MLP together can be found at layer 1 and above, not at layer 0")
    groups = _groups(model, prompts, layer, place)
    if check:
        groups[0].suffix.check()
    parts = lambda flat: flat.unflatten(1, (-1, model.cfg.d_model))  # noqa: E731  [fact, part, d_model]
    init = _bare(groups, len(requests))
    radius, decay = config.clamp * parts(init).norm(dim=2), config.weight_decay / parts(init).norm(dim=2) ** 2
    delta, adam = torch.zeros_like(init), Adam()
    active = torch.ones(len(requests), dtype=torch.bool, device=delta.device)
    losses, taken, learned = [], [0] * len(requests), torch.zeros_like(active, dtype=torch.long)
    probability = torch.zeros(len(requests), device=delta.device)
    for step in range(config.steps):
        loss, gradient, likely, missed = _losses(groups, delta, contexts, config, place)
        size = parts(delta).norm(dim=2)
        loss = loss + (decay * size).sum(1)
        gradient = gradient + ((decay / size.clamp_min(1e-12))[..., None] * parts(delta)).flatten(1)
        wrong = active & ~(torch.isfinite(loss) & torch.isfinite(gradient).all(1))
        if bool(wrong.any()):
            bad = requests[int(wrong.nonzero()[0])]
            raise EditError(
                f"the value of fact {bad.id!r} went to NaN or infinity at step {step}; nothing was changed. Use "
                f"float32 and a smaller learning rate than {config.learning_rate}"
            )
        losses.append(torch.where(active, loss, torch.nan))
        probability = torch.where(active, likely, probability)
        if on_step is not None:
            on_step(step, losses[-1].detach().cpu(), probability.cpu())
        learned = learned + (missed == 0)
        active = active & (loss >= config.stop) & (learned < (config.patience or config.steps + 1))
        if step == config.steps - 1 or not bool(active.any()):
            break
        delta = torch.where(active[:, None], delta - config.learning_rate * adam.direction(gradient), delta)
        within = (radius / parts(delta).norm(dim=2).clamp_min(1e-12)).clamp_max(1.0)
        delta = (parts(delta) * within[..., None]).flatten(1)
        taken = [n + int(on) for n, on in zip(taken, active.tolist(), strict=True)]
        groups = [group.without(active) for group in groups if group.any_active(active)]
    written = (parts(delta)[:, -1].cpu(), parts(init)[:, -1].cpu())
    return Values(*written, torch.stack(losses).cpu(), probability.cpu(), tuple(taken))


# ---- one batch of rows ----


@dataclass(frozen=True, eq=False)
class _Group:
    """Rows that run together: each the (fact, context) it belongs to; context -1 is an essence prompt of its own.

    A prompt that begins as the essence prompt does, up to the subject's end, has the essence read in it.
    """

    suffix: Suffix
    source: tuple[tuple[int, int], ...]
    targets: Tensor  # [wanted] token ids, -1 where the essence is read
    states: Float[Tensor, "row width"]  # at the subject, clean: what is added to, part after part
    clean: Float[Tensor, "essence vocab"] | None  # log-probabilities at step 0

    def any_active(self, active: Tensor) -> bool:
        return any(bool(active[fact]) for fact, _ in self.source)

    def without(self, active: Tensor) -> "_Group":
        """The group without the rows of finished facts; a copy costs far less than running them once more."""
        keep = [row for row, (fact, _) in enumerate(self.source) if bool(active[fact])]
        if len(keep) == len(self.source):
            return self
        wanted = [row for row, one in enumerate(self.suffix.rows) for _ in one.wanted]
        chosen, essence = set(keep), _essence_rows(self.suffix.rows, self.targets)
        return _Group(
            self.suffix.narrowed(keep),
            tuple(self.source[row] for row in keep),
            self.targets[[i for i, row in enumerate(wanted) if row in chosen]],
            self.states[keep],
            None if self.clean is None else self.clean[[i for i, row in enumerate(essence) if row in chosen]],
        )


def _essence_rows(rows: Sequence[Row], targets: Tensor) -> list[int]:
    """The row of every reading of an essence."""
    wanted = [row for row, one in enumerate(rows) for _ in one.wanted]
    return [row for row, target in zip(wanted, targets.tolist(), strict=True) if target < 0]


def _groups(model: Bridge, prompts: RequestPrompts, layer: int, place: Place = "hidden") -> list[_Group]:
    rows: list[Row] = []
    source: list[tuple[int, int]] = []
    targets: list[tuple[int, ...]] = []
    for fact_number, request in enumerate(prompts.requests):
        essence = essence_prompt(model, request, prompts.start)
        end = essence.subject_span[1] - 1
        beginning, unread = essence.tokens[: end + 1], True
        for number, prompt in enumerate(prompts.of(model, request)):
            first, answers = len(prompt.tokens) - 1, tuple(prompt.answer_ids)
            wanted, subject = tuple(range(first, first + len(answers))), prompt.subject_span[1] - 1
            tokens = (*prompt.tokens, *answers[:-1])
            if unread and subject == end and tokens[: end + 1] == beginning:
                wanted, answers, unread = (end, *wanted), (-1, *answers), False
            rows.append(Row(tokens, subject, wanted))
            source.append((fact_number, number))
            targets.append(answers)
        if unread:
            rows.append(Row(beginning, end, (end,)))
            source.append((fact_number, -1))
            targets.append((-1,))
    made = []
    for some in parted(model, buckets([row.length for row in rows]), partial(_need, model, rows)):
        part = suffix(model, [rows[i] for i in some], layer - (place == "parts"))
        own = [source[i] for i in some]
        ids = torch.tensor([t for i in some for t in targets[i]])
        made.append(_with_clean(_Group(part, tuple(own), ids, _states(part, place), None)))
    return made


def _need(model: Bridge, rows: Sequence[Row], group: list[int]) -> tuple[int, str]:
    """What the descents of these rows hold, for each of them.

    Finished values are kept by the facts that were asked for together, which stay what they are: only rows are parted.
    """
    after, before = (max(of) for of in zip(*((rows[i].length, rows[i].subject) for i in group), strict=True))
    wanted = max(len(rows[i].wanted) for i in group)
    return slope_bytes(model, len(model.blocks), after, before, wanted), (
        f"the gradients of a prompt of {before + after} tokens"
    )


@torch.no_grad()
def _states(part: Suffix, place: Place) -> Float[Tensor, "row width"]:
    """What is added to, at the subject and before anything is."""
    if place != "parts":
        return part.write if place == "mlp" else part.resid[:, 0]
    sites, layer = _part_sites(part), part.layer + 1
    with record(part.frame.model, sites) as seen:
        part.frame.block(layer, part.resid, part.kept[layer])
    return torch.cat([seen[site][:, 0] for site in sites], 1)


def _part_sites(part: Suffix) -> tuple[Site, Site]:
    """What the first layer that runs writes: its attention, and its MLP."""
    return Site("attn", part.layer + 1), Site("mlp_write", part.layer + 1)


def _bare(groups: Sequence[_Group], count: int) -> Float[Tensor, "fact width"]:
    """What is added to in the bare prompts."""
    init = groups[0].states.new_zeros(count, groups[0].states.shape[1])
    for group in groups:
        for row, (fact, number) in enumerate(group.source):
            if number == 0:
                init[fact] = group.states[row]
    return init


@torch.no_grad()
def _with_clean(group: _Group) -> _Group:
    """The same with the essence rows' log-probabilities before anything is added."""
    essence = _essence_rows(group.suffix.rows, group.targets)
    if not essence:
        return group
    part = group.suffix.subjects(essence)
    logits, _ = part.logits(part.run(torch.zeros_like(part.write)))
    return replace(group, clean=logits.float().log_softmax(-1))


def _losses(
    groups: Sequence[_Group], delta: Tensor, contexts: int, config: Descent, place: Place
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss without weight decay [fact], its gradient [fact width], the target's probability, its tokens not argmax."""
    loss = torch.zeros(len(delta), device=delta.device)
    likely, missed, gradient = torch.zeros_like(loss), torch.zeros_like(loss), torch.zeros_like(delta)
    for group in groups:
        leaf = delta.detach().requires_grad_()
        with torch.enable_grad():
            part, likely_part, missed_part = _group_loss(group, leaf, contexts, config, place)
            (slope,) = torch.autograd.grad(part.sum(), leaf)
        loss, likely, gradient = loss + part.detach(), likely + likely_part, gradient + slope
        missed = missed + missed_part
    return loss, gradient, likely, missed


def _after(run: Suffix, added: Float[Tensor, "row width"], place: Place) -> Float[Tensor, "row pos d_model"]:
    """The residual stream after the last block, with `added` at the subject's last token."""
    if place == "hidden":
        return run.run(added)
    if place == "mlp":
        return run.run(landed(run.frame.model, run.layer, run.write, added.to(run.write)))

    def first(part: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda written: torch.cat([written[:, :1] + part[:, None].to(written), written[:, 1:]], 1)

    sites = [(site, first(part)) for site, part in zip(_part_sites(run), added.chunk(2, 1), strict=True)]
    with hooked(run.frame.model, sites):
        return run.run(torch.zeros_like(run.write))


def _group_loss(
    group: _Group, delta: Tensor, contexts: int, config: Descent, place: Place
) -> tuple[Tensor, Tensor, Tensor]:
    run = group.suffix
    fact = torch.tensor([f for f, _ in group.source], device=delta.device)
    logits, row = run.logits(_after(run, delta[fact], place))
    logp = logits.float().log_softmax(-1)
    essence = group.targets < 0
    loss = torch.zeros(len(delta), device=delta.device)
    likely, missed = torch.zeros_like(loss), torch.zeros_like(loss)
    if group.clean is not None:
        now = logp[essence]
        drift = (now.exp() * (now - group.clean.to(now))).sum(-1).to(loss.device)
        loss = loss.index_add(0, fact[row[essence]], config.kl_factor * drift)
    asked = ~essence
    if bool(asked.any()):
        owner = row[asked].to(logp.device)  # [wanted], the row of each
        count, ids = torch.bincount(owner, minlength=len(group.source)).to(logp), group.targets[asked].to(logp.device)
        picked = logp[asked].gather(1, ids[:, None])[:, 0]
        missed = missed.index_add(0, fact[row[asked]], (logp[asked].argmax(-1) != ids).to(missed))
        per_row = torch.zeros(len(group.source), device=logp.device).index_add(0, owner, picked) / count.clamp_min(1)
        per_row, rows = per_row.to(loss.device), (count > 0).to(loss.device)
        loss = loss.index_add(0, fact[rows], -per_row[rows] / contexts)
        likely = likely.index_add(0, fact[rows], per_row[rows].detach().exp() / contexts)
    return loss, likely, missed


# ---- keys ----


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys of every fact in every context, and what stands there: the material of the solver."""

    each: Float[Tensor, "fact context d_mlp"]

    def mean(self) -> Float[Tensor, "fact d_mlp"]:
        """ROME's average: every context counts the same."""
        return self.each.mean(1)

    def halves(self) -> Float[Tensor, "fact d_mlp"]:
        """MEMIT's average: the bare prompt counts as much as all sampled contexts together."""
        return self.each[:, 0] if self.each.shape[1] == 1 else (self.each[:, 0] + self.each[:, 1:].mean(1)) / 2

    def bare(self) -> Float[Tensor, "fact d_mlp"]:
        """The bare prompt's key."""
        return self.each[:, 0]


def read_subjects(
    model: Bridge, prompts: RequestPrompts, sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "fact context d"]]:
    """Activations at the subject's last token, for every fact in every context; blocks above the sites do not run.

    Prompts are read up to that token, so that is where a gate beside the weights decides, as for each prompt alone.
    """
    rows, ends = [], []
    for request in prompts.requests:
        for prompt in prompts.of(model, request):
            ends.append(prompt.subject_span[1] - 1)
            rows.append(prompt.tokens[: ends[-1] + 1])
    found: dict[Site, list[Tensor]] = {site: [torch.empty(0)] * len(rows) for site in sites}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for some in (order[i : i + ROWS] for i in range(0, len(order), ROWS)):
        tokens = padded(model, [rows[i] for i in some])
        seen = states_at(model, tokens, torch.tensor([ends[i] for i in some]), sites)
        for site in sites:
            for r, i in enumerate(some):
                found[site][i] = seen[site][r, ends[i]].float().cpu()
    shape = (len(prompts.requests), len(prompts.contexts), -1)
    return {site: torch.stack(parts).view(*shape) for site, parts in found.items()}


def find_keys(model: Bridge, prompts: RequestPrompts, layer: int) -> Keys:
    """Keys at one layer, on the weights as they are now."""
    site = Site("mlp_hidden", layer)
    return Keys(read_subjects(model, prompts, (site,))[site])


def check_layer(model: Bridge, layer: int) -> None:
    """EditError for a layer that the model does not have, ModelError where writing there is not proven exact."""
    if not 0 <= layer < model.cfg.n_layers:
        raise EditError(f"there is no layer {layer}: this model has layers 0 to {model.cfg.n_layers - 1}")
    check_written(model, layer)
