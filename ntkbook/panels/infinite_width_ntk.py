"""Chapter 03: networks of finite width against the infinite-width NTK, on the circle and on real digits.

The finite networks are ReLU networks in float32 whose width and depth are numbers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..data import circle, digits
from ..networks.activations import Relu
from ..networks.kernel import ntk
from ..networks.layers import Dense, Repeat, serial
from ..panel import Panel, choice, powers_of_two, slider, toggle, whole
from .masked_network import (
    Signals,
    descended,
    draw,
    first_units,
    gradient,
    kernel,
    kernel_diagonal,
    same_scales,
    signals,
)

WIDEST, DEEPEST, NETWORKS = 512, 5, 4
ARRAYS = (64, WIDEST)  # units that are computed, of which `width` count
STEPS = 20
N_ANGLES = 65  # of the networks' curves; x0 = (1, 0) is the one in the middle
MIDDLE = N_ANGLES // 2


# ---------------------------------------------------------------- the circle


@functools.cache
def _circle_networks():
    return draw(2, 2, WIDEST, DEEPEST, NETWORKS)


def step(params, x, y, sizes):
    """One step of gradient descent on the mean of 1/2 (f - y)^2, as long as 1/trace of the kernel of that mean.

    That is at most half of the largest stable step, 2/lambda_max, whatever the kernel has become.
    """
    s = signals(params, x, sizes, Relu().phi)
    trace = jnp.mean(kernel_diagonal(x, s, sizes))
    return descended(params, gradient(params, x, s, (s.f - y) / len(x), sizes), 1 / trace)


@jax.jit
def _trained(params, x, y, sizes):
    return lax.map(lambda one: lax.fori_loop(0, STEPS, lambda _, p: step(p, x, y, sizes), one), params)


@jax.jit
def _rows(params, x, sizes):
    def one(params):
        s = signals(params, x, sizes, Relu().phi)
        at = slice(MIDDLE, MIDDLE + 1)
        return kernel(x[at], Signals(s.f, s.a[:, at], s.d[:, at]), x, s, sizes)[0]

    return lax.map(one, params)


@functools.lru_cache(maxsize=256)
def _finite(width, depth, W_std, b_std, trained):
    """Theta(x0, x) of each network, (networks, angles)."""
    params, sizes = first_units(_circle_networks(), width, ARRAYS), same_scales(width, depth, W_std, b_std)
    if trained:
        x_train = np.random.default_rng(7).standard_normal((8, 2), dtype=np.float32)
        params = _trained(params, x_train, x_train[:, 0] * x_train[:, 1], sizes)
    x = circle(N_ANGLES, endpoint=True).x.astype(jnp.float32)
    return np.asarray(_rows(params, x, sizes), dtype=float)


@jax.jit
def _theory_row(x, depth, W_std, b_std):
    block = serial(Relu(), Dense(1, W_std, b_std))
    net = serial(Dense(1, W_std, b_std), Repeat(block, depth))
    return ntk(net, jnp.asarray([[1.0, 0.0]], x.dtype), x)[0]


def circle_arrays(width, depth, W_std, b_std, trained):
    """What the panel draws at one setting: the kernel of theory and networks, and how far they are apart."""
    coarse, _ = circle(N_ANGLES, endpoint=True)
    fine, x = circle(129, endpoint=True)
    networks = _finite(int(width), int(depth), W_std, b_std, bool(trained))
    theory = np.asarray(_theory_row(x, depth, W_std, b_std), dtype=float)
    there = theory[::2]
    gaps = np.sqrt(((networks - there) ** 2).mean(1) / (there**2).mean())
    return {
        "angle": np.asarray(fine),
        "theory": theory,
        "angle_networks": np.asarray(coarse),
        "networks": networks,
        "before": _finite(int(width), int(depth), W_std, b_std, False),
        "gap": gaps.mean(),
        "peak": networks[:, MIDDLE].mean() / theory[64],
    }


def _circle_build(fig, data):
    (ax,) = plots.columns(fig, label_room=0.2)
    plots.frame(ax, "angle γ between x₀ and x (rad)", "kernel  Θ(x₀, x)", xlim=(-np.pi, np.pi), ylim=(0, 1))
    ax.set_xticks(np.pi * np.arange(-2, 3) / 2, ["−π", "−π/2", "0", "π/2", "π"])
    _circle_limits(ax, data)
    marks = {
        "before": plots.lines(ax, data["angle_networks"], data["before"], "guide", linewidth=0.8),
        "networks": plots.lines(ax, data["angle_networks"], data["networks"], "finite", alpha=1.0, linewidth=1.1),
        "theory": plots.line(ax, data["angle"], data["theory"], "ntk"),
    }
    # at their ends all curves meet: a key in the corner that none of them reaches
    keys = {"theory": "infinite width", "networks": "4 networks", "before": "4 networks, before training"}
    plots.key(ax, {words: marks[name] for name, words in keys.items()})
    return marks


def _circle_limits(ax, data):
    plots.limits(ax, y=[data["networks"], data["before"], data["theory"], 0.0])


def _circle_update(artists, data):
    artists["before"].set(data["angle_networks"], data["before"])
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

    "Trained" means 20 steps of gradient descent on 8 normal points with target x1 x2, each step half of the largest
    stable one or less. Training is computed when it is asked for, and kept. Jacot et al. 2018, Fig. 1.
    """
    return Panel(
        circle_arrays,
        _circle_build,
        _circle_update,
        {
            "width": powers_of_two("width", 16, WIDEST, 64, unit="units"),
            "depth": whole("depth", 1, DEEPEST, 3, unit="hidden layers"),
            "W_std": slider("weight scale σ_w", 0.5, 2.0, 1.0),
            "b_std": slider("bias scale σ_b", 0.0, 1.0, 0.1),
            "trained": toggle("trained"),
        },
        _circle_reading,
        title="The tangent kernel around the circle.",
        caption="Drag width to the right: four random networks (thin, blue) gather on one curve (thick, vermillion) "
        "that was computed without any network. Then tick trained (dotted: before), and drag width back.",
        presets={
            "Jacot, narrow": {"width": 64, "depth": 3, "W_std": 1.0, "b_std": 0.1, "trained": 0},
            "Jacot, narrow, trained": {"width": 64, "depth": 3, "W_std": 1.0, "b_std": 0.1, "trained": 1},
            "Wide": {"width": WIDEST},
        },
        baked=("width", "trained"),
        warm=[{"trained": 1, "width": width} for width in ARRAYS],
    )


