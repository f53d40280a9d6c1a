"""Activations without a closed form: their duals are Gaussian averages by averages.py, or by mehler.py where phi is
smooth and its series exact.

Derivatives of smooth activations follow from Price's theorem, d E[f(u) g(v)] = E[f' g'] dk + E[f'' g] dq1 / 2
+ E[f g''] dq2 / 2: right, in any order, also where the angle between u and v has no slope.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import checks
from ..numerics import cosine, safe_sqrt, sine
from ..pytrees import pytree, static
from .activations import Activation, Pair
from .averages import TRIED, VALUE_AND_SLOPE, averages, averages_of_one, errors_tried, is_elementwise, is_smooth
from .mehler import averages_of_smooth


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _smooth(phi, orders, nodes, *pairs):
    """`averages` of the variances, the covariance, and perhaps the distance, or of one variance, which is all three."""
    if len(pairs) == 1:
        return averages_of_one(phi, orders, nodes, *pairs)

    @jax.custom_batching.custom_vmap
    def at(*pairs):
        rule = partial(averages, phi, orders, nodes)
        return rule(*pairs) if nodes else averages_of_smooth(phi, orders, rule, *pairs)

    @at.def_vmap
    def _(size, is_batched, *pairs):  # with one axis more: all choose their nodes together
        rank = max(a.ndim - b for a, b in zip(pairs, is_batched))
        shapes = [(size if b else 1, *[1] * (rank - a.ndim + b), *a.shape[b:]) for a, b in zip(pairs, is_batched)]
        return at(*(a.reshape(shape) for a, shape in zip(pairs, shapes))), (True,) * len(orders)

    return at(*pairs)


@_smooth.defjvp
def _(phi, orders, nodes, pairs, tangents):
    dq1, dq2, dk = tangents[:3] if len(tangents) > 1 else tangents * 3
    # What Price's theorem makes of each order, by k, by q1 and by q2, and all that it needs.
    raised = [((i + 1, j + 1), (i + 2, j), (i, j + 2)) for i, j in orders]
    needed = tuple(sorted({*orders, *(order for three in raised for order in three)}))
    average = dict(zip(needed, _smooth(phi, needed, nodes, *pairs)))
    slopes = [[average[order] for order in three] for three in raised]
    return tuple(average[o] for o in orders), tuple(a * dk + (b * dq1 + c * dq2) / 2 for a, b, c in slopes)


def _kinked(phi, nodes, q1, q2, k, distance):
    """(T, Tdot), whose derivatives go through the nodes, which follow the angle. Where that has no slope, of parallel
    points, Price's theorem gives the first derivative of T; those of Tdot are infinite there if phi has a kink."""
    T, Tdot = averages(phi, VALUE_AND_SLOPE, nodes, q1, q2, k, distance)
    c = cosine(q1, q2, k)
    is_parallel = sine(c) < float(jnp.finfo(c.dtype).eps) ** 0.4
    by_c = jax.lax.stop_gradient(jnp.where(is_parallel, safe_sqrt(q1) * safe_sqrt(q2) * Tdot, 0))
    return T + by_c * (c - jax.lax.stop_gradient(c)), Tdot


class Quadrature(Activation):
    """An activation whose dual is computed numerically: a subclass has `phi`, smooth apart from a kink at zero.

    If it is `is_smooth` (no kink at all, and no numbers of its own) derivatives of its dual are right in any order.
    With a kink the first ones of T are; those of Tdot are infinite where two points are parallel, and zero here.

    Errors of T and Tdot, relative to sqrt(E[phi(u)^2] E[phi(v)^2]) and to the same of phi', for tanh, sigmoid, SiLU,
    softplus and ELU, cosines from -1 to 1 and variances from 1e-4 to 1e8, against panels graded to 14th order: below
    1e-9 in float64; in float32 below 3e-5 up to 100 and 3e-4 beyond, besides what the rounding of a covariance moves
    (near points are told apart by their distance). tests/test_quadrature.py holds these bounds. Larger variances cost
    digits (1e-8 and 1e-3 of T), and beyond `largest_variance` the dual is NaN, which `kernel` tells: the slope of a
    tanh is a peak there that no node meets.
    """

    nodes: tuple[int, int] | None = None
    is_smooth: bool = False
    largest: float = float("inf")  # variance

    def largest_variance(self, dtype: Any) -> float:
        """Up to which the dual is right."""
        return self.largest

    def dual(self, q1, q2, k):
        return self.dual_of_near(q1, q2, k, None)

    def dual_of_near(self, q1, q2, k, distance):
        if self.is_smooth:
            pairs = (q1, q2, k) if distance is None else (q1, q2, k, distance)
            pair = _smooth(self.phi, VALUE_AND_SLOPE, self.nodes, *pairs)
        else:
            pair = _kinked(self.phi, self.nodes, q1, q2, k, distance)
        return self._told(pair, jnp.maximum(q1, q2))

    def variance(self, q):
        of_one = _smooth if self.is_smooth else averages_of_one
        return self._told(of_one(self.phi, VALUE_AND_SLOPE, self.nodes, q), q)

    def _told(self, pair, q) -> Pair:
        most, (T, Tdot) = self.largest_variance(q.dtype), pair
        if most == float("inf"):
            return pair
        return jnp.where(q > most, jnp.nan, T), jnp.where(q > most, jnp.nan, Tdot)


