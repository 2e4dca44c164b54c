"""The plain run that every reader of states starts from: its states, and what is needed to go on from any of them.

States are counted as the lenses count them: 0 is what enters block 0, state l is what block l - 1 leaves. A row that
differs from the plain run at one place climbs from there: only the blocks above run, on the positions from the place
on; what stands before enters through its keys and values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.agreement import agree, finite
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.forward.at_once import bytes_of, fitting
from factscope.model.forward.ends import ending
from factscope.model.forward.partial import Frame, KeysValues, check_parts, embed
from factscope.model.prompts import OWN_ANSWER, Prompt, with_answer_ids
from factscope.model.readout import rank
from factscope.model.sites import Site

ROLES = {"last subject": "the subject's last token", "last token": "the last token"}  # where a state is taken
ROWS = 256  # cells that climb at once, or as many as find room


def site_of(state: int) -> Site:
    """Where a state stands in the model."""
    return Site("resid_pre") if state == 0 else Site("resid", state - 1)


def place_of(prompt: Prompt, role: str) -> int:
    """The position of a role's token in a prompt."""
    return prompt.subject_span[1] - 1 if role == "last subject" else len(prompt.tokens) - 1


@dataclass(frozen=True, eq=False)
class Said:
    """What is said of one token at the last position, cell by cell."""

    log_probability: Float[Tensor, " cell"]  # nats
    rank: Int[Tensor, " cell"]  # from 1
    top: Int[Tensor, " cell"]  # the most probable token


@dataclass(frozen=True, eq=False)
class CleanRun:
    """One row of tokens run once."""

    frame: Frame
    tokens: Int[Tensor, "1 pos"]
    states: Float[Tensor, "state pos d_model"]
    kept: tuple[KeysValues, ...]  # one for each block
    logits: Float[Tensor, "asked vocab"]  # at all positions, or at the last alone

    @classmethod
    @torch.no_grad()
    def of(cls, model: Bridge, tokens: Sequence[int], check: bool = True) -> "CleanRun":
        """Run the row block by block; ModelError where this does not give the model's own logits.

        `check=False` is for the further rows of one piece of work; `logits` are then those of the last position alone.
        """
        check_parts(model)
        row = torch.tensor([list(tokens)], device=device(model))
        with ending(torch.tensor([row.shape[1] - 1]), 0, row):
            frame, resid = Frame.of(model, row, check=False), embed(model, row)
            states, kept = [resid[0]], []
            for layer in range(model.cfg.n_layers):
                resid, keys_values = frame.recording_block(layer, resid)
                states.append(resid[0].to(states[0].device))
                kept.append(keys_values)
            if not check:
                return cls(frame, row, torch.stack(states), tuple(kept), finite(frame.logits(resid[0, -1:])))
            own = finite(model(row, use_cache=False)[0])
        if not agree(frame.logits(resid[0]), own):
            raise ModelError(
                f"this model ({architecture(model)}) run block by block does not give its own logits, so its states "
                "cannot be read exactly"
            )
        return cls(frame, row, torch.stack(states), tuple(kept), own)

    @property
    def last(self) -> int:
        """The last position."""
        return int(self.tokens.shape[1]) - 1

    def answered(self, model: Bridge, prompt: Prompt) -> Prompt:
        """The prompt of this row with its answer: the model's own next token where it has none."""
        if prompt.answer_ids:
            return prompt
        return with_answer_ids(model, prompt, [int(self.logits[-1].argmax())], OWN_ANSWER)

    def read(self, values: Float[Tensor, "cell d_model"], into: Sequence[int], position: int, answer: int) -> "Said":
        """What is said of `answer` at the last position where each value stands at `position`, as the state `into`."""
        log_probability, place, top = (
            torch.empty(len(into)),
            torch.empty(len(into)).long(),
            torch.empty(len(into)).long(),
        )
        for some, logits in self.patched(values, into, position):
            log_probability[some] = torch.log_softmax(logits, -1)[:, answer]
            place[some], top[some] = rank(logits, answer), logits.argmax(-1)
        return Said(log_probability, place, top)

    @torch.no_grad()
    def patched(
        self, values: Float[Tensor, "cell d_model"], into: Sequence[int], position: int
    ) -> Iterator[tuple[list[int], Float[Tensor, "cell vocab"]]]:
        """Some cells' numbers and their logits at the last position, until all were there; float32, on the CPU.

        Raises ModelError where not one cell finds room.
        """
        order = sorted(range(len(into)), key=lambda cell: into[cell])
        length = self.last + 1
        each = bytes_of(self.frame.model, 1, length, position)
        size = fitting(self.frame.model, ROWS, each, f"the states of {length} tokens")
        for begin in range(0, len(order), size):
            some = order[begin : begin + size]
            yield some, self._climb(values[some], [into[cell] for cell in some], position)

    def _climb(self, values: Tensor, into: Sequence[int], position: int) -> Float[Tensor, "cell vocab"]:
        """The same for cells in the order of the states that they are put into: each joins where its value stands."""
        frame, top = self.frame, len(self.kept)
        active = self.states.new_empty(0, self.last + 1 - position, self.states.shape[-1])
        for state in range(into[0], top + 1):
            joining = sum(one == state for one in into)
            if joining:
                rows = self.states[state, position:].repeat(joining, 1, 1)
                rows[:, 0] = values[len(active) : len(active) + joining].to(rows)
                active = torch.cat([active.to(rows.device), rows])
            if state < top and len(active):
                keys, values_before = (
                    part[:, :, :position].expand(len(active), -1, -1, -1) for part in self.kept[state]
                )
                with ending(torch.full((len(active),), self.last), position, self.tokens.expand(len(active), -1)):
                    active = frame.block(state, active, (keys, values_before) if position else None)
        return finite(frame.logits(active[:, -1]).float()).cpu()
