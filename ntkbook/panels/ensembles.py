"""Chapter 06: networks trained on sixteen pictures of digits, all their layers or the last one, and the two laws.

Inputs lie on the line through one picture of a 0 and one of a 1. Everything is computed at construction: eight networks
of two hidden layers at three widths, trained by gradient descent and recorded at every stop of the time slider; the
same networks with only their last layer trained, in closed form, for they are linear in it; and the two laws of
infinite width. A move only chooses among these arrays.
"""

import functools

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
from ..panel import Panel, choice, whole
from .masked_network import descended, gradient, recorded, same_scales, signals

W_STD, DEPTH = 1.5, 2
WIDTHS = (8, 64, 256)
NETWORKS = 8
LR = 0.25
STEPS = np.unique([0, *np.round(np.geomspace(1, 512, 24)).astype(int)])  # t = lr * steps, up to 128
TIMES = LR * STEPS
HALF_WAY = float(TIMES[np.abs(TIMES - 4).argmin()])  # all layers have nearly arrived, the last one has not
MIX = np.linspace(-2, 3, 41)  # a: the input is a x_zero + (1 - a) x_one


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
    """Outputs at `points` at each of `steps` of gradient descent on the mean of 1/2 (f - y)^2, (times, points).

    And at the start: the outputs at x, and the last hidden layer at x and points, (., units), scaled as it is read out.
    """
    sizes, phi = same_scales(width, DEPTH, W_STD, 0.0), Erf().phi

    def step(_, params):
        s = signals(params, x, sizes, phi)
        return descended(params, gradient(params, x, s, (s.f - y) / len(x), sizes), LR)

    start = signals(params, jnp.concatenate([x, points]), sizes, phi)
    run = recorded(step, params, steps, lambda params: signals(params, points, sizes, phi).f)
    return run, start.f[: len(x)], W_STD / jnp.sqrt(width) * start.a[DEPTH - 1]


@functools.cache
def _networks(width):
    """All layers trained, and the last one: (times, networks, points) each; and the starts, f_0(X), (networks, n)."""
    x, y, line = pictures()
    single = [jnp.asarray(array, jnp.float32) for array in (x, y, line)]
    every, last, at_data = [], [], []
    for i in range(NETWORKS):
        params = jax.tree.map(lambda array, i=i: array[i], _starts())
        found = _trained(params, *single, jnp.asarray(STEPS), float(width))
        run, start, h = (np.asarray(array, dtype=float) for array in found)
        k = h @ h[: len(x)].T  # of the last layer alone: exact, and constant
        flow = gradient_flow(k[: len(x)], y, reduction="mean")
        every.append(run)
        last.append(np.asarray(flow.test(TIMES, k[len(x) :], start, run[0])))
        at_data.append(start)
    return np.stack(every, 1), np.stack(last, 1), np.stack(at_data)


# ---------------------------------------------------------------- infinite width


@functools.cache
def _laws():
    """For each way of training: mean and sd at every time and at the end, (times + 1, points)."""
    x, y, line = (jnp.asarray(part) for part in pictures())
    times, found = np.append(TIMES, np.inf), {}
    for way in WAYS:
        law = ensemble(network(), x, y, reduction="mean", train=way).predict(times, line)
        found[way] = np.asarray(law.mean), np.asarray(law.std)
    return found


@functools.cache
def _own(width):
    """For each way, where the law sends each network from its own start, (times, points, networks)."""
    x, y, line = (jnp.asarray(part) for part in pictures())
    both, cross = kernel(network(), x), kernel(network(), line, x)
    every, _, at_data = _networks(width)
    targets = jnp.repeat(y[:, None], NETWORKS, 1)
    own = lambda k, k_line: gradient_flow(k, targets, reduction="mean").test(TIMES, k_line, at_data.T, every[0].T)
    return {"all": np.asarray(own(both.ntk, cross.ntk)), "last_layer": np.asarray(own(both.nngp, cross.nngp))}


WAYS = {"all": "all layers", "last_layer": "last layer"}


