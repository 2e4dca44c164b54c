"""Borrow the model: read it, patch it, flip its flags, and give it back as it was.

This is the one file that adds hooks or flips flags. Each context manager undoes exactly what it did, also when the
block raises, and a patch or a record that never fired is an error: an intervention that did nothing must not pass for
a result of zero.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from factscope.errors import ModelError
from factscope.model.bridge import Bridge, architecture, device
from factscope.model.sites import Site, flag_of, hook_name

Index = slice | Sequence[int] | Tensor
Hook = tuple[Site, Callable[[Tensor], Tensor | None]]
_POINTS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
_STANDING: WeakKeyDictionary[Any, "_Standing"] = WeakKeyDictionary()


@dataclass(eq=False)
class _Standing:
    """What stands beside a model's modules."""

    digest: str = ""
    prompts: bool = False  # whether what it does at a position depends on what follows in the prompt
    functions: tuple[Hook, ...] = ()
    handles: list[tuple[Any, Any]] = field(default_factory=list)


class HookNeverFired(RuntimeError):
    """A patch or a record was asked for at a site that the forward pass did not reach."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Write `value` at `site`, for the given rows and positions (all of them by default).

    `value` broadcasts to [row, pos, ...] of what is replaced: [row, pos, d_model], or [row, pos, d_head] where the
    site names a head. With `add`, it is added instead of written. A callable value receives the selected activations
    and returns their replacement.
    """

    site: Site
    value: Tensor | Callable[[Tensor], Tensor]
    rows: Index | None = None  # None: all
    positions: Index | None = None
    add: bool = False

    def applied(self, activation: Tensor) -> Tensor:
        """A copy of `activation` with the patch written into it."""
        out = activation.clone()
        index = _grid(activation, self.rows, self.positions)
        if self.site.head is not None:
            index = (*index, self.site.head)
        old = out[index]
        value = self.value(old) if callable(self.value) else self.value.to(out)
        out[index] = old + value if self.add else value.expand_as(old)
        return out


def _grid(activation: Tensor, rows: Index | None, positions: Index | None) -> tuple[Any, ...]:
    """Rows by positions as an index, whether each is a slice or a list (two lists would pair up instead)."""
    rows = slice(None) if rows is None else rows
    positions = slice(None) if positions is None else positions
    if isinstance(rows, slice) or isinstance(positions, slice):
        return (rows, positions)
    row = torch.as_tensor(rows, device=activation.device)
    position = torch.as_tensor(positions, device=activation.device)
    return (row[:, None], position[None, :])


def _point(model: Bridge, site: Site) -> Any:
    points = _POINTS.get(model)
    if points is None:
        points = _POINTS[model] = dict(model.hook_dict)
    name = hook_name(site)
    if name not in points:
        raise ModelError(
            f"this model ({architecture(model)}, {model.cfg.n_layers} layers) has nothing to read or change at {site}"
        )
    flag = flag_of(site)
    if flag is not None and not getattr(model.cfg, flag):
        raise ValueError(f"{site} is silent until the flag {flag} is on: wrap the call in flags(model, {flag}=True)")
    return points[name]


@contextmanager
def hooked(model: Bridge, functions: Sequence[Hook]) -> Iterator[None]:
    """Call each function with the activation at its site; what it returns, if not None, replaces the activation.

    Raises HookNeverFired on leaving, if a site was never reached.
    """
    fired = [False] * len(functions)
    handles: list[tuple[Any, Any]] = []
    try:
        for number, (site, function) in enumerate(functions):

            def call(activation: Tensor, number: int = number, function: Any = function, **_: Any) -> Tensor | None:
                fired[number] = True
                changed: Tensor | None = function(activation)
                return changed

            point = _point(model, site)
            handles.append((point, point.add_hook(call)))
        yield
    finally:
        _take_off(handles)
    silent = [str(site) for (site, _), did in zip(functions, fired, strict=True) if not did]
    if silent:
        raise HookNeverFired(f"no activation passed through {', '.join(silent)}: nothing was read or changed there")


