"""Chapter 12: units that turn to a teacher's directions, or stay; and a step size at which the loss rises and returns.

The student is alpha h, h a network of one hidden ReLU layer without biases on the circle. Since h(c w) = c^2 h(w), the
same run is that of h from a start of size sqrt(alpha), and in these coordinates it is computed: in numpy, for all
alphas at once, when the panel is built. The linearization has the kernel of the start. The catapult is two numbers.
"""

import functools

import numpy as np

from .. import plots
from ..panel import Panel, choice, slider
from .masked_network import SUNK

ALPHAS = tuple(4.0**i for i in range(-4, 5))
STEPS = (0, *sorted({round(2 ** (i / 2)) for i in range(29)}))
RATE = 0.1  # of the mean loss; divided by alpha where that is above 1, as the kernel grows
TURNS = np.array([0.5, 2.4, 4.3])  # the teacher's directions (rad), and their signs
SIGNS = np.array([1.0, -1.0, 1.0])
PAIRS, SEED = 16, 3  # each unit of the start has a partner of the other sign, so that h is 0 there
WITHIN = np.deg2rad(10)
ANGLES = 2 * np.pi * np.array([0.02, 0.13, 0.24, 0.41, 0.5, 0.62, 0.73, 0.9])  # of the training points
PLACES = np.array([1.83, 4.85])  # two inputs between them, whose outputs are the axes of function space


def on_circle(angles):
    """Points of the plane, (n, 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def teacher(x):
    """Three ReLU units of length 1, (n,) for inputs (n, 2)."""
    return np.maximum(x @ on_circle(TURNS).T, 0) @ SIGNS


def start():
    """Weights (2, units) and output weights (units,) with h = 0: pairs of equal units with opposite signs."""
    rng = np.random.default_rng(SEED)
    W, v = rng.standard_normal((2, PAIRS)), rng.standard_normal(PAIRS)
    return np.concatenate([W, W], 1) / PAIRS**0.25, np.concatenate([v, -v]) / PAIRS**0.25


def tangent_kernel(params, x1, x2):
    """Theta(x1, x2) of h, (n1, n2)."""
    W, v = params
    z1, z2 = x1 @ W, x2 @ W
    return np.maximum(z1, 0) @ np.maximum(z2, 0).T + ((z1 > 0) * v**2) @ (z2 > 0).T * (x1 @ x2.T)


@functools.cache
def runs():
    """(W (alphas, steps, 2, units), v (alphas, steps, units), outputs, linearized outputs (alphas, steps, points)).

    The points are the training points and then the two places.
    """
    x, points, n = on_circle(ANGLES), on_circle(np.concatenate([ANGLES, PLACES])), len(ANGLES)
    alpha = np.array(ALPHAS)[:, None, None]
    rate = RATE / np.maximum(alpha, 1) / n
    W, v = (np.sqrt(alpha) * leaf for leaf in (start()[0], start()[1][:, None]))  # (alphas, 2, units), (.., units, 1)
    k = np.stack([tangent_kernel((w, u[:, 0]), points, x) for w, u in zip(W, v)])
    y, linear = teacher(x)[:, None], np.zeros((len(ALPHAS), len(points), 1))
    kept = []
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            kept.append((W, v[..., 0], (np.maximum(points @ W, 0) @ v)[..., 0], linear[..., 0]))
        z = x @ W
        a = np.maximum(z, 0)
        pull = rate * (a @ v - y)
        back = (z > 0) * (pull * v.swapaxes(1, 2))
        W, v = W - x.T @ back, v - a.swapaxes(1, 2) @ pull
        linear = linear - k @ (rate * (linear[:, :n] - y))
    return tuple(np.stack(part, 1) for part in zip(*kept))


def pointing(W, v):
    """Share of the units' weight |v| |w| within 10 degrees of a direction of the teacher, over the last axis."""
    weight = np.abs(v) * np.linalg.norm(W, axis=-2)
    angle = np.arctan2(W[..., 1, :], W[..., 0, :])
    near = (np.cos(angle[..., None] - TURNS) > np.cos(WITHIN)).any(-1)
    return (weight * near).sum(-1) / weight.sum(-1)


@functools.lru_cache(maxsize=32)
def _turned(alpha):
    """How far the kernel of the training points has turned at each step: 1 - its cosine with the start's."""
    W, v = (part[ALPHAS.index(alpha)] for part in runs()[:2])
    x = on_circle(ANGLES)
    kernels = np.array([tangent_kernel((w, u), x, x) for w, u in zip(W, v)], float).reshape(len(STEPS), -1)
    kernels /= np.linalg.norm(kernels, axis=1, keepdims=True)
    return np.clip(1 - kernels @ kernels[0], 0, 1)


