"""Chapter 03: the fast networks of its panels against the library and against differentiation; its mission."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.exercises import chapter_03
from ntkbook.panels import PANELS
from ntkbook.panels import infinite_width_ntk as chapter
from ntkbook.panels.masked_network import draw

OPTIMIZED = True


def at(panel, **values):
    panel.set(**values)
    return panel.data()


@pytest.mark.slow
def test_the_thick_curve_is_jacots():
    data = PANELS["circle_kernel"]().data()
    assert data["theory"][[64, 80, 96, 112, 128]] == pytest.approx([0.2825, 0.1700, 0.0927, 0.0660, 0.0644], abs=1e-4)
    assert data["networks"].shape == (4, 65)


@pytest.mark.slow
def test_networks_gather_on_the_curve():
    panel = PANELS["circle_kernel"]()
    gap = {width: float(at(panel, width=width)["gap"]) for width in (16, 64, 512)}
    assert gap[512] < gap[64] < gap[16]
    assert gap[512] < 0.15
    untrained = at(panel, width=64)["peak"]
    assert at(panel, width=64, trained=1)["peak"] > 1.3 > untrained


@pytest.mark.slow
@pytest.mark.parametrize("trained", [0, 1])
def test_the_panel_is_finite_at_the_ends(trained):
    panel = PANELS["circle_kernel"]()
    for width in (16, 512):
        for depth in (1, 5):
            for W_std in (0.5, 2.0):
                for b_std in (0.0, 1.0):
                    panel.set(width=width, depth=depth, W_std=W_std, b_std=b_std, trained=trained)
                    assert not panel.failed
                    assert all(np.isfinite(array).all() for array in panel.data().values())


@pytest.mark.slow
def test_a_sweep_of_the_sliders_compiles_nothing():
    panel = PANELS["circle_kernel"]()
    before = [f._cache_size() for f in (chapter._rows, chapter._trained, chapter._theory_row)]
    for i in range(20):
        panel.set(width=2.0 ** (4 + i % 6), depth=1 + i % 5, W_std=0.5 + i / 20, b_std=i / 20, trained=i % 2)
    assert [f._cache_size() for f in (chapter._rows, chapter._trained, chapter._theory_row)] == before


def test_the_mission_is_met_by_one_width_only():
    panel = PANELS["circle_kernel"]()
    mission = chapter_03.mission(panel)
    panel.set(width=256)
    assert not mission.done, "before training"
    panel.set(trained=1, depth=2)
    assert not mission.done, "another depth"
    for width in (16, 32, 64, 128, 512):
        panel.set(width=width, depth=3)
        assert not mission.done, width
    panel.set(width=256)
    assert mission.done


@pytest.mark.slow
def test_the_digits_panel_shows_networks_of_the_library():
    data = at(PANELS["digits_kernel"](), width=32, draw=3)
    params = draw(0, 64, chapter.DIGIT_WIDTHS[-1], 2, chapter.DRAWS)
    cut = {name: np.asarray(array[2], dtype=float) for name, array in params.items()}
    std = chapter.DIGIT_NET["W_std"], chapter.DIGIT_NET["b_std"]
    net = nb.serial(*[nb.Dense(32, *std), nb.Relu()] * 2, nb.Dense(1, *std))
    tree = (
        (cut["W_in"][:, :32], cut["b_in"][:32]),
        (),
        (cut["W"][0][:32, :32], cut["b"][0][:32]),
        (),
        (cut["W_out"][:32, None], cut["b_out"][None]),
    )
    oracle = nb.empirical_ntk(net.apply, jax.tree.map(jnp.asarray, tree), chapter._sorted_digits(), method="jacobian")
    assert np.allclose(data["network"], oracle, rtol=1e-4, atol=1e-4)
    assert np.allclose(data["difference"], data["network"] - data["theory"])
    slope = np.polyfit(np.log(data["widths"]), np.log(data["errors"].mean(1)), 1)[0]
    assert -0.65 < slope < -0.35
