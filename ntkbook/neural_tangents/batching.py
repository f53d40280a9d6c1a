"""Tiles of any kernel function k(x1, x2): the guest's `batch`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .. import checks
from .kernels import Kernel


def batch(kernel_fn, batch_size=0, device_count=-1, store_on_device=True):
    """kernel_fn(x1, x2, ...) in tiles of at most `batch_size` examples of each, one after another on one device.

    Any number of examples will do. `store_on_device=False` puts the tiles together in the host's memory;
    `device_count` makes no difference. With batch_size=0 it is `kernel_fn` itself. For a network of this library,
    `ntkbook.gram` is faster.
    """
    if not batch_size:
        return kernel_fn

    def batched(x1, x2=None, *arguments, **options):
        is_kernel = isinstance(x1, Kernel)
        n1, n2 = x1.nngp.shape[:2] if is_kernel else (_count(x1), _count(x1 if x2 is None else x2))
        is_same = x1.cov2 is None if is_kernel else x2 is None

        def tile(i, j):
            rows, columns = slice(i, i + batch_size), slice(j, j + batch_size)
            if is_kernel:
                return kernel_fn(_part_of_kernel(x1, rows, columns, is_same and i == j), x2, *arguments, **options)
            second = None if is_same and i == j else _part(x1 if x2 is None else x2, columns)
            return kernel_fn(_part(x1, rows), second, *arguments, **options)

        is_host = not store_on_device and checks.is_concrete(x1, x2, arguments)  # numpy holds nothing that jit traces
        library = np if is_host else jnp
        kept = lambda tile: jax.tree.map(library.asarray, tile)
        tiles = [[kept(tile(i, j)) for j in range(0, n2, batch_size)] for i in range(0, n1, batch_size)]
        if isinstance(tiles[0][0], Kernel):
            return _joined_kernels(tiles, is_same, library)
        join = lambda *leaves: leaves[0] if leaves[0].ndim < 2 else _joined(leaves, len(tiles), library)
        return jax.tree.map(join, *sum(tiles, []))

    return batched


def _count(x) -> int:
    return len(jax.tree.leaves(x)[0])


def _part(x, rows: slice):
    return jax.tree.map(lambda a: a[rows], x)


def _joined(tiles, n_rows: int, library):
    """Tiles of pairs, row after row, as one array."""
    n = len(tiles) // n_rows
    rows = [library.concatenate(tiles[i : i + n], axis=1) for i in range(0, len(tiles), n)]
    return library.concatenate(rows, axis=0)


def _part_of_kernel(k: Kernel, rows: slice, columns: slice, is_same: bool) -> Kernel:
    pairs = _part({"nngp": k.nngp[:, columns], "ntk": None if k.ntk is None else k.ntk[:, columns]}, rows)
    cov2 = None if is_same else (k.cov1 if k.cov2 is None else k.cov2)[columns]
    return _with_shapes(k.replace(**pairs, cov1=k.cov1[rows], cov2=cov2))


def _joined_kernels(tiles: Sequence[Sequence[Kernel]], is_same: bool, library) -> Kernel:
    flat, first = [k for row in tiles for k in row], tiles[0][0]
    ntk = None if first.ntk is None else _joined([k.ntk for k in flat], len(tiles), library)
    made = first.replace(
        nngp=_joined([k.nngp for k in flat], len(tiles), library),
        ntk=ntk,
        cov1=library.concatenate([row[0].cov1 for row in tiles]),
        cov2=None if is_same else library.concatenate([k.cov1 if k.cov2 is None else k.cov2 for k in tiles[0]]),
        x1_is_x2=jnp.asarray(is_same),
    )
    return _with_shapes(made)


def _with_shapes(k: Kernel) -> Kernel:
    """The kernel, with the numbers of examples that it has."""
    shapes = ((n, *shape[1:]) if shape else None for n, shape in zip(k.nngp.shape, (k.shape1, k.shape2)))
    return k.replace(**dict(zip(("shape1", "shape2"), shapes)))
