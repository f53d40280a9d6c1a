"""Averages E[f(u) g(v)] of Gaussian pairs, for f and g among the derivatives of any elementwise function.

In polar coordinates u = s1 r sin(d) and v = s2 r sin(length - d) change their signs only on four rays. Gauss-Legendre
nodes between those rays see a smooth function, also for activations with a kink at zero, where the Gauss-Hermite grid
that is often used is wrong in the second or third digit (notebook 02 shows both). The nodes follow the variance: they
crowd towards the rays, where an activation turns within ever less of an angle, and towards the origin. quadrature.py
makes activations of these averages.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet
from jax.extend.core import Literal
from jaxtyping import Array

from ..numerics import angle, cosine, gap_of_cosine, safe_sqrt

RADIUS = {"float32": 6.5, "float64": 9.0}  # exp(-r^2/2) beyond is below the rounding of the type
COARSE = {"float32": (14, 16), "float64": (28, 32)}  # nodes: radial, and angular on each arc
FINE = {"float32": (24, 28), "float64": (52, 56)}
COARSE_UP_TO = {"float32": 25.0, "float64": 100.0}  # variance
LINE = {"float32": 48, "float64": 96}  # nodes on each half line
Orders = tuple[tuple[int, int], ...]  # pairs (i, j): the average of the derivatives phi^(i)(u) phi^(j)(v)
VALUE_AND_SLOPE: Orders = ((0, 0), (1, 1))


def averages(phi: Callable, orders: Orders, nodes: Any, q1, q2, k, distance=None) -> tuple[Array, ...]:
    """E[phi^(i)(u) phi^(j)(v)] for each (i, j) of `orders`, variances q1, q2 and covariance k, which broadcast.

    Near points are told apart by distance = E[(u - v)^2] unless that is None. nodes: (radial, angular on each arc), or
    None to choose by the largest variance. The sum runs node by node: memory stays a few times that of the result.
    """
    s1, s2, c = safe_sqrt(q1), safe_sqrt(q2), cosine(q1, q2, k)
    name, pairs = c.dtype.name, (s1, s2, c, gap_of_cosine(q1, q2, c, distance))
    if nodes is not None:
        return _in_plane(phi, orders, nodes, *pairs)
    is_small = jnp.maximum(q1.max(initial=0), q2.max(initial=0)) <= COARSE_UP_TO[name]
    return jax.lax.cond(is_small, *(partial(_in_plane, phi, orders, grid[name]) for grid in (COARSE, FINE)), *pairs)


def averages_of_one(phi: Callable, orders: Orders, nodes: Any, q: Array) -> tuple[Array, ...]:
    """`averages` at q1 = q2 = k = q."""
    return _on_line(phi, orders, _on_each_half(nodes, q.dtype.name), safe_sqrt(q))


def _on_each_half(nodes, name):
    return max(LINE[name], nodes[0] if nodes else 0)


def _add(sums, weight, at_u, at_v, orders):
    return tuple(total + weight * at_u[i] * at_v[j] for total, (i, j) in zip(sums, orders))


def _legendre(n: int, like: Array) -> tuple[Array, Array]:
    """Nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return jnp.asarray((x + 1) / 2, like.dtype), jnp.asarray(w / 2, like.dtype)


def _crowding(scale: Array, most: float) -> tuple[Array, Array]:
    """What `_stretched` needs for [0, 1]: even steps up to about 1/scale, and beyond even steps in the logarithm."""
    height = jnp.clip(jax.lax.stop_gradient(scale), 0.1, most)  # more would leave too few nodes for the Gaussian itself
    return jnp.arcsinh(height), height


def _stretched(crowding: Sequence[Array], length: Any, x: Array, weight: Array) -> tuple[Array, Array]:
    """Nodes and weights of [0, 1] for [0, length], by the map sinh(a x) / sinh(a)."""
    a, height = crowding
    up = jnp.exp(a * x)
    down = 1 / up
    return length * (up - down) / (2 * height), weight * length * (up + down) * (a / (2 * height))


