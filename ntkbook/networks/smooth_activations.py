"""Smooth activations whose duals are exponentials, polynomials or roots: waves, exponentials, Gaussians, polynomials.

The contract is in activations.py.
"""

from collections.abc import Callable
from math import factorial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..numerics import with_derivatives_of
from ..pytrees import number, pytree, static
from .activations import Activation, OfShares, Pair, scale
from .signals import like


class _Wave(Activation):
    """Duals made of exp(-E[(u - v)^2] / 2), which keep their digits for inputs far from the origin: a subclass has
    `at_distance`."""

    def at_distance(self, q1: Array, q2: Array, k: Array, distance: Array) -> Pair:
        """`dual` for distance = q1 + q2 - 2k."""
        raise NotImplementedError

    def dual(self, q1, q2, k):
        return self.dual_of_near(q1, q2, k, None)

    def dual_of_near(self, q1, q2, k, distance):
        formula = q1 + q2 - 2 * k
        known = jnp.maximum(formula, 0) if distance is None else distance
        return self.at_distance(q1, q2, k, with_derivatives_of(formula, known))


def _waves(q1: Array, q2: Array, k: Array, distance: Array) -> Pair:
    """exp(-(q1 + q2)/2) times sinh(k) and cosh(k): E[sin sin] and E[cos cos].

    Through expm1: for small variances their difference of exponentials would cancel, for large ones overflow.
    """
    total = q1 + q2 + 2 * k
    sign, size = jnp.where(k < 0, -1, 1).astype(k.dtype), jnp.where(k < 0, -k, k)
    largest = jnp.exp(-jnp.where(k < 0, with_derivatives_of(total, jnp.maximum(total, 0)), distance) / 2) / 2
    return -sign * largest * jnp.expm1(-2 * size), largest * (1 + jnp.exp(-2 * size))


class _Shifted(_Wave):
    """amplitude wave(frequency x + shift), where `wave` is the sine or the cosine, and `other` the other one."""

    amplitude: Any
    frequency: Any
    shift: Any
    wave: Callable
    other: Callable

    def phi(self, x):
        return like(self.amplitude, x) * self.wave(like(self.frequency, x) * x + like(self.shift, x))

    def at_distance(self, q1, q2, k, distance):
        a2, b2, shift = like(self.amplitude, k) ** 2, like(self.frequency, k) ** 2, like(self.shift, k)
        sinh, cosh = _waves(b2 * q1, b2 * q2, b2 * k, b2 * distance)
        even, odd = self.wave(shift) ** 2, self.other(shift) ** 2
        return a2 * (even * cosh + odd * sinh), a2 * b2 * (odd * cosh + even * sinh)


@pytree
class Sin(_Shifted):
    """phi(x) = amplitude sin(frequency x + shift)."""

    amplitude: Any = number(default=1.0)
    frequency: Any = number(default=1.0)
    shift: Any = number(default=0.0)
    wave, other = staticmethod(jnp.sin), staticmethod(jnp.cos)


@pytree
class Cos(_Shifted):
    """phi(x) = amplitude cos(frequency x + shift)."""

    amplitude: Any = number(default=1.0)
    frequency: Any = number(default=1.0)
    shift: Any = number(default=0.0)
    wave, other = staticmethod(jnp.cos), staticmethod(jnp.sin)


@pytree
class Rbf(_Wave):
    """phi(x) = sqrt(2) sin(sqrt(2 gamma) x + pi/4), whose NNGP is the kernel exp(-gamma |x - x'|^2)."""

    gamma: Any = number(default=1.0, low=0.0)

    def phi(self, x):
        return 2**0.5 * jnp.sin(jnp.sqrt(2 * like(self.gamma, x)) * x + jnp.pi / 4)

    def at_distance(self, q1, q2, k, distance):
        gamma = like(self.gamma, k)
        T = jnp.exp(-gamma * distance)
        return T, 2 * gamma * T


@pytree
class Exp(Activation):
    """phi(x) = amplitude exp(rate x)."""

    rate: Any = number(default=1.0)
    amplitude: Any = scale()

    def phi(self, x):
        return like(self.amplitude, x) * jnp.exp(like(self.rate, x) * x)

    def dual(self, q1, q2, k):
        rate2 = like(self.rate, k) ** 2
        T = like(self.amplitude, k) ** 2 * jnp.exp(rate2 * ((q1 + q2) / 2 + k))
        return T, rate2 * T


