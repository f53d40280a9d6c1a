"""Gaussian processes over time: against scipy's matrix functions, brute force, stored values of neural-tangents."""

import gc
import json
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from sklearn.datasets import load_digits

import ntkbook as nb
from ntkbook.dynamics.ensemble import Gaussian, ensemble, ensemble_from_kernels

RNG = np.random.default_rng(0)
NET = nb.serial(nb.Dense(1, 1.4, 0.3), nb.Erf(), nb.Dense(1, 1.4, 0.3))
X, X_TEST, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(4, 3)), RNG.normal(size=6)
STORED = json.loads((Path(__file__).parent / "reference/neural_tangents.json").read_text())["predictors"]


def blocks(net, x, x_test, get):
    """Kernels as numpy arrays: k(X, X), k(x, X), and the NNGP in blocks (train, cross, test)."""
    x, x_test = jnp.asarray(x), jnp.asarray(x_test)
    k, kx = nb.kernel(net, x), nb.kernel(net, x_test, x)
    return [np.asarray(a) for a in (getattr(k, get), getattr(kx, get), k.nngp, kx.nngp, nb.nngp(net, x_test))]


def law(net, x, y, x_test, t, train, noise, lr):
    """Mean and covariance by dense linear algebra, as in the paper."""
    k, kx, nngp, cross, own = blocks(net, x, x_test, {"all": "ntk", "last_layer": "nngp"}[train])
    k = k + noise * np.eye(len(k))
    A = kx @ np.linalg.solve(k, np.eye(len(k)) - (scipy.linalg.expm(-lr * t * k) if np.isfinite(t) else 0))
    return A @ y, own - A @ cross.T - cross @ A.T + A @ (nngp + noise * np.eye(len(k))) @ A.T


@pytest.mark.slow_after_first
@pytest.mark.parametrize("train", ["all", "last_layer"])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_law_is_that_of_dense_linear_algebra(train, noise):
    times = np.array([0.0, 0.5, 20.0, np.inf])
    made = ensemble(NET, X, Y, lr=0.7, train=train, noise=noise)
    for points, x_test in ((X_TEST, X_TEST), (X, None)):
        many = made.predict(times, x_test)
        for i, t in enumerate(times):
            mean, covariance = law(NET, X, Y, points, t, train, noise, 0.7)
            np.testing.assert_allclose(many.mean[i], mean, atol=1e-10)
            np.testing.assert_allclose(many.covariance[i], covariance, atol=1e-10)
        one = made.predict(0.5, x_test)
        np.testing.assert_allclose(one.covariance, many.covariance[1], atol=1e-13)
        np.testing.assert_allclose(one.std**2, np.diag(one.covariance), rtol=1e-12)


def test_law_is_that_of_networks_drawn_and_trained_one_by_one():
    """Draws of f_0, of noisy targets, and small explicit steps with weight decay towards the start."""
    n, noise, lr, t, draws = len(X), 0.3, 0.5, 4.0, 4000
    k, kx, nngp, cross, own = blocks(NET, X, X_TEST, "ntk")
    joint = np.block([[nngp, cross.T], [cross, own]])
    f0 = RNG.multivariate_normal(np.zeros(n + 4), joint, size=draws, method="eigh")
    targets = Y + noise**0.5 * RNG.normal(size=(draws, n))
    alpha = np.zeros((draws, n))
    for _ in range(2000):
        alpha += t / 2000 * lr * (targets - f0[:, :n] - alpha @ k - noise * alpha)
    f = f0[:, n:] + alpha @ kx.T
    law = ensemble(NET, X, Y, lr=lr, noise=noise).predict(t, X_TEST)
    assert (np.abs(f.mean(0) - law.mean) < 4 * law.std / draws**0.5).all()
    spread = np.sqrt((np.outer(law.std, law.std) ** 2 + np.asarray(law.covariance) ** 2) / draws)
    assert (np.abs(np.cov(f.T) - law.covariance) < 4 * spread).all()


def test_last_layer_ends_in_the_bayesian_posterior():
    made = ensemble(NET, X, Y, train="last_layer", noise=0.1).predict(jnp.inf, X_TEST)
    _, _, nngp, cross, own = blocks(NET, X, X_TEST, "nngp")
    weights = cross @ np.linalg.inv(nngp + 0.1 * np.eye(6))
    np.testing.assert_allclose(made.mean, weights @ Y, atol=1e-11)
    np.testing.assert_allclose(made.covariance, own - weights @ cross.T, atol=1e-11)