def _in_plane(
    phi: Callable, orders: Orders, nodes: tuple[int, int], s1: Array, s2: Array, c: Array, gap: Array
) -> tuple:
    """E[phi^(i)(u) phi^(j)(v)] for standard deviations s1, s2 and correlation c, |c| = 1 - gap."""
    radius, highest = RADIUS[c.dtype.name], max(map(max, orders))
    n_radial, n_angular = nodes
    zero = (jnp.zeros(jnp.broadcast_shapes(s1.shape, s2.shape, c.shape), c.dtype),) * len(orders)
    arcs = angle(c, gap), angle(-c, gap)
    crowding = [_crowding(0.9 * jnp.maximum(s1, s2) * length, 1e6) for length in arcs]

    def add_ray(sums, node):
        x, weight, is_first, is_near = node
        length = jnp.where(is_first, *arcs)
        d, weight = _stretched([jnp.where(is_first, *both) for both in zip(*crowding)], length / 2, x, weight)
        near, far = jnp.sin(d), jnp.sin(length - d)  # each exact near its zero
        u, v = s1 * jnp.where(is_near, near, far), s2 * jnp.where(is_near, far, near)
        added = along_ray(u, jnp.where(is_first, -v, v))
        return tuple(total + weight * ray for total, ray in zip(sums, added)), None

    def along_ray(u, v):
        def add_point(sums, node):
            r, weight = node
            for signed in (r, -r):  # the opposite ray has the same weight
                at_u, at_v = (derivatives(phi, highest, signed * w) for w in (u, v))
                sums = _add(sums, weight, at_u, at_v, orders)
            return sums, None

        return jax.lax.scan(add_point, zero, radial)[0]

    radial = _radii(n_radial, radius, jnp.maximum(s1.max(initial=0), s2.max(initial=0)))
    half = (n_angular + 1) // 2
    rays = [jnp.tile(a, 4) for a in _legendre(half, c)]  # for two arcs, and two halves of each
    places = jnp.arange(4 * half) // half
    return jax.lax.scan(add_ray, zero, (*rays, places < 2, places % 2 == 0))[0]


def _radii(n: int, radius: float, s: Array) -> tuple[Array, Array]:
    """Nodes and weights along a ray, up to the standard deviation s."""
    r, weight = _stretched(_crowding(0.3 * radius * s, 1e6), radius, *_legendre(n, s))
    return r, weight * r * jnp.exp(-r * r / 2) / (2 * jnp.pi)


def _half_line(crowding: Sequence[Array], radius: float, x: Array, weight: Array) -> tuple[Array, Array]:
    """Nodes and weights of E[f(z)], z > 0, of those of [0, 1]."""
    z, weight = _stretched(crowding, radius, x, weight)
    return z, weight * jnp.exp(-z * z / 2) / (2 * jnp.pi) ** 0.5


def _on_line(phi: Callable, orders: Orders, n: int, s: Array) -> tuple:
    """E[phi^(i)(u) phi^(j)(u)] for a standard deviation s: few numbers, which every layer after builds on."""
    radius = RADIUS[s.dtype.name]
    crowding = _crowding(radius * s, 1e10)

    def add_point(sums, node):
        z, weight = _half_line(crowding, radius, *node)
        for signed in (z, -z):
            at = derivatives(phi, max(map(max, orders)), signed * s)
            sums = _add(sums, weight, at, at, orders)
        return sums, None

    return jax.lax.scan(add_point, (jnp.zeros_like(s),) * len(orders), _legendre(n, s))[0]


def derivatives(phi: Callable, highest: int, x: Array) -> list[Array]:
    """[phi(x), phi'(x), ...]: nested `jax.jvp`, whose size doubles with each order; high ones by Taylor series."""
    if highest == 0:
        return [phi(x)]
    if highest > 3:
        try:
            return _by_taylor(phi, highest, x)
        except Exception:  # functions for which JAX has no such series
            pass
    lower, raised = jax.jvp(lambda x: derivatives(phi, highest - 1, x), (x,), (jnp.ones_like(x),))
    return [*lower, raised[-1]]


def _by_taylor(phi, highest, x):
    x = jnp.where(x == 0, 1e-30, x)  # where |x| inside a smooth function has a kink
    closed = jax.make_jaxpr(phi)(x)
    unfolded = lambda x: _unfolded(closed.jaxpr, closed.consts, [x])[0]
    _, rest = jet(unfolded, (x,), ([jnp.ones_like(x)] + [jnp.zeros_like(x)] * (highest - 1),))
    return [phi(x), *rest]


