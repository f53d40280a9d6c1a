"""Chapter 16: which training pictures made a prediction, and ten pictures that a kernel has drawn for itself.

In `who_helps` a network of one hidden tanh layer is trained once with all forty pictures and once without each of them,
for three widths, in numpy, when the panel is built; beside it stands what the tangent kernel of its start says at once.
In `ten_pictures` the pictures are learnt by descent through the kernel of infinite width, and kept at some steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .. import plots
from ..data import digits
from ..networks.activations import Relu
from ..networks.kernel import ntk
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, whole

CLASSES, COLUMNS, ROWS = (3, 8), 8, 5
N, N_NEW = COLUMNS * ROWS, 60
WIDTHS = (16, 64, 256)
RIDGE, STEPS, MOMENTUM, SEED = 0.1, 200, 0.9, 0
SHOWN = 5  # pictures in each row on the right


@functools.cache
def pictures():
    """40 pictures of 3 (-1) and 8 (+1) to train on, and 60 new ones: x (n, 64), y (n,), x_new, y_new."""
    x, y, x_new, y_new = digits(N, N_NEW, classes=CLASSES, key=jax.random.key(0))
    return tuple(np.asarray(part, dtype=float) for part in (x, y[:, 0], x_new, y_new[:, 0]))


def start(width):
    """Weights (64, width) and output weights (width,), all N(0, 1)."""
    rng = np.random.default_rng(SEED)
    return rng.standard_normal((64, width)), rng.standard_normal(width)


def outputs(W, v, x):
    """v . tanh(x W / 8) / sqrt(width), (n,)."""
    return np.tanh(x @ W / 8) @ v / len(v) ** 0.5


def tangent_kernel(W, v, x1, x2):
    """Theta(x1, x2) of `outputs`, (n1, n2)."""
    a, b = np.tanh(x1 @ W / 8), np.tanh(x2 @ W / 8)
    return (a @ b.T + ((1 - a * a) * v**2) @ (1 - b * b).T * (x1 @ x2.T) / 64) / len(v)


def by_kernel(width):
    """(effects (new, N), answers (new,), errors (N,)) from the kernel of the start, without training.

    The effect is what training with picture i adds to the answer at x, against training without it.
    """
    x, y, x_new, _ = pictures()
    W, v = start(width)
    G = np.linalg.inv(tangent_kernel(W, v, x, x) + RIDGE * np.eye(N))
    k_new = tangent_kernel(W, v, x_new, x)
    weights = G @ (y - outputs(W, v, x))
    errors = weights / np.diag(G)  # at each picture, when it is left out
    return (k_new @ G) * errors, outputs(W, v, x_new) + k_new @ weights, errors


def by_training(width):
    """(effects (new, N), answers (new,)) of networks trained with all pictures, and without each of them.

    All N + 1 are trained at once, from one start: descent with momentum on 1/2 sum (f - y)^2 + ridge/2 |w - w_0|^2.
    """
    x, y, x_new, _ = (part.astype(np.float32) for part in pictures())
    W_0, v_0 = start(width)
    top = np.linalg.eigvalsh(tangent_kernel(W_0, v_0, *(pictures()[0],) * 2))[-1]
    lr, pull, back = (np.float32(value) for value in (1 / (top + RIDGE), RIDGE, MOMENTUM))
    scale, root = np.float32(1 / 8), np.float32(width**-0.5)
    keep = np.concatenate([np.ones((1, N)), 1 - np.eye(N)])[..., None].astype(np.float32)  # (runs, N, 1)
    W_0, v_0 = (np.repeat(part[None].astype(np.float32), N + 1, 0) for part in (W_0, v_0[:, None]))
    W, v, dW, dv = W_0, v_0, np.zeros_like(W_0), np.zeros_like(v_0)
    for _ in range(STEPS):
        a = np.tanh(x @ W * scale)
        r = keep * (a @ v * root - y[:, None])
        slope_W = x.T @ ((1 - a * a) * (r * v.swapaxes(1, 2))) * (scale * root) + pull * (W - W_0)
        slope_v = a.swapaxes(1, 2) @ r * root + pull * (v - v_0)
        dW, dv = back * dW - lr * slope_W, back * dv - lr * slope_v
        W, v = W + dW, v + dv
    answers = (np.tanh(x_new @ W * scale) @ v * root)[..., 0].astype(float)  # (runs, new)
    return (answers[0] - answers[1:]).T, answers[0]


@functools.cache
def effects(width):
    """Both, signed so that positive helps: kernel and training (new, N) each, answers by the kernel, errors (N,)."""
    y_new = pictures()[3]
    fast, answers, errors = by_kernel(width)
    return y_new[:, None] * fast, y_new[:, None] * by_training(width)[0], answers, errors


def mosaic(images, columns):
    """Pictures (n, 64), row by row from the top, as one image with a line between them."""
    n = len(images)
    tiles = np.zeros((n, 9, 9))
    tiles[:, :8, :8] = images.reshape(n, 8, 8)
    whole = tiles.reshape(n // columns, columns, 9, 9).swapaxes(1, 2).reshape(n // columns * 9, columns * 9)
    return whole[:-1, :-1]


def as_grey(x, low, high):
    """Pixels on a scale from 0 to 1."""
    return np.clip((x - low) / (high - low), 0, 1)


def chosen(column, row):
    """The number of the training picture in this column, and this row from below."""
    return int(ROWS - row) * COLUMNS + int(column) - 1


def arrays(column, row, width):
    """What the panel draws: the effects of one picture on the new ones, and those that it helps and harms most."""
    x, y, x_new, _ = pictures()
    kernel, training, _, errors = effects(int(width))
    i = chosen(column, row)
    order = np.argsort(-training[:, i], kind="stable")
    low, high = x.min(), x.max()
    shown = x_new[np.concatenate([order[:SHOWN], order[::-1][:SHOWN]])]
    agreement = np.corrcoef(kernel.ravel(), training.ravel())[0, 1]
    return {
        "kernel": kernel[:, i],
        "training": training[:, i],
        "shown": as_grey(mosaic(shown, SHOWN), low, high),
        "place": np.array([column, row]),
        "number": np.asarray(i + 1),
        "is": np.asarray(CLASSES[int(y[i] > 0)]),
        "error": np.asarray(abs(errors[i])),
        "total": training[:, i].sum(),
        "all_totals": training.sum(0),
        "helped": (training[:, i] > 0).sum(),
        "agreement": np.asarray(agreement),
        "slope": (kernel * training).sum() / (kernel**2).sum(),
    }


def _square(column, row):
    around = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) / 2
    return column + around[:, 0], row + around[:, 1]


LIMIT = 0.42  # of the axes of help
EDGE = 0.5 + 0.5 / 9  # a picture and half a line around it fill a square of side 1


def _build(fig, data):
    left, middle, right = plots.columns(fig, 1.6, 1.05, 1.0, label_room=(0, 0, 0.1), gap=0.75)
    x = pictures()[0]
    plots.frame(left, "column", "row", title="forty training pictures")
    plots.image(
        left,
        as_grey(mosaic(x, COLUMNS), x.min(), x.max()),
        limits=(0, 1),
        cmap="gray",
        extent=(EDGE, COLUMNS + 1 - EDGE, EDGE, ROWS + 1 - EDGE),
    )
    plots.frame(
        middle,
        "help, by the kernel",
        "help, by training again",
        xlim=(-LIMIT, LIMIT),
        ylim=(-LIMIT, LIMIT),
        title="sixty new pictures",
    )
    for ax in (left, right):
        ax.set_xticks([])
        ax.set_yticks([])
    for set_ticks in (middle.set_xticks, middle.set_yticks):
        set_ticks([-0.4, -0.2, 0, 0.2, 0.4], ["-0.4", "", "0", "", "0.4"])
    left.set_xlabel("")
    left.set_ylabel("")
    plots.line(middle, [-LIMIT, LIMIT], [-LIMIT, LIMIT], "guide")
    plots.frame(right, title="top: helped, below: harmed")
    shown = plots.image(right, data["shown"], limits=(0, 1), cmap="gray")
    right.set_xticks([])
    right.set_yticks([])
    marks = {
        "square": plots.line(left, *_square(*data["place"]), "ntk", linewidth=2.6, zorder=5, clip_on=False),
        "dots": plots.points(middle, data["kernel"], data["training"], "finite", markersize=4.5),
        "shown": shown,
    }
    _update(marks, data)
    return marks


def _update(artists, data):
    artists["square"].set(*_square(*data["place"]))
    inside = lambda values: np.clip(values, -LIMIT, LIMIT)
    artists["dots"].set(inside(data["kernel"]), inside(data["training"]))
    artists["shown"].set(data["shown"])


def _reading(data, state):
    return (
        f"Picture {int(data['number'])}, a {int(data['is'])}, width {state['width']:.0f}: it helps "
        f"{int(data['helped'])} of {N_NEW} new pictures, together by {float(data['total']):+.2f}; left out, it is "
        f"missed by {float(data['error']):.2f}. Kernel against training, all 40 pictures: correlation "
        f"{float(data['agreement']):.3f}, slope {float(data['slope']):.2f}."
    )


def who_helps() -> Panel:
    """Forty training pictures of 3 and 8; click one, and see what leaving it out does to sixty new ones.

    Koh and Liang 2017, Fig. 2 (left), for the comparison with training again; here the tangent kernel of the start.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "column": whole("column", 1, COLUMNS, 4),
            "row": whole("row, from below", 1, ROWS, 3),
            "width": choice("width", WIDTHS, 256, unit="units", log=True),
        },
        _reading,
        title="Whom does this picture help?",
        caption="Click a training picture. Middle: what it adds to the right answer at each new picture, by one row of "
        "the kernel and by training forty networks again. Right: the five that it helps most, the five that it harms.",
        drag=[("column", "row")],
        main=("column", "row"),
        baked=("column", "width"),
        baked_caption="Move along a row of training pictures. Middle: what the marked one adds to the right answer at "
        "each new picture, by the kernel and by training again. Right: the five that it helps most, and harms.",
        presets={"Narrow": {"width": WIDTHS[0]}, "Wide": {"width": WIDTHS[-1]}},
        size=(9.8, 3.3),
    )


