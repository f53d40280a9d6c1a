"""Gram arrays of signals that have positions: images (n, h, w, c), sequences (n, s, c).

Position axes come first and examples last, so that layers that mix positions move whole blocks of examples. What
is kept is "same" (each position with itself), "all" (all pairs of positions), or "offset" (offsets.py); variances
have axes of length 1 where they broadcast. Networks on flat data never come here.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

exact_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def on_pairs(f: Callable[..., Sequence[Array]], x1: Array, x2: Array | None, keep: str) -> list[Array]:
    """The arrays that `f` makes of the rows of two matrices, for signals at positions: x1 (n1, h, w, features).

    A matrix of all pairs, (n1, n2), becomes
    keep="none": (n1, n2), for flat data;
    keep="same": (h, w, n1, n2), each position with itself;
    keep="all": (h, h, w, w, n1, n2), all pairs of positions.
    Axes of length 1 where `f` gives a column (n1, 1) or a row (1, n2).
    """
    if keep == "none":
        return list(f(x1, x2))
    sizes = x1.shape[1:-1]
    n = len(sizes)
    lengths = [[*sizes, len(x)] for x in (x1, x1 if x2 is None else x2)]
    both = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), (x1, x2))  # (h, w, n, features)
    if keep == "same":
        arrays = jax.vmap(f)(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[-2:]), both))
        return [array.reshape(*sizes, *array.shape[1:]) for array in arrays]
    rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), both)

    def arranged(array: Any) -> Array:
        sides = [length if size == prod(length) else [1] * (n + 1) for length, size in zip(lengths, array.shape)]
        order = [axis for i in range(n + 1) for axis in (i, i + n + 1)]  # the two of each direction side by side
        return array.reshape(*sides[0], *sides[1]).transpose(order)

    return [arranged(array) for array in f(*rows)]


def mean_of_shifts(
    array: Array,
    axes: Sequence[int],
    pad: tuple[int, int],
    window: int,
    stride: int = 1,
    *,
    wrap: bool,
    is_inside: Callable[[int], Array] | None = None,
) -> Array:
    """The mean of `window` slices of the padded array, each shifted by one along all `axes` together.

    With `is_inside`, which is given the shift: what lies outside counts as zero.
    """
    size = array.shape[axes[0]] + sum(pad)
    if size < window:
        raise ValueError(f"Expected at least {window} positions for the window, got {size} with padding.")
    array = padded_apart(array, [pad if axis in axes else (0, 0) for axis in range(array.ndim)], wrap)
    last = (size - window) // stride * stride
    total = jnp.zeros((), array.dtype)
    for shift in range(window):
        piece = array
        for axis in axes:  # by name: some releases of JAX make a gather of an index with a stride
            piece = jax.lax.slice_in_dim(piece, shift, shift + last + 1, stride, axis)
        total = total + (piece if is_inside is None else jnp.where(is_inside(shift), piece, 0))
    return total / window


def padded_apart(array: Array, pads: Sequence[tuple[int, int]], wrap: bool) -> Array:
    """The array with zeros, or its other end, along its axes, stored before shifts of it are added up.

    Fused with them, each entry would be computed once for each shift that reads it, and for each end that is copied.
    """
    if not wrap:
        return jax.lax.optimization_barrier(jnp.pad(array, pads))
    return jax.lax.optimization_barrier(jnp.pad(jax.lax.optimization_barrier(array), pads, mode="wrap"))


def position_axes(count: int, keep: str) -> list[tuple[int, ...]]:
    """The `count` position axes of an array of `on_pairs`, by direction: [(0, 1), (2, 3)] for all pairs on images."""
    if keep == "same":
        return [(axis,) for axis in range(count)]
    alone = [(0,)] if keep == "offset" else []
    return alone + [(axis, axis + 1) for axis in range(len(alone), count, 2)]


def one_sided(axes: list[tuple[int, ...]], side: int) -> list[tuple[int, ...]]:
    """Of the axes of each direction, the one along which a variance of x1 (side 0) or x2 (side 1) varies."""
    return [(pair[side % len(pair)],) for pair in axes]


def diagonal(array: Array, n_positions: int) -> Array:
    """Positions with themselves, (h, w, ...), of all pairs of positions, (h, h, w, w, ...)."""
    ours = "hwd"[:n_positions]
    return exact_einsum("".join(2 * a for a in ours) + f"...->{ours}...", array)


def diagonal_of_pairs(nngp: Array, side: int) -> Array:
    """The variances in `nngp`, (h, 1, w, 1, ...) or (1, h, 1, w, ...); all of it, once positions are gone."""
    n_positions = (nngp.ndim - 2) // 2
    return jnp.expand_dims(diagonal(nngp, n_positions), tuple(2 * i + 1 - side for i in range(n_positions)))


def as_sequence(array: Array, n_positions: int) -> Array:
    """(h, h, w, w, ...) as (h w, h w, ...): images as sequences, row after row."""
    n = n_positions
    sides = jnp.moveaxis(array, range(1, 2 * n, 2), range(n, 2 * n))  # (h, w, h, w, ...)
    return sides.reshape(prod(sides.shape[:n]), prod(sides.shape[n : 2 * n]), *array.shape[2 * n :])


def as_images(array: Array, sizes: Sequence[int]) -> Array:
    """The way back from `as_sequence`, for images of `sizes`; a side of length 1, along which it broadcasts, stays."""
    n = len(sizes)
    sides = [sizes if length == prod(sizes) else [1] * n for length in array.shape[:2]]
    return jnp.moveaxis(array.reshape(*sides[0], *sides[1], *array.shape[2:]), range(n, 2 * n), range(1, 2 * n, 2))


def examples_first(array: Array) -> Array:
    """(h, h, w, w, n1, n2) as (n1, n2, h, h, w, w)."""
    return jnp.moveaxis(array, (-2, -1), (0, 1))
