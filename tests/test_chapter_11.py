"""Chapter 11: its panels against the library and slow formulas; its mission; handmade answers."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.exercises import chapter_11
from ntkbook.panels import PANELS
from ntkbook.panels import spectral_bias as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["spectral_bias"]()


@pytest.fixture(scope="module")
def image():
    return PANELS["image_bandwidth"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


@pytest.mark.slow
@pytest.mark.parametrize("bias", [0, 1])
def test_the_infinite_network_is_that_of_the_library(panel, bias):
    net = nb.serial(nb.Dense(1, 2**0.5, float(bias)), nb.Relu(), nb.Dense(1, 2**0.5))
    step = np.eye(64) - chapter.LR / 64 * np.asarray(nb.ntk(net, jnp.asarray(chapter.X)))
    expected = chapter.Y - np.linalg.matrix_power(step, 96) @ chapter.Y
    data = at(panel, t=96, bias=bias)
    assert np.allclose(data["infinite"], expected, atol=1e-8)
    basis = np.cos(np.outer(chapter.FREQUENCIES, chapter.ANGLE) + chapter.PHASES[:, None])
    assert np.allclose(data["share_network"], basis @ data["network"] / 32 / chapter.AMPLITUDE, atol=1e-6)


@pytest.mark.slow
def test_the_network_is_that_of_the_library(panel):
    net = nb.serial(nb.Dense(16, 2**0.5, 1.0), nb.Relu(), nb.Dense(1, 2**0.5))
    p = {name: jnp.asarray(np.asarray(array, dtype=float)) for name, array in chapter._network().items()}
    params = ((p["W_in"][:, :16], p["b_in"][:16]), (), (p["W_out"][:16, None], jnp.zeros(1)))
    start = net.apply(params, jnp.asarray(chapter.X))
    history = nb.train(
        net.apply,
        params,
        jnp.asarray(chapter.X),
        start + chapter.Y[:, None],
        lr=chapter.LR,
        steps=24,
        times=[0, 24],
        reduction="mean",
        x_test=jnp.asarray(chapter.X),
        record=("outputs",),
    )
    expected = history.outputs_test[-1] - start
    assert np.allclose(at(panel, t=24, width=16)["network"], expected[:, 0], atol=2e-4)


@pytest.mark.slow
def test_odd_frequencies_need_biases(panel):
    without = at(panel, t=1024, width=512, bias=0)
    assert np.abs(without["share_network"][[2, 4]]).max() < 0.02 < 0.9 < without["share_network"][3]
    assert at(panel, t=1024, width=512, bias=1)["share_network"][2] > 0.9


def test_eigenvalues_without_biases_are_the_formula():
    k = np.array([2.0, 4, 6])
    assert np.allclose(chapter.eigenvalues(False)[[2, 4, 6]], 2 * (k**2 + 3) / (np.pi * (k**2 - 1)) ** 2, rtol=0.03)
    assert np.abs(chapter.eigenvalues(False)[3::2]).max() < 1e-9


def test_the_relu_kernel_is_that_of_the_library():
    angle = np.linspace(0, np.pi, 9)
    x = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1))
    layers = [nb.Dense(1, 2**0.5), nb.Relu()] * 3
    expected = nb.ntk(nb.serial(*layers, nb.Dense(1, 2**0.5)), x[:1], x)[0]
    assert np.allclose(chapter.relu_ntk(np.cos(angle), 3), expected, atol=1e-6)


def test_the_cosine_of_the_features_is_the_mean_over_random_ones():
    rng = np.random.default_rng(0)
    delta = np.array([[0.1, 0.05]])
    draws = np.cos(2 * np.pi * (1.5 * rng.standard_normal((40_000, 2)) @ delta[0]))
    cosine = chapter.features_cosine(np.zeros((1, 2)), delta, 1.5)[0, 0]
    assert abs(draws.mean() - cosine) < 4 * draws.std() / 200


@pytest.mark.slow
def test_the_picture_is_learnt_as_by_a_dense_solver(image):
    data = at(image, bandwidth=1, time=10)
    inside = chapter.IS_TRAIN
    k = chapter.relu_ntk(chapter.features_cosine(chapter.PLACES, chapter.PLACES[inside], 1.0), 3) / inside.sum()
    y, f = chapter.picture().ravel(), np.zeros(chapter.SIDE**2)
    for _ in range(2000):  # small steps of the flow
        f = f - 10 / 2000 * k @ (f - y)[inside]
    assert np.allclose(data["picture"].ravel(), np.clip(f, -1, 1), atol=0.01)


@pytest.mark.slow
def test_the_best_bandwidth_lies_inside(image):
    test = at(image, time=1e3)["test"]
    assert 0 < test.argmax() < len(test) - 1 and test.max() > test[-1] + 5


@pytest.mark.slow
def test_the_mission_is_met_by_one_step_only(panel):
    panel.reset()
    mission = chapter_11.mission(panel)
    right = [t for t in chapter.STEPS if at(panel, t=t)["share_infinite"][4] > 0.9][0]
    fresh = PANELS["spectral_bias"]()
    mission = chapter_11.mission(fresh)
    for t in chapter.STEPS:
        if t != right:
            fresh.set(t=t)
            assert not mission.done, t
    fresh.set(t=right, bias=0)
    assert not mission.done, "no biases"
    fresh.set(bias=1)
    assert mission.done and right == 768


def test_answers_as_readers_write_them():
    gram = lambda row: np.array([np.roll(row, i) for i in range(len(row))])
    by_cosines = lambda row: [
        np.cos(2 * np.pi * k * np.arange(len(row)) / len(row)) @ row / len(row) for k in range(len(row) // 2 + 1)
    ]
    assert chapter_11.check_eigenvalues(by_cosines)

    def by_matrix(row, y, t):
        lam, q = np.linalg.eigh(gram(row) / len(row))
        return q @ ((1 - np.exp(-lam * t)) * (q.T @ y))

    assert chapter_11.check_learnt(by_matrix)
    assert (
        "2 pi is missing"
        in chapter_11.check_cosine(
            lambda delta, p, n: (
                sum(j ** (-2 * p) * np.cos(j * delta) for j in range(1, n + 1))
                / sum(j ** (-2 * p) for j in range(1, n + 1))
            )
        ).feedback
    )