# ---------------------------------------------------------------- ten pictures

LEARNT_ON, TESTED_ON, SUPPORT_RIDGE, RATE = 400, 600, 1e-3, 0.1
KEPT = (0, 1, 2, 3, 5, 8, 12, 17, 24, 34, 48, 68, 96, 136)
STARTS = ("noise", "real pictures", "class means")


@functools.cache
def many_digits():
    """Pictures and centred one-hot labels, to learn from (400) and to test on (600)."""
    found = digits(LEARNT_ON, TESTED_ON, key=jax.random.key(1), targets="centered")
    return tuple(np.asarray(part, dtype=float) for part in found)


def answers(support, x):
    """Kernel regression on ten pictures, one for each class: answers (n, 10)."""
    net = serial(Dense(1, 2**0.5, 0.1), Relu(), Dense(1, 1.0, 0.0))
    k = ntk(net, support)
    ridge = SUPPORT_RIDGE * jnp.trace(k) / 10
    return ntk(net, x, support) @ jnp.linalg.solve(k + ridge * jnp.eye(10, dtype=k.dtype), _labels(k.dtype))


def _labels(dtype):
    return jnp.asarray(np.eye(10) - 0.1, dtype)


@jax.jit
def _learnt(support, x, y):
    """Adam on the pictures, all steps: (steps, 10, 64). Nguyen et al. 2021, with the labels held."""

    def loss(support):
        return jnp.square(answers(support, x) - y).sum(1).mean() / 2

    def step(state, t):
        support, mean, square = state
        slope = jax.grad(loss)(support)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        move = mean / (1 - 0.9**t) / (jnp.sqrt(square / (1 - 0.999**t)) + 1e-8)
        return (support - RATE * move, mean, square), support

    zero = jnp.zeros_like(support)
    return jax.lax.scan(step, (support, zero, zero), jnp.arange(1.0, KEPT[-1] + 2))[1]


