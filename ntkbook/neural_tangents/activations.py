"""The guest's activations, under its names and with its defaults; stax.py has them too."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..networks import activations, quadrature
from ..networks import smooth_activations as smooth
from ..pytrees import pytree, static
from .wiring import Triple, of


def Relu(do_stabilize: bool = False) -> Triple:
    """max(x, 0); nothing here needs to be stabilized."""
    return of(activations.Relu(), "Relu")


def LeakyRelu(alpha: float, do_stabilize: bool = False) -> Triple:
    """max(x, 0) + alpha min(x, 0)."""
    return of(activations.LeakyRelu(alpha), "LeakyRelu")


def ABRelu(a: float, b: float, do_stabilize: bool = False) -> Triple:
    """a min(x, 0) + b max(x, 0)."""
    if b != 0:
        return of(activations.LeakyRelu(a / b, b), "ABRelu")
    return of(quadrature.Elementwise(lambda x: jnp.where(x > 0, b * x, a * x)), "ABRelu")


def Abs(do_stabilize: bool = False) -> Triple:
    """|x|."""
    return of(activations.Abs(), "Abs")


def Sign() -> Triple:
    """The sign of x."""
    return of(activations.Sign(), "Sign")


def Erf(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Triple:
    """a erf(b x) + c."""
    return of(activations.Erf(a, b, c), "Erf")


def Sigmoid_like() -> Triple:
    """(1 + erf(x / 2.4020563531719796)) / 2, close to the sigmoid."""
    return Erf(0.5, 1 / 2.4020563531719796, 0.5)


def Gelu(approximate: bool = False) -> Triple:
    """x Phi(x)."""
    return of(activations.Gelu(), "Gelu")


def Sin(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Triple:
    """a sin(b x + c)."""
    return of(smooth.Sin(a, b, c), "Sin")


def Cos(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Triple:
    """a cos(b x + c)."""
    return of(smooth.Cos(a, b, c), "Cos")


def Rbf(gamma: float = 1.0) -> Triple:
    """sqrt(2) sin(sqrt(2 gamma) x + pi/4)."""
    return of(smooth.Rbf(gamma), "Rbf")


def Exp(a: float = 1, b: float = 1) -> Triple:
    """a exp(b x)."""
    return of(smooth.Exp(b, a), "Exp")


def Gaussian(a: float = 1, b: float = -1) -> Triple:
    """a exp(b x^2)."""
    made = smooth.Gaussian(a, -b) if b < 0 else quadrature.Elementwise(lambda x: a * jnp.exp(b * x * x))
    return of(made, "Gaussian")


def Gabor() -> Triple:
    """exp(-x^2) sin(x)."""
    return of(quadrature.Elementwise(lambda x: jnp.exp(-x * x) * jnp.sin(x)), "Gabor")


def Hermite(degree: int) -> Triple:
    """The normalized Hermite polynomial of the probabilists."""
    return of(smooth.Hermite(degree), "Hermite")


def Polynomial(coef: Sequence[float]) -> Triple:
    """coef[0] + coef[1] x + ..."""
    return of(smooth.Polynomial(tuple(float(c) for c in coef)), "Polynomial")


def Monomial(degree: int) -> Triple:
    """x^degree."""
    return of(smooth.Polynomial((0.0,) * degree + (1.0,)), "Monomial")


def RectifiedMonomial(degree: int) -> Triple:
    """x^degree for x > 0, else 0."""
    first = [activations.Step(), activations.Relu()]
    made = first[degree] if degree < 2 else quadrature.Elementwise(lambda x: jnp.maximum(x, 0) ** degree)
    return of(made, "RectifiedMonomial")


def ElementwiseNumerical(fn: Callable, deg: int, df: Callable | None = None) -> Triple:
    """Any function, by a quadrature that is exact to rounding: `deg` and `df` are not needed."""
    return of(quadrature.Elementwise(fn), "ElementwiseNumerical")


def Elementwise(
    fn: Callable | None = None, nngp_fn: Callable | None = None, d_nngp_fn: Callable | None = None
) -> Triple:
    """A function with its own average, nngp_fn(covariance, variance1, variance2); by quadrature without one."""
    if nngp_fn is None:
        if fn is None:
            raise ValueError("Expected a function, or its nngp_fn, got neither.")
        return of(quadrature.Elementwise(fn), "Elementwise")
    return of(_WithDual(fn, nngp_fn, d_nngp_fn), "Elementwise")


def ExpNormalized(gamma: float = 1, shift: float = -1, do_clip: bool = False) -> Triple:
    """A kernel without a finite network: sqrt(q1 q2) exp(gamma (cosine + shift))."""

    def nngp_fn(k, q1, q2):
        size = jnp.sqrt(q1 * q2)
        cosine = k / size
        return size * jnp.exp(gamma * ((jnp.clip(cosine, -1, 1) if do_clip else cosine) + shift))

    return of(_WithDual(None, nngp_fn), "ExpNormalized")


@pytree
class _WithDual(activations.Activation):
    """A function whose dual the guest gives."""

    function: Any = static()
    nngp_fn: Any = static()
    slope_fn: Any = static(default=None)

    def phi(self, x):
        if self.function is None:
            raise NotImplementedError("Elementwise without fn has a kernel, and no finite network.")
        return jnp.vectorize(self.function)(x)

    def dual(self, q1, q2, k):
        slope = jax.grad(self.nngp_fn) if self.slope_fn is None else self.slope_fn
        return tuple(jnp.vectorize(f)(k, q1, q2) for f in (self.nngp_fn, slope))
