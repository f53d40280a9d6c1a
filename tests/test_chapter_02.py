"""Chapter 02: the panel's networks without weights against networks with all their weights; its mission."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import erf

import ntkbook as nb
from ntkbook.exercises import chapter_02
from ntkbook.panels import PANELS
from ntkbook.panels import wide_networks_are_gaussian as chapter


@pytest.fixture(scope="module")
def panel():
    return PANELS["random_outputs"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    return panel.data()


def network_outputs(width, depth, angle, phi, networks=4000):
    """f(x), f(x') of networks that are drawn with every weight, in predicted standard deviations: the oracle."""
    rng = np.random.default_rng(5)
    x = 2**0.5 * np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])  # |x|^2 = n_0 = 2
    a = np.broadcast_to(x, (networks, 2, 2))
    for fan_in, fan_out in zip([2] + [width] * depth, [width] * depth + [1]):
        z = 2**0.5 / fan_in**0.5 * a @ rng.standard_normal((networks, fan_in, fan_out))
        a = phi(z)
    name = nb.Relu() if phi(-1.0) == 0 else nb.Erf()
    net = nb.serial(*[nb.Dense(1, W_std=2**0.5), name] * depth, nb.Dense(1, W_std=2**0.5))
    k = np.asarray(nb.nngp(net, jnp.asarray(x)))
    return z[..., 0] / np.sqrt(k[0, 0]), k[0, 1] / k[0, 0]


def relu(z):
    return np.maximum(z, 0)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("width, depth, phi", [(1, 1, relu), (4, 2, relu), (16, 5, relu), (3, 3, erf)])
def test_outputs_have_the_law_of_networks_with_all_their_weights(panel, width, depth, phi):
    data = at(panel, width=2 ** int(np.log2(width)), depth=depth, angle=60, is_erf=phi is erf)
    oracle, correlation = network_outputs(2 ** int(np.log2(width)), depth, np.pi / 3, phi)
    assert float(data["predicted"]) == pytest.approx(correlation, abs=1e-10)
    for f, g in (
        (data["f"][:, 0], oracle[:, 0]),
        (data["f"][:, 1], oracle[:, 1]),
        (data["f"].sum(1), oracle.sum(1)),
        (data["f"].prod(1), oracle.prod(1)),
    ):
        assert stats.ks_2samp(f, g).pvalue > 1e-3


def test_wide_networks_are_gaussian_and_narrow_ones_are_not(panel):
    pvalue = lambda **values: stats.kstest(at(panel, **values)["f"][:, 0], "norm").pvalue
    assert pvalue(width=256) > 0.01
    assert pvalue(width=4) < 1e-6
    assert pvalue(width=16, depth=5) < 1e-6
    assert pvalue(width=16, depth=5, is_erf=1) > 1e-3 > pvalue(width=1, depth=5, is_erf=1)


def test_the_pictures_numbers_are_those_of_the_cloud(panel):
    data = at(panel, width=8, angle=90)
    f = data["f"]
    assert float(data["inside"]) == np.mean(np.abs(f[:, 0]) < 1)
    assert float(data["covariance"]) == pytest.approx((f[:, 0] * f[:, 1]).mean())
    widths = np.diff(chapter.EDGES)
    assert (data["heights"] * widths).sum() == pytest.approx(np.mean(np.abs(f[:, 0]) <= chapter.EDGES[-1]))
    x, y = data["ellipse"]
    c = float(data["predicted"])
    assert np.allclose((x**2 - 2 * c * x * y + y**2) / (1 - c**2), 1)


@pytest.mark.slow
def test_the_panel_is_finite_at_the_ends(panel):
    for width in (1, 256):
        for depth in (1, 5):
            for angle in (0, 180):
                for is_erf in (0, 1):
                    data = at(panel, width=width, depth=depth, angle=angle, is_erf=is_erf)
                    assert not panel.failed
                    assert all(np.isfinite(array).all() for array in data.values())


def test_a_sweep_of_the_sliders_compiles_nothing(panel):
    before = [f._cache_size() for f in (chapter._outputs, chapter._predicted)]
    for i in range(12):
        at(panel, width=2.0 ** (i % 9), depth=1 + i % 5, angle=15 * i, is_erf=i % 2)
    assert [f._cache_size() for f in (chapter._outputs, chapter._predicted)] == before


def test_the_mission_is_met_by_one_width_only(panel):
    panel.reset()
    mission = chapter_02.mission(panel)
    panel.set(width=8)
    assert not mission.done, "one layer"
    panel.set(depth=5, is_erf=1)
    assert not mission.done, "another activation"
    panel.set(is_erf=0)
    for width in (16, 32, 128, 256):
        panel.set(width=width)
        assert not mission.done, width
    panel.set(width=64)
    assert mission.done


@pytest.mark.slow
def test_the_right_answers_are_the_librarys():
    x1, x2 = (np.random.default_rng(seed).standard_normal((n, 3)) for seed, n in ((0, 3), (1, 2)))
    net = nb.serial(*[nb.Dense(1, W_std=1.3, b_std=0.4), nb.Sin()] * 2, nb.Dense(1, W_std=1.3, b_std=0.4))
    both = nb.kernel(net, jnp.asarray(x1), jnp.asarray(x2))
    right, tangent = (chapter_02._sin_recursion(x1, x2, 2, 1.3, 0.4, tangent=is_tangent) for is_tangent in (0, 1))
    assert np.allclose(right, both.nngp, rtol=1e-10)
    assert np.allclose(tangent, both.ntk, rtol=1e-10)
    q1, q2, k = (jnp.asarray(value) for value in (1.0, 1.5, 0.6))
    assert chapter_02._abs_reference(1.0, 1.5, 0.6) == pytest.approx(float(nb.Abs().dual(q1, q2, k)[0]))


def numpy_sin_nngp(x1, x2, depth, W_std, b_std):
    """The answer as a reader would write it."""
    k = W_std**2 * x1 @ x2.T / x1.shape[1] + b_std**2
    q1 = W_std**2 * (x1**2).mean(1) + b_std**2
    q2 = W_std**2 * (x2**2).mean(1) + b_std**2
    for _ in range(depth):
        k = W_std**2 * np.exp(-(q1[:, None] + q2) / 2) * np.sinh(k) + b_std**2
        q1, q2 = (W_std**2 * np.exp(-q) * np.sinh(q) + b_std**2 for q in (q1, q2))
    return k


@pytest.mark.parametrize(
    "check, right, wrong, word",
    [
        (
            "check_abs_dual",
            lambda q1, q2, k: 2 / np.pi * (np.sqrt(q1 * q2 - k**2) + k * np.arcsin(k / np.sqrt(q1 * q2))),
            lambda q1, q2, k: np.sqrt(q1 * q2 - k**2) / np.pi + k * np.arcsin(k / np.sqrt(q1 * q2)) / np.pi,
            "twice",
        ),
        ("check_sin_nngp", numpy_sin_nngp, lambda x1, x2, *rest: numpy_sin_nngp(x2, x1, *rest), "transposed"),
        (
            "check_kernel_of_units",
            lambda units, W_std, b_std: W_std**2 * np.einsum("in,jn->ij", units, units) / units.shape[1] + b_std**2,
            lambda units, W_std, b_std: W_std**2 * np.cov(units, ddof=0) + b_std**2,
            "subtracted the mean",
        ),
    ],
)
def test_answers_written_by_hand(check, right, wrong, word):
    judge = getattr(chapter_02, check)
    assert judge(right), repr(judge(right))
    assert not judge(wrong)
    assert word in repr(judge(wrong))
