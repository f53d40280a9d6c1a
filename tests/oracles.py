"""Slow and obvious versions of what the library computes fast: numpy only, explicit loops, nothing of ntkbook.

Three rooms: Gaussian averages by quadrature; kernels of one pair of inputs, layer by layer, as loops over positions;
and finite differences. A kernel here is a `Pair`: the covariances of the signals of two inputs x and y, with one axis
of positions each (a single position for flat data).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

# Gaussian averages ----------------------------------------------------------------------------------------------------


def graded_nodes(end: float, smallest: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre panels on [0, end] that halve towards 0, the last below `smallest`."""
    edges = [end]
    while edges[-1] > smallest:
        edges.append(edges[-1] / 2)
    edges = np.array([*edges, 0.0])[::-1]
    x, w = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


def gaussian_average(f: Callable, q: float, order: int = 30) -> float:
    """E[f(u)] for u ~ N(0, q); f may have a kink or a jump at zero."""
    z, w = graded_nodes(11.0, 1e-3 / (1 + math.sqrt(q)), order)
    density = w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    s = math.sqrt(q)
    return float(density @ (f(s * z) + f(-s * z)))


def gaussian_pair_average(f: Callable, q1: float, q2: float, k: float, order: int = 14) -> float:
    """E[f(u, v)] for u, v Gaussian with variances q1, q2 and covariance k; f may jump where u or v is zero.

    In polar coordinates u = s1 r cos t, v = s2 r cos(t - angle): the signs change on four rays, and the panels are
    graded towards these rays and towards r = 0, so that steep functions (large variances) are resolved too.
    """
    s1, s2 = math.sqrt(q1), math.sqrt(q2)
    angle = math.atan2(math.sqrt(max((s1 * s2 - k) * (s1 * s2 + k), 0.0)), k)
    smallest = 0.05 / (1 + s1 + s2)
    r, wr = graded_nodes(10.0, smallest, order)
    wr = wr * r * np.exp(-r * r / 2) / (2 * math.pi)
    total = 0.0
    for start, length in ((-math.pi / 2, angle), (angle - math.pi / 2, math.pi - angle)):
        if length == 0:
            continue
        half, wt = graded_nodes(length / 2, smallest, order)
        for t in (start + half, start + length - half):
            u, v = s1 * np.outer(r, np.cos(t)), s2 * np.outer(r, np.cos(t - angle))
            total += wr @ (f(u, v) + f(-u, -v)) @ wt
    return float(total)


def dual(phi: Callable, slope: Callable, q1: float, q2: float, k: float) -> tuple[float, float]:
    """(E[phi(u) phi(v)], E[phi'(u) phi'(v)]), the slope given apart."""
    T = gaussian_pair_average(lambda u, v: phi(u) * phi(v), q1, q2, k)
    return T, gaussian_pair_average(lambda u, v: slope(u) * slope(v), q1, q2, k)


def erf(x):
    return np.vectorize(math.erf, otypes=[float])(x)


def normal_cdf(x):
    return (1 + erf(np.asarray(x) / math.sqrt(2))) / 2


def normal_density(x):
    return np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)


def relu_dual(q1: float, q2: float, k: float) -> tuple[float, float]:
    """Cho and Saul 2009, orders 1 and 0."""
    root = math.sqrt(q1 * q2)
    angle = math.acos(min(max(k / root, -1), 1)) if root else math.pi / 2
    arc = math.sin(angle) + (math.pi - angle) * math.cos(angle)
    return root * arc / (2 * math.pi), (math.pi - angle) / (2 * math.pi)


def erf_dual(q1: float, q2: float, k: float) -> tuple[float, float]:
    """Williams 1997, eq. 11."""
    P = (1 + 2 * q1) * (1 + 2 * q2)
    return 2 / math.pi * math.asin(2 * k / math.sqrt(P)), 4 / math.pi / math.sqrt(P - 4 * k * k)


# Kernels of one pair of inputs ----------------------------------------------------------------------------------------


