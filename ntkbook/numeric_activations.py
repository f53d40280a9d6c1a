"""Activations without a closed form: any function, by the quadrature of quadrature.py.

The contract is in activations.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from . import quadrature
from .activations import Activation
from .kernel import pytree, static


class Quadrature(Activation):
    """An activation whose dual is computed numerically: a subclass has `phi`, smooth apart from a kink at zero.

    Relative errors of (T, Tdot) seen in float64, against 400 x 300 nodes, for variances up to 1, 4, 25 and 100:
    tanh 1e-13, 5e-12, 2e-8, 3e-5; sigmoid 4e-14, 4e-14, 3e-11, 2e-9; ELU 4e-14 throughout. In float32: 2e-6 up to 4.
    """

    nodes: tuple[int, int] | None = None

    def dual(self, q1, q2, k):
        return quadrature.dual(self.phi, q1, q2, k, self.nodes)

    def variance(self, q):
        return quadrature.variance(self.phi, q, self.nodes)


@pytree
class Elu(Quadrature):
    """phi(x) = x for x > 0, exp(x) - 1 for x < 0. Its closed form is made of quadratures too."""

    def phi(self, x):
        return jax.nn.elu(x)


@pytree
class Tanh(Quadrature):
    """phi(x) = tanh(x)."""

    def phi(self, x):
        return jnp.tanh(x)


@pytree
class Sigmoid(Quadrature):
    """phi(x) = 1 / (1 + exp(-x))."""

    def phi(self, x):
        return jax.nn.sigmoid(x)


@pytree
class Silu(Quadrature):
    """phi(x) = x sigmoid(x), also called swish."""

    def phi(self, x):
        return jax.nn.silu(x)


@pytree
class Softplus(Quadrature):
    """phi(x) = log(1 + exp(x))."""

    def phi(self, x):
        return jax.nn.softplus(x)


@pytree
class Elementwise(Quadrature):
    """Any elementwise function of JAX arrays, such as `Elementwise(jax.nn.mish)`.

    As accurate as `Quadrature` says if it is smooth apart from a kink at zero; a kink or jump elsewhere costs
    digits, and `nodes` = (radial, angular) buys some back.
    """

    function: Callable[[Array], Array] = static()
    nodes: tuple[int, int] | None = static(default=None, kw_only=True)

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"Expected a function of arrays, got {self.function!r}. As in Elementwise(jnp.tanh).")

    def phi(self, x):
        return self.function(x)

    def __repr__(self):
        return f"Elementwise({getattr(self.function, '__name__', 'function')})"
