"""Chapter 09: one network of one hidden layer in four parameterizations, for every width and rate of two sliders.

Each parameterization is the same network in NTK coordinates, with a rate for each array and a factor on its output:
that is all in which they differ, as the chapter shows. So one program trains them all. The table of losses for all
parameterizations, widths and rates is made once, when the panel is built; a move reads it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..networks.activations import Erf
from ..panel import Panel, choice, powers_of_two
from .linearization import SCALES, X_TRAIN, Y_TRAIN
from .masked_network import Sizes, descended, draw, first_units, gradient, signals

RULES = ("NTK", "naive standard", "improved standard", "mu-P")
BASE = 64  # the width at which rates are tuned
NARROWEST, WIDEST, NETWORKS, STEPS = 8, 512, 2, 64
ARRAYS = (64, WIDEST)  # units that are computed, of which `width` count
WIDTHS = tuple(2**i for i in range(3, 10))
RATES = tuple(2.0 ** (i / 2) for i in range(-10, 9))  # times lambda_max at the base width
LOWEST, HIGHEST = 1e-5, 100.0  # of the losses; what has diverged stops at the largest


def coordinates(rule, width):
    """(factor on the output, rate of each array) with which the NTK network is that of `rule`; d = 1 input."""
    (first, inner), (last, top) = (tuple(scale.values()) for scale in SCALES)
    ones = dict.fromkeys(("W_in", "b_in", "W", "b", "W_out", "b_out"), 1.0)
    if RULES[rule] == "NTK":
        return 1.0, ones
    if RULES[rule] == "mu-P":
        return (BASE / width) ** 0.5, {name: width / BASE for name in ones}
    fan_in = width if RULES[rule] == "naive standard" else BASE
    rates = {"W_in": first**-2, "b_in": inner**-2, "W_out": fan_in * last**-2, "b_out": top**-2}
    return 1.0, {**ones, **rates}


def _sizes(width, factor):
    hidden, (last, top) = (tuple(scale.values()) for scale in SCALES)
    return Sizes(width, 1, hidden, hidden, (factor * last, factor * top))


@jax.jit
def _losses(params, x, y, width, factor, rates, lrs):
    """Losses before each of STEPS steps and after the last, (networks, lrs, STEPS + 1)."""
    sizes = _sizes(width, factor)

    def once(state, _, lr):
        s = signals(state, x, sizes, Erf().phi)
        loss = jnp.sum((s.f - y) ** 2) / 2
        pull = jnp.where(loss < HIGHEST, s.f - y, 0)
        slope = gradient(state, x, s, pull, sizes)
        return descended(state, jax.tree.map(jnp.multiply, rates, slope), lr), loss

    def one(params):
        run = lambda lr: lax.scan(lambda state, i: once(state, i, lr), params, length=STEPS + 1)[1]
        return jax.vmap(run)(lrs)

    return lax.map(one, params)


@jax.jit
def _sharpness(params, x, width, factor, rates):
    """The largest eigenvalue of the kernel that the rates make, a mean over networks."""
    sizes = _sizes(width, factor)

    def one(params):
        s = signals(params, x, sizes, Erf().phi)
        slopes = jax.vmap(lambda v: gradient(params, x, s, v, sizes))(jnp.eye(len(x), dtype=x.dtype))
        flat = jnp.concatenate(
            [(slopes[name] * jnp.sqrt(rates[name])).reshape(len(x), -1) for name in sorted(slopes)], 1
        )
        return jnp.linalg.eigvalsh(flat @ flat.T)[-1]

    return lax.map(one, params).mean()


@functools.cache
def table():
    """Losses (rules, widths, rates, STEPS + 1): mean over the networks."""
    networks = draw(9, 1, WIDEST, 1, NETWORKS)
    x, y = (jnp.asarray(array, dtype=jnp.float32) for array in (X_TRAIN[:, None], Y_TRAIN))
    as_numbers = lambda tree: jax.tree.map(jnp.float32, tree)
    found = np.empty((len(RULES), len(WIDTHS), len(RATES), STEPS + 1))
    for rule in range(len(RULES)):
        at_base = first_units(networks, BASE, ARRAYS)
        unit = 1 / _sharpness(at_base, x, jnp.float32(BASE), *as_numbers(coordinates(rule, BASE)))
        for i, width in enumerate(WIDTHS):
            factor, rates = as_numbers(coordinates(rule, width))
            lrs = unit * jnp.asarray(RATES, dtype=jnp.float32)
            params = first_units(networks, width, ARRAYS)
            losses = np.asarray(_losses(params, x, y, jnp.float32(width), factor, rates, lrs), dtype=float)
            found[rule, i] = np.clip(np.nan_to_num(losses, nan=HIGHEST), LOWEST, HIGHEST).mean(0)
    return found


def arrays(rule, width, rate):
    """What the panel draws: losses over the steps and over the rates at all widths, and the best rates."""
    here = table()[int(rule)]
    i, j = WIDTHS.index(int(width)), RATES.index(float(rate))
    ends = here[:, :, -1]
    best = np.asarray(RATES)[ends.argmin(1)]
    return {
        "curves": here[:, j],
        "curve": here[i, j],
        "ends": ends,
        "end": ends[i],
        "rate": np.asarray(rate),
        "loss": ends[i, j],
        "best_rates": best,
        "best": best[i],
        "best_loss": ends[i].min(),
    }


def _build(fig, data):
    left, right = plots.columns(fig, 1, 1, label_room=(0.75, 0.1), gap=0.6)
    looks = {"yscale": "log", "ylim": (LOWEST, HIGHEST)}
    plots.frame(left, "step", xlim=(0, STEPS), title="loss in training, all widths", **looks)
    plots.frame(
        right,
        "rate (in 1/λₘₐₓ at width 64)",
        xscale="log",
        xlim=(RATES[0], RATES[-1]),
        title="loss at the end, all widths",
        **looks,
    )
    right.set_xticks([1 / 32, 1 / 8, 1 / 2, 2, 8], ["1/32", "1/8", "1/2", "2", "8"])
    for ax in (left, right):
        ax.set_yticks([LOWEST, 1e-4, 1e-2, 1, 100], ["less", "0.0001", "0.01", "1", "100"])
        ax.minorticks_off()
    steps = np.arange(STEPS + 1)
    return {
        "curves": plots.lines(left, steps, data["curves"], "finite", alpha=0.6),
        "narrowest": plots.line(left, steps, data["curves"][0], "finite", linewidth=1.0, label=f"width {NARROWEST}"),
        "widest": plots.line(left, steps, data["curves"][-1], "finite", linewidth=1.0, label=f"width {WIDEST}"),
        "curve": plots.line(left, steps, data["curve"], "finite", linewidth=2.6),
        "ends": plots.lines(right, RATES, data["ends"], "finite", alpha=0.6),
        "end": plots.line(right, RATES, data["end"], "finite", linewidth=2.6),
        "best": plots.points(right, [data["best"]], [data["best_loss"]], "finite", markersize=9),
        "rate": plots.vertical(right, data["rate"], "guide"),
    }


def _update(artists, data):
    steps = np.arange(STEPS + 1)
    artists["curves"].set(steps, data["curves"])
    artists["narrowest"].set(steps, data["curves"][0])
    artists["widest"].set(steps, data["curves"][-1])
    artists["curve"].set(steps, data["curve"])
    artists["ends"].set(RATES, data["ends"])
    artists["end"].set(RATES, data["end"])
    artists["best"].set([data["best"]], [data["best_loss"]])
    artists["rate"].set(data["rate"])


def _number(value):
    return f"{value:.2g}" if value < HIGHEST / 2 else "more than 50 (diverged)"


def _reading(data, state):
    return (
        f"{RULES[int(state['rule'])]}, width {state['width']:.0f}, rate {state['rate']:.3g}: loss after {STEPS} steps "
        f"{_number(float(data['loss']))}. Best rate at this width {float(data['best']):.3g} (large dot), at width "
        f"{BASE} {float(data['best_rates'][WIDTHS.index(BASE)]):.3g}."
    )


def parameterizations() -> Panel:
    """Loss over time and over the learning rate, at seven widths, in four parameterizations.

    The rate is given in units of 1/lambda_max of the network of width 64 in the same parameterization: what a search
    at that width finds. Sohl-Dickstein et al. 2020, section 2; Yang and Hu 2021, section 3.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "rule": choice("parameterization", range(len(RULES)), 0, names=RULES),
            "width": powers_of_two("width", NARROWEST, WIDEST, BASE, unit="units"),
            "rate": choice("rate", RATES, 1.0, log=True, names=[f"{rate:.3g}" for rate in RATES]),
        },
        _reading,
        title="One network, four ways to write it down.",
        caption="Thick: the chosen width; thin: the others. The large dot is the best rate. Drag width: in the NTK "
        "parameterization it stays; choose naive standard, and it runs to the left as the width grows.",
        presets={
            "NTK, wide": {"rule": 0, "width": WIDEST, "rate": 1.0},
            "Naive standard, wide": {"rule": 1, "width": WIDEST, "rate": 1.0},
            "mu-P, wide": {"rule": 3, "width": WIDEST, "rate": 1.0},
        },
        baked=("width", "rule"),
        baked_caption="Thick: the chosen width; thin: the others. The large dot is the lowest loss. Drag width: in the "
        "NTK parameterization it stays; choose naive standard, and it runs to the left as the width grows.",
    )
