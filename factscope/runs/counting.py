"""What a block of work takes, counted as it runs: the bytes of its tensors at their highest, and its operations.

Every tensor that PyTorch makes passes by here with its storage, which counts until it is freed; views count once. An
operation is a multiplication or an addition of a matrix product, as papers count them: 2 m n k for a product, and the
leading term of the textbooks for factorisations; what is done number by number is not counted, since on every machine
the products outweigh it. It needs no hardware that reports anything.

*Scope*: what libraries hold besides tensors, and the workspace inside one operation, is not seen (`memory.py` measures
the process as a whole).
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class Counted(TorchDispatchMode):
    """Bytes and operations since the block began, with what was there before as `begin_with` was told of it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_now = self.bytes_most = self.operations = 0
        self._held: set[int] = set()  # storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        found = func(*args, **(kwargs or {}))
        self.operations += _operations(func, args, kwargs or {}, found)
        self.begin_with(tree_leaves(found))
        return found

    def begin_with(self, tensors: Any) -> None:
        """Count these as held from now on, until they are freed."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            held: Any = tensor
            if tensor.is_mkldnn:  # a matrix packed for oneDNN, which shows no storage
                key, size = id(tensor), tensor.numel() * tensor.element_size()
            else:
                held = tensor.untyped_storage()
                key, size = int(held._cdata), int(held.nbytes())
            if key not in self._held:
                self._held.add(key)
                self.bytes_now += size
                self.bytes_most = max(self.bytes_most, self.bytes_now)
                weakref.finalize(held, self._freed, key, size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self._held.discard(key)
        self.bytes_now -= size

    def since(self) -> None:
        """Begin anew: the highest is what is held now, and no operation was done."""
        self.bytes_most, self.operations = self.bytes_now, 0


@contextmanager
def counted() -> Iterator[Counted]:
    """Count what the block does."""
    with Counted() as count:
        yield count


def _operations(func: Any, args: Any, kwargs: Any, found: Any) -> int:
    known = flop_registry.get(func.overloadpacket)
    if known is not None:
        return int(known(*args, **kwargs, out_val=found))
    if str(func.overloadpacket) == "mkldnn._linear_pointwise":  # rows, weight [d_out, d_in]: `thin_products`
        return 2 * int(args[0].numel()) * int(args[1].shape[0])
    own = _FACTORISATIONS.get(func.overloadpacket)
    return 0 if own is None else int(own(*args))


def _many(matrix: Tensor) -> int:
    return math.prod(matrix.shape[:-2])


def _cube(matrix: Tensor) -> int:
    """rows columns^2 of the thinner side, for each matrix of a batch."""
    short, long = sorted(matrix.shape[-2:])
    return _many(matrix) * long * short * short


# Golub and Van Loan 2013, leading terms.
_FACTORISATIONS: dict[Any, Any] = {
    aten.linalg_cholesky_ex: lambda a, *_: _cube(a) / 3,
    aten.cholesky_solve: lambda b, a, *_: 2 * _many(a) * a.shape[-1] ** 2 * b.shape[-1],
    aten.linalg_solve_triangular: lambda a, b, *_: _many(a) * a.shape[-1] ** 2 * b.shape[-1],
    aten._linalg_eigh: lambda a, *_: 9 * _cube(a),
    aten.linalg_qr: lambda a, *_: 4 * _cube(a),
    aten._linalg_svd: lambda a, *_: 12 * _cube(a),
    aten.linalg_lu_factor_ex: lambda a, *_: 2 * _cube(a) / 3,
}
