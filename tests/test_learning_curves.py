"""Averages over data sets: against simulations of the same regressions, and stored values of the theory."""

import functools
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import eval_gegenbauer

import ntkbook as nb
from ntkbook.dynamics.learning_curves import finite_ntk_error, learnability, learning_curve, random_features_error

D = 15


def relu_ntk(c, layers):
    """The NTK of unit vectors with cosine c, without biases, W_std^2 = 2, for a number of affine layers."""
    c = np.clip(c, -1, 1)
    ntk = nngp = c
    for _ in range(layers - 1):
        angle = np.arccos(np.clip(nngp, -1, 1))
        nngp, slope = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi, (np.pi - angle) / np.pi
        ntk = nngp + slope * ntk
    return ntk


@functools.cache
def sphere_spectrum(degrees=25):
    """(eigenvalue, multiplicity) per degree on the sphere in D dimensions, and the sum of what is cut off."""
    u, w = np.polynomial.legendre.leggauss(500)
    w = w * np.sin((u + 1) * np.pi / 2) ** (D - 2)
    c = np.cos((u + 1) * np.pi / 2)
    legendre = [eval_gegenbauer(k, (D - 2) / 2, c) / eval_gegenbauer(k, (D - 2) / 2, 1.0) for k in range(degrees)]
    lam = np.array([max((relu_ntk(c, 3) * P * w).sum() / w.sum(), 0) for P in legendre])
    count = np.array([comb(D + k - 1, k) - (comb(D + k - 3, k - 2) if k > 1 else 0) for k in range(degrees)], float)
    return lam, count, 3.0 - (lam * count).sum()


@pytest.mark.slow
def test_stored_learning_curves_on_the_sphere():
    lam, count, tail = sphere_spectrum()
    degree = np.eye(25)
    curve = lambda k, n: learning_curve(lam, degree[k], np.array(n, float), ridge=1e-6 + tail, multiplicity=count)
    expected = [0.762, 0.516, 0.250, 0.0811, 0.0193, 0.0038, 0.0007]
    np.testing.assert_allclose(curve(1, [8, 16, 32, 64, 128, 256, 512]), expected, rtol=6e-3, atol=5e-5)
    np.testing.assert_allclose(curve(2, [64, 128, 256, 512]), [0.838, 0.529, 0.230, 0.0674], rtol=2e-3)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_kernel_regression_on_the_sphere(noise):
    """The same regression, simulated: a linear target, 3-layer ReLU network."""
    rng = np.random.default_rng(0)
    lam, count, tail = sphere_spectrum()
    n, errors = 64, []
    for _ in range(30):
        x = rng.normal(size=(n + 400, D))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        y = x[:, 0] * D**0.5
        k = relu_ntk(x @ x[:n].T, 3)
        alpha = np.linalg.solve(k[:n] + 1e-6 * np.eye(n), y[:n] + noise**0.5 * rng.normal(size=n))
        errors.append(np.mean((k[n:] @ alpha - y[n:]) ** 2))
    theory = learning_curve(lam, np.eye(25)[1], n, ridge=1e-6 + tail, noise=noise, multiplicity=count)
    assert abs(np.mean(errors) - theory) < max(4 * np.std(errors) / 30**0.5, 0.1 * theory)


@pytest.mark.slow
@pytest.mark.parametrize("ridge, noise", [(0.0, 0.0), (0.05, 0.3)])
def test_regression_on_gaussian_features(ridge, noise):
    rng = np.random.default_rng(1)
    lam = np.arange(1, 301) ** -1.5
    power = rng.uniform(size=300) * lam
    errors = {n: [] for n in (10, 40, 120)}
    for n, found in errors.items():
        for _ in range(40):
            phi, a = rng.normal(size=(n, 300)), np.sqrt(power) * rng.choice([-1, 1], size=300)
            k = phi * lam @ phi.T + ridge * np.eye(n)
            alpha = np.linalg.solve(k, phi @ a + noise**0.5 * rng.normal(size=n))
            found.append(((lam * (phi.T @ alpha) - a) ** 2).sum())
    theory = learning_curve(lam, power, np.array([10.0, 40.0, 120.0]), ridge=ridge, noise=noise)
    for value, found in zip(theory, errors.values()):
        assert abs(np.mean(found) - value) < max(4 * np.std(found) / 40**0.5, 0.05 * value)


