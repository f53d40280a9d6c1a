"""Activations: phi beside its dual, the Gaussian averages that an infinitely wide layer sees.

For (u, v) Gaussian with variances q1, q2 and covariance k, `dual(q1, q2, k)` is the pair T = E[phi(u) phi(v)] and
Tdot = E[phi'(u) phi'(v)]. By Price's theorem Tdot = dT/dk where phi does not jump, and the tests hold every class to
it. A new activation is a class with `phi` and `dual`, a name in `__init__`, a row in the test's list. Here: the
contract, the activations with a kink or a jump at zero, erf and GELU. Others: smooth_activations.py,
quadrature.py. Notebook 02 draws all.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..numerics import angle, cosine, gap_of_cosine, safe_sqrt, sine_of_angle
from ..pytrees import number, pytree
from .kernel import Layer
from .signals import Signals, like

Pair = tuple[Array, Array]
Three = tuple[Array, Array, Array | None]


def scale() -> Any:
    """A field for a number of the caller's that stands beside the weights, which have a scale already: not tuned, and
    None, the usual case, costs nothing when a network is passed to compiled code."""
    return number(default=None, is_optional=True, is_tunable=False)


class Activation(Layer):
    """An elementwise function of Gaussian signals."""

    is_by_offset = True

    def phi(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The function itself."""
        raise NotImplementedError

    def dual(self, q1: Array, q2: Array, k: Array) -> Pair:
        """(E[phi(u) phi(v)], E[phi'(u) phi'(v)]) for variances q1, q2 and covariance k, which broadcast."""
        raise NotImplementedError

    def variance(self, q: Array) -> Pair:
        """(E[phi(u)^2], E[phi'(u)^2]) for a variance q: `dual(q, q, q)` without its rounding at kinks."""
        return self.dual(q, q, q)

    def dual_at_distance(self, q1: Array, q2: Array, k: Array, distance: Array | None) -> Three:
        """`dual`, and E[(phi(u) - phi(v))^2]. What has kinks or jumps uses that distance = E[(u - v)^2] is exact.

        For points that are all far, both distances are None.
        """
        T, Tdot = self.dual_of_near(q1, q2, k, distance)
        return T, Tdot, None if distance is None else self.distance_after(q1, q2, T, distance)

    def dual_of_near(self, q1: Array, q2: Array, k: Array, distance: Array | None) -> Pair:
        """`dual`, where some formula for it has more digits with the distance."""
        return self.dual(q1, q2, k)

    def distance_after(self, q1: Array, q2: Array, T: Array, distance: Array) -> Array:
        """E[(phi(u) - phi(v))^2]. For near points it is E[phi'^2] times the distance, corrected for their lengths."""
        (T1, Tdot1), (_, slope1) = jax.jvp(self.variance, (q1,), (jnp.ones_like(q1),))
        (T2, Tdot2), (_, slope2) = jax.jvp(self.variance, (q2,), (jnp.ones_like(q2),))
        direct = T1 + T2 - 2 * T
        near = distance * (Tdot1 + Tdot2) / 2
        bend = (q1 - q2) * (slope1 + slope2) / 4 * (q1 - q2)
        near = near + jnp.where(jnp.abs(bend) < 1e3 * near, bend, 0)  # more is a peak of phi'' that no node has met
        return jnp.where(direct < jnp.finfo(T.dtype).eps ** 0.5 * (T1 + T2), near, direct)

    def init(self, key: Array, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[()]]:
        return input_shape, ()

    def apply(self, params: tuple[()], x: Array) -> Array:
        return self.phi(x)

    def kernel(self, k: Signals) -> Signals:
        if not k.is_gaussian:
            raise ValueError(
                f"Expected Gaussian signals before {type(self).__name__}, got raw inputs or the output of another "
                "activation. An activation follows random weights: put Dense or Conv before it."
            )
        T, Tdot, distance = self.dual_at_distance(k.var1, k.var2, k.nngp, k.distance)
        T1, Tdot1 = self.variance(k.var1)
        T2, _ = self.variance(k.var2)
        if distance is not None:  # beyond the range of the dtype its square is lost: the duals have one too
            distance = jnp.where(jnp.isfinite(distance), distance, T1 + T2 - 2 * T)
        return k.replace(
            nngp=k.on_twins(T, T1),
            ntk=k.on_twins(Tdot, Tdot1) * k.ntk,
            var1=T1,
            var2=T2,
            distance=None if distance is None else jnp.where(k.distance == 0, 0, jnp.maximum(distance, 0)),
            is_gaussian=False,
            fresh=-1,
        )


