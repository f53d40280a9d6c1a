"""Chapter 11: six frequencies on the circle, learnt one after the other; and a picture, learnt pixel by pixel.

The 64 training points are evenly spaced, so the infinite network's kernel is circulant and its training is one formula
for each frequency. The finite network has one hidden ReLU layer of the same scales, in float32; its output at the start
is subtracted, so that both start at zero. Its weights are drawn once at the largest width: width and bias are numbers,
two sizes of arrays are compiled, and the twelve runs are made when the panel is built. The picture is learnt by the
infinite network alone, on Fourier features of the place of a pixel; one eigendecomposition for each bandwidth gives all
times.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .. import plots
from ..data import circle
from ..networks.activations import Relu
from ..networks.kernel import ntk
from ..networks.layers import Dense, serial
from ..panel import Panel, choice, powers_of_two, toggle
from .masked_network import Sizes, descended, draw, first_units, gradient, recorded, signals

SCALE, B_STD, LR = 2**0.5, 1.0, 0.5  # of both affine maps; of the hidden biases where there are any; on the mean loss
NARROWEST, WIDEST = 16, 512
ARRAYS = (64, WIDEST)  # units that are computed, of which `width` count
STEPS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
FREQUENCIES = np.arange(1, 7)
PHASES = np.pi * FREQUENCIES**2 / len(FREQUENCIES)  # Schroeder's, so that no point has all peaks
AMPLITUDE = 0.1  # small: a finite network then stays near its linearization
ANGLE, X = (np.asarray(part) for part in circle(64))
Y = AMPLITUDE * np.cos(np.outer(ANGLE, FREQUENCIES) + PHASES).sum(1)


def shares(outputs):
    """How much of each frequency of the target is learnt, (..., 6), for outputs (..., 64): 0 nothing, 1 all."""
    target = np.fft.rfft(Y)[FREQUENCIES]
    learnt = np.fft.rfft(outputs)[..., FREQUENCIES]
    return (learnt * target.conj()).real / np.abs(target) ** 2


@functools.cache
def eigenvalues(bias):
    """Of the infinite network's kernel over n, (33,), by frequency: the Fourier coefficients of its first row."""
    net = serial(Dense(1, SCALE, B_STD if bias else 0.0), Relu(), Dense(1, SCALE, 0.0))
    return np.fft.rfft(np.asarray(ntk(net, jnp.asarray(X[:1]), jnp.asarray(X)))[0]).real / len(X)


@jax.jit
def _trained(params, x, y, steps, width, b_std):
    """Outputs at the training points at each of `steps`, less those at the start, (steps, points)."""
    sizes = Sizes(width, 1, (SCALE, b_std), (SCALE, 0.0), (SCALE, 0.0))
    outputs = lambda params: signals(params, x, sizes, Relu().phi).f
    start = outputs(params)

    def once(_, params):
        s = signals(params, x, sizes, Relu().phi)
        return descended(params, gradient(params, x, s, (s.f - start - y) / len(x), sizes), LR)

    return recorded(once, params, steps, lambda params: outputs(params) - start)


@functools.cache
def _network():
    return jax.tree.map(lambda leaf: leaf[0], draw(11, 2, WIDEST, 1, 1))


@functools.lru_cache(maxsize=64)
def _runs(width, bias):
    x, y = jnp.asarray(X, dtype=jnp.float32), jnp.asarray(Y, dtype=jnp.float32)
    params = first_units(_network(), width, ARRAYS)
    return np.asarray(_trained(params, x, y, jnp.asarray(STEPS), width, B_STD * bias), dtype=float)


def arrays(t, width, bias):
    """What the panel draws at one setting: both functions at step t, and what they learnt of each frequency."""
    network = _runs(float(width), float(bias))[STEPS.index(int(t))]
    left = (1 - LR * eigenvalues(bool(bias))) ** t
    infinite = np.fft.irfft((1 - left) * np.fft.rfft(Y))
    return {
        "network": network,
        "infinite": infinite,
        "share_network": shares(network),
        "share_infinite": shares(infinite),
    }


