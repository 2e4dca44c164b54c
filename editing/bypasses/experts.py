"""Experts: a mixture of linear maps beside a projection, whose router reads the token and the sentence's anchor.

    G   = top_k(softmax(W_g [x / rms(x) ; a / rms(a)]))         one gate an expert, all but the k largest set to 0
    y' := y + lambda * sum_e G_e (x W_e)                        at every position of a row in scope

x is what the down-projection reads, y what it writes; a is the mean embedding of the knowledge anchors that stand in
the row's prompt, 0 without one (Wang and Li 2024, equations 9 to 12). The gates are not scaled up again after the top
k, unless that is asked for.

An edit is in scope where one of its anchors stands in the prompt as whole words, small and capital letters alike; of
anchors that overlap the longest counts. Of several edits in scope the latest is used, alone. So an edit in place keeps
its own experts, and taking it out leaves nothing behind. With `always`, an edit is in scope everywhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from editing.bypass import Bypass, BypassKind, Load, Write, concatenated, random_words
from factscope.model.bridge import Bridge
from factscope.model.forward.ends import Ends

MOST = 4096  # prompts whose decision is kept at hand


@dataclass(frozen=True)
class Rule:
    """What one edit's experts are, and when they speak: a row of the part's "edits"."""

    experts: int
    anchors: int
    top_k: int
    strength: float  # lambda
    always: bool = False  # in scope everywhere
    anchored: bool = True  # whether the router reads the anchor; if not, it reads 0
    renormalised: bool = False  # whether the gates that are left sum to 1

    @classmethod
    def of(cls, row: Tensor) -> "Rule":
        """The row read back."""
        experts, anchors, top_k, strength, *switches = row.tolist()
        return cls(int(experts), int(anchors), int(top_k), strength, *map(bool, switches))

    def row(self) -> Float[Tensor, " setting"]:
        """As numbers."""
        return torch.tensor(
            [self.experts, self.anchors, self.top_k, self.strength, self.always, self.anchored, self.renormalised],
            dtype=torch.float32,
        )


def unit(x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row d"]:
    """x over its root mean square; 0 stays 0."""
    return x / x.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def scores(
    x: Float[Tensor, "row pos d_in"], anchor: Float[Tensor, "row d_out"], router: Float[Tensor, "*row expert d_read"]
) -> Float[Tensor, "row pos expert"]:
    """What the softmax is taken of; one router for all rows, or one a row."""
    width = x.shape[-1]
    told = (unit(anchor)[:, None] @ router[..., width:].mT).view(len(x), 1, -1)
    return unit(x) @ router[..., :width].mT + told


def gates(
    p: Float[Tensor, "row pos expert"], top_k: int, renormalised: bool = False
) -> Float[Tensor, "row pos expert"]:
    """The k largest probabilities as they are (or over their sum), the others 0."""
    best, which = p.topk(top_k, dim=-1)
    if renormalised:
        best = best / best.sum(-1, keepdim=True)
    return torch.zeros_like(p).scatter(-1, which, best)


@dataclass(frozen=True, eq=False)
class Mixture:
    """One edit's experts, on one device."""

    rule: Rule
    experts: Float[Tensor, "expert d_in d_out"]
    router: Float[Tensor, "expert d_read"]
    anchors: Float[Tensor, "anchor d_out"]
    words: tuple[str, ...]  # the anchors, as they are looked for

    def gates(self, x: Float[Tensor, "row pos d_in"], anchor: Float[Tensor, "row d_out"]) -> Tensor:
        """G at every position, [row pos expert]."""
        return gates(scores(x.float(), anchor, self.router).softmax(-1), self.rule.top_k, self.rule.renormalised)

    def added(self, x: Float[Tensor, "row pos d_in"], anchor: Float[Tensor, "row d_out"]) -> Tensor:
        """lambda * sum_e G_e (x W_e), [row pos d_out]; an expert is run where its gate is not 0 alone."""
        gate = self.gates(x, anchor)
        out = x.new_zeros((*x.shape[:2], self.experts.shape[-1]), dtype=torch.float32)
        for number, expert in enumerate(self.experts):
            row, pos = gate[..., number].nonzero(as_tuple=True)
            out[row, pos] += gate[row, pos, number, None] * (x[row, pos].float() @ expert)
        return self.rule.strength * out

    def told(self, found: Sequence[str]) -> Float[Tensor, " d_out"]:
        """What the router reads of a prompt in which these anchors stand."""
        own = [number for number, word in enumerate(self.words) if word in found]
        if not own or not self.rule.anchored:
            return torch.zeros_like(self.router[0, : self.experts.shape[-1]])
        return self.anchors[own].mean(0)


def mixtures(part: Bypass, device: torch.device = torch.device("cpu")) -> list[Mixture]:
    """The edits of a joined part, in order."""
    out, expert, anchor = [], 0, 0
    tensors = {name: tensor.to(device) for name, tensor in part.tensors.items()}
    for row in part.tensors["edits"]:
        rule = Rule.of(row)
        own = slice(expert, expert + rule.experts)
        words = slice(anchor, anchor + rule.anchors)
        out.append(
            Mixture(
                rule, tensors["experts"][own], tensors["router"][own], tensors["anchors"][words],
                tuple(word.casefold() for word in part.words[words]),
            )
        )  # fmt: skip
        expert, anchor = own.stop, words.stop
    return out