def test_start_is_the_prior_and_the_end_is_certain_at_the_data():
    made = ensemble(NET, X, Y)
    np.testing.assert_allclose(made.predict(0.0, X_TEST).covariance, nb.nngp(NET, jnp.asarray(X_TEST)), atol=1e-13)
    np.testing.assert_array_equal(made.predict(0.0, X_TEST).mean, 0)
    end = made.predict(jnp.inf)
    np.testing.assert_allclose(end.mean, Y, atol=1e-13)
    assert np.abs(end.covariance).max() < 1e-20
    assert np.abs(made.predict(jnp.inf, X).covariance).max() < 1e-13  # the same points as test points


@pytest.mark.slow_after_first
@pytest.mark.parametrize("row", STORED["ensemble"], ids=lambda row: f"{row['get']} t={row['t']} noise={row['noise']}")
def test_stored_values_of_neural_tangents(row):
    net = nb.serial(*[getattr(nb, name)(**options) for name, options in STORED["network"]])
    x, x_test, y = (np.array(STORED[name]) for name in ("x_train", "x_test", "y_train"))
    train = "all" if row["get"] == "ntk" else "last_layer"
    t = np.inf if row["t"] is None else row["t"]
    made = ensemble(net, x, y, lr=STORED["lr_for_reduction_sum"], train=train, noise=row["noise"])
    test = made.predict(t, x_test)
    np.testing.assert_allclose(test.mean, row["mean"], atol=1e-12)
    expected = np.array(row["covariance"])
    if row["noise"] and train == "all":  # the peer trains all networks on the same noisy targets
        k, kx = np.array(STORED["k_train_train"]["ntk"]), np.array(STORED["k_test_train"]["ntk"])
        k = k + row["noise"] * np.eye(7)
        decay = scipy.linalg.expm(-STORED["lr_for_reduction_sum"] * t * k) if np.isfinite(t) else 0
        A = kx @ np.linalg.solve(k, np.eye(7) - decay)
        expected = expected + row["noise"] * A @ A.T
    np.testing.assert_allclose(test.covariance, expected, atol=1e-12)
    mean = ensemble(net, x, y, lr=STORED["lr_for_reduction_mean"], reduction="mean", train=train, noise=0.0)
    if not row["noise"]:
        np.testing.assert_allclose(mean.predict(t).mean, row["train_mean"], atol=1e-12)
        np.testing.assert_allclose(made.predict(t).covariance, row["train_covariance"], atol=1e-12)


