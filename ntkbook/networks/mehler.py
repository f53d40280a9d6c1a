"""Gaussian averages of smooth functions by their Hermite series, as far as that is exact: see `averages.py` for others.

E[f(u) g(v)] = sum_m a_m b_m c^m with a_m = E[f(s1 z) h_m(z)], b_m the same of g and s2, h_m the normalized Hermite
polynomials (Mehler 1866): for each point its coefficients, and for each pair two operations a term, where a rule in the
plane evaluates phi thousands of times. By Parseval M terms leave out at most sum_{m >= M} a_m^2 of E[f(u)^2]: so each
call knows how many terms are enough, or that none of the numbers here are.
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..numerics import cosine, safe_sqrt
from .averages import Orders, derivatives

MOST, CHUNK, BEYOND = 1024, 16, 128  # coefficients, how many at a time, and how many of them only tell what is left
LEFT_OUT = {"float32": 2e-7, "float64": 1e-13}  # of E[f(u)^2], for parallel points; of others less
STEP, RADIUS = 0.08, {"float32": 9.0, "float64": 12.5}  # even nodes: exact for all that has MOST coefficients
SCALES = 0.5 ** np.arange(8)  # of the largest standard deviation: where the series is held against E[f(u)^2]
WIDEST = 10.0  # standard deviation: beyond, a feature that a smooth phi may have could fall between all nodes
AT_ONCE = 2**22  # values at nodes, unless there are as many pairs


def averages_of_smooth(phi: Callable, orders: Orders, otherwise: Callable, q1, q2, k, *rest) -> tuple[Array, ...]:
    """`averages(phi, orders, None, q1, q2, k)` by the series where that is exact to rounding, else `otherwise(...)`."""
    s1, s2, c = safe_sqrt(q1), safe_sqrt(q2), cosine(q1, q2, k)
    z, _, basis = (jnp.asarray(a, c.dtype) for a in _rule(c.dtype.name))
    highest, shape = max(map(max, orders)), jnp.broadcast_shapes(s1.shape, s2.shape, c.shape)
    if len(z) * (s1.size + s2.size) * (highest + 1) > max(AT_ONCE, 16 * int(np.prod(shape))):
        return otherwise(q1, q2, k, *rest)
    n_chunks = chunks_needed(phi, highest, jnp.maximum(s1.max(initial=0), s2.max(initial=0)))

    def series(*_):
        at_u, at_v = (derivatives(phi, highest, z.reshape(-1, *[1] * s.ndim) * s[None]) for s in (s1, s2))

        def add_chunk(i, sums):
            rows = jax.lax.dynamic_slice_in_dim(basis, CHUNK * (n_chunks - 1 - i), CHUNK)
            a, b = ([jnp.tensordot(rows, f, 1, precision="highest") for f in at] for at in (at_u, at_v))
            horner = lambda i, j: lambda total, m: total * c + a[i][m] * b[j][m]
            return tuple(reduce(horner(*order), range(CHUNK)[::-1], total) for order, total in zip(orders, sums))

        return jax.lax.fori_loop(0, n_chunks, add_chunk, (jnp.zeros(shape, c.dtype),) * len(orders))

    return jax.lax.cond(n_chunks > 0, series, otherwise, q1, q2, k, *rest)


def chunks_needed(phi: Callable, highest: int, s: Array) -> Array:
    """How many chunks of coefficients are enough up to the standard deviation s; 0 if all are not."""
    name = s.dtype.name
    z, weight, basis = (jnp.asarray(a, s.dtype) for a in _rule(name))
    points = jnp.concatenate([z, z + STEP / 2])[:, None] * (s * SCALES.astype(name)[None])
    at = jnp.stack(derivatives(phi, highest, points), 1)  # (points, orders, scales)
    squares = jnp.square(jnp.tensordot(basis, at[: len(z)], 1, precision="highest"))
    total = jnp.tensordot(jnp.exp(-z * STEP / 2 - STEP**2 / 8) * weight, jnp.square(at[len(z) :]), 1)
    left_out = jnp.cumsum(squares[::-1], 0)[::-1]
    rounding = 64 * float(jnp.finfo(name).eps) * jnp.sqrt(total) * jnp.sqrt(total.max())
    is_met = (s <= WIDEST) & (jnp.abs(left_out[0] - total) <= rounding)  # at nodes as between them
    is_exact = (is_met[None] & (left_out[CHUNK : MOST - BEYOND : CHUNK] <= LEFT_OUT[name] * total[None])).all((1, 2))
    return jnp.where(is_exact.any(), is_exact.argmax() + 1, 0)


@lru_cache
def _rule(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes z, weights of E[f(z)], and of E[f(z) h_m(z)] for each m."""
    z = np.arange(-RADIUS[name], RADIUS[name], STEP)
    half = np.exp(-z * z / 4)
    weight = STEP / (2 * np.pi) ** 0.5 * half
    return z, weight * half, weight * hermite_polynomials(z, MOST, half)


def hermite_polynomials(z: np.ndarray, count: int, factor: Any = 1.0) -> np.ndarray:
    """factor(z) h_m(z) for the first m, (count, nodes), which a factor such as exp(-z^2/4) keeps from overflow."""
    rows = [factor * np.ones_like(z), factor * z]
    for m in range(1, count - 1):
        rows.append((z * rows[m] - m**0.5 * rows[m - 1]) / (m + 1) ** 0.5)
    return np.array(rows)
