"""Chapter 03: networks of finite width against the infinite-width NTK, on the circle and on real digits.

The finite networks here are ReLU networks in float32 whose weights are drawn once, at the largest width and depth; a
narrower or shallower network uses a corner of them. So every setting of the sliders is one pass forward and one back:
the signals of these two passes give the tangent kernel without a Jacobian (`_row`), and the gradient for training too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..activations import Relu
from ..data import circle
from ..kernel import ntk
from ..layers import Dense, Repeat, serial
from ..panel import Panel, choice, powers_of_two, slider, toggle

WIDEST, DEEPEST, NETWORKS = 1024, 5, 4
N_ANGLES = 33  # of the networks' curves; x0 = (1, 0) is the one in the middle
FAST_WIDTH = 256  # up to here training is quick enough to follow the sliders at any setting
STEPS = 20


# ---------------------------------------------------------------- a fully-connected network, forward and back


def _draw(key, features, width, networks):
    keys = jax.random.split(key, 6)
    normal = lambda i, *shape: jax.random.normal(keys[i], (networks, *shape), jnp.float32)
    return {
        "W_in": normal(0, features, width),
        "b_in": normal(1, width),
        "W": normal(2, DEEPEST - 1, width, width),
        "b": normal(3, DEEPEST - 1, width),
        "W_out": normal(4, width),
        "b_out": normal(5),
    }


def _corner(params, width):
    """The networks of the first `width` units of every layer."""
    cut = {name: params[name][..., :width] for name in ("W_in", "b_in", "b", "W_out")}
    return {**params, **cut, "W": params["W"][..., :width, :width]}


def _signals(params, x, depth, W_std, b_std):
    """Outputs (m,), activations and back-propagated signals df/dz, (DEEPEST, m, n), of one network.

    `depth` hidden layers, traced; the rows of layers above it are zero.
    """
    features, n = params["W_in"].shape
    scale = W_std / n**0.5
    z = W_std / features**0.5 * x @ params["W_in"] + b_std * params["b_in"]
    z = jnp.zeros((DEEPEST, *z.shape), z.dtype).at[0].set(z)

    def up(l, z):
        return z.at[l + 1].set(scale * jnp.maximum(z[l], 0) @ params["W"][l] + b_std * params["b"][l])

    def down(i, d):
        l = depth - 2 - i
        return d.at[l].set(scale * (d[l + 1] @ params["W"][l].T) * (z[l] > 0))

    z = lax.fori_loop(0, depth - 1, up, z)
    a = jnp.maximum(z, 0)
    f = scale * a[depth - 1] @ params["W_out"] + b_std * params["b_out"]
    d = jnp.zeros_like(z).at[depth - 1].set(scale * params["W_out"] * (z[depth - 1] > 0))
    return f, a, lax.fori_loop(0, depth - 1, down, d)


def _contract(x, y, a_x, a_y, d_x, d_y, depth, W_std, b_std):
    """Theta(x, y) = sum over layers of <d(x), d(y)> (W_std^2 <a(x), a(y)> / n + b_std^2), a the layer's input."""
    n = a_x.shape[-1]
    inputs = W_std**2 / x.shape[-1] * x @ y.T + b_std**2
    layers = jnp.concatenate([inputs[None], W_std**2 / n * jnp.einsum("lin,ljn->lij", a_x, a_y) + b_std**2])
    back = jnp.einsum("lin,ljn->lij", d_x, d_y)
    used = jnp.arange(DEEPEST)[:, None, None] < depth
    return layers[depth] + jnp.where(used, back * layers[:-1], 0).sum(0)


def _row(params, x, at, depth, W_std, b_std):
    """Theta(x[at], x) of one network, (m,)."""
    _, a, d = _signals(params, x, depth, W_std, b_std)
    only = lambda s: s[:, at : at + 1]
    return _contract(x, x[at : at + 1], a, only(a), d, only(d), depth, W_std, b_std)[:, 0]


def _step(params, x, y, depth, W_std, b_std):
    """One step of gradient descent on the mean of 1/2 (f - y)^2, as long as the kernel's mean diagonal allows.

    1/trace(Theta/m) is at most half of the largest stable step 2/lambda_max(Theta/m), whatever the kernel has become.
    """
    f, a, d = _signals(params, x, depth, W_std, b_std)
    (features, n), m = params["W_in"].shape, len(x)
    below = jnp.concatenate([jnp.sum(x * x, -1)[None] / features, jnp.sum(a * a, -1) / n])  # (DEEPEST + 1, m)
    diagonal = W_std**2 * below + b_std**2
    trace = jnp.mean(diagonal[depth] + (jnp.sum(d * d, -1) * diagonal[:-1]).sum(0))
    e = (f - y) / (m * trace)
    g = d * e[:, None]
    scale = W_std / n**0.5
    change = {
        "W_in": W_std / features**0.5 * x.T @ g[0],
        "b_in": b_std * g[0].sum(0),
        "W": scale * jnp.einsum("lmi,lmj->lij", a[:-1], g[1:]),
        "b": b_std * g[1:].sum(1),
        "W_out": scale * e @ a[depth - 1],
        "b_out": b_std * e.sum(),
    }
    return jax.tree.map(lambda p, c: p - c, params, change)


# ---------------------------------------------------------------- the circle


@functools.cache
def _circle_networks():
    return _draw(jax.random.key(3), 2, WIDEST, NETWORKS)