class Names:
    """Which edit of a part speaks in a row, by the words of its prompt."""

    def __init__(self, some: Sequence[Mixture]) -> None:
        self.mixtures = some
        words = sorted({word for one in some for word in one.words}, key=len, reverse=True)  # the longest first
        self.pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)") if words else None

    def anchors(self, text: str) -> tuple[str, ...]:
        """The anchors that stand in a prompt."""
        found = self.pattern.findall(text.casefold()) if self.pattern else []
        return tuple(dict.fromkeys(found))

    def edit(self, found: Sequence[str]) -> int:
        """The edit that speaks where these anchors stand: the latest in scope; -1 for none."""
        own = [
            number
            for number, one in enumerate(self.mixtures)
            if one.rule.always or not set(found).isdisjoint(one.words)
        ]
        return own[-1] if own else -1


class Writer:
    """Add what the experts say to every position of the rows in scope."""

    def __init__(self, part: Bypass, model: Bridge) -> None:
        self.model = model
        self.on = cache(lambda device: mixtures(part, device))
        self.names = Names(mixtures(part))
        self.known: dict[tuple[int, ...], tuple[int, tuple[str, ...]]] = {}

    def __call__(self, x: Tensor, y: Tensor, now: Ends) -> Tensor | None:
        """The rows in scope rewritten, all others as they are; None where none is."""
        decided: list[tuple[int, tuple[str, ...]]] = now.once(self, lambda: self.decide(now))
        spoken = sorted({edit for edit, _ in decided} - {-1})
        if not spoken:
            return None
        some, out = self.on(y.device), y.clone()
        for edit in spoken:
            rows = [row for row, (chosen, _) in enumerate(decided) if chosen == edit]
            told = torch.stack([some[edit].told(decided[row][1]) for row in rows])
            out[rows] = y[rows] + some[edit].added(x[rows], told).to(y)
        return out

    def decide(self, now: Ends) -> list[tuple[int, tuple[str, ...]]]:
        """The edit that speaks in each row, -1 for none, and the anchors that stand in its prompt."""
        assert now.tokens is not None  # the kind reads prompts
        rows = [tuple(row[: end + 1]) for row, end in zip(now.tokens.tolist(), now.last.tolist(), strict=True)]
        for row in rows:
            if row not in self.known:
                if len(self.known) >= MOST:
                    self.known.clear()
                found = self.names.anchors(self.model.tokenizer.decode(list(row)))
                self.known[row] = self.names.edit(found), found
        return [self.known[row] for row in rows]


def join(parts: Sequence[Bypass]) -> Bypass:
    """The experts of all edits, side by side and in order."""
    joined = concatenated(parts, [name for name in SHAPES if name != "edits"])
    rows = [row for part in parts for row in part.tensors["edits"]]
    longest = max(map(len, rows))  # an edit of before has fewer switches, and those are off
    edits = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in rows])
    return replace(joined, tensors=joined.tensors | {"edits": edits})


def writer(part: Bypass, model: Bridge) -> Write:
    """The experts of all edits in place."""
    return Writer(part, model)


def load(part: Bypass, model: Bridge) -> Load:
    """For each expert of all edits, the share of a prompt's tokens whose most likely expert it is."""
    speaker = Writer(part, model)

    def shares(x: Tensor, now: Ends) -> Tensor:
        out, begin = torch.zeros(len(x), len(part.tensors["experts"])), 0
        decided = speaker.decide(now)
        for number, one in enumerate(speaker.on(x.device)):
            for row, (edit, found) in enumerate(decided):
                if edit == number:
                    own = x[row : row + 1, : int(now.last[row]) + 1]
                    first = one.gates(own, one.told(found)[None])[0].argmax(-1).cpu()
                    each = torch.bincount(first, minlength=one.rule.experts) / len(first)
                    out[row, begin : begin + one.rule.experts] = each
            begin += one.rule.experts
        return out

    return shares


def scrambled(part: Bypass, generator: torch.Generator, gate: bool) -> Bypass:
    """Experts of the same norms in random directions, behind the same anchors, or behind words that nobody writes."""
    tensors = dict(part.tensors)
    for name in ("experts", "router", "anchors") if gate else ("experts",):
        drawn = torch.randn(tensors[name].shape, generator=generator)
        size = tensors[name].flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
        tensors[name] = drawn * size.view(-1, *[1] * (drawn.ndim - 1))
    words = random_words(len(part.words), generator) if gate else part.words
    return replace(part, tensors=tensors, words=words)


SHAPES = {
    "experts": ("expert", "d_in", "d_out"),
    "router": ("expert", "d_read"),
    "anchors": ("anchor", "d_out"),
    "edits": ("edit", "setting"),
}
KIND = BypassKind(
    "experts",
    "experts: linear maps that a router chooses token by token, in prompts that name what was edited",
    SHAPES,
    join,
    writer,
    scrambled,
    load,
    prompts=True,
)
