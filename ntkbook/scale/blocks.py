"""Matrices that are nowhere whole: products, rows and the diagonal of a kernel, from one block of it at a time.

`store.py` reads the blocks from a disk, `Recomputed` makes them again whenever they are needed. Solvers for more points
than memory holds take either.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import checks
from ..networks.kernel import WORDS, Layer, block_of, checked, compute, on_host, tile_side
from ..networks.tiles import spread, tiled


class Blocks:
    """An (n1, n2) matrix of which `block` gives what starts at row i and column j, at most `tile` on a side."""

    shape: tuple[int, int]
    dtype: Any
    tile: int
    is_symmetric: bool
    devices: Sequence[Any] = ()

    def block(self, i: int, j: int) -> np.ndarray:
        """The entries from row i and column j on, at most (tile, tile)."""
        raise NotImplementedError

    def rows(self, indices: Any) -> np.ndarray:
        """These rows, whole: (len(indices), n2)."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def corners(self) -> list[tuple[int, int]]:
        """Where blocks start; of a symmetric matrix those on and above the diagonal."""
        (n1, n2), tile = self.shape, self.tile
        return [(i, j) for i in range(0, n1, tile) for j in range(0, n2, tile) if not self.is_symmetric or i <= j]

    def diagonal(self) -> np.ndarray:
        """The diagonal of a symmetric matrix, (n,)."""
        return np.concatenate([np.diagonal(self.block(i, i)) for i in range(0, len(self), self.tile)])

    def __matmul__(self, v: Any) -> np.ndarray:
        """K v in double precision, for v (n2,) or (n2, columns): each block is met once, half of them if symmetric."""
        v = np.asarray(v, float)
        if v.shape[:1] != self.shape[1:]:
            raise ValueError(f"Expected an array with {self.shape[1]} rows after a kernel {self.shape}, got {v.shape}.")
        product = np.zeros((len(self), *v.shape[1:]))

        def parts(corner):
            i, j = corner
            block = self.block(i, j).astype(float)
            right = block @ v[j : j + self.tile]
            return i, right, j, block.T @ v[i : i + self.tile] if self.is_symmetric and i != j else None

        for i, right, j, left in spread(parts, self.corners(), self.devices):  # in order: no bit depends on the workers
            product[i : i + self.tile] += right
            if left is not None:
                product[j : j + self.tile] += left
        return product


class Recomputed(Blocks):
    """A kernel of a network that is kept nowhere: its blocks are computed again for each product.

    >>> import numpy as np
    >>> from ntkbook import Dense
    >>> (Recomputed(Dense(1), jnp.eye(3), tile=2) @ np.ones(3)).round(6)
    array([0.333333, 0.333333, 0.333333])

    Raises:
        TypeError, ValueError: as `gram`.
    """

    def __init__(self, net: Layer, x1: Any, x2: Any = None, *, get: str = "ntk", tile: int | None = None, mesh=None):
        checks.one_of(get, "get", WORDS)
        self.net, self._x1, self._x2 = checked(net, x1, x2)
        self._net, self._words = on_host(net), (get,)
        self._rows = np.asarray(self._x1)
        self._columns = None if self._x2 is None else np.asarray(self._x2)
        self.is_symmetric = self._x2 is None
        self.shape = (len(self._x1), len(self._x1 if self._x2 is None else self._x2))
        self.dtype = self._x1.dtype
        self.tile = tile or tile_side(net, self._x1)
        self.devices = () if mesh is None else mesh.local_devices

    def block(self, i: int, j: int) -> np.ndarray:
        return blocks_at(self._net, self._rows, self._columns, self._words, i, j, self.tile)[0]

    def rows(self, indices: Any) -> np.ndarray:
        chosen = self._x1[np.asarray(indices)]
        return np.asarray(compute(self.net, chosen, self._x1 if self._x2 is None else self._x2, self._words)[0])


def blocks_at(net, x1, x2, words, i, j, tile) -> list[np.ndarray]:
    """The kernels of these names from row i and column j on, at most (tile, tile), by one worker; x2=None means x1."""
    side = min(tile, tile_side(net, x1))
    columns = None if x2 is None and i == j else (x1 if x2 is None else x2)[j : j + tile]
    return tiled(partial(block_of, net, words=words), x1[i : i + tile], columns, side, devices=None)
