"""Chapter 10: what depth does to two inputs: theory on the phase diagram of an activation, beside a real network.

The theory is the library's: one call to `phase` for a whole diagram, one to `propagate` for a path. The network has 100
layers of 500 units, with weights of its own in each, drawn once; a narrower one is the first units of each. Scales
and width are numbers, so that each activation is compiled once, when the panel is built.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..networks.activations import Activation, Erf, Relu
from ..networks.propagation import phase, propagate
from ..networks.quadrature import Tanh
from ..panel import Panel, choice, slider

ACTIVATIONS: tuple[Activation, ...] = (Erf(), Tanh(), Relu())
NAMES = ("erf", "tanh", "ReLU")
NETWORK = {  # the controls that this panel and that of the maps share
    "W_std": slider("weight scale W_std", 0.5, 3, 1.6, step=0.02),
    "b_std": slider("bias scale b_std", 0, 1, 0.22, step=0.02),
    "kind": choice("activation", range(len(NAMES)), 0, names=NAMES),
}
WIDTH, LAYERS = 500, 100
W_GRID, B_GRID = np.linspace(0.5, 3.0, 51), np.linspace(0.0, 1.0, 21)  # of the diagram: W_std and b_std
LARGEST, SMALLEST = 1e6, 1e-6  # rms of a signal, beyond which doubling it doubles what every activation here returns
DECADES = 20.0  # of squared gradients that are shown, to both sides
WIDTHS = (25, 50, 100, 250, WIDTH)  # of the slider: a narrower network is the first units of each layer
FINER = 4  # pixels of the diagram for each point of its grid


# ---------------------------------------------------------------- theory


@functools.lru_cache(maxsize=256)
def fixed_point(kind: int, W_std: float, b_std: float) -> dict[str, float]:
    """q*, c*, chi_1, chi_c, xi_1 and xi_c at one point. In the shape of the diagram, whose program is compiled."""
    shape = (B_GRID.size, W_GRID.size)
    found = phase(ACTIVATIONS[kind], jnp.full(shape, W_std), jnp.full(shape, b_std))
    names = ("q_star", "c_star", "chi_1", "chi_c", "xi_1", "xi_c")
    return {name: float(getattr(found, name)[0, 0]) for name in names}


@functools.cache
def _diagram(kind: int) -> dict[str, np.ndarray]:
    return diagram(ACTIVATIONS[kind])


def diagram(activation: Activation) -> dict[str, np.ndarray]:
    """log10 of the depth scale (b, W), the W_std at which chi_1 passes 1 for each b_std, and is it chaotic beyond?

    The scale is xi_c; where the variance grows without bound it is that of gradients, xi_1.
    """
    W, b = np.meshgrid(W_GRID, B_GRID)
    found = phase(activation, jnp.asarray(W), jnp.asarray(b))
    growth = np.log(np.asarray(found.chi_1))
    scale = 1 / np.maximum(np.abs(np.where(np.isinf(found.q_star), growth, np.log(np.asarray(found.chi_c)))), 1e-3)
    last = np.array([np.flatnonzero(row < 0).max(initial=0) for row in growth])
    i = np.minimum(last, W_GRID.size - 2)
    low, high = (np.take_along_axis(growth, (i + step)[:, None], 1)[:, 0] for step in (0, 1))
    edge = W_GRID[i] - low * (W_GRID[1] - W_GRID[0]) / np.where(high == low, 1, high - low)
    smooth = np.clip(np.log10(scale), 0, 2)
    for axis in (0, 1):
        at = np.linspace(0, smooth.shape[axis] - 1, FINER * (smooth.shape[axis] - 1) + 1)
        line = lambda values, at=at: np.interp(at, np.arange(len(values)), values)
        smooth = np.apply_along_axis(line, axis, smooth)
    is_chaotic = bool(np.isfinite(np.asarray(found.q_star)[:, -1]).all())
    return {"scale": smooth, "edge": np.clip(edge, W_GRID[0], W_GRID[-1]), "is_chaotic": np.asarray(is_chaotic)}


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """A rule for N(0, 1) on both half lines, so that a kink at zero does no harm."""
    x, w = np.polynomial.legendre.leggauss(64)
    z = 5 * (x + 1)
    w = 5 * w * np.exp(-z * z / 2) / (2 * np.pi) ** 0.5
    return np.concatenate([-z, z]), np.concatenate([w, w])


@functools.partial(jax.jit, static_argnames="phi")
def _squared_slopes(phi, q):
    """E[phi'(u)^2] for u ~ N(0, q), in the shape of q."""
    z, w = (jnp.asarray(part, q.dtype) for part in _nodes())
    u = jnp.sqrt(q)[:, None] * z
    return jax.jvp(phi, (u,), (jnp.ones_like(u),))[1] ** 2 @ w


def path(kind, W_std, b_std, c_in):
    """Correlations (LAYERS + 1,), from those of the inputs, of length 1, to layer 100; log10 of the squared gradient
    at layers 1 .. 100 over that at the last."""
    activation = ACTIVATIONS[int(kind)]
    q1 = W_std**2 + b_std**2
    q, c = propagate(activation, W_std, b_std, LAYERS - 1, q=q1, c=(W_std**2 * c_in + b_std**2) / q1)
    q, c = np.minimum(np.asarray(q), LARGEST**2), np.asarray(c)
    chi = W_std**2 * np.asarray(_squared_slopes(activation.phi, jnp.asarray(q)))
    steps = np.log10(np.maximum(chi[:-1], 1e-30))
    return np.append(c_in, c), np.append(np.cumsum(steps[::-1])[::-1], 0.0)


# ---------------------------------------------------------------- a real network


@functools.cache
def weights():
    """Of the network, and a random direction at its end, from N(0, 1), in float32; matrices in half of that."""
    rng = np.random.default_rng(10)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, dtype=np.float32))
    matrices = np.empty((LAYERS - 1, WIDTH, WIDTH), np.float16)
    for matrix in matrices:
        matrix[:] = rng.standard_normal(matrix.shape, dtype=np.float32)
    return {
        "W_in": normal(2, WIDTH),
        "W": jnp.asarray(matrices),
        "b": normal(LAYERS, WIDTH),
        "end": normal(WIDTH),
    }