def _training_set():
    x = jax.random.normal(jax.random.key(16), (16, 2), jnp.float32)
    return x, x[:, 0] * x[:, 1]


@functools.partial(jax.jit, static_argnames=("width", "steps"))
def _finite_rows(params, x, x_train, y_train, depth, W_std, b_std, *, width, steps):
    """Theta(x0, x) of each network after `steps` of training, (networks, angles)."""
    depth = depth.astype(jnp.int32)

    def one(params):
        step = lambda params, _: (_step(params, x_train, y_train, depth, W_std, b_std), None)
        trained = lax.scan(step, params, length=steps)[0] if steps else params
        return _row(trained, x, N_ANGLES // 2, depth, W_std, b_std)

    return lax.map(one, _corner(params, width))


@jax.jit
def _theory_row(x, depth, W_std, b_std):
    block = serial(Relu(), Dense(1, W_std, b_std))
    net = serial(Dense(1, W_std, b_std), Repeat(block, depth))
    return ntk(net, jnp.asarray([[1.0, 0.0]], x.dtype), x)[0]


@functools.lru_cache(maxsize=256)
def _networks_at(width, depth, W_std, b_std, steps):
    _, x = circle(N_ANGLES, endpoint=True)
    x_train, y_train = _training_set()
    rows = _finite_rows(
        _circle_networks(), x.astype(jnp.float32), x_train, y_train, depth, W_std, b_std, width=width, steps=steps
    )
    return np.asarray(rows, dtype=float)


def _circle(width, depth, W_std, b_std, trained):
    coarse, _ = circle(N_ANGLES, endpoint=True)
    fine, x = circle(129, endpoint=True)
    networks = _networks_at(int(width), depth, W_std, b_std, STEPS if trained else 0)
    theory = np.asarray(_theory_row(x, depth, W_std, b_std), dtype=float)
    there = theory[::4]
    gaps = np.sqrt(((networks - there) ** 2).mean(1) / (there**2).mean())
    return {
        "angle": np.asarray(fine),
        "theory": theory,
        "angle_networks": np.asarray(coarse),
        "networks": networks,
        "gap": gaps.mean(),
        "peak": networks[:, N_ANGLES // 2].mean() / theory[64],
    }


def _circle_build(fig, data):
    (ax,) = plots.columns(fig, label_room=1.15)
    plots.frame(ax, "angle γ between x₀ and x (rad)", "kernel  Θ(x₀, x)", xlim=(-np.pi, np.pi), ylim=(0, 1))
    ax.set_xticks(np.pi * np.arange(-2, 3) / 2, ["−π", "−π/2", "0", "π/2", "π"])
    _circle_limits(ax, data)
    return {
        "networks": plots.lines(
            ax, data["angle_networks"], data["networks"], "finite", label="4 networks", alpha=0.8, linewidth=1.2
        ),
        "theory": plots.line(ax, data["angle"], data["theory"], "ntk", label="infinite width"),
    }


def _circle_limits(ax, data):
    plots.limits(ax, y=[data["networks"], data["theory"], 0.0])


def _circle_update(artists, data):
    artists["networks"].set(data["angle_networks"], data["networks"])
    artists["theory"].set(data["angle"], data["theory"])
    _circle_limits(artists["theory"].artists[0].axes, data)


def _circle_reading(data, state):
    when = "after training" if state["trained"] else "at initialization"
    return (
        f"Width {state['width']:.0f}, {state['depth']:.0f} hidden layers, {when}: the networks are off the "
        f"infinite-width kernel by {float(data['gap']):.1%} on average; their mean peak is {float(data['peak']):.2f} "
        "times its peak."
    )


def circle_kernel() -> Panel:
    """Theta(x0, x) around the unit circle: four ReLU networks and the infinite-width kernel.

    "Trained" means 20 steps of gradient descent on 16 normal points with target x1 x2, each step half of the largest
    stable one or less. Training is computed when it is asked for and kept: below 50 ms up to width 256, and at widths
    512 and 1024 about 0.1 s and 0.5 s at the first visit of a setting (two quiet cores). Jacot et al. 2018, Fig. 1.
    """
    return Panel(
        _circle,
        _circle_build,
        _circle_update,
        {
            "width": powers_of_two("width", 16, WIDEST, 64, unit="units"),
            "depth": choice("depth", range(1, DEEPEST + 1), 3, unit="hidden layers"),
            "W_std": slider("weight scale σ_w", 0.5, 2.0, 1.0),
            "b_std": slider("bias scale σ_b", 0.0, 1.0, 0.1),
            "trained": toggle("trained"),
        },
        _circle_reading,
        title="The tangent kernel around the circle.",
        caption="Drag width to the right: four random networks (thin, blue) gather on one curve (thick, vermillion) "
        "that was computed without any network. Then tick trained, and drag width back.",
        presets={
            "Jacot, narrow": {"width": 64, "depth": 3, "W_std": 1.0, "b_std": 0.1, "trained": 0},
            "Jacot, narrow, trained": {"width": 64, "depth": 3, "W_std": 1.0, "b_std": 0.1, "trained": 1},
            "Wide": {"width": WIDEST},
        },
        warm=[{"width": w, "trained": t} for w in 2.0 ** np.arange(4, 11) for t in (0, 1) if not t or w <= FAST_WIDTH],
    )
