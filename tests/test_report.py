"""The report on one model: a network of one hidden layer whose kernel is written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import ntkbook as nb
from ntkbook.figures import draw_report

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2))


def f(params, x):
    return jnp.tanh(x @ params["hidden"]["W"] + params["hidden"]["b"]) @ params["v"]


def draw(key):
    keys = jax.random.split(key, 3)
    shapes = {"W": (3, 16), "b": (16,), "v": (16, 2)}
    W, b, v = (jax.random.normal(key, shape, float) for key, shape in zip(keys, shapes.values()))
    return {"hidden": {"W": W, "b": b}, "v": v}


def by_hand(params):
    """(hidden, readout): the parts of the kernel of each layer, averaged over two outputs."""
    W, b, v = (np.asarray(a) for a in (params["hidden"]["W"], params["hidden"]["b"], params["v"]))
    h = np.tanh(X @ W + b)
    slopes = 1 - h**2
    hidden = np.einsum("ih,jh,ho->ij", slopes, slopes, v**2) / 2 * (X @ X.T + 1)
    return hidden, h @ h.T


@pytest.fixture(scope="module")
def found():
    key = jax.random.key(3)
    start, end = draw(jax.random.key(0)), draw(jax.random.key(1))
    mixed = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, start, end)
    return nb.report(f, start, X, Y, later=mixed, init=draw, key=key, n_networks=3, n_subsets=5), start, mixed


@pytest.mark.slow
def test_numbers_are_those_of_the_kernel_by_hand(found):
    report, start, mixed = found
    hidden, readout = by_hand(start)
    k = hidden + readout
    close = lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-9)
    close(report.k, k)
    close(report.spectrum.eigenvalues, np.linalg.eigvalsh(k)[::-1])
    close(report.condition, np.linalg.cond(k))
    close(report.max_learning_rate, 2 / np.linalg.eigvalsh(k)[-1])
    ideal = Y @ Y.T
    close(report.alignment, (k * ideal).sum() / np.linalg.norm(k) / np.linalg.norm(ideal))
    assert report.layers == ("hidden", "v")
    close(report.shares, [np.trace(hidden) / np.trace(k), np.trace(readout) / np.trace(k)])
    moved = sum(by_hand(mixed))
    close(report.change, np.linalg.norm(moved - k) / np.linalg.norm(k))
    close(report.turn, 1 - (k * moved).sum() / np.linalg.norm(k) / np.linalg.norm(moved))


@pytest.mark.slow
def test_the_scatter_is_over_halves_and_seeds(found):
    """Each number is the condition of one of all halves; those of seeds differ, and follow the key."""
    report, start, _ = found
    k = sum(by_hand(start))
    halves = [np.linalg.cond(k[np.ix_(i, i)]) for i in map(list, np.ndindex(6, 6, 6)) if len(set(i)) == 3]
    assert report.condition_of_subsets.shape == (5,) and len(set(np.asarray(report.condition_of_subsets))) > 1
    for condition in np.asarray(report.condition_of_subsets):
        assert np.isclose(halves, condition, rtol=1e-8).any()
    seeds = np.asarray(report.condition_of_seeds)
    assert len(set(seeds)) == 3 and (seeds > 1).all()
    again = nb.report(f, start, X, Y, init=draw, key=jax.random.key(3), n_networks=3, n_subsets=5)
    np.testing.assert_array_equal(again.condition_of_seeds, seeds)
    assert again.turn is None


def test_a_line_a_table_and_a_picture(found):
    report, start, _ = found
    line = repr(report)
    assert "\n" not in line and line.startswith("Report(6 inputs: condition ") and f"{report.turn:.3g}" in line
    page = report._repr_html_()
    assert page.count("<tr>") == len(report.rows()) == 11 and "share of hidden" in page
    bare = nb.report(f, start, X)
    assert len(bare.rows()) == 7 and "alignment" not in repr(bare) and bare.condition_of_seeds is None
    fig = Figure()
    left, right = fig.subplots(1, 2)
    draw_report(left, right, report)
    heights = [patch.get_height() for patch in right.patches]
    np.testing.assert_allclose(heights, report.shares)
    assert [label.get_text() for label in right.get_xticklabels()] == ["hidden", "v"]
    assert len(left.lines) == 2


@pytest.mark.slow
def test_layers_of_a_network_of_this_library(key):
    net = nb.serial(nb.Dense(8, W_std=1.5), nb.Erf(), nb.Dense(8), nb.Erf(), nb.Dense(1))
    _, params = net.init(key, X.shape)
    report = nb.report(net.apply, params, X)
    assert report.layers == ("layer 0", "layer 2", "layer 4")
    np.testing.assert_allclose(report.shares.sum(), 1)


def test_equal_inputs_have_no_condition_and_wrong_ones_a_sentence(found):
    _, start, _ = found
    twins = nb.report(f, start, np.concatenate([X[:3], X[:3]]))
    assert np.isinf(twins.condition) and "inf" in repr(twins)
    with pytest.raises(ValueError, match="at least four inputs"):
        nb.report(f, start, X[:3])
    with pytest.raises(TypeError, match="n_subsets"):
        nb.report(f, start, X, n_subsets=1.5)