def _rms(values):
    return np.sqrt(np.mean(np.square(values)))


def arrays(t, width, network):
    """What the panel draws at one setting; names end in the way of training."""
    every, last, _ = _networks(int(width))
    at, chosen = int(np.argmin(np.abs(TIMES - t))), int(network) - 1
    found = {}
    for way, run in zip(WAYS, (every, last)):
        (mean, sd), own = _laws()[way], _own(int(width))[way][at, :, chosen]
        found |= {
            f"networks_{way}": run[at],
            f"one_{way}": run[at, chosen],
            f"own_{way}": own,
            f"mean_{way}": mean[at],
            f"sd_{way}": sd[at],
            f"end_{way}": mean[-1],
            f"edges_{way}": mean[-1] + 2 * np.array([[-1], [1]]) * sd[-1],
            f"to_end_{way}": _rms(mean[at] - mean[-1]),
            f"off_{way}": _rms(run[at, chosen] - own),
        }
    return found


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
        marks |= {
            f"band_{way}": plots.band(
                ax, MIX, data[f"mean_{way}"], data[f"sd_{way}"], meaning, label="infinite\nwidth"
            ),
            f"networks_{way}": plots.lines(ax, MIX, data[f"networks_{way}"], "finite", linewidth=0.7, alpha=0.65),
            f"one_{way}": plots.line(ax, MIX, data[f"one_{way}"], "finite", linewidth=2.2, label="one\nnetwork"),
            f"own_{way}": plots.line(ax, MIX, data[f"own_{way}"], meaning, linestyle=(0, (1, 1)), linewidth=1.6),
        }
        if first:
            plots.line(ax, MIX, data["end_all"], "guide", linestyle=(0, (4, 2)), linewidth=1.4, label=end)
        else:
            plots.lines(ax, MIX, data["edges_last_layer"], "guide", linestyle=(0, (4, 2)), linewidth=1.4, label=end)
        plots.points(ax, [0, 1], [1, -1], "data", marker="*", markersize=11)
    return marks


def _update(artists, data):
    for way in WAYS:
        artists[f"band_{way}"].set(MIX, data[f"mean_{way}"], data[f"sd_{way}"])
        artists[f"networks_{way}"].set(MIX, data[f"networks_{way}"])
        artists[f"one_{way}"].set(MIX, data[f"one_{way}"])
        artists[f"own_{way}"].set(MIX, data[f"own_{way}"])


def _reading(data, state):
    each = [
        f"{name.capitalize()}: mean {float(data[f'to_end_{way}']):.2f} from its end, "
        f"the network {float(data[f'off_{way}']):.2f} from its own prediction"
        for way, name in WAYS.items()
    ]
    now = f"t = {state['t']:.3g}, width {state['width']:.0f}, network {state['network']:.0f}. "
    return now + ". ".join(each) + " (root mean squares)."


def two_ensembles() -> Panel:
    """Networks on a line through two pictures: all layers trained or the last, one of them, and the laws.

    Time is t = learning rate x steps of gradient descent on 1/2 the mean squared error. The networks of every width are
    trained when the panel is made. Lee et al. 2019, Fig. 2.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "t": choice("training time t", [float(t) for t in TIMES], HALF_WAY, play=True),
            "width": choice("width", WIDTHS, WIDTHS[-1], unit="units", log=True),
            "network": whole("the thick network", 1, NETWORKS, 3),
        },
        _reading,
        title="Sixteen digits, two ways to train.",
        caption="Back to the start, and play: the bands are the laws of infinite width. The dotted curve is what "
        "the law says about the one thick network. Then drag the width down.",
        presets={
            "Start": {"t": 0.0},
            "Half-way": {"t": HALF_WAY},
            "Trained": {"t": float(TIMES[-1])},
            "Trained, width 8": {"t": float(TIMES[-1]), "width": 8},
        },
        size=(9.5, 3.9),
        warm=[{"width": width} for width in WIDTHS],  # all that is trained
    )
