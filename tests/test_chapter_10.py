"""Chapter 10: its panels against matrices, slow recursions and a loop over layers; its mission; handmade answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import ntkbook as nb
from ntkbook.exercises import chapter_10
from ntkbook.networks.propagation import critical_W_std, propagate
from ntkbook.panels import PANELS, layer_maps
from ntkbook.panels import depth_and_phase as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["phase_diagram"]()


@pytest.fixture(scope="module")
def maps():
    return PANELS["layer_maps"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


def erf_path(W_std, b_std, q, c, layers):
    """(q, c, growth of squared gradients) layer by layer, by the closed form of Williams 1997."""
    found = []
    for _ in range(layers):
        found.append((q, c, 4 * W_std**2 / np.pi / np.sqrt(1 + 4 * q)))
        T = lambda k, q=q: 2 / np.pi * np.arcsin(2 * k / (1 + 2 * q))
        next_q = W_std**2 * T(q) + b_std**2
        q, c = next_q, (W_std**2 * T(q * c) + b_std**2) / next_q
    return np.array(found).T


@pytest.mark.slow
def test_the_theory_is_a_loop_over_layers(panel):
    W, b, c = 1.4, 0.3, -0.3
    q1 = W**2 + b**2
    _, cs, chi = erf_path(W, b, q1, (W**2 * c + b**2) / q1, 100)
    data = at(panel, W_std=W, b_std=b, c_in=c)
    np.testing.assert_allclose(data["c"], [c, *cs], rtol=1e-9)
    logs = np.log10(chi)
    np.testing.assert_allclose(data["gradient"], [logs[i:-1].sum() for i in range(100)], atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("width", [50, 500])
def test_the_network_is_a_loop_over_matrices(panel, width):
    """A real network: forward by its matrices, backward by the product of its Jacobians."""
    W, b, c_in = 1.2, 0.22, 0.2
    p = {name: np.asarray(array, float) for name, array in chapter.weights().items()}
    cut = slice(width)
    x = 2**0.5 * np.array([[1, 0], [c_in, (1 - c_in**2) ** 0.5]])
    z = [W / 2**0.5 * x @ p["W_in"][:, cut] + b * p["b"][0, cut]]
    for l in range(1, 100):
        z.append(W / width**0.5 * erf(z[-1]) @ p["W"][l - 1, cut, cut] + b * p["b"][l, cut])
    d, sizes = p["end"][cut] / np.linalg.norm(p["end"][cut]), [0.0]
    for l in range(98, -1, -1):
        d = 2 / np.pi**0.5 * np.exp(-(z[l][0] ** 2)) * (W / width**0.5 * p["W"][l, cut, cut] @ d)
        sizes.append(2 * np.log10(np.linalg.norm(d)))
    data = at(panel, W_std=W, b_std=b, c_in=c_in, width=width)
    cosines = [np.dot(*pair) / np.prod(np.linalg.norm(pair, axis=1)) for pair in z]
    np.testing.assert_allclose(data["c_network"][1:], cosines, atol=2e-3)
    np.testing.assert_allclose(data["gradient_network"], sizes[::-1], atol=2e-2)


@pytest.mark.slow
def test_a_relu_network_that_outgrows_its_numbers_keeps_its_correlation(panel):
    """Without biases the scale of the weights does not matter for angles; at W_std = 3 the size grows by 4.5^100."""
    large = at(panel, kind=2, W_std=3.0, b_std=0.0)
    edge = at(panel, kind=2, W_std=1.5, b_std=0.0)
    np.testing.assert_allclose(large["c_network"], edge["c_network"], atol=1e-4)
    np.testing.assert_allclose(large["c"], edge["c"], atol=1e-6)
    assert not large["is_bounded"] and large["gradient_network"][0] == 20
    np.testing.assert_allclose(edge["gradient"][0], 99 * np.log10(1.5**2 / 2), rtol=1e-6)


@pytest.mark.slow
def test_a_network_that_fades_away_keeps_its_correlation(panel):
    """Far below 1 erf is a straight line, which keeps angles: without biases the order of erf is one of size only."""
    data = at(panel, W_std=0.5, b_std=0.0, c_in=0.5)
    assert abs(data["c"][-1] - data["c"][20]) < 1e-6 and np.isfinite(data["c_network"]).all()
    np.testing.assert_allclose(data["gradient"][80] - data["gradient"][81], np.log10(0.5**2 * 4 / np.pi), rtol=1e-6)
    steps = -np.diff(data["gradient_network"][60:])
    assert abs(steps.mean() - np.log10(0.5**2 * 4 / np.pi)) < 4 * steps.std() / len(steps) ** 0.5


@pytest.mark.slow
def test_the_orange_line_is_the_critical_line(panel):
    for activation in chapter.ACTIVATIONS[:2]:
        inside = np.array([4, 10, 16])
        expected = critical_W_std(activation, jnp.asarray(chapter.B_GRID[inside]))
        np.testing.assert_allclose(chapter.diagram(activation)["edge"][inside], expected, atol=0.005)
    np.testing.assert_allclose(chapter.diagram(nb.Relu())["edge"][1:], 2**0.5, atol=0.005)


def test_squared_slopes_are_those_of_finite_differences():
    q = np.array([0.3, 1.4])
    z = np.linspace(-10, 10, 200_001)
    for activation in chapter.ACTIVATIONS:
        phi = lambda u, f=activation.phi: np.asarray(f(jnp.asarray(u)))
        u = np.sqrt(q)[:, None] * z
        slope = (phi(u + 1e-5) - phi(u - 1e-5)) / 2e-5
        expected = (slope**2 * np.exp(-z * z / 2)).sum(1) * (z[1] - z[0]) / (2 * np.pi) ** 0.5
        got = chapter._squared_slopes(activation.phi, jnp.asarray(q))
        np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.slow
def test_cobwebs_climb_between_the_map_and_the_diagonal(maps):
    W, b = 1.3, 0.4
    data = at(maps, W_std=W, b_std=b, q=2.0, c=-0.5)
    q, c, _ = erf_path(W, b, 2.0, -0.5, 31)
    np.testing.assert_allclose(data["q_orbit"], q, rtol=1e-9)
    np.testing.assert_allclose(data["c_orbit"], c, atol=1e-9)
    x, y = data["q_web"]
    np.testing.assert_allclose(x[::2], q, rtol=1e-9)  # corners on the diagonal
    np.testing.assert_allclose(y[1::2], q[1:], rtol=1e-9)
    np.testing.assert_allclose(x[1::2], q[:-1], rtol=1e-9)
    np.testing.assert_allclose(data["fixed"][0], erf_path(W, b, 1.0, 0.0, 500)[0][-1], rtol=1e-6)
    np.testing.assert_allclose(data["c_map"][-1], 1, rtol=1e-9)
    np.testing.assert_allclose(
        np.interp(data["fixed"][1], layer_maps.C_MAP, data["c_map"]), data["fixed"][1], atol=2e-3
    )


@pytest.mark.slow
def test_the_mission_is_met_at_the_edge_only(panel):
    panel.reset()
    mission = chapter_10.mission(panel)
    for values in ({"W_std": 1.18}, {"b_std": 0.6}, {"W_std": 1.2}, {"W_std": 1.6}):
        panel.set(**values)
        assert not mission.done, values
    panel.set(W_std=float(np.round(critical_W_std(nb.Erf(), 0.6), 2)))
    assert mission.done
    panel.reset()


def test_the_formulas_of_the_exercises_are_the_library():
    q, c = propagate(nb.Erf(), 1.5, 0.3, 1, q=0.8, c=0.4)
    np.testing.assert_allclose(chapter_10.NEXT_LAYER.reference(1.5, 0.3, 0.8, 0.4), [q[1], c[1]], rtol=1e-12)
    found = nb.phase(nb.Erf(), 2.5**0.5, 0.18**0.5)
    _, path = propagate(nb.Erf(), 2.5**0.5, 0.18**0.5, 60, q=found.q_star, c=0.2)
    scale = chapter_10.DEPTH_SCALE.reference(np.asarray(path)[40:50], float(found.c_star))
    np.testing.assert_allclose(scale, found.xi_c, rtol=0.01)
    matrix = np.full((10, 10), 0.25) + 0.75 * np.eye(10)
    np.testing.assert_allclose(chapter_10.CONDITION.reference(10, 0.25), np.linalg.cond(matrix), rtol=1e-10)


def test_answers_as_readers_write_them():
    def by_fit(c, c_star):
        return -1 / np.polyfit(range(len(c)), np.log(np.abs(c - c_star)), 1)[0]

    assert chapter_10.check_depth_scale(by_fit)

    def by_eigenvalues(m, ratio):
        lam = np.linalg.eigvalsh(np.full((m, m), ratio) + (1 - ratio) * np.eye(m))
        return lam[-1] / lam[0]

    assert chapter_10.check_condition(by_eigenvalues)

    def scales(W_std, b_std, q, c):
        T = lambda k: 2 / jnp.pi * jax.lax.asin(2 * k / (1 + 2 * q))
        new = W_std * T(q) + b_std
        return new, (W_std * T(q * c) + b_std) / new

    assert "squares" in chapter_10.check_next_layer(scales).feedback
