"""Chapter 04: a network in training beside its own linearization, on five points of a sine.

Both are trained with the same steps from the same start: the network by gradient descent on its weights, the
linearization in function space by its constant kernel. The networks have one hidden layer and are in float32; their
weights are drawn once at the largest width and a narrow one is the first units of the widest, so that width, learning
rate and activation are numbers and nothing is compiled for a new one. Two sizes of arrays are compiled: the narrow
networks, which are most of the slider, need not pay for the widest.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..networks.activations import Erf, Relu
from ..panel import Panel, choice, powers_of_two, slider, toggle
from .masked_network import SUNK, Signals, Sizes, descended, draw, first_units, gradient, kernel, recorded, signals

# of the first layer and of the output layer, as in chapter 00
SCALES: tuple[dict[str, Any], ...] = {"W_std": 3.0, "b_std": 2.0}, {"W_std": 1.0, "b_std": 0.1}
NARROWEST, WIDEST, NETWORKS = 8, 1024, 3
ARRAYS = (128, WIDEST)  # units that are computed, of which `width` count
STEPS = (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256)
LATER = np.asarray(STEPS[1:], dtype=float)
GRID = np.linspace(-np.pi, np.pi, 61)
X_TRAIN = np.array([-2.4, -1.3, -0.2, 0.9, 2.2])
Y_TRAIN = np.sin(X_TRAIN) + np.array([0.10, -0.05, 0.15, -0.10, 0.05])  # the noise, drawn once
HIGHEST = 100.0  # what has diverged stops here
LOWEST = 1e-3  # of the axis of distances


def sizes_of(width):
    """One hidden layer with the scales of the panel."""
    hidden, output = (tuple(scale.values()) for scale in SCALES)
    return Sizes(width, 1, hidden, hidden, output)


def phi(relu):
    """ReLU or erf, chosen by a number."""
    return lambda z: jnp.where(relu, Relu().phi(z), Erf().phi(z))


def step(params, x, y, lr, width, relu):
    """One step of gradient descent on 1/2 the sum of squared errors; none once the outputs have left all bounds."""
    sizes = sizes_of(width)
    s = signals(params, x, sizes, phi(relu))
    pull = jnp.where(jnp.abs(s.f).max() < HIGHEST, s.f - y, 0)
    return descended(params, gradient(params, x, s, pull, sizes), lr)


@jax.jit
def _trained(params, x, y, grid, steps, rate, width, relu):
    """(f, f_lin) at the training points and the grid at each of `steps`: two arrays (networks, steps, points)."""
    points, sizes, n = jnp.concatenate([x, grid]), sizes_of(width), len(x)

    def one(params):
        s = signals(params, points, sizes, phi(relu))
        k = kernel(points, s, x, Signals(s.f[:n], s.a[:, :n], s.d[:, :n]), sizes)
        lr = rate / jnp.linalg.eigvalsh(k[:n])[-1]

        def once(_, both):
            params, linear = both
            pull = jnp.where(jnp.abs(linear[:n]).max() < HIGHEST, lr * (linear[:n] - y), 0)
            return step(params, x, y, lr, width, relu), linear - k @ pull

        observe = lambda both: (signals(both[0], points, sizes, phi(relu)).f, both[1])
        return recorded(once, (params, s.f), steps, observe)

    return lax.map(one, params)


@functools.cache
def _networks():
    return draw(4, 1, WIDEST, 1, NETWORKS)


@functools.lru_cache(maxsize=512)
def _runs(rate, width, relu):
    single = [jnp.asarray(array, dtype=jnp.float32) for array in (X_TRAIN[:, None], Y_TRAIN, GRID[:, None])]
    both = _trained(first_units(_networks(), width, ARRAYS), *single, jnp.asarray(STEPS), rate, width, relu)
    return tuple(np.clip(np.asarray(outputs, dtype=float), -HIGHEST, HIGHEST) for outputs in both)


def arrays(t, width, rate, relu):
    """What the panel draws at one setting: network and linearization now, and their distance at all times."""
    n, at = X_TRAIN.size, STEPS.index(int(t))
    f, linear = _runs(float(rate), int(width), bool(relu))
    gaps = np.abs(f - linear)[:, :, n:].max(-1)  # (networks, steps): over the grid
    loss = lambda outputs: ((outputs[0, -1, :n] - Y_TRAIN) ** 2).sum() / 2
    return {
        "start": f[0, 0, n:],
        "network": f[0, at, n:],
        "linearized": linear[0, at, n:],
        "gaps": np.clip(gaps[:, 1:], SUNK, HIGHEST),
        "t": np.asarray(max(t, STEPS[1])),
        "gap": gaps[0, at],
        "worst": gaps.max(1).mean(),
        "loss": loss(f),
        "loss_linearized": loss(linear),
    }


def _build(fig, data):
    left, right = plots.columns(fig, 1.5, 1, label_room=(0.95, 0.2), gap=0.75)
    plots.frame(left, "input x", "output f(x)", xlim=(-np.pi, np.pi), ylim=(-3, 3))
    left.set_xticks(np.pi * np.arange(-2, 3) / 2, ["−π", "−π/2", "0", "π/2", "π"])
    plots.frame(
        right,
        "step",
        title="distance of f and f_lin, 3 networks",
        xscale="log",
        yscale="log",
        xlim=(1, STEPS[-1]),
        ylim=(LOWEST, 30),
    )
    right.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    right.set_yticks([1e-3, 1e-2, 0.1, 1, 10], ["0.001", "0.01", "0.1", "1", "10"])
    right.minorticks_off()
    plots.points(left, X_TRAIN, Y_TRAIN, "data", markersize=8)
    return {
        "start": plots.line(left, GRID, data["start"], "guide", label="start"),
        "network": plots.line(left, GRID, data["network"], "finite", label="network", linewidth=2),
        "linearized": plots.line(left, GRID, data["linearized"], "linearized", label="linearized"),
        "gaps": plots.lines(right, LATER, data["gaps"][1:], "finite", alpha=0.9),
        "gap": plots.line(right, LATER, data["gaps"][0], "finite", linewidth=2),
        "now": plots.vertical(right, data["t"], "guide"),
    }


def _update(artists, data):
    for name in ("start", "network", "linearized"):
        artists[name].set(GRID, data[name])
    artists["gaps"].set(LATER, data["gaps"][1:])
    artists["gap"].set(LATER, data["gaps"][0])
    artists["now"].set(data["t"])


def _number(value):
    return f"{value:.2g}" if value < HIGHEST / 2 else "more than 50"


def _reading(data, state):
    return (
        f"Width {state['width']:.0f}, lr λ_max = {state['rate']:.2f}, step {state['t']:.0f}: the two curves differ by "
        f"{_number(float(data['gap']))} at most; at their worst moment {NETWORKS} networks are off by "
        f"{_number(float(data['worst']))} on average. Loss at the end: network {_number(float(data['loss']))}, "
        f"linearized {_number(float(data['loss_linearized']))}."
    )


def linearization() -> Panel:
    """One network and its linearization learn five points; and the distance of three such pairs over time.

    The learning rate is given as lr * lambda_max, with the largest eigenvalue of that network's own kernel at the
    start: above 2 the linearization diverges. A new setting of width, rate or activation is trained when it is asked
    for, and kept. Lee et al. 2019, Theorem 2.1.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "t": choice("step", STEPS, 64, play=True),
            "width": powers_of_two("width", NARROWEST, WIDEST, 32, unit="units"),
            "rate": slider("rate lr λ_max", 0.1, 3.0, 0.5, step=0.1),
            "relu": toggle("ReLU instead of erf"),
        },
        _reading,
        title="A network and its linearization.",
        caption="Press play, or drag the step: the network (blue) and its linearization (green, dashed) leave the same "
        "start together. Right: their largest distance in x, for this network (thick) and two others. Then drag width: "
        "the distance falls.",
        presets={
            "Trained, narrow": {"t": 256, "width": 8, "rate": 0.5, "relu": 0},
            "Trained, wide": {"t": 256, "width": WIDEST, "rate": 0.5, "relu": 0},
            "Rate too large": {"t": 256, "width": 256, "rate": 2.2, "relu": 0},
        },
        warm=[{"width": size} for size in ARRAYS],
    )
