"""Edges that belong to tokens: each edge of the plain graph once for every role that a token may have.

`m5->a20.h3.v @ last subject` says that the head's values at the subject's last token hear the MLP there. A head's
queries, an MLP and the logits are read where they write; keys and values are read where they stand, and carry what
they hear to every later token. So positions are joined inside heads alone, as they are in the model. (PEAP gives each
pair of positions an edge of its own, Haklay et al. 2025, arXiv 2502.04577; ours are the sums of those over the tokens
that attend.) A role may have several tokens, or none: prompts of any length share the roles.

Masks and scores are [writer, reader, role]. The sum of an edge's scores over the roles is its score in the plain graph.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

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
class RoleGraph:
    """The plain graph, once for each role; writers and readers have its numbers, roles are in the order of the text."""

    plain: Graph
    roles: tuple[str, ...] = TOKEN_ROLES

    def __post_init__(self) -> None:
        if unknown := [role for role in self.roles if role not in TOKEN_ROLES]:
            raise GraphError(f"no token has the role {unknown[0]!r}; the roles are {', '.join(TOKEN_ROLES)}")
        if END not in self.roles:
            raise GraphError(f"a graph by roles needs the {END}, where the answer is read")
        if list(self.roles) != [role for role in TOKEN_ROLES if role in self.roles]:
            raise GraphError(f"roles are given once each and in the order of the text: {', '.join(TOKEN_ROLES)}")

    @classmethod
    def of(cls, plain: Graph, prompts: Iterable[Prompt]) -> "RoleGraph":
        """The graph of the roles that tokens of these prompts have."""
        present = {role for prompt in prompts for role in token_roles(prompt)}
        return cls(plain, tuple(role for role in TOKEN_ROLES if role in present))

    def places(self, prompt: Prompt) -> np.ndarray:
        """The number of each token's role, [pos]. GraphError for a role that the graph does not have."""
        found = token_roles(prompt)
        if unknown := [role for role in found if role not in self.roles]:
            raise GraphError(f"{prompt.text!r} has a token of the role {unknown[0]!r}, which this graph does not know")
        return np.array([self.roles.index(role) for role in found])

    # ---- edges ----

    @cached_property
    def allowed(self) -> np.ndarray:
        """Which edges exist, [writer, reader, role]; the logits are read at the last token alone."""
        table = np.repeat(self.plain.allowed[:, :, None], len(self.roles), axis=2)
        table[:, self.plain.end, :-1] = False
        return table

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.allowed.sum())

    @property
    def end(self) -> int:
        """The logits' input at the last token, a place in [reader, role] flattened."""
        return self.plain.end * len(self.roles) + len(self.roles) - 1

    def inputs_of(self, writer: int, number: int) -> Iterable[int]:
        """Inputs, as places in [reader, role] flattened, from which a writer makes what input `number` hears of it."""
        role = number % len(self.roles)
        for reader in np.flatnonzero(self.plain.feeds[:, writer]).tolist():
            first = 0 if carries(self.plain.readers[reader]) else role
            yield from (reader * len(self.roles) + each for each in range(first, role + 1))

    def full(self) -> np.ndarray:
        """Every edge kept."""
        return self.allowed.copy()

    def empty(self) -> np.ndarray:
        """No edge kept."""
        return np.zeros_like(self.allowed)

    def alive(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which writers reach the logits over kept edges, [writer, role], and which inputs do, [reader, role]."""
        plain = self.plain
        alive = np.zeros((len(plain.writers), len(self.roles)), dtype=bool)
        needed = np.zeros((len(plain.readers), len(self.roles)), dtype=bool)
        for number in range(len(plain.readers) - 1, -1, -1):
            reader = plain.readers[number]
            nodes = list(plain.nodes_of(reader))
            if not nodes:
                needed[number, -1] = True
            else:
                here: np.ndarray = np.logical_or.reduce(alive[nodes])
                needed[number] = _or_later(here) if carries(reader) else here
            alive |= kept[:, number] & needed[number]
        return alive, needed

    def fed(self, kept: np.ndarray) -> np.ndarray:
        """Which writers the inputs reach over kept edges, [writer, role]; embed and positions always."""
        plain = self.plain
        fed = np.zeros((len(plain.writers), len(self.roles)), dtype=bool)
        fed[: plain.n_inputs] = True
        for number, reader in enumerate(plain.readers):
            heard: np.ndarray = np.logical_or.reduce(kept[:, number] & fed)
            nodes = list(plain.nodes_of(reader))
            if nodes:
                fed[nodes] |= _or_earlier(heard) if carries(reader) else heard
        return fed

    def pruned(self, kept: np.ndarray) -> np.ndarray:
        """Only the edges on some path from an input to the logits."""
        fed = self.fed(kept)
        _, needed = self.alive(kept & fed[:, None])
        live: np.ndarray = kept & fed[:, None] & needed[None]
        return live

    # ---- in and out ----

    def located(self, kept: np.ndarray, prompts: Iterable[Prompt]) -> np.ndarray:
        """The same edges at the tokens of these prompts, which are of one length: [writer, reader, row, pos]."""
        places = np.stack([self.places(prompt) for prompt in prompts])
        return np.asarray(kept[:, :, places])

    def everywhere(self, kept: np.ndarray) -> np.ndarray:
        """The same edges of the plain graph, at every role."""
        anywhere: np.ndarray = np.logical_or.reduce(kept, axis=2)
        table: np.ndarray = anywhere[:, :, None] & self.allowed
        return table

    def edge_name(self, writer: int, reader: int, role: int) -> str:
        """The edge in words, "a3.h5->m7 @ last subject"."""
        return f"{self.plain.edge_name(writer, reader)} @ {self.roles[role]}"

    def edge(self, name: str) -> tuple[int, int, int]:
        """Writer, reader and role of "a3.h5->m7 @ last subject"; GraphError if the graph has no such edge."""
        plain, at, role = (part.strip() for part in name.partition("@"))
        if not at or role not in self.roles:
            raise GraphError(f"{name!r} names no role; an edge reads 'a3.h1->m7 @ {self.roles[-1]}'")
        found = (*self.plain.edge(plain), self.roles.index(role))
        if not self.allowed[found]:
            raise GraphError(f"there is no edge {name!r}: the logits are read at the {END} alone")
        return found

    def names(self, kept: np.ndarray) -> list[str]:
        """The names of the kept edges, in the order of computation."""
        return [self.edge_name(w, r, at) for r, w, at in np.argwhere(kept.transpose(1, 0, 2)).tolist()]

    def described(self) -> dict[str, Any]:
        """The fields, for a file."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.plain} at {len(self.roles)} roles ({self.n_edges:,} edges at roles)"


def carries(reader: Reader) -> bool:
    """Whether what this input hears is carried to later tokens: keys, values, and heads that are not split."""
    return reader.kind in ("k", "v", "head")


def _or_later(here: np.ndarray) -> np.ndarray:
    return np.logical_or.accumulate(here[::-1])[::-1]


def _or_earlier(here: np.ndarray) -> np.ndarray:
    return np.logical_or.accumulate(here)
