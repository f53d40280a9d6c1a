"""Chapter 14: its panels against autodiff, step by step training and a matrix exponential; its mission; answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ntkbook.exercises import chapter_14
from ntkbook.panels import PANELS
from ntkbook.panels import physics_informed as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["boundary_weight"]()


@pytest.fixture(scope="module")
def waves():
    return PANELS["frequency"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


def rows():
    """(u at the ends, u'' inside) at the start, and the Jacobians with all parameters."""
    params = chapter.draw()
    ends, _, j_ends, _ = chapter.network(params, chapter.ENDS)
    _, curve, _, j_curve = chapter.network(params, chapter.INNER)
    return np.concatenate([ends, curve]), np.concatenate([j_ends, j_curve])


def targets(a):
    return np.concatenate([np.zeros(2), -((a * np.pi) ** 2) * np.sin(a * np.pi * chapter.INNER)])


def test_the_network_and_its_jacobians_are_those_of_autodiff():
    W, b, v, c = params = chapter.draw(width=7)

    def u(params, x):
        W, b, v, c = params
        return v @ jnp.tanh((x - chapter.MIDDLE) / chapter.SPREAD * W + b) / 7**0.5 + c

    curve = jax.grad(jax.grad(u, 1), 1)
    leaves = tuple(map(jnp.asarray, params))
    x = np.array([0.1, 0.8])
    value, second, of_u, of_curve = chapter.network(params, x)
    for f, values, jacobian in ((u, value, of_u), (curve, second, of_curve)):
        for i in range(2):
            assert np.isclose(f(leaves, x[i]), values[i], rtol=1e-4)
            gradient = np.concatenate([np.ravel(part) for part in jax.grad(f)(leaves, x[i])])
            assert np.allclose(gradient, jacobian[i], rtol=1e-3, atol=1e-3 * np.abs(gradient).max())
    step = 1e-4
    finite = chapter.network(params, np.array([0.3 - step, 0.3, 0.3 + step]))[0] @ [1, -2, 1] / step**2
    assert np.isclose(finite, chapter.network(params, [0.3])[1][0], rtol=1e-4)


@pytest.mark.parametrize("weight", [1.0, 164.0])
def test_a_run_is_gradient_descent_on_the_linearized_loss(panel, weight):
    start, J = rows()
    w = np.concatenate([np.full(2, weight / 2), np.full(100, 1 / 100)])
    rate = 1 / np.linalg.eigvalsh(2 * np.sqrt(w)[:, None] * (J @ J.T) * np.sqrt(w))[-1]
    moved, y = np.zeros(J.shape[1]), targets(1)
    for _ in range(30):
        moved -= rate * J.T @ (2 * w * (start + J @ moved - y))
    data = at(panel, weight=weight, t=30)
    u0, _, j_grid, _ = chapter.network(chapter.draw(), chapter.GRID)
    error = start + J @ moved - y
    now = int(data["now"])
    assert np.allclose(data["u"], u0 + j_grid @ moved, atol=1e-8) and np.isclose(data["rate"], rate)
    assert np.isclose(data["boundary"][now], np.sqrt((error[:2] ** 2).mean()))
    assert np.isclose(data["equation"][now], np.linalg.norm(error[2:]) / np.linalg.norm(y))


def test_the_trace_weight_is_the_ratio_of_traces():
    _, J = rows()
    copies = 50  # of each end, so that boundary and equation have 100 points each
    assert round(float((J[2:] ** 2).sum() / (copies * (J[:2] ** 2).sum()))) == chapter.TRACE_WEIGHT


def test_the_weight_rescues_the_boundary_and_too_much_of_it_starves_the_equation(panel):
    equal, trace, most = (at(panel, weight=weight, t=100) for weight in (1, chapter.TRACE_WEIGHT, 1e4))
    for name in ("boundary", "equation", "off"):
        assert np.array_equal(equal[name], most[name])
    assert equal["boundary"][0] > 0.4 > 0.01 > equal["boundary"][int(trace["now"])]
    assert equal["off"].argmin() not in (0, len(chapter.WEIGHTS) - 1)
    assert equal["equation"][-1] > 10 * equal["equation"][0]
    off_line = equal["u"] - np.sin(np.pi * chapter.GRID) - equal["line"]
    assert np.linalg.norm(off_line) < 0.1 * np.linalg.norm(equal["line"])


@pytest.mark.parametrize("kind", ["equation", "plain"])
def test_the_error_that_is_left_is_a_matrix_exponential(kind):
    a, t = 3.0, 1e5
    _, J = rows()
    w = np.concatenate([np.full(2, chapter.TRACE_WEIGHT), np.full(100, 2 / 100)])
    y = targets(a)
    if kind == "plain":
        J, w, y = (
            chapter.network(chapter.draw(), chapter.INNER)[2],
            np.full(100, 2 / 100),
            np.sin(a * np.pi * chapter.INNER),
        )
    left = scipy.linalg.expm(-chapter.RATE * t * (J @ J.T) * w) @ y
    part = slice(-100, None)
    expected = np.linalg.norm(left[part]) / np.linalg.norm(y[part])
    assert np.isclose(chapter._error_left(kind, a, t), expected, rtol=1e-6)


def test_a_tenth_is_left_when_it_is_said(waves):
    data = at(waves, a=5, t=1e4)
    for kind in ("equation", "plain"):
        steps = data[f"steps_{kind}"]
        for a in (1, 5, 10):
            now = steps[a - 1]
            assert chapter._error_left(kind, a, now) <= 0.1 < chapter._error_left(kind, a, now / 1.1)
    assert (data["steps_plain"] > 50 * data["steps_equation"]).all() and data["steps_equation"].argmin() == 1


def test_the_solution_is_learnt_from_the_equation(waves):
    assert np.abs(at(waves, a=4, t=0)["equation"]).max() == 0
    data = at(waves, a=4, t=1e6)
    assert np.allclose(data["equation"], np.sin(4 * np.pi * chapter.GRID), atol=0.01)
    assert data["left"][1] > 0.5
    assert np.allclose(at(waves, a=2, t=1e10)["plain"], np.sin(2 * np.pi * chapter.GRID), atol=0.02)


def test_the_mission_is_met_by_one_weight_only():
    fresh = PANELS["boundary_weight"]()
    mission = chapter_14.mission(fresh)
    fresh.set(t=100)
    for weight in chapter.WEIGHTS:
        if weight != 30:
            fresh.set(weight=weight)
            assert not mission.done, weight
    fresh.set(t=10)
    fresh.set(weight=30)
    assert not mission.done
    fresh.set(t=100)
    assert mission.done


def test_the_questions_send_the_panels_to_their_answers(panel, waves):
    panel.reset()
    question = chapter_14.predict(panel)
    question.choose("Nearly a straight line.")
    assert question.is_right and panel.state() == {"weight": 1, "t": 100}
    waves.reset()
    question = chapter_14.predict_frequency(waves)
    question.choose("Longer: derivatives make a problem harder.")
    assert not question.is_right and waves.data()["left"][0] < 0.1 < 0.9 < waves.data()["left"][1]


def test_answers_as_readers_write_them():
    def by_differences(W, b, v, x, spread, step=1e-3):
        u = lambda x: np.tanh(np.outer(x / spread, W) + b) @ v / len(W) ** 0.5
        around = [u(x + k * step) for k in (-2, -1, 0, 1, 2)]
        return np.tensordot([-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12], around, 1) / step**2

    assert chapter_14.check_second_derivative(by_differences)

    def by_flow(J_u, J_r, weight_u, weight_r):
        J = np.concatenate([J_u, J_r])
        scale = [weight_u / len(J_u)] * len(J_u) + [weight_r / len(J_r)] * len(J_r)
        return np.sort(np.linalg.eigvals(2 * np.diag(scale) @ J @ J.T).real)[::-1]

    assert chapter_14.check_speeds(by_flow)
    assert (
        "couple"
        in chapter_14.check_speeds(
            lambda J_u, J_r, w_u, w_r: np.sort(
                np.concatenate([2 * w / len(J) * np.linalg.eigvalsh(J @ J.T) for J, w in ((J_u, w_u), (J_r, w_r))])
            )[::-1]
        ).feedback
    )
    assert (
        "upside down"
        in chapter_14.check_trace_weights(
            lambda K, n: [np.trace(K[:n, :n]) / np.trace(K), np.trace(K[n:, n:]) / np.trace(K)]
        ).feedback
    )
    assert "no second derivative" not in chapter_14.check_error_of_solution(lambda a, b, x: a + (b - a) * x).feedback
