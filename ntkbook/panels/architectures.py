"""Chapter 15: a digit that is shifted, seen by four architectures. `key_token.py` has the chapter's attention.

The kernels are kept for each place p of an image and each offset d to a place of the other. A
convolution on a torus moves both places together, so every offset is on its own: offset d, averaged over p, is the
kernel of Flatten for an image shifted by d, and the mean over all offsets is that of pooling. All in numpy, once.
"""

import functools

import numpy as np

from .. import plots
from ..data import digits
from ..panel import Panel, choice, whole

SIDE, N_TRAIN, W2, B2 = 8, 60, 2.0, 0.01
NETWORKS = ("fully connected", "Flatten", "pools by 2", "pools at the end")
PLACES = np.arange(SIDE)
BEHIND = (PLACES[:, None] + PLACES) % SIDE  # the place p + d


# ---------------------------------------------------------------- kernels of pairs of images


def relu_step(k, theta, q1, q2):
    """Both kernels after a ReLU, from those before it and the variances of both sides."""
    size = np.sqrt(q1 * q2)
    cosine = np.clip(k / size, -1, 1)
    slope = (np.pi - np.arccos(cosine)) / (2 * np.pi)
    return size * (np.sqrt(1 - cosine * cosine) / (2 * np.pi) + cosine * slope), slope * theta


def _affine(k, theta):
    k = W2 * k + B2
    return k, k + W2 * theta


def _mean3(array, axes):
    """The mean of three neighbours on the torus, moved along all `axes` of one direction together, for each one."""
    for direction in axes:
        array = (array + np.roll(array, 1, direction) + np.roll(array, -1, direction)) / 3
    return array


def _roll_both(array):
    """As `_mean3`, for (n, s, s, s, s): places of one image, then of the other."""
    for a, b in ((1, 3), (2, 4)):
        array = (array + np.roll(array, (1, 1), (a, b)) + np.roll(array, (-1, -1), (a, b))) / 3
    return array


def _read_behind(array):
    """(n, 8, 8) at the places p + d: (n, p, p, d, d)."""
    return array[:, BEHIND[:, None, :, None], BEHIND[None, :, None, :]]


def _variances(x):
    """Of both convolutions, for images (n, 8, 8): each (n, 8, 8). Half of a variance passes a ReLU."""
    first = W2 * _mean3(x * x, (1, 2)) + B2
    return first, W2 * _mean3(first / 2, (1, 2)) + B2


def offsets_kernel(x1, x2):
    """Tangent kernel of two convolutions with ReLU, then Dense, of x1 (8, 8) and x2 (n, 8, 8) by offset: (n, 8, 8).

    Also both kernels after the first ReLU, by place and offset: (n, p, p, d, d).
    """
    k = x1[:, :, None, None] * _read_behind(x2)
    theta, after = np.zeros_like(k), []
    for q1, q2 in zip(_variances(x1[None]), _variances(x2)):
        k, theta = _affine(_mean3(k, (1, 2)), _mean3(theta, (1, 2)))
        k, theta = relu_step(k, theta, q1[..., None, None], _read_behind(q2))
        after.append((k, theta))
    return _affine(k.mean((1, 2)), theta.mean((1, 2)))[1], after[0]


def _by_places(array):
    """From (n, p, p, d, d) to places of both images, (n, p, p, p', p')."""
    d = (PLACES - PLACES[:, None]) % SIDE
    return array[:, PLACES[:, None, None, None], PLACES[None, :, None, None], d[:, None, :, None], d[None, :, None, :]]


def _pool2(array):
    """Means over 2 x 2 places of both images."""
    n, s = len(array), array.shape[1] // 2
    return array.reshape(n, s, 2, s, 2, s, 2, s, 2).mean((2, 4, 6, 8))


def _own(array):
    return np.einsum("nabab->nab", array)


def strided_kernel(first, own1, own2):
    """Tangent kernel (n,) of three convolutions with ReLU, each followed by 2 x 2 pooling, and Dense at the end.

    first: both kernels after the first ReLU, by places; own1, own2: the NNGP of each image with itself there.
    """
    k, theta = map(_pool2, first)
    own1, own2 = _pool2(own1), _pool2(own2)
    for _ in range(2):
        k, theta = _affine(_roll_both(k), _roll_both(theta))
        own1, own2 = (W2 * _roll_both(own) + B2 for own in (own1, own2))
        k, theta = relu_step(k, theta, _own(own1)[:, :, :, None, None], _own(own2)[:, None, None])
        own1, own2 = (
            relu_step(own, 0.0, _own(own)[:, :, :, None, None], _own(own)[:, None, None])[0] for own in (own1, own2)
        )
        k, theta, own1, own2 = map(_pool2, (k, theta, own1, own2))
    return _affine(k.mean((1, 2, 3, 4)), theta.mean((1, 2, 3, 4)))[1]


