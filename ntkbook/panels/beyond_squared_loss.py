"""Chapter 08: a classifier in training beside two predictions, with cross-entropy, momentum and small batches.

Six points on a line in two classes, one output f whose sign is the answer. The network takes real steps; its
linearization and the infinite-width kernel take the same steps in function space, from the same start and with the
same batches. The networks have one hidden layer and are in float32; a narrow one is the first units of the widest, and
loss, momentum, batches and width are numbers, so that nothing is compiled for a new setting.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import plots
from ..networks.activations import Erf
from ..networks.kernel import ntk
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, powers_of_two, slider, toggle
from .linearization import GRID, HIGHEST, LOWEST, SCALES, sizes_of
from .masked_network import SUNK, Signals, draw, first_units, gradient, kernel, recorded, signals

NARROWEST, WIDEST, NETWORKS = 8, 512, 3
ARRAYS = (64, WIDEST)  # units that are computed, of which `width` count
STEPS = (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512)
LATER = np.asarray(STEPS[1:], dtype=float)
X_TRAIN = np.array([-2.6, -1.6, -0.6, 0.5, 1.5, 2.5])
Y_TRAIN = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 1.0])
BATCHES = (1, 2, 3, 6)
RATE = 0.5  # learning rate times the largest eigenvalue of the network's kernel, for the mean loss


def pull(f, y, cross_entropy):
    """What drives an output: dloss/df, of 1/2 (f - y)^2 or of log(1 + exp(-y f))."""
    return jnp.where(cross_entropy, -y * jax.nn.sigmoid(-y * f), f - y)


@jax.jit
def _trained(params, theory, x, y, grid, steps, weights, width, momentum, cross_entropy):
    """f of networks, linearizations and infinite width at each of `steps`, (networks, steps, 3, points): x, then grid.

    `weights` (all steps, n): 1/B for the examples in the batch of a step, else 0.
    """
    one = lambda params: _one(params, theory, x, y, grid, steps, weights, width, momentum, cross_entropy)
    return lax.map(one, params)


def _one(params, theory, x, y, grid, steps, weights, width, momentum, cross_entropy):
    points, n, sizes = jnp.concatenate([x, grid]), len(x), sizes_of(width)
    s = signals(params, points, sizes, Erf().phi)
    own = kernel(points, s, x, Signals(s.f[:n], s.a[:, :n], s.d[:, :n]), sizes)
    lr = RATE * n / jnp.linalg.eigvalsh(own[:n])[-1]
    kernels = jnp.stack([own, theory])
    bounded = lambda f: jnp.abs(f).max() < HIGHEST

    def once(i, state):
        params, velocity, f, velocity_f = state
        s = signals(params, x, sizes, Erf().phi)
        slope = gradient(params, x, s, weights[i] * pull(s.f, y, cross_entropy), sizes)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, slope)
        go = jnp.where(bounded(s.f), lr, 0)
        params = jax.tree.map(lambda p, v: p - go * v, params, velocity)
        force = jnp.einsum("kmj,kj->km", kernels, weights[i] * pull(f[:, :n], y, cross_entropy))
        velocity_f = momentum * velocity_f + force
        return params, velocity, jnp.where(bounded(f), f - lr * velocity_f, f), velocity_f

    start = jnp.stack([s.f, s.f])
    state = params, jax.tree.map(jnp.zeros_like, params), start, jnp.zeros_like(start)
    observe = lambda state: jnp.concatenate([signals(state[0], points, sizes, Erf().phi).f[None], state[2]])
    return recorded(once, state, steps, observe)


@functools.cache
def _fixed():
    """Weights of the widest network, the infinite-width kernel, and the data: all in float32."""
    hidden, output = SCALES
    net = serial(Dense(1, **hidden), Erf(), Dense(1, **output))
    points = np.concatenate([X_TRAIN, GRID])[:, None]
    theory = np.asarray(ntk(net, jnp.asarray(points), jnp.asarray(X_TRAIN[:, None])))
    arrays = theory, X_TRAIN[:, None], Y_TRAIN, GRID[:, None]
    return draw(8, 1, WIDEST, 1, NETWORKS), *(jnp.asarray(array, dtype=jnp.float32) for array in arrays)


@functools.cache
def _batches(size):
    """(steps, n): 1/size for the members of each batch; every example once in each epoch."""
    n, steps = X_TRAIN.size, STEPS[-1]
    order = np.concatenate([np.random.default_rng(i).permutation(n) for i in range(steps)])[: steps * size]
    members = order.reshape(steps, size)
    return jnp.asarray((members[:, :, None] == np.arange(n)).sum(1) / size, dtype=jnp.float32)


@functools.lru_cache(maxsize=512)
def _run(width, cross_entropy, momentum, batch):
    params, *fixed = _fixed()
    outputs = _trained(
        first_units(params, width, ARRAYS), *fixed, jnp.asarray(STEPS), _batches(batch), width, momentum, cross_entropy
    )
    return np.clip(np.nan_to_num(np.asarray(outputs, dtype=float)), -HIGHEST, HIGHEST)


def arrays(t, width, cross_entropy, momentum, batch):
    """What the panel draws at one setting: three curves now, and two distances at all times."""
    n, at = X_TRAIN.size, STEPS.index(int(t))
    outputs = _run(float(width), bool(cross_entropy), float(momentum), int(batch))
    networks, others = outputs[:, :, :1, n:], outputs[:, :, 1:, n:]
    distances = np.sqrt(((others - networks) ** 2).mean((0, -1))).T  # (2, steps), root mean square
    first = outputs[0, at]
    return {
        "curves": first[:, n:],
        "distances": np.clip(distances[:, 1:], SUNK, HIGHEST),
        "now": np.asarray(max(t, STEPS[1])),
        "gap": distances[:, at],
        "size": np.sqrt((first[0, :n] ** 2).mean()),
        "right": (np.sign(first[0, :n]) == Y_TRAIN).sum(),
    }


NAMES = {"network": "finite", "linearized": "linearized", "infinite width": "ntk"}


def _build(fig, data):
    left, right = plots.columns(fig, 1.4, 1, label_room=(1.05, 0.95), gap=0.6)
    plots.frame(left, "input x", "output f(x)", xlim=(-np.pi, np.pi), ylim=(-8, 8))
    left.set_xticks(np.pi * np.arange(-2, 3) / 2, ["−π", "−π/2", "0", "π/2", "π"])
    look = {"xscale": "log", "yscale": "log", "xlim": (1, STEPS[-1]), "ylim": (LOWEST, 30)}
    plots.frame(right, "step", title=f"distance of {NETWORKS} networks", **look)
    right.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
    right.set_yticks([1e-3, 1e-2, 0.1, 1, 10], ["0.001", "0.01", "0.1", "1", "10"])
    right.minorticks_off()
    for sign, marker in ((1.0, "^"), (-1.0, "v")):
        chosen = Y_TRAIN == sign
        plots.points(left, X_TRAIN[chosen], Y_TRAIN[chosen], "data", markersize=8, marker=marker)
    plots.horizontal(left, 0.0, "guide")
    marks = {}
    for i in (2, 0, 1):
        name, meaning = list(NAMES.items())[i]
        marks[name] = plots.line(
            left, GRID, data["curves"][i], meaning, label=name, **({"linewidth": 2} if i == 0 else {})
        )
    for i, name in enumerate(("linearized", "infinite width")):
        label = f"to {name}".replace("infinite width", "infinite\nwidth")
        marks[f"to {name}"] = plots.line(right, LATER, data["distances"][i], NAMES[name], label=label, linewidth=1.6)
    marks["now"] = plots.vertical(right, data["now"], "guide")
    return marks


def _update(artists, data):
    for i, name in enumerate(NAMES):
        artists[name].set(GRID, data["curves"][i])
    for i, name in enumerate(("linearized", "infinite width")):
        artists[f"to {name}"].set(LATER, data["distances"][i])
    artists["now"].set(data["now"])


def _number(value):
    return f"{value:.2g}" if value < HIGHEST / 2 else "more than 50"


def _reading(data, state):
    loss = "cross-entropy" if state["cross_entropy"] else "squared loss"
    to_linear, to_infinite = (_number(float(gap)) for gap in data["gap"])
    return (
        f"Width {state['width']:.0f}, {loss}, step {state['t']:.0f}: the network has {int(data['right'])} of "
        f"{X_TRAIN.size} points right, with outputs of size {_number(float(data['size']))}. Distance of {NETWORKS} "
        f"networks to their linearizations {to_linear}, to the infinite-width prediction {to_infinite}."
    )


def classifier() -> Panel:
    """A network of one hidden layer that learns two classes, and what its two kernels predict, over time.

    The learning rate is half of 1/lambda_max of the network's own kernel at the start, for the mean loss; momentum is
    heavy ball. A new setting is trained when it is asked for, and kept. Lee et al. 2019, section 2.2 and supplement.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "t": choice("step", STEPS, 64, play=True),
            "width": powers_of_two("width", NARROWEST, WIDEST, 64, unit="units"),
            "cross_entropy": toggle("cross-entropy", True),
            "momentum": slider("momentum", 0.0, 0.9, 0.0, step=0.1),
            "batch": choice("batch size", BATCHES, 6, unit="examples"),
        },
        _reading,
        title="A classifier, its linearization, and the infinite-width prediction.",
        caption="Press play, or drag the step: with cross-entropy the outputs grow for ever, and so does the distance "
        "between networks and predictions. Untick cross-entropy: with the squared loss both come to rest.",
        presets={
            "Squared loss": {"t": 512, "width": 64, "cross_entropy": 0, "momentum": 0, "batch": 6},
            "Cross-entropy": {"t": 512, "width": 64, "cross_entropy": 1, "momentum": 0, "batch": 6},
            "Small batches, momentum": {"t": 64, "width": WIDEST, "cross_entropy": 1, "momentum": 0.9, "batch": 1},
        },
        baked=("t", "cross_entropy"),
        size=(9.5, 3.6),
        warm=[{"width": size} for size in ARRAYS],
    )