@jax.jit
def _right(support, x, y):
    return (answers(support, x).argmax(1) == y.argmax(1)).mean()


def starts():
    """Ten pictures to begin with, (3, 10, 64): noise, the first of each class, the mean of each class."""
    x, y, *_ = many_digits()
    labels = y.argmax(1)
    first = np.stack([x[labels == c][0] for c in range(10)])
    means = np.stack([x[labels == c].mean(0) for c in range(10)])
    return np.stack([np.random.default_rng(0).standard_normal((10, 64)), first, means])


@functools.cache
def learnt():
    """Pictures (3, kept, 10, 64) and the share of right answers (3, kept), for each start."""
    x, y, x_test, y_test = many_digits()
    kept = np.stack([np.asarray(_learnt(one, x, y))[list(KEPT)] for one in starts()])
    right = np.array([[float(_right(one, x_test, y_test)) for one in run] for run in kept])
    return kept.astype(float), right


def support_arrays(step, start):
    """What the panel draws: ten pictures, and right answers over the steps."""
    kept, right = learnt()
    at, i = KEPT.index(int(step)), int(start)
    x = many_digits()[0]
    return {
        "pictures": as_grey(mosaic(kept[i, at], 5), x.min(), x.max()),
        "steps": np.arange(len(KEPT), dtype=float),
        "right": right[i],
        "now": np.asarray(float(at)),
        "here": np.asarray(right[i, at]),
        "means": np.asarray(right[2, 0]),
        "moved": np.sqrt(((kept[i, at] - kept[i, 0]) ** 2).mean()),
    }


