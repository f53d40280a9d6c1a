"""Numerical duals: as accurate as they say, for smooth functions and for kinks at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.special import ndtr

import ntkbook as nb
from ntkbook.networks.averages import TRIED, VALUE_AND_SLOPE, averages, averages_of_one, errors_tried
from ntkbook.networks.mehler import averages_of_smooth, chunks_needed

POINTS = np.array(
    [(1.0, 1.5, 0.6), (0.3, 2.0, -0.4), (4.0, 4.0, 3.9), (1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (0.5, 0.0, 0.0)]
)


@jax.jit
def duals(act, q1, q2, k):
    return jnp.stack(act.dual(q1, q2, k))


@pytest.mark.slow
@pytest.mark.parametrize("closed", [nb.Relu(), nb.LeakyRelu(0.3), nb.Abs(), nb.Erf(), nb.Gelu(), nb.Sin()], ids=repr)
def test_closed_forms_are_met(closed):
    """Kinks at zero cost nothing: the nodes lie between the rays on which a signal changes its sign."""
    numeric = nb.Elementwise(closed.phi)
    ours, exact = duals(numeric, *POINTS.T), duals(closed, *POINTS.T)
    np.testing.assert_allclose(ours[0], exact[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours[1, :5], exact[1, :5], rtol=1e-10, atol=1e-12)  # at zero a kink has no slope


def test_step_is_exact_although_it_jumps():
    numeric = duals(nb.Elementwise(lambda x: jnp.where(x > 0, 1.0, 0.0)), *POINTS[:5].T)
    np.testing.assert_allclose(numeric, duals(nb.Step(), *POINTS[:5].T), atol=1e-12)


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2


STATED = {  # phi and its slope once more in numpy
    "tanh": (nb.Tanh(), np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (nb.Sigmoid(), sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "silu": (nb.Silu(), lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "softplus": (nb.Softplus(), lambda x: np.logaddexp(0, x), sigmoid),
    "elu": (
        nb.Elu(),
        lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
        lambda x: np.exp(np.minimum(x, 0)),
    ),
}
VARIANCES = np.array([1e-4, 1.0, 25.0, 100.0, 1e8])
COSINES = np.array([-1, -0.9, 0.0, 0.5, 0.99, 1 - 1e-6, 1])


@jax.jit
def duals_at_distance(act, q, k, distance):
    return jnp.stack(act.dual_at_distance(q, q, k, distance)[:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", STATED)
def test_stated_error(name):
    """Of the five, two are tried everywhere: one turns, one has a kink in its slope."""
    act, phi, slope = STATED[name]
    for q in VARIANCES if name in ("tanh", "elu") else VARIANCES[3:]:
        exact = np.array([oracles.dual(phi, slope, q, q, q * c) for c in COSINES]).T
        size = np.array([[oracles.gaussian_average(lambda u, f=f: f(u) ** 2, q)] for f in (phi, slope)])
        for dtype, bound in (("float64", 1e-9), ("float32", 3e-5 if q <= 100 else 3e-4)):
            points = (jnp.asarray(a, dtype) for a in (np.full(7, q), q * COSINES, 2 * q * (1 - COSINES)))
            error = np.abs(np.asarray(duals_at_distance(act, *points)) - exact) / size
            assert error.max() <= bound, f"{dtype}, variance {q}: {error}"


@pytest.mark.slow
@pytest.mark.parametrize("act", [nb.Elu(), nb.Silu(), nb.Softplus()], ids=repr)
def test_huge_variances_are_those_of_a_rectifier(act):
    q = jnp.full(3, 1e40)
    k = jnp.array([0.3, -0.9, 0.999]) * q
    np.testing.assert_allclose(duals(act, q, q, k), duals(nb.Relu(), q, q, k), rtol=1e-6)


@pytest.mark.slow
def test_small_variances_keep_more_digits():
    slope = lambda x: 1 - np.tanh(x) ** 2
    for q, stated in ((1.0, 1e-12), (4.0, 5e-11)):
        exact = oracles.dual(np.tanh, slope, q, q, 0.7 * q)
        for nodes, error in ((None, stated), ((200, 100), 1e-13)):
            value = duals(nb.Elementwise(jnp.tanh, nodes=nodes), *map(jnp.asarray, (q, q, 0.7 * q)))
            np.testing.assert_allclose(value, exact, rtol=error)


@pytest.mark.slow
def test_more_nodes_buy_more_digits():
    exact = oracles.dual(np.tanh, STATED["tanh"][2], 1e8, 1e8, 0.7e8)
    value = duals(nb.Elementwise(jnp.tanh, nodes=(160, 160)), *map(jnp.asarray, (1e8, 1e8, 0.7e8)))
    np.testing.assert_allclose(value, exact, rtol=1e-13)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("W_std", [3.0, 100.0, 1e4])
def test_one_layer_against_a_copy(W_std):
    """In float32, of points at distance one: both kernels are those of float64, on the diagonal and for the copy."""
    x = np.array([[1.0, 0.0], [0.6, -0.8], [1.0, 0.0]])
    net = nb.serial(nb.Dense(1, W_std), nb.Tanh(), nb.Dense(1))
    narrow, wide = nb.kernel(net, jnp.asarray(x, jnp.float32)), nb.kernel(net, jnp.asarray(x))
    across = nb.kernel(net, jnp.asarray(x, jnp.float32), jnp.asarray(x[:1], jnp.float32))
    for got, part, exact in zip(narrow, across, wide):
        np.testing.assert_allclose(got, exact, rtol=5e-5)
        np.testing.assert_allclose(part[:, 0], exact[:, 0], rtol=5e-5)
        assert got[0, 2] == got[0, 0]


def test_phase_at_large_scales():
    """chi_1 = W_std^2 E[tanh'^2] for u of variance W_std^2: a narrow peak, 4/3 high by wide, of a density."""
    W_std = 1e4
    chi_1 = float(nb.phase(nb.Tanh(), W_std, 0.0).chi_1)
    assert chi_1 == pytest.approx(W_std * 4 / 3 / (2 * np.pi) ** 0.5, rel=1e-3) == pytest.approx(5319, rel=1e-3)


@pytest.mark.slow
def test_float32_uses_its_own_nodes():
    points = POINTS.astype(np.float32)
    narrow = duals(nb.Tanh(), *map(jnp.asarray, points.T))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, duals(nb.Tanh(), *POINTS.T), atol=3e-6)