class Kinked(Activation):
    """An activation with a kink or a jump at zero: its dual is made of the angle, and has one formula near and far."""

    def dual(self, q1, q2, k):
        return self.dual_at_distance(q1, q2, k, q1 + q2 - 2 * k)[:2]

    def variance(self, q):
        raise NotImplementedError


@pytree
class Identity(Activation):
    """phi(x) = x: a layer that changes nothing."""

    def phi(self, x):
        return x

    def dual(self, q1, q2, k):
        return k, jnp.ones_like(k)

    def kernel(self, k: Signals) -> Signals:
        return k

    def requires(self, needs: frozenset[str]) -> frozenset[str]:
        return needs


class Rectifier(Kinked):
    """a min(x, 0) + b max(x, 0). Cho and Saul 2009, eq. 3; Tsuchida et al. 2018, eq. 8.

    Its dual is (b - a)^2 times that of `Relu` plus a b times that of `Identity`: exact at both ends.
    """

    def slopes(self, x: Array) -> Pair:
        """a, b in the precision of x."""
        raise NotImplementedError

    def variance(self, q):
        a, b = self.slopes(q)
        half = (a * a + b * b) / 2
        return half * q, jnp.full_like(q, half)

    def dual_at_distance(self, q1, q2, k, distance):
        a, b = self.slopes(k)
        s1, s2, c = safe_sqrt(q1), safe_sqrt(q2), cosine(q1, q2, k)
        gap = gap_of_cosine(q1, q2, c, distance)
        theta = angle(c, gap)
        T = s1 * s2 * _arc_cosine(c, gap) / (2 * jnp.pi)
        T, Tdot = (b - a) ** 2 * T + a * b * k, (b - a) ** 2 * (jnp.pi - theta) / (2 * jnp.pi) + a * b
        if distance is None:
            return T, Tdot, None
        one_minus_c = jnp.where(c < 0, 2 - gap, gap)
        apart = one_minus_c - (sine_of_angle(c, gap) - theta * c) / jnp.pi  # 1 - the next cosine
        after = (b - a) ** 2 * (jnp.square(s1 - s2) / 2 + s1 * s2 * apart) + a * b * distance
        return T, Tdot, after


@jax.custom_jvp
def _arc_cosine(c: Array, gap: Array) -> Array:
    """sin(angle) + (pi - angle) cos(angle); its derivative in c is pi - angle, finite also where c = 1."""
    return sine_of_angle(c, gap) + (jnp.pi - angle(c, gap)) * c


_arc_cosine.defjvps(lambda dc, _, c, gap: (jnp.pi - angle(c, gap)) * dc, None)


@pytree
class Relu(Rectifier):
    """phi(x) = max(x, 0). Cho and Saul 2009, the arc-cosine kernel of order 1."""

    def phi(self, x):
        return jnp.maximum(x, 0)

    def slopes(self, x):
        return like(0.0, x), like(1.0, x)


@pytree
class LeakyRelu(Rectifier):
    """phi(x) = gain (max(x, 0) + slope min(x, 0))."""

    slope: Any = number(default=0.01)
    gain: Any = number(default=1.0, is_tunable=False)  # the weights that follow have a scale already

    def phi(self, x):
        return like(self.gain, x) * jnp.where(x > 0, x, like(self.slope, x) * x)

    def slopes(self, x):
        gain = like(self.gain, x)
        return like(self.slope, x) * gain, gain


@pytree
class Abs(Rectifier):
    """phi(x) = |x|."""

    def phi(self, x):
        return jnp.abs(x)

    def slopes(self, x):
        return like(-1.0, x), like(1.0, x)


@jax.custom_jvp
def rest(q: Array) -> Array:
    """1 / (1 + q). Its derivative is a product of small numbers: the square of a large variance would overflow."""
    return 1 / (1 + q)


rest.defjvps(lambda dq, rest_of_q, q: -dq * rest_of_q * rest_of_q)


@jax.custom_jvp
def share(q: Array) -> Array:
    """q / (1 + q), what is left of one by `rest`, exact for small variances too."""
    return q / (1 + q)


share.defjvps(lambda dq, _, q: dq * rest(q) * rest(q))


def shares(q1: Array, q2: Array, k: Array) -> tuple[Array, Array, Array]:
    """s = 1 / sqrt((1 + q1)(1 + q2)), r = s k, and sqrt(1 - r^2) with all its digits, for k^2 up to q1 q2.

    Prevents: overflow of a product of variances, and a root of less than nothing.
    """
    s = jnp.sqrt(rest(q1)) * jnp.sqrt(rest(q2))
    r = s * k
    least = rest(q1) + rest(q2) - rest(q1) * rest(q2)  # 1 - share(q1) share(q2), without its cancellation
    surplus = share(q1) * share(q2) - r * r  # zero where the two points are parallel
    # What rounds below zero is zero, and yet has its derivatives; they are noise only where the rest has vanished too.
    is_noise = (surplus < 8 * jnp.finfo(k.dtype).eps) & (least < 1e-9)
    surplus = jnp.where(is_noise, 0, surplus - jax.lax.stop_gradient(jnp.minimum(surplus, 0)))
    return s, r, jnp.sqrt(least + surplus)