@functools.partial(jax.jit, static_argnames="phi")
def _sent(phi, params, W_std, b_std, c_in, width):
    """Correlations at layers 1 .. 100, and log10 of |dz_100/dz_l . end|^2 / |end|^2 for the first of two inputs."""
    W, b = params["W"], params["b"]
    is_unit = (jnp.arange(WIDTH, dtype=b.dtype) < width).astype(b.dtype)
    scale = W_std / jnp.sqrt(width)
    x = 2**0.5 * jnp.array([[1.0, 0.0], [c_in, jnp.sqrt(1 - c_in**2)]], b.dtype)

    def smaller(z, log_size):
        # a ReLU network may grow by a factor 4 in each layer, and without biases an ordered one fades away: what is
        # very large or very small is carried with a unit of its own
        z = z * is_unit
        rms = jnp.sqrt(jnp.sum(z**2) / (2 * width))
        k = jnp.maximum(rms / LARGEST, 1) * jnp.where(rms > 0, jnp.minimum(rms / SMALLEST, 1), 1)
        return z / k, log_size + jnp.log(k)

    def up(state, layer):
        z, log_size = state
        W, b = layer
        bias = b_std * jnp.exp(jnp.minimum(-log_size, 80)) * b
        z, log_size = smaller(scale * (phi(z) * is_unit) @ W.astype(b.dtype) + bias, log_size)
        return (z, log_size), z

    start = smaller(W_std / 2**0.5 * x @ params["W_in"] + b_std * b[0], jnp.zeros((), b.dtype))
    z = jnp.concatenate([start[0][None], lax.scan(up, start, (W, b[1:]))[1]])  # (layers, 2, width)
    sizes = jnp.sqrt(jnp.sum(z**2, -1))  # 0 where all ReLU units of a narrow network are off: then c counts as 0
    c = jnp.sum(z[:, 0] * z[:, 1], -1) / jnp.maximum(sizes[:, 0] * sizes[:, 1], 1e-30)
    slope = jax.jvp(phi, (z[:-1, 0],), (jnp.ones_like(z[:-1, 0]),))[1]

    def down(state, layer):
        d, log_size = state
        W, slope = layer
        d = is_unit * slope * (scale * (W.astype(d.dtype) @ d))
        size = jnp.maximum(jnp.sqrt(jnp.sum(d**2)), 1e-30)
        return (d / size, log_size + jnp.log(size)), log_size + jnp.log(size)

    end = params["end"] * is_unit
    end = end / jnp.sqrt(jnp.sum(end**2))
    logs = lax.scan(down, (end, jnp.zeros((), b.dtype)), (W, slope), reverse=True)[1]
    return c, jnp.append(logs, 0) * (2 / math.log(10))


