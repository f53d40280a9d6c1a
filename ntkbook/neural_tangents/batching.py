"""Tiles of any kernel function k(x1, x2): the guest's `batch`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .kernels import Kernel


def batch(
    kernel_fn: Callable, batch_size: int = 0, device_count: int = -1, store_on_device: bool = True
) -> Callable[..., Any]:
    """kernel_fn(x1, x2, ...) in tiles of at most `batch_size` examples of each, one after another on one device.

    Any number of examples will do. `store_on_device=False` puts the tiles together in the host's memory;
    `device_count` makes no difference. With batch_size=0 it is `kernel_fn` itself. For a network of this library,
    `ntkbook.gram` is faster.
    """
    if not batch_size:
        return kernel_fn

    def batched(x1: Any, x2: Any = None, *arguments: Any, **options: Any) -> Any:
        is_kernel = isinstance(x1, Kernel)
        n1, n2 = x1.nngp.shape[:2] if is_kernel else (_count(x1), _count(x1 if x2 is None else x2))
        is_same = x1.cov2 is None if is_kernel else x2 is None

        def tile(i, j):
            if is_kernel:
                inputs = (_tile_of_kernel(x1, i, j, batch_size), x2)
            else:
                second = x1 if x2 is None else x2
                inputs = (_part(x1, i, batch_size), None if is_same and i == j else _part(second, j, batch_size))
            out = kernel_fn(*inputs, *arguments, **options)
            return out if store_on_device else jax.tree.map(np.asarray, out)

        columns = range(0, n2, batch_size)
        tiles = [[tile(i, j) for j in columns] for i in range(0, n1, batch_size)]
        library = jnp if store_on_device else np
        if isinstance(tiles[0][0], Kernel):
            return _joined_kernels(tiles, is_same, library)
        return jax.tree.map(lambda *leaves: _joined(leaves, len(columns), library), *sum(tiles, []))

    return batched


def _count(x: Any) -> int:
    return len(jax.tree.leaves(x)[0])


def _part(x: Any, start: int, size: int) -> Any:
    return jax.tree.map(lambda a: a[start : start + size], x)


def _tile_of_kernel(k: Kernel, i: int, j: int, size: int) -> Kernel:
    rows, columns = slice(i, i + size), slice(j, j + size)
    cov2 = None if k.cov2 is None and i == j else (k.cov1 if k.cov2 is None else k.cov2)[columns]
    shape = lambda full, part: None if full is None else (len(part), *full[1:])
    cov1, nngp = k.cov1[rows], k.nngp[rows, columns]
    return k.replace(
        nngp=nngp,
        ntk=None if k.ntk is None else k.ntk[rows, columns],
        cov1=cov1,
        cov2=cov2,
        shape1=shape(k.shape1, nngp),
        shape2=shape(k.shape2, nngp[0]),
    )


def _joined(leaves: Any, columns: int, library: Any) -> Any:
    if np.ndim(leaves[0]) < 2:
        return leaves[0]  # no pairs: a count, say
    rows = [leaves[i : i + columns] for i in range(0, len(leaves), columns)]
    return library.concatenate([library.concatenate(row, axis=1) for row in rows], axis=0)


def _joined_kernels(tiles: Any, is_same: bool, library: Any) -> Kernel:
    flat = sum(tiles, [])
    join = lambda name: _joined([getattr(k, name) for k in flat], len(tiles[0]), library)
    along = lambda parts: library.concatenate(parts, axis=0)
    second = along([k.cov1 if k.cov2 is None else k.cov2 for k in tiles[0]])
    first = tiles[0][0]
    shape = lambda n: None if first.shape1 is None else (n, *first.shape1[1:])
    nngp = join("nngp")
    return dataclasses.replace(
        first,
        nngp=nngp,
        ntk=None if first.ntk is None else join("ntk"),
        cov1=along([row[0].cov1 for row in tiles]),
        cov2=None if is_same else second,
        x1_is_x2=jnp.asarray(is_same),
        shape1=shape(nngp.shape[0]),
        shape2=shape(nngp.shape[1]),
    )
