"""Activations: phi beside its dual, the Gaussian averages that an infinitely wide layer sees.

For (u, v) Gaussian with variances q1, q2 and covariance k, `dual(q1, q2, k)` is the pair T = E[phi(u) phi(v)] and
Tdot = E[phi'(u) phi'(v)]. By Price's theorem Tdot = dT/dk, and the tests hold every class to it. A new activation is a
class with `phi` and `dual`, a name in `__init__`, a row in the test's list. Here: the contract, the activations with
a kink or a jump at zero, erf and GELU. Others: smooth_activations.py, numeric_activations.py. Notebook 02 draws all.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .kernel import Kernel, Layer, like, pytree
from .numerics import arccos, cosine, safe_sqrt, sine

Pair = tuple[Array, Array]


class Activation(Layer):
    """An elementwise function of Gaussian signals."""

    def phi(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The function itself."""
        raise NotImplementedError

    def dual(self, q1: Array, q2: Array, k: Array) -> Pair:
        """(E[phi(u) phi(v)], E[phi'(u) phi'(v)]) for variances q1, q2 and covariance k, which broadcast."""
        raise NotImplementedError

    def variance(self, q: Array) -> Pair:
        """(E[phi(u)^2], E[phi'(u)^2]) for a variance q: `dual(q, q, q)` without its rounding at kinks."""
        return self.dual(q, q, q)

    def init(self, key: Array, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[()]]:
        return input_shape, ()

    def apply(self, params: tuple[()], x: Array) -> Array:
        return self.phi(x)

    def kernel(self, k: Kernel) -> Kernel:
        if not k.is_gaussian:
            raise ValueError(
                f"Expected Gaussian signals before {type(self).__name__}, got raw inputs or the output of another "
                "activation. An activation follows random weights: put Dense or Conv before it."
            )
        T, Tdot = self.dual(k.var1, k.var2, k.nngp)
        T1, Tdot1 = self.variance(k.var1)
        T2, _ = self.variance(k.var2)
        return k.replace(
            nngp=k.on_diagonal(T, T1),
            ntk=k.on_diagonal(Tdot, Tdot1) * k.ntk,
            var1=T1,
            var2=T2,
            is_gaussian=False,
            is_fresh=False,
        )

    def requires(self, needs: frozenset[str]) -> frozenset[str]:
        return needs | {"variances"}


@pytree
class Identity(Activation):
    """phi(x) = x: a layer that changes nothing."""

    def phi(self, x):
        return x

    def dual(self, q1, q2, k):
        return k, jnp.ones_like(k)

    def kernel(self, k: Kernel) -> Kernel:
        return k


def _rectified(a: Array, b: Array, q1: Array, q2: Array, k: Array) -> Pair:
    """The dual of a min(x, 0) + b max(x, 0). Cho and Saul 2009, eq. 3; Tsuchida et al. 2018, eq. 8.

    Written as (b - a)^2 times the rectifier's dual plus a b times the identity's: exact at both ends.
    """
    c = cosine(q1, q2, k)
    pi_minus_angle = jnp.pi - arccos(c)
    T = safe_sqrt(q1) * safe_sqrt(q2) * _arc_cosine(c) / (2 * jnp.pi)
    return (b - a) ** 2 * T + a * b * k, (b - a) ** 2 * pi_minus_angle / (2 * jnp.pi) + a * b


@jax.custom_jvp
def _arc_cosine(c: Array) -> Array:
    """sin(angle) + (pi - angle) cos(angle); its derivative in c is pi - angle, finite also where c = 1."""
    return sine(c) + (jnp.pi - arccos(c)) * c


@_arc_cosine.defjvp
def _(primals, tangents):
    (c,), (dc,) = primals, tangents
    return _arc_cosine(c), (jnp.pi - arccos(c)) * dc


@pytree
class Relu(Activation):
    """phi(x) = max(x, 0). Cho and Saul 2009, the arc-cosine kernel of order 1."""

    def phi(self, x):
        return jnp.maximum(x, 0)

    def dual(self, q1, q2, k):
        return _rectified(like(0.0, k), like(1.0, k), q1, q2, k)

    def variance(self, q):
        return q / 2, jnp.full_like(q, 0.5)


