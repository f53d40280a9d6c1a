"""Chapter 07: pictures of 4 and 9, the principal components of their kernel, and what training does along them.

Two panels. In `straight_line` networks are asked to learn one principal component, and their path in function space is
compared with the straight line of infinite width. In `noisy_labels` the infinitely wide network learns wrong labels
with the right ones, component by component, and time decides how many of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..data import digits
from ..networks.activations import Relu
from ..networks.kernel import ntk
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, powers_of_two, slider
from .masked_network import descended, gradient, kernel, same_scales, signals

CLASSES, N, N_NEW = (4, 9), 100, 240
DEPTH, W_STD, B_STD = 3, 1.0, 0.1  # as Jacot et al. 2018
WIDEST, NETWORKS = 256, 2
RECORDS, END = 40, 4.0  # of a path; END in time constants of the second component
SIZES = (0.1, 0.5, 1.0)  # of the target: its root mean square
DRAWS = 20  # of wrong labels


@functools.cache
def _pictures():
    """100 pictures of 4 and 9 with labels -1 and 1, and 240 other ones."""
    data = digits(N, N_NEW, classes=CLASSES, key=jax.random.key(0), scale="unit", targets="sign")
    return tuple(np.asarray(part, dtype=float) for part in data)


@functools.cache
def components():
    """(eigenvalues of K/N, functions (N, N) of mean square 1, the same functions on the new pictures)."""
    x, _, x_new, _ = _pictures()
    net = serial(*[Dense(1, W_STD, B_STD), Relu()] * DEPTH, Dense(1, W_STD, B_STD))
    k, k_new = (np.asarray(ntk(net, jnp.asarray(a), jnp.asarray(x)), dtype=float) for a in (x, x_new))
    eigenvalues, modes = np.linalg.eigh(k)
    eigenvalues, functions = eigenvalues[::-1] / N, modes[:, ::-1] * N**0.5
    functions = functions * np.sign(functions[np.abs(functions).argmax(0), np.arange(N)])
    return eigenvalues, functions, k_new @ functions / (N * eigenvalues)


# ---------------------------------------------------------------- the path of a network


@functools.cache
def networks():
    """Weights and biases of two networks, float32, at the largest width."""
    rng = np.random.default_rng(3)
    normal = lambda *shape: rng.standard_normal((NETWORKS, *shape), dtype=np.float32)
    widths = [64] + [WIDEST] * DEPTH + [1]
    (W_in, *W, W_out), (b_in, *b, b_out) = zip(*[(normal(a, b), normal(b)) for a, b in zip(widths, widths[1:])])
    ends = {"W_in": W_in, "b_in": b_in, "W_out": W_out[..., 0], "b_out": b_out[..., 0]}
    return {**ends, "W": np.stack(W, 1), "b": np.stack(b, 1)}


def sizes_of(width):
    """Three hidden layers, as Jacot et al. 2018."""
    return same_scales(width, DEPTH, W_STD, B_STD)


def rate(params, x, s, along, sizes):
    """How fast the function `along` is learnt: |d mean(along * f) / d params|^2 = mean(along * (K along))/n."""
    return sum((leaf**2).sum() for leaf in gradient(params, x, s, along / len(along), sizes).values())


@jax.jit
def _paths(params, x, first, second, sizes, interval, width):
    """Train each network on its own start plus size * second: errors (sizes, networks, records, n), and the rates.

    Gradient descent on the mean of 1/2 (f - y)^2. Steps are at most 1 over the larger rate along the two functions:
    the limit of stability is 2. Also the kernels at the start.
    """

    shape = sizes_of(width)
    at = lambda params: signals(params, x, shape, Relu().phi)

    def one(task):
        params, size = task
        goal = at(params).f + size * second

        def record(params, _):
            s = at(params)
            along = rate(params, x, s, second, shape)
            n_steps = jnp.ceil(interval * jnp.maximum(along, rate(params, x, s, first, shape)))

            def step(_, params):
                s = at(params)
                slope = gradient(params, x, s, (s.f - goal) / len(x), shape)
                return descended(params, slope, interval / n_steps)

            return lax.fori_loop(0, n_steps.astype(int), step, params), (s.f - goal, along)

        return lax.scan(record, params, length=RECORDS + 1)[1]

    copies = lambda leaf: jnp.concatenate([leaf] * len(SIZES))
    errors, rates = lax.map(one, (jax.tree.map(copies, params), jnp.repeat(sizes, NETWORKS)))

    def own_kernel(params):
        s = at(params)
        return kernel(x, s, x, s, shape)

    kernels = lax.map(own_kernel, params)
    return errors.reshape(len(SIZES), NETWORKS, RECORDS + 1, -1), rates.reshape(len(SIZES), NETWORKS, -1), kernels


def _split(errors, function):
    """(what is left along the function, the root mean square of the rest) of errors (..., N)."""
    left = -errors @ function / N
    rest = errors + left[..., None] * function
    return left, np.sqrt((rest**2).mean(-1))


@functools.cache
def paths(width):
    """Relative to the size: left and off (sizes, networks, records), those of the kernel at the start, and growth."""
    eigenvalues, functions, _ = components()
    x = _pictures()[0].astype(np.float32)
    first, second = functions[:, 0].astype(np.float32), functions[:, 1].astype(np.float32)
    interval = np.float32(END / RECORDS / eigenvalues[1])
    runs = _paths(
        jax.tree.map(jnp.asarray, networks()),
        x,
        first,
        second,
        np.asarray(SIZES, np.float32),
        interval,
        np.float32(width),
    )
    errors, rates, kernels = (np.asarray(array, dtype=float) for array in runs)
    left, off = _split(errors, functions[:, 1])
    scale = np.asarray(SIZES)[:, None, None]
    start = []
    for k in kernels:
        values, modes = np.linalg.eigh(k / N)
        decay = np.exp(-np.outer(np.arange(RECORDS + 1) * interval, values.clip(0)))
        start.append(-(decay * (modes.T @ functions[:, 1])) @ modes.T)
    return left / scale, off / scale, _split(np.array(start), functions[:, 1]), rates / rates[..., :1]


def _straight(t, width, size):
    left, off, (left_start, off_start), growth = paths(int(width))
    now, i = round(t / END * RECORDS), SIZES.index(size)
    time = np.linspace(0, END, RECORDS + 1)
    return {
        "time": time,
        "left": left[i],
        "off": off[i],
        "left_start": left_start,
        "off_start": off_start,
        "theory": np.exp(-time),
        "now": np.asarray(now),
        "t": np.asarray(t),
        "worst": off[i].max(1).mean(),
        "growth": growth[i, :, now].mean(),
    }


def _straight_build(fig, data):
    left, right = plots.columns(fig, 1, 1, label_room=(1.25, 1.15), gap=0.55)
    plots.frame(left, "learnt along component 2", "off the line", xlim=(0, 1.08), ylim=(-0.02, 0.42))
    left.set_xticks([0, 0.5, 1], ["0", "half", "all"])
    left.set_yticks([0, 0.1, 0.2, 0.3, 0.4], ["0", "10 %", "20 %", "30 %", "40 %"])
    plots.frame(right, "time in time constants, λ₂t", "left along component 2", xlim=(0, END), ylim=(-0.05, 1.03))
    right.set_yticks([0, 0.5, 1], ["0", "half", "all"])
    plots.line(left, [0, 1], [0, 0], "ntk", label="infinite width")
    plots.line(right, data["time"], data["theory"], "ntk", label="infinite width")
    marks = {
        "start": [plots.line(left, [], [], "linearized", linewidth=1.5) for _ in range(NETWORKS)],
        "paths": [plots.line(left, [], [], "finite", linewidth=1.4) for _ in range(NETWORKS)],
        "dots": plots.points(left, [], [], "finite"),
        "here": plots.points(left, [], [], "ntk", markersize=7),
        "left": plots.lines(right, data["time"], data["left"], "finite", linewidth=1.4),
        "now": plots.vertical(right, data["t"]),
        "label": plots.direct_label(left, 0.02, 0.395, "solid: 2 networks", "finite"),
        "label start": plots.direct_label(left, 0.02, 0.36, "dashed: kernel frozen at the start", "linearized"),
    }
    _straight_update(marks, data)
    return marks


def _straight_update(marks, data):
    now = int(data["now"])
    for i in range(NETWORKS):
        marks["start"][i].set(1 - data["left_start"][i], data["off_start"][i])
        marks["paths"][i].set(1 - data["left"][i], data["off"][i])
    marks["dots"].set(1 - data["left"][:, now], data["off"][:, now])
    marks["here"].set([1 - data["theory"][now]], [0.0])
    marks["left"].set(data["time"], data["left"])
    marks["now"].set(data["t"])


def _straight_reading(data, state):
    now = int(data["now"])
    return (
        f"Width {state['width']:.0f}, target of size {state['size']:g}, λ₂t = {state['t']:.3g}: left along component 2 "
        f"{data['left'][:, now].mean():.1%} (theory {data['theory'][now]:.1%}); off the line "
        f"{data['off'][:, now].mean():.1%}, at worst {float(data['worst']):.1%} of the way; the kernel along "
        f"component 2 is {float(data['growth']):.2f} times that of the start."
    )


def straight_line() -> Panel:
    """The way of two networks towards their start plus one principal component, and the straight line of theory.

    All networks (4 widths, 3 sizes of the target, 2 draws) are trained once, when the panel is made. Jacot et al. 2018,
    Fig. 3.
    """
    return Panel(
        _straight,
        _straight_build,
        _straight_update,
        {
            "t": slider("time λ₂t", 0.0, END, 1.0, unit="time constants", step=END / RECORDS, play=True),
            "width": powers_of_two("width", 32, WIDEST, 64, unit="units"),
            "size": choice("size of the target", SIZES, 0.5, log=True),
        },
        _straight_reading,
        title="The way to a principal component.",
        caption="Press play and watch the networks (blue) leave the straight line of infinite width (vermillion), and "
        "run ahead of it. Then drag width to the right.",
        presets={"Narrow": {"width": 32}, "Wide": {"width": WIDEST}, "Far target": {"size": 1.0}},
        size=(9.2, 3.5),
    )


# ---------------------------------------------------------------- wrong labels

TIMES = np.geomspace(1, 1e5, 41)


@functools.cache
def _chance():
    return np.random.default_rng(0).uniform(size=(N, DRAWS))


def _noisy(t, share):
    eigenvalues, functions, functions_new = components()
    _, y, _, y_new = _pictures()
    labels = np.where(_chance() < share, -y, y)  # (N, draws)
    coefficients = functions.T @ labels / N
    learnt = 1 - np.exp(-np.outer([*TIMES, t], eigenvalues))  # (times + 1, N)
    parts = learnt[:, :, None] * coefficients  # (times + 1, N, draws)
    answers = np.tensordot(functions_new, parts, axes=(1, 1))  # (new, times + 1, draws)
    wrong = (np.sign(answers) != y_new[:, :, None]).mean((0, 2))
    at_end = (np.sign(functions_new @ coefficients) != y_new).mean()
    return {
        "component": np.arange(1.0, N + 1),
        "squares": (coefficients**2).mean(1),
        "learnt": learnt[-1] ** 2 * (coefficients**2).mean(1),
        "noise": np.asarray(4 * share * (1 - share) / N),
        "times": TIMES,
        "wrong": wrong[:-1],
        "t": np.asarray(t),
        "here": wrong[-1],
        "best": wrong.min(),
        "end": at_end,
        "opened": np.sum(learnt[-1] > 0.5),
    }


def _noisy_build(fig, data):
    left, right = plots.columns(fig, 1.1, 1, label_room=(0.85, 0.35), gap=0.65)
    plots.frame(
        left, "principal component", "share of the labels", xlim=(0.85, 130), ylim=(1e-6, 2), xscale="log", yscale="log"
    )
    left.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    left.set_yticks([1e-6, 1e-4, 1e-2, 1])
    left.minorticks_off()
    plots.frame(right, "time t", "wrong answers", xlim=(1, 1e5), ylim=(0, 0.5), xscale="log")
    right.set_yticks([0, 0.1, 0.2, 0.3, 0.4, 0.5], ["0", "10 %", "20 %", "30 %", "40 %", "50 %"])
    marks = {
        "noise": plots.line(left, [], [], "guide", label="noise"),
        "squares": plots.points(left, [], [], "data", markersize=4, fillstyle="none"),
        "learnt": plots.points(left, [], [], "ntk", markersize=3.5),
        "wrong": plots.line(right, [], [], "ntk"),
        "here": plots.points(right, [], [], "ntk", markersize=8),
        "name": plots.direct_label(left, 5.0, 0.8, "open: in the labels", "data"),
        "name learnt": plots.direct_label(left, 5.0, 0.3, "full: learnt at time t", "ntk"),
    }
    _noisy_update(marks, data)
    return marks


def _noisy_update(marks, data):
    i = data["component"]
    floor = max(float(data["noise"]), 1e-9)
    marks["noise"].set([0.85, 120], [floor, floor])
    marks["squares"].set(i, data["squares"])
    marks["learnt"].set(i, data["learnt"])
    marks["wrong"].set(data["times"], data["wrong"])
    marks["here"].set([data["t"]], [data["here"]])


def _noisy_reading(data, state):
    return (
        f"t = {state['t']:.3g}, {state['share']:.0%} wrong labels: {float(data['here']):.1%} wrong answers on 240 new "
        f"pictures (at the best time {float(data['best']):.1%}, at the end {float(data['end']):.1%}); "
        f"{int(data['opened'])} of 100 components are more than half learnt."
    )


def noisy_labels() -> Panel:
    """100 labels of which a share is wrong, in principal components; what time lets through; errors on new pictures.

    Closed form, infinite width, start at zero; both pictures show the mean of 20 draws of wrong labels.
    """
    return Panel(
        _noisy,
        _noisy_build,
        _noisy_update,
        {
            "t": slider("time t", 1.0, 1e5, 10.0, log=True, play=True),
            "share": slider("wrong labels", 0.0, 0.45, 0.2, step=0.01),
        },
        _noisy_reading,
        title="Wrong labels, component by component.",
        caption="Press play: components are learnt from left to right (full dots rise to the open ones). Watch what "
        "the wrong answers do when the dots on the noise line begin to fill.",
        presets={"Too early": {"t": 10.0}, "Too late": {"t": 1e5}, "Clean labels": {"share": 0.0}},
        size=(9.2, 3.5),
    )