class OfShares(Activation):
    """An activation whose dual is made of `shares`, and its variance of the same without their rounding."""

    def dual_of_shares(self, q1: Array, q2: Array, k: Array, s: Array, r: Array, root: Array) -> Pair:
        """`dual`, given `shares` of variances and covariance times `scale2`."""
        raise NotImplementedError

    def scale2(self, q: Array) -> Array:
        """What multiplies all variances in the formula, in the precision of q."""
        return jnp.ones((), q.dtype)

    def dual(self, q1, q2, k):
        scale2 = self.scale2(k)
        return self.dual_of_shares(q1, q2, k, *shares(scale2 * q1, scale2 * q2, scale2 * k))

    def variance(self, q):
        scaled = self.scale2(q) * q
        left = rest(scaled)
        return self.dual_of_shares(q, q, q, left, share(scaled), jnp.sqrt(left * (2 - left)))


@pytree
class Erf(OfShares):
    """phi(x) = amplitude erf(frequency x) + offset. Williams 1997, eq. 11; erf is odd: the offset adds its square.

    >>> float(Erf(0.5, 0.416, 0.5).phi(jnp.zeros(())))  # close to the sigmoid
    0.5
    """

    amplitude: Any = scale()
    frequency: Any = scale()
    offset: Any = scale()

    def phi(self, x):
        a, b = like(self.amplitude, x), like(self.frequency, x)
        return a * jax.scipy.special.erf(b * x) + like(self.offset, x, 0.0)

    def scale2(self, q):
        return 2 * like(self.frequency, q) ** 2

    def dual_of_shares(self, q1, q2, k, s, r, root):
        a2, c2 = like(self.amplitude, r) ** 2, like(self.offset, r, 0.0) ** 2
        return a2 * (2 / jnp.pi * jnp.arctan2(r, root)) + c2, a2 * self.scale2(r) * (2 / jnp.pi * (s / root))


@pytree
class Gelu(OfShares):
    """phi(x) = x Phi(x), with the normal distribution function: the exact GELU. Tsuchida et al. 2021, Proposition 3."""

    def phi(self, x):
        return jax.nn.gelu(x, approximate=False)

    def dual_of_shares(self, q1, q2, k, s, r, root):
        angle = jnp.arctan2(root, -r)  # pi/2 + arctan(r / root), whose two terms would cancel for opposite points
        slope, width = r / root, root * (jnp.sqrt(1 + q1) * jnp.sqrt(1 + q2))
        T = k * angle + slope * r * s + share(q1) * share(q2) * width
        bracket = (s / root) ** 2 + rest(q1) + rest(q2)
        return T / (2 * jnp.pi), (angle + slope * bracket) / (2 * jnp.pi)


class Jump(Kinked):
    """A jump by `size` at zero, without a slope elsewhere: E[phi(u)^2] is `power`, and 0 for a zero signal."""

    size: float
    power: float

    def variance(self, q):
        return jnp.where(q > 0, self.power, 0).astype(q.dtype), jnp.zeros_like(q)

    def dual_at_distance(self, q1, q2, k, distance):
        c, total = cosine(q1, q2, k), self.variance(q1)[0] + self.variance(q2)[0]
        theta = angle(c, gap_of_cosine(q1, q2, c, distance))
        after = jnp.where((q1 > 0) & (q2 > 0), self.size**2 * theta / jnp.pi, total)  # that of one, next to a zero
        return (total - after) / 2, jnp.zeros_like(k), after


@pytree
class Step(Jump):
    """phi(x) = 1 for x > 0, else 0. Its slope is zero almost everywhere, so weights before it have no NTK.

    >>> Step().phi(jnp.array([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 1.0]
    """

    size, power = 1.0, 0.5

    def phi(self, x):
        return (x > 0).astype(x.dtype)


@pytree
class Sign(Jump):
    """phi(x) = 1 for x > 0, -1 for x < 0, 0 at 0. Its slope is zero almost everywhere, as that of `Step`.

    >>> Sign().phi(jnp.array([-1.0, 0.0, 2.0])).tolist()
    [-1.0, 0.0, 1.0]
    """

    size, power = 2.0, 1.0

    def phi(self, x):
        return jnp.sign(x)
