"""Chapter 09: its panel's networks against the library's, in their own coordinates; its mission; handmade answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.exercises import chapter_09
from ntkbook.panels import PANELS
from ntkbook.panels import parameterizations as chapter

SPREADS = [tuple(scale.values()) for scale in chapter.SCALES]


@pytest.fixture(scope="module")
def panel():
    return PANELS["parameterizations"]()


def own_coordinates(rule, width):
    """The network of each rule as its authors write it: (multipliers, start) of W_in, b_in, W_out, b_out, and a rate.

    The oracle: nothing here is in NTK coordinates. All multipliers are 1 in the standard parameterization.
    """
    (v, c), (u, a) = SPREADS
    root, base = width**0.5, chapter.BASE
    return {
        "naive standard": ((1, 1, 1, 1), (v, c, u / root, a)),
        "improved standard": ((1, 1, (base / width) ** 0.5, 1), (v, c, u / base**0.5, a)),
        "NTK": ((v, c, u / root, a), (1, 1, 1, 1)),
    }[chapter.RULES[rule]]


@pytest.mark.slow_after_first
@pytest.mark.parametrize("rule", [0, 1, 2])
@pytest.mark.parametrize("width", [16, 128])
def test_losses_are_those_of_the_network_as_its_authors_write_it(rule, width):
    (multipliers, start), lr = own_coordinates(rule, width), 1e-3
    drawn = {k: np.asarray(v[0], float) for k, v in chapter.draw(9, 1, chapter.WIDEST, 1, 1).items()}
    weights = (drawn["W_in"][:, :width], drawn["b_in"][:width], drawn["W_out"][:width], drawn["b_out"])
    params = [jnp.asarray(w * s) for w, s in zip(weights, start)]
    x, y = jnp.asarray(chapter.X_TRAIN[:, None]), jnp.asarray(chapter.Y_TRAIN)

    def loss(params):
        W, b, V, c = (m * p for m, p in zip(multipliers, params))
        return jnp.sum((jax.scipy.special.erf(x @ W + b) @ V + c - y) ** 2) / 2

    step = jax.jit(jax.value_and_grad(loss))
    expected = []
    for _ in range(20):
        value, slope = step(params)
        expected.append(value)
        params = [p - lr * g for p, g in zip(params, slope)]
    single = [jnp.asarray(a, jnp.float32) for a in (x, y)]
    cut = chapter.first_units(chapter.draw(9, 1, chapter.WIDEST, 1, 1), width, chapter.ARRAYS)
    factor, rates = jax.tree.map(jnp.float32, chapter.coordinates(rule, width))
    got = chapter._losses(cut, *single, jnp.float32(width), factor, rates, jnp.asarray([lr], jnp.float32))
    assert np.allclose(got[0, 0, :20], expected, rtol=2e-3)


def test_mu_p_divides_the_output_by_the_root_and_multiplies_rates_by_the_width():
    factor, rates = chapter.coordinates(3, 4 * chapter.BASE)
    assert factor == 0.5 and set(rates.values()) == {4.0}
    assert chapter.coordinates(3, chapter.BASE) == chapter.coordinates(0, 100)


@pytest.mark.slow
def test_the_best_rate_runs_away_in_naive_standard_only(panel):
    for rule, moves in enumerate((False, True, False, False)):
        panel.reset()
        panel.set(rule=rule)
        best = panel.data()["best_rates"]
        assert (best[-1] < best[0] / 16) == moves
        assert moves or best.max() / best.min() < 6


@pytest.mark.slow
def test_the_unit_of_rates_is_the_largest_eigenvalue():
    """At the base width twice the unit is the edge of stability: below it every rule learns, far above it none."""
    ends = chapter.table()[:, chapter.WIDTHS.index(chapter.BASE), :, -1]
    at = lambda rate: chapter.RATES.index(rate)
    assert (ends[:, at(1.0)] < 0.1).all() and (ends[:, at(16.0)] == chapter.HIGHEST).all()


@pytest.mark.slow
def test_the_mission_is_met_at_the_best_rate_only(panel):
    panel.reset()
    mission = chapter_09.mission(panel)
    panel.set(rule=1, width=512)
    best = float(panel.data()["best"])
    for values in ({"rate": 2 * best}, {"rate": best, "rule": 0}, {"rule": 1, "width": 256}):
        panel.set(**values)
        assert not mission.done
    panel.set(width=512)
    assert mission.done


def test_answers_as_readers_write_them():
    def thinks_of_the_gradient_only(lr, n_in, W_std, b_std):
        return lr * n_in**0.5 / W_std, lr / b_std

    assert "counts twice" in chapter_09.check_equivalent_rates(thinks_of_the_gradient_only).feedback
    assert "already" in chapter_09.check_to_mu_p(lambda lr, base, n: (base / n, lr * n / base)).feedback


def test_the_formula_of_exercise_two_is_the_library():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16)))
    layer = nb.Dense(1, 1.3, 0.4, parameterization="standard")
    answer = chapter_09.STANDARD_NTK.reference(x @ x.T / 16, 0.0, 16, 1.3)
    assert np.allclose(nb.ntk(layer, x), answer, rtol=1e-12)