@dataclass
class Pair:
    """Kernels between all positions of two inputs x and y: nngp and ntk (p, p'), and those of x and of y alone."""

    shape: tuple[int, ...]  # of the positions: (), (s,) or (h, w)
    width: int
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    ntk_xx: np.ndarray
    ntk_xy: np.ndarray
    ntk_yy: np.ndarray

    def map(self, rule: Callable, **changes) -> "Pair":
        """`rule(nngp, ntk) -> (nngp, ntk)` on all three pairs."""
        xx, ntk_xx = rule(self.xx, self.ntk_xx)
        xy, ntk_xy = rule(self.xy, self.ntk_xy)
        yy, ntk_yy = rule(self.yy, self.ntk_yy)
        return replace(self, xx=xx, xy=xy, yy=yy, ntk_xx=ntk_xx, ntk_xy=ntk_xy, ntk_yy=ntk_yy, **changes)


def inputs(x, y) -> Pair:
    """Two inputs with their channels last: flat (d,), sequences (s, d) or images (h, w, d)."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    shape, d = x.shape[:-1], x.shape[-1]
    a, b = x.reshape(-1, d), y.reshape(-1, d)
    zero = np.zeros((len(a), len(a)))
    return Pair(shape, d, a @ a.T / d, a @ b.T / d, b @ b.T / d, zero, zero, zero)


def dense(pair: Pair, width: int, W_std=1.0, b_std=0.0, parameterization="ntk") -> Pair:
    """A linear map of the channels at each position."""
    return affine(pair, lambda array: array, pair.width, width, W_std, b_std, parameterization)


def affine(pair, mean, fan_in, width, W_std, b_std, parameterization, **changes) -> Pair:
    b2 = 0.0 if b_std is None else b_std**2

    def rule(nngp, ntk):
        new = W_std**2 * mean(nngp) + b2
        if parameterization == "ntk":
            own = new
        else:
            own = fan_in * mean(nngp) + (0 if b_std is None else 1)
        return new, own + W_std**2 * mean(ntk)

    return pair.map(rule, width=width, **changes)


def activation(pair: Pair, dual: Callable) -> Pair:
    """An elementwise function whose dual is `dual(q1, q2, k) -> (T, Tdot)` on plain floats."""

    def rule_of(q1, q2):
        def rule(nngp, ntk):
            new, new_ntk = np.zeros_like(nngp), np.zeros_like(ntk)
            for a, b in np.ndindex(nngp.shape):
                new[a, b], slope = dual(q1[a], q2[b], nngp[a, b])
                new_ntk[a, b] = slope * ntk[a, b]
            return new, new_ntk

        return rule

    q1, q2 = np.diag(pair.xx), np.diag(pair.yy)
    xx, ntk_xx = rule_of(q1, q1)(pair.xx, pair.ntk_xx)
    xy, ntk_xy = rule_of(q1, q2)(pair.xy, pair.ntk_xy)
    yy, ntk_yy = rule_of(q2, q2)(pair.yy, pair.ntk_yy)
    return replace(pair, xx=xx, xy=xy, yy=yy, ntk_xx=ntk_xx, ntk_xy=ntk_xy, ntk_yy=ntk_yy)


def layer_norm(pair: Pair, eps: float = 1e-12) -> Pair:
    """Each signal divided by its standard deviation over channels."""
    sx, sy = np.sqrt(np.diag(pair.xx) + eps), np.sqrt(np.diag(pair.yy) + eps)

    def scaled(array, s1, s2):
        return array / s1[:, None] / s2[None, :]

    return replace(
        pair,
        xx=scaled(pair.xx, sx, sx),
        xy=scaled(pair.xy, sx, sy),
        yy=scaled(pair.yy, sy, sy),
        ntk_xx=scaled(pair.ntk_xx, sx, sx),
        ntk_xy=scaled(pair.ntk_xy, sx, sy),
        ntk_yy=scaled(pair.ntk_yy, sy, sy),
    )


def residual(pair: Pair, branch: Callable) -> Pair:
    """x + branch(x), for a branch that ends in random weights."""
    other = branch(pair)
    names = ("xx", "xy", "yy", "ntk_xx", "ntk_xy", "ntk_yy")
    return replace(pair, **{name: getattr(pair, name) + getattr(other, name) for name in names})


# Positions: a window is the list of input positions that one output position reads; None stands for padding -----------


def windows_along(n: int, size: int, stride: int, padding: str) -> list[list[int | None]]:
    """The windows of one axis, as XLA lays them out."""
    if padding == "VALID":
        n_out, before = (n - size) // stride + 1, 0
    else:
        n_out = -(-n // stride)
        before = max((n_out - 1) * stride + size - n, 0) // 2
    windows = []
    for i in range(n_out):
        reads = [i * stride - before + offset for offset in range(size)]
        if padding == "CIRCULAR":
            windows.append([j % n for j in reads])
        else:
            windows.append([j if 0 <= j < n else None for j in reads])
    return windows


def windows(shape, sizes, strides, padding) -> tuple[tuple[int, ...], list[list[int | None]]]:
    """The shape of the output positions, and for each the flat input positions in its window."""
    axes = [windows_along(n, size, stride, padding) for n, size, stride in zip(shape, sizes, strides)]
    out_shape = tuple(len(axis) for axis in axes)
    result = []
    for index in np.ndindex(out_shape):
        reads = [axis[i] for axis, i in zip(axes, index)]
        window = []
        for offsets in np.ndindex(*(len(read) for read in reads)):
            place = [read[offset] for read, offset in zip(reads, offsets)]
            window.append(None if None in place else int(np.ravel_multi_index(place, shape)))
        result.append(window)
    return out_shape, result


def conv(
    pair: Pair, channels, filter_shape, strides=None, padding="SAME", W_std=1.0, b_std=0.0, parameterization="ntk"
) -> Pair:
    """One weight for each place in the window, shared by all positions: the two windows meet place by place."""
    strides = strides or (1,) * len(filter_shape)
    shape, reads = windows(pair.shape, filter_shape, strides, padding)
    size = math.prod(filter_shape)

    def mean(array):
        out = np.zeros((len(reads), len(reads)))
        for a, window_a in enumerate(reads):
            for b, window_b in enumerate(reads):
                for i, j in zip(window_a, window_b):
                    if i is not None and j is not None:
                        out[a, b] += array[i, j] / size
        return out

    return affine(pair, mean, pair.width * size, channels, W_std, b_std, parameterization, shape=shape)


def avg_pool(pair: Pair, window_shape, strides=None) -> Pair:
    """The mean over each window: every pair of places in the two windows counts."""
    shape, reads = windows(pair.shape, window_shape, strides or window_shape, "VALID")

    def rule(nngp, ntk):
        out = [np.zeros((len(reads), len(reads))) for _ in range(2)]
        for a, window_a in enumerate(reads):
            for b, window_b in enumerate(reads):
                for i in window_a:
                    for j in window_b:
                        out[0][a, b] += nngp[i, j] / (len(window_a) * len(window_b))
                        out[1][a, b] += ntk[i, j] / (len(window_a) * len(window_b))
        return out[0], out[1]

    return pair.map(rule, shape=shape)


def global_avg_pool(pair: Pair) -> Pair:
    """The mean over all positions."""
    return pair.map(lambda nngp, ntk: (np.full((1, 1), nngp.mean()), np.full((1, 1), ntk.mean())), shape=())


def flatten(pair: Pair) -> Pair:
    """All positions side by side as channels: a covariance per channel is then the mean over equal positions."""

    def trace(array):
        return np.full((1, 1), np.diag(array).mean())

    size = math.prod(pair.shape)
    return pair.map(lambda nngp, ntk: (trace(nngp), trace(ntk)), shape=(), width=pair.width * size)


# Attention: Hron et al. 2020 ------------------------------------------------------------------------------------------


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention_linear(pair: Pair, zeta: Callable, QK: float, OV: float, b_std: float, weights_from=None) -> Pair:
    """Scaling 1/d with tied queries and keys: the scores are constants. QK, OV are products of standard deviations.

    `weights_from(nngp)` mixes positional encodings into the covariance that the scores see.
    """
    see = weights_from or (lambda nngp: nngp)
    Z_x, Z_y = zeta(QK * see(pair.xx)), zeta(QK * see(pair.yy))

    def rule_of(left, right):
        def rule(nngp, ntk):
            n = len(nngp)
            values, tangents = np.zeros((n, n)), np.zeros((n, n))
            for a in range(n):
                for b in range(n):
                    for c in range(n):
                        for d in range(n):
                            values[a, b] += OV**2 * left[a, c] * nngp[c, d] * right[b, d]
                            tangents[a, b] += OV**2 * left[a, c] * ntk[c, d] * right[b, d]
            return values + b_std**2, tangents + 2 * values + b_std**2

        return rule

    xx, ntk_xx = rule_of(Z_x, Z_x)(pair.xx, pair.ntk_xx)
    xy, ntk_xy = rule_of(Z_x, Z_y)(pair.xy, pair.ntk_xy)
    yy, ntk_yy = rule_of(Z_y, Z_y)(pair.yy, pair.ntk_yy)
    return replace(pair, xx=xx, xy=xy, yy=yy, ntk_xx=ntk_xx, ntk_xy=ntk_xy, ntk_yy=ntk_yy)


def attention_sqrt(pair: Pair, dual: Callable, QK: float, OV: float, b_std: float) -> Pair:
    """Scaling 1/sqrt(d) with independent queries and keys: the scores are Gaussian, with covariance QK^2 K_ab K_cd.

    `dual(q1, q2, k)` is that of zeta, the function of the scores.
    """

    def rule_of(q1, q2):
        def rule(nngp, ntk):
            n = len(nngp)
            new, new_ntk = np.zeros((n, n)), np.zeros((n, n))
            for a in range(n):
                for b in range(n):
                    for c in range(n):
                        for d in range(n):
                            T, Tdot = dual(
                                QK**2 * q1[a] * q1[c], QK**2 * q2[b] * q2[d], QK**2 * nngp[a, b] * nngp[c, d]
                            )
                            new[a, b] += OV**2 * T * nngp[c, d]
                            through_scores = (
                                2 * nngp[a, b] * nngp[c, d] + ntk[a, b] * nngp[c, d] + nngp[a, b] * ntk[c, d]
                            )
                            new_ntk[a, b] += OV**2 * (2 * T * nngp[c, d] + T * ntk[c, d])
                            new_ntk[a, b] += OV**2 * QK**2 * nngp[c, d] * Tdot * through_scores
            return new + b_std**2, new_ntk + b_std**2

        return rule

    q1, q2 = np.diag(pair.xx), np.diag(pair.yy)
    xx, ntk_xx = rule_of(q1, q1)(pair.xx, pair.ntk_xx)
    xy, ntk_xy = rule_of(q1, q2)(pair.xy, pair.ntk_xy)
    yy, ntk_yy = rule_of(q2, q2)(pair.yy, pair.ntk_yy)
    return replace(pair, xx=xx, xy=xy, yy=yy, ntk_xx=ntk_xx, ntk_xy=ntk_xy, ntk_yy=ntk_yy)


# Matrices of kernels, and finite differences --------------------------------------------------------------------------


def matrices(x1, x2, network: Callable) -> tuple[np.ndarray, np.ndarray]:
    """(nngp, ntk), each (n1, n2) and then the positions that are left, pair by pair."""
    nngp, ntk = [], []
    for x in np.asarray(x1, float):
        out = [network(inputs(x, y)) for y in np.asarray(x2, float)]
        nngp.append([pair.xy for pair in out])
        ntk.append([pair.ntk_xy for pair in out])
    return _unwrap(np.array(nngp)), _unwrap(np.array(ntk))


def _unwrap(array):
    return array[..., 0, 0] if array.shape[-2:] == (1, 1) else array


def difference_quotient(f: Callable, x: float, h: float = 1e-3) -> np.ndarray:
    """df/dx by central differences at h and h/2, extrapolated: error of order h^4."""

    def central(h):
        return (np.asarray(f(x + h), float) - np.asarray(f(x - h), float)) / (2 * h)

    return (4 * central(h / 2) - central(h)) / 3


# Kernels of many inputs ----------------------------------------------------------------------------------------------


def erf_kernels(x1, x2, W1=1.5, b1=0.3, W2=1.2, b2=0.2):
    """(NNGP, NTK) of one hidden layer of erf: Williams 1997, eq. 11, and its derivative."""
    first = lambda a, b: W1**2 * (a @ b.T) / a.shape[1] + b1**2
    k, v1, v2 = first(x1, x2), np.diagonal(first(x1, x1)), np.diagonal(first(x2, x2))
    size = np.outer(1 + 2 * v1, 1 + 2 * v2)
    nngp = W2**2 * 2 / np.pi * np.arcsin(2 * k / np.sqrt(size)) + b2**2
    return nngp, nngp + W2**2 * 4 / np.pi / np.sqrt(size - 4 * k**2) * k