@pytest.mark.slow
def test_limits_of_the_learning_curve():
    lam, power = np.array([1.0, 0.5, 0.25, 0.0]), np.array([1.0, 2.0, 3.0, 0.5])
    np.testing.assert_allclose(learning_curve(lam, power, 0.0), power.sum())
    np.testing.assert_allclose(
        learning_curve(lam, power, 100.0, noise=0.1), 0.5 + 0.1 * 3 / 97 + 0.5 * 3 / 97, rtol=1e-9
    )
    np.testing.assert_allclose(learnability(lam, 2.0).sum(), 2.0, rtol=1e-12)
    np.testing.assert_allclose(learnability(lam, 100.0), [1, 1, 1, 0], rtol=1e-12)
    every = learnability(np.repeat(lam, [2, 1, 3, 1]), np.array([2.0, 5.0]), ridge=0.1)
    once = learnability(lam, np.array([2.0, 5.0]), ridge=0.1, multiplicity=np.array([2.0, 1.0, 3.0, 1.0]))
    np.testing.assert_allclose(once, every[:, [0, 2, 3, 6]], rtol=1e-12)
    big = learning_curve(lam, power, 2.0, ridge=1e9)
    np.testing.assert_allclose(big, power.sum(), rtol=1e-6)
    repeated = learning_curve(np.repeat(lam, 2), np.repeat(power, 2) / 2, 3.0, ridge=0.1)
    np.testing.assert_allclose(
        learning_curve(lam, power, 3.0, ridge=0.1, multiplicity=np.full(4, 2.0)), repeated, rtol=1e-12
    )


def test_gradient_of_the_learning_curve():
    lam, power = np.arange(1, 20) ** -1.3, np.ones(19)
    f = lambda ridge, n: learning_curve(lam, power, n, ridge=ridge, noise=0.1)
    for i, slope in enumerate(jax.grad(f, argnums=(0, 1))(0.2, 7.0)):
        step = np.eye(2)[i] * 1e-5
        finite = (f(0.2 + step[0], 7.0 + step[1]) - f(0.2 - step[0], 7.0 - step[1])) / 2e-5
        np.testing.assert_allclose(slope, finite, rtol=1e-6)


def test_stored_double_descent():
    ratios = np.array([0.5, 1, 2, 3, 4, 6, 12])
    error = random_features_error(nb.Relu(), ratios, 3.0, ridge=1e-3, noise=0.25)
    np.testing.assert_allclose(error, [0.859, 0.789, 1.009, 1.316, 0.850, 0.446, 0.231], atol=6e-4)
    assert error.argmax() == 3  # as many features as examples


@pytest.mark.slow
def test_gradient_of_double_descent():
    f = lambda psi, ridge: random_features_error(nb.Relu(), psi, 3.0, ridge=ridge, noise=0.25)
    for i, slope in enumerate(jax.grad(f, argnums=(0, 1))(2.0, 0.1)):
        step = np.eye(2)[i] * 1e-5
        finite = (f(2.0 + step[0], 0.1 + step[1]) - f(2.0 - step[0], 0.1 - step[1])) / 2e-5
        np.testing.assert_allclose(slope, finite, rtol=1e-5)


