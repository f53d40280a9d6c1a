"""Chapter 01: its panels' models against the library and against differentiation; its missions and wrong answers."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.exercises import chapter_01
from ntkbook.panels import PANELS
from ntkbook.panels import kernel_gradient as chapter


@pytest.fixture(scope="module")
def one():
    return PANELS["one_example"]()


@pytest.fixture(scope="module")
def two():
    return PANELS["two_outputs"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    return panel.data()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_what_happens_in_linear_models_is_what_the_kernel_says(one, number):
    data = at(one, model=number, x0=-1.5, y0=1.0, part=1.7)
    assert np.allclose(data["after"], data["predicted"], atol=1e-10)
    assert np.allclose(data["happened"], data["row"], atol=1e-8)


def test_the_kernels_by_hand(one):
    x = chapter.GRID
    assert np.allclose(at(one, model=1, x0=1.0)["row"], x == 1.0)
    assert np.allclose(at(one, model=2, x0=2.0)["row"], (2 * x + 1) / 5)
    assert np.allclose(at(one, model=3, x0=2.0)["row"], (2 * x + 100) / 104)


def test_networks_follow_their_kernel_for_small_steps_and_wide_ones_for_large_steps(one):
    off = {(n, part): float(at(one, model=n, part=part)["off"]) for n in (5, 6) for part in (0.05, 1.0)}
    assert off[5, 0.05] < 0.05 < off[5, 1.0]
    assert off[6, 1.0] < off[5, 1.0] / 2


def test_an_example_that_is_fitted_already_has_a_share_too(one):
    data = at(one, model=2, x0=1.0, y0=0.7)
    assert np.allclose(data["happened"], data["row"], atol=1e-6)


def test_the_two_errors_go_as_the_eigenvalues_say(two):
    data = at(two, step=400, distance=0.5, width=512)
    lam = data["eigenvalues"]
    assert lam[0] > lam[1] > 0
    assert np.allclose(data["path"][-1], data["path_kernel"][-1], atol=0.01)
    assert np.hypot(*data["fast"][1]) == pytest.approx(1) and np.hypot(*data["slow"][1]) == pytest.approx(
        lam[1] / lam[0]
    )
    radius = np.hypot(*data["ellipse"].T)
    assert radius.max() == pytest.approx(1, abs=1e-3) and radius.min() == pytest.approx(lam[1] / lam[0], rel=0.02)
    narrow = at(two, step=400, distance=0.5, width=8)
    assert float(narrow["off"]) > 3 * float(data["off"])


def test_two_errors_against_steps_of_the_library(two):
    data = at(two, step=9, distance=1.0, angle=50, width=16)
    net = nb.serial(nb.Dense(16, W_std=2.0, b_std=1.0), nb.Tanh(), nb.Dense(1, W_std=1.0))
    p, x = chapter.draw_network(16, 1), jnp.array([[-0.5], [0.5]])
    params = ((p["W_in"], p["b_in"]), (), (p["W_out"][:, None], p["b_out"][None]))
    start = chapter.LENGTH * np.array([np.cos(np.pi * 50 / 180), np.sin(np.pi * 50 / 180)])
    y = net.apply(params, x)[:, 0] - start
    history = nb.train(net.apply, params, x, y[:, None], lr=chapter.LR, steps=9, times=[9])
    assert np.allclose(history.outputs[-1][:, 0] - y, data["here"], atol=1e-4)


def test_the_mission_has_two_solutions(one):
    def is_met(**values):
        one.reset()
        mission = chapter_01.mission(one)
        one.set(**values)
        return mission.done

    assert [x0 for x0 in chapter.GRID if is_met(model=2, x0=x0)] == [-0.75, 0.75]
    assert not is_met(model=4, x0=0.75)


def test_the_second_mission_asks_for_the_slow_direction(two):
    two.reset()
    mission = chapter_01.mission_two(two)
    for angle in (0, 45, 90, 180):
        two.set(step=11, angle=angle)
        assert not mission.done, angle
    two.set(angle=135, step=9)
    assert not mission.done, "too early"
    two.set(step=11)
    assert mission.done


@pytest.mark.parametrize(
    "check, wrong, words",
    [
        ("one_example", lambda J, i, f, y, lr: lr * (J @ J[i]) * (f[i] - y), "sign"),
        ("one_example", lambda J, i, f, y, lr: -lr * (J @ J.T)[i] * (f - y), "own error"),
        ("line_kernel", lambda x1, x2, a: np.outer(x2, x1) + a**2, "transposed"),
        ("similarity", lambda theta: theta / np.outer(np.diag(theta), np.diag(theta)), "square root"),
        ("loss_speed", lambda theta, f, y: -(f - y) @ theta @ (f - y) / len(f), "1/N too few"),
    ],
)
def test_wrong_answers_as_readers_write_them(check, wrong, words):
    result = chapter_01.EXERCISES[check][0](wrong)
    assert not result and words in result.feedback
