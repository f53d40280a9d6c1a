"""Chapter 00: the fast networks of its panel against the library's, the law against a slow loop, and its mission."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.exercises import chapter_00
from ntkbook.panel.picture import Picture
from ntkbook.panels import PANELS
from ntkbook.panels import start_here as chapter

OPTIMIZED = True


@pytest.fixture(scope="module")
def panel():
    return PANELS["sine_ensemble"]()


def at(panel, **values):
    panel.set(**values)
    return panel.data()


def library_network(i, width):
    """The i-th network of the panel, cut to `width` units and rebuilt from the library's layers."""
    rng = np.random.default_rng(4)
    draws = [
        rng.standard_normal((chapter.NETWORKS, *shape), dtype=np.float32) for shape in ((512,), (512,), (512,), ())
    ]
    w, b, v, c = (np.asarray(draw[i], dtype=float) for draw in draws)
    params = ((w[None, :width], b[:width]), (), (v[:width, None], c[None]))
    return chapter.network(width), jax.tree.map(jnp.asarray, params)


@pytest.mark.slow
@pytest.mark.parametrize("width, steps", [(8, 0), (64, 1), (512, 30)])
def test_the_curves_are_those_of_networks_trained_by_the_library(panel, width, steps):
    times = [int(step) for step in chapter.STEPS if step <= steps]
    net, params = library_network(3, width)
    x, y, grid = (jnp.asarray(a)[:, None] for a in (chapter.X_TRAIN, chapter.Y_TRAIN, chapter.GRID))
    history = nb.train(
        net.apply, params, x, y, lr=chapter.LR, steps=times[-1], times=times, x_test=grid, record=["outputs"]
    )
    curve = at(panel, width=width, t=chapter.LR * times[-1])["networks"][3]
    assert np.allclose(curve, history.outputs_test[-1, :, 0], atol=2e-5)


@pytest.mark.slow
def test_the_law_is_that_of_linear_networks_followed_step_by_step(panel):
    """Tiny Euler steps of f' = -Theta (f - y) on the mean, and on each of many random starts for the spread."""
    x, grid = jnp.asarray(chapter.X_TRAIN)[:, None], jnp.asarray(chapter.GRID)[:, None]
    both = jnp.concatenate([x, grid])
    k = np.asarray(nb.ntk(chapter.network(1), both))
    prior = np.asarray(nb.nngp(chapter.network(1), both))
    values, vectors = np.linalg.eigh(prior)
    root = vectors * np.sqrt(values.clip(0))  # root root^T = prior: a column is one direction of the start
    f, dt, steps = np.concatenate([np.zeros((len(both), 1)), root], axis=1), 1e-3, 440
    for _ in range(steps):
        error = f[:5].copy()
        error[:, 0] -= chapter.Y_TRAIN
        f = f - dt * k[:, :5] @ error
    data = at(panel, t=dt * steps)
    assert panel.state()["t"] == pytest.approx(dt * steps)
    assert np.allclose(data["mean"], f[5:, 0], atol=0.01)
    assert np.allclose(data["sd"], np.sqrt((f[5:, 1:] ** 2).sum(1)), atol=0.01)


def test_wide_networks_end_in_the_band_and_narrow_ones_leave_it(panel):
    assert at(panel, t=20.0, width=512)["inside"] > 0.9
    assert at(panel, t=20.0, width=4)["inside"] < 0.8
    closed = np.abs(chapter.GRID[:, None] - chapter.X_TRAIN).argmin(0)
    assert at(panel, t=20.0, width=512)["sd"][closed].max() < 0.1 < at(panel, t=20.0)["sd"].max()


def test_the_panel_is_finite_everywhere(panel):
    for width in chapter.WIDTHS:
        for t in chapter.LR * chapter.STEPS[[0, 1, -1]]:
            assert all(np.isfinite(array).all() for array in at(panel, width=width, t=t).values())
            assert not panel.failed


def test_points_can_be_dragged_and_the_law_and_the_networks_follow(panel):
    """To any place, onto each other too; while they move the law is there at once, and the networks come at rest."""
    panel.reset()
    assert repr(panel) == "Panel(t=0, width=512)"
    moved = {"t": 20.0, "width": 64.0, "x1": -2.8, "y1": 2.0}
    sketch, line = panel.spec.computed({**panel.spec.defaults, **moved}, is_draft=True)
    assert sketch["networks"].shape == (0, len(chapter.GRID)) and "when you let go" in line
    data = at(panel, **moved)
    assert np.array_equal(data["mean"], sketch["mean"]) and "x1=-2.8" in repr(panel)
    assert data["networks"].shape == (chapter.NETWORKS, len(chapter.GRID)) and data["inside"] > 0.8
    there = np.abs(chapter.GRID + 2.8).argmin()
    assert abs(data["mean"][there] - 2.0) < 0.1 > np.abs(data["networks"][:, there] - 2.0).mean()
    assert len(panel.spec.computed(panel.state(), is_draft=True)[0]["networks"]) == chapter.NETWORKS
    data = at(panel, x1=0.9, y1=2.0, x2=0.9, y2=-2.0, y4=0.0)  # three points in one place: their mean is learnt
    assert abs(data["mean"][np.abs(chapter.GRID - 0.9).argmin()]) < 0.1
    panel.reset()


def test_a_drag_may_be_the_first_thing_that_a_reader_does(panel):
    """The first picture while a point moves has no networks in it."""
    panel.reset()
    fresh = copy.copy(panel)
    sketch, _ = fresh.spec.computed({**fresh.spec.defaults, "y3": 1.7}, is_draft=True)
    picture = Picture(fresh.spec, sketch, density=1.0, is_draft=True)
    bare = picture.rgba().copy()
    picture.move(fresh.data())  # and then they come
    assert (picture.rgba() != bare).any() and len(fresh.data()["networks"]) == chapter.NETWORKS


@pytest.mark.slow
def test_the_mission_is_met_at_one_stop(panel):
    panel.reset()
    mission = chapter_00.mission(panel)
    spreads = {t: float(at(panel, t=t)["spread"]) for t in chapter.LR * chapter.STEPS[::-1] if not mission.done}
    assert mission.done
    earliest = panel.state()["t"]
    assert spreads[earliest] < 0.3
    panel.reset()
    early = chapter_00.mission(panel)
    panel.set(t=20.0)
    panel.set(t=earliest, width=256)
    assert not early.done


def test_the_numbers_of_the_points_stand_in_a_table_of_two_rows(panel):
    """Ten rows with handles would not fit the height of a screen; the picture moves the points."""
    view = panel.view()
    (table,) = view.folded.children
    shown = [[row.children for row in column.children] for column in table.children]
    assert shown == [[(view.controls[name].field,) for name in pair] for pair in chapter.POINTS]
    widths = [int(column.children[0].children[0].layout.width.removesuffix("px")) + 4 for column in table.children]
    assert sum(widths) <= 100 * panel.spec.size[0]  # all five in one line
    assert all(len(view.controls[name].row.children) > 1 for name in panel.spec.main)  # these keep their handles