@pytree
class Gaussian(OfShares):
    """phi(x) = amplitude exp(-rate x^2). Williams 1997, section 3.2."""

    amplitude: Any = scale()
    rate: Any = number(default=None, low=0.0, is_optional=True, is_tunable=False)

    def phi(self, x):
        return like(self.amplitude, x) * jnp.exp(-like(self.rate, x) * x * x)

    def scale2(self, q):
        return 2 * like(self.rate, q)

    def dual_of_shares(self, q1, q2, k, s, r, root):
        a2, T = like(self.amplitude, r) ** 2, s / root
        return a2 * T, a2 * self.scale2(r) * (r / root) * T * T


@pytree
class Polynomial(Activation):
    """phi(x) = sum_i coefficients[i] x^i, from the constant upwards.

    T = sum_l R_l(q1) R_l(q2) k^l: only sums and products, so that zero inputs are as good as any.
    Daniely et al. 2016, section 6, with variances other than one.
    """

    coefficients: Any = number(is_many=True)

    def __post_init__(self):
        is_row = isinstance(self.coefficients, (tuple, list)) or np.ndim(self.coefficients) == 1
        if not is_row or len(self.coefficients) == 0:
            raise TypeError(
                f"Expected coefficients as a sequence such as (0.0, 1.0), got {self.coefficients!r}. "
                "They go from the constant upwards."
            )
        object.__setattr__(self, "coefficients", tuple(self.coefficients))

    def phi(self, x):
        return _horner([like(c, x) for c in self.coefficients], x)

    def dual(self, q1, q2, k):
        c = [like(coefficient, k) for coefficient in self.coefficients]
        modes = [_hermite_mode(c, q1, l) * _hermite_mode(c, q2, l) for l in range(len(c))]
        slopes = [l * mode for l, mode in enumerate(modes)][1:]
        return _horner(modes, k), _horner(slopes, k) if slopes else jnp.zeros_like(k)


def _horner(coefficients: list[Array], x: Array) -> Array:
    total = jnp.zeros_like(x)
    for c in coefficients[::-1]:
        total = total * x + c
    return total


def _hermite_mode(c: list[Array], q: Array, l: int) -> Array:
    """R_l(q) = sqrt(l!) sum_i c_(2i+l) (2i+l)! / (2^i i! l!) q^i, the weight of phi on the Hermite polynomial l."""
    top = (len(c) - 1 - l) // 2
    weights = [factorial(2 * i + l) / (2**i * factorial(i) * factorial(l) ** 0.5) for i in range(top + 1)]
    return _horner([c[2 * i + l] * weight for i, weight in enumerate(weights)], q)


@pytree
class Hermite(Activation):
    """phi(x) = He_degree(x) / sqrt(degree!), the normalized probabilists' polynomial; at q1 = q2 = 1, T = k^degree."""

    degree: int = static(least=0, most=1000)  # beyond, its factorials overflow

    def phi(self, x):
        before, now = jnp.zeros_like(x), jnp.ones_like(x)
        for n in range(self.degree):  # normalized: sqrt(n + 1) h_(n+1) = x h_n - sqrt(n) h_(n-1)
            before, now = now, (x * now - n**0.5 * before) / (n + 1) ** 0.5
        return now

    def dual(self, q1, q2, k):
        # He_n(s z) in the He_(n-2j)(z), with (s^2 - 1)^j: all terms but j = 0 vanish at variance one
        n = self.degree
        drift = (q1 - 1) * (q2 - 1)
        weights = [factorial(n) / (4**j * factorial(j) ** 2 * factorial(n - 2 * j)) for j in range(n // 2 + 1)]
        T = sum((w * drift**j * k ** (n - 2 * j) for j, w in enumerate(weights)), jnp.zeros_like(k))
        odd = [(w, j) for j, w in enumerate(weights) if n > 2 * j]
        Tdot = sum(((n - 2 * j) * w * drift**j * k ** (n - 2 * j - 1) for w, j in odd), jnp.zeros_like(k))
        return T, Tdot


@pytree
class WithDual(Activation):
    """A function whose dual is given as dual_fn(covariance, variance1, variance2) of numbers, and its slope by autodiff
    unless `slope_fn` gives it. Without `function` there is a kernel alone."""

    function: Any = static()
    dual_fn: Callable = static()
    slope_fn: Any = static(default=None)

    def phi(self, x):
        if self.function is None:
            raise NotImplementedError(
                "A dual was given without its function: there is no finite network, its kernel alone."
            )
        return jnp.vectorize(self.function)(x)

    def dual(self, q1, q2, k):
        slope = jax.grad(self.dual_fn) if self.slope_fn is None else self.slope_fn
        return jnp.vectorize(self.dual_fn)(k, q1, q2), jnp.vectorize(slope)(k, q1, q2)
