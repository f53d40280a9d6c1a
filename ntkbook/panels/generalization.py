"""Chapter 13: the peak of double descent, and a ridge that removes it; what n examples teach of each degree.

Both curves are the library's closed forms, computed when a panel is built: the error is linear in the noise, so that
two runs give all of it. The dots are simulations of the same regressions, in numpy, with their means over the noise
and over the target's direction in closed form.
"""

import functools
from math import comb

import numpy as np

from .. import plots
from ..dynamics.learning_curves import learnability, learning_curve, random_features_error
from ..interop.bridge import precision
from ..networks.activations import Relu
from ..panel import Panel, choice, slider

# ---------------------------------------------------------------- double descent

D = 50  # dimensions of the simulation
RIDGES = tuple(10.0 ** (i / 2) for i in range(-8, 1))
SAMPLES = (1.0, 3.0, 6.0)  # examples over dimensions
RATIOS = 2.0 ** np.linspace(-2.5, 4.0, 79)  # features over examples; 1 is among them
RATIOS[np.abs(RATIOS - 1).argmin()] = 1.0
SIMULATED = np.array([0.2, 0.5, 0.8, 1.0, 1.26, 2.0, 4.0, 10.0])
TRIALS, TEST = 3, 200


def on_sphere(rng, m, d):
    """m points, uniform on the sphere of radius sqrt(d)."""
    x = rng.standard_normal((m, d))
    return x * (d**0.5 / np.linalg.norm(x, axis=1, keepdims=True))


def regression(rng, n_features, n, ridges, d=D, test=TEST):
    """Test errors (2, ridges) of one draw of ReLU features: by the signal, and by noise of variance 1.

    Means over all linear targets beta . x with |beta| = 1, and over the noise. Mei and Montanari's ridge.
    """
    theta, x, x_test = (on_sphere(rng, m, d) for m in (n_features, n, test))
    features, at_test = (np.maximum(points @ theta.T / d**0.5, 0) for points in (x, x_test))
    wide = n <= n_features
    lam, modes = np.linalg.eigh(features @ features.T if wide else features.T @ features)
    # predictions are `out` g `back` y, with g = 1/(lam + ridge) in the modes
    out = at_test @ (features.T @ modes if wide else modes)
    back = modes.T if wide else modes.T @ features.T
    signal, size = back @ x / d**0.5, (back**2).sum(1)
    errors = []
    for ridge in ridges:
        g = 1 / (np.maximum(lam, 0) + n * n_features * ridge / d)
        missed = (out * g) @ signal - x_test / d**0.5
        errors.append([(missed**2).sum() / test, ((out * g) ** 2 @ size).mean()])
    return np.array(errors).T


@functools.cache
def random_features():
    """(theory (2, samples, ridges, ratios), dots (2, samples, ridges, simulated, trials)): signal, noise of variance 1.

    The theory has more ridges than the slider: every second half step.
    """
    fine = 10.0 ** (np.arange(-32, 9) / 8)
    with precision():
        run = lambda samples, ridge, noise: np.asarray(
            random_features_error(Relu(), RATIOS * samples, samples, ridge=float(ridge), noise=noise)
        )
        theory = np.array([[[run(s, ridge, noise) for ridge in fine] for s in SAMPLES] for noise in (0.0, 1.0)])
    theory[1] -= theory[0]
    rng = np.random.default_rng(0)
    dots = [
        [[regression(rng, round(r * s * D), round(s * D), RIDGES) for _ in range(TRIALS)] for r in SIMULATED]
        for s in SAMPLES
    ]  # (samples, simulated, trials, 2, ridges)
    return theory, np.moveaxis(np.array(dots), (3, 4), (0, 2))


def arrays(ridge, noise, samples):
    """What the panel draws: error over features, its two parts, the best of all ridges, and the simulated dots."""
    theory, dots = random_features()
    i, j = SAMPLES.index(samples), RIDGES.index(ridge)
    signal, by_noise = theory[0, i, 4 * j], noise * theory[1, i, 4 * j]
    return {
        "error": signal + by_noise,
        "signal": signal,
        "noise": np.maximum(by_noise, 1e-9),  # below the floor
        "best": (theory[0, i] + noise * theory[1, i]).min(0),
        "dots": dots[0, i, j] + noise * dots[1, i, j],
    }


def rises(error):
    """Does the error rise anywhere as features are added?"""
    return bool((np.diff(error) > 1e-9).any())


LOW, HIGH = 0.005, 50.0


def _build(fig, data):
    left, right = plots.columns(fig, 1.25, 1, label_room=(0.75, 0.95), gap=0.5)
    for ax, title in ((left, "test error"), (right, "its two parts")):
        plots.frame(ax, "features / examples N/n", xlim=(1 / 6, 16), ylim=(LOW, HIGH), xscale="log", yscale="log")
        ax.set_title(title)
        ax.set_xticks([0.25, 1, 4, 16], ["1/4", "1", "4", "16"])
        ax.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
        ax.minorticks_off()
        plots.vertical(ax, 1.0)
    at = np.repeat(SIMULATED, TRIALS)
    return {
        "best": plots.line(left, RATIOS, data["best"], "guide", label="best ridge", linewidth=1.8),
        "error": plots.line(left, RATIOS, data["error"], "nngp", label="theory"),
        "dots": plots.points(left, at, data["dots"].ravel(), "finite", markersize=3.5),
        "signal": plots.line(right, RATIOS, data["signal"], "nngp", label="signal\nmissed", linewidth=1.4),
        "noise": plots.line(right, RATIOS, data["noise"], "nngp", label="noise\nlearnt", linestyle=(0, (1, 1.2))),
    }