def network_path(kind, W_std, b_std, c_in, width):
    """As `path`, of the network."""
    numbers = (jnp.float32(value) for value in (W_std, b_std, c_in, width))
    c, gradient = _sent(ACTIVATIONS[int(kind)].phi, weights(), *numbers)
    return np.append(c_in, np.asarray(c, dtype=float)), np.asarray(gradient, dtype=float)


# ---------------------------------------------------------------- the phase diagram


def arrays(W_std, b_std, kind, c_in, width):
    """What the panel draws: the diagram of the activation, and the two ways of a pair of inputs through 100 layers."""
    point = fixed_point(int(kind), W_std, b_std)
    ends = lambda values: np.clip(values, -DECADES, DECADES)
    c, gradient = path(kind, W_std, b_std, c_in)
    c_net, gradient_net = network_path(kind, W_std, b_std, c_in, width)
    is_bounded = np.isfinite(point["q_star"])
    return {
        **_diagram(int(kind)),
        "point": np.array([W_std, b_std]),
        "c": c,
        "c_network": c_net,
        "gradient": ends(gradient),
        "gradient_network": ends(gradient_net),
        "chi_1": np.asarray(point["chi_1"]),
        "c_star": np.asarray(point["c_star"]),
        "xi": np.asarray(min(point["xi_c"] if is_bounded else point["xi_1"], 1e6)),
        "is_bounded": np.asarray(is_bounded),
    }


def _colours(ax, scale):
    half = [(grid[1] - grid[0]) / (2 * FINER) for grid in (W_GRID, B_GRID)]
    extent = (W_GRID[0] - half[0], W_GRID[-1] + half[0], B_GRID[0] - half[1], B_GRID[-1] + half[1])
    # below 1: kept with the axes, as long as the activation stays, and so stored once on a page without a kernel
    mark = plots.image(ax, scale, limits=(0, 2), extent=extent, aspect="auto", origin="lower", zorder=0.4)
    for name in ("left", "bottom"):
        ax.spines[name].set_visible(True)
    ax.set_xlim(W_GRID[0], W_GRID[-1])
    ax.set_ylim(B_GRID[0], B_GRID[-1])
    return mark


