"""Chapter 08: the panel's networks and predictions against the library; its mission."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.exercises import chapter_08
from ntkbook.panels import PANELS
from ntkbook.panels import beyond_squared_loss as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["classifier"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


def logistic(f, y):
    return jnp.log1p(jnp.exp(-y * f))


def network(width):
    """The first of the panel's networks, cut out and rebuilt from the library's layers: the oracle."""
    hidden, output = chapter.SCALES
    net = nb.serial(nb.Dense(width, **hidden), nb.Erf(), nb.Dense(1, **output))
    p = {name: jnp.asarray(np.asarray(array[0], dtype=float)) for name, array in chapter._fixed()[0].items()}
    return net, ((p["W_in"][:, :width], p["b_in"][:width]), (), (p["W_out"][:width, None], p["b_out"][None]))


@pytest.mark.slow
def test_the_curves_are_those_of_the_library(panel):
    data = at(panel, t=16, width=32, cross_entropy=1, momentum=0.9)
    net, params = network(32)
    x, y = jnp.asarray(chapter.X_TRAIN[:, None]), jnp.asarray(chapter.Y_TRAIN[:, None])
    lr = chapter.RATE * len(x) / np.linalg.eigvalsh(nb.empirical_ntk(net.apply, params, x, method="jacobian"))[-1]
    setting = {"loss": logistic, "reduction": "mean", "record": ("outputs", "linearized")}
    x_test = jnp.asarray(chapter.GRID[:, None])
    history = nb.train(net.apply, params, x, y, lr=lr, momentum=0.9, steps=16, times=[16], x_test=x_test, **setting)
    assert np.allclose(data["curves"][0], history.outputs_test[-1, :, 0], atol=2e-2)
    assert np.allclose(data["curves"][1], history.linearized_outputs_test[-1, :, 0], atol=2e-2)


@pytest.mark.slow
def test_infinite_width_without_momentum_is_a_flow(panel):
    """Small steps of the squared loss against the closed form for the same number of steps."""
    data = at(panel, t=64, width=16, cross_entropy=0)
    net, params = network(16)
    x, grid = (jnp.asarray(array[:, None]) for array in (chapter.X_TRAIN, chapter.GRID))
    lr = chapter.RATE * len(x) / np.linalg.eigvalsh(nb.empirical_ntk(net.apply, params, x, method="jacobian"))[-1]
    y = jnp.asarray(chapter.Y_TRAIN[:, None])
    closed = nb.gradient_descent(nb.ntk(net, x), y, lr=lr, reduction="mean")
    predicted = closed.test(64, nb.ntk(net, grid, x), net.apply(params, x), net.apply(params, grid))
    assert np.allclose(data["curves"][2], predicted[:, 0], atol=2e-2)


def test_a_batch_holds_its_examples_once_in_each_epoch():
    for size in chapter.BATCHES:
        weights = np.asarray(chapter._batches(size))
        assert weights.shape == (chapter.STEPS[-1], len(chapter.X_TRAIN))
        assert np.allclose(weights.sum(1), 1) and ((weights > 0).sum(1) == size).all()
        epoch = len(chapter.X_TRAIN) // size
        assert np.allclose(weights[:epoch].sum(0) * size, 1)


def test_squared_loss_comes_to_rest_and_cross_entropy_does_not(panel):
    distances = {c: at(panel, cross_entropy=c, t=512, width=512)["distances"][0] for c in (0, 1)}
    last, before = -1, chapter.STEPS.index(128) - 1
    assert distances[0][last] < 1.2 * distances[0][before]
    assert distances[1][last] > 1.5 * distances[1][before]


@pytest.mark.slow
@pytest.mark.parametrize("cross_entropy", [0, 1])
def test_the_panel_is_finite_at_the_ends(panel, cross_entropy):
    for width in (chapter.NARROWEST, chapter.WIDEST):
        for momentum in (0.0, 0.9):
            for batch in (1, 6):
                data = at(panel, t=512, width=width, cross_entropy=cross_entropy, momentum=momentum, batch=batch)
                assert all(np.isfinite(array).all() for array in data.values())


def test_a_sweep_of_the_sliders_compiles_nothing(panel):
    before = chapter._trained._cache_size()
    for i in range(6):
        panel.set(width=2.0 ** (4 + i), cross_entropy=i % 2, momentum=0.1 * i, batch=chapter.BATCHES[i % 4])
    assert chapter._trained._cache_size() == before


def test_the_mission_asks_for_wide_and_early(panel):
    panel.reset()
    mission = chapter_08.mission(panel)
    for setting in ({"width": 512, "t": 512}, {"t": 8}, {"t": 1}, {"t": 23, "width": 64}, {"width": 512, "batch": 1}):
        panel.set(**setting)
        assert not mission.done, setting
    panel.set(width=512, batch=6, cross_entropy=0)
    assert not mission.done, "squared loss"
    panel.set(cross_entropy=1)
    assert mission.done


def test_heavy_ball_in_its_other_form_is_right_too():
    """Written with the outputs before: f + b (f - f_before) - lr K (f - y) / n."""
    assert chapter_08.check_heavy_ball(two_term)


@pytest.mark.slow
@pytest.mark.parametrize(
    "check, wrong, word",
    [
        ("check_softmax_pull", lambda f, y: -y / (np.exp(f) / np.exp(f).sum(1, keepdims=True)), "slope in the probab"),
        (
            "check_softmax_pull",
            lambda f, y: y * (np.exp(f) / np.exp(f).sum(1, keepdims=True) - 1),
            "only the right class",
        ),
        ("check_softmax_pull", lambda f, y: slope_of_squares(f, y), "squared error of the probabilities"),
        ("check_heavy_ball", lambda k, f, y, lr, b, n: plain(k, f, y, lr / (1 - b), n), "rate lr/(1 - momentum)"),
        ("check_heavy_ball", lambda k, f, y, lr, b, n: two_term(k, f, y, lr, b, n + 1), "one step too many"),
    ],
)
def test_more_wrong_answers_are_named(check, wrong, word):
    result = getattr(chapter_08, check)(wrong)
    assert not result and word in result.feedback


def slope_of_squares(f, y):
    half_square = lambda f: ((jnp.exp(f) / jnp.exp(f).sum(1, keepdims=True) - y) ** 2).sum() / 2
    return jax.grad(half_square)(jnp.asarray(f))


def plain(k, f, y, lr, steps):
    for _ in range(steps):
        f = f - lr * k @ (f - y) / len(y)
    return f


def two_term(k, f, y, lr, momentum, steps):
    before = f
    for _ in range(steps):
        before, f = f, f + momentum * (f - before) - lr * k @ (f - y) / len(y)
    return f