def simulated_random_features(psi_1, psi_2, ridge, noise, rng, d=50):
    N, n = int(psi_1 * d), int(psi_2 * d)
    sphere = lambda m: (lambda g: g / np.linalg.norm(g, axis=1, keepdims=True) * d**0.5)(rng.normal(size=(m, d)))
    theta, x, x_test, beta = sphere(N), sphere(n), sphere(500), sphere(1)[0] / d**0.5
    features = lambda x: np.maximum(x @ theta.T / d**0.5, 0)
    Z = features(x)
    y = x @ beta + noise**0.5 * rng.normal(size=n)
    a = np.linalg.solve(Z.T @ Z / n + N * ridge / d * np.eye(N), Z.T @ y / n)
    return np.mean((features(x_test) @ a - x_test @ beta) ** 2)


@pytest.mark.slow_after_first
@pytest.mark.parametrize(
    "psi_1, ridge, noise", [(1.0, 1e-3, 0.25), (6.0, 1e-3, 0.25), (3.0, 0.1, 0.0), (4.0, 0.1, 0.5)]
)
def test_random_features_by_simulation(psi_1, ridge, noise):
    rng = np.random.default_rng(2)
    errors = [simulated_random_features(psi_1, 3.0, ridge, noise, rng) for _ in range(20)]
    theory = float(random_features_error(nb.Relu(), psi_1, 3.0, ridge=ridge, noise=noise))
    assert abs(np.mean(errors) - theory) < max(4 * np.std(errors) / 20**0.5, 0.07 * theory)


def test_nonlinear_targets_add_what_no_linear_part_explains():
    base = random_features_error(nb.Erf(), 2.0, 3.0, ridge=0.1, noise=0.5)
    nonlinear = random_features_error(nb.Erf(), 2.0, 3.0, ridge=0.1, noise=0.2, nonlinear_power=0.3)
    np.testing.assert_allclose(nonlinear, base + 0.3, rtol=1e-12)


@pytest.mark.slow
def test_the_finite_ntk_peaks_where_parameters_are_as_many_as_examples():
    rng = np.random.default_rng(3)
    n, d = 84, 6
    x, x_test, beta = rng.normal(size=(n, d)), rng.normal(size=(200, d)), rng.normal(size=d) / d**0.5
    y = x @ beta + 0.5 * rng.normal(size=n)
    run = lambda width: finite_ntk_error(jax.random.key(0), nb.Erf(), width, x, y, x_test, x_test @ beta, n_networks=12)
    below, peak, above = (float(jnp.median(run(width))) for width in (4, 12, 60))  # 28, 84 and 420 parameters
    assert peak > 5 * below and peak > 5 * above
    wide = run(60)[0]
    drawn = jax.random.normal(jax.random.split(jax.random.key(0), 12)[0], (60 * d + 60,))
    params = {"W": drawn[: 60 * d].reshape(60, d), "a": drawn[60 * d :]}
    f = lambda p, x: jax.scipy.special.erf(x @ p["W"].T / d**0.5) @ p["a"] / 60**0.5
    features = lambda x: np.concatenate(
        [np.asarray(J).reshape(len(x), -1) for J in jax.jacobian(f)(params, x).values()], 1
    )
    theta = np.linalg.lstsq(features(x), y, rcond=None)[0]
    np.testing.assert_allclose(wide, np.mean((features(x_test) @ theta - x_test @ beta) ** 2), rtol=1e-6)


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: learning_curve(np.ones(3), np.ones(2), 5.0), ValueError),
        (lambda: learning_curve(np.ones(3), np.ones(3), -5.0), ValueError),
        (lambda: learning_curve(np.array([1.0, -1.0]), np.ones(2), 5.0), ValueError),
        (lambda: learning_curve(np.ones(3), np.ones(3), 5.0, noise=-1.0), ValueError),
        (lambda: random_features_error("relu", 1.0, 3.0, ridge=0.1), TypeError),
        (lambda: random_features_error(nb.Relu(), 1.0, 3.0, ridge=-0.1), ValueError),
        (
            lambda: finite_ntk_error(jax.random.key(0), nb.Erf(), 0, np.eye(2), np.ones(2), np.eye(2), np.ones(2)),
            ValueError,
        ),
    ],
)
def test_bad_input(call, error):
    with pytest.raises(error, match="Expected"):
        call()