def _build_support(fig, data):
    left, right = plots.columns(fig, 1.5, 1, label_room=(0, 0.95), gap=0.8)
    plots.frame(left, title="ten pictures, one for each digit")
    shown = plots.image(left, data["pictures"], limits=(0, 1), cmap="gray")
    left.set_xticks([])
    left.set_yticks([])
    ticks = [i for i, step in enumerate(KEPT) if step in (0, 1, 3, 8, 24, 68, 136)]
    plots.frame(
        right, "step", "", xlim=(-0.4, len(KEPT) - 0.6), ylim=(0, 1), title=f"right answers on {TESTED_ON} others"
    )
    right.set_xticks(ticks, [str(KEPT[i]) for i in ticks])
    right.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    plots.line(right, [-0.4, len(KEPT) - 0.6], [data["means"]] * 2, "guide", label="class means")
    return {
        "pictures": shown,
        "right": plots.line(right, data["steps"], data["right"], "ntk"),
        "here": plots.points(right, [data["now"]], [data["here"]], "ntk", markersize=8),
    }


def _update_support(artists, data):
    artists["pictures"].set(data["pictures"])
    artists["right"].set(data["steps"], data["right"])
    artists["here"].set([data["now"]], [data["here"]])


def _read_support(data, state):
    return (
        f"Start: {STARTS[int(state['start'])]}, step {state['step']:.0f}: kernel regression on these ten pictures "
        f"alone is right on {float(data['here']):.1%} of {TESTED_ON} others (on class means "
        f"{float(data['means']):.1%}); "
        f"a pixel has moved by {float(data['moved']):.2f} standard deviations."
    )


def ten_pictures() -> Panel:
    """A training set of ten pictures, learnt by descent through the kernel; from three starts.

    Nguyen, Chen, Lee 2021 (KIP), with fixed labels and a ReLU kernel of one hidden layer.
    """
    return Panel(
        support_arrays,
        _build_support,
        _update_support,
        {
            "step": choice("step", KEPT, 0, play=True),
            "start": choice("start", (0, 1, 2), 1, names=STARTS),
        },
        _read_support,
        title="Ten pictures that a kernel has drawn.",
        caption="Press play: the ten pictures are the whole training set of the kernel, and they are what is learnt. "
        "Watch the right answers pass those of ten class means.",
        presets={"From noise": {"start": 0, "step": KEPT[-1]}, "Learnt": {"start": 1, "step": KEPT[-1]}},
        size=(9.2, 3.3),
        warm=[],
    )