def dense_kernel(x1, x2):
    """Tangent kernel (n1, n2) of three Dense layers with ReLU between them, on all pixels."""
    k, q1, q2 = (W2 * value / x1.shape[1] + B2 for value in (x1 @ x2.T, (x1 * x1).sum(1), (x2 * x2).sum(1)))
    theta = k
    for _ in range(2):
        k, theta = _affine(*relu_step(k, theta, q1[:, None], q2))
        q1, q2 = (W2 * q / 2 + B2 for q in (q1, q2))
    return theta


# ---------------------------------------------------------------- a digit that is shifted


@functools.cache
def pictures():
    """(60 training pictures, their labels, one new picture of each digit): standardized, (n, 8, 8)."""
    data = digits(N_TRAIN, 200, images=True, targets="one_hot")
    x, y, x_new, y_new = (np.asarray(part, np.float32) for part in data)
    chosen = [int(np.flatnonzero(y_new.argmax(1) == label)[0]) for label in range(10)]
    return x[..., 0], y, x_new[chosen][..., 0]


@functools.cache
def kernels():
    """Of the four networks: (train, train), and for each new picture and shift (digit, dy, dx, train), and with itself.

    The convolutional network that pools by 2 is the same at shifts by 4, and computed up to there.
    """
    x, _, x_new = pictures()
    n, m = len(x), len(x_new)
    train, new, self = np.zeros((4, n, n)), np.zeros((4, m, SIDE, SIDE, n)), np.zeros((4, m, SIDE, SIDE))
    train[0] = dense_kernel(x.reshape(n, -1), x.reshape(n, -1))
    owns = np.concatenate([_by_places(offsets_kernel(image, image[None])[1][0]) for image in x])
    for i, image in enumerate(x):  # each pair once
        by_offset, first = offsets_kernel(image, x[i:])
        pairs = by_offset[:, 0, 0], strided_kernel(map(_by_places, first), owns[i : i + 1], owns[i:])
        for network, row in zip((1, 2, 3), (*pairs, by_offset.mean((1, 2)))):
            train[network, i, i:] = train[network, i:, i] = row
    for i, image in enumerate(x_new):
        with_itself, own = offsets_kernel(image, image[None])
        by_offset, first = offsets_kernel(image, x)
        new[1, i], self[1, i] = by_offset.transpose(1, 2, 0), with_itself[0]
        new[3, i], self[3, i] = by_offset.mean((1, 2)), with_itself.mean()
        first, own = [_by_places(array) for array in first], [_by_places(array) for array in own]
        for dy in PLACES:
            for dx in PLACES:
                moved = np.roll(image, (dy, dx), (0, 1)).reshape(1, -1)
                new[0, i, dy, dx] = dense_kernel(moved, x.reshape(n, -1))[0]
                self[0, i, dy, dx] = dense_kernel(moved, image.reshape(1, -1))[0, 0]
                if dy < 4 and dx < 4:
                    rolled = [np.roll(array, (dy, dx), (1, 2)) for array in first]
                    turned = np.roll(own[0], (dy, dx, dy, dx), (1, 2, 3, 4))
                    new[2, i, dy::4, dx::4] = strided_kernel(rolled, turned, owns)
                    rolled = [np.roll(array, (dy, dx), (1, 2)) for array in own]
                    self[2, i, dy::4, dx::4] = strided_kernel(rolled, turned, own[0])[0]
    return train, new, self


@functools.cache
def answers():
    """Scores of the ten classes, (network, digit, dy, dx, class): fully trained from zero, in closed form."""
    train, new, _ = kernels()
    _, y, _ = pictures()
    return np.stack([k_new @ np.linalg.solve(k, y - 0.1) for k, k_new in zip(train, new)])


