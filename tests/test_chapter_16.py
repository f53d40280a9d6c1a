"""Chapter 16: its panels against autodiff, brute force and central differences; its missions; handmade answers."""

import json
import os
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.data import digits
from ntkbook.exercises import chapter_16
from ntkbook.memory import drop_programs
from ntkbook.panels import PANELS
from ntkbook.panels import kernels_at_work as chapter

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


@pytest.fixture(scope="module")
def panel():
    return PANELS["who_helps"]()


@pytest.fixture(scope="module")
def ten():
    return PANELS["ten_pictures"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


def network(params, x):
    W, v = params
    return jnp.tanh(x @ W / 8) @ v / v.size**0.5


@pytest.mark.slow
def test_the_kernel_is_that_of_autodiff():
    x = jnp.asarray(chapter.pictures()[0][:6])
    params = tuple(map(jnp.asarray, chapter.start(16)))
    jacobian = jnp.concatenate([part.reshape(6, -1) for part in jax.jacobian(network)(params, x)], 1)
    expected = jacobian @ jacobian.T
    assert np.allclose(chapter.tangent_kernel(*chapter.start(16), x, x), expected, rtol=1e-4)


def test_an_effect_by_the_kernel_is_regression_with_and_without():
    """For two pictures: the linearized network solved again on the 39 others."""
    x, y, x_new, _ = chapter.pictures()
    params = chapter.start(64)
    fast, answers, errors = chapter.by_kernel(64)

    def regression(rows, points):
        k = chapter.tangent_kernel(*params, x[rows], x[rows]) + chapter.RIDGE * np.eye(len(rows))
        residual = y[rows] - chapter.outputs(*params, x[rows])
        rest = chapter.tangent_kernel(*params, points, x[rows]) @ np.linalg.solve(k, residual)
        return chapter.outputs(*params, points) + rest

    everyone = np.arange(chapter.N)
    assert np.allclose(regression(everyone, x_new), answers)
    for i in (0, 29):
        without = np.delete(everyone, i)
        assert np.allclose(regression(everyone, x_new) - regression(without, x_new), fast[:, i])
        assert np.isclose(y[i] - regression(without, x[i : i + 1])[0], errors[i])


def test_training_again_is_training_without_the_picture():
    """Autodiff in float64 on the loss as the text states it: as many steps, and to the end."""
    x, _, x_new, _ = chapter.pictures()
    params = tuple(map(jnp.asarray, chapter.start(16)))
    effect, answers = chapter.by_training(16)
    lr = 1 / (np.linalg.eigvalsh(chapter.tangent_kernel(*chapter.start(16), x, x))[-1] + chapter.RIDGE)
    everyone = np.ones(chapter.N)
    without = everyone - np.eye(chapter.N)[29]
    kept = trained(params, everyone, lr, chapter.STEPS, x_new)
    assert np.allclose(kept, answers, atol=1e-3)
    assert np.allclose(kept - trained(params, without, lr, chapter.STEPS, x_new), effect[:, 29], atol=1e-3)
    at_the_end = trained(params, everyone, lr, 3000, x_new) - trained(params, without, lr, 3000, x_new)
    assert np.abs(at_the_end - effect[:, 29]).max() < 0.1 * np.abs(effect[:, 29]).max()


@jax.jit
def trained(params, keep, lr, steps, x_new):
    x, y, *_ = chapter.pictures()

    def loss(w):
        pull = sum(jnp.sum((a - b) ** 2) for a, b in zip(w, params))
        return jnp.sum(keep * (network(w, x) - y) ** 2) / 2 + chapter.RIDGE / 2 * pull

    def step(_, state):
        w, velocity = state
        velocity = jax.tree.map(lambda m, g: chapter.MOMENTUM * m - lr * g, velocity, jax.grad(loss)(w))
        return jax.tree.map(jnp.add, w, velocity), velocity

    start = (params, jax.tree.map(jnp.zeros_like, params))
    return network(jax.lax.fori_loop(0, steps, step, start)[0], x_new)


@pytest.mark.slow
def test_wide_networks_do_as_the_kernel_says_and_narrow_ones_less(panel):
    agreement = [float(at(panel, width=width)["agreement"]) for width in chapter.WIDTHS]
    assert agreement[0] < 0.9 < agreement[1] < 0.99 < agreement[2]
    assert abs(at(panel)["slope"] - 1) < 0.05


@pytest.mark.slow
def test_the_marked_picture_is_the_one_that_counts(panel):
    data = at(panel, column=3, row=chapter.ROWS)
    assert data["number"] == 3 and data["is"] == chapter.CLASSES[int(chapter.pictures()[1][2] > 0)]
    assert np.array_equal(data["kernel"], chapter.effects(256)[0][:, 2])
    x, _, x_new, _ = chapter.pictures()
    tile = chapter.as_grey(x, x.min(), x.max())
    shown = chapter.mosaic(tile, chapter.COLUMNS)
    assert np.array_equal(shown[:8, 18:26], tile[2].reshape(8, 8))
    best = data["training"].argmax()
    assert np.allclose(data["shown"][:8, :8].ravel(), chapter.as_grey(x_new[best], x.min(), x.max()))


@pytest.mark.slow
def test_learning_goes_down_the_slope_of_the_loss():
    """Adam's first step moves each pixel by the rate, against the sign of a central difference."""
    x, y, *_ = (jnp.asarray(part[:50]) for part in chapter.many_digits())
    support = jnp.asarray(chapter.starts()[1])

    def loss(support):
        return float(jnp.square(chapter.answers(support, x) - y).sum(1).mean() / 2)

    moved = np.asarray(chapter._learnt(support, x, y))
    assert np.array_equal(moved[0], support)
    step = moved[1] - moved[0]
    for c, pixel in ((0, 20), (3, 35), (8, 44)):
        nudge = jnp.zeros_like(support).at[c, pixel].set(1e-2)
        slope = loss(support + nudge) - loss(support - nudge)
        assert np.isclose(step[c, pixel], -chapter.RATE * np.sign(slope), rtol=1e-2)


@pytest.mark.slow
def test_ten_learnt_pictures_beat_ten_means_and_ten_digits(ten):
    learnt, real = (float(at(ten, start=1, step=step)["here"]) for step in (chapter.KEPT[-1], 0))
    means = float(at(ten, start=2, step=0)["here"])
    assert real < 0.7 < means < 0.91 < learnt
    assert float(at(ten, start=0, step=0)["here"]) < 0.25


@pytest.mark.slow
def test_the_missions_are_met_in_one_place_only():
    fresh = PANELS["who_helps"]()
    mission = chapter_16.mission(fresh)
    worst = int(fresh.data()["all_totals"].argmin())
    for i in range(chapter.N):
        if i != worst:
            fresh.set(column=i % chapter.COLUMNS + 1, row=chapter.ROWS - i // chapter.COLUMNS)
            assert not mission.done, i
    place = {"column": worst % chapter.COLUMNS + 1, "row": chapter.ROWS - worst // chapter.COLUMNS}
    fresh.set(**place, width=64)
    assert not mission.done
    fresh.set(**place, width=256)
    assert mission.done

    fresh = PANELS["ten_pictures"]()
    mission = chapter_16.mission_ten(fresh)
    right = chapter.learnt()[1]
    first = int((right[0] > right[2, 0]).argmax())
    fresh.set(start=0)
    for step in (0, chapter.KEPT[first - 1], chapter.KEPT[first + 1]):
        fresh.set(step=step)
        assert not mission.done, step
    fresh.set(step=chapter.KEPT[first])
    assert mission.done


@pytest.mark.slow
def test_the_questions_send_the_panels_to_their_answers(panel, ten):
    panel.reset()
    question = chapter_16.predict(panel)
    question.choose("An odd one, that the others would have got wrong.")
    assert question.is_right
    question = chapter_16.predict(panel)
    question.choose("A typical one: most new pictures look like it.")
    assert not question.is_right
    ten.reset()
    question = chapter_16.predict_ten(ten)
    question.choose("Smeared digits with negative strokes, and more right answers.")
    assert question.is_right and ten.data()["here"] > 0.91


def test_answers_as_readers_write_them():
    def by_differences(k, slope_of_k, y):
        def log_density(k):
            return -y @ np.linalg.solve(k, y) / 2 - np.linalg.slogdet(k)[1] / 2

        return (log_density(k + 1e-5 * slope_of_k) - log_density(k - 1e-5 * slope_of_k)) / 2e-5

    def one_by_one(k, y, ridge):
        n, found = len(y), []
        for i in range(n):
            rest = np.delete(np.arange(n), i)
            weights = np.linalg.solve(k[np.ix_(rest, rest)] + ridge * np.eye(n - 1), y[rest])
            found.append(y[i] - k[i, rest] @ weights)
        return found

    def with_and_without(k_new, k, y, ridge):
        solve = lambda rows: (
            k_new[:, rows] @ np.linalg.solve(k[np.ix_(rows, rows)] + ridge * np.eye(len(rows)), y[rows])
        )
        everyone = np.arange(len(y))
        return np.stack([solve(everyone) - solve(np.delete(everyone, i)) for i in everyone], 1)

    assert chapter_16.check_evidence_slope(by_differences)
    assert chapter_16.check_left_out(one_by_one)
    assert chapter_16.check_effect(with_and_without)
    assert chapter_16.check_added(lambda before, first, second: before + (first - before) + (second - before))
    assert chapter_16.check_coverage(lambda mean, std, noise, y: ((y - mean) ** 2 <= 2.7055 * (std**2 + noise)).mean())
    wrong = lambda k, y, ridge: y - k @ np.linalg.solve(k + ridge * np.eye(len(y)), y)
    assert "has* seen" in chapter_16.check_left_out(wrong).feedback
    wrong = lambda mean, std, noise, y: (np.abs(y - mean) < 1.645 * std).mean()
    assert "noise on top" in chapter_16.check_coverage(wrong).feedback


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch, of numpy
def test_the_stored_numbers_are_those_of_pytorch():
    """The block of the text, on the weights that the chapter's cell trains; and its mean over outputs by hand."""
    if find_spec("torch") is None and os.environ.get("NTKBOOK_REQUIRE_MODELS") != "1":
        pytest.skip("torch not here: make test LEVEL=everything")
    cells = json.loads((FOLDER / "16_kernels_at_work.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (text,) = [source for source in sources if "def torch_entries" in source]
    (training,) = [source for source in sources if "def drawn(" in source]
    (stored,) = [source for source in sources if "FROM_TORCH = {" in source]
    x, y, x_test, y_test = digits(1000, 797, key=jax.random.key(0), targets="centered")
    here = {
        "np": np,
        "jnp": jnp,
        "jax": jax,
        "nb": nb,
        "torch": import_module("torch"),
        "eqx": import_module("equinox"),
    }
    here |= {"x": np.asarray(x), "y": np.asarray(y), "x_test": np.asarray(x_test)}
    here |= {"labels_test": np.asarray(y_test).argmax(1)}
    here |= {"drop_programs": drop_programs}
    for source in (training, stored, re.findall(r"```python\n(.*?)```", text, re.S)[0]):
        exec(source, here)
    for step, params in here["moments"].items():
        entries = here["torch_entries"](here["flat_of"](params))
        assert np.allclose(entries, here["FROM_TORCH"][step], rtol=1e-6)
    f, point = here["mine"], here["look_at"][:1]
    gradients = jax.jacobian(f)(here["moments"][0], point)
    by_hand = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradients)) / 10
    assert np.isclose(by_hand, here["FROM_TORCH"][0][0], rtol=1e-6)