def _take_off(handles: Sequence[tuple[Any, Any]]) -> None:
    for point, handle in handles:
        handle.hook.remove()
        point.fwd_hooks.remove(handle)


def stand(
    model: Bridge,
    digest: str,
    functions: Sequence[Hook],
    prompts: bool = False,
) -> None:
    """From now on call these functions before any other hook, in the place of those that stood there; none: of nothing.

    What stands is a part of what the model computes, as its weights are: it outlives TransformerLens's own resets, a
    run that does not reach it is no error, and `digest` names it in the model's fingerprint. `prompts` says that what
    it does at a position depends on what follows in the prompt, so that two prompts which begin alike share nothing.
    """
    _take_off(_STANDING.pop(model, _Standing()).handles)
    if not functions:
        return
    _STANDING[model] = _Standing(digest, prompts, tuple(functions))
    _put_on(model, _STANDING[model])


def _put_on(model: Bridge, there: _Standing) -> None:
    for site, function in reversed(there.functions):
        point = _point(model, site)

        def call(activation: Tensor, function: Any = function, **_: Any) -> Tensor | None:
            changed: Tensor | None = function(activation)
            return changed

        # Each goes before all others, so the last one is put first: they run in the order in which they are given.
        there.handles.append((point, point.add_hook(call, is_permanent=True, prepend=True)))


@contextmanager
def apart(model: Bridge) -> Iterator[None]:
    """The block runs without what stands beside the model's modules, for whoever computes it as a part of its own."""
    there = _STANDING.get(model)
    if there is None or not there.handles:  # nothing stands there, or it is apart already
        yield
        return
    _take_off(there.handles)
    there.handles.clear()
    try:
        yield
    finally:
        _put_on(model, there)


def standing_functions(model: Bridge) -> tuple[Hook, ...]:
    """What stands beside the model's modules, as it was given to `stand`, also while it is apart."""
    return _STANDING.get(model, _Standing()).functions


def standing(model: Bridge) -> str:
    """The digest of what stands beside the model's modules; empty where nothing does."""
    return _STANDING.get(model, _Standing()).digest


def reads_prompts(model: Bridge) -> bool:
    """Whether what stands beside the model's modules looks at whole prompts."""
    return _STANDING.get(model, _Standing()).prompts


@contextmanager
def patched(model: Bridge, patches: Sequence[Patch]) -> Iterator[None]:
    """Run the block with `patches` in place; later patches at one site see what earlier ones wrote."""
    with hooked(model, [(patch.site, patch.applied) for patch in patches]):
        yield


@contextmanager
def record(model: Bridge, sites: Sequence[Site], grad: bool = False) -> Iterator[dict[Site, Tensor]]:
    """Collect the activations at `sites` of the last forward pass in the block; detached copies unless `grad`.

    Copies of a model that lies on several devices come to the one that its input goes to.
    """
    seen: dict[Site, Tensor] = {}
    place = device(model)

    def keeper(site: Site) -> Callable[[Tensor], None]:
        def keep(activation: Tensor) -> None:
            value = activation if site.head is None else activation[..., site.head, :]
            seen[site] = value if grad else value.detach().clone().to(place)

        return keep

    with hooked(model, [(site, keeper(site)) for site in sites]):
        yield seen


@contextmanager
def flags(model: Bridge, **values: bool) -> Iterator[None]:
    """Set TransformerLens flags (use_attn_result, use_split_qkv_input, use_hook_mlp_in) for the block."""
    with ExitStack() as undo:
        for name, value in values.items():
            before = bool(getattr(model.cfg, name))
            setter = getattr(model, f"set_{name}")
            undo.callback(setter, before)
            setter(value)
        yield


def put_together(model: Bridge) -> int:
    """A number that is another where other modules, or other forward hooks on them, make up the model."""
    return hash(tuple((id(one), *one._forward_hooks, *one._forward_pre_hooks) for one in model.modules()))
