"""Chapter 01: one gradient step on one example in six models, and the errors at two points as training goes on.

The networks have one hidden layer of tanh units and are drawn once, at the largest width; a narrower one is the first
of these units. The other models are linear in their parameters.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import plots
from ..networks.quadrature import Tanh
from ..panel import Panel, choice, powers_of_two, slider
from .masked_network import SUNK, Signals, Sizes, descended, first_units, gradient, kernel, recorded, signals

GRID = np.linspace(-3, 3, 25)  # where predictions are shown; the look-up table has one entry for each
CENTRES, REACH = np.linspace(-3, 3, 13), 0.5  # of the bumps of the RBF model
W_STD, B_STD = 2.0, 1.0  # of the networks' hidden layer; output layer 1 and 0
SMALL, WIDE, DRAWS = 6, 512, 4
ARRAYS = (64, WIDE)  # units that are computed, of which `width` count


class Model(NamedTuple):
    """A name; `moved(x0, y0, part, draw)`, which makes one step on one example, and tells what `one_step` wants."""

    name: str
    moved: Callable[[float, float, float, int], "Move"]


class Move(NamedTuple):
    """Outputs before and after one step, at GRID and then at x0; Theta of these points with x0; what happened.

    The last in units of what was asked for at x0; where no step was needed, that of a very small one. All (m + 1,).
    """

    before: Any
    after: Any
    row: Any
    happened: Any


def _move(before, row, y0, part, after) -> Move:
    """`after(pull)` are the outputs of the model with `pull` times df(x0)/dparams taken off its parameters."""
    error, tiny = before[-1] - y0, jnp.finfo(before.dtype).eps ** 0.5
    asked = jnp.where(jnp.abs(error) > tiny, error, tiny)
    happened = (before - after(part / row[-1] * asked)) / (part * asked)
    return Move(before, after(part / row[-1] * error), row, happened)


def _linear_model(name, features, start) -> Model:
    """A model that is linear in its parameters: f = features(x) params. Its kernel never changes."""

    def moved(x0, y0, part, draw):
        F = features(np.append(GRID, x0))
        return _move(F @ start, F @ F[-1], y0, part, lambda pull: F @ (start - pull * F[-1]))

    return Model(name, moved)


def _line_at_start(x):
    return 0.5 * x + 0.2  # what all models but the networks are before the step


def _bumps(x):
    return np.exp(-((x[:, None] - CENTRES) ** 2) / (2 * REACH**2))


def _entry(x):
    """One feature for each entry of the table; an input between two of them takes the nearest."""
    return np.eye(GRID.size)[np.abs(x[:, None] - GRID).argmin(1)]


def sizes_of(width) -> Sizes:
    """One hidden layer of tanh units with biases; an output layer of scale 1 without."""
    return Sizes(width, 1, (W_STD, B_STD), (1.0, 0.0), (1.0, 0.0))


@functools.cache
def draw_network(width: int, draw: int) -> dict[str, Any]:
    """The first `width` units of a random network."""
    w, b, v = np.random.default_rng(draw).standard_normal((3, WIDE))[:, :width]
    none = {"W": np.zeros((0, width, width)), "b": np.zeros((0, width)), "b_out": np.zeros(())}
    return jax.tree.map(jnp.asarray, {"W_in": w[None], "b_in": b, "W_out": v, **none})


@jax.jit
def _network_moved(params, x, y0, part):
    """A step on the last of the inputs x."""
    sizes, phi = sizes_of(params["b_in"].size), Tanh().phi
    s = signals(params, x, sizes, phi)
    at = Signals(s.f[-1:], s.a[:, -1:], s.d[:, -1:])
    slope = gradient(params, x[-1:], at, jnp.ones_like(at.f), sizes)
    after = lambda pull: signals(descended(params, slope, pull), x, sizes, phi).f
    return _move(s.f, kernel(x, s, x[-1:], at, sizes)[:, 0], y0, part, after)


def _network(name, width) -> Model:
    """A random network; each draw is another one."""
    points = lambda x0: jnp.asarray(np.append(GRID, x0)[:, None])
    return Model(name, lambda x0, y0, part, draw: _network_moved(draw_network(width, draw), points(x0), y0, part))


MODELS = {
    1: _linear_model("look-up table", _entry, _line_at_start(GRID)),
    2: _linear_model("straight line", lambda x: np.stack([x, np.ones_like(x)], 1), np.array([0.5, 0.2])),
    3: _linear_model("rescaled line", lambda x: np.stack([x, 10 * np.ones_like(x)], 1), np.array([0.5, 0.02])),
    4: _linear_model("RBF bumps", _bumps, np.linalg.lstsq(_bumps(GRID), _line_at_start(GRID), rcond=None)[0]),
    5: _network(f"network, {SMALL} units", SMALL),
    6: _network(f"network, {WIDE} units", WIDE),
}


# ---------------------------------------------------------------- one step on one example


def one_step(model, x0, y0, part, draw):
    """Predictions before and after one step on (x0, y0), what the kernel row says, and the row itself.

    The learning rate is part / Theta(x0, x0): to first order, the step closes this part of the gap at x0.
    """
    move = MODELS[int(model)].moved(x0, y0, part, int(draw))
    before, after, row, happened = (np.asarray(array, dtype=float) for array in move)
    row = row / row[-1]
    farthest = int(np.argmax(np.abs(row[:-1])))
    return {
        "model": np.asarray(int(model)),
        "before": before[:-1],
        "after": after[:-1],
        "predicted": (before - part * row * (before[-1] - y0))[:-1],
        "row": row[:-1],
        "happened": happened[:-1],
        "example": np.array([x0, y0]),
        "here": np.array([before[-1], after[-1]]),
        "farthest": np.array([GRID[farthest], abs(row[farthest])]),
        "off": np.abs(happened - row)[:-1].max() / np.abs(row[:-1]).max(),
    }


def _step_build(fig, data):
    left, right = plots.columns(fig, 1.15, 1, label_room=(0.95, 0.95), gap=0.55)
    plots.frame(left, "input x", "output f(x)", xlim=(-3.1, 3.1), ylim=(-4, 4))
    plots.frame(right, "input x", "share of the move at x₀", xlim=(-3.1, 3.1), ylim=(-1.25, 2.25))
    plots.horizontal(right, 0.0)
    return {
        "before": plots.line(left, GRID, data["before"], "finite", label="before", alpha=0.7),
        "moves": _stems(left, data["before"], data["after"]),
        "after": plots.points(left, GRID, data["after"], "finite", label="after", markersize=3.5),
        "predicted": plots.line(left, GRID, data["predicted"], "linearized", label="kernel says", linewidth=1.4),
        "example": plots.points(left, data["example"][:1], data["example"][1:], "data", markersize=12, marker="*"),
        "name": plots.direct_label(left, -3.0, 3.5, MODELS[int(data["model"])].name, "finite"),
        "at_left": plots.vertical(left, data["example"][0]),
        "at_right": plots.vertical(right, data["example"][0]),
        "row": plots.line(right, GRID, data["row"], "linearized", label="kernel\nΘ(x, x₀)\n/ Θ(x₀, x₀)"),
        "happened": plots.points(right, GRID, data["happened"], "finite", label="happened", markersize=3.5),
    }


def _stems(ax, before, after):
    lines = ax.vlines(GRID, before, after, color=plots.MEANINGS["finite"].colour, linewidth=1.6, zorder=2.2)

    def move(before, after):
        lines.set_segments([[(x, a), (x, b)] for x, a, b in zip(GRID, before, after)])

    return plots.Mark((lines,), move)


def _step_update(artists, data):
    x0 = data["example"][0]
    artists["before"].set(GRID, data["before"])
    artists["moves"].set(data["before"], data["after"])
    artists["after"].set(GRID, data["after"])
    artists["predicted"].set(GRID, data["predicted"])
    artists["example"].set(data["example"][:1], data["example"][1:])
    artists["name"].set(-3.0, 3.5, MODELS[int(data["model"])].name)
    artists["at_left"].set(x0)
    artists["at_right"].set(x0)
    artists["row"].set(GRID, data["row"])
    artists["happened"].set(GRID, data["happened"])


def _step_reading(data, state):
    (here, there), (x, times) = data["here"], data["farthest"]
    name = MODELS[int(state["model"])].name
    return (
        f"{name}, draw {state['draw']:.0f}, example ({state['x0']:.2f}, {state['y0']:.1f}): "
        f"a step of size {state['part']:.2f} moves the output there from {here:.2f} to {there:.2f}. By the kernel, "
        f"x = {x:.2f} moves most, {times:.2f} times as far; the kernel is off by {float(data['off']):.0%}."
    )


def one_example() -> Panel:
    """One gradient step on one example: how every prediction moves, and the kernel row that says so.

    Six models: a look-up table, a straight line, the same line with its intercept written as 10 times a parameter, a
    sum of 13 bumps, and tanh networks with 6 and 512 hidden units (four random draws of each).
    """
    return Panel(
        one_step,
        _step_build,
        _step_update,
        {
            "model": choice("model", tuple(MODELS), 5, names=[model.name for model in MODELS.values()]),
            "x0": slider("example x₀", -3, 3, 1.0, step=0.25),
            "y0": slider("target y₀", -3, 3, 2.0, step=0.1),
            "part": slider("step size η Θ(x₀,x₀)", 0.05, 2, 0.3, step=0.05),
            "draw": choice("random draw", range(1, DRAWS + 1), 1),
        },
        _step_reading,
        title="One step on one example.",
        caption="Press the buttons to change the model, and drag the example x₀: the step that was asked for at the "
        "star moves the other predictions too (left). The green curve, one row of the kernel, says how much (right).",
        presets={model.name[0].upper() + model.name[1:]: {"model": i} for i, model in MODELS.items()},
        size=(9.5, 3.6),
        main=("x0",),
        baked=("x0", "model"),
        baked_caption="Drag the example x₀, and change the model: the step that was asked for at the star moves the "
        "other predictions too (left). The green curve, one row of the kernel, says how much (right).",
        drag=[("x0", "y0")],
        warm=[{"model": 5}, {"model": 6}],
    )


# ---------------------------------------------------------------- the errors at two points

LR = 0.02
STEPS = np.unique([0, *np.round(np.geomspace(1, 400, 36)).astype(int)])
LENGTH = 1.5  # of the errors at the start
FLOOR = 1e-3  # of the logarithmic axis


@jax.jit
def _paths(params, x, away, width):
    """The tangent kernel at the start, (2, 2), and the errors at STEPS, (times, 2), of a network in training."""
    sizes, phi = sizes_of(width), Tanh().phi
    s = signals(params, x, sizes, phi)
    y = s.f - away

    def step(_, params):
        s = signals(params, x, sizes, phi)
        return descended(params, gradient(params, x, s, s.f - y, sizes), LR)

    return kernel(x, s, x, s, sizes), recorded(step, params, STEPS, lambda p: signals(p, x, sizes, phi).f - y)


@functools.lru_cache(maxsize=64)
def _trained(distance: float, angle: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    x = jnp.asarray([[-distance / 2], [distance / 2]])
    away = LENGTH * jnp.asarray([np.cos(angle), np.sin(angle)])
    params = first_units(draw_network(WIDE, 1), width, ARRAYS)
    theta, errors = (np.asarray(array, dtype=float) for array in _paths(params, x, away, float(width)))
    return theta, errors


def two_errors(step, distance, angle, width):
    """The path of the two errors up to `step`, the straight prediction of the kernel, and its eigenvectors."""
    theta, errors = _trained(distance, np.pi * angle / 180, int(width))
    lam, Q = np.linalg.eigh(theta)
    lam, Q = lam[::-1], Q[:, ::-1] * np.sign(Q[0, ::-1] + 1e-12)  # the fast direction first
    by_kernel = ((1 - LR * lam) ** STEPS[:, None] * (errors[0] @ Q)) @ Q.T  # (times, 2)
    at = int(np.argmin(np.abs(STEPS - step)))
    turn = np.linspace(0, 2 * np.pi, 121)
    ellipse = np.stack([np.cos(turn), np.sin(turn)], axis=1) * lam / lam[0] @ Q.T  # Theta u, for all |u| = 1
    shown = lambda path: np.maximum(np.abs(path @ Q), SUNK)
    length = np.hypot(*errors[at])
    away = -np.where(errors[0] @ Q >= 0, 1, -1)  # the words stand where the path does not go
    names = (Q * away * (lam / lam[0] + 0.2)).T
    return {
        "path": errors[: at + 1],
        "path_kernel": by_kernel,
        "here": errors[at],
        "ellipse": ellipse,
        "fast": np.outer([-1, 1], Q[:, 0]),
        "slow": np.outer([-1, 1], Q[:, 1] * lam[1] / lam[0]),
        "parts": shown(errors),
        "parts_kernel": shown(by_kernel),
        "step": np.asarray(max(STEPS[at], 0.7)),
        "eigenvalues": lam,
        "left": np.asarray(length / LENGTH),
        "off": np.hypot(*(errors[at] - by_kernel[at])) / LENGTH,
        "names": names,
    }


def _curve(ax, points, meaning, **look):
    """A curve through `points`, (number, 2)."""
    return plots.line(ax, points[:, 0], points[:, 1], meaning, **look)


def _two_build(fig, data):
    left, right = plots.columns(fig, 1, 1.1, label_room=(1.0, 1.0), gap=0.6)
    plots.frame(left, "error at x₁", "error at x₂", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    left.set_aspect("equal", adjustable="box", anchor="W")
    turn = np.linspace(0, 2 * np.pi, 121)
    for radius in (0.5, 1.0, 1.5):
        plots.line(left, radius * np.cos(turn), radius * np.sin(turn), "guide", linewidth=0.8)
        plots.direct_label(left, 0, -radius - 0.02, f"size {radius}", "guide", ha="center", va="top", fontsize=7)
    plots.frame(right, "step", "size of the error", xlim=(0.7, 400), ylim=(FLOOR, 2), xscale="log", yscale="log")
    steps = np.maximum(STEPS, 0.7)
    marks = {
        "ellipse": _curve(left, data["ellipse"], "linearized", linewidth=1.4),
        "fast": _curve(left, data["fast"], "linearized", linewidth=1.0, linestyle="solid"),
        "slow": _curve(left, data["slow"], "linearized", linewidth=1.0, linestyle="solid"),
        "path_kernel": _curve(left, data["path_kernel"], "linearized", linewidth=2.4),
        "path": _curve(left, data["path"], "finite", linewidth=1.6, marker=".", markersize=5),
        "here": plots.points(left, data["here"][:1], data["here"][1:], "finite", markersize=9),
        "step": plots.vertical(right, data["step"]),
    }
    for i, name in enumerate(("fast", "slow")):
        marks[f"kernel_{name}"] = plots.line(right, steps, data["parts_kernel"][:, i], "linearized")
        marks[f"network_{name}"] = plots.points(
            right, steps, data["parts"][:, i], "finite", markersize=4, label=f"{name}\ndirection", fillstyle=_FILL[i]
        )
        x, y = data["names"][i]
        marks[f"name_{name}"] = plots.direct_label(left, x, y, name, "linearized", ha="center", va="center")
    plots.points(left, [0], [0], "data", markersize=10, marker="*")
    return marks


_FILL = ("full", "none")


def _two_update(artists, data):
    steps = np.maximum(STEPS, 0.7)
    for name in ("ellipse", "fast", "slow", "path", "path_kernel"):
        artists[name].set(*data[name].T)
    artists["here"].set(data["here"][:1], data["here"][1:])
    artists["step"].set(data["step"])
    for i, name in enumerate(("fast", "slow")):
        artists[f"kernel_{name}"].set(steps, data["parts_kernel"][:, i])
        artists[f"network_{name}"].set(steps, data["parts"][:, i])
        artists[f"name_{name}"].set(*data["names"][i])


def _two_reading(data, state):
    fast, slow = data["eigenvalues"]
    return (
        f"Step {state['step']:.0f}, points {state['distance']:.2f} apart, start at {state['angle']:.0f}°, width "
        f"{state['width']:.0f}: {float(data['left']):.0%} of the error is left. Eigenvalues of the kernel {fast:.2f} "
        f"and {slow:.3g}; the network is off its kernel's path by {float(data['off']):.1%} of the start."
    )


def two_outputs() -> Panel:
    """The errors at two points in training: a path in the plane, and the ellipse of the tangent kernel.

    The ellipse holds the velocities Theta u for all errors u of length 1 (scaled so that the longest has length 1); its
    axes are the eigenvectors. Gradient descent with rate 0.02 on 1/2 the sum of the two squared errors.
    """
    return Panel(
        two_errors,
        _two_build,
        _two_update,
        {
            "step": choice("step", [float(s) for s in STEPS], 11.0, play=True),
            "distance": slider("distance of x₁, x₂", 0.1, 4, 0.5, step=0.05),
            "angle": slider("start of the errors", 0, 180, 20, unit="°", step=1),
            "width": powers_of_two("width", 8, WIDE, WIDE, unit="units"),
        },
        _two_reading,
        title="Two errors on their way to zero.",
        caption="Press play: the errors at two points run from the start to the star. Drag the start around: they bend "
        "towards the slow axis of the kernel's ellipse. Then bring the points closer together, or narrow the network.",
        presets={
            "Close together": {"distance": 0.2, "step": 400},
            "Far apart": {"distance": 4.0, "step": 400},
            "Narrow": {"width": 8, "step": 400},
        },
        baked=("step", "angle"),
        baked_caption="Press play: the errors at two points run from the start to the star, and bend towards the slow "
        "axis of the kernel's ellipse. Drag the large dot: each place is a step on the way from some start.",
        point="here",
        size=(9.5, 3.9),
        warm=[{"width": width} for width in ARRAYS],
    )
