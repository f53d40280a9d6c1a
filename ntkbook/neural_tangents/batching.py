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
        if isinstance(x1, Kernel):
            raise NotImplementedError("batch of a function of Kernels is not known here: batch the whole network.")
        rows = [_part(x1, i, batch_size) for i in range(0, _count(x1), batch_size)]
        columns = rows if x2 is None else [_part(x2, j, batch_size) for j in range(0, _count(x2), batch_size)]

        def tile(i, j):
            second = None if x2 is None and i == j else columns[j]
            out = kernel_fn(rows[i], second, *arguments, **options)
            return out if store_on_device else jax.tree.map(np.asarray, out)

        tiles = [[tile(i, j) for j in range(len(columns))] for i in range(len(rows))]
        library = jnp if store_on_device else np
        if isinstance(tiles[0][0], Kernel):
            return _joined_kernels(tiles, x2 is None, library)
        return jax.tree.map(lambda *leaves: _joined(leaves, len(columns), library), *sum(tiles, []))

    return batched


def _count(x: Any) -> int:
    return len(jax.tree.leaves(x)[0])


def _part(x: Any, start: int, size: int) -> Any:
    return jax.tree.map(lambda a: a[start : start + size], x)


def _joined(leaves: Any, columns: int, library: Any) -> Any:
    if np.ndim(leaves[0]) < 2:
        return leaves[0]
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