def test_memory_stays_that_of_the_result():
    """The sum runs node by node: no array of all nodes times all pairs."""
    n = 400
    q, k = jnp.ones((n, 1)), jnp.full((n, n), 0.3)
    compiled = jax.jit(lambda q, k: averages(jnp.tanh, VALUE_AND_SLOPE, None, q, q.T, k)).lower(q, k).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * k.nbytes


@pytest.mark.slow
def test_average_of_one_is_that_at_angle_zero():
    q = jnp.array([0.0, 0.2, 1.0, 4.0, 1e4])
    for phi in (jnp.tanh, jax.nn.elu):
        for a, b in zip(
            averages_of_one(phi, VALUE_AND_SLOPE, None, q), averages(phi, VALUE_AND_SLOPE, (80, 80), q, q, q)
        ):
            np.testing.assert_allclose(a[1:], b[1:], rtol=1e-12)
            assert np.isfinite(a).all() and np.isfinite(b).all()


# Derivatives. The oracle is E[phi(w x) phi(w y)] by a dense Gauss-Hermite grid of w, differentiated under the integral.

PAIRS = [  # coincident, near, opposite, parallel, general
    ((1.0, 1.0), (1.0, 1.0)),
    ((1.0, 1.0), (1.001, 1.0)),
    ((1.0, 1.0), (-1.0, -1.0)),
    ((0.3, 0.2), (0.6, 0.4)),
    ((0.5, -0.3), (0.7, 1.2)),
]
Z, WEIGHT = np.polynomial.hermite_e.hermegauss(250)
FIRST, SECOND = np.meshgrid(Z, Z, indexing="ij")
WEIGHTS = np.outer(WEIGHT, WEIGHT) / (2 * np.pi)


def derivative_of_layer(x, y, orders, i, j, phi_i, phi_j):
    """d^a/dx_i^a d^b/dy_j^b of one layer's NNGP for two features; phi_i, phi_j: derivatives a and b of phi."""
    w = np.stack([FIRST, SECOND]) / 2**0.5
    u, v = (np.tensordot(np.array(point), w, 1) for point in (x, y))
    return float((WEIGHTS * w[i] ** orders[0] * phi_i(u) * w[j] ** orders[1] * phi_j(v)).sum())


def nngp_of(act):
    net = nb.serial(nb.Dense(1), act, nb.Dense(1))
    return lambda x, y: nb.nngp(net, x[None], y[None])[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "silu", "softplus", "sigmoid"])
