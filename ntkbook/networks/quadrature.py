"""Duals of activations without a closed form, by quadrature in polar coordinates.

In the plane of the two Gaussians, u = s1 r cos(t) and v = s2 r cos(t - angle), the sign of u and of v changes only on
four rays. Gauss-Legendre nodes between those rays see a smooth function, also for activations with a kink at zero,
where the Gauss-Hermite grid that is often used is wrong in the second or third digit (notebook 02 shows both).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import checks
from ..numerics import arccos, cosine, safe_sqrt
from ..pytrees import pytree, static
from .activations import Activation

RADIUS = {"float32": 6.5, "float64": 9.0}  # exp(-r^2/2) beyond is below the rounding of the type
NODES = {"float32": (20, 12), "float64": (40, 24)}  # radial, and angular on each arc


def dual(
    phi: Callable[[Array], Array], q1: Array, q2: Array, k: Array, nodes: tuple[int, int] | None
) -> tuple[Array, Array]:
    """(E[phi(u) phi(v)], E[phi'(u) phi'(v)]) for variances q1, q2 and covariance k; phi' by `jax.jvp`.

    The arrays broadcast, and memory stays a few times that of the result: the sum runs node by node.
    """
    return _integrate(phi, safe_sqrt(q1), safe_sqrt(q2), arccos(cosine(q1, q2, k)), nodes)


def variance(phi: Callable[[Array], Array], q: Array, nodes: tuple[int, int] | None) -> tuple[Array, Array]:
    """(E[phi(u)^2], E[phi'(u)^2]) for a variance q: the angle is exactly zero."""
    s = safe_sqrt(q)
    fine = tuple(2 * n for n in nodes or NODES[q.dtype.name])  # few numbers, which every layer after builds on
    return _integrate(phi, s, s, jnp.zeros_like(q), fine)


def _integrate(phi, s1, s2, angle, nodes):
    name = angle.dtype.name
    n_radial, n_angular = nodes or NODES[name]
    x, w = np.polynomial.legendre.leggauss(n_radial)
    r = RADIUS[name] * (x + 1) / 2
    weight_r = RADIUS[name] / 2 * w * r * np.exp(-r * r / 2) / (2 * np.pi)
    x, w = np.polynomial.legendre.leggauss(n_angular)
    radial = (jnp.asarray(r, angle.dtype), jnp.asarray(weight_r, angle.dtype))
    angular = (jnp.asarray((x + 1) / 2, angle.dtype), jnp.asarray(w / 2, angle.dtype))
    shape = jnp.broadcast_shapes(s1.shape, s2.shape, angle.shape)
    zero = jnp.zeros(shape, angle.dtype)

    def add_ray(sums, node):
        position, weight = node
        for start, length in ((-jnp.pi / 2, angle), (angle - jnp.pi / 2, jnp.pi - angle)):
            t = start + length * position
            u, v = s1 * jnp.cos(t), s2 * jnp.cos(t - angle)
            T, Tdot = _along_ray(phi, u, v, radial, zero)
            sums = (sums[0] + weight * length * T, sums[1] + weight * length * Tdot)
        return sums, None

    return jax.lax.scan(add_ray, (zero, zero), angular)[0]


def _along_ray(phi, u, v, radial, zero):
    def add_point(sums, node):
        r, weight = node
        T, Tdot = sums
        for sign in (r, -r):  # the opposite ray has the same weight
            phi_u, slope_u = _value_and_slope(phi, sign * u)
            phi_v, slope_v = _value_and_slope(phi, sign * v)
            T = T + weight * phi_u * phi_v
            Tdot = Tdot + weight * slope_u * slope_v
        return (T, Tdot), None

    return jax.lax.scan(add_point, (zero, zero), radial)[0]


def _value_and_slope(phi, x):
    return jax.jvp(phi, (x,), (jnp.ones_like(x),))


class Quadrature(Activation):
    """An activation whose dual is computed numerically: a subclass has `phi`, smooth apart from a kink at zero.

    Relative errors of (T, Tdot) seen in float64, against 400 x 300 nodes, for variances up to 1, 4, 25 and 100:
    tanh 1e-13, 5e-12, 2e-8, 3e-5; sigmoid 4e-14, 4e-14, 3e-11, 2e-9; ELU 4e-14 throughout. In float32: 2e-6 up to 4.
    """

    nodes: tuple[int, int] | None = None

    def dual(self, q1, q2, k):
        return dual(self.phi, q1, q2, k, self.nodes)

    def variance(self, q):
        return variance(self.phi, q, self.nodes)


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
    nodes: Any = static(default=None, kw_only=True)  # (radial, angular), or None

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"Expected a function of arrays, got {self.function!r}. As in Elementwise(jnp.tanh).")
        example = jax.ShapeDtypeStruct((2, 3), float)
        try:
            shape = getattr(jax.eval_shape(lambda z: self.function(z), example), "shape", None)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TypeError(
                f"Expected a function of JAX arrays, got {self!r}, which fails on them: {reason} "
                "Write it with jax.numpy: jnp.tanh rather than np.tanh."
            ) from error
        if shape != example.shape:
            raise ValueError(
                f"Expected an elementwise function, got {self!r}, which makes {shape} of {example.shape}. "
                "It acts on each entry alone."
            )
        if self.nodes is not None:
            if not isinstance(self.nodes, (tuple, list)) or len(self.nodes) != 2:
                raise TypeError(f"Expected nodes = (radial, angular), two whole numbers, got {self.nodes!r}.")
            for count in self.nodes:
                checks.whole_number(count, "nodes", 1, 10_000)
            object.__setattr__(self, "nodes", tuple(self.nodes))

    def phi(self, x):
        return self.function(x)

    def __repr__(self):
        return f"Elementwise({getattr(self.function, '__name__', 'function')})"