# ---------------------------------------------------------------- real digits

DIGITS, EACH, DRAWS = (0, 1, 3, 8), 10, 6
DIGIT_WIDTHS = tuple(2**i for i in range(4, 11))
DIGIT_NET: dict[str, Any] = {"W_std": 2**0.5, "b_std": 0.1}  # and two hidden layers


@functools.cache
def _digit_kernels():
    """The infinite-width kernel of 40 digits, (40, 40), and that of every network, (widths, draws, 40, 40)."""
    x = _sorted_digits()
    hidden = serial(Dense(1, **DIGIT_NET), Relu())
    theory = np.asarray(ntk(serial(hidden, hidden, Dense(1, **DIGIT_NET)), x), dtype=float)
    params = draw(0, x.shape[1], DIGIT_WIDTHS[-1], 2, DRAWS)
    finite = [np.asarray(_grams(params, x.astype(jnp.float32), width), dtype=float) for width in DIGIT_WIDTHS]
    return theory, np.stack(finite)


def _sorted_digits():
    """Ten pictures of each of four digits, in blocks."""
    data = digits(400, 100, classes=DIGITS, targets="one_hot")
    label = np.argmax(np.asarray(data.y_train), axis=1)
    return data.x_train[np.concatenate([np.flatnonzero(label == i)[:EACH] for i in range(len(DIGITS))])]


@jax.jit
def _grams(params, x, width):
    sizes = same_scales(width, 2, **DIGIT_NET)

    def one(params):
        s = signals(params, x, sizes, Relu().phi)
        return kernel(x, s, x, s, sizes)

    return lax.map(one, params)