def test_mixed_second_derivatives(name):
    act, _, slope = STATED[name]
    act = nb.Elementwise(jax.nn.sigmoid) if name == "sigmoid" else act
    mixed = jax.jit(jax.vmap(jax.jacfwd(jax.grad(nngp_of(act), 0), 1)))
    x, y = jnp.moveaxis(jnp.array(PAIRS), 1, 0)
    for got, (a, b) in zip(mixed(x, y), PAIRS):
        exact = [[derivative_of_layer(a, b, (1, 1), i, j, slope, slope) for j in (0, 1)] for i in (0, 1)]
        np.testing.assert_allclose(got, exact, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_fourth_derivatives():
    """d^4 k / dx^2 dy^2, as a network that solves differential equations needs them."""

    def bend(u):
        return -2 * np.tanh(u) * (1 - np.tanh(u) ** 2)

    def line(t, s, x, y):
        return nngp_of(nb.Tanh())(x.at[0].add(t), y.at[0].add(s))

    twice = lambda f, place: jax.jacfwd(jax.jacfwd(f, place), place)
    x, y = jnp.moveaxis(jnp.array(PAIRS), 1, 0)
    fourth = jax.jit(jax.vmap(lambda x, y: twice(twice(line, 0), 1)(0.0, 0.0, x, y)))
    exact = [derivative_of_layer(a, b, (2, 2), 0, 0, bend, bend) for a, b in PAIRS]
    np.testing.assert_allclose(fourth(x, y), exact, rtol=1e-6)


@pytest.mark.slow
def test_derivative_of_an_angle_without_slope():
    """d/dk of T at q1 = q2 = k = 1 is Tdot (Price), also for a kink; the default path knows no slope there."""
    one = jnp.ones(())
    at = jax.jit(lambda act, k: jax.jvp(lambda k: act.dual(one, one, k), (k,), (k,)))
    for act in (nb.Tanh(), nb.Elu(), nb.Elementwise(jnp.abs)):
        (_, Tdot), (slope, _) = at(act, one)
        assert float(slope) == pytest.approx(float(Tdot), rel=1e-10)


@pytest.mark.slow
def test_kinks_are_seen_wherever_they_are():
    smooth = (jnp.tanh, jnp.exp, jax.nn.mish, jax.nn.gelu, jnp.sin, lambda x: x**3, jax.nn.log_sigmoid)
    kinked = (jnp.abs, jax.nn.relu6, jax.nn.hard_tanh, jax.nn.elu, jnp.sign, lambda x: jnp.maximum(x, 0) ** 3)
    assert all(nb.Elementwise(f).is_smooth for f in smooth)
    assert not any(nb.Elementwise(f).is_smooth for f in kinked)


def test_a_function_may_close_over_a_traced_number():
    """Then its derivatives go through the nodes."""
    q = jnp.ones(3)
    at = lambda b: nb.Elementwise(lambda x: jnp.tanh(b * x)).dual(q, q, 0.5 * q)[0].sum()
    slope = jax.jit(jax.grad(at))(0.8)
    assert float(slope) == pytest.approx(float(oracles.difference_quotient(jax.jit(at), 0.8)), rel=1e-7)


# What is not met is said ----------------------------------------------------------------------------------------------


def layer(act, W_std):
    return nb.serial(nb.Dense(1, W_std), act, nb.Dense(1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_kinks_apart_from_zero_are_warned_of(dtype):
    """The error of the warning is that of E[phi'(u)^2], which for the slope of a clipped line is a probability."""
    act = nb.Elementwise(jax.nn.relu6)
    with pytest.warns(UserWarning, match=r"right to about \d") as told:
        nb.ntk(layer(act, 1.0), jnp.eye(2, dtype=dtype))
    assert told[0].filename == __file__
    q = 10.0
    Tdot = averages(act.phi, VALUE_AND_SLOPE, None, *[jnp.full((), q, dtype)] * 3, jnp.zeros((), dtype))[1]
    exact = ndtr(6 / q**0.5) - 0.5
    stated = errors_tried(act.phi, None, dtype)[np.argmin(np.abs(TRIED - q))]
    actual = abs(float(Tdot) / exact - 1)
    assert 0.002 < actual and stated / 3 < actual < 3 * stated


@pytest.mark.slow
def test_waves_beyond_the_nodes_are_said():
    """sin of variance 100 turns five times within a standard deviation: 7 % off with the usual nodes."""
    x = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    with pytest.raises(ValueError, match="more nodes"):
        nb.nngp(layer(nb.Elementwise(jnp.sin), 200**0.5), x)
    fine = nb.nngp(layer(nb.Elementwise(jnp.sin, nodes=(200, 200)), 200**0.5), x)
    np.testing.assert_allclose(fine, nb.nngp(layer(nb.Sin(), 200**0.5), x), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_peaks_that_no_node_meets_are_said(dtype):
    """Of opposite points: there E[tanh'(u) tanh'(-u)] would be lost, and a rectifier's slope is not."""
    x = jnp.asarray([[1.0, 2.0], [-1.0, -2.0]], dtype) * 1e7
    for act in (nb.Tanh(), nb.Sigmoid()):
        assert act.largest_variance(dtype) <= nb.Elementwise(act.phi).largest_variance(jnp.dtype(dtype))
        with pytest.raises(ValueError, match="variances beyond"):
            nb.ntk(layer(act, 1.0), x)
    np.testing.assert_allclose(nb.ntk(layer(nb.Silu(), 1.0), x), nb.ntk(layer(nb.Relu(), 1.0), x), rtol=2e-3, atol=1e9)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e6, 1e9, 1e12, 1e15])
def test_near_points_keep_their_distance(scale):
    """Of parallel signals, 1e-6 apart, a rectifier's is half of it; where phi'' is a peak that no node meets, too."""
    q, e = jnp.asarray(scale**2), 1e-6
    for act in (nb.Silu(), nb.Softplus()):
        _, _, distance = act.dual_at_distance(q, q * (1 + e) ** 2, q * (1 + e), q * e**2)
        assert float(jnp.asarray(distance)) == pytest.approx(0.5 * scale**2 * e**2, rel=1e-3)


# Where a series is as exact -------------------------------------------------------------------------------------------


@jax.jit
def series_alone(q, k):
    lost = lambda *pairs: (jnp.full_like(k, jnp.nan),) * 2
    return jnp.stack(averages_of_smooth(jnp.tanh, VALUE_AND_SLOPE, lost, q, q, k))


@pytest.mark.slow
@pytest.mark.parametrize("dtype, border, bound", [("float64", 5.5, 3e-13), ("float32", 20.0, 2e-6)])
def test_series_is_exact_up_to_its_border(dtype, border, bound):
    """Below it neither part is lost; beyond it the rule in the plane goes on, within what it states."""
    _, phi, slope = STATED["tanh"]
    for q in (1e-8, 0.01, 1.0, 0.8 * border, 1.3 * border):
        exact = np.array([oracles.dual(phi, slope, q, q, q * c) for c in COSINES]).T
        size = np.array([[oracles.gaussian_average(lambda u, f=f: f(u) ** 2, q)] for f in (phi, slope)])
        points = [jnp.asarray(a, dtype) for a in (np.full(7, q), q * COSINES)]
        error = np.abs(np.asarray(series_alone(*points)) - exact) / size
        assert (error <= bound).all() if q < border else np.isnan(error).all(), f"variance {q}: {error}"
        error = np.abs(np.asarray(duals(nb.Tanh(), points[0], *points)) - exact) / size
        assert error.max() <= max(bound, 1e-11), f"variance {q}: {error}"


def test_series_refuses_what_its_nodes_may_miss():
    """A bump a tenth wide is no smaller for a wide input; neither is the end of the nodes where exp is largest."""
    bump = lambda x: x + 0.1 * jnp.exp(-100 * (x - 0.3) ** 2)
    for phi, met, lost in ((bump, 0.01, (1.0, 1e4, 1e8, 1e20)), (jnp.exp, 4.0, (30.0, 100.0)), (jnp.abs, 0.0, (1.0,))):
        chunks = jax.jit(lambda s, phi=phi: chunks_needed(phi, 1, s))
        assert int(chunks(met**0.5)) > 0 and not any(int(chunks(q**0.5)) for q in lost)


@pytest.mark.slow
def test_one_program_on_both_sides_of_the_border():
    """Mapped over scales, all choose together; each has the numbers and the slopes of its own call."""
    x = jnp.array([[1.0, 0.0], [0.6, -0.8], [1.0, 1e-7]])
    value = lambda W_std: nb.ntk(nb.serial(nb.Dense(1, W_std), nb.Tanh(), nb.Dense(1)), x)
    both = jax.jit(lambda W_std: jax.jvp(value, (W_std,), (jnp.ones_like(W_std),)))
    scales = jnp.array([0.1, 1.5, 20.0])
    for mapped, alone in zip(jax.jit(jax.vmap(both))(scales), zip(*map(both, scales))):
        np.testing.assert_allclose(mapped, alone, rtol=1e-9)
