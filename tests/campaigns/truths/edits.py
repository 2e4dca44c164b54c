"""Edits planted in models with planted circuits: each adds an edge or silences a head, and must be found, and no other.

    values     a head hears a further writer: a change of rank one in its values' weights
    mlp        an MLP hears a further writer: a change of rank one in its first matrix
    silence    a head writes nothing any more: its rows of the output matrix
    bypass     two neurons beside an MLP hear a further writer, and are heard as the MLP is
    nothing    a change of zeros, beside another edit in every fifth model

The difference of ACDC's circuits before and after must be the edges that this gains and loses. The layer must be the
first whose output is another, blindly; maps and spectra must name the one matrix and its rank; and every other weight
must be bitwise the old one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from campaigns.truths.circuits import ALIVE, HEADS, Found, Wiring, alive, edges, found, wiring
from circuits.analysis.diff import diff
from circuits.circuit import Circuit
from circuits.find import find
from circuits.graph import room
from circuits.mib.planted import D_HEAD, WIDTH, Planted, heard, written
from circuits.search.acdc import ACDC
from circuits.task import Task
from editing.bypass import Bypass
from editing.delta import Delta
from editing.edit import Edit
from editing.spectrum import spectra
from editing.weights.maps import weight_maps
from factscope.data.request import EditRequest
from factscope.model.bridge import Bridge
from factscope.model.hooks import record
from factscope.model.sites import Site
from factscope.model.weights import fingerprint, live_weights

KINDS = ("values", "mlp", "silence", "bypass")


@dataclass(frozen=True)
class Plan:
    """An edit, where it is, and the wiring that it leaves."""

    edit: Edit
    layer: int | None  # None: nothing changes
    weight: str | None  # None: no weight does
    after: Wiring


def plan(seed: int, planted: Planted) -> Plan:
    """The edit of a seed: its kind, or the next that this wiring has room for."""
    wired, rng = wiring(seed), np.random.default_rng(seed)
    for kind in (*KINDS[seed % len(KINDS) :], *KINDS):
        if made := _planned(kind, wired, planted, rng):
            return made
    raise AssertionError("nothing can be changed nowhere")


def nothing(seed: int, planted: Planted) -> Plan:
    """A change of zeros."""
    zero = Delta("blocks.1.mlp.W_out", torch.zeros(1, WIDTH), torch.zeros(4 * WIDTH, 1))
    return Plan(_edit(planted, deltas=(zero,)), None, None, wiring(seed))


def _planned(kind: str, wired: Wiring, planted: Planted, rng: np.random.Generator) -> Plan | None:
    if kind == "silence":
        heads = [name for name in wired if name.startswith("a") and _without(name, wired)]
        if not heads:
            return None
        name = heads[int(rng.integers(len(heads)))]
        return _silenced(name, wired, planted)
    head = kind == "values"
    free = [(reader, writer) for reader in wired if reader != "logits" and reader.startswith("a" if head else "m")
            for writer in _below(reader, wired) if writer not in wired[reader]]  # fmt: skip
    if not free:
        return None
    reader, writer = free[int(rng.integers(len(free)))]
    layer, after = int(reader[1]), {**wired, reader: [*wired[reader], writer]}
    taken = heard({writer: 1.0})[:, None]
    if kind == "bypass":
        rows = torch.cat([taken.T, -taken.T]), torch.stack([written(1.0, reader), written(-1.0, reader)])
        part = Bypass("neurons", layer, {"keys": rows[0], "bias": torch.zeros(2), "values": rows[1]}, {})
        after = {name: [*writers, *([f"b{layer}"] if reader in writers else [])] for name, writers in wired.items()}
        return Plan(_edit(planted, bypasses=(part,)), layer, None, {**after, f"b{layer}": [writer]})
    into = torch.zeros(1, WIDTH if head else 4 * WIDTH)
    if head:
        into[0, int(reader[-1]) * D_HEAD] = 1
    else:
        into[0, 0], into[0, 1] = 1, -1
    weight = f"blocks.{layer}.attn.W_V" if head else f"blocks.{layer}.mlp.W_in"
    return Plan(_edit(planted, deltas=(Delta(weight, into, taken),)), layer, weight, after)


def _below(reader: str, wired: Wiring) -> list[str]:
    """Writers of the circuit that this reader could hear."""
    layer, mlp = int(reader[1]), reader.startswith("m")
    own = [name for name in wired if name != "logits" and name != reader]
    return ["embed", *(name for name in own if int(name[1]) < layer or (mlp and name.startswith(f"a{layer}")))]


def _silenced(name: str, wired: Wiring, planted: Planted) -> Plan:
    layer, head = int(name[1]), int(name[-1])
    row = torch.zeros(HEADS * D_HEAD, 1)
    row[head * D_HEAD] = 1
    delta = Delta(f"blocks.{layer}.attn.W_O", -written(1.0, name)[None], row)
    return Plan(_edit(planted, deltas=(delta,)), layer, delta.weight, _without(name, wired))


def _without(name: str, wired: Wiring) -> Wiring:
    """What is left of a wiring where a node is silent."""
    return alive(
        {reader: [one for one in writers if one != name] for reader, writers in wired.items() if reader != name}
    )


def _edit(planted: Planted, **parts: Any) -> Edit:
    request = EditRequest("w1 w2 w3 w4", "w1 w2 w3 w4", "no", "yes")
    parts = {"deltas": (), **parts}
    return Edit("by hand", {}, (request,), base=fingerprint(planted.model), model="planted", seed=0, **parts)


@torch.no_grad()
def _states(model: Bridge, task: Task) -> list[Tensor]:
    """What each layer gives, [row, pos, d_model]."""
    sites = [Site("resid", layer) for layer in range(model.cfg.n_layers)]
    with record(model, sites) as seen:
        model(task.tokens(model))
    return [seen[site].clone() for site in sites]


def uncovered(seed: int, planned: Plan, planted: Planted, task: Task, before: Circuit) -> list[Found]:
    """What the difference, the states, maps and spectra find of a planned edit."""
    model = planted.model
    old = {name: weight.detach().clone() for name, weight in live_weights(model).items()}
    states = _states(model, task)
    with room([part.layer for part in planned.edit.bypasses]):
        before = find(model, task, ACDC(threshold=ALIVE)) if planned.edit.bypasses else before
        with planned.edit.applied(model):
            after = find(model, task, ACDC(threshold=ALIVE))
    with planned.edit.applied(model):
        now = _states(model, task)
        other = {name for name, weight in live_weights(model).items() if not torch.equal(weight, old[name])}
    change = diff(before, after)
    was, is_ = edges(wiring(seed)), edges(planned.after)
    wanted = {f"+{edge}" for edge in is_ - was} | {f"-{edge}" for edge in was - is_}
    seen = {f"+{edge}" for edge in change.gained} | {f"-{edge}" for edge in change.lost}
    layers = {f"layer {layer}" for layer in range(len(now)) if not torch.equal(states[layer], now[layer])}
    layers = {min(layers)} if layers else layers
    weights = {planned.weight} - {None}
    named: set[str] = set()
    if planned.edit.deltas:
        maps = weight_maps(model, [planned.edit]).matrices
        named = {one.weight for one in maps if one.norm > 0 and one.rank == 1}
        sizes = {one.weight: one.update_rank for one in spectra(model, [planned.edit]) if one.edits}
        assert all((abs(rank - 1) < 1e-6) == (name in named) for name, rank in sizes.items()), sizes
    return [
        found(seed, "circuit diff", wanted, seen),
        found(seed, "layer", {f"layer {planned.layer}"} if planned.layer is not None else set(), layers),
        found(seed, "weights", set(map(str, weights)), named),
        found(seed, "changed weights", set(map(str, weights)), other),
    ]
