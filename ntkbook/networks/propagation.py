"""Signal propagation: what depth does to the length of a signal, and to the angle between two.

In a deep random network the variance q and the correlation c of two signals follow maps with fixed points q* and c*;
chi_1, the slope of the correlation map at c = 1, separates order (all inputs become alike) from chaos. It takes any
activation with a dual, and arrays of W_std and b_std, so that a whole phase diagram is one call.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..pytrees import pytree
from . import moments
from .activations import Activation

_UNBOUNDED = 1e12  # a variance that grows beyond this counts as one without a fixed point


@pytree
class Phase:
    """Fixed points of signal propagation, each of the shape of (W_std, b_std); see `phase`."""

    q_star: Any
    c_star: Any
    chi_1: Any  # slope of the correlation map at c = 1, also the growth of squared gradients per layer
    chi_c: Any  # its slope at c*
    residual: Any  # |q - map(q)| / (1 + q) at q*: how well the fixed point was found

    @property
    def xi_c(self) -> Float[Array, "..."]:
        """The depth over which correlations reach c*: 1 / |log chi_c|."""
        return 1 / jnp.abs(jnp.log(self.chi_c))

    @property
    def xi_1(self) -> Float[Array, "..."]:
        """The depth over which gradients vanish or explode: 1 / |log chi_1|."""
        return 1 / jnp.abs(jnp.log(self.chi_1))

    @property
    def name(self) -> np.ndarray:
        """The phase, a word: ordered, critical (|chi_1 - 1| < 1e-6), chaotic, or unbounded where q* is infinite."""
        chi_1 = np.asarray(self.chi_1)
        names = np.where(chi_1 > 1, "chaotic", "ordered")
        names = np.where(np.abs(chi_1 - 1) < 1e-6, "critical", names)
        return np.where(np.isinf(np.asarray(self.q_star)), "unbounded", names)


def phase(activation: Activation, W_std: ArrayLike, b_std: ArrayLike) -> Phase:
    """Fixed points and depth scales of signal propagation; W_std and b_std are numbers or arrays that broadcast.

    q* = W_std^2 E[phi(u)^2] + b_std^2 with u ~ N(0, q*), reached from q = 1
    c* = (W_std^2 E[phi(u) phi(v)] + b_std^2) / q*, the stable one, with u, v of variance q* and correlation c*
    chi = W_std^2 E[phi'(u) phi'(v)], at c = 1 and at c*

    Where q* = 0 or the variance grows without bound (q* = inf) chi is that of the limit, and c* = 1.

    >>> phase(Erf(), jnp.array([0.5, 1.5])[:, None], jnp.array([0.1, 0.3])).name.tolist()
    [['ordered', 'ordered'], ['chaotic', 'chaotic']]

    Raises:
        TypeError, ValueError: for what is no activation, negative or non-finite scales; ValueError where the variance
            settles on no fixed point (it may oscillate).

    Poole et al. 2016; Schoenholz et al. 2017.
    """
    W_std, b_std = _scales(activation, W_std, b_std)
    found = _phase(activation, W_std, b_std)
    if checks.is_concrete(found) and not (np.asarray(found.residual) < 1e-4).all():
        raise ValueError(
            "Expected the variance to settle, got one that oscillates or is NaN. See propagate for its path."
        )
    return found


def propagate(
    activation: Activation, W_std: ArrayLike, b_std: ArrayLike, depth: int, *, q: ArrayLike = 1.0, c: ArrayLike = 0.5
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """(variance, correlation) of two signals of equal length after 0, 1, ..., `depth` layers, each (depth + 1, ...).

    q' = W_std^2 E[phi(u)^2] + b_std^2,  c' = (W_std^2 E[phi(u) phi(v)] + b_std^2) / q'. W_std, b_std, and q and c of
    the first signals are numbers or arrays that broadcast.

    >>> variance, correlation = propagate(Relu(), 2**0.5, 0.0, 10)
    >>> print(variance.shape, f"{variance[-1]:.4f}")  # the scale that keeps the length
    (11,) 1.0000

    Raises:
        TypeError, ValueError: as `phase`; for a depth that is no positive integer, and a negative q.

    Poole et al. 2016, section 2.
    """
    checks.positive_int(depth, "depth")
    checks.many_numbers(q, "q", low=0.0)
    checks.many_numbers(c, "c", low=-1.0, high=1.0)
    W_std, b_std = _scales(activation, W_std, b_std)
    q, c = (jnp.asarray(a).astype(W_std.dtype) for a in (q, c))
    checks.broadcasting(q=q, c=c, W_std=W_std, b_std=b_std)
    q, c, W_std, b_std = jnp.broadcast_arrays(q, c, W_std, b_std)
    return _propagate(activation, W_std, b_std, q, c, jnp.zeros(depth))


def critical_W_std(activation: Activation, b_std: ArrayLike) -> Float[Array, "..."]:
    """The W_std with chi_1 = 1 for each b_std: the edge of chaos, where signals travel deepest.

    Solves b_std^2 = q - W_std^2 E[phi(u)^2] with W_std^2 = 1 / E[phi'(u)^2] for q, by bisection. Differentiable in the
    bias but for b_std = 0, where its slope may be infinite and is given as 0.

    >>> print(f"{critical_W_std(Relu(), 0.0):.4f}")  # the square root of 2
    1.4142

    Raises:
        TypeError, ValueError: as `phase`; ValueError for a bias that has no critical point (any but 0, for Relu).

    Schoenholz et al. 2017, section 3.
    """
    _, b_std = _scales(activation, 1.0, b_std)
    W_std, q = _critical(activation, b_std)
    if checks.is_concrete(q) and not (np.asarray(q) < 0.99 * _UNBOUNDED).all():
        raise ValueError(f"Expected biases for which {activation!r} has a critical point, got b_std={b_std}.")
    return W_std


def _scales(activation, W_std, b_std):
    if not isinstance(activation, Activation):
        raise TypeError(f"Expected an activation such as Erf(), got {activation!r}. Activations are objects: call it.")
    checks.non_negative(W_std, "W_std")
    checks.non_negative(b_std, "b_std")
    checks.broadcasting(W_std=W_std, b_std=b_std)
    arrays = [checks.as_array(a, "W_std and b_std") for a in (W_std, b_std)]
    dtype = jnp.result_type(*(a.dtype for a in arrays if a.ndim)) if any(a.ndim for a in arrays) else arrays[0].dtype
    return jnp.broadcast_arrays(*(a.astype(dtype) for a in arrays))


def _variance_map(activation, W_std, b_std, q):
    return W_std**2 * activation.variance(q)[0] + b_std**2


@jax.jit
def _phase(activation, W_std, b_std):
    q, residual = _fixed_variance(activation, W_std, b_std)
    is_regular = (q > 1e-9) & (q < _UNBOUNDED)
    # Without a fixed point the maps tend to their limits at very small and very large variance.
    at = jnp.clip(q, 1e-9, _UNBOUNDED)
    chi_1 = W_std**2 * activation.variance(at)[1]
    is_chaotic = is_regular & (chi_1 > 1)
    c, slope = _fixed_correlation(activation, W_std, b_std, at, is_chaotic)
    q = jnp.where(q < _UNBOUNDED, jnp.where(q > 1e-9, q, 0), jnp.inf)
    return Phase(q, jnp.where(is_chaotic, c, 1), chi_1, jnp.where(is_chaotic, slope, chi_1), residual)


def _fixed_variance(activation, W_std, b_std):
    """(q*, residual): from q = 1, two steps of the map, then Aitken's extrapolation of them, until all is settled."""
    second_moment = moments.table(activation, _UNBOUNDED)
    eps = float(jnp.finfo(W_std.dtype).eps)
    rounding = max(1e-9, 32 * eps)  # a growth of less may be none
    step = lambda q: jnp.minimum(W_std**2 * second_moment(q) + b_std**2, 2 * _UNBOUNDED)

    def accelerate(carry):
        q, _, i = carry
        q1 = step(q)
        q2 = step(q1)
        curvature = q2 - 2 * q1 + q
        leap = q - (q1 - q) ** 2 / jnp.where(curvature == 0, 1, curvature)
        # A slope of one or more leads away from the fixed point that the extrapolation would find.
        is_repelled = jnp.abs(q2 - q1) >= jnp.abs(q1 - q)
        leap = jnp.where(~is_repelled & (leap >= 0), leap, q2)
        leap = jnp.where(jnp.abs(step(leap) - leap) <= jnp.abs(step(q2) - q2), leap, q2)
        is_exploding = is_repelled & (q2 > q1) & (q1 > q * (1 + rounding))
        leap = jnp.where(is_exploding, 10 * q2, leap)  # far enough to see whether it ever bends
        return leap, jnp.abs(leap - q), i + 1

    going = lambda carry: (carry[1] > 4 * eps * carry[0] + 1e-20).any() & (carry[2] < 40)
    start = jnp.ones_like(W_std)
    q = jax.lax.while_loop(going, accelerate, (start, start, 0))[0]
    exact = lambda q: _variance_map(activation, W_std, b_std, q) - q
    q = _differentiable_root(exact, q, (q > 0) & (q < _UNBOUNDED))
    q = jnp.where(q > 0, q, 0)  # its last step may pass 0 by rounding
    residual = jnp.where(q < _UNBOUNDED, jnp.abs(exact(q)) / (1 + q), 0)
    return q, jax.lax.stop_gradient(residual)


def _fixed_correlation(activation, W_std, b_std, q, is_chaotic):
    """(c*, slope there): Newton from c = 0. The map is a power series without negative terms: no step goes too far."""
    overlap = moments.overlap(activation, q)

    def excess(c):
        T, qTdot = overlap(c)
        return (W_std**2 * T + b_std**2) / q - c, W_std**2 * qTdot / q - 1

    def improve(carry):
        c, _, i = carry
        value, slope = excess(c)
        change = jnp.where(is_chaotic & (slope < 0), -value / jnp.where(slope < 0, slope, -1), 0)
        return jnp.clip(c + change, 0, 1), jnp.abs(change).max(), i + 1

    going = lambda carry: (carry[1] > 1e-12) & (carry[2] < 60)
    c = jax.lax.while_loop(going, improve, (jnp.zeros_like(q), jnp.ones((), q.dtype), 0))[0]
    c = _differentiable_root(lambda c: excess(c)[0], c, is_chaotic)
    return c, excess(c)[1] + 1


def _differentiable_root(f, x, is_root):
    """x with the derivatives of the root of f: one more step of Newton, in which only f is differentiated."""
    x = jax.lax.stop_gradient(x)
    slope = jax.lax.stop_gradient(jax.jvp(f, (x,), (jnp.ones_like(x),))[1])
    is_root = is_root & (jnp.abs(slope) > 1e-9)
    change = jnp.where(is_root, f(x) / jnp.where(is_root, slope, 1), 0)
    return x - change


@jax.jit
def _propagate(activation, W_std, b_std, q, c, layers):
    def layer(signal, _):
        q, c = signal
        T, _ = activation.dual(q, q, q * c)
        q_next = _variance_map(activation, W_std, b_std, q)
        positive = jnp.where(q_next > 0, q_next, 1)
        c = jnp.where(q_next > 0, (W_std**2 * T + b_std**2) / positive, c)
        return (q_next, c), (q_next, c)

    _, (qs, cs) = jax.lax.scan(layer, (q, c), layers)
    return jnp.concatenate([q[None], qs]), jnp.concatenate([c[None], cs])


@jax.jit
def _critical(activation, b_std):
    def bias2(log_q):
        T, Tdot = activation.variance(jnp.exp(log_q))
        return jnp.exp(log_q) - T / Tdot

    def halve(i, bounds):
        low, high = bounds
        middle = (low + high) / 2
        is_below = bias2(middle) < b_std**2
        return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

    low = jnp.full_like(b_std, float(np.log(1e-10)))
    low, high = jax.lax.fori_loop(0, 80, halve, (low, jnp.full_like(b_std, float(np.log(_UNBOUNDED)))))
    unit = jnp.where(b_std > 0, b_std, 1) ** 2
    excess = lambda log_q: (bias2(log_q) - b_std**2) / unit
    q = jnp.exp(_differentiable_root(excess, (low + high) / 2, b_std > 0))
    return activation.variance(q)[1] ** -0.5, q
