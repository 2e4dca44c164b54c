"""Train a change of matrices on new answers: one loop, whatever the change is made of.

    loss = mean over facts of -(1/T) sum_t log p(target_t | prompt, target_<t)  +  the change's own penalty

by Adam on the change's own tensors: a whole matrix (FT-M), two thin factors (LoRA), a value (GRACE). A round meets
every fact once, in one batch or in several; the training ends after a round whose mean loss was below `stop`, and a
batch that is below it already takes no step.

Nothing below the lowest layer runs again, and no weight is touched while the change learns: what it adds to a
projection's output is computed from what the projection reads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing.method import MethodInputs, MethodOutput
from editing.requests import bare_prompt
from editing.solve.adam import Adam
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge
from factscope.model.forward.at_once import check_slopes, count_of, fitting
from factscope.model.forward.batched import padded, states_at
from factscope.model.forward.ends import ending
from factscope.model.forward.onednn import thin_products
from factscope.model.forward.partial import Frame
from factscope.model.hooks import hooked
from factscope.model.sites import Site
from factscope.model.weights import PROJECTIONS, WeightName

# Facts that learn side by side. It stays what it is however much memory is free: what their changes begin with is drawn
# for all of them together.
APART = 16
MORE = 3  # of each change: its gradient and Adam's two moments

Wanted = Callable[[int, Sequence[int]], tuple[list[int], list[int]]]  # first position, target -> positions, token ids
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]  # nats per token, tokens, which facts -> what is brought down
Parts = dict[tuple[WeightName, str], Tensor]  # what is learned, by weight and name; the first axis is the group
Groups = Sequence[tuple[EditRequest, ...]]  # the facts of each change that is learned: all, or one of each


def every_token(first: int, target: Sequence[int]) -> tuple[list[int], list[int]]:
    """Each target token at the position before it."""
    return list(range(first, first + len(target))), list(target)


@dataclass(frozen=True)
class Training:
    """How a change is trained, whatever it is made of."""

    rounds: int  # at most; the loss is read at the beginning of each
    learning_rate: float
    stop: float  # nats
    wanted: Wanted = every_token
    batch: int | None = None  # facts of a step, in an order that is drawn for each round; None: all of them
    end: bool = False  # whether the token that ends a text is asked for after the target
    objective: Callable[[], Objective] | None = None  # made anew for each training; None: the nats themselves


class Change(ABC):
    """What is learned at some matrices, for one group of facts or for many side by side."""

    weights: tuple[WeightName, ...]  # of `PROJECTIONS`, those of the lowest layer first
    parts: Parts

    @abstractmethod
    def added(
        self, parts: Parts, weight: WeightName, read: Float[Tensor, "row pos d_in"]
    ) -> Float[Tensor, "row pos d_out"]:
        """What the change adds to what this matrix writes, where it reads `read`."""

    @abstractmethod
    def output(self, group: int) -> MethodOutput:
        """One group's change, as it stands: deltas of weights, or what stands beside them."""

    def sites(self, weight: WeightName) -> tuple[str, str]:
        """The kinds of sites between which it stands: what `added` is given, and what its result is added to."""
        return PROJECTIONS[weight.part]

    def meets(self, _: "Rows", __: Int[Tensor, " fact"], /) -> None:
        """Said before each step: the rows that `added` will be given are those of these facts."""
        return

    def penalty(self, _: Parts, /) -> Tensor | float:
        """Of each group [group], given the parts; beside the loss in the gradient, and not shown with it."""
        return 0.0

    def settled(self, parts: Parts, _: Parts, /) -> Parts:
        """What Adam made with these gradients, once held to whatever the change must keep to."""
        return parts

    def may_end(self) -> bool:
        """Whether a low loss ends the training already."""
        return True