def arrays(alpha, t):
    """What the panel draws: units and their paths in units of the farthest one, and paths in function space."""
    W, v, f, linear = runs()
    i, at = ALPHAS.index(float(alpha)), STEPS.index(int(t))
    until = np.minimum(np.arange(len(STEPS)), at)  # the paths end now
    trail = np.abs(v[i, until])[:, None] * W[i, until]  # (steps, 2, units)
    trail = trail / np.linalg.norm(trail, axis=1).max()
    n = len(ANGLES)
    loss = lambda outputs: ((outputs[i, at, :n] - teacher(on_circle(ANGLES))) ** 2).mean() / 2
    return {
        "trail": trail,
        "sign": np.sign(v[i, at]),
        "network": f[i, until, n:],
        "linearized": linear[i, until, n:],
        "ends": f[:, -1, n:],
        "loss": np.asarray(loss(f)),
        "pointing": pointing(W[i], v[i])[at],
        "turned": _turned(float(alpha))[at],
        "apart": np.linalg.norm(f[i, at, n:] - linear[i, at, n:]),
    }


def _broken(trail):
    """Paths (steps, units) as one curve with gaps."""
    return np.concatenate([trail, np.full((1, trail.shape[1]), np.nan)]).T.ravel()


def _xy(path):
    return path[:, 0], path[:, 1]


def _build(fig, data):
    left, right = plots.columns(fig, 1, 1.15, label_room=(0.2, 0.95), gap=0.75)
    plots.frame(left, title="units |v| w (farthest = 1)", xlim=(-1.57, 1.57), ylim=(-1.25, 1.25))
    left.set_xticks([])
    left.set_yticks([])
    for turn, sign in zip(TURNS, SIGNS):
        x, y = on_circle(turn)
        plots.line(left, [0, 1.05 * x], [0, 1.05 * y], "data", alpha=0.5)
        plots.direct_label(left, 1.15 * x, 1.15 * y, "+" if sign > 0 else "−", "data", ha="center", va="center")
    plots.frame(right, "output at one test input", title="output at another", xlim=(-1.1, 0.1), ylim=(-0.05, 1.05))
    target = teacher(on_circle(PLACES))
    plots.points(right, target[:1], target[1:], "data", markersize=11, fillstyle="none")
    plots.direct_label(right, target[0] + 0.05, target[1] + 0.05, "target", "data")
    mark = lambda sign: data["sign"] == sign
    now = data["trail"][-1]
    return {
        "trails": plots.line(left, _broken(data["trail"][:, 0]), _broken(data["trail"][:, 1]), "finite", alpha=0.6),
        "plus": plots.points(left, now[0][mark(1)], now[1][mark(1)], "finite", markersize=5),
        "minus": plots.points(left, now[0][mark(-1)], now[1][mark(-1)], "finite", markersize=7, fillstyle="none"),
        "ends": plots.points(right, *_xy(data["ends"]), "finite", markersize=3),
        "linearized": plots.line(right, *_xy(data["linearized"]), "linearized", zorder=3.5),
        "network": plots.line(right, *_xy(data["network"]), "finite", linewidth=2.6),
        "now": plots.points(right, *_xy(data["network"][-1:]), "finite", markersize=7),
        "end": plots.points(right, *_xy(data["linearized"][-1:]), "linearized", markersize=7),
        "words": plots.direct_label(right, *_beside(data["network"], 0.06), "network", "finite", ha="right"),
        "words_linearized": plots.direct_label(
            right, *_beside(data["linearized"], -0.1), "linearized", "linearized", ha="right"
        ),
    }


def _update(artists, data):
    artists["trails"].set(_broken(data["trail"][:, 0]), _broken(data["trail"][:, 1]))
    for name, sign in (("plus", 1), ("minus", -1)):
        artists[name].set(*data["trail"][-1][:, data["sign"] == sign])
    for name in ("ends", "network", "linearized"):
        artists[name].set(*data[name].T)
    for name, path, up in (("now", "network", 0.06), ("end", "linearized", -0.1)):
        artists[name].set(*data[path][-1:].T)
        artists["words" if up > 0 else "words_linearized"].set(*_beside(data[path], up))


def _beside(path, up):
    """A place for words at the end of a path in function space."""
    return path[-1, 0] + (0.02 if path[-1, 0] > -0.7 else 0.12), path[-1, 1] + up


def _reading(data, state):
    return (
        f"α = {state['alpha']:.3g}, step {state['t']:.0f}: loss {float(data['loss']):.2g}; "
        f"{100 * float(data['pointing']):.0f} % of the units' weight is within 10° of a teacher's direction; the "
        f"kernel has turned by {100 * float(data['turned']):.2g} %; network and linearization are "
        f"{float(data['apart']):.2g} apart."
    )


