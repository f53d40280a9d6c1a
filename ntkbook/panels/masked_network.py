"""One fully-connected network for all the widths and depths of a slider, so that nothing is compiled for a new one.

Weights are drawn once, at the largest width and depth. A narrower network is the first units of each layer, a shallower
one the first layers: width and depth are numbers, and what lies beyond them is zero. The signals of one pass forward
and one back give the tangent kernel without a Jacobian, and the gradient too. All is in the NTK parameterization, for
one network with one output; `jax.lax.map` and `jax.vmap` make it many. Every chapter's panel with networks uses it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Phi = Callable[[Any], Any]
SUNK = 1e-12  # the least that is drawn on a logarithmic axis: a curve leaves through the floor, and does not lie on it


class Sizes(NamedTuple):
    """What a slider moves, all numbers that may be traced: width, hidden layers, and (W_std, b_std) of affine maps."""

    width: Any
    depth: Any
    first: tuple[Any, Any]
    inner: tuple[Any, Any]
    last: tuple[Any, Any]


class Signals(NamedTuple):
    """Outputs (m,); activations and back-propagated df/dz of all hidden layers, (layers, m, n)."""

    f: Any
    a: Any
    d: Any


def same_scales(width: Any, depth: Any, W_std: Any, b_std: Any) -> Sizes:
    """A network whose affine maps all have the same scales."""
    return Sizes(width, depth, (W_std, b_std), (W_std, b_std), (W_std, b_std))


def draw(seed: int, features: int, width: int, depth: int, networks: int) -> dict[str, Any]:
    """Weights and biases from N(0, 1) of `networks` networks, in float32: by numpy, which draws ten times faster."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal((networks, *shape), dtype=np.float32))
    return {
        "W_in": normal(features, width),
        "b_in": normal(width),
        "W": normal(depth - 1, width, width),
        "b": normal(depth - 1, width),
        "W_out": normal(width),
        "b_out": normal(),
    }


def first_units(params: dict[str, Any], width: Any, sizes: tuple[int, ...]) -> dict[str, Any]:
    """The weights of the smallest of `sizes` that holds the width: each size is a program of its own."""
    n = min(size for size in sizes if size >= width)
    W_in, b_in, W, b, W_out = (params[name] for name in ("W_in", "b_in", "W", "b", "W_out"))
    cut = {"W_in": W_in[..., :n], "b_in": b_in[..., :n], "W": W[..., :n, :n], "b": b[..., :n], "W_out": W_out[..., :n]}
    return {**params, **cut}


def signals(params: dict[str, Any], x: Any, sizes: Sizes, phi: Phi) -> Signals:
    """One pass forward and one back, of the inputs (m, features)."""
    layers, n = params["b"].shape[-2] + 1, params["b_in"].shape[-1]
    width, depth, (W_std, b_std), (V_std, c_std), (U_std, a_std) = sizes
    is_unit = jnp.arange(n, dtype=x.dtype) < width
    scale = V_std / jnp.sqrt(width)
    z = W_std / x.shape[1] ** 0.5 * x @ params["W_in"] + b_std * params["b_in"]
    z = jnp.zeros((layers, *z.shape), z.dtype).at[0].set(z)

    def up(l, z):
        return z.at[l + 1].set(scale * jnp.where(is_unit, phi(z[l]), 0) @ params["W"][l] + c_std * params["b"][l])

    z = lax.fori_loop(0, depth - 1, up, z) if layers > 1 else z
    a, slope = (jnp.where(is_unit, part, 0) for part in jax.jvp(phi, (z,), (jnp.ones_like(z),)))

    def down(i, d):
        l = depth - 2 - i
        return d.at[l].set(slope[l] * (scale * (d[l + 1] @ params["W"][l].T)))

    top = U_std / jnp.sqrt(width)
    d = jnp.zeros_like(z).at[depth - 1].set(top * slope[depth - 1] * params["W_out"])
    d = lax.fori_loop(0, depth - 1, down, d) if layers > 1 else d
    return Signals(top * a[depth - 1] @ params["W_out"] + a_std * params["b_out"], a, d)


def kernel(x1: Any, s1: Signals, x2: Any, s2: Signals, sizes: Sizes) -> Any:
    """Theta(x1, x2) = sum over affine maps of <d(x1), d(x2)> (W_std^2 <a(x1), a(x2)> / n_in + b_std^2), (m1, m2)."""
    dot = lambda u, v: jnp.einsum("lin,ljn->lij", u, v)
    return _over_maps(x1 @ x2.T / x1.shape[1], dot(s1.a, s2.a) / sizes.width, dot(s1.d, s2.d), sizes)


def kernel_diagonal(x: Any, s: Signals, sizes: Sizes) -> Any:
    """Theta(x, x) of each input with itself, (m,)."""
    dot = lambda u: jnp.sum(u * u, -1)
    return _over_maps(dot(x) / x.shape[1], dot(s.a) / sizes.width, dot(s.d), sizes)


def _over_maps(inputs, activations, slopes, sizes):
    width, depth, first, inner, last = sizes
    entering = lambda below, scales: scales[0] ** 2 * below + scales[1] ** 2
    maps = jnp.concatenate([entering(inputs, first)[None], entering(activations[:-1], inner)])
    is_used = (jnp.arange(len(slopes)) < depth).reshape(-1, *[1] * inputs.ndim)
    return entering(activations[depth - 1], last) + jnp.where(is_used, slopes * maps, 0).sum(0)


def gradient(params: dict[str, Any], x: Any, s: Signals, v: Any, sizes: Sizes) -> dict[str, Any]:
    """The derivative of sum_j v_j f(x_j) in the parameters, v (m,); for the v of a loss, v = dloss/df."""
    width, depth, (W_std, b_std), (V_std, c_std), (U_std, a_std) = sizes
    g, scale = s.d * v[:, None], V_std / jnp.sqrt(width)
    return {
        "W_in": W_std / x.shape[1] ** 0.5 * x.T @ g[0],
        "b_in": b_std * g[0].sum(0),
        "W": scale * jnp.einsum("lmi,lmj->lij", s.a[:-1], g[1:]),  # g is zero beyond the depth
        "b": c_std * g[1:].sum(1),
        "W_out": U_std / jnp.sqrt(width) * v @ s.a[depth - 1],
        "b_out": a_std * v.sum(),
    }


def descended(params: dict[str, Any], slope: dict[str, Any], lr: Any) -> dict[str, Any]:
    """The parameters after a step of gradient descent."""
    return jax.tree.map(lambda p, g: p - lr * g, params, slope)


def recorded(step: Callable[[Any, Any], Any], state: Any, times: Any, observe: Callable[[Any], Any]) -> Any:
    """`observe(state)` at each of the `times`, which rise and count the calls `state = step(number, state)`."""

    def until(now, time):
        state = lax.fori_loop(now[1], time, step, now[0])
        return (state, time), observe(state)

    return lax.scan(until, (state, jnp.zeros_like(times[0])), times)[1]