def _unfolded(jaxpr, constants, inputs):
    """A program without its calls and rules of derivatives, which Taylor series do not go through."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs]))
    read = lambda name: name.val if isinstance(name, Literal) else known[name]
    for step in jaxpr.eqns:
        inner = step.params.get("call_jaxpr", step.params.get("jaxpr"))
        if step.primitive.name in ("custom_jvp_call", "jit", "pjit"):
            out = _unfolded(inner.jaxpr, inner.consts, list(map(read, step.invars)))
        else:
            out = step.primitive.bind(*map(read, step.invars), **step.params)
        known.update(zip(step.outvars, out if isinstance(out, (list, tuple)) else [out]))
    return list(map(read, jaxpr.outvars))


def _of_known(answer: Any) -> Callable:
    """A decorator of a question about phi, whose `answer` is this if phi depends on values that JAX is tracing."""

    def decorate(ask: Callable) -> Callable:
        ask_once = lru_cache(maxsize=256)(ask)

        @wraps(ask)
        def asked(*arguments):
            try:
                with jax.ensure_compile_time_eval(), jax.debug_nans(False), np.errstate(all="ignore"):
                    return ask_once(*arguments)
            except jax.errors.TracerArrayConversionError:
                return answer

        return asked

    return decorate


@_of_known(True)
def is_elementwise(phi: Callable) -> bool:
    """Does phi make of an array what it makes of the entries alone? Yes, if that depends on values that JAX traces."""
    entries = np.array([[0.7, -1.3, 0.2], [-0.4, 1.9, -2.6]])  # in no order
    together = np.asarray(phi(jnp.asarray(entries)))
    alone = [np.asarray(phi(jnp.full((1, 1), entry))).item() for entry in entries.flat]
    return np.allclose(together.ravel(), alone, rtol=1e-3, atol=1e-6, equal_nan=True)


@_of_known(False)
def is_smooth(phi: Callable) -> bool:
    """Is phi, and each of its derivatives up to the fourth, the integral of the next one, on panels from -64 to 64?

    Not for kinks and jumps, for what turns within much less than the width of a panel, 1/8, and for what depends on
    values that JAX is tracing.
    """
    x, w = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(-63.9871, 64.0113, 1025)[:, None]  # a kink is at a rounder place
    places = np.concatenate([edges[:-1], edges[1:], edges[:-1] + np.diff(edges, axis=0) * (x + 1) / 2], 1)
    values = np.asarray(jax.jit(partial(derivatives, phi, 5))(jnp.asarray(places, float)))
    eps = np.finfo(values.dtype).eps
    change = values[:-1, :, 1] - values[:-1, :, 0]
    error = np.abs(change - (edges[1] - edges[0]) / 2 * (values[1:, :, 2:] @ w))
    size = np.abs(values).max((0, 2))
    return bool((error <= 4 * eps**0.5 * size + 1e3 * eps * size[len(size) // 2]).all())


# How well a function is met -------------------------------------------------------------------------------------------

TRIED = 10.0 ** np.arange(-2, 31, 0.5)  # variances


@_of_known(np.zeros_like(TRIED))
def errors_tried(phi: Callable, nodes: Any, dtype: Any) -> np.ndarray:
    """Relative errors of E[phi(u)^2] and E[phi'(u)^2] for the variances TRIED, the larger of the two, by `averages`.

    There u with itself is the hardest pair. It is held against `averages_of_one`, whose nodes are more and finer.
    Nothing is known of a phi that depends on values that JAX is tracing: then all are zero.
    """
    in_plane, on_line = (_average_squares(phi, *rule) for rule in _rules_tried(nodes, np.dtype(dtype).name))
    return np.where(in_plane == on_line, 0.0, np.abs(in_plane - on_line) / np.abs(on_line)).max(0)


def _average_squares(phi, u, weight):
    at_u = jax.jit(lambda u: jnp.stack(derivatives(phi, 1, u)))(jnp.stack([u, -u]))
    return (np.asarray(at_u, float) ** 2 * weight).sum((1, -1))


@lru_cache
def _rules_tried(nodes, name):
    """((u, weight) in the plane, (u, weight) on the line), each with one row for each of the variances TRIED."""
    radius = RADIUS[name]

    @jax.jit
    @jax.vmap
    def on_line(s):
        z, weight = _half_line(_crowding(radius * s, 1e10), radius, *_legendre(_on_each_half(nodes, name), s))
        return s * z, weight

    def in_plane(grid):
        @jax.jit
        @jax.vmap
        def at(s):
            r, of_r = _radii(grid[0], radius, s)
            d, of_d = _stretched(_crowding(0.9 * jnp.pi * s, 1e6), jnp.pi / 2, *_legendre((grid[1] + 1) // 2, s))
            return jnp.outer(s * r, jnp.sin(d)).ravel(), jnp.outer(of_r, 2 * of_d).ravel()

        return at(s)

    s = jnp.asarray(TRIED**0.5, name)
    is_small = (TRIED <= COARSE_UP_TO[name])[:, None]
    coarse, fine = ([np.asarray(a) for a in in_plane(nodes or grid[name])] for grid in (COARSE, FINE))
    missing = [(0, 0), (0, fine[0].shape[1] - coarse[0].shape[1])]
    coarse = np.pad(coarse[0], missing, "edge"), np.pad(coarse[1], missing)
    return [np.where(is_small, *both) for both in zip(coarse, fine)], list(map(np.asarray, on_line(s)))
