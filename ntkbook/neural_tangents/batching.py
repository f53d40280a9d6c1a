"""Tiles of any kernel function k(x1, x2): the guest's `batch`."""

import jax
import jax.numpy as jnp
import numpy as np

from .. import checks
from .kernels import Kernel


def batch(kernel_fn, batch_size=0, device_count=-1, store_on_device=True):
    """kernel_fn(x1, x2, ...) in tiles of at most `batch_size` examples of each, one after another on one device.

    Any number of examples will do. `store_on_device=False` puts the tiles together in the host's memory;
    `device_count` makes no difference, and a `Kernel`, whose pairs are all there, is not cut. For a network of this
    library, `ntkbook.gram` is faster.
    """

    def batched(x1, x2=None, *arguments, **options):
        if not batch_size or isinstance(x1, Kernel):
            return kernel_fn(x1, x2, *arguments, **options)
        is_host = not store_on_device and checks.is_concrete(x1, x2, arguments)  # numpy holds nothing that jit traces
        library = np if is_host else jnp
        first, second = _cut(x1, batch_size), _cut(x1 if x2 is None else x2, batch_size)

        def tile(i, j):
            made = kernel_fn(first[i], None if x2 is None and i == j else second[j], *arguments, **options)
            return jax.tree.map(library.asarray, made)

        tiles = [[tile(i, j) for j in range(len(second))] for i in range(len(first))]
        if isinstance(tiles[0][0], Kernel):
            return _joined_kernels(tiles, x2 is None, library)
        return jax.tree.map(lambda *leaves: _joined(leaves, len(tiles), library), *sum(tiles, []))

    return batched


def _cut(x, size: int) -> list:
    n = len(jax.tree.leaves(x)[0])
    return [jax.tree.map(lambda a, i=i: a[i : i + size], x) for i in range(0, n, size)]


def _joined(tiles, n_rows: int, library):
    """Tiles of pairs, row after row, as one array; what has no pairs is that of the first tile."""
    if tiles[0] is None or tiles[0].ndim < 2:
        return tiles[0]
    n = len(tiles) // n_rows
    rows = [library.concatenate(tiles[i : i + n], axis=1) for i in range(0, len(tiles), n)]
    return library.concatenate(rows, axis=0)


def _joined_kernels(tiles: list[list[Kernel]], is_same: bool, library) -> Kernel:
    first = tiles[0][0]
    nngp, ntk = (
        _joined([getattr(k, name) for row in tiles for k in row], len(tiles), library) for name in ("nngp", "ntk")
    )
    cov1 = library.concatenate([row[0].cov1 for row in tiles])
    cov2 = library.concatenate([k.cov1 if k.cov2 is None else k.cov2 for k in tiles[0]])
    shapes = {name: (len(cov), *getattr(first, name)[1:]) for name, cov in (("shape1", cov1), ("shape2", cov2))}
    cov2 = None if is_same else cov2
    return first.replace(nngp=nngp, ntk=ntk, cov1=cov1, cov2=cov2, x1_is_x2=jnp.asarray(is_same), **shapes)