@pytest.mark.parametrize("row", STORED["gradient_flow"], ids=lambda row: f"{row['get']} t={row['t']}")
def test_stored_flows_of_neural_tangents(row):
    from ntkbook.dynamics.gradient import gradient_flow

    t = np.inf if row["t"] is None else row["t"]
    k, kx = (np.array(STORED[name][row["get"]]) for name in ("k_train_train", "k_test_train"))
    f0_train, f0_test, y = (np.array(STORED[name]) for name in ("f0_train", "f0_test", "y_train"))
    flow = gradient_flow(k, y, lr=STORED["lr_for_reduction_sum"])
    np.testing.assert_allclose(flow.train(t, f0_train), row["train"], atol=1e-12)
    np.testing.assert_allclose(flow.test(t, kx, f0_train, f0_test), row["test"], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("train", ["all", "last_layer"])
def test_covariances_stay_psd_where_the_naive_formula_does_not(dtype, train):
    """Equal, nearly equal and repeated points: an inverse and differences give negative variances, here none."""
    net = nb.serial(nb.Dense(1, 1.5, 0.1), nb.Erf(), nb.Dense(1))
    x = np.concatenate([np.linspace(-1, 1, 30), [0.3, 0.3, 0.3 + 1e-7]])[:, None].astype(dtype)
    x_test = np.concatenate([x, np.linspace(-1.2, 1.2, 20).astype(dtype)[:, None]])
    made = ensemble(net, x, np.sin(3 * x[:, 0]), train=train).at(x_test)
    with pytest.warns(UserWarning, match="rank") as record:
        law = made.predict(np.array([0.0, 1.0, 1e3, 1e9, np.inf]))
    assert len(record) == 1
    tolerance = 20 * np.finfo(dtype).eps * 50
    for covariance in np.asarray(law.covariance):
        np.testing.assert_array_equal(covariance, covariance.T)
        assert (np.diag(covariance) >= 0).all()
        assert np.linalg.eigvalsh(covariance.astype(float)).min() > -tolerance
    assert np.isfinite(law.std).all() and np.isfinite(law.mean).all()
    k, kx, nngp, cross, own = blocks(net, x, x_test, {"all": "ntk", "last_layer": "nngp"}[train])
    A = kx @ np.linalg.pinv(k, rcond=1e-30)
    naive = own - A @ cross.T - cross @ A.T + A @ nngp @ A.T
    certain = np.diag(law.covariance[-1])[:33].max()  # at the training points, at infinity
    assert certain < 20 * tolerance and np.abs(np.diag(naive)[:33]).max() > 1000 * certain


@pytest.mark.slow
def test_samples_have_the_law():
    law = ensemble(NET, X, np.stack([Y, -Y], 1)).predict(np.array([0.5, 3.0]), X_TEST)
    samples = law.sample(jax.random.key(0), 4000)
    assert samples.shape == (4000, 2, 4, 2)
    assert (np.abs(samples.mean(0) - law.mean) < 4.5 * law.std[..., None] / 4000**0.5).all()
    for i in range(2):
        spread = np.sqrt((np.outer(law.std[i], law.std[i]) ** 2 + law.covariance[i] ** 2) / 4000)
        for o in range(2):
            assert (np.abs(np.cov(samples[:, i, :, o].T) - law.covariance[i]) < 4.5 * spread).all()
    certain = ensemble(NET, X, Y).predict(jnp.inf).sample(jax.random.key(1), 3)
    np.testing.assert_allclose(certain, np.stack([Y] * 3), atol=1e-9)
    with pytest.raises(ValueError, match="psd"):
        Gaussian(jnp.zeros(2), jnp.diag(jnp.array([1.0, -0.5]))).sample(jax.random.key(0))


@pytest.mark.slow
def test_gradients_exist_where_eigenvalues_coincide(checking_leaks):
    """Equispaced points on a circle, in W_std and in t, of mean and variance, inside jit first."""
    angles = np.arange(6) * np.pi / 3
    x = np.stack([np.cos(angles), np.sin(angles)], 1)

    @jax.jit
    def f(W_std, t, noise):
        net = nb.serial(nb.Dense(1, W_std), nb.Erf(), nb.Dense(1, W_std, 0.2))
        made = ensemble(net, x, jnp.asarray(x[:, 0] * x[:, 1]), noise=noise)
        at = made.predict(t, jnp.array([[0.5, 0.9], [-1.0, 0.2]]))
        return at.mean.sum() + at.covariance[0, 1] + 2 * at.covariance[0, 0]

    gradient, point = jax.grad(f, argnums=(0, 1, 2)), (1.3, 0.8, 0.1)
    with checking_leaks():
        jax.make_jaxpr(gradient)(*point)
    slopes = gradient(*point)
    for i, slope in enumerate(slopes):
        step = np.eye(3)[i] * 1e-5
        finite = (f(*(np.array(point) + step)) - f(*(np.array(point) - step))) / 2e-5
        np.testing.assert_allclose(slope, finite, rtol=1e-6)


def test_sliders_do_not_compile(caplog):
    def move(W_std, lr, t, noise):
        net = nb.serial(nb.Dense(1, W_std), nb.Erf(), nb.Dense(1, W_std, 0.2))
        ensemble(net, X, Y, lr=lr, noise=noise).predict(t, X_TEST)

    move(1.0, 0.1, 3.0, 0.0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        move(1.5, 0.3, 7.0, 0.1)
    assert not [record for record in caplog.records if "compil" in record.message.lower()]


def test_mean_only_and_precision():
    made = ensemble(NET, X.astype(np.float32), Y.astype(np.float32))
    law = made.predict(3.0, X_TEST.astype(np.float32), covariance=False)
    assert law.covariance is None and law.mean.dtype == jnp.float32
    np.testing.assert_allclose(law.mean, ensemble(NET, X, Y).predict(3.0, X_TEST).mean, atol=1e-5)
    assert made.predict(3.0, X_TEST.astype(np.float32)).covariance.dtype == jnp.float32
    with pytest.raises(ValueError, match="covariance=False"):
        law.sample(jax.random.key(0))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: ensemble(NET, X, Y[:4]), "6 examples"),
        (lambda: ensemble(NET, X, Y, train="first_layer"), "train"),
        (lambda: ensemble(NET, X, Y, noise=-0.1), "noise"),
        (lambda: ensemble(NET, X, Y, lr=-0.1), "lr"),
        (lambda: ensemble(NET, X * np.nan, Y), "x"),
        (lambda: ensemble(NET, X, Y).predict(-1.0), "t to be"),
        (lambda: ensemble(NET, X, Y).predict(1.0, X_TEST[:, :2]), "features"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.usefixtures("optimized")
@pytest.mark.slow
def test_trained_wide_networks_have_this_law():
    """Lee et al. 2019, Fig. 2, in small: 100 networks of width 256 on 16 digits, trained step by step.

    Along a line through a 0 and a 1 and beyond, the mean is within 4 standard errors and the standard deviation
    within 15%; the law of the last layer alone is told apart from it.
    """
    W2, lr, steps, n_networks, width = 1.5, 0.5, (0, 16, 64), 100, 256
    pixels, labels = load_digits(return_X_y=True)
    pixels = ((pixels - pixels[labels < 2].mean()) / pixels[labels < 2].std()).astype(np.float32)
    zeros, ones = pixels[labels == 0][:8], pixels[labels == 1][:8]
    x, y = np.concatenate([zeros, ones]), np.repeat([1, -1], 8).astype(np.float32)
    along = np.linspace(-2, 3, 21, dtype=np.float32)[:, None]
    line = along * ones[0] + (1 - along) * zeros[0]

    def f(params, x):
        for W in params[:-1]:
            x = jax.scipy.special.erf(W2**0.5 * x @ W / W.shape[0] ** 0.5)
        return (W2**0.5 * x @ params[-1] / params[-1].shape[0] ** 0.5)[:, 0]

    def init(key):
        shapes = [(64, width), (width, width), (width, width), (width, 1)]
        return [jax.random.normal(k, shape, jnp.float32) for k, shape in zip(jax.random.split(key, 4), shapes)]

    loss = lambda params: jnp.mean((f(params, x) - y) ** 2) / 2

    @jax.jit
    def train(keys):
        params = jax.vmap(init)(keys)
        descend = lambda params, _: (
            jax.tree.map(lambda w, g: w - lr * g, params, jax.vmap(jax.grad(loss))(params)),
            None,
        )
        outputs = []
        for start, stop in zip((0, *steps), steps):
            params, _ = jax.lax.scan(descend, params, length=stop - start)
            outputs.append(jax.vmap(f, (0, None))(params, line))
        return jnp.stack(outputs)

    outputs = np.asarray(train(jax.random.split(jax.random.key(0), n_networks)), float)  # (times, networks, points)
    mean, std = outputs.mean(1), outputs.std(1, ddof=1)
    layers = [layer for _ in range(3) for layer in (nb.Dense(1, W2**0.5), nb.Erf())]
    net = nb.serial(*layers, nb.Dense(1, W2**0.5))
    law = ensemble(net, x, y, lr=lr, reduction="mean").predict(np.array(steps, np.float32), line)
    assert (np.abs(mean - np.asarray(law.mean)) < 4 * std / n_networks**0.5 + 1e-3).all()
    np.testing.assert_allclose(std.mean(1), law.std.mean(1), rtol=0.15)
    last = ensemble(net, x, y, lr=lr, reduction="mean", train="last_layer").predict(np.array(steps, np.float32), line)
    assert (np.abs(mean - np.asarray(last.mean))[1:] > 8 * std[1:] / n_networks**0.5).any()


def test_from_matrices_and_any_kernel_function_it_is_the_same_law():
    """Also NTK and NNGP given by hand, as one matrix for both, and at test points without a covariance."""
    both = lambda x1, x2: nb.kernel(NET, jnp.asarray(x1), None if x1 is x2 else jnp.asarray(x2))
    train, cross, own = both(X, X), both(X_TEST, X), both(X_TEST, X_TEST)
    for which in ("all", "last_layer"):
        expected = ensemble(NET, X, Y, noise=0.1, train=which).predict(3.0, X_TEST)
        by_function = ensemble(both, X, Y, noise=0.1, train=which).predict(3.0, X_TEST)
        made = ensemble_from_kernels(train, Y, noise=0.1, train=which)
        for law in (by_function, made.at_kernels(cross, own).predict(3.0)):
            np.testing.assert_allclose(law.mean, expected.mean, atol=1e-13)
            np.testing.assert_allclose(law.covariance, expected.covariance, atol=1e-13)
    plain = ensemble_from_kernels(train.nngp, Y, noise=0.1)
    law = plain.at_kernels(cross.nngp, own.nngp).predict(3.0)
    np.testing.assert_allclose(law.covariance, expected.covariance, atol=1e-13)
    mean = plain.at_kernels(cross.nngp).predict(3.0, covariance=False)
    np.testing.assert_allclose(mean.mean, expected.mean, atol=1e-13)
    for call, sentence in (
        (lambda: plain.predict(3.0, X_TEST), "made from matrices"),
        (lambda: plain.at_kernels(cross.nngp).predict(3.0), "k_test_test"),
        (lambda: plain.at_kernels(cross.nngp.T), "Test points come first"),
        (lambda: plain.at_kernels(cross.nngp, train.nngp), "4 test points"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_posterior_is_that_of_the_textbook(noise):
    """By solving with the whole matrix; also at the training points, for a function, and from matrices."""
    _, _, nngp, cross, own = blocks(NET, X, X_TEST, "nngp")
    weights = np.linalg.solve(nngp + noise * np.eye(6), cross.T).T
    found = nb.posterior(NET, X, np.stack([Y, -Y], 1), noise)
    law = found.predict(X_TEST)
    np.testing.assert_allclose(law.mean, weights @ np.stack([Y, -Y], 1), atol=1e-11)
    np.testing.assert_allclose(law.covariance, own - weights @ cross.T, atol=1e-11)
    at_train = found.predict()
    weights = np.linalg.solve(nngp + noise * np.eye(6), nngp).T
    np.testing.assert_allclose(at_train.mean[:, 0], weights @ Y, atol=1e-11)
    np.testing.assert_allclose(at_train.covariance, nngp - weights @ nngp, atol=1e-11)
    other = nb.posterior_from_kernels(nngp, Y, noise).predict_kernels(cross, own)
    np.testing.assert_allclose(other.mean, law.mean[:, 0], atol=1e-13)
    np.testing.assert_allclose(other.covariance, law.covariance, atol=1e-13)


@pytest.mark.slow
def test_products_are_made_once_and_derivatives_in_time_use_them():
    made = ensemble(NET, X, Y, noise=0.1)
    at = made.at(X_TEST)
    f = lambda t: at.predict(t).mean.sum() + at.predict(t).covariance[0, 1]
    slope = jax.jit(jax.grad(f))(1.3)  # at first inside jit, where nothing of it may leak
    products = at.turned, made.dynamics, made.turned
    np.testing.assert_allclose(slope, (f(1.3001) - f(1.2999)) / 2e-4, rtol=1e-6)
    assert all(a is b for a, b in zip((at.turned, made.dynamics, made.turned), products))
    train = lambda t: made.predict(t).covariance[0, 1] + made.predict(t).mean[0]
    np.testing.assert_allclose(jax.grad(train)(0.5), (train(0.5001) - train(0.4999)) / 2e-4, rtol=1e-6)


@pytest.mark.slow
def test_the_last_points_are_remembered_and_no_others():
    calls = []

    def counted(x1, x2):
        calls.append(x1.shape)
        return nb.kernel(NET, x1, x2)

    made, plain = ensemble(counted, X, Y, noise=0.1), ensemble(NET, X, Y, noise=0.1)
    mutable, first = np.array(X_TEST), made.predict(2.0, X_TEST)
    held = jnp.asarray(X_TEST)
    jax.jit(lambda t: made.predict(t, held).mean)(1.0)
    products = made.at(mutable).turned
    assert made.at(X_TEST).turned is products and len(calls) == 3
    np.testing.assert_array_equal(made.predict(2.0, mutable).covariance, first.covariance)
    mutable[0] += 0.5
    moved = made.predict(2.0, mutable)
    assert len(calls) == 5
    np.testing.assert_allclose(moved.mean, plain.predict(2.0, np.array(mutable)).mean, rtol=1e-12)
    np.testing.assert_allclose(made.predict(2.0, X_TEST).mean, first.mean, rtol=1e-12)
    alive = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert alive() is None  # no circle keeps its matrices
    finally:
        gc.enable()
    by_point = lambda x: plain.predict(2.0, x).mean.sum()  # a point that is differentiated is none that is remembered
    slope = jax.grad(by_point)(jnp.asarray(X_TEST))[0, 0]
    step = np.eye(*X_TEST.shape)[:1] * 1e-5 * np.eye(len(X_TEST))[:, :1]
    np.testing.assert_allclose(slope, (by_point(X_TEST + step) - by_point(X_TEST - step)) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: ensemble(NET, X, Y).predict(X_TEST), "Time comes first"),
        (lambda: ensemble(NET, X, Y, noise=np.ones(6)), "one number as noise"),
        (lambda: nb.posterior(NET, X, Y, noise=np.ones(3)), "one number as noise"),
        (lambda: nb.posterior(NET, X, Y, noise=0.1).predict(X_TEST[:, :2]), "features"),
    ],
)
def test_arguments_swapped_or_of_another_length_are_told_in_one_line(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert len(str(error.value)) < 200


def test_results_are_shown_in_one_line():
    made = ensemble(NET, X, Y)
    for result in (made, made.at(X_TEST), made.predict(1.0, X_TEST), nb.posterior(NET, X, Y, 0.1), made.dynamics):
        assert len(repr(result).splitlines()) == 1 and "array(" not in repr(result)
