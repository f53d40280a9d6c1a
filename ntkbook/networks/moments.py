"""Gaussian averages of one activation over whole grids of variances: what signal propagation iterates.

Activations with a formula are asked for it. For those that integrate numerically a grid would take minutes: here their
second moment comes from a table, and their correlation map from its power series. propagation.py uses it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .activations import Activation
from .mehler import hermite_polynomials
from .quadrature import Quadrature

_ORDER = 64  # of the power series
_RADIUS = 12.0  # beyond, a Gaussian is nothing
_SMALLEST = 1e-12  # variance in the table
_POINTS = 4096


def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and Gaussian weights on both half lines, so that a kink at zero does no harm."""
    x, w = np.polynomial.legendre.leggauss(96)
    z = _RADIUS * (x + 1) / 2
    w = _RADIUS / 2 * w * np.exp(-z * z / 2) / (2 * np.pi) ** 0.5
    return np.concatenate([-z[::-1], z]), np.concatenate([w[::-1], w])


def table(activation: Activation, largest: float) -> Callable[[Array], Array]:
    """q -> E[phi(u)^2], for quadratures by cubic interpolation in log q, to about 1e-9."""
    if not isinstance(activation, Quadrature):
        return lambda q: activation.variance(q)[0]
    low, high = float(np.log(_SMALLEST)), float(np.log(4 * largest))
    width = (high - low) / (_POINTS - 1)

    def at(q):
        dtype = q.dtype
        grid = jnp.linspace(low, high, _POINTS, dtype=dtype)
        second = lambda log_q: activation.variance(jnp.exp(log_q))[0]
        values, slopes = jax.jvp(second, (grid,), (jnp.ones_like(grid),))
        x = (jnp.log(jnp.maximum(q, _SMALLEST)) - low) / width
        i = jnp.clip(jnp.floor(x), 0, _POINTS - 2).astype(int)
        t = x - i.astype(dtype)
        left, right = values[i], values[i + 1]
        up, down = slopes[i] * width, slopes[i + 1] * width
        return left + t * (up + t * (3 * (right - left) - 2 * up - down + t * (2 * (left - right) + up + down)))

    return at


def overlap(activation: Activation, q: Array) -> Callable[[Array], tuple[Array, Array]]:
    """c -> (E[phi(u) phi(v)], its derivative) for variances q and correlation c.

    For quadratures by sum_n a_n^2 c^n, with a_n the Hermite coefficients of phi(sqrt(q) z); what is left of it at c = 1
    counts as the last power.
    """
    if not isinstance(activation, Quadrature):

        def dual(c):
            T, Tdot = activation.dual(q, q, q * c)
            return T, q * Tdot

        return dual
    z, w = _nodes()
    basis = jnp.asarray((hermite_polynomials(z, _ORDER) * w).T, q.dtype)  # (nodes, order)
    nodes = jnp.asarray(z, q.dtype).reshape(*[1] * q.ndim, -1)
    powers = jnp.square(activation.phi(jnp.sqrt(q)[..., None] * nodes) @ basis)
    rest = jnp.maximum(activation.variance(q)[0] - powers.sum(axis=-1), 0)
    powers = jnp.moveaxis(jnp.concatenate([powers, rest[..., None]], axis=-1), -1, 0)

    def series(c):
        def horner(sums, power):
            T, slope = sums
            return (T * c + power, slope * c + T), None

        return jax.lax.scan(horner, (jnp.zeros_like(c), jnp.zeros_like(c)), powers, reverse=True)[0]

    return series
