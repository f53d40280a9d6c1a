"""Chapter 06: networks trained on sixteen pictures of digits, all their layers or the last one, and the two laws.

Inputs lie on the line through one picture of a 0 and one of a 1. Everything is computed at construction: eight networks
of two hidden layers at three widths, trained by gradient descent and recorded at every stop of the time slider; the
same networks with only their last layer trained, in closed form, for they are linear in it; and the two laws of
infinite width. A move only chooses among these arrays. A narrow network is the first units of the widest.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..data import digits
from ..networks.activations import Erf
from ..networks.kernel import kernel
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, whole

W_STD, DEPTH = 1.5, 2
WIDTHS = (8, 64, 256)
NETWORKS = 8
LR = 0.25
STEPS = np.unique([0, *np.round(np.geomspace(1, 512, 24)).astype(int)])  # t = lr * steps, up to 128
TIMES = LR * STEPS
MIX = np.linspace(-2, 3, 41)  # a: the input is a x_zero + (1 - a) x_one


def network():
    """The network of the panel, two hidden layers of erf without biases; its width is not used."""
    layer = Dense(1, W_STD)
    return serial(layer, Erf(), layer, Erf(), layer)


@functools.cache
def pictures():
    """Sixteen digits 1 (target 1) and 0 (target -1), and the line through the first of each: x, y, line."""
    x, y, _, _ = (np.asarray(part) for part in digits(16, 10, classes=(0, 1), targets="sign"))
    one, zero = x[np.argmax(y[:, 0] > 0)], x[np.argmax(y[:, 0] < 0)]
    return x, y[:, 0], MIX[:, None] * zero + (1 - MIX[:, None]) * one


# ---------------------------------------------------------------- finite networks


def _hidden(params, x, width):
    """Values of the last hidden layer, (points, units), zero beyond `width` (traced)."""
    W_in, W, _ = params
    is_unit = jnp.arange(len(W), dtype=x.dtype) < width
    erf = lambda z: jnp.where(is_unit, jax.scipy.special.erf(z), 0)
    a = erf(W_STD / x.shape[1] ** 0.5 * x @ W_in)
    return erf(W_STD / jnp.sqrt(width) * a @ W)


def _outputs(params, x, width):
    return W_STD / jnp.sqrt(width) * _hidden(params, x, width) @ params[2]


@jax.jit
def _trained(params, x, y, points, steps, width):
    """Outputs at `points` at each of `steps` of gradient descent on the mean of 1/2 (f - y)^2, (times, points)."""

    def loss(params):
        return jnp.mean((_outputs(params, x, width) - y) ** 2) / 2

    def until(state, then):
        params, now = state
        step = lambda _, p: jax.tree.map(lambda a, g: a - LR * g, p, jax.grad(loss)(p))
        params = lax.fori_loop(now, then, step, params)
        return (params, then), _outputs(params, points, width)

    start = _outputs(params, x, width), _hidden(params, jnp.concatenate([x, points]), width)
    return lax.scan(until, (params, 0), steps)[1], start


def gains(k, t):
    """(1 - exp(-k t)) / k of a symmetric matrix at the times t, (times, n, n); t for eigenvalues of zero."""
    values, modes = np.linalg.eigh(k)
    values = values.clip(1e-12)
    return np.einsum("ni,ti,mi->tnm", modes, -np.expm1(-np.outer(t, values)) / values, modes)


@functools.cache
def _networks(width):
    """All layers trained, and the last one: (times, networks, points) each; and the starts, f_0(X) and f_0(line)."""
    x, y, line = pictures()
    rng = np.random.default_rng(6)
    shapes = (x.shape[1], WIDTHS[-1]), (WIDTHS[-1], WIDTHS[-1]), (WIDTHS[-1],)
    draws = [tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes) for _ in range(NETWORKS)]
    single = [jnp.asarray(array, jnp.float32) for array in (x, y, line)]
    every, last, at_data = [], [], []
    for params in draws:
        run, (start, hidden) = _trained(jax.tree.map(jnp.asarray, params), *single, jnp.asarray(STEPS), float(width))
        h, run, start = (np.asarray(array, dtype=float) for array in (hidden, run, start))
        k = W_STD**2 / width * h @ h[: len(x)].T  # of the last layer alone: exact, and constant
        moved = np.einsum("mn,tno,o->tm", k[len(x) :], gains(k[: len(x)] / len(x), TIMES), (y - start) / len(x))
        every.append(run)
        last.append(run[0] + moved)
        at_data.append(start)
    return np.stack(every, 1), np.stack(last, 1), np.stack(at_data)


# ---------------------------------------------------------------- infinite width


@functools.cache
def _laws():
    """For each way of training: mean and sd at every time and at the end, and A, with f_t = f_0 + A (y - f_0(X)).

    f_t is then (1, -A) times the values of f_0 at line and data, plus A y, and its covariance a product B B^T.
    """
    x, y, line = pictures()
    n = len(x)
    both = kernel(network(), jnp.concatenate([x, line]))
    prior = np.asarray(both.nngp)
    values, modes = np.linalg.eigh(prior)
    root = modes * np.sqrt(values.clip(0))
    found: dict[str, Any] = {}
    for way, k in (("all", both.ntk), ("last_layer", both.nngp)):
        k = np.asarray(k) / n  # of the mean loss
        A = np.einsum(
            "mn,tno->tmo", k[n:, :n], np.concatenate([gains(k[:n, :n], TIMES), np.linalg.inv(k[:n, :n])[None]])
        )
        sd = np.sqrt(((root[n:] - A @ root[:n]) ** 2).sum(-1))
        found[way] = A @ y, sd, A
    return found


WAYS = {"all": "all layers", "last_layer": "last layer"}


def _rms(values):
    return np.sqrt(np.mean(np.square(values)))


def arrays(t, width, network):
    """What the panel draws at one setting; names end in the way of training."""
    _, y, _ = pictures()
    *runs, at_data = _networks(int(width))
    at, chosen = int(np.argmin(np.abs(TIMES - t))), int(network) - 1
    found = {}
    for way, run in zip(WAYS, runs):
        mean, sd, A = _laws()[way]
        found |= {
            f"networks_{way}": run[at],
            f"one_{way}": run[at, chosen],
            f"own_{way}": run[0, chosen] + A[at] @ (y - at_data[chosen]),
            f"mean_{way}": mean[at],
            f"sd_{way}": sd[at],
            f"end_{way}": mean[-1],
            f"edges_{way}": mean[-1] + 2 * np.array([[-1], [1]]) * sd[-1],
            f"to_end_{way}": _rms(mean[at] - mean[-1]),
            f"off_{way}": _rms(run[at, chosen] - run[0, chosen] - A[at] @ (y - at_data[chosen])),
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
            "t": choice("training time t", [float(t) for t in TIMES], 0.0, play=True),
            "width": choice("width", WIDTHS, WIDTHS[-1], unit="units", log=True),
            "network": whole("the thick network", 1, NETWORKS, 3),
        },
        _reading,
        title="Sixteen digits, two ways to train.",
        caption="Press play: the bands are the laws of infinite width. The dotted curve is what the law says about the "
        "one thick network. Then drag the width down.",
        presets={
            "Start": {"t": 0.0},
            "Half-way": {"t": 4.0},
            "Trained": {"t": float(TIMES[-1])},
            "Trained, width 8": {"t": float(TIMES[-1]), "width": 8},
        },
        size=(9.5, 3.9),
        warm=[{"width": width} for width in WIDTHS],  # all that is trained
    )