@pytree
class Elu(Quadrature):
    """phi(x) = x for x > 0, exp(x) - 1 for x < 0. Its closed form is made of quadratures too."""

    def phi(self, x):
        return jax.nn.elu(x)


@pytree
class Tanh(Quadrature):
    """phi(x) = tanh(x)."""

    is_smooth = True
    largest = 1e12

    def phi(self, x):
        return jnp.tanh(x)


@pytree
class Sigmoid(Quadrature):
    """phi(x) = 1 / (1 + exp(-x))."""

    is_smooth = True
    largest = 1e12

    def phi(self, x):
        return jax.nn.sigmoid(x)


@pytree
class Silu(Quadrature):
    """phi(x) = x sigmoid(x), also called swish."""

    is_smooth = True

    def phi(self, x):
        return jax.nn.silu(x)


@pytree
class Softplus(Quadrature):
    """phi(x) = log(1 + exp(x))."""

    is_smooth = True

    def phi(self, x):
        return jax.nn.softplus(x)


@pytree
class Elementwise(Quadrature):
    """Any elementwise function of JAX arrays, such as `Elementwise(jax.nn.mish)`.

    As accurate as `Quadrature` says if it is smooth apart from a kink at zero, and turns no faster than a tanh. A kink
    or jump elsewhere costs digits, and more than 0.1 % of them a warning with the error; `nodes` = (radial, angular)
    buys some back. The error is measured once per function. Beyond the variance where it passes 1 % (30 % with such a
    kink) the dual is NaN, which `kernel` tells.
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
        if shape != example.shape or not is_elementwise(self.function):
            made = f"makes {shape} of {example.shape}" if shape != example.shape else "mixes the entries of an array"
            raise ValueError(
                f"Expected an elementwise function, got {self!r}, which {made}. It acts on each entry alone."
            )
        if self.nodes is not None:
            if not isinstance(self.nodes, (tuple, list)) or len(self.nodes) != 2:
                raise TypeError(f"Expected nodes = (radial, angular), two whole numbers, got {self.nodes!r}.")
            for count in self.nodes:
                checks.whole_number(count, "nodes", 1, 10_000)
            object.__setattr__(self, "nodes", tuple(self.nodes))

    @property
    def is_smooth(self):
        return is_smooth(self.function)

    def largest_variance(self, dtype):
        errors = errors_tried(self.function, self.nodes, dtype)
        is_bad = ~(errors <= 0.01) if self.is_smooth else ~(errors <= 0.3) & (TRIED >= 1)
        return float(TRIED[is_bad.argmax() - 1]) if is_bad.any() else float("inf")

    def dual_of_near(self, q1, q2, k, distance):
        error = errors_tried(self.function, self.nodes, k.dtype)[(TRIED >= 1) & (TRIED <= 11)].max()
        if error > 1e-3 and not self.is_smooth:
            checks.warn(
                f"{self!r} has a kink or a jump apart from zero: its kernels are right to about {error:.1%} "
                "for variances up to 10. More nodes buy digits: Elementwise(phi, nodes=(200, 200))."
            )
        return super().dual_of_near(q1, q2, k, distance)

    def phi(self, x):
        return self.function(x)

    def __repr__(self):
        return f"Elementwise({getattr(self.function, '__name__', 'function')})"