def _update(artists, data):
    for name in ("best", "error", "signal", "noise"):
        artists[name].set(RATIOS, data[name])
    artists["dots"].set(np.repeat(SIMULATED, TRIALS), data["dots"].ravel())


def _reading(data, state):
    error, at_one = data["error"], int((RATIOS == 1).argmax())
    shape = "it rises on the way" if rises(error) else "it never rises"
    return (
        f"Ridge {state['ridge']:.2g}, noise {state['noise']:.2f}, {state['samples'] * D:.0f} examples in {D} "
        f"dimensions: test error {error[at_one]:.3g} at N = n ({data['noise'][at_one]:.2g} of it learnt noise), "
        f"{error[-1]:.3g} at N = 16 n; {shape}."
    )


def double_descent() -> Panel:
    """Ridge regression on N random ReLU features: the test error over N, in theory and by simulation.

    Mei and Montanari 2019.
    """
    return Panel(
        arrays,
        _build,
        _update,
        {
            "ridge": choice("ridge λ", RIDGES, RIDGES[0], log=True, names=[f"{ridge:.2g}" for ridge in RIDGES]),
            "noise": slider("noise variance τ²", 0, 1, 0.25, step=0.05),
            "samples": choice("examples / dimensions n/d", SAMPLES, 3.0),
        },
        _reading,
        title="Double descent.",
        caption="Purple: theory; blue: three simulated regressions each. Drag the ridge λ up: the peak at N = n melts. "
        "Dotted: the best ridge for each N. Then drag the noise variance τ²: the peak is noise that was learnt.",
        presets={"Peak": {"ridge": RIDGES[0]}, "No peak": {"ridge": 0.1}},
        size=(9.5, 3.6),
        warm=[],
    )


# ---------------------------------------------------------------- degree by degree

SPHERE = 15  # dimensions
DEGREES = 25  # the rest of the spectrum acts as ridge
SHOWN = np.arange(5)
PARTS = (1, 2, 3)  # degrees that a target may have
EXAMPLES = 8 * 2 ** np.arange(11)
MEASURED = EXAMPLES[EXAMPLES <= 512]
CURVE = 8 * 2.0 ** np.linspace(0, 10, 81)
RIDGE, DRAWS, POINTS = 1e-6, 6, 300
TARGETS = {1.0: (1,), 2.0: (2,), 3.0: (3,), 4.0: PARTS}  # the stops of the control -> degrees, of equal power


def relu_ntk(cosine):
    """The tangent kernel of two hidden ReLU layers without biases, 3 on the diagonal, for unit inputs."""
    nngp = theta = np.clip(cosine, -1, 1)
    for _ in range(2):
        angle = np.arccos(np.clip(nngp, -1, 1))
        nngp, slope = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi, 1 - angle / np.pi
        theta = nngp + slope * theta
    return theta


def legendre(degree, cosine):
    """Gegenbauer's polynomial on the sphere, 1 at cosine 1."""
    from scipy.special import eval_gegenbauer

    half = (SPHERE - 2) / 2
    return eval_gegenbauer(degree, half, cosine) / eval_gegenbauer(degree, half, 1.0)