def train(
    inputs: MethodInputs, how: Training, begin: Callable[[Groups], Change], apart: bool = False
) -> list[MethodOutput]:
    """Train one change on all facts, or with `apart` one for each, side by side; `begin` makes it for some groups.

    Raises EditError where the loss goes to NaN, and where an end is asked for that the tokenizer does not have.
    """
    if not apart:
        return _Run(inputs, how, begin([inputs.requests])).outputs()
    outputs, alone = list[MethodOutput](), replace(how, batch=None)
    for first in range(0, len(inputs.requests), APART):
        some = inputs.requests[first : first + APART]
        outputs += _Run(replace(inputs, requests=some), alone, begin([(one,) for one in some])).outputs()
    return outputs


class _Run:
    """One training: the change as it stands, and which groups still learn."""

    def __init__(self, inputs: MethodInputs, how: Training, change: Change) -> None:
        self.inputs, self.how, self.change = inputs, how, change
        self._check_room()
        self.rows = Rows(inputs, how, change.weights[0].layer)
        self.objective = how.objective() if how.objective is not None else None
        self.groups = len(next(iter(change.parts.values())))
        self.adams = {name: Adam() for name in change.parts}
        self.active = torch.ones(self.groups, dtype=torch.bool)

    def _check_room(self) -> None:
        """ModelError where what is learned finds no room beside the model, with the number of facts that would do."""
        groups, parts = len(next(iter(self.change.parts.values()))), self.change.parts.values()
        each = MORE * sum(one.numel() * one.element_size() for one in parts) // groups
        fewer = count_of(self.inputs.model, each, groups - 1)
        what = f"the changes of {groups} facts that learn side by side" if groups > 1 else "the change"
        remedy = f"--limit {fewer} would do" if fewer else ""
        fitting(self.inputs.model, 1, groups * each, f"the gradient of {what} and Adam's two moments", remedy)

    def outputs(self) -> list[MethodOutput]:
        """Train to the end; the change of each group, with the losses of its facts at the beginning of each round."""
        count, curve = len(self.inputs.requests), []
        own = count // self.groups  # facts of a group
        generator = torch.Generator().manual_seed(self.inputs.seed)
        for number in range(self.how.rounds):
            losses, likely = torch.full((count,), torch.nan), torch.full((count,), torch.nan)
            facts = self.active.repeat_interleave(own).nonzero()[:, 0]
            for some in _batches(facts, self.how.batch, generator):
                losses[some], likely[some] = self._step(some, number)
            curve.append(losses)
            if self.inputs.on_step is not None:
                self.inputs.on_step(number, losses, likely)
            if self.change.may_end():  # a group that has ended has no loss, and is not above the stop
                self.active = losses.view(self.groups, -1).mean(1) >= self.how.stop
            if not bool(self.active.any()):
                break
        curves = torch.stack(curve)
        return [
            replace(self.change.output(group), curve=curves[:, group * own : (group + 1) * own])
            for group in range(self.groups)
        ]

    def _step(self, some: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """One step on these facts: loss of each before it, and the mean probability of its tokens."""
        before = self.change.parts
        on = some if self.groups > 1 else torch.zeros(1, dtype=torch.long)  # the groups that they are of
        leaves = {n: part[on.to(part.device)].requires_grad_() for n, part in before.items()}
        with torch.enable_grad():
            losses, likely = self.rows.losses(self.change, leaves, some)
            if self.objective is not None:
                count = torch.tensor([len(self.rows.tokens[fact]) for fact in some.tolist()])
                losses = self.objective(losses, count.to(losses), some)
            per_group = losses.view(len(on), -1).mean(1)
            whole = per_group + self.change.penalty(leaves)
            slopes = torch.autograd.grad(whole.sum(), list(leaves.values()))
        if not bool(torch.isfinite(losses).all()):
            raise EditError(f"the loss went to NaN at step {number}; nothing was changed. Use a smaller learning rate")
        going = torch.zeros(self.groups, dtype=torch.bool)
        going[on] = (per_group.detach().cpu() >= self.how.stop) | (not self.change.may_end())
        if bool(going.any()):
            gradients = {
                n: torch.zeros_like(before[n]).index_copy_(0, on.to(slope.device), slope)
                for n, slope in zip(before, slopes, strict=True)
            }
            rate = self.how.learning_rate
            moved = {n: part - rate * self.adams[n].direction(gradients[n]) for n, part in before.items()}
            after = self.change.settled(moved, gradients)
            self.change.parts = {n: torch.where(_along(going, part), after[n], part) for n, part in before.items()}
        return losses.detach().cpu(), likely.cpu()


def _along(mask: Tensor, part: Tensor) -> Tensor:
    """One truth a group, against a tensor whose first axis is the group."""
    return mask.to(part.device).view(-1, *[1] * (part.ndim - 1))


def _batches(facts: Tensor, size: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Every fact once: all in their order, or a part at a time in an order that is drawn."""
    if size is None or size >= len(facts):
        yield facts
    else:
        yield from facts[torch.randperm(len(facts), generator=generator)].split(size)


class Rows:
    """All prompts, right-padded, with the residual stream that enters the lowest layer kept from one clean pass."""

    def __init__(self, inputs: MethodInputs, how: Training, lowest: int) -> None:
        model, self.lowest, self.requests = inputs.model, lowest, inputs.requests
        rows, ends, self.places, self.tokens = [], [], [], []
        end = _end_token(model) if how.end else []
        for request in inputs.requests:
            prompt = bare_prompt(model, request, inputs.start)
            ends.append(len(prompt.tokens) - 1)
            positions, ids = how.wanted(ends[-1], [*prompt.answer_ids, *end])
            rows.append((*prompt.tokens, *prompt.answer_ids, *end)[:-1])
            self.places.append(positions)
            self.tokens.append(ids)
        self.ends, self.rows = torch.tensor(ends), padded(model, rows)
        self.lengths = tuple(map(len, rows))
        together = min(how.batch or len(rows), len(rows))
        check_slopes(model, lowest, together, self.rows.shape[1], max(map(len, self.places)), together)
        self.frame, site = Frame.of(model, self.rows), Site("resid_pre", lowest)
        self.resid = states_at(model, self.rows, self.ends, [site])[site]

    def losses(self, change: Change, parts: Parts, some: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each of these facts, nats per token, and its tokens' mean probability (geometric)."""
        read: dict[WeightName, Tensor] = {}

        def reading(weight: WeightName) -> Callable[[Tensor], None]:
            return lambda seen: read.update({weight: seen.flatten(2).to(self.resid.device)})

        def adding(weight: WeightName) -> Callable[[Tensor], Tensor]:
            return lambda write: write + change.added(parts, weight, read[weight]).view(write.shape).to(write)

        sites: list[tuple[Site, Callable[[Tensor], Tensor | None]]] = []
        for weight in change.weights:
            source, target = (Site(kind, weight.layer) for kind in change.sites(weight))
            sites += [(source, reading(weight)), (target, adding(weight))]
        change.meets(self, some)
        with hooked(self.frame.model, sites):
            logp, row, _ = self.asked(some)
        count = torch.bincount(row).to(logp)
        mean = torch.zeros(len(some), device=logp.device).index_add(0, row.to(logp.device), logp) / count
        return -mean, mean.detach().exp()

    @thin_products()
    def asked(self, some: Tensor) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"], Int[Tensor, " token"]]:
        """Log-probability of every token that is asked of these facts, its row among them, and the position it has."""
        here = some.to(self.resid.device)
        with ending(self.ends[some], tokens=self.rows[here]):
            out = self.frame.blocks(self.resid[here], self.lowest)
        chosen = some.tolist()
        row = torch.tensor([r for r, fact in enumerate(chosen) for _ in self.places[fact]])
        column = torch.tensor([place for fact in chosen for place in self.places[fact]])
        logp = self.frame.logits(out[row, column]).float().log_softmax(-1)
        ids = torch.tensor([token for fact in chosen for token in self.tokens[fact]], device=logp.device)
        logp = logp.gather(1, ids[:, None])[:, 0]
        return logp, row, column


def _end_token(model: Bridge) -> list[int]:
    end = getattr(model.tokenizer, "eos_token_id", None)
    if end is None:
        raise EditError("the tokenizer of this model has no token that ends a text; give --set end=false")
    return [int(end)]
