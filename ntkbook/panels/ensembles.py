"""Chapter 06: networks trained on sixteen pictures of digits, all their layers or the last one, and the two laws.

Inputs lie on the line through one picture of a 0 and one of a 1. These two can be dragged, along the line and in their
targets. What has a closed form follows at once: the two laws of infinite width, what they say about each network from
its own start, and eight networks with only their last layer trained, for they are linear in it. The same eight networks
with all layers trained, by gradient descent recorded at every stop of the time slider, are trained again when the
points rest. For the points of the start all widths are trained at construction: then a move of time or width only
chooses among arrays.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import plots
from ..data import digits
from ..dynamics.ensemble import ensemble
from ..dynamics.gradient import gradient_flow
from ..networks.activations import Erf
from ..networks.kernel import kernel
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, slider, whole
from .masked_network import descended, first_units, gradient, recorded, same_scales, signals

W_STD, DEPTH = 1.5, 2
WIDTHS = (8, 64, 256)
ARRAYS = (64, WIDTHS[-1])  # units that are trained, of which `width` count
NETWORKS = 8
LR = 0.25
STEPS = np.unique([0, *np.round(np.geomspace(1, 512, 24)).astype(int)])  # t = lr * steps, up to 128
TIMES = LR * STEPS
HALF_WAY = float(TIMES[np.abs(TIMES - 4).argmin()])  # all layers have nearly arrived, the last one has not
MIX = np.linspace(-2, 3, 41)  # a: the input is a x_zero + (1 - a) x_one
POINTS = [("a_one", "y_one"), ("a_zero", "y_zero")]  # where the two pictures lie on the line, and their targets
PLACES, TARGETS = (0.0, 1.0), (1.0, -1.0)  # at the start
KEPT = 64  # trainings and laws that are kept
WAYS = {"all": "all layers", "last_layer": "last layer"}


def network():
    """The network of the panel, two hidden layers of erf without biases; its width is not used."""
    layer = Dense(1, W_STD)  # pyright: ignore
    return serial(layer, Erf(), layer, Erf(), layer)


@functools.cache
def pictures():
    """Sixteen digits 1 (target 1) and 0 (target -1), and the line through the first of each: x, y, line."""
    x, y, _, _ = (np.asarray(part) for part in digits(16, 10, classes=(0, 1), targets="sign"))
    one, zero = x[np.argmax(y[:, 0] > 0)], x[np.argmax(y[:, 0] < 0)]
    return x, y[:, 0], MIX[:, None] * zero + (1 - MIX[:, None]) * one


def _moved(places, targets):
    """The pictures with the two of the line at other places and with other targets: x, y, line."""
    x, y, line = pictures()
    two = [np.argmax(y > 0), np.argmax(y < 0)]
    one, zero = x[two]
    x, y = x.copy(), y.copy()
    x[two], y[two] = [a * zero + (1 - a) * one for a in places], targets
    return x, y, line


# ---------------------------------------------------------------- finite networks


@functools.cache
def _starts():
    """The networks at the widest, in float32."""
    rng = np.random.default_rng(6)
    shapes = (64, WIDTHS[-1]), (WIDTHS[-1], WIDTHS[-1]), (WIDTHS[-1],)
    draws = [[rng.standard_normal(shape, dtype=np.float32) for shape in shapes] for _ in range(NETWORKS)]
    W_in, W, W_out = (jnp.stack(parts) for parts in zip(*draws))
    none = lambda *shape: jnp.zeros((NETWORKS, *shape), jnp.float32)
    biases = {"b_in": none(WIDTHS[-1]), "b": none(1, WIDTHS[-1]), "b_out": none()}
    return {"W_in": W_in, "W": W[:, None], "W_out": W_out, **biases}


@jax.jit
def _trained(params, x, y, points, steps, width):
    """Outputs at `points` at each of `steps` of gradient descent on the mean of 1/2 (f - y)^2, (times, points)."""
    sizes, phi = same_scales(width, DEPTH, W_STD, 0.0), Erf().phi

    def step(_, params):
        s = signals(params, x, sizes, phi)
        return descended(params, gradient(params, x, s, (s.f - y) / len(x), sizes), LR)

    return recorded(step, params, steps, lambda params: signals(params, points, sizes, phi).f)


_runs: dict[Any, np.ndarray] = {}  # (width, places, targets) -> outputs of networks, (times, networks, points)


def _trained_on(width, places, targets, *, only_kept=False):
    """Outputs of the networks at every time, (times, networks, points); of none, if only what is kept is asked for."""
    key = width, places, targets
    if key not in _runs:
        if only_kept:
            return np.zeros((len(STEPS), 0, len(MIX)))
        if len(_runs) >= KEPT:
            _runs.pop(next(key for key in _runs if key[1:] != (PLACES, TARGETS)))
        single = [jnp.asarray(array, jnp.float32) for array in _moved(places, targets)]
        units = first_units(_starts(), width, ARRAYS)
        starts = [jax.tree.map(lambda array, i=i: array[i], units) for i in range(NETWORKS)]
        runs = [_trained(params, *single, jnp.asarray(STEPS), float(width)) for params in starts]
        _runs[key] = np.stack([np.asarray(run, dtype=float) for run in runs], 1)
    return _runs[key]


# ---------------------------------------------------------------- closed forms


@jax.jit
def _closed_forms(params, t, x, y, line, width):
    """For each way of training: mean and sd at t and at the end, (2, points); what is said of each network from its
    own start, (networks, points). And the networks themselves with the last layer trained, which is exact."""
    sizes, points = same_scales(width, DEPTH, W_STD, 0.0), jnp.concatenate([x, line]).astype(jnp.float32)
    start = jax.vmap(lambda params: signals(params, points, sizes, Erf().phi))(params)
    f, n = start.f.astype(x.dtype), len(x)
    h = (W_STD / jnp.sqrt(width) * start.a[:, DEPTH - 1]).astype(x.dtype)  # as it is read out, (networks, ., units)

    def pulled(k, f):
        """Where the kernel k on all points takes outputs f."""
        return gradient_flow(k[:n], y, reduction="mean").test(t, k[n:], f[:n], f[n:])

    both, cross, found = kernel(network(), x), kernel(network(), line, x), {}
    kernels = {"all": (both.ntk, cross.ntk), "last_layer": (both.nngp, cross.nngp)}
    for way, k in kernels.items():
        law = ensemble(network(), x, y, reduction="mean", train=way).predict(jnp.stack([t, jnp.inf]), line)
        own = jax.vmap(pulled, in_axes=(None, 0))(jnp.concatenate(k), f)
        found |= {f"mean_{way}": law.mean, f"sd_{way}": law.std, f"own_{way}": own}
    return found | {"last_layer": jax.vmap(pulled)(h @ jnp.swapaxes(h[:, :n], 1, 2), f)}


@functools.lru_cache(4 * KEPT)
def _at_once(t, width, places, targets):
    """`_closed_forms` at one setting, as numpy arrays."""
    found = _closed_forms(_starts(), jnp.asarray(t), *map(jnp.asarray, _moved(places, targets)), float(width))
    return {name: np.asarray(array, dtype=float) for name, array in found.items()}


def _rms(values):
    return np.sqrt(np.mean(np.square(values)))


def arrays(t, width, network, *, only_kept=False, **points):
    """What the panel draws at one setting; names end in the way of training."""
    at, chosen, data = int(np.argmin(np.abs(TIMES - t))), int(network) - 1, _points(points)
    once = _at_once(float(TIMES[at]), int(width), *data)
    runs = {"all": _trained_on(int(width), *data, only_kept=only_kept)[at], "last_layer": once["last_layer"]}
    found = {"places": np.array(data[0]), "targets": np.array(data[1])}
    for way, run in runs.items():
        (mean, end), (sd, end_sd) = once[f"mean_{way}"], once[f"sd_{way}"]
        one, own = run[chosen : chosen + 1].ravel(), once[f"own_{way}"][chosen]  # `one` is empty where none is trained
        found |= {
            f"networks_{way}": run,
            f"one_{way}": one,
            f"own_{way}": own,
            f"mean_{way}": mean,
            f"sd_{way}": sd,
            f"end_{way}": end,
            f"edges_{way}": end + 2 * np.array([[-1], [1]]) * end_sd,
            f"to_end_{way}": _rms(mean - end),
        }
        if len(one):
            found[f"off_{way}"] = _rms(one - own)
    return found


def draft(**values):
    """What has a closed form, and the networks if they have been trained on these points."""
    return arrays(**values, only_kept=True)


def _points(values):
    """Places and targets of the two points; what is not in `values` is as at the start."""
    starts = zip(POINTS, PLACES, TARGETS)
    pairs = [(values.get(a_name, a), values.get(y_name, y)) for (a_name, y_name), a, y in starts]
    return tuple(zip(*pairs))


def _build(fig, data):
    marks = {}
    columns = plots.columns(fig, 1, 1, label_room=(1.15, 1.15), gap=0.5)
    for ax, (way, name), meaning in zip(columns, WAYS.items(), ("ntk", "nngp")):
        first = way == "all"
        plots.frame(
            ax, "a   (input: a · zero + (1 − a) · one)", "output" if first else "", xlim=(-2, 3), ylim=(-3.2, 3.2)
        )
        ax.set_title(f"{name} trained")
        ax.set_xticks([-2, -1, 0, 1, 2, 3])
        end = "kernel\nregression" if first else "posterior,\n± 2 sd"
        one = data[f"one_{way}"]
        marks |= {
            f"band_{way}": plots.band(
                ax, MIX, data[f"mean_{way}"], data[f"sd_{way}"], meaning, label="infinite\nwidth"
            ),
            f"networks_{way}": plots.lines(ax, MIX, data[f"networks_{way}"], "finite", linewidth=0.7, alpha=0.65),
            f"one_{way}": plots.line(ax, MIX[: len(one)], one, "finite", linewidth=2.2, label="one\nnetwork"),
            f"own_{way}": plots.line(ax, MIX, data[f"own_{way}"], meaning, linestyle=(0, (1, 1)), linewidth=1.6),
        }
        look = {"linestyle": (0, (4, 2)), "linewidth": 1.4, "label": end}
        if first:
            marks["end_all"] = plots.line(ax, MIX, data["end_all"], "guide", **look)
        else:
            marks["edges_last_layer"] = plots.lines(ax, MIX, data["edges_last_layer"], "guide", **look)
        marks[f"points_{way}"] = plots.points(
            ax, data["places"], data["targets"], "data", marker="*", markersize=13 if first else 11
        )
    return marks


def _update(artists, data):
    for way in WAYS:
        artists[f"band_{way}"].set(MIX, data[f"mean_{way}"], data[f"sd_{way}"])
        artists[f"networks_{way}"].set(MIX, data[f"networks_{way}"])
        artists[f"one_{way}"].set(MIX[: len(data[f"one_{way}"])], data[f"one_{way}"])
        artists[f"own_{way}"].set(MIX, data[f"own_{way}"])
        artists[f"points_{way}"].set(data["places"], data["targets"])
    artists["end_all"].set(MIX, data["end_all"])
    artists["edges_last_layer"].set(MIX, data["edges_last_layer"])


def _reading(data, state):
    now = f"t = {state['t']:.3g}, width {state['width']:.0f}, network {state['network']:.0f}"
    pairs = list(zip(data["places"], data["targets"]))
    if pairs != list(zip(PLACES, TARGETS)):
        now += ", stars at " + " and ".join(f"({a:.2f}, {y:.2f})" for a, y in pairs)
    if not len(data["networks_all"]):
        return f"{now}: the formulas follow at once; the networks on the left are trained again when you let go."
    each = [
        f"{name.capitalize()}: mean {float(data[f'to_end_{way}']):.2f} from its end, "
        f"the network {float(data[f'off_{way}']):.2f} from its own prediction"
        for way, name in WAYS.items()
    ]
    return now + ". " + ". ".join(each) + " (root mean squares)."


def two_ensembles() -> Panel:
    """Networks on a line through two pictures: all layers trained or the last, one of them, and the laws.

    Time is t = learning rate x steps of gradient descent on 1/2 the mean squared error. The networks of every width are
    trained when the panel is made, and trained again when one of the two pictures is dragged. Lee et al. 2019, Fig. 2.
    """
    for width in WIDTHS:
        _trained_on(width, PLACES, TARGETS)
    caption = (
        "Back to the start, and play: the bands are the laws of infinite width. The dotted curve is what the law says "
        "about the one thick network. "
    )
    return Panel(
        arrays,
        _build,
        _update,
        {
            "t": choice("training time t", [float(t) for t in TIMES], HALF_WAY, play=True),
            "width": choice("width", WIDTHS, WIDTHS[-1], unit="units", log=True),
            "network": whole("the thick network", 1, NETWORKS, 3),
            "a_one": slider("a of the one", -1.9, 0.4, 0.0, step=0.05),
            "y_one": slider("target of the one", -2.5, 2.5, 1.0, step=0.05),
            "a_zero": slider("a of the zero", 0.6, 2.9, 1.0, step=0.05),
            "y_zero": slider("target of the zero", -2.5, 2.5, -1.0, step=0.05),
        },
        _reading,
        title="Sixteen digits, two ways to train.",
        caption=caption + "Drag a star on the left. Then drag the width down.",
        presets={
            "Start": {"t": 0.0},
            "Half-way": {"t": HALF_WAY},
            "Trained": {"t": float(TIMES[-1])},
            "Trained, width 8": {"t": float(TIMES[-1]), "width": 8},
        },
        size=(9.5, 3.9),
        draft=draft,
        baked_caption=caption + "Then drag the width down.",
        drag=POINTS,
        warm=[],
    )