@pytree
class LeakyRelu(Activation):
    """phi(x) = max(x, 0) + slope min(x, 0)."""

    slope: Any = 0.01

    def phi(self, x):
        return jnp.where(x > 0, x, like(self.slope, x) * x)

    def dual(self, q1, q2, k):
        return _rectified(like(self.slope, k), like(1.0, k), q1, q2, k)

    def variance(self, q):
        half = (1 + like(self.slope, q) ** 2) / 2
        return half * q, jnp.full_like(q, half)


@pytree
class Abs(Activation):
    """phi(x) = |x|."""

    def phi(self, x):
        return jnp.abs(x)

    def dual(self, q1, q2, k):
        return _rectified(like(-1.0, k), like(1.0, k), q1, q2, k)

    def variance(self, q):
        return q, jnp.ones_like(q)


def root_of_difference(q1: Array, q2: Array, k: Array) -> Array:
    """sqrt((1 + q1)(1 + q2) - k^2), for k^2 up to q1 q2. Prevents: overflow, and a root of less than nothing."""
    u1, u2 = 1 + q1, 1 + q2
    root = jnp.sqrt(u1) * jnp.sqrt(u2)
    surplus = (q1 / u1) * (q2 / u2) - (k / root) ** 2  # zero where the two points are parallel
    surplus = jnp.where(surplus < 0, 0, surplus)
    return root * jnp.sqrt((1 + q1 + q2) / u1 / u2 + surplus)


@pytree
class Erf(Activation):
    """phi(x) = erf(x). Williams 1997, eq. 11."""

    def phi(self, x):
        return jax.scipy.special.erf(x)

    def dual(self, q1, q2, k):
        root = root_of_difference(2 * q1, 2 * q2, 2 * k)
        return 2 / jnp.pi * jnp.arctan2(2 * k, root), 4 / jnp.pi / root

    def variance(self, q):
        root = jnp.sqrt(1 + 4 * q)
        return 2 / jnp.pi * jnp.arctan2(2 * q, root), 4 / jnp.pi / root


@pytree
class Gelu(Activation):
    """phi(x) = x Phi(x), with the normal distribution function: the exact GELU. Tsuchida et al. 2021, Proposition 3."""

    def phi(self, x):
        return jax.nn.gelu(x, approximate=False)

    def dual(self, q1, q2, k):
        return self._dual(q1, q2, k, root_of_difference(q1, q2, k))

    def variance(self, q):
        return self._dual(q, q, q, jnp.sqrt(1 + 2 * q))

    def _dual(self, q1, q2, k, root):
        angle = jnp.arctan2(k, root)
        k_over_P = (k / (1 + q1)) / (1 + q2)
        p_over_P = (q1 / (1 + q1)) * (q2 / (1 + q2))
        T = k / 4 + (k * k_over_P / root + p_over_P * root + k * angle) / (2 * jnp.pi)
        bracket = (1 / root) ** 2 + (2 + q1 + q2) / (1 + q1) / (1 + q2)  # 1 - p/P would cancel for large variances
        return T, 1 / 4 + (angle + k / root * bracket) / (2 * jnp.pi)


@pytree
class Step(Activation):
    """phi(x) = 1 for x > 0, else 0. Its slope is zero almost everywhere, so weights before it have no NTK."""

    def phi(self, x):
        return (x > 0).astype(x.dtype)

    def dual(self, q1, q2, k):
        T = (jnp.pi - arccos(cosine(q1, q2, k))) / (2 * jnp.pi)
        return jnp.where((q1 > 0) & (q2 > 0), T, 0), jnp.zeros_like(k)

    def variance(self, q):
        return jnp.where(q > 0, 0.5, 0).astype(q.dtype), jnp.zeros_like(q)


@pytree
class Sign(Activation):
    """phi(x) = 1 for x > 0, -1 for x < 0, 0 at 0. Its slope is zero almost everywhere, as that of `Step`."""

    def phi(self, x):
        return jnp.sign(x)

    def dual(self, q1, q2, k):
        return 1 - 2 / jnp.pi * arccos(cosine(q1, q2, k)), jnp.zeros_like(k)

    def variance(self, q):
        return (q > 0).astype(q.dtype), jnp.zeros_like(q)
