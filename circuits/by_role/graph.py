"""Edges that belong to tokens: each edge of the plain graph once for every role that a token may have.

`m5->a20.h3.v @ last subject` says that the head's values at the subject's last token hear the MLP there. A head's
queries, an MLP and the logits are read where they write; keys and values are read where they stand, and carry what
they hear to every later token. So positions are joined inside heads alone, as they are in the model. A role may have
several tokens, or none: prompts of any length share the roles.

With `pairs` a key or value has an edge for each role that attends, too: `m5->a20.h3.v @ last subject -> last token` is
what the head's values at the subject's last token hear, as the last token reads them (PEAP's edges across positions,
Haklay et al. 2025, arXiv 2502.04577, between roles).

Masks and scores are [writer, reader, place]; a place is a role, or a pair of a role and one that attends to it. The sum
of an edge's scores over the attending roles is its score at the role, and over the roles its score in the plain graph.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from circuits.graph import Graph, Reader
from factscope.errors import GraphError
from factscope.model.prompts import ROLES, Prompt

START = "start token"
TOKEN_ROLES = (START, *ROLES)  # in the order of the text
END = ROLES[-1]


def token_roles(prompt: Prompt) -> tuple[str, ...]:
    """The role of each token; that of the last is always "last token", for there the answer is read."""
    return (*prompt.roles()[:-1], END)


@dataclass(frozen=True)
class Place:
    """Where an edge is read: the role of the token, and the role that attends to it, None for whichever does."""

    role: int
    attending: int | None = None


@dataclass(frozen=True, eq=False)
class Located:
    """Edges at the tokens of prompts of one length, as the plain engine takes them."""

    kept: Bool[np.ndarray, "writer reader copy_row pos"]  # one copy of the rows for each way that tokens attend
    taken: Int[np.ndarray, "row pos"]  # the copy that each token attends in


@dataclass(frozen=True)
class RoleGraph:
    """The plain graph, once for each role; writers and readers have its numbers, roles are in the order of the text."""

    plain: Graph
    roles: tuple[str, ...] = TOKEN_ROLES
    pairs: bool = False  # keys and values have an edge for each role that attends

    def __post_init__(self) -> None:
        if self.pairs and not self.plain.split:
            raise GraphError(
                "edges between pairs of roles are of keys and values, so it needs them split: leave out --no-split-qkv"
            )
        if unknown := [role for role in self.roles if role not in TOKEN_ROLES]:
            raise GraphError(f"no token has the role {unknown[0]!r}; the roles are {', '.join(TOKEN_ROLES)}")
        if END not in self.roles:
            raise GraphError(f"a graph by roles needs the {END}, where the answer is read")
        if list(self.roles) != [role for role in TOKEN_ROLES if role in self.roles]:
            raise GraphError(f"roles are given once each and in the order of the text: {', '.join(TOKEN_ROLES)}")

    @classmethod
    def of(cls, plain: Graph, prompts: Iterable[Prompt], *, pairs: bool = False) -> "RoleGraph":
        """The graph of the roles that tokens of these prompts have."""
        present = {role for prompt in prompts for role in token_roles(prompt)}
        return cls(plain, tuple(role for role in TOKEN_ROLES if role in present), pairs)

    def roles_in(self, prompt: Prompt) -> np.ndarray:
        """The number of each token's role, [pos]. GraphError for a role that the graph does not have."""
        found = token_roles(prompt)
        if unknown := [role for role in found if role not in self.roles]:
            raise GraphError(f"{prompt.text!r} has a token of the role {unknown[0]!r}, which this graph does not know")
        return np.array([self.roles.index(role) for role in found])

    # ---- edges ----

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where edges are read, in the order of the masks."""
        roles = range(len(self.roles))
        if not self.pairs:
            return tuple(Place(role) for role in roles)
        return tuple(Place(role, later) for role in roles for later in roles if role <= later)

    @cached_property
    def allowed(self) -> np.ndarray:
        """Which edges exist, [writer, reader, place]; the logits are read at the last token alone."""
        table = np.repeat(self.plain.allowed[:, :, None], len(self.places), axis=2)
        here = np.array([place.attending in (None, place.role) for place in self.places])
        table[:, ~self.carrying] &= here
        table[:, self.plain.end, :-1] = False
        return table

    @cached_property
    def carrying(self) -> np.ndarray:
        """Which readers are keys and values, [reader]."""
        return np.array([carries(reader) for reader in self.plain.readers])

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.allowed.sum())

    @property
    def end(self) -> int:
        """The logits' input at the last token, a place in [reader, place] flattened."""
        return self.plain.end * len(self.places) + len(self.places) - 1

    @cached_property
    def standing(self) -> np.ndarray:
        """Whether a place is at a token of the role, [place, role]."""
        return np.array([[place.role == role for role in range(len(self.roles))] for place in self.places])

    def reaching(self, reader: Reader) -> np.ndarray:
        """Whether what an input hears at a place is part of what its node writes at a role, [place, role]."""
        if not carries(reader):
            return self.standing
        return self._carried

    @cached_property
    def _carried(self) -> np.ndarray:
        table = [
            [
                place.role <= role if place.attending is None else place.attending == role
                for role in range(len(self.roles))
            ]
            for place in self.places
        ]
        return np.array(table)

    def inputs_of(self, writer: int, number: int) -> Iterable[int]:
        """Inputs, as places in [reader, place] flattened, from which a writer makes what input `number` hears of it."""
        role = self.places[number % len(self.places)].role
        for reader in np.flatnonzero(self.plain.feeds[:, writer]).tolist():
            where = np.flatnonzero(self.reaching(self.plain.readers[reader])[:, role] & self.allowed[0, reader])
            yield from (reader * len(self.places) + each for each in where.tolist())

    def full(self) -> np.ndarray:
        """Every edge kept."""
        return self.allowed.copy()

    def empty(self) -> np.ndarray:
        """No edge kept."""
        return np.zeros_like(self.allowed)

    def alive(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which writers reach the logits over kept edges, [writer, role], and which inputs do, [reader, place]."""
        plain = self.plain
        alive = np.zeros((len(plain.writers), len(self.roles)), dtype=bool)
        needed = np.zeros((len(plain.readers), len(self.places)), dtype=bool)
        for number in range(len(plain.readers) - 1, -1, -1):
            reader = plain.readers[number]
            nodes = list(plain.moved_by(reader))
            if not nodes:
                needed[number, -1] = True
            else:
                here: np.ndarray = np.logical_or.reduce(alive[nodes])
                needed[number] = (self.reaching(reader) & here).any(1)
            alive |= (kept[:, number] & needed[number]) @ self.standing
        return alive, needed

    def fed(self, kept: np.ndarray) -> np.ndarray:
        """Which writers the inputs reach over kept edges, [writer, role]; embed and positions always."""
        plain = self.plain
        fed = np.zeros((len(plain.writers), len(self.roles)), dtype=bool)
        fed[: plain.n_inputs] = True
        for number, reader in enumerate(plain.readers):
            heard: np.ndarray = np.logical_or.reduce(kept[:, number] & self._at_places(fed))
            nodes = list(plain.moved_by(reader))
            if nodes:
                fed[nodes] |= heard @ self.reaching(reader)
        return fed

    def pruned(self, kept: np.ndarray) -> np.ndarray:
        """Only the edges on some path from an input to the logits."""
        fed = self._at_places(self.fed(kept))[:, None]
        _, needed = self.alive(kept & fed)
        live: np.ndarray = kept & fed & needed[None]
        return live

    def _at_places(self, writers: np.ndarray) -> np.ndarray:
        """What is true of writers at roles, [writer, role], where edges are read, [writer, place]."""
        return writers[:, [place.role for place in self.places]]

    # ---- in and out ----

    def located(self, kept: np.ndarray, prompts: Sequence[Prompt]) -> Located:
        """The same edges at the tokens of these prompts, which are of one length.

        Roles that hear the same at all earlier tokens attend in one copy, and so all do where no pair is apart.
        """
        roles = np.stack([self.roles_in(prompt) for prompt in prompts])
        if not self.pairs:
            return Located(np.asarray(kept[:, :, roles]), np.zeros_like(roles))
        ways = self._ways(kept, sorted(set(roles.ravel().tolist())))
        each = list(dict.fromkeys(ways.values()))
        copies = [self._as_read_by(kept, way)[:, :, roles] for way in each]
        number = np.array([each.index(ways[role]) if role in ways else -1 for role in range(len(self.roles))])
        return Located(np.concatenate(copies, axis=2), number[roles])

    def _ways(self, kept: np.ndarray, roles: Sequence[int]) -> dict[int, int]:
        """For each role, the latest one that hears at all tokens up to this role's what this one does."""
        found: dict[int, int] = {}
        heard = {role: self._as_read_by(kept, role)[:, self.carrying] for role in roles}
        for role in reversed(roles):
            same = (way for way in dict.fromkeys(found.values()) if _alike(heard[way], heard[role], role))
            found[role] = next(same, role)
        return found

    def _as_read_by(self, kept: np.ndarray, attending: int) -> np.ndarray:
        """The edges by role alone, [writer, reader, role], keys and values as tokens of one role read them.

        What stands behind these tokens is not read; all is kept there.
        """
        by_role = np.ones((*kept.shape[:2], len(self.roles)), dtype=bool)
        for at, place in enumerate(self.places):
            if place.role == place.attending:
                by_role[:, ~self.carrying, place.role] = kept[:, ~self.carrying, at]
            if place.attending == attending:
                by_role[:, self.carrying, place.role] = kept[:, self.carrying, at]
        return by_role

    def everywhere(self, kept: np.ndarray) -> np.ndarray:
        """The same edges of the plain graph, at every role."""
        anywhere: np.ndarray = np.logical_or.reduce(kept, axis=2)
        table: np.ndarray = anywhere[:, :, None] & self.allowed
        return table

    def edge_name(self, writer: int, reader: int, place: int) -> str:
        """The edge in words, "a3.h5->m7 @ last subject", and for pairs "m5->a7.h1.v @ last subject -> last token"."""
        return f"{self.plain.edge_name(writer, reader)} @ {self.place_name(reader, place)}"

    def place_name(self, reader: int, place: int) -> str:
        """The role of the token, and behind an arrow the one that attends to it, if there is a choice."""
        at = self.places[place]
        named = self.roles[at.role]
        if at.attending is None or not carries(self.plain.readers[reader]):
            return named
        return f"{named} -> {self.roles[at.attending]}"

    def edge(self, name: str) -> tuple[int, int, int]:
        """Writer, reader and place of an edge's name; GraphError if the graph has no such edge."""
        plain, at, where = (part.strip() for part in name.partition("@"))
        if not at or where.partition("->")[0].strip() not in self.roles:
            raise GraphError(f"{name!r} names no role; an edge reads 'a3.h1->m7 @ {self.roles[-1]}'")
        writer, reader = self.plain.edge(plain)
        for place in np.flatnonzero(self.allowed[writer, reader]).tolist():
            if self.place_name(reader, place) == where:
                return writer, reader, place
        if self.plain.readers[reader].kind == "logits":
            raise GraphError(f"there is no edge {name!r}: the logits are read at the {END} alone")
        some = self.place_name(reader, int(np.flatnonzero(self.allowed[writer, reader])[-1]))
        raise GraphError(f"there is no edge {name!r}; this input is read, for instance, @ {some}")

    def names(self, kept: np.ndarray) -> list[str]:
        """The names of the kept edges, in the order of computation."""
        return [self.edge_name(w, r, at) for r, w, at in np.argwhere(kept.transpose(1, 0, 2)).tolist()]

    def described(self) -> dict[str, Any]:
        """The fields, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.plain} at {len(self.roles)} roles ({self.n_edges:,} {self.edges_called})"

    @property
    def edges_called(self) -> str:
        """What its edges are called."""
        return "edges between roles" if self.pairs else "edges at roles"


def carries(reader: Reader) -> bool:
    """Whether what this input hears is carried to later tokens: keys, values, and heads that are not split."""
    return reader.kind in ("k", "v", "head")


def _alike(ours: np.ndarray, theirs: np.ndarray, role: int) -> bool:
    return bool((ours[:, :, : role + 1] == theirs[:, :, : role + 1]).all())