def _build(fig, data):
    left, right = plots.columns(fig, 1.5, 1, label_room=(0.95, 0.85), gap=0.75)
    plots.frame(left, "angle on the circle (rad)", "output f", xlim=(-np.pi, np.pi), ylim=(-0.5, 0.5))
    left.set_xticks(np.pi * np.arange(-2, 3) / 2, ["−π", "−π/2", "0", "π/2", "π"])
    plots.frame(right, "frequency k", title="share of it that is learnt", xlim=(0.5, 6.5), ylim=(-0.15, 1.25))
    right.set_xticks(FREQUENCIES)
    plots.horizontal(right, 1.0)
    plots.points(left, ANGLE, Y, "data", markersize=3)
    return {
        "infinite": plots.line(left, ANGLE, data["infinite"], "ntk", label="infinite"),
        "network": plots.line(left, ANGLE, data["network"], "finite", label="network", linewidth=1.6),
        "share_infinite": plots.line(right, FREQUENCIES, data["share_infinite"], "ntk", marker="D", label="infinite"),
        "share_network": plots.points(right, FREQUENCIES, data["share_network"], "finite"),
    }


def _update(artists, data):
    for name in ("infinite", "network"):
        artists[name].set(ANGLE, data[name])
        artists[f"share_{name}"].set(FREQUENCIES, data[f"share_{name}"])


def _reading(data, state):
    percent = lambda shares: ", ".join(f"{100 * abs(share) * (share > 0):.0f}" for share in shares)
    return (
        f"Step {state['t']:.0f}, {'with' if state['bias'] else 'no'} biases, width {state['width']:.0f}: "
        f"learnt of the frequencies 1 to 6: {percent(data['share_infinite'])} % (infinite), "
        f"{percent(data['share_network'])} % (network)."
    )


