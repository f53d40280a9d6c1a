"""Chapter 00: five noisy points on a sine, sixty networks in training, and the prediction for infinite width.

The five points can be dragged. The closed form follows at once; the networks, of one hidden layer and in float32, are
trained again when the points rest, with gradient descent recorded at every stop of the time slider. For the points of
the start all widths are trained at construction: then a move of time or width only chooses among arrays.
"""

import functools
from typing import Any

import jax
import numpy as np

from .. import plots
from ..dynamics.ensemble import ensemble
from ..networks.activations import Erf
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, powers_of_two, slider
from .masked_network import Sizes, descended, draw, first_units, gradient, recorded, signals

# of the first layer and of the output layer
SCALES: tuple[dict[str, Any], ...] = {"W_std": 3.0, "b_std": 2.0}, {"W_std": 1.0, "b_std": 0.1}
WIDTHS = tuple(2**i for i in range(2, 10))
ARRAYS = (64, WIDTHS[-1])  # units that are computed, of which `width` count
NETWORKS = 60
LR = 0.02
STEPS = np.unique([0, *np.round(np.geomspace(1, 1000, 30)).astype(int)])  # t = lr * steps, up to 20
GRID = np.linspace(-np.pi, np.pi, 81)
X_TRAIN = np.array([-2.4, -1.3, -0.2, 0.9, 2.2])
Y_TRAIN = np.sin(X_TRAIN) + np.array([0.10, -0.05, 0.15, -0.10, 0.05])  # the noise, drawn once
RANGE_X, RANGE_Y = (-3.1, 3.1), (-2.5, 2.5)  # where a point can be dragged
POINTS = [(f"x{i}", f"y{i}") for i in range(1, 6)]
KEPT = 64  # trainings that are kept


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
def _starts():
    return draw(4, 1, WIDTHS[-1], 1, NETWORKS)


_runs: dict[Any, np.ndarray] = {}  # (width, x, y) -> outputs of networks, (times, networks, grid)


def _trained_on(width, x, y, *, only_kept=False):
    """Outputs of the networks at every time, (times, networks, grid); of none, if only what is kept is asked for."""
    place = width, x, y
    if place not in _runs:
        if only_kept:
            return np.zeros((len(STEPS), 0, len(GRID)))
        if len(_runs) >= KEPT:
            _runs.pop(next(key for key in _runs if key[1:] != _at_start()))
        arrays = (np.asarray(part, np.float32) for part in (np.array(x)[:, None], y, GRID[:, None]))
        run = _trained(first_units(_starts(), width, ARRAYS), *arrays, STEPS, width)
        _runs[place] = np.asarray(run, dtype=float)
    return _runs[place]


def _at_start():
    return tuple(X_TRAIN.tolist()), tuple(Y_TRAIN.tolist())


@jax.jit
def _at_infinite_width(t, x, y, grid):
    law = ensemble(network(1), x, y).predict(t, grid)
    return law.mean, law.std


@functools.lru_cache(KEPT)
def _law(t, x, y):
    """Mean and standard deviation of infinitely wide networks, (grid,)."""
    return tuple(map(np.asarray, _at_infinite_width(t, np.array(x)[:, None], np.array(y), GRID[:, None])))


def arrays(t, width, *, only_kept=False, **points):
    """What the panel draws at one setting, and how far the networks are from the prediction."""
    at, data = int(np.argmin(np.abs(LR * STEPS - t))), _points(points)
    mean, sd = _law(t, *data)
    networks = _trained_on(int(width), *data, only_kept=only_kept)[at]
    found = {"x": np.array(data[0]), "y": np.array(data[1]), "networks": networks, "mean": mean, "sd": sd}
    found["edges"] = mean + 2 * np.array([[-1], [1]]) * sd
    if not len(networks):
        return found
    return found | {
        "inside": np.mean(np.abs(networks - mean) <= 2 * sd),
        "gap": np.sqrt(np.mean((networks.mean(0) - mean) ** 2)),
        "spread": np.sqrt(np.mean(networks.var(0, ddof=1))),
        "spread_theory": np.sqrt(np.mean(sd**2)),
    }


