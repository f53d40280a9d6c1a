"""Signal propagation: stored golden values, maps iterated one layer at a time, and deep random networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.networks.propagation import critical_W_std, phase, propagate

# W_std^2, b_std^2, q*, c*, chi_1, chi at c*, xi_c; tanh by Gauss-Hermite with 160 nodes
GOLDEN = [
    (nb.Erf(), 1.25, 0.05, 0.435166, 1.0, 0.961374, 0.961374, 25.39),
    (nb.Erf(), 1.5, 0.05, 0.601753, 0.820530, 1.034700, 0.969552, 32.34),
    (nb.Erf(), 2.5, 0.18, 1.542227, 0.616261, 1.188841, 0.880478, 7.86),
    (nb.Tanh(), 1.5, 0.05, 0.418037, 1.0, 0.938636, 0.938636, 15.79),
    (nb.Tanh(), 2.0, 0.05, 0.721762, 0.744082, 1.047666, 0.961115, 25.21),
]


@pytest.mark.slow_after_first
@pytest.mark.parametrize("activation, W2, b2, q, c, chi_1, chi_c, xi_c", GOLDEN)
def test_golden_values(activation, W2, b2, q, c, chi_1, chi_c, xi_c):
    p = phase(activation, W2**0.5, b2**0.5)
    np.testing.assert_allclose([p.q_star, p.c_star, p.chi_1, p.chi_c], [q, c, chi_1, chi_c], atol=6e-7)
    np.testing.assert_allclose(p.xi_c, xi_c, atol=6e-3)
    assert p.name == ("chaotic" if chi_1 > 1 else "ordered")
    np.testing.assert_allclose(p.xi_1, 1 / abs(np.log(chi_1)), rtol=1e-4)


def test_critical_points():
    biases = np.sqrt([0.01, 0.05, 0.18])
    np.testing.assert_allclose(critical_W_std(nb.Erf(), biases) ** 2, [1.114280, 1.375839, 1.747604], atol=6e-7)
    np.testing.assert_allclose(critical_W_std(nb.Tanh(), biases) ** 2, [1.424205, 1.760955, 2.233929], atol=6e-7)
    np.testing.assert_allclose(critical_W_std(nb.Erf(), 0.0) ** 2, np.pi / 4, rtol=1e-7)
    np.testing.assert_allclose(critical_W_std(nb.Relu(), 0.0) ** 2, 2, rtol=1e-12)
    edge = phase(nb.Erf(), critical_W_std(nb.Erf(), biases), biases)
    assert (edge.name == "critical").all() and (edge.xi_1 > 1e5).all()
    with pytest.raises(ValueError, match="critical point"):
        critical_W_std(nb.Relu(), 0.3)


def test_the_edge_of_chaos_has_its_slope_in_the_bias():
    edge, at, step = lambda b: critical_W_std(nb.Erf(), b), jnp.array([1e-4, 0.1, 0.5, 2.0]), 1e-5
    slopes = jax.vmap(jax.grad(edge))(at)
    np.testing.assert_allclose(slopes, (edge(at * (1 + step)) - edge(at * (1 - step))) / (2 * step * at), rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(edge)(0.5), slopes[2], rtol=1e-12)


def erf_layer(W2, b2, q, c):
    """The closed form of Williams 1997, one layer at a time."""
    T = lambda k: 2 / np.pi * np.arcsin(2 * k / (1 + 2 * q))
    q_next = W2 * T(q) + b2
    return q_next, (W2 * T(q * c) + b2) / q_next


def test_fixed_points_are_where_many_layers_lead():
    for W2, b2 in ((0.5, 0.3), (1.0, 0.02), (1.9, 0.02), (3.0, 0.5), (6.0, 0.0)):
        q, c = 1.0, 0.3
        path = [(q, c)]
        for _ in range(4000):
            q, c = erf_layer(W2, b2, q, c)
            path.append((q, c))
        p = phase(nb.Erf(), W2**0.5, b2**0.5)
        np.testing.assert_allclose([p.q_star, p.c_star], [q, c], atol=1e-9)
        ours = propagate(nb.Erf(), W2**0.5, b2**0.5, 30, q=1.0, c=0.3)
        np.testing.assert_allclose(np.stack(ours, 1), path[:31], rtol=1e-12)
        np.testing.assert_allclose(p.chi_1, 4 * W2 / np.pi / np.sqrt(1 + 4 * q), rtol=1e-9)
        gaps = [path[i][1] - c for i in (20, 21)]
        if 1e-12 < abs(gaps[1]):
            np.testing.assert_allclose(gaps[1] / gaps[0], p.chi_c, rtol=0.05)  # correlations close in at the rate chi_c


def test_gradients_grow_by_chi_1_per_layer():
    """The NTK of a deep network at the fixed point grows as sum of chi_1^l: read the ratio off the kernel."""
    p = phase(nb.Erf(), 2.0**0.5, 0.1**0.5)
    x = jnp.ones((1, 4)) * jnp.sqrt((p.q_star - 0.1) / 2.0)  # the input kernel is then q*
    ntks = []
    for depth in (10, 11, 12):
        layer = nb.serial(nb.Erf(), nb.Dense(1, 2.0**0.5, 0.1**0.5))
        ntks.append(nb.ntk(nb.serial(nb.Dense(1, 2.0**0.5, 0.1**0.5), nb.Repeat(layer, depth)), x)[0, 0])
    np.testing.assert_allclose((ntks[2] - ntks[1]) / (ntks[1] - ntks[0]), p.chi_1, rtol=1e-6)


def test_where_the_variance_has_no_fixed_point():
    ordered, edge, unbounded = (phase(nb.Relu(), W2**0.5, b) for W2, b in ((1.5, 0.1**0.5), (2.0, 0.0), (2.5, 0.1)))
    np.testing.assert_allclose([ordered.q_star, ordered.chi_1], [0.4, 0.75], rtol=1e-9)
    assert edge.name == "critical" and edge.q_star == pytest.approx(1)  # every variance stays: the one it starts from
    assert unbounded.name == "unbounded" and jnp.isinf(unbounded.q_star) and unbounded.chi_1 == pytest.approx(1.25)
    nothing = phase(nb.Erf(), 0.5, 0.0)
    assert nothing.q_star == 0 and nothing.c_star == 1 and nothing.chi_1 == pytest.approx(1 / np.pi)
    dark = phase(nb.Erf(), 0.0, 0.0)
    assert dark.q_star == 0 and np.isfinite(dark.c_star) and dark.name == "ordered"


@pytest.mark.slow
def test_a_grid_is_its_points_and_any_activation_goes():
    W, b = np.linspace(0.3, 3, 7)[:, None], np.linspace(0, 1.5, 5)
    for activation in (nb.Erf(), nb.Relu(), nb.Sin(), nb.Gelu()):
        grid = phase(activation, W, b)
        assert grid.q_star.shape == (7, 5) and not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(grid))
        one = phase(activation, W[5, 0], b[2])
        np.testing.assert_allclose([grid.q_star[5, 2], grid.c_star[5, 2]], [one.q_star, one.c_star], rtol=1e-8)
    assert phase(nb.Erf(), 1.5, 0.1).q_star.shape == ()


@pytest.mark.slow
def test_the_series_for_quadratures_is_the_formula():
    """Erf as a function without a dual: the same fixed points as by its formula, near and far from the edge."""
    W, b = np.array([0.8, 1.1, 1.3, 1.8, 2.5])[:, None], np.array([0.05, 0.2, 0.6])
    formula, series = phase(nb.Erf(), W, b), phase(nb.Elementwise(jax.scipy.special.erf), W, b)
    for name in ("q_star", "c_star", "chi_1", "chi_c"):
        np.testing.assert_allclose(getattr(series, name), getattr(formula, name), rtol=1e-7)
    kinked = phase(nb.Elu(), 2.0, 0.3)
    q, c = propagate(nb.Elu(), 2.0, 0.3, 300, c=0.3)
    if np.isfinite(kinked.q_star):
        np.testing.assert_allclose([kinked.q_star, kinked.c_star], [q[-1], c[-1]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nb.Erf(), nb.Tanh(), nb.Relu(), nb.Gelu(), nb.Sin()], ids=repr)
def test_single_precision_finds_the_same_fixed_points(activation):
    W, b = np.linspace(0.5, 3, 60)[:, None], np.linspace(0, 2, 50)
    single, double = (phase(activation, W.astype(t), b.astype(t)) for t in ("float32", "float64"))
    q, q_64 = np.asarray(single.q_star), np.asarray(double.q_star)
    near_edge = np.abs(np.asarray(double.chi_1) - 1) < 0.02  # where the fixed point itself hangs on rounding
    assert single.q_star.dtype == jnp.float32
    np.testing.assert_allclose(q[~near_edge], q_64[~near_edge], rtol=3e-4, atol=1e-9)


@pytest.mark.slow
def test_transformations():
    f = lambda W: phase(nb.Erf(), W, 0.3).q_star
    np.testing.assert_allclose(jax.jacfwd(f)(1.4), (f(1.40001) - f(1.39999)) / 2e-5, rtol=1e-6)
    g = lambda W: phase(nb.Erf(), W, 0.3).c_star
    np.testing.assert_allclose(jax.grad(g)(1.6), (g(1.60001) - g(1.59999)) / 2e-5, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(f)(jnp.array([1.0, 1.4]))[1], f(1.4), rtol=1e-12)
    assert phase(nb.Erf(), jnp.float32(1.5), jnp.float32(0.2)).q_star.dtype == jnp.float32


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: phase(nb.Erf, 1.0, 0.1), TypeError),
        (lambda: phase("erf", 1.0, 0.1), TypeError),
        (lambda: phase(nb.Erf(), -1.0, 0.1), ValueError),
        (lambda: phase(nb.Erf(), 1.0, np.nan), ValueError),
        (lambda: phase(nb.Erf(), np.ones((2, 2)), np.ones(3)), ValueError),
        (lambda: propagate(nb.Erf(), 1.0, 0.1, 0), ValueError),
    ],
)
def test_bad_input(call, error):
    with pytest.raises(error):
        call()