def arrays(dx, dy, digit):
    """What the panel draws: the shifted picture, its kernel with the unshifted one along dx, and scores."""
    i, right, down = int(digit), int(dx) % SIDE, int(dy) % SIDE
    scores, self = answers(), kernels()[2]
    along = np.arange(-4, 5)
    return {
        "picture": np.roll(pictures()[2][i], (down, right), (0, 1)),
        "kernel": self[:, i, down, along % SIDE] / self[:, i, :1, 0],
        "here": self[:, i, down, right] / self[:, i, 0, 0],
        "scores": scores[:, i, down, right] + 0.1,
        "said": scores[:, i, down, right].argmax(1),
        "right": (scores[:, :, down, right].argmax(-1) == np.arange(10)).sum(1),
        "dx": np.asarray(dx),
    }


LOOKS = (
    {"marker": "o", "fillstyle": "none", "linestyle": (0, (1, 1.5))},
    {"marker": "s", "fillstyle": "none", "linestyle": (0, (5, 1.6))},
    {"marker": "^", "fillstyle": "none", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
    {"marker": "D", "linestyle": "solid"},
)


def _build(fig, data):
    left, middle, right = plots.columns(fig, 0.95, 1.2, 1.35, label_room=(0.0, 1.2, 0.1), gap=0.62)
    shown = plots.image(left, data["picture"], limits=(-0.82, 1.9), cmap="gray")
    plots.frame(left, title="the picture")
    left.set_xticks([])
    left.set_yticks([])
    plots.frame(middle, "shift to the right (pixels)", "", xlim=(-4, 4), ylim=(0, 1.08), title="kernel with itself")
    middle.set_xticks([-4, -2, 0, 2, 4])
    plots.frame(right, "class", "", xlim=(-0.6, 9.6), ylim=(-0.45, 1.25), title="score")
    right.set_xticks(range(10))
    right.set_yticks([0, 0.5, 1])
    marks = {"picture": shown, "curves": [], "dots": [], "now": plots.vertical(middle, data["dx"])}
    for i, (name, look) in enumerate(zip(NETWORKS, LOOKS)):
        line = {"linestyle": look["linestyle"], "linewidth": 2.4 if i == 3 else 1.4}
        curve = plots.line(middle, np.arange(-4, 5), data["kernel"][i], "ntk", label=name, **line, clip_on=False)
        marker = {"marker": look["marker"], "fillstyle": look.get("fillstyle", "full"), "markersize": 5}
        marks["curves"].append(curve)
        marks["dots"].append(plots.points(right, _beside(i), data["scores"][i], "ntk", **marker))
        place = -0.35 + 5.0 * (i % 2), 1.16 - 0.13 * (i // 2)
        plots.points(right, place[:1], place[1:], "ntk", **marker)
        plots.direct_label(right, place[0] + 0.25, place[1], name, "ntk", va="center", fontsize=8)
    return marks


def _beside(i):
    return np.arange(10) + 0.16 * (i - 1.5)


def _update(marks, data):
    marks["picture"].set(data["picture"])
    marks["now"].set(data["dx"])
    for i in range(4):
        marks["curves"][i].set(np.arange(-4, 5), data["kernel"][i])
        marks["dots"][i].set(_beside(i), np.clip(data["scores"][i], -0.45, 1.02))


def _reading(data, state):
    said = ", ".join(f"{name} says {label}" for name, label in zip(NETWORKS, data["said"]))
    right = ", ".join(str(int(count)) for count in data["right"])
    kernel = ", ".join(f"{value:.2f}" for value in data["here"])
    return (
        f"A {state['digit']:.0f}, {state['dx']:.0f} to the right and {state['dy']:.0f} down: {said}. "
        f"Right of ten digits: {right}. Kernel with itself: {kernel}."
    )


def shifted_digit() -> Panel:
    """A digit moved around an 8 x 8 torus, and the answers of four infinitely wide networks that saw none moved.

    Trained on 60 digits; fully connected, convolution with Flatten, with 2 x 2 pooling after each layer, and with
    pooling at the end. After Arora et al. 2019, whose CNTK has the second and the fourth.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "dx": whole("to the right", -4, 4, 0, unit="pixels"),
            "dy": whole("down", -4, 4, 0, unit="pixels"),
            "digit": choice("digit", [float(i) for i in range(10)], 3.0, names=[str(i) for i in range(10)]),
        },
        _reading,
        title="Shift the digit.",
        caption="Drag the picture to the right: what leaves on one side comes back on the other. See whose kernel "
        "with the unshifted picture falls, and whose scores (one mark for each class) stay.",
        presets={"One pixel": {"dx": 1, "dy": 0}, "Four pixels": {"dx": 4, "dy": 4}},
        size=(10.2, 3.4),
        warm=[],
    )