def _build(fig, data):
    left, middle, right = plots.columns(fig, 1.25, 1, 1, label_room=(0.05, 0.75, 0.75), gap=0.6)
    plots.frame(left, "weight scale W_std", "bias scale b_std", title="depth scale: 1 (dark) to 100 layers")
    plots.frame(middle, "layer", title="correlation", xlim=(0, LAYERS), ylim=(-1.02, 1.02))
    plots.frame(right, "layer", title="squared gradient, power of ten", xlim=(0, LAYERS), ylim=(-DECADES, DECADES))
    plots.horizontal(middle, 0.0)
    plots.horizontal(right, 0.0)
    scale = _colours(left, data["scale"])
    layers = np.arange(LAYERS + 1)
    x, y = data["point"]
    return {
        "scale": scale,
        "edge": plots.line(left, data["edge"], B_GRID, "ntk"),
        "ordered": plots.direct_label(left, 0.56, 0.91, "ordered", "data", color="white"),
        "chaotic": plots.direct_label(left, 2.95, 0.91, _beyond(data), "data", color="white", ha="right"),
        "ring": plots.points(left, [x], [y], "data", marker="o", markersize=13, color="white"),
        "point": plots.points(left, [x], [y], "finite", markersize=9),
        "c_star": plots.horizontal(middle, data["c_star"], "ntk", alpha=0.6, linewidth=1.0),
        "reach": plots.vertical(middle, min(6 * data["xi"], LAYERS)),
        "c": plots.line(middle, layers, data["c"], "ntk", label="infinite"),
        "c_network": plots.line(middle, layers, data["c_network"], "finite", label="network"),
        "gradient": plots.line(right, layers[1:], data["gradient"], "ntk", label="infinite"),
        "gradient_network": plots.line(right, layers[1:], data["gradient_network"], "finite", label="network"),
    }


def _beyond(data):
    return "chaotic" if data["is_chaotic"] else "unbounded"


def _update(artists, data):
    layers = np.arange(LAYERS + 1)
    x, y = data["point"]
    artists["scale"].set(data["scale"])
    artists["edge"].set(data["edge"], B_GRID)
    artists["chaotic"].set(2.95, 0.91, _beyond(data))
    for name in ("ring", "point"):
        artists[name].set([x], [y])
    artists["c_star"].set(data["c_star"])
    artists["reach"].set(min(6 * data["xi"], LAYERS))
    for name in ("c", "c_network"):
        artists[name].set(layers, data[name])
    for name in ("gradient", "gradient_network"):
        artists[name].set(layers[1:], data[name])


def _number(value: Any) -> str:
    return f"{value:.1f}" if value < 1000 else "more than 1000"


def _reading(data, state):
    chi_1 = float(data["chi_1"])
    where = "ordered" if chi_1 < 1 else "chaotic" if data["is_bounded"] else "no fixed variance"
    return (
        f"{NAMES[int(state['kind'])]}, W_std {state['W_std']:.2f}, b_std {state['b_std']:.2f}: {where}, "
        f"χ₁ = {chi_1:.3f}, depth scale {_number(float(data['xi']))} layers. From {state['c_in']:.2f} the correlation "
        f"goes to {data['c'][-1]:.3f} after 100 layers (network of width {state['width']:.0f}: "
        f"{data['c_network'][-1]:.3f}); "
        f"gradient² at layer 1: 10^{data['gradient'][0]:.1f} (network: 10^{data['gradient_network'][0]:.1f})."
    )


def phase_diagram() -> Panel:
    """Drag a network over the phase diagram of its activation: two inputs and a gradient on their way through it.

    Poole et al. 2016, Fig. 1 and 2; Schoenholz et al. 2017, Fig. 1 to 4.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            **NETWORK,
            "c_in": slider("correlation of the inputs", -0.9, 0.99, 0.2, step=0.01),
            "width": choice("width of the network", WIDTHS, WIDTH, unit="units", log=True),
        },
        _reading,
        title="Order, chaos, and the edge between them.",
        caption="Drag the dot, or click in the diagram. Middle: how alike two inputs are, layer by layer; the dotted "
        "line stands at six depth scales. Right: a gradient on its way back. Left of the orange line both vanish.",
        presets={
            "Ordered": {"W_std": 1.0, "b_std": 0.22, "kind": 0},
            "Edge of chaos": {"W_std": 1.18, "b_std": 0.22, "kind": 0},
            "Chaotic": {"W_std": 2.0, "b_std": 0.22, "kind": 0},
        },
        size=(9.5, 3.5),
        main=("W_std",),
        drag=[("W_std", "b_std")],
        baked=("W_std", "b_std"),
        point="point",
        warm=[{"kind": kind} for kind in range(len(NAMES))],
    )
