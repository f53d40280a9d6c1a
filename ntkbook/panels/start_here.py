"""Chapter 00: five noisy points on a sine, ten networks in training, and the prediction for infinite width.

Everything is computed at construction: ten networks of one hidden layer at seven widths, with gradient descent recorded
at every stop of the time slider, and the closed form at the same times. A move only chooses among these arrays. The
networks are in float32.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import plots
from ..dynamics.ensemble import ensemble
from ..networks.activations import Erf
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, powers_of_two
from .masked_network import Sizes, descended, draw, first_units, gradient, recorded, signals

# of the first layer and of the output layer
SCALES: tuple[dict[str, Any], ...] = {"W_std": 3.0, "b_std": 2.0}, {"W_std": 1.0, "b_std": 0.1}
WIDTHS = tuple(2**i for i in range(3, 10))
ARRAYS = (64, WIDTHS[-1])  # units that are computed, of which `width` count
NETWORKS = 10
LR = 0.02
STEPS = np.unique([0, *np.round(np.geomspace(1, 1000, 30)).astype(int)])  # t = lr * steps, up to 20
GRID = np.linspace(-np.pi, np.pi, 81)
X_TRAIN = np.array([-2.4, -1.3, -0.2, 0.9, 2.2])
Y_TRAIN = np.sin(X_TRAIN) + np.array([0.10, -0.05, 0.15, -0.10, 0.05])  # the noise, drawn once


def network(width):
    """The network of the panel: one hidden layer, activation erf."""
    hidden, output = SCALES
    return serial(Dense(width, **hidden), Erf(), Dense(1, **output))


def sizes_of(width):
    """The same network, cut out of a wider one."""
    hidden, output = (tuple(scale.values()) for scale in SCALES)
    return Sizes(width, 1, hidden, hidden, output)


@jax.jit
def _trained(params, x, y, grid, times, width):
    """Outputs on the grid at each of `times`, counted in steps: (times, networks, grid)."""
    sizes, phi = sizes_of(width), Erf().phi

    def step(_, params):
        s = signals(params, x, sizes, phi)
        return descended(params, gradient(params, x, s, s.f - y, sizes), LR)

    one = lambda params: recorded(step, params, times, lambda params: signals(params, grid, sizes, phi).f)
    return jax.vmap(one, out_axes=1)(params)


@functools.cache
def _runs():
    """width -> (times, networks, grid) of real networks; and mean and sd of the prediction, (times, grid)."""
    params = draw(4, 1, WIDTHS[-1], 1, NETWORKS)
    x, y, grid = (jnp.asarray(array) for array in (X_TRAIN[:, None], Y_TRAIN, GRID[:, None]))
    single = [array.astype(jnp.float32) for array in (x, y, grid)]
    cut = lambda n: first_units(params, n, ARRAYS)
    finite = {n: np.asarray(_trained(cut(n), *single, jnp.asarray(STEPS), n), dtype=float) for n in WIDTHS}
    law = ensemble(network(1), x, y).predict(jnp.asarray(LR * STEPS), grid)
    return finite, np.asarray(law.mean), np.asarray(law.std)


def arrays(t, width):
    """What the panel draws at one setting, and how far the networks are from the prediction."""
    finite, mean, sd = _runs()
    at = int(np.argmin(np.abs(LR * STEPS - t)))
    networks = finite[int(width)][at]
    return {
        "networks": networks,
        "mean": mean[at],
        "sd": sd[at],
        "inside": np.mean(np.abs(networks - mean[at]) <= 2 * sd[at]),
        "gap": np.sqrt(np.mean((networks.mean(0) - mean[at]) ** 2)),
        "spread": np.sqrt(np.mean(networks.var(0, ddof=1))),
        "spread_theory": np.sqrt(np.mean(sd[at] ** 2)),
    }


def _build(fig, data):
    (ax,) = plots.columns(fig, label_room=1.2)
    plots.frame(ax, "input x", "output f(x)", xlim=(-np.pi, np.pi), ylim=(-3, 3))
    ax.set_xticks(np.pi * np.arange(-2, 3) / 2, ["−π", "−π/2", "0", "π/2", "π"])
    plots.line(ax, GRID, np.sin(GRID), "guide", label="sine")
    plots.points(ax, X_TRAIN, Y_TRAIN, "data", markersize=8)
    return {
        "band": plots.band(ax, GRID, data["mean"], data["sd"], "ntk", label="infinite width,\n± 2 sd"),
        "networks": plots.lines(ax, GRID, data["networks"], "finite", label="10 networks", alpha=0.9),
    }


def _update(artists, data):
    artists["band"].set(GRID, data["mean"], data["sd"])
    artists["networks"].set(GRID, data["networks"])


def _reading(data, state):
    return (
        f"t = {state['t']:.3g}, width {state['width']:.0f}: {float(data['inside']):.0%} of the networks' curves lie in "
        f"the band; their spread is {float(data['spread']):.2f}, predicted {float(data['spread_theory']):.2f}; their "
        f"mean is off by {float(data['gap']):.2f}."
    )


def sine_ensemble() -> Panel:
    """Ten networks in training on five points, and the law that infinitely wide ones follow.

    Time is t = learning rate x steps of gradient descent on 1/2 the sum of squared errors. Lee et al. 2019, Fig. 2.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "t": choice("training time t", [float(t) for t in LR * STEPS], 0.0, play=True),
            "width": powers_of_two("width", WIDTHS[0], WIDTHS[-1], WIDTHS[-1], unit="units"),
        },
        _reading,
        title="Five points on a sine.",
        caption="Press play, or drag the time to the right: ten random networks learn the five points, inside a band "
        "that was computed without training any. Then drag the width down.",
        presets={
            "Start": {"t": 0.0},
            "Half-way": {"t": 0.5},
            "Trained": {"t": 20.0},
            "Trained, width 8": {"t": 20.0, "width": 8},
        },
        warm=[],
    )
