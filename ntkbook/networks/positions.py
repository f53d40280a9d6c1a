"""Gram arrays of signals that have positions: images (n, h, w, c), sequences (n, s, c).

Position axes come first and examples last, so that layers that mix positions move whole blocks of examples. What
is kept is "same" (each position with itself) or "all" (all pairs of positions), as in convolution.py; variances
have axes of length 1 where they broadcast. Networks on flat data never come here.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def inner_products(x1: Array, x2: Array, keep: str) -> tuple[Array, Array, Array]:
    """Inner products per feature of all examples, and their variances (nngp, var1, var2).

    keep="same": (h, w, n1, n2), (h, w, n1, 1), (h, w, 1, n2)
    keep="all": (h, h, w, w, n1, n2), (h, 1, w, 1, n1, 1), (1, h, 1, w, 1, n2)
    """
    h, H, pairs = _letters(x1.ndim - 2, keep)
    nngp = _einsum(f"n{h}c,m{H}c->{pairs}nm", x1, x2) / x1.shape[-1]
    return nngp, variance(x1, keep, 0)[..., None], variance(x2, keep, 1)[..., None, :]


def inner_products_inside(x: Array) -> tuple[Array, Array, Array]:
    """The same for all pairs of positions inside each example: (h, h, w, w, n), (h, 1, w, 1, n), (1, h, 1, w, n)."""
    h, H, pairs = _letters(x.ndim - 2, "all")
    nngp = _einsum(f"n{h}c,n{H}c->{pairs}n", x, x) / x.shape[-1]
    return nngp, variance(x, "all", 0), variance(x, "all", 1)


def variance(x: Array, keep: str, side: int) -> Array:
    """Mean square over channels, (h, w, n), or with axes of length 1 beside those of one side."""
    per_position = jnp.moveaxis((x * x).mean(-1), 0, -1)  # (h, w, n)
    if keep == "same":
        return per_position
    return jnp.expand_dims(per_position, tuple(2 * i + 1 - side for i in range(x.ndim - 2)))


def position_axes(n_positions: int, keep: str) -> list[tuple[int, ...]]:
    """The axes of each position direction in an array of `inner_products`: [(0, 1), (2, 3)] for all pairs on images."""
    if keep == "same":
        return [(i,) for i in range(n_positions)]
    return [(2 * i, 2 * i + 1) for i in range(n_positions)]


def one_sided(axes: list[tuple[int, ...]], side: int) -> list[tuple[int, ...]]:
    """Of the axes of each direction, the one along which a variance of x1 (side 0) or x2 (side 1) varies."""
    return [(pair[side % len(pair)],) for pair in axes]


def diagonal(array: Array, n_positions: int) -> Array:
    """Positions with themselves, (h, w, ...), of all pairs of positions, (h, h, w, w, ...)."""
    ours = "hwd"[:n_positions]
    return _einsum("".join(2 * a for a in ours) + f"...->{ours}...", array)


def diagonal_of_pairs(nngp: Array, n_positions: int, side: int) -> Array:
    """The variances in `nngp`, (h, 1, w, 1, ...) or (1, h, 1, w, ...); all of it, once positions are gone."""
    if nngp.ndim == 2:
        return nngp
    return jnp.expand_dims(diagonal(nngp, n_positions), tuple(2 * i + 1 - side for i in range(n_positions)))


def examples_first(array: Array) -> Array:
    """(h, h, w, w, n1, n2) as (n1, n2, h, h, w, w)."""
    return jnp.moveaxis(array, (-2, -1), (0, 1))


def _letters(n_positions: int, keep: str) -> tuple[str, str, str]:
    ours = "hwd"[:n_positions]
    theirs = ours.upper() if keep == "all" else ours
    return ours, theirs, "".join(a + b for a, b in zip(ours, theirs)) if keep == "all" else ours
