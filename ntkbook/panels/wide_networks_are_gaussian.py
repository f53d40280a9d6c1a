"""Chapter 02: the outputs of two thousand random networks at two inputs, and the Gaussian of infinite width.

Nobody draws two thousand matrices for a slider. Given the layer below, the units of a layer are independent pairs of
Gaussians whose covariance is an average over that layer; so a network's outputs can be drawn from two numbers for each
unit, with exactly the law of the network with all its weights. The numbers are drawn once, at the largest width and
depth; a smaller network uses a part of them, so that nothing is compiled for a new one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..networks.activations import Erf, Relu
from ..panel import Panel, powers_of_two, slider, toggle, whole

NETWORKS, WIDEST, DEEPEST = 2000, 256, 5
W_STD = 2**0.5  # and no biases: a ReLU network then keeps its variance from layer to layer
EDGES = np.linspace(-4.125, 4.125, 34)  # of the bars, in predicted standard deviations


@functools.cache
def _normals():
    """Two numbers for each unit, (layers, networks, 2, units), and for each output, (networks, 2)."""
    rng = np.random.default_rng(2)
    hidden = rng.standard_normal((DEEPEST, NETWORKS, 2, WIDEST), dtype=np.float32)
    return jnp.asarray(hidden), jnp.asarray(rng.standard_normal((NETWORKS, 2), dtype=np.float32))


def _pairs(k, normals):
    """Gaussian pairs u, v with covariance matrix ((k0, k1), (k1, k2)) from independent normal numbers."""
    k0, k1, k2 = (k[:, i].reshape(-1, *[1] * (normals.ndim - 2)) for i in range(3))
    a = jnp.sqrt(k0)
    b = jnp.where(a > 0, k1 / jnp.where(a > 0, a, 1), 0)
    rest = k2 - b * b
    c = jnp.sqrt(jnp.where(rest > 0, rest, 0))
    first, second = normals[:, 0], normals[:, 1]
    return a * first, b * first + c * second


@jax.jit
def _outputs(hidden, last, k, width, depth, is_erf):
    """f(x) and f(x'), (networks, 2), for the first layer's covariances k = (K(x,x), K(x,x'), K(x',x'))."""
    is_unit = jnp.arange(WIDEST, dtype=hidden.dtype) < width

    def up(l, k):
        u, v = lax.cond(is_erf, jax.scipy.special.erf, lambda z: jnp.maximum(z, 0), jnp.stack(_pairs(k, hidden[l])))
        u = jnp.where(is_unit, u, 0)
        products = [jnp.sum(u * u, 1), jnp.sum(u * v, 1), jnp.sum(jnp.where(is_unit, v * v, 0), 1)]
        return W_STD**2 / width * jnp.stack(products, axis=1)

    k = lax.fori_loop(0, depth, up, jnp.broadcast_to(k, (NETWORKS, 3)))
    return jnp.stack(_pairs(k, last), axis=1)


@jax.jit
def _predicted(k, depth, is_erf):
    """(K(x,x), K(x,x'), K(x',x')) of the output in infinite width: the recursion of the chapter."""

    def up(_, k):
        q1, q2 = k[jnp.array([0, 0, 2])], k[jnp.array([0, 2, 2])]
        T = lax.cond(is_erf, lambda *a: Erf().dual(*a)[0], lambda *a: Relu().dual(*a)[0], q1, q2, k)
        return W_STD**2 * T

    return lax.fori_loop(0, depth, up, k)


def arrays(width, depth, angle, is_erf):
    """What the panel draws at one setting: outputs in predicted standard deviations, and how Gaussian they are."""
    first = W_STD**2 * np.array([1.0, np.cos(np.deg2rad(angle)), 1.0])  # inputs with |x|^2 = n_0
    hidden, last = _normals()
    steps, erf = int(depth), bool(is_erf)
    outputs = np.asarray(_outputs(hidden, last, jnp.asarray(first, jnp.float32), width, steps, erf), dtype=float)
    k = np.asarray(_predicted(jnp.asarray(first), steps, erf), dtype=float)
    f = outputs / np.sqrt(k[[0, 2]])
    c = float(np.clip(k[1] / np.sqrt(k[0] * k[2]), -1, 1))
    around = np.linspace(0, 2 * np.pi, 97)
    ellipse = np.stack([np.cos(around), c * np.cos(around) + np.sqrt(1 - c * c) * np.sin(around)])
    counts, _ = np.histogram(f[:, 0], EDGES)
    return {
        "f": f,
        "ellipse": ellipse,
        "heights": counts / (NETWORKS * (EDGES[1] - EDGES[0])),
        "inside": np.mean(np.abs(f[:, 0]) < 1),
        "far": np.mean(np.abs(f[:, 0]) > 3),
        "covariance": np.mean(f[:, 0] * f[:, 1]),
        "predicted": np.asarray(c),
    }


def _build(fig, data):
    left, right = plots.columns(fig, 1, 1.35, label_room=(0.75, 1.0), gap=0.6)
    ticks = [-3, 0, 3]
    plots.frame(left, "f(x)  (predicted sd)", "f(x′)  (predicted sd)", xlim=(-4, 4), ylim=(-4, 4))
    left.set_xticks(ticks)
    left.set_yticks(ticks)
    plots.frame(right, "f(x)  (predicted sd)", "density", xlim=(-4, 4), ylim=(0, 1))
    right.set_xticks([-3, -2, -1, 0, 1, 2, 3])
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    x = np.linspace(-4, 4, 161)
    plots.direct_label(left, 4.2, 2.6, "ellipses:\n1 and 2 sd,\npredicted", "nngp", va="center")
    marks = {
        "cloud": plots.points(left, data["f"][:, 0], data["f"][:, 1], "finite", markersize=2.2, alpha=0.35, mew=0),
        "one": plots.line(left, data["ellipse"][0], data["ellipse"][1], "nngp"),
        "two": plots.line(left, 2 * data["ellipse"][0], 2 * data["ellipse"][1], "nngp"),
        "bars": plots.bars(right, middle, data["heights"], "finite", width=0.22, alpha=0.75),
    }
    plots.line(right, x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "nngp", label="Gaussian,\npredicted")
    plots.direct_label(right, 4.2, 0.62, f"{NETWORKS}\nnetworks", "finite", va="center")
    return marks


def _update(artists, data):
    artists["cloud"].set(data["f"][:, 0], data["f"][:, 1])
    artists["one"].set(*data["ellipse"])
    artists["two"].set(*(2 * data["ellipse"]))
    artists["bars"].set(data["heights"])


def _reading(data, state):
    layers = "1 hidden layer" if state["depth"] == 1 else f"{state['depth']:.0f} hidden layers"
    return (
        f"Width {state['width']:.0f}, {layers}: {float(data['inside']):.0%} of the outputs f(x) are within one "
        f"predicted sd (Gaussian: 68%), {float(data['far']):.1%} beyond three (Gaussian: 0.3%). The mean of f(x) f(x′) "
        f"is {float(data['covariance']):.2f}, predicted {float(data['predicted']):.2f}."
    )


def random_outputs() -> Panel:
    """Outputs of 2000 random networks at two inputs against the Gaussian of infinite width.

    The inputs have |x|^2 = n_0 and an angle between them; sigma_w^2 = 2, no biases.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "width": powers_of_two("width", 1, WIDEST, 4, unit="units"),
            "depth": whole("depth", 1, DEEPEST, 1, unit="hidden layers"),
            "angle": slider("angle of x and x′", 0.0, 180.0, 60.0, unit="degrees", step=1.0),
            "is_erf": toggle("erf instead of ReLU"),
        },
        _reading,
        title="Random networks at two inputs.",
        caption="Drag width to the right: cloud and bars become the Gaussian that was computed without any network. "
        "Then drag depth, and watch it break again.",
        presets={
            "One unit": {"width": 1, "depth": 1, "is_erf": 0},
            "Wide": {"width": WIDEST, "depth": 1, "is_erf": 0},
            "Narrow and deep": {"width": 16, "depth": DEEPEST, "is_erf": 0},
        },
        size=(9.0, 3.6),
        warm=[],
    )
