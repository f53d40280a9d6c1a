"""Chapter 04: the networks of its panel and their linearizations against the library; its mission; handmade answers."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.exercises import chapter_04
from ntkbook.panels import PANELS
from ntkbook.panels import linearization as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["linearization"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


def network(width, relu):
    """The first of the panel's networks, cut out and rebuilt from the library's layers: the oracle."""
    hidden, output = chapter.SCALES
    net = nb.serial(nb.Dense(width, **hidden), nb.Relu() if relu else nb.Erf(), nb.Dense(1, **output))
    p = {name: jnp.asarray(np.asarray(array[0], dtype=float)) for name, array in chapter._networks().items()}
    return net, ((p["W_in"][:, :width], p["b_in"][:width]), (), (p["W_out"][:width, None], p["b_out"][None]))


@pytest.mark.slow
@pytest.mark.parametrize("width, relu, rate", [(16, 0, 0.5), (64, 1, 1.5)])
def test_both_curves_are_those_of_the_library(panel, width, relu, rate):
    data = at(panel, t=23, width=width, relu=relu, rate=rate)
    net, params = network(width, relu)
    x, y = jnp.asarray(chapter.X_TRAIN[:, None]), jnp.asarray(chapter.Y_TRAIN[:, None])
    kernel = nb.empirical_ntk(net.apply, params, x, method="jacobian")
    lr = rate / np.linalg.eigvalsh(kernel)[-1]
    x_test = jnp.asarray(chapter.GRID[:, None])
    history = nb.train(net.apply, params, x, y, lr=lr, steps=23, times=[0, 23], x_test=x_test, record=RECORD)
    assert np.allclose(data["start"], history.outputs_test[0, :, 0], atol=1e-4)
    assert np.allclose(data["network"], history.outputs_test[-1, :, 0], atol=5e-3)
    assert np.allclose(data["linearized"], history.linearized_outputs_test[-1, :, 0], atol=5e-3)
    assert np.isclose(data["gap"], np.abs(data["network"] - data["linearized"]).max(), rtol=1e-6)


RECORD = ("outputs", "linearized")


@pytest.mark.slow
def test_wide_networks_stay_near_their_linearization(panel):
    worst = {width: float(at(panel, width=width)["worst"]) for width in (16, 128, 1024)}
    assert worst[1024] < worst[128] / 2.8 and worst[128] < worst[16]
    assert worst[1024] < 0.1


def test_above_two_the_linearization_diverges_and_the_network_learns(panel):
    below = at(panel, width=256, rate=1.9)
    assert below["loss"] < 1e-3 and below["loss_linearized"] < 1e-3
    above = at(panel, width=256, rate=2.2)
    assert above["loss"] < 1e-3 and above["loss_linearized"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("relu", [0, 1])
def test_the_panel_is_finite_at_the_ends(panel, relu):
    for width in (chapter.NARROWEST, chapter.WIDEST):
        for rate in (0.1, 3.0):
            for t in (0, 256):
                data = at(panel, t=t, width=width, rate=rate, relu=relu)
                assert all(np.isfinite(array).all() for array in data.values())


def test_a_sweep_of_the_sliders_compiles_nothing(panel):
    before = chapter._trained._cache_size()
    for i in range(8):
        panel.set(width=2.0 ** (3 + i), rate=0.3 * (i + 1), relu=i % 2, t=chapter.STEPS[i])
    assert chapter._trained._cache_size() == before


@pytest.mark.slow
def test_the_mission_is_met_by_one_width_only(panel):
    panel.reset()
    mission = chapter_04.mission(panel)
    for width in (8, 16, 32, 64, 128, 256, 1024):
        panel.set(width=width)
        assert not mission.done, width
    panel.set(width=512, relu=1)
    assert not mission.done, "ReLU"
    panel.set(relu=0, rate=0.6)
    assert not mission.done, "another rate"
    panel.set(rate=0.5)
    assert mission.done


def test_answers_as_readers_write_them():
    def updates_first(k_test_train, k_train_train, f0_test, f0_train, y, lr, steps):
        for _ in range(steps):
            f0_train = f0_train - lr / len(y) * k_train_train @ (f0_train - y)
            f0_test = f0_test - lr / len(y) * k_test_train @ (f0_train - y)
        return f0_test

    assert "order is wrong" in chapter_04.check_linear_steps(updates_first).feedback

    def sum_loss(k):
        return 2 / np.linalg.eigvalsh(k).max()

    assert "factor n is missing" in chapter_04.check_largest_rate(sum_loss).feedback
    assert chapter_04.check_largest_rate(lambda k: nb.max_learning_rate(k, reduction="mean"))
