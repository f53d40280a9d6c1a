"""Chapter 05: its panels against the library's closed forms; its missions and wrong answers."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import ntkbook as nb
from ntkbook.exercises import chapter_05
from ntkbook.panels import PANELS
from ntkbook.panels import closed_form_dynamics as chapter


@pytest.fixture(scope="module")
def filter_panel():
    return PANELS["mode_filter"]()


@pytest.fixture(scope="module")
def units_panel():
    return PANELS["units_of_time"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    return panel.data()


def test_the_kernel_is_that_of_the_library_and_its_modes_belong_to_it():
    k, k_grid, lam, Q = chapter.modes()
    x = jnp.stack([jnp.cos(chapter.ANGLES), jnp.sin(chapter.ANGLES)], axis=1)
    net = nb.serial(nb.Dense(5, 1.5, 0.5), nb.Relu(), nb.Dense(1, 1.5, 0.5))
    assert np.allclose(k, nb.ntk(net, x), rtol=1e-4)
    assert np.allclose((Q * lam) @ Q.T, k) and (np.diff(lam) <= 0).all()
    assert k_grid.shape == (121, 24)
    assert np.allclose(chapter.modes(12).k, k[::2, ::2], rtol=1e-4)


@pytest.mark.parametrize("rate, momentum, step", [(1.0, 0.0, 24), (1.9, 0.0, 481), (3.7, 0.87, 98), (0.3, 0.5, 7)])
def test_what_is_left_and_learnt_is_as_the_library_says(filter_panel, rate, momentum, step):
    data = at(filter_panel, rate=rate, momentum=momentum, step=step, noise=0.3)
    state = filter_panel.state()
    k, k_grid, lam, Q = (jnp.asarray(array, float) for array in chapter.modes())
    y = jnp.asarray(chapter.target(chapter.ANGLES) + state["noise"] * chapter.NOISE)
    descent = nb.gradient_descent(k, y, lr=state["rate"] / lam[0], momentum=state["momentum"])
    steps = int(state["step"])
    assert np.allclose(data["data"], y, atol=1e-5)
    assert np.allclose(data["mean"], descent.test(steps, k_grid), atol=5e-3)
    assert float(data["error_train"]) == pytest.approx(np.sqrt(np.mean(descent.residual(steps) ** 2)), abs=2e-3)
    assert np.allclose(data["flow"], np.exp(-state["rate"] * steps * data["fine"] / lam[0]), atol=1e-5)


def test_stability_is_where_it_should_be(filter_panel):
    for rate, momentum, is_stable in ((1.98, 0, True), (2.02, 0, False), (2.9, 0.5, True), (3.1, 0.5, False)):
        fastest = abs(float(at(filter_panel, rate=rate, momentum=momentum, step=4000)["fastest"]))
        assert (fastest < 1) == is_stable


def test_steps_that_diverge_stay_finite(filter_panel):
    data = at(filter_panel, rate=4.0, step=4000, noise=1.0)
    assert all(np.isfinite(array).all() for array in data.values())
    assert "out of range" in filter_panel.reading


@pytest.mark.parametrize("mean, n, lr", [(0, 24, 0.02), (1, 24, 0.2), (1, 6, 0.2)])
def test_steps_lie_on_the_flow_at_the_right_time_per_step(units_panel, mean, n, lr):
    right = lr / n if mean else lr
    data = at(units_panel, mean=mean, n=n, lr=lr, unit=right)
    assert float(data["ratio"]) == pytest.approx(1, abs=0.02)
    flow = np.exp(np.interp(np.log(data["time"]), np.log(chapter.TIMES), np.log(data["flow"])))
    shown = (data["time"] > 0.2) & (data["time"] < 900) & (data["steps"] > 2 * chapter.FLOOR)
    assert shown.sum() > 5
    assert np.allclose(np.log(data["steps"][shown]), np.log(flow[shown]), atol=0.15)
    wrong = at(units_panel, mean=mean, n=n, lr=lr, unit=min(1.0, 20 * right))
    assert float(wrong["ratio"]) > 5


def test_missions_are_met_by_their_solutions_only(filter_panel, units_panel):
    filter_panel.reset()
    units_panel.reset()
    stop, heavy = chapter_05.mission_stop(filter_panel), chapter_05.mission_heavy(filter_panel)
    units = chapter_05.mission_units(units_panel)
    for values in ({"step": 24}, {"step": 4000}, {"noise": 0, "step": 199}, {"step": 98, "rate": 1.0}):
        filter_panel.set(**{"noise": 0.5, **values})
        assert not stop.done and not heavy.done, values
    filter_panel.set(noise=0.5, step=199, rate=1.0)
    filter_panel.set(step=98, rate=1.99)
    assert stop.done and not heavy.done
    filter_panel.set(step=98, rate=3.7, momentum=0.87)
    assert heavy.done
    for values in ({"n": 24, "unit": 0.5 / 24}, {"n": 12, "unit": 0.5}, {"mean": 0, "n": 12, "unit": 0.5}):
        units_panel.set(**{"lr": 0.5, "mean": 1, **values})
        assert not units.done, values
    units_panel.set(mean=1, unit=0.5 / 12)
    assert units.done


@pytest.mark.parametrize(
    "check, wrong, words",
    [
        ("errors_after", lambda lam, Q, r0, lr, k: Q @ np.diag(np.exp(-lr * lam * k)) @ Q.T @ r0, "flow"),
        ("steps_until", lambda part, lam, lr, n: np.log(1 / part) / (lam * lr), "number of examples"),
        ("largest_rate", lambda k, momentum: 2 * (1 + momentum) / np.linalg.eigvalsh(k).max(), "without the 1/2"),
        (
            "largest_rate",
            lambda k, momentum: 2 * (1 + momentum) * len(k) / np.linalg.eigvalsh(k).max(),
            "no 1/2",
        ),
        ("outputs_elsewhere", lambda kt, k, y, t: kt @ (y - chapter_05._decay(k, t) @ y), "inverse kernel"),
        ("errors_after", lambda lam, Q, r0, lr, k: Q @ ((1 - 2 * lr * lam) ** k * (Q.T @ r0)), "factor 2 too much"),
        ("errors_after", lambda lam, Q, r0, lr, k: r0 - k * lr * (Q * lam) @ Q.T @ r0, "one step of k times"),
        ("errors_after", lambda lam, Q, r0, lr, k: Q @ (r0 * (1 - lr * lam) ** k), "never taken to the modes"),
        ("largest_rate", lambda k, momentum: len(k) * (1 + momentum) / 2 / np.linalg.eigvalsh(k).max(), "half of the"),
        (
            "outputs_elsewhere",
            lambda kt, k, y, t: kt @ np.linalg.solve(k, y - expm(-2 * t * k) @ y),
            "factor 2 too much",
        ),
    ],
)
def test_wrong_answers_as_readers_write_them(check, wrong, words):
    result = chapter_05.EXERCISES[check][0](wrong)
    assert not result and words in result.feedback


def test_right_answers_in_other_words_are_right():
    descent = lambda lam, Q, r0, lr, k: np.linalg.matrix_power(np.eye(len(lam)) - lr * (Q * lam) @ Q.T, k) @ r0
    assert chapter_05.check_errors_after(lambda *arguments: list(descent(*arguments)))
    assert chapter_05.check_steps_until(lambda part, lam, lr, n: int(np.ceil(-np.log(part) * n / (lr * lam))))
    assert chapter_05.check_largest_rate(lambda k, momentum: [[len(k) * (1 + momentum) / np.linalg.norm(k, 2)]])
