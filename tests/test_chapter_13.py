"""Chapter 13: its panels against regressions made step by step; its missions; handmade answers."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import eval_gegenbauer

from ntkbook.dynamics.learning_curves import learning_curve
from ntkbook.exercises import chapter_13
from ntkbook.panels import PANELS
from ntkbook.panels import generalization as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["double_descent"]()


@pytest.fixture(scope="module")
def degrees():
    return PANELS["learnt_degrees"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


@pytest.mark.parametrize("n_features, n", [(12, 20), (30, 20)])
def test_a_dot_is_the_mean_over_noise_and_targets(n_features, n):
    """The same draw, with many targets and noises, each solved by its normal equations."""
    d, ridge, test = 6, 0.02, 40
    signal, noise = chapter.regression(np.random.default_rng(3), n_features, n, [ridge], d, test)[:, 0]
    rng = np.random.default_rng(3)
    theta, x, x_test = (chapter.on_sphere(rng, m, d) for m in (n_features, n, test))
    relu = lambda x: np.maximum(x @ theta.T / d**0.5, 0)
    normal = relu(x).T @ relu(x) + n * n_features * ridge / d * np.eye(n_features)
    solve = lambda y: relu(x_test) @ np.linalg.solve(normal, relu(x).T @ y)
    beta = np.eye(d)  # the mean over directions is the mean over axes
    expected = ((solve(x @ beta / 1.0) - x_test @ beta) ** 2).sum() / d / test
    assert np.isclose(signal, expected, rtol=1e-6)
    many = solve(rng.standard_normal((n, 4000)))
    squares = (many**2).mean(0)
    assert abs(noise - squares.mean()) < 4 * squares.std() / 4000**0.5


@pytest.mark.slow
def test_the_dots_lie_on_the_curve_off_the_peak(panel):
    for samples, noise, ridge in ((3.0, 0.25, chapter.RIDGES[2]), (6.0, 1.0, chapter.RIDGES[4])):
        data = at(panel, samples=samples, noise=noise, ridge=ridge)
        theory = np.interp(np.log(chapter.SIMULATED), np.log(chapter.RATIOS), data["error"])
        off = np.abs(data["dots"].mean(1) / theory - 1)
        assert off[chapter.SIMULATED < 3].max() < 0.1  # beyond, 50 dimensions are too few


@pytest.mark.slow
def test_the_peak_and_the_ridge_that_removes_it(panel):
    peaked, calm = (at(panel, ridge=ridge)["error"] for ridge in (chapter.RIDGES[0], chapter.RIDGES[-3]))
    at_one = int((chapter.RATIOS == 1).argmax())
    assert abs(int(peaked.argmax()) - at_one) <= 1 and peaked.max() > 4 * peaked[0]
    assert chapter.rises(peaked) and not chapter.rises(calm)
    assert not chapter.rises(at(panel)["best"]) and "rises on the way" in panel.reading
    assert np.allclose(at(panel, noise=0)["error"], panel.data()["signal"])


def test_the_spectrum_adds_up_to_the_kernel():
    """The sum of eigenvalue, multiplicity and polynomial over degrees is the kernel, at any angle."""
    lam, count, rest = chapter.spectrum()
    for cosine in (0.3, -0.5):
        P = [eval_gegenbauer(k, 6.5, cosine) / eval_gegenbauer(k, 6.5, 1.0) for k in range(len(lam))]
        assert np.isclose((lam * count * P).sum(), chapter.relu_ntk(cosine), atol=1e-6)
    assert 0 < rest < 0.15 and np.isclose(chapter.relu_ntk(1.0), 3)
    for degree, of in zip(chapter.PARTS, chapter.zonal(np.array([0.3, 1.0]))):
        assert np.allclose(of, [chapter.legendre(degree, 0.3), 1])


@pytest.mark.slow
def test_degrees_are_learnt_as_the_theory_says(degrees):
    for n in (32.0, 256.0):
        data = at(degrees, n=n, noise=0.3)
        assert np.abs(data["dots_shares"] - data["shares"][1:4]).max() < 0.04
        curve = np.interp(np.log(chapter.MEASURED), np.log(chapter.CURVE), data["error"])
        assert np.abs(data["dots"] / curve - 1).max() < 0.08
    lam, count, _ = chapter.spectrum()
    z = brentq(lambda z: z - 1e-6 - (3 - (lam * count).sum()) - z * (count * lam / (256 * lam + z)).sum(), 1e-6, 3)
    assert np.allclose(data["shares"], (256 * lam / (256 * lam + z))[:5], rtol=1e-6)
    assert (at(degrees, n=8192)["dots_shares"] < 0).all()  # not measured


@pytest.mark.slow
def test_the_missions_are_met_by_one_place_only():
    fresh = PANELS["double_descent"]()
    mission = chapter_13.mission(fresh)
    fresh.set(noise=1)
    for ridge in chapter.RIDGES:
        if ridge != chapter.RIDGES[5]:
            fresh.set(ridge=ridge)
            assert not mission.done, ridge
    fresh.set(samples=1, ridge=chapter.RIDGES[8])
    assert not mission.done
    fresh.set(samples=3, ridge=chapter.RIDGES[5])
    assert mission.done
    other = PANELS["learnt_degrees"]()
    mission = chapter_13.mission_degrees(other)
    for n in chapter.EXAMPLES:
        if n != 4096:
            other.set(n=float(n))
            assert not mission.done, n
    other.set(n=4096)
    assert mission.done


@pytest.mark.slow
def test_the_questions_send_the_panels_to_their_answers(panel, degrees):
    panel.reset()
    read = lambda ratio: np.interp(np.log(ratio), np.log(chapter.RATIOS), panel.data()["error"])
    before = read(2.0)
    question = chapter_13.predict(panel)
    question.choose("It rises, about fourfold.")
    assert question.is_right and np.isclose(before, 0.5, atol=0.02) and 3.5 < read(1.0) / before < 4.5
    degrees.reset()
    question = chapter_13.predict_degrees(degrees)
    question.choose("Nearly all: 128 is nearly 135.")
    assert not question.is_right and 0.3 < degrees.data()["shares"][2] < 0.4


def test_answers_as_readers_write_them():
    def by_iteration(lam, n, ridge):
        z = ridge + lam.sum()
        for _ in range(20_000):
            z = ridge + z * (lam / (n * lam + z)).sum()
        return z

    assert chapter_13.check_effective_ridge(by_iteration)
    once = lambda lam, n, ridge: ridge + lam.sum()
    assert "all modes for unlearnt" in chapter_13.check_effective_ridge(once).feedback

    def by_learning_curve(p, n, signal, noise):
        return float(learning_curve(np.ones(p), np.full(p, signal / p), float(n), noise=float(noise)))

    assert chapter_13.check_equal_modes(by_learning_curve)
    one_sided = lambda p, n, s, t: s * max(1 - n / p, 0) + t * p / abs(p - n)
    assert "roles" in chapter_13.check_equal_modes(one_sided).feedback

    def by_descent(f0_train, f0_test, k_train, k_test, y):
        f, g, eta = f0_train.copy(), f0_test.copy(), 1 / np.linalg.eigvalsh(k_train)[-1]
        for _ in range(60_000):
            f, g = f - eta * k_train @ (f - y), g - eta * k_test @ (f - y)
        return g

    assert chapter_13.check_interpolant(by_descent)
    from_zero = lambda f0, g0, k, k_test, y: k_test @ np.linalg.solve(k, y)
    assert "nearest to f_0" in chapter_13.check_interpolant(from_zero).feedback

    def by_flow(alpha, s):
        """A constant pull for one unit of time."""
        d = len(s)
        pull = lambda t, uv: np.concatenate([2 * s * uv[:d], -2 * s * uv[d:]])
        uv = solve_ivp(pull, (0, 1), np.full(2 * d, alpha), rtol=1e-10, atol=1e-12).y[:, -1]
        return uv[:d] ** 2 - uv[d:] ** 2

    assert chapter_13.check_diagonal_weights(by_flow)
    assert "lazy" in chapter_13.check_diagonal_weights(lambda alpha, s: 8 * alpha**2 * np.asarray(s)).feedback