def draft(**values):
    """The prediction at once, and the networks if they have been trained on these points."""
    return arrays(**values, only_kept=True)


def _points(values):
    """x and y of the five points; those that are not in `values` are where they were at the start."""
    return tuple(
        tuple(values.get(f"{axis}{i}", start) for i, start in enumerate(starts, start=1))
        for axis, starts in zip("xy", _at_start())
    )


def _build(fig, data):
    (ax,) = plots.columns(fig, label_room=1.2)
    plots.frame(ax, "input x", "output f(x)", xlim=(-np.pi, np.pi), ylim=(-2.6, 2.6))
    ax.set_xticks(np.pi * np.arange(-2, 3) / 2, ["−π", "−π/2", "0", "π/2", "π"])
    plots.line(ax, GRID, np.sin(GRID), "guide", label="sine")
    return {
        "points": plots.points(ax, data["x"], data["y"], "data", markersize=9),
        "band": plots.band(ax, GRID, data["mean"], data["sd"], "ntk", label="infinite width,\n± 2 sd"),
        "edges": plots.lines(ax, GRID, data["edges"], "ntk", linewidth=1.2, zorder=3),
        "networks": plots.lines(
            ax, GRID, data["networks"], "finite", label=f"{NETWORKS} networks", linewidth=0.7, alpha=0.45
        ),
    }


def _update(artists, data):
    artists["points"].set(data["x"], data["y"])
    artists["band"].set(GRID, data["mean"], data["sd"])
    artists["edges"].set(GRID, data["edges"])
    artists["networks"].set(GRID, data["networks"])


def _reading(data, state):
    now = f"t = {state['t']:.3g}, width {state['width']:.0f}"
    moved = [i for i, place in enumerate(zip(data["x"], data["y"])) if place != (X_TRAIN[i], Y_TRAIN[i])]
    if moved:
        now += ", points at " + ", ".join(f"({data['x'][i]:.1f}, {data['y'][i]:.2f})" for i in moved)
    if not len(data["networks"]):
        return f"{now}: the law follows at once; the networks are trained again when you let go."
    return (
        f"{now}: {float(data['inside']):.0%} of the networks' curves lie in "
        f"the band; their spread is {float(data['spread']):.2f}, predicted {float(data['spread_theory']):.2f}; their "
        f"mean is off by {float(data['gap']):.2f}."
    )


def sine_ensemble() -> Panel:
    """Networks in training on five points that can be dragged, and the law that infinitely wide ones follow.

    Time is t = learning rate x steps of gradient descent on 1/2 the sum of squared errors. Lee et al. 2019, Fig. 2.
    """
    for width in WIDTHS:
        _trained_on(width, *_at_start())
    starts = zip(POINTS, X_TRAIN.tolist(), Y_TRAIN.tolist())
    coordinates = {}
    for i, ((x_name, y_name), x, y) in enumerate(starts, start=1):
        coordinates[x_name] = slider(f"x of point {i}", *RANGE_X, x, step=0.1)
        coordinates[y_name] = slider(f"y of point {i}", *RANGE_Y, y, step=0.1)
    return Panel(
        arrays,
        _build,
        _update,
        {
            "t": choice("training time t", [float(t) for t in LR * STEPS], 0.0, play=True),
            "width": powers_of_two("width", WIDTHS[0], WIDTHS[-1], WIDTHS[-1], unit="units"),
            **coordinates,
        },
        _reading,
        title="Five points on a sine.",
        caption="Press play, or drag the time to the right: random networks learn the five points, inside a band that "
        "was computed without training any. Drag a point: the band follows. Then drag the width down.",
        presets={
            "Start": {"t": 0.0},
            "Half-way": {"t": 0.5},
            "Trained": {"t": 20.0},
            f"Trained, width {WIDTHS[0]}": {"t": 20.0, "width": WIDTHS[0]},
        },
        draft=draft,
        main=["t", "width"],
        baked_caption="Press play, or drag the time to the right: random networks learn the five points, inside a band "
        "that was computed without training any. Then drag the width down.",
        drag=POINTS,
        warm=[],
    )
