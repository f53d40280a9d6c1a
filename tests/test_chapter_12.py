"""Chapter 12: its panels against autodiff and a simulation of two vectors; its missions; handmade answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.dynamics.fluctuations import relu_ntk_variance
from ntkbook.exercises import chapter_12
from ntkbook.panels import PANELS
from ntkbook.panels import lazy_and_rich as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["lazy_and_rich"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [4.0**-2, 4.0**2])
def test_a_run_is_gradient_descent_on_the_scaled_output(panel, alpha):
    """In the coordinates of the text, not the panel's: alpha h, the loss over alpha^2, and autodiff."""
    x, places = (jnp.asarray(chapter.on_circle(a)) for a in (chapter.ANGLES, chapter.PLACES))
    h = lambda w, x: jnp.maximum(x @ w[0], 0) @ w[1]
    w = w0 = tuple(jnp.asarray(leaf) for leaf in chapter.start())
    y, lr = chapter.teacher(np.asarray(x)), chapter.RATE / max(alpha, 1) * alpha
    loss = lambda w: jnp.mean((alpha * h(w, x) - y) ** 2) / 2 / alpha**2
    jacobian = lambda x: jnp.concatenate([j.reshape(len(x), -1) for j in jax.jacobian(h)(w0, x)], 1)
    k, k_places = (jacobian(points) @ jacobian(x).T for points in (x, places))
    linear, linear_places, slope = jnp.zeros(8), jnp.zeros(2), jax.jit(jax.grad(loss))
    for _ in range(32):
        w = jax.tree.map(lambda p, g: p - lr * g, w, slope(w))
        residual = lr / 8 * (linear - y)
        linear, linear_places = linear - k @ residual, linear_places - k_places @ residual
    data = at(panel, alpha=alpha, t=32)
    assert np.allclose(data["network"][-1], alpha * h(w, places), atol=1e-10)
    assert np.allclose(data["linearized"][-1], linear_places, atol=1e-10)
    tips = np.abs(w[1]) * w[0]
    assert np.allclose(data["trail"][-1] / np.linalg.norm(data["trail"][-1]), tips / np.linalg.norm(tips), atol=1e-8)
    assert np.isclose(data["loss"], alpha**2 * loss(w), rtol=1e-8)


def test_the_kernel_is_that_of_the_library():
    w, x = chapter.start(), jnp.asarray(chapter.on_circle(chapter.ANGLES))
    expected = nb.empirical_ntk(lambda w, x: jnp.maximum(x @ w[0], 0) @ w[1], tuple(map(jnp.asarray, w)), x)
    assert np.allclose(chapter.tangent_kernel(w, np.asarray(x), np.asarray(x)), expected, atol=1e-6)


def test_rich_units_turn_and_lazy_ones_stay(panel):
    rich, lazy = (at(panel, alpha=alpha, t=chapter.STEPS[-1]) for alpha in (chapter.ALPHAS[0], chapter.ALPHAS[-1]))
    assert rich["pointing"] > 0.9 > 0.1 > lazy["pointing"]
    assert rich["apart"] > 0.4 > 1e-3 > lazy["apart"] and max(rich["loss"], lazy["loss"]) < 1e-4
    assert np.abs(lazy["trail"][-1] - lazy["trail"][0]).max() < 0.05
    target = chapter.teacher(chapter.on_circle(chapter.PLACES))
    assert np.abs(rich["network"][-1] - target).max() < 0.01 < np.abs(lazy["network"][-1] - target).max()


def test_units_on_a_ray_point_there_and_others_do_not():
    W = chapter.on_circle(np.array([chapter.TURNS[0] + 0.1, chapter.TURNS[1] - 0.3])).T * [1.0, 2.0]
    assert np.isclose(chapter.pointing(W, np.array([-3.0, 0.5])), 3 / 4)


@pytest.mark.parametrize("rate", [1.5, 2.5, 3.7])
def test_two_numbers_are_two_vectors(rate):
    """The recursion against gradient descent on the vectors, from f = 1 and lambda = 1."""
    n = 256
    u = np.zeros(n)
    v = np.zeros(n)
    # |u|^2 + |v|^2 = n and u.v = sqrt(n)
    u[0], v[0], v[1] = 4.0, 4.0, 4 * 14**0.5
    assert np.isclose(u @ v / n**0.5, 1) and np.isclose((u @ u + v @ v) / n, 1)
    f_all, lam_all = [], []
    for _ in range(chapter.FLIGHT + 1):
        f = u @ v / n**0.5
        f_all.append(abs(f))
        lam_all.append(rate * (u @ u + v @ v) / n)
        u, v = u - rate * f / n**0.5 * v, v - rate * f / n**0.5 * u
    f, lam = chapter.flight(rate, n)
    assert np.allclose(f, f_all, atol=1e-9) and np.allclose(lam, lam_all, atol=1e-9)


def test_the_catapult_has_three_phases():
    flight = PANELS["catapult"]()
    lazy, caught, lost = (at(flight, rate=rate, width=4.0**10) for rate in (1.95, 3.0, 4.05))
    assert lazy["peak"] == 1 and lazy["end"] > 1.9
    assert caught["peak"] > 100 and caught["end"] < 2
    assert lost["has_diverged"] and not caught["has_diverged"]
    at(flight, rate=4.3)
    assert "diverges" in flight.reading


def test_the_mission_is_met_by_one_scale_only():
    fresh = PANELS["lazy_and_rich"]()
    mission = chapter_12.mission(fresh)
    for alpha in chapter.ALPHAS:
        if alpha != 1 / 16:
            fresh.set(alpha=alpha)
            assert not mission.done, alpha
    fresh.set(t=1024)
    fresh.set(alpha=1 / 16)
    assert not mission.done
    fresh.set(t=chapter.STEPS[-1])
    assert mission.done


def test_the_questions_send_the_panels_to_their_answers(panel):
    panel.reset()
    question = chapter_12.predict(panel)
    question.choose("They hardly move, and the loss still goes to zero.")
    assert question.is_right and panel.state()["alpha"] == 64 and panel.data()["loss"] < 1e-4
    flight = PANELS["catapult"]()
    question = chapter_12.predict_catapult(flight)
    question.choose("It diverges.")
    assert not question.is_right and flight.data()["peak"] > 5 and not flight.data()["has_diverged"]


def test_answers_as_readers_write_them():
    def by_vectors(f, lam, eta, n):
        """Two vectors with this product and these lengths, moved once."""
        u = np.zeros(3)
        v = np.zeros(3)
        u[0] = v[0] = abs(f * n**0.5) ** 0.5
        v[0] *= np.sign(f)
        v[1] = (lam * n - 2 * abs(f) * n**0.5) ** 0.5
        u, v = u - eta * f / n**0.5 * v, v - eta * f / n**0.5 * u
        return u @ v / n**0.5, (u @ u + v @ v) / n

    assert np.allclose(by_vectors(1.0, 1.2, 0.5, 16), chapter_12.CATAPULT_STEP.reference(1.0, 1.2, 0.5, 16))

    def one_after_the_other(f, lam, eta, n):
        f = (1 - eta * lam + eta**2 * f**2 / n) * f
        return f, lam + eta * f**2 / n * (eta * lam - 4)

    assert "at once" in chapter_12.check_catapult_step(one_after_the_other).feedback
    assert "no prediction" in chapter_12.check_kernel_variance(lambda n, depth: np.exp(5 * depth / n) - 1).feedback
    assert chapter_12.check_kernel_variance(relu_ntk_variance)
    assert "cancel" in chapter_12.check_lazier(lambda change, alpha, new, symmetric: change * alpha / new).feedback
