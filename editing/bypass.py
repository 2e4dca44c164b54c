"""Beside a projection: what an edit writes there where a gate opens, with no weight changed.

A `Bypass` is numbers without behaviour: of which kind it is, at which layer, and its tensors. What a kind does stands
in `editing/bypasses/KIND.py`: how the bypasses of several edits are joined into one, and how the joined one writes. It
reads what the down-projection or the whole MLP reads, x, and rewrites what the down-projection writes, y. A gate
decides once for each row, at the prompt's last token and from what stands there and before it
(`factscope.model.forward.ends`), or at each position from what stands there, so that what is scored and what is
generated are answers of one and the same model. It may stand in an earlier layer than what it opens. Where no gate
opens, y is handed on untouched: the model is bitwise the one without the edit.

A gate that looks at the whole prompt acts on positions before those that it was decided by. It cannot be asked by what
runs parts of a model, or positions from the middle of a prompt on, and says so.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from editing import bypasses
from factscope.catalogue import Catalogue
from factscope.data.request import EditRequest
from factscope.errors import EditError
from factscope.model.bridge import Bridge, run_up_to
from factscope.model.forward.batched import ROWS, padded
from factscope.model.forward.ends import Ends, ending, ends_of
from factscope.model.forward.onednn import thin_products
from factscope.model.hooks import record
from factscope.model.prompts import tokenized
from factscope.model.sites import Site
from factscope.model.weights import key_width

Write = Callable[[Tensor, Tensor, Ends], Tensor | None]  # x, y, where prompts end -> y, or None where nothing opens
Load = Callable[[Tensor, Ends], Tensor]  # x, where prompts end -> [row unit], each unit's share of each prompt
Decide = Callable[[Tensor, Ends], Tensor]  # what the gate's layer reads, where prompts end -> what each row will hear
ABOUT = 3  # paraphrases of a fact, and neighbours, whose meeting with a gate is noted


@dataclass(frozen=True, eq=False)
class Bypass:
    """What stands beside the down-projection of one layer."""

    kind: str  # a file of editing/bypasses
    layer: int
    tensors: dict[str, Float[Tensor, "..."]]  # float32, on the CPU
    numbers: dict[str, float]
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class BypassKind:
    """What one kind of bypass does."""

    name: str  # as its file
    about: str  # what it is, in a sentence for cards and pages
    shapes: dict[str, tuple[str, ...]]  # of its tensors; "d_in" and "d_out" are the projection's
    join: Callable[[Sequence[Bypass]], Bypass]  # several edits' at one layer, in order; EditError where they disagree
    writer: Callable[[Bypass, Bridge], Write]
    scrambled: Callable[[Bypass, torch.Generator, bool], Bypass]  # a random memory as large; with True, gate too
    load: Callable[[Bypass, Bridge], Load]  # its units are balls, experts, neurons
    reads: Literal["mlp_hidden", "mlp_read"] = "mlp_hidden"  # the site of x
    prompts: bool = False  # whether its gate looks at the whole prompt, whose tokens `Ends` then holds
    gate_layer: Callable[[Bypass], int] | None = None  # whose x the gate reads; None: that of the bypass itself
    decide: Callable[[Bypass], Decide] | None = None  # asked there once for each row, where it is another layer

    def heard(self, part: Bypass) -> Site:
        """The site at which the gate reads: `load` is asked with what passes there."""
        return Site(self.reads, part.layer if self.gate_layer is None else self.gate_layer(part))


@dataclass(frozen=True)
class Met:
    """How a prompt met what stands beside the weights, when its edit was computed."""

    fact: int  # which of the edit's requests it is about
    about: Literal["edit", "paraphrase", "neighbour"]
    prompt: str
    load: tuple[float, ...]  # share of the prompt's tokens that each unit answers; all 0 where the gate is closed

    @property
    def opened(self) -> bool:
        """Whether the gate opened."""
        return any(self.load)


KINDS = Catalogue("kind of bypass", bypasses, "KIND", BypassKind, EditError)


def check(part: Bypass, model: Bridge, name: str) -> None:
    """EditError unless the model has the layer, and the tensors the shapes that its projection asks for, all finite."""
    shapes = KINDS.get(part.kind).shapes
    if not 0 <= part.layer < len(model.blocks):
        raise EditError(f"edit {name} stands beside layer {part.layer}, which this model does not have")
    widths = {"d_in": key_width(model, part.layer), "d_out": int(model.cfg.d_model)}
    for key, dims in shapes.items():
        tensor = part.tensors.get(key)
        wanted = tuple(widths.get(dim, -1) for dim in dims)
        if tensor is None or len(tensor.shape) != len(wanted):
            raise EditError(f"edit {name} has no {key} of {len(wanted)} dimensions beside layer {part.layer}")
        if any(want not in (-1, size) for want, size in zip(wanted, tensor.shape, strict=True)):
            raise EditError(
                f"the {key} of edit {name} are {tuple(tensor.shape)}, and layer {part.layer} asks for {wanted}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise EditError(f"edit {name} has numbers that are not finite beside layer {part.layer}; compute it again")


def join(parts: Sequence[Bypass]) -> list[Bypass]:
    """One bypass for each layer and kind: later edits of one kind go on from earlier ones."""
    ordered = sorted(parts, key=lambda part: (part.layer, part.kind))  # stable: edits stay in order
    return [
        KINDS.get(kind).join(list(some)) for (_, kind), some in groupby(ordered, lambda part: (part.layer, part.kind))
    ]


def functions(parts: Sequence[Bypass], model: Bridge) -> list[tuple[Site, Callable[[Tensor], Tensor | None]]]:
    """The hooks of joined bypasses, to stand in the model."""
    return [hook for part in parts for hook in _hooks(part, KINDS.get(part.kind), model)]


def read_prompts(parts: Sequence[Bypass]) -> bool:
    """Whether a gate among them looks at whole prompts."""
    return any(KINDS.get(part.kind).prompts for part in parts)


@torch.no_grad()
@thin_products()
def meetings(model: Bridge, part: Bypass, requests: Sequence[EditRequest], start: str) -> tuple[Met, ...]:
    """How the prompts of these facts, some paraphrases and some neighbours meet a bypass; it need not be in place."""
    asked: list[tuple[int, Literal["edit", "paraphrase", "neighbour"], str]] = []
    for number, request in enumerate(requests):
        asked.append((number, "edit", request.prompt))
        asked += [(number, "paraphrase", text) for text in request.paraphrases[:ABOUT]]
        asked += [(number, "neighbour", one.prompt) for one in request.neighbours[:ABOUT]]
    load, found, site = KINDS.get(part.kind).load(part, model), [], KINDS.get(part.kind).heard(part)
    for some in (asked[i : i + ROWS] for i in range(0, len(asked), ROWS)):
        rows = [tokenized(model, text, start=start)[0] for _, _, text in some]
        ids = padded(model, rows)
        with ending(torch.tensor([len(row) - 1 for row in rows]), tokens=ids) as now, record(model, [site]) as seen:
            run_up_to(model, ids, site.layer)
        found += [Met(*one, tuple(shares)) for one, shares in zip(some, load(seen[site], now).tolist(), strict=True)]
    return tuple(found)


def _hooks(part: Bypass, kind: BypassKind, model: Bridge) -> list[tuple[Site, Callable[[Tensor], Tensor | None]]]:
    write = kind.writer(part, model)
    met: list[Tensor] = []
    read: list[Tensor] = []
    decided: list[Tensor] = []
    decide = kind.decide(part) if kind.decide is not None else None

    def meeting(tokens: Tensor) -> None:
        met[:] = [tokens]
        decided.clear()

    def deciding(x: Tensor) -> None:
        assert decide is not None  # only kinds whose gate stands below have this hook
        now = ends_of(x.shape[0], x.shape[1])
        decided[:] = [now.once(part, lambda: decide(x, now))]

    def reading(x: Tensor) -> None:
        read[:] = [x]

    def writing(y: Tensor) -> Tensor | None:
        (x,) = read
        read.clear()
        now = ends_of(y.shape[0], y.shape[1])
        tokens = met.pop() if met else None
        if kind.prompts and now.tokens is None:
            if tokens is None or tokens.shape != y.shape[:2]:
                raise EditError(
                    "an edit is in place whose gate reads whole prompts, and this runs parts of the model or of a "
                    "prompt: take the edit out"
                )
            now.tokens = tokens
        if decided:
            now.decided[id(part)] = decided.pop()
        return write(x, y, now)

    pair = [(Site(kind.reads, part.layer), reading), (Site("mlp_write", part.layer), writing)]
    below = [] if kind.heard(part).layer == part.layer else [(kind.heard(part), deciding)]
    return [(Site("tokens"), meeting), *below, *pair] if kind.prompts else [*below, *pair]


# ---- what several kinds share ----


def concatenated(parts: Sequence[Bypass], names: Collection[str]) -> Bypass:
    """These tensors of all parts and their words, one part's after another's; what else there is, as the first has."""
    tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in names}
    words = tuple(word for part in parts for word in part.words)
    return replace(parts[0], tensors=parts[0].tensors | tensors, words=words)


def check_whole(now: Ends, width: int) -> None:
    """EditError where a gate that reads whole prompts is asked in a pass, `width` positions, of a part of one."""
    if now.begun or bool((now.last >= width).any()):
        raise EditError("an edit is in place whose gate reads whole prompts, and this runs part of one: take it out")


def whole_prompt(chosen: Callable[[Tensor, Ends], Int[Tensor, " row"]], units: int) -> Load:
    """The load of units of which one answers all of a prompt, the one that is `chosen`; of -1 none does."""
    return lambda x, now: (chosen(x, now).cpu()[:, None] == torch.arange(units)).float()


def random_directions(rows: Float[Tensor, "*row d"], generator: torch.Generator) -> Float[Tensor, "*row d"]:
    """Rows of the same norms in random directions."""
    drawn = torch.randn(rows.shape, generator=generator)
    turned: Tensor = drawn * (rows.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))
    return turned


def random_words(count: int, generator: torch.Generator) -> tuple[str, ...]:
    """Words that nobody writes, of 16 letters."""
    letters = torch.randint(97, 123, (count, 16), generator=generator).tolist()
    return tuple("".join(map(chr, word)) for word in letters)


def scrambled_rows(part: Bypass, generator: torch.Generator, gate: bool, written: str = "values") -> Bypass:
    """What is `written` behind keys, of the same norms in random directions; with `gate`, such keys too."""
    names = (written, "keys") if gate else (written,)
    return replace(part, tensors=part.tensors | {n: random_directions(part.tensors[n], generator) for n in names})