def lazy_and_rich() -> Panel:
    """One network of 32 ReLU units on the circle, its output scaled by alpha: its units, and its way to the target.

    Chizat, Oyallon, Bach 2019, Fig. 1 and 2 (two dimensions, ReLU teacher); the ways in function space are ours.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "alpha": choice("output scale α", ALPHAS, 1.0, log=True, names=[f"{alpha:.3g}" for alpha in ALPHAS]),
            "t": choice("step", STEPS, STEPS[-1], play=True),
        },
        _reading,
        title="Lazy or rich: one number.",
        caption="Left: each unit as an arrow's tip, with its path (open marks: negative output weight); grey rays: the "
        "teacher's directions. Right: the outputs at two inputs on their way to the target (grey); small dots: where "
        "other α end. Drag α down: units leave their places and gather on the rays. Drag it up: they stay.",
        presets={"Rich": {"alpha": ALPHAS[0], "t": STEPS[-1]}, "Lazy": {"alpha": ALPHAS[-1], "t": STEPS[-1]}},
        size=(9.5, 3.6),
        warm=[{"alpha": alpha} for alpha in ALPHAS],
    )


# ---------------------------------------------------------------- two numbers

FLIGHT = 48  # steps
LOW, HIGH = 1e-3, 1e5  # of the axis of |f|
DIVERGED = 1e8


def flight(rate, width, steps=FLIGHT):
    """|f| and eta lambda at steps 0 to `steps` of f = u.v / sqrt(n) with target 0, from f = 1 and lambda = 1.

    Once |f| passes 1e8 both stay where they are. Lewkowycz et al. 2020, section 2.
    """
    f, lam, f_all, lam_all = 1.0, 1.0, [1.0], [rate]
    for _ in range(steps):
        if abs(f) < DIVERGED:
            kick = rate * f * f / width
            f, lam = (1 - rate * lam + rate * kick) * f, lam + kick * (rate * lam - 4)
        f_all.append(abs(f))
        lam_all.append(rate * lam)
    return np.array(f_all), np.array(lam_all)


def flight_arrays(rate, width):
    """What the panel draws: |f| and eta lambda over the steps, and where eta lambda ends for all rates."""
    f, lam = flight(rate, width)
    has_diverged = f[-1] >= DIVERGED
    return {
        "f": np.clip(f, SUNK, HIGH),
        "lam": np.clip(lam, -0.2, 6.0),
        "peak": f.max(),
        "at": np.asarray(f.argmax()),
        "end": lam[-1],
        "has_diverged": np.asarray(has_diverged),
    }


def _build_flight(fig, data):
    left, right = plots.columns(fig, 1, 1, label_room=0.2, gap=0.6)
    plots.frame(left, "step", "", xlim=(0, FLIGHT), yscale="log", ylim=(LOW, HIGH), title="size of the error |f|")
    plots.frame(right, "step", "", xlim=(0, FLIGHT), ylim=(-0.2, 6), title="rate times kernel η λ")
    left.set_yticks([0.01, 1, 100, 1e4], ["0.01", "1", "100", "10000"])
    left.minorticks_off()
    for edge in (2, 4):
        plots.horizontal(right, edge)
    steps = np.arange(FLIGHT + 1)
    return {
        "f": plots.line(left, steps, data["f"], "finite", marker="o", markersize=3),
        "lam": plots.line(right, steps, data["lam"], "finite", marker="o", markersize=3),
    }


def _update_flight(artists, data):
    steps = np.arange(FLIGHT + 1)
    for name in ("f", "lam"):
        artists[name].set(steps, data[name])


def _read_flight(data, state):
    head = f"η λ₀ = {state['rate']:.2f}, width {state['width']:.0f}: "
    if data["has_diverged"]:
        return head + "it diverges."
    peak = f"the error rises to {float(data['peak']):.3g} at step {int(data['at'])}" if data["at"] else "no rise"
    return head + f"{peak}; after {FLIGHT} steps η λ = {float(data['end']):.3f}."


def catapult() -> Panel:
    """Gradient descent on a product of two vectors, as a recursion of two numbers, for every rate and width.

    Lewkowycz et al. 2020, section 2.
    """
    return Panel(
        flight_arrays,
        _build_flight,
        _update_flight,
        {
            "rate": slider("rate η λ₀", 0.1, 4.3, 1.5, step=0.05),
            "width": choice("width n", [4.0**i for i in range(2, 11)], 1024, log=True),
        },
        _read_flight,
        title="The catapult.",
        caption="Drag the rate past 2: the error rises first, and comes back once the kernel has become smaller. Past "
        "4 nothing brings it back. Then drag the width: a wider network flies higher.",
        presets={"Lazy": {"rate": 1.5}, "Catapult": {"rate": 3.0}, "Too far": {"rate": 4.1}},
        warm=[],
    )
