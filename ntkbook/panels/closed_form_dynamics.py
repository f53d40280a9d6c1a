"""Chapter 05: what is left of every eigenmode after k steps, and the units of time.

24 points on the circle and the infinite-width kernel of a ReLU network, computed once; everything else is done on its
eigenvalues, in numpy. Steps that diverge are held at a large number, off the picture.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import plots
from ..networks.activations import Relu
from ..networks.kernel import ntk
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, slider, toggle

SCALES: dict[str, Any] = {"W_std": 1.5, "b_std": 0.5}  # one hidden layer
N = 24
_RNG = np.random.default_rng(5)
ANGLES = -np.pi + 2 * np.pi * (np.arange(N) + _RNG.uniform(0.1, 0.9, N)) / N  # one in each of 24 equal arcs
NOISE = _RNG.standard_normal(N)
GRID = np.linspace(-np.pi, np.pi, 121)
HELD = 1e6  # where steps that diverge are held


def target(angle):
    """A slow wave and a faster one: what there is to learn."""
    return np.cos(angle) + 0.7 * np.sin(3 * angle)


class Modes(NamedTuple):
    """Kernel of the training points, and from the grid to them; eigenvalues, largest first, and eigenvectors."""

    k: np.ndarray
    k_grid: np.ndarray
    lam: np.ndarray
    Q: np.ndarray


@functools.cache
def _kernels() -> tuple[np.ndarray, np.ndarray]:
    on_circle = lambda angle: jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    net = serial(Dense(1, **SCALES), Relu(), Dense(1, **SCALES))
    x, grid = on_circle(ANGLES), on_circle(GRID)
    return np.asarray(ntk(net, x), dtype=float), np.asarray(ntk(net, grid, x), dtype=float)


@functools.cache
def modes(n: int = N) -> Modes:
    """The kernel of n of the 24 points, every (24/n)-th, in modes."""
    chosen = slice(None, None, N // n)
    k, k_grid = _kernels()[0][chosen, chosen], _kernels()[1][:, chosen]
    lam, Q = np.linalg.eigh(k)
    return Modes(k, k_grid, lam[::-1], Q[:, ::-1])


# ---------------------------------------------------------------- what is left of every mode

STEPS = np.unique([0, *np.round(np.geomspace(1, 4000, 48)).astype(int)])


@functools.lru_cache(maxsize=256)
def left_in_modes(rate: float, momentum: float) -> np.ndarray:
    """The part of every mode that is left at each of STEPS, (steps, modes), by the recursion of the heavy ball.

    rate is eta lambda_max; r <- (1 + beta - eta lambda) r - beta r_before.
    """
    lam = modes().lam
    pull = 1 + momentum - rate * lam / lam[0]
    left, before, kept = np.ones(N), np.ones(N), []
    recorded = set(STEPS.tolist())
    for step in range(int(STEPS[-1]) + 1):
        if step in recorded:
            kept.append(np.clip(left, -HELD, HELD))
        left, before = pull * left - momentum * before, left
        if step % 16 == 0:
            left, before = np.clip(left, -HELD, HELD), np.clip(before, -HELD, HELD)
    return np.array(kept)


def filtered(step, rate, momentum, noise):
    """The prediction after `step` steps from zero, what is left of every mode, and the errors."""
    _, k_grid, lam, Q = modes()
    at = int(np.argmin(np.abs(STEPS - step)))
    left = left_in_modes(rate, momentum)[at]
    y = target(ANGLES) + noise * NOISE
    c = Q.T @ y
    mean = k_grid @ Q @ ((1 - left) / lam * c)
    fine = np.geomspace(lam[-1] / 1.5, lam[0] * 1.2, 121)
    rms = lambda error: np.sqrt(np.mean(error**2))
    return {
        "data": y,
        "mean": np.clip(mean, -HELD, HELD),
        "left": left,
        "fine": fine,
        "flow": np.exp(-rate * STEPS[at] * fine / lam[0]),
        "error_train": rms(left * c),
        "error_test": rms(mean - target(GRID)),
        "scaled": rate * lam / lam[0],
        "height": np.full(N, momentum),
        "slowest": left[-1],
        "fastest": left[0],
    }


EDGE = 2.05  # where modes are shown whose part is beyond the axis


def _filter_build(fig, data):
    left, middle, plane = plots.columns(fig, 1, 1, 1, label_room=(0.55, 0.75, 0.1), gap=0.6)
    for ax in (left, middle):  # the plane comes first: its point is dragged
        fig.delaxes(ax)
        fig.add_axes(ax)
    plots.frame(left, "angle on the circle (rad)", "output", xlim=(-np.pi, np.pi), ylim=(-3.2, 3.2))
    left.set_xticks(np.pi * np.arange(-1, 2), ["−π", "0", "π"])
    limits = float(modes().lam[-1] / 1.5), float(modes().lam[0] * 1.2)
    plots.frame(middle, "eigenvalue λ", "part of the mode left", xlim=limits, ylim=(-2.2, 2.2), xscale="log")
    plots.horizontal(middle, 0.0)
    plots.line(left, GRID, target(GRID), "guide", label="target")
    plots.frame(plane, "rate × eigenvalue, ηλ", "momentum β", xlim=(3e-4, 8), ylim=(-0.04, 1), xscale="log")
    beta = np.linspace(0, 1, 200)
    for border in ((1 - np.sqrt(beta)) ** 2, (1 + np.sqrt(beta)) ** 2):
        plots.line(plane, np.maximum(border, 1e-5), beta, "guide")
    plots.line(plane, 2 * (1 + beta), beta, "guide", linestyle="solid")
    for x, y, word in ((5e-4, 0.45, "creeps"), (0.3, 0.62, "swings"), (4.4, 0.25, "diverges")):
        plots.direct_label(plane, x, y, word, "guide", rotation=90 if word == "diverges" else 0)
    edge = {"markersize": 7, "color": plots.MEANINGS["ntk"].colour}
    artists = {
        "data": plots.points(left, ANGLES, data["data"], "data", markersize=5),
        "mean": plots.line(left, GRID, data["mean"], "ntk", label="learnt"),
        "out": plots.direct_label(left, -3, 2.85, "", "ntk"),
        "flow": plots.line(
            middle, data["fine"], data["flow"], "guide", label="flow\n$e^{-\\eta\\lambda k}$", linewidth=1.6
        ),
        "left": plots.points(middle, modes().lam, data["left"], "ntk", markersize=6, label="steps"),
        "above": plots.points(middle, [], [], "ntk", **edge | {"marker": "^"}),
        "below": plots.points(middle, [], [], "ntk", **edge | {"marker": "v"}),
        "ticks": plots.points(plane, data["scaled"], data["height"], "ntk", marker="|", markersize=11),
        "handle": plots.points(plane, data["scaled"][:1], data["height"][:1], "ntk", marker="o", markersize=9),
    }
    _filter_update(artists, data)
    return artists


def _filter_update(artists, data):
    lam, left, worst = modes().lam, data["left"], float(np.abs(data["mean"]).max())
    artists["data"].set(ANGLES, data["data"])
    artists["mean"].set(GRID, data["mean"])
    artists["out"].set(-3, 2.85, f"beyond the picture: ±{worst:.2g}" if worst > 30 else "")
    artists["flow"].set(data["fine"], data["flow"])
    artists["left"].set(lam, np.where(abs(left) < EDGE, left, np.nan))
    for name, is_out, place in (("above", left >= EDGE, EDGE), ("below", left <= -EDGE, -EDGE)):
        artists[name].set(lam[is_out], np.full(int(is_out.sum()), place))
    artists["ticks"].set(data["scaled"], data["height"])
    artists["handle"].set(data["scaled"][:1], data["height"][:1])


def _filter_reading(data, state):
    error = lambda name: f"{float(data[name]):.3f}" if float(data[name]) < 100 else "out of range"
    share = lambda name: f"{float(data[name]):z.1%}" if abs(float(data[name])) < 10 else "a growing multiple"
    eta = state["rate"] / float(modes().lam[0])
    return (
        f"Step {state['step']:.0f}, η λ_max = {state['rate']:.3g} (η = {eta:.3g}), momentum {state['momentum']:.2f}, "
        f"noise {state['noise']:.2f}: training error {error('error_train')}, test error {error('error_test')}; "
        f"left of the fastest mode {share('fastest')}, of the slowest {share('slowest')}."
    )


def mode_filter() -> Panel:
    """24 noisy points on the circle, learnt with an infinite-width kernel: the function, and what is left of each mode.

    Errors are root mean squares: on the 24 points with their noise, and on the circle against the target without noise.
    """
    return Panel(
        filtered,
        _filter_build,
        _filter_update,
        {
            "step": choice("step k", [float(s) for s in STEPS], 24.0, play=True),
            "rate": slider("rate η λ_max", 0.05, 4.0, 1.0, step=0.01, log=True),
            "momentum": slider("momentum β", 0, 0.98, 0, step=0.01),
            "noise": slider("noise", 0, 1, 0.5, step=0.05),
        },
        _filter_reading,
        title="A filter that opens from the right.",
        caption="Press play: modes with large eigenvalues are learnt first (middle), the function goes from broad to "
        "fine (left). Then drag the dot on the right, by its rate past 2, and up, to give it momentum.",
        presets={
            "Early": {"step": 24, "rate": 1.0, "momentum": 0},
            "Late": {"step": 4000, "rate": 1.0, "momentum": 0},
            "Just too fast": {"step": 14, "rate": 2.05, "momentum": 0},
            "Heavy ball": {"step": 17, "rate": 3.7, "momentum": 0.87},
        },
        size=(9.5, 3.6),
        drag=[("rate", "momentum")],
        baked_caption="Press play: modes with large eigenvalues are learnt first (middle), the function goes from "
        "broad to fine (left). Then raise the rate past 2.",
        warm=[],
    )


# ---------------------------------------------------------------- units of time

RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DOTS = np.unique(np.round(np.geomspace(1, 10_000, 41)).astype(int))
TIMES = np.geomspace(1e-3, 1e3, 121)


def time_units(lr, mean, n, unit):
    """Errors of a run of gradient descent at DOTS, and of the flow with lr = 1 on the summed loss at TIMES."""
    n = int(n)
    lam, Q = modes(n)[2:]
    c = Q.T @ target(ANGLES[:: N // n])
    rms = lambda left: np.sqrt(np.mean((left * c) ** 2, axis=1))
    pull = 1 - (lr / n if mean else lr) * lam
    size = np.minimum(DOTS[:, None] * np.log(np.maximum(np.abs(pull), 1e-300)), np.log(HELD))
    steps = np.clip(rms(np.exp(size)), FLOOR / 1e3, HELD)
    right = lr / n if mean else lr
    return {
        "steps": steps,
        "time": unit * DOTS,
        "flow": np.maximum(rms(np.exp(-TIMES[:, None] * lam)), FLOOR / 1e3),
        "ratio": np.asarray(unit / right),
        "top": np.asarray(right * lam[0]),
    }


FLOOR = 1e-4  # the end of the axis; curves go on below it, out of sight


def _units_build(fig, data):
    left, right = plots.columns(fig, 1, 1.2, label_room=(0.0, 1.0), gap=0.75)
    look: dict[str, Any] = {"ylim": (FLOOR, 3), "xscale": "log", "yscale": "log"}
    plots.frame(left, "number of steps k", "training error", xlim=(1, 1e4), **look)
    plots.frame(right, "time t = your time per step × k", "", xlim=(1e-3, 1e3), **look)
    return {
        "steps": plots.points(left, DOTS, data["steps"], "ntk", markersize=4),
        "flow": plots.line(right, TIMES, data["flow"], "guide", label="flow, η = 1", linewidth=1.6),
        "time": plots.points(right, data["time"], data["steps"], "ntk", markersize=4, label="your steps"),
    }


def _units_update(artists, data):
    artists["steps"].set(DOTS, data["steps"])
    artists["flow"].set(TIMES, data["flow"])
    artists["time"].set(data["time"], data["steps"])


def _units_reading(data, state):
    loss = "mean" if state["mean"] else "sum"
    top, ratio = float(data["top"]), float(data["ratio"])
    place = "on" if abs(np.log(ratio)) < 0.02 else "right of" if ratio > 1 else "left of"
    seen = f"the dots lie {place} the curve" if top < 2 else "the errors grow, and no time puts the dots on the curve"
    return (
        f"lr = {state['lr']:.3g}, {loss} over n = {state['n']:.0f} examples: one step moves the fastest mode by "
        f"{top:.3g} ({'stable' if top < 2 else 'diverges'}; the limit is 2). With {state['unit']:.3g} as your time per "
        f"step {seen}."
    )


def units_of_time() -> Panel:
    """A run of gradient descent against its number of steps and against time, with a factor that the reader chooses.

    The curve is gradient flow with rate 1 on 1/2 the sum of squares. The dots are steps with rate lr, on the sum or on
    the mean of n examples.
    """
    return Panel(
        time_units,
        _units_build,
        _units_update,
        {
            "lr": choice("learning rate", RATES, 0.2, log=True),
            "mean": toggle("mean loss", True),
            "n": choice("examples n", (6, 12, 24), 24),
            "unit": slider("your time per step", 1e-4, 1.0, 0.2, step=0.01, log=True),
        },
        _units_reading,
        title="What is the time after k steps?",
        caption="Move your time per step until the dots lie on the curve. Then change the learning rate, the number of "
        "examples, and untick mean loss: each time, find the factor again, and guess the rule.",
        presets={
            "Sum, lr as time": {"lr": 0.02, "mean": 0, "unit": 0.02},
            "Too fast": {"lr": 0.1, "mean": 0, "unit": 0.1},
        },
        main=["unit"],
        baked=("unit", "mean"),
        baked_caption="Move your time per step until the dots lie on the curve. Then untick mean loss: find the factor "
        "again, and guess the rule.",
        size=(9.5, 3.4),
        warm=[],
    )