def _digits(width, draw):
    theory, finite = _digit_kernels()
    errors = np.sqrt(((finite - theory) ** 2).mean((2, 3)) / (theory**2).mean())  # (widths, draws)
    at = DIGIT_WIDTHS.index(int(width)), int(draw) - 1
    return {
        "theory": theory,
        "network": finite[at],
        "difference": finite[at] - theory,
        "widths": np.asarray(DIGIT_WIDTHS, dtype=float),
        "errors": errors,
        "width": np.asarray(width),
        "error": errors[at],
    }


def _digits_build(fig, data):
    *matrices, right = plots.columns(fig, 1, 1, 1, 1.3, label_room=(0, 0, 0.6, 0.65), gap=0.25)
    marks = {name: _matrix(ax, name, data[name], float(data["theory"].max())) for ax, name in zip(matrices, MATRICES)}
    matrices[0].set_yticks(_BLOCKS, list(map(str, DIGITS)))
    matrices[0].set_ylabel("digit")
    plots.frame(right, "width", title="relative error", xscale="log", yscale="log", xlim=(11, 1500), ylim=(0.02, 2))
    right.set_xticks([16, 64, 256, 1024], ["16", "64", "256", "1024"])
    right.set_yticks([0.03, 0.1, 0.3, 1], ["3 %", "10 %", "30 %", "100 %"])
    right.minorticks_off()
    widths, errors = data["widths"], data["errors"]
    plots.points(right, np.repeat(widths, DRAWS), errors.ravel(), "finite", markersize=3)
    level = np.exp(np.log(errors).mean() + 0.5 * np.log(widths).mean())
    plots.line(right, widths, level * widths**-0.5, "guide", label="1/√width")
    marks["here"] = plots.points(
        right, [data["width"]], [data["error"]], "finite", markersize=11, markerfacecolor="none", markeredgewidth=1.6
    )
    return marks


MATRICES = {"theory": "infinite width", "network": "one network", "difference": "difference"}
_BLOCKS = EACH * np.arange(len(DIGITS)) + (EACH - 1) / 2  # the middle of each digit's rows


def _matrix(ax, name, values, span):
    plots.frame(ax, xlim=(0, 1), ylim=(0, 1))
    colours = f"±{span / 2:.1f}" if name == "difference" else f"0 to {span:.1f}"
    ax.set_title(f"{MATRICES[name]}, {colours}", fontsize=9)
    if name == "difference":
        mark = plots.image(ax, values, limits=(-span / 2, span / 2), cmap="RdBu_r")
    else:
        mark = plots.image(ax, values, limits=(0, span))
    ax.set_xticks(_BLOCKS, list(map(str, DIGITS)))
    ax.set_yticks(_BLOCKS, [""] * len(DIGITS))
    ax.tick_params(length=0)
    return mark


def _digits_update(artists, data):
    for name in MATRICES:
        artists[name].set(data[name])
    artists["here"].set([data["width"]], [data["error"]])


def _digits_reading(data, state):
    return (
        f"Width {state['width']:.0f}, draw {state['draw']:.0f}: the network's kernel is off by "
        f"{float(data['error']):.1%} (root mean square over all pairs, relative to the infinite-width kernel)."
    )


def digits_kernel() -> Panel:
    """The NTK of 40 digits: infinite width, one network, their difference, and the error against width.

    All kernels (7 widths, 6 draws) are computed at construction; a move only chooses among them.
    """
    return Panel(
        _digits,
        _digits_build,
        _digits_update,
        {
            "width": powers_of_two("width", DIGIT_WIDTHS[0], DIGIT_WIDTHS[-1], 64, unit="units"),
            "draw": choice("random draw", range(1, DRAWS + 1), 1),
        },
        _digits_reading,
        title="The same kernel on real digits.",
        caption="Drag width to the right and watch the difference fade, by a factor 2 for 4 times the width. Then "
        "change the draw: the pattern of the difference is chance, its size is not.",
        presets={"Narrow": {"width": 16}, "Wide": {"width": DIGIT_WIDTHS[-1]}},
        size=(9.5, 3.2),
        warm=[],
    )
