"""What happens to one eigenmode of the kernel in time, and functions of a matrix made of it.

Two clocks: `FlowClock` here (gradient flow) and `StepClock` in steps.py (gradient descent with heavy-ball momentum).
Each gives, for an eigenvalue lambda, the `decay` of the residual, which is what is left of it, and the `gain` of the
coefficients, per unit of residual at the start, gain = (1 - decay)/lambda; the prediction at any point is
k(x, X) gain(K) (y - f0). `apply_mode_function` applies a function of a clock and eigenvalues to vectors, with a
derivative that exists also where eigenvalues coincide. Notebook 05 derives both clocks.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..pytrees import pytree

_SERIES = [1 / float(np.prod(np.arange(1, k + 2, dtype=float))) for k in range(15)]  # 1/(k+1)!
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def one_minus_exp_over(x):
    """(1 - exp(-x)) / x, which is 1 at x = 0 and keeps its digits, and those of its derivative, near there."""
    is_small = x < 0.5
    small, large = jnp.where(is_small, x, 0), jnp.where(is_small, 1, x)
    series = jnp.full_like(x, _SERIES[-1])
    for coefficient in _SERIES[-2::-1]:
        series = coefficient - small * series
    return jnp.where(is_small, series, -jnp.expm1(-large) / large)


@pytree
class FlowClock:
    """Gradient flow at s = lr * t: decay exp(-s lambda), gain (1 - exp(-s lambda))/lambda, which is s at lambda = 0.

    At s = inf: decay 0 and gain 1/lambda, and for lambda = 0 decay 1 and gain 0, the pseudo-inverse limit.
    """

    s: Any
    largest: Any  # eigenvalue

    @staticmethod
    def at(lr, momentum, t, largest):
        """The clock at one time; with lr = 0 nothing moves, at t = inf too."""
        return FlowClock(jnp.where(lr > 0, lr * jnp.where(lr > 0, t, 0), 0), largest)

    @staticmethod
    def check(t, dynamics):
        """Any time will do."""

    def decay(self, eigenvalues):
        s, is_over = finite_part(self.s)
        return jnp.where(is_over, jnp.where(eigenvalues > 0, 0, 1), jnp.exp(-s * eigenvalues))

    def gain(self, eigenvalues):
        s, is_over = finite_part(self.s)
        gain = silenced(eigenvalues, s * one_minus_exp_over(s * eigenvalues), self.largest)
        return jnp.where(is_over, pseudo_inverse(eigenvalues), gain)

    def is_close(self, a, b):
        s, is_over = finite_part(self.s)
        reach = jnp.where(is_over, 0, 1 / jnp.where(s > 0, s, 1))
        return jnp.where(s > 0, jnp.abs(a - b) <= 0.5 * (reach + jnp.minimum(a, b)), True)


def finite_part(t: Any) -> tuple[Any, Any]:
    """(t with infinity replaced by 0, was it infinite): both branches of a selection must stay finite under grad."""
    is_over = jnp.isinf(t)
    return jnp.where(is_over, 0, t), is_over


def silenced(eigenvalues: jax.Array, gain: jax.Array, largest: jax.Array) -> jax.Array:
    """The gain at lambda = 0 grows for ever, and k(x, X) q is 0 there up to rounding: their product must stay rounding.

    Beyond gain * lambda_max = 1/sqrt(eps) it goes to 0, which is where t = inf has it.
    """
    size = jnp.minimum(gain * largest * float(jnp.finfo(gain.dtype).eps) ** 0.5, 10)
    return jnp.where(eigenvalues > 0, gain, gain * jnp.exp(-(size**4)))


def pseudo_inverse(eigenvalues: jax.Array) -> jax.Array:
    """1 over them, and 0 for an eigenvalue 0."""
    return jnp.where(eigenvalues > 0, 1 / jnp.where(eigenvalues > 0, eigenvalues, 1), 0)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def apply_mode_function(h, k, eigenvalues, modes, clock, v):
    """h(K) v = Q diag(h(lambda)) Q^T v, with h the "decay" or the "gain" of a clock; v is (N, m).

    (eigenvalues, modes) are those of `k`. The derivative in K is that of Daleckii and Krein, Q (H * (Q^T dK Q)) Q^T v
    with H the divided differences of h: unlike the derivative of eigenvectors it is finite for equal eigenvalues, which
    every symmetric data set has.
    """
    return modes @ (getattr(clock, h)(eigenvalues)[:, None] * (modes.T @ v))


def is_zero(tangent):
    """Is this tangent known to be zero when the derivative is traced?"""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def dense_tangent(tangent):
    """A tree of tangents with arrays of zeros in place of symbolic ones."""
    fill = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if is_zero(leaf) else leaf
    return jax.tree.map(fill, tangent, is_leaf=is_zero)


@partial(apply_mode_function.defjvp, symbolic_zeros=True)
def _(h, primals, tangents):
    k, eigenvalues, modes, clock, v = primals
    dk, _, _, dclock, dv = tangents
    w = modes.T @ v
    of = lambda clock: getattr(clock, h)(eigenvalues)
    value, change = of(clock), jnp.zeros_like(w)
    if not is_zero(dk):
        change += (_divided_differences(h, eigenvalues, clock) * (modes.T @ (dk + dk.T) @ modes / 2)) @ w
    if not is_zero(dv):
        change += value[:, None] * (modes.T @ dv)
    if not all(map(is_zero, jax.tree.leaves(dclock, is_leaf=is_zero))):
        change += jax.jvp(of, (clock,), (dense_tangent(dclock),))[1][:, None] * w
    return modes @ (value[:, None] * w), modes @ change


def _divided_differences(h, eigenvalues, clock):
    """(h(a) - h(b))/(a - b) for all pairs; for close ones the mean of h' between them, by Gauss-Legendre."""
    a, b = eigenvalues[:, None], eigenvalues[None, :]
    is_close = clock.is_close(a, b)
    of = getattr(clock, h)
    values = of(eigenvalues)
    far = (values[:, None] - values[None, :]) / jnp.where(is_close, 1, a - b)
    half = jnp.where(is_close, a - b, 0) / 2
    at = (a + b) / 2 + jnp.asarray(_NODES, half.dtype)[:, None, None] * half  # (nodes, n, n)
    slopes = jax.jvp(of, (at,), (jnp.ones_like(at),))[1]
    close = jnp.tensordot(jnp.asarray(_WEIGHTS / 2, half.dtype), slopes, axes=1)
    return jnp.where(is_close, close, far)
