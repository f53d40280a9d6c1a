"""Signals of all pairs of positions, one offset at a time: images before a mean over all of their positions.

A convolution with stride 1 moves both positions of a pair together, so that pairs of another offset along the first
direction never meet theirs, and activations look at single pairs. Up to the mean each offset can be computed by
itself: of the (h w)^2 pairs of an image with itself h w^2 are in memory at a time, few enough for a core's cache.

An offset is counted around: position i of x1 is paired with (i + offset) modulo h of x2, so that there are h offsets of
h pairs each. Where either position would leave its image nothing is moved in (`mean_at_offset`). The rules are those of
`convolution.py`, in another order of work.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import and_
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .positions import mean_of_shifts, on_pairs
from .signals import FEW_FEATURES, Signals, covariances


def fits(x: Any) -> bool:
    """Images or volumes whose distances need no search for near points."""
    return x.ndim >= 4 and x.shape[-1] <= FEW_FEATURES


def mean_over_positions(f: Callable[[Signals], Signals], x1: Array, x2: Array | None) -> Signals:
    """The mean of both kernels after `f` over all pairs of positions: (1, 1, 1, 1, n1, n2) of images (n, h, w, c).

    `f` is given (h, w, w, n1, n2), the pairs of one offset along h.
    """
    x2 = x1 if x2 is None else x2

    def at(offset: Array) -> Signals:
        pairs = jax.vmap(partial(on_pairs, covariances, keep="all"), in_axes=1)
        nngp, distance, var1, var2 = pairs(x1, jnp.roll(x2, -offset, axis=1))
        start = Signals(nngp, jnp.zeros_like(nngp), var1, var2, distance, width=x1.shape[-1])
        k = f(dataclasses.replace(start, keep="offset", offset=offset))
        nngp, ntk = (array.mean(range(array.ndim - 2)) for array in (k.nngp, k.ntk))
        return dataclasses.replace(k, nngp=nngp, ntk=ntk, var1=None, var2=None, distance=None, offset=None, keep="all")

    each = jax.lax.map(at, jnp.arange(x1.shape[1]))
    one_position = [1] * 2 * (x1.ndim - 2)
    return jax.tree.map(lambda array: array.mean(0).reshape(*one_position, *array.shape[1:]), each)


def mean_at_offset(
    array: Array, offset: Array, sides: Sequence[int], pad: tuple[int, int], window: int, *, wrap: bool
) -> Array:
    """`mean_of_shifts` along the first axis, of positions of x1 (side 0), of x2 (1) or of pairs of them (0, 1)."""
    n = len(array)
    positions = [jnp.arange(n), (jnp.arange(n) + offset) % n]

    def is_inside(shift: int) -> Array:
        moved = [positions[side] + shift - pad[0] for side in sides]
        inside = reduce(and_, [(i >= 0) & (i < n) for i in moved])
        return inside.reshape(-1, *[1] * (array.ndim - 1))

    around = wrap or 0 not in sides
    return mean_of_shifts(array, (0,), pad, window, wrap=around, is_inside=None if wrap else is_inside)