@functools.cache
def spectrum():
    """(eigenvalue, multiplicity) of degrees 0 to 24, each (25,), and the sum of the eigenvalues beyond."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    angle = (nodes + 1) * np.pi / 2
    weights = weights * np.sin(angle) ** (SPHERE - 2)
    k = relu_ntk(np.cos(angle)) * weights / weights.sum()
    lam = np.array([max((k * legendre(degree, np.cos(angle))).sum(), 0) for degree in range(DEGREES)])
    ways = lambda degree: comb(SPHERE + degree - 1, degree) if degree >= 0 else 0
    count = np.array([ways(degree) - ways(degree - 2) for degree in range(DEGREES)], float)
    return lam, count, 3 - (lam * count).sum()


@functools.cache
def theory():
    """(bias (targets, n), noise (n,), shares (examples, shown)): errors along CURVE, by unit noise, what is learnt."""
    lam, count, rest = spectrum()
    with precision():
        run = lambda power, noise: np.asarray(
            learning_curve(lam, power, CURVE, ridge=RIDGE + rest, noise=noise, multiplicity=count)
        )
        bias = np.array([run(np.isin(np.arange(DEGREES), t) / len(t), 0.0) for t in TARGETS.values()])
        noise = run(np.zeros(DEGREES), 1.0)
        shares = np.asarray(learnability(lam, EXAMPLES.astype(float), ridge=RIDGE + rest, multiplicity=count))
    return bias, noise, shares[:, SHOWN]


@functools.cache
def simulated():
    """The same three, (targets, measured), (measured,), (measured, parts), means of DRAWS regressions.

    The mean over all targets of a degree is taken in closed form: their covariance is a polynomial of the cosine.
    """
    rng, most = np.random.default_rng(1), MEASURED[-1]
    bias, noise, shares = [], [], []
    for _ in range(DRAWS):
        x = on_sphere(rng, most + POINTS, SPHERE) / SPHERE**0.5
        cosine = x @ x[:most].T
        k, targets = relu_ntk(cosine), zonal(cosine)
        for n in MEASURED:
            weights = np.linalg.solve(k[:n, :n] + RIDGE * np.eye(n), k[most:, :n].T).T  # (points, n)
            share = np.array([(weights * y[most:, :n]).sum(1).mean() for y in targets])
            size = np.array([((weights @ y[:n, :n]) * weights).sum(1).mean() for y in targets])
            error = 1 - 2 * share + size
            shares.append(share)
            noise.append((weights**2).sum(1).mean())
            bias.append([np.mean([error[PARTS.index(part)] for part in t]) for t in TARGETS.values()])
    shape = lambda values: np.array(values).reshape(DRAWS, len(MEASURED), -1).mean(0)
    return shape(bias).T, shape(noise)[:, 0], shape(shares)


def zonal(cosine):
    """Covariances of random targets of the degrees 1 to 3 and power 1: Gegenbauer's polynomials, (3, ...)."""
    d = SPHERE
    return np.array([cosine, (d * cosine**2 - 1) / (d - 1), ((d + 2) * cosine**3 - 3 * cosine) / (d - 1)])


def degree_arrays(n, target, noise):
    """What the panel draws: the learning curve with dots, and the learnt share of each degree at n."""
    (bias, by_noise, shares), (dots, dots_noise, dots_shares) = theory(), simulated()
    i, at = list(TARGETS).index(target), int(np.argmin(np.abs(EXAMPLES - n)))
    is_measured = at < len(MEASURED)
    return {
        "error": bias[i] + noise * by_noise,
        "dots": dots[i] + noise * dots_noise,
        "shares": shares[at],
        "dots_shares": dots_shares[at] if is_measured else np.full(len(PARTS), -1.0),  # below the floor
        "n": np.asarray(float(n)),
    }


def _build_degrees(fig, data):
    left, right = plots.columns(fig, 1.2, 1, label_room=(0.75, 0.1), gap=0.6)
    plots.frame(left, "examples n", title="test error", xlim=(8, 8192), ylim=(0, 1.6), xscale="log")
    left.set_xticks([8, 64, 512, 4096], ["8", "64", "512", "4096"])
    left.minorticks_off()
    plots.frame(right, "degree", title="share that is learnt", xlim=(-0.6, 4.6), ylim=(0, 1.08))
    right.set_xticks(SHOWN)
    return {
        "now": plots.vertical(left, float(data["n"])),
        "error": plots.line(left, CURVE, data["error"], "ntk", label="theory"),
        "dots": plots.points(left, MEASURED, data["dots"], "data", markersize=5),
        "shares": plots.bars(right, SHOWN, data["shares"], "ntk", width=0.55),
        "dots_shares": plots.points(right, PARTS, data["dots_shares"], "data", markersize=7),
    }


def _update_degrees(artists, data):
    artists["now"].set(float(data["n"]))
    artists["error"].set(CURVE, data["error"])
    artists["dots"].set(MEASURED, data["dots"])
    artists["shares"].set(data["shares"])
    artists["dots_shares"].set(PARTS, data["dots_shares"])


def _read_degrees(data, state):
    shares = ", ".join(f"{100 * share:.0f}" for share in data["shares"])
    error = np.interp(np.log(state["n"]), np.log(CURVE), data["error"])
    wanted = " and ".join(str(p) for p in TARGETS[state["target"]])
    return (
        f"n = {state['n']:.0f}, target of degree {wanted}, noise {state['noise']:.2f}: learnt of the degrees 0 to 4: "
        f"{shares} %; test error {error:.3g}."
    )


def learnt_degrees() -> Panel:
    """Kernel regression with a network's NTK on the sphere in 15 dimensions: what n examples teach of each degree.

    Bordelon et al. 2020; Simon et al. 2021.
    """
    return Panel(
        degree_arrays,
        _build_degrees,
        _update_degrees,
        {
            "n": choice("examples n", [float(n) for n in EXAMPLES], 32, log=True),
            "target": choice("degrees of the target", list(TARGETS), 4, names=("1", "2", "3", "1, 2, 3")),
            "noise": slider("noise variance σ²", 0, 1, 0.0, step=0.05),
        },
        _read_degrees,
        title="Degree by degree.",
        caption="Orange: theory; grey: six simulated regressions. Drag examples n: degree 1 is learnt first (15 "
        "harmonics), then degree 2 (119), then degree 3 (665). Then set degrees of the target.",
        size=(9.5, 3.6),
        warm=[],
    )