def spectral_bias() -> Panel:
    """One network and the infinite one learn a sum of six frequencies of equal size on the circle; over time.

    Rahaman et al. 2019, Fig. 1, on the circle of Basri et al. 2019.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "t": choice("step", STEPS, 48, play=True),
            "width": powers_of_two("width", NARROWEST, WIDEST, 256, unit="units"),
            "bias": toggle("biases in the hidden layer", True),
        },
        _reading,
        title="Six frequencies, one after the other.",
        caption="Press play, or drag the step. Left: the target (dots), the network (blue) and the infinite network "
        "(orange). Right: how much of each frequency they have learnt. Then drag width.",
        presets={"Early": {"t": 8}, "Late": {"t": 1024}, "Narrow": {"width": NARROWEST}},
        warm=[{"width": 2.0**i, "bias": bias} for i in range(4, 10) for bias in (0, 1)],
    )


# ---------------------------------------------------------------- a picture, pixel by pixel

SIDE, HIDDEN = 32, 3
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # standard deviation of the frequencies, cycles per picture
TIMES = (1.0, 10.0, 100.0, 1e3, 1e4)  # of gradient flow on the mean loss


@functools.cache
def picture():
    """Grey values (32, 32) between -1 and 1: the middle of china.jpg in scikit-learn (danielbuechele, CC BY 2.0)."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg")[5:421, 112:528].mean(-1)
    return grey.reshape(SIDE, 416 // SIDE, SIDE, 416 // SIDE).mean((1, 3)) / 127.5 - 1


PLACES = np.stack(np.meshgrid(*[np.arange(SIDE) / SIDE] * 2, indexing="ij"), -1).reshape(-1, 2)
IS_TRAIN = ((np.arange(SIDE)[:, None] % 2 == 0) & (np.arange(SIDE) % 2 == 0)).ravel()  # a quarter of the pixels


def relu_ntk(u, hidden):
    """NTK of a ReLU network without biases between unit inputs of cosine u; the inputs themselves have 1."""
    cosine, theta = np.clip(u, -1.0, 1.0), np.asarray(u, dtype=float)
    for _ in range(hidden):
        angle = np.arccos(cosine)
        slope, cosine = 1 - angle / np.pi, (np.sin(angle) + (np.pi - angle) * cosine) / np.pi
        cosine = np.clip(cosine, -1.0, 1.0)
        theta = cosine + theta * slope
    return theta


def features_cosine(one, two, bandwidth):
    """Inner product of infinitely many Fourier features with frequencies from N(0, bandwidth^2): (m, n)."""
    distance = ((one[:, None] - two[None]) ** 2).sum(-1)
    return np.exp(-2 * (np.pi * bandwidth) ** 2 * distance)


@functools.lru_cache(maxsize=16)
def _spectrum(bandwidth):
    """Eigenvalues over n, eigenvectors times their targets, and the kernel of all pixels with the training pixels."""
    k = relu_ntk(features_cosine(PLACES, PLACES[IS_TRAIN], bandwidth), HIDDEN)
    lam, q = np.linalg.eigh(k[IS_TRAIN] / IS_TRAIN.sum())
    return np.maximum(lam, 0), k @ q / IS_TRAIN.sum(), q.T @ picture().ravel()[IS_TRAIN]


@functools.lru_cache(maxsize=64)
def _fit(bandwidth, time):
    lam, k, y = _spectrum(bandwidth)
    learnt = np.where(lam > 1e-12, -np.expm1(-lam * time) / np.maximum(lam, 1e-12), time)
    return k @ (learnt * y)


def psnr(outputs, chosen):
    """Peak signal over noise in dB, on the pixels `chosen`; the peak is 2, from black to white."""
    return 10 * np.log10(4 / ((outputs - picture().ravel())[chosen] ** 2).mean())


def image_arrays(bandwidth, time):
    """The picture as it is learnt, and the quality on training and on test pixels at every bandwidth."""
    fits = [_fit(b, time) for b in BANDWIDTHS]
    at = BANDWIDTHS.index(bandwidth)
    return {
        "picture": np.clip(fits[at], -1, 1).reshape(SIDE, SIDE),
        "train": np.array([min(psnr(fit, IS_TRAIN), 60.0) for fit in fits]),
        "test": np.array([psnr(fit, ~IS_TRAIN) for fit in fits]),
        "at": np.asarray(at),
    }


def _build_image(fig, data):
    left, middle, right = plots.columns(fig, 1, 1, 1.15, label_room=(0, 0.3, 0.6), gap=0.3)
    for ax, title in ((left, "the picture"), (middle, "from a quarter of it")):
        plots.frame(ax, title=title)
        ax.set_xticks([])
        ax.set_yticks([])
    plots.image(left, picture(), limits=(-1, 1), cmap="gray")
    learnt = plots.image(middle, data["picture"], limits=(-1, 1), cmap="gray")
    plots.frame(right, "bandwidth", title="quality (dB)", xscale="log", xlim=(0.2, 20), ylim=(5, 65))
    right.set_xticks([0.25, 1, 4, 16], ["0.25", "1", "4", "16"])
    right.minorticks_off()
    return {
        "picture": learnt,
        "train": plots.line(right, BANDWIDTHS, data["train"], "data", label="training"),
        "test": plots.line(right, BANDWIDTHS, data["test"], "ntk", marker="D", label="test"),
        "now": plots.vertical(right, BANDWIDTHS[int(data["at"])]),
    }


def _update_image(artists, data):
    artists["picture"].set(data["picture"])
    for name in ("train", "test"):
        artists[name].set(BANDWIDTHS, data[name])
    artists["now"].set(BANDWIDTHS[int(data["at"])])


def _read_image(data, state):
    at = int(data["at"])
    return (
        f"Bandwidth {state['bandwidth']:g} cycles, time {state['time']:g}: {data['train'][at]:.1f} dB on the training "
        f"pixels, {data['test'][at]:.1f} dB on the others; best bandwidth {BANDWIDTHS[data['test'].argmax()]:g}."
    )


def image_bandwidth() -> Panel:
    """An infinite ReLU network on Fourier features learns the grey value of a pixel from its place.

    Tancik et al. 2020, Fig. 1, in the limit of many random features.
    """
    return Panel(
        image_arrays,
        _build_image,
        _update_image,
        {
            "bandwidth": choice("bandwidth", BANDWIDTHS, 1.0, unit="cycles", log=True),
            "time": choice("time of training", TIMES, 1e3, log=True),
        },
        _read_image,
        title="A picture, pixel by pixel.",
        caption="Drag the bandwidth of the Fourier features: too small blurs, too large leaves the pixels in between "
        "grey. Then drag the time of training.",
        warm=[{"time": time} for time in TIMES],
    )
