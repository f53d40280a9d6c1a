"""Activations: phi beside its dual. Every test runs on every row of ACTIVATIONS; a new activation is a new row."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import ntkbook as nb
from ntkbook.networks.quadrature import Quadrature


@dataclass
class Row:
    """An activation, and its phi and slope written once more in numpy."""

    act: Any
    phi: Callable
    slope: Callable
    jumps: bool = False  # the slope is zero almost everywhere: T has a derivative that Tdot does not see
    kinked: bool = False  # the slope jumps at zero: Tdot has an infinite derivative on the diagonal
    tol: float = 1e-11  # relative to the size of T, in float64: quadrature has a stated error
    q_max: float = 1e8  # for larger variances the stated error is larger, or waves too fast for the oracle
    q_max32: float = 1e8  # the same in float32
    leaves: tuple[str, ...] = ()  # tunable numbers, differentiated below

    def __repr__(self):
        return repr(self.act)


def relu(x):
    return np.maximum(x, 0)


def step(x):
    return np.where(x > 0, 1.0, 0.0)


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2


def polynomial(*c):
    return np.polynomial.Polynomial(c)


def hermite(n):
    return np.polynomial.HermiteE.basis(n) / math.sqrt(math.factorial(n))


ACTIVATIONS = [
    Row(nb.Identity(), lambda x: x, np.ones_like),
    Row(nb.Relu(), relu, step, kinked=True),
    Row(
        nb.LeakyRelu(0.2),
        lambda x: np.where(x > 0, x, 0.2 * x),
        lambda x: np.where(x > 0, 1, 0.2),
        kinked=True,
        leaves=("slope",),
    ),
    Row(
        nb.LeakyRelu(-0.5, 1.4),
        lambda x: 1.4 * np.where(x > 0, x, -0.5 * x),
        lambda x: 1.4 * np.where(x > 0, 1, -0.5),
        kinked=True,
    ),
    Row(nb.Abs(), np.abs, np.sign, kinked=True),
    Row(nb.Step(), step, np.zeros_like, jumps=True),
    Row(nb.Sign(), np.sign, np.zeros_like, jumps=True),
    Row(nb.Erf(), oracles.erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x)),
    Row(
        nb.Erf(0.5, 0.4, -0.7),
        lambda x: 0.5 * oracles.erf(0.4 * x) - 0.7,
        lambda x: 0.4 / math.sqrt(math.pi) * np.exp(-0.16 * x * x),
    ),
    Row(
        nb.Gelu(),
        lambda x: x * oracles.normal_cdf(x),
        lambda x: oracles.normal_cdf(x) + x * oracles.normal_density(x),
    ),
    Row(nb.Sin(), np.sin, np.cos, q_max=16.0),
    Row(
        nb.Sin(1.5, 0.7, 0.4),
        lambda x: 1.5 * np.sin(0.7 * x + 0.4),
        lambda x: 1.05 * np.cos(0.7 * x + 0.4),
        q_max=9.0,
        leaves=("amplitude", "frequency", "shift"),
    ),
    Row(nb.Cos(), np.cos, lambda x: -np.sin(x), q_max=16.0),
    Row(
        nb.Cos(0.5, 2.0, -0.3),
        lambda x: 0.5 * np.cos(2 * x - 0.3),
        lambda x: -np.sin(2 * x - 0.3),
        q_max=4.0,
        leaves=("amplitude", "frequency", "shift"),
    ),
    Row(nb.Gaussian(), lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x)),
    Row(
        nb.Rbf(0.6),
        lambda x: math.sqrt(2) * np.sin(math.sqrt(1.2) * x + math.pi / 4),
        lambda x: math.sqrt(2.4) * np.cos(math.sqrt(1.2) * x + math.pi / 4),
        q_max=9.0,
        leaves=("gamma",),
    ),
    Row(nb.Gaussian(-1.5, 0.3), lambda x: -1.5 * np.exp(-0.3 * x * x), lambda x: 0.9 * x * np.exp(-0.3 * x * x)),
    Row(nb.Exp(0.5, 2.0), lambda x: 2 * np.exp(0.5 * x), lambda x: np.exp(0.5 * x), q_max=9.0),
    Row(nb.Exp(0.5), lambda x: np.exp(0.5 * x), lambda x: 0.5 * np.exp(0.5 * x), q_max=9.0, leaves=("rate",)),
    Row(nb.Exp(-1.0), lambda x: np.exp(-x), lambda x: -np.exp(-x), q_max=4.0),
    Row(nb.Polynomial((0.3,)), lambda x: np.full_like(x, 0.3), np.zeros_like),
    Row(nb.Polynomial((0.5, -1.0, 2.0, 0.25)), polynomial(0.5, -1, 2, 0.25), polynomial(-1, 4, 0.75)),
    Row(nb.Polynomial((0.0, 0.0, 0.0, 0.0, 1.0)), polynomial(0, 0, 0, 0, 1), polynomial(0, 0, 0, 4)),
    *(Row(nb.Hermite(n), hermite(n), hermite(n).deriv(), q_max32=1e6) for n in (0, 1, 2, 5)),
    Row(
        nb.Elu(),
        lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
        lambda x: np.exp(np.minimum(x, 0)),
    ),
    Row(nb.Tanh(), np.tanh, lambda x: 1 - np.tanh(x) ** 2, tol=1e-9),
    Row(nb.Sigmoid(), sigmoid, lambda x: sigmoid(x) * sigmoid(-x), tol=1e-9),
    Row(
        nb.Silu(),
        lambda x: x * sigmoid(x),
        lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
        tol=1e-9,
    ),
    Row(nb.Softplus(), lambda x: np.logaddexp(0, x), sigmoid, tol=1e-9),
    Row(
        nb.Elementwise(lambda x: jnp.maximum(x, 0) ** 2),
        lambda x: relu(x) ** 2,
        lambda x: 2 * relu(x),
    ),
    Row(
        nb.Elementwise(jnp.tanh, nodes=(80, 48)),
        np.tanh,
        lambda x: 1 - np.tanh(x) ** 2,
        tol=1e-10,
    ),
]
every_activation = pytest.mark.parametrize("row", ACTIVATIONS, ids=repr)

# (q1, q2, k): general, skewed, tiny, nearly parallel, nearly opposite, large
POINTS = [
    (1.0, 1.5, 0.6),
    (0.3, 2.0, -0.4),
    (1e-4, 4.0, 0.01),
    (1e-6, 2e-6, 1e-6),
    (2.0, 2.0, 2.0 * (1 - 1e-10)),
    (2.0, 3.0, -math.sqrt(6.0) * (1 - 1e-6)),
    (0.8, 0.8, 0.0),
    (9.0, 6.0, 5.0),
    (100.0, 60.0, -40.0),
    (1e6, 3e5, 4e5),
]


WIDTH = 64  # every call has this many points, so that each activation compiles once


@jax.jit
def _evaluate(act, q1, q2, k):
    return jnp.stack([*act.dual(q1, q2, k), *act.variance(q1)])


@partial(jax.jit, static_argnames="jacobian")
def _gradients(act, q1, q2, k, jacobian):
    stacked = lambda *q: jnp.stack([*act.dual(*q), *act.variance(q[0])])
    return jax.vmap(jacobian(stacked, argnums=(0, 1, 2)))(q1, q2, k)


def padded(points, dtype=np.float64):
    points = np.asarray(points, dtype)
    rest = np.tile(points[:1], (WIDTH - len(points), 1))
    return [jnp.asarray(column) for column in np.concatenate([points, rest]).T]


def evaluate(act, points, dtype=np.float64):
    """T, Tdot, and for q1 alone E[phi^2], E[phi'^2], each (points,), for rows (q1, q2, k)."""
    result = _evaluate(act, *padded(points, dtype))
    assert result.dtype == dtype
    return np.asarray(result, np.float64)[:, : len(points)]


def gradients(act, points, jacobian=jax.jacrev):
    """Derivatives of what `evaluate` gives in (q1, q2, k): (points, 4, 3)."""
    return np.stack(_gradients(act, *padded(points), jacobian), -1)[: len(points)]


def difference_quotients(f, points, place, h=1e-3):
    """The same for one of q1, q2, k: (outputs, points)."""
    shift = np.eye(3)[place]
    return oracles.difference_quotient(lambda by: f(np.asarray(points) + by * shift), 0.0, h)


def size(row, q):
    """E[phi^2] and E[phi'^2] at a variance: what an error in a dual is relative to, as covariances cancel."""
    average = lambda f: oracles.gaussian_average(lambda u: f(u) ** 2, q)
    return np.array([average(row.phi), average(row.slope)])


@every_activation
def test_phi_is_its_definition(row):
    x = np.linspace(-3, 3, 25)  # with a zero
    np.testing.assert_allclose(row.act.phi(jnp.asarray(x)), row.phi(x), rtol=1e-12, atol=1e-14)


@pytest.mark.slow_after_first
@every_activation
def test_dual_is_the_gaussian_average(row):
    points = [point for point in POINTS if max(point) <= row.q_max]
    for point, T, Tdot in zip(points, *evaluate(row.act, points)[:2]):
        error = np.abs(np.array([T, Tdot]) - oracles.dual(row.phi, row.slope, *point))
        bound = row.tol * np.sqrt(size(row, point[0]) * size(row, point[1]))
        assert (error <= bound + 1e-300).all(), f"{point}: error {error}, allowed {bound}"


@pytest.mark.slow_after_first
@every_activation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variance_is_the_gaussian_average(row, dtype):
    """The diagonal is exact at every size of the variance."""
    q_max, tol = (row.q_max, row.tol) if dtype == np.float64 else (min(row.q_max, row.q_max32), 2e-6)
    q = [q for q in (1e-8, 1e-3, 0.7, 4.0, 30.0, 3e3, 1e6, 1e8) if q <= q_max]
    q = np.array(q, dtype).astype(float)  # exact numbers in both types
    computed = evaluate(row.act, np.stack([q] * 3, -1), dtype)[2:].T
    np.testing.assert_allclose(computed, [size(row, one) for one in q], rtol=tol, atol=1e-30)


@pytest.mark.slow_after_first
@every_activation
def test_variance_is_the_dual_of_a_point_with_itself(row):
    T, Tdot, T1, Tdot1 = evaluate(row.act, [(q, q, q) for q in (1e-8, 0.3, 1.0, 4.0)])
    tol = 2 * row.tol if isinstance(row.act, Quadrature) else 1e-12  # its variance has more nodes than its dual
    np.testing.assert_allclose(T, T1, rtol=tol)
    np.testing.assert_allclose(Tdot, Tdot1, rtol=tol)


@pytest.mark.slow
@every_activation
def test_derivative_of_the_dual_in_k_is_the_dual_of_the_derivative(row):
    """Tdot = dT/dk (Price), by automatic differentiation and by difference quotients."""
    points = [(1.0, 1.5, 0.6), (0.3, 2.0, -0.4), (2.0, 3.0, 1.7), (0.8, 0.8, 0.0)]
    slope = gradients(row.act, points)[:, 0, 2]
    T, Tdot = evaluate(row.act, points)[:2]
    quotient = difference_quotients(lambda points: evaluate(row.act, points)[0], points, 2)
    np.testing.assert_allclose(slope, quotient, rtol=1e-8, atol=1e-9)
    if row.jumps:
        assert (Tdot == 0).all() and (slope > 0.05).all()  # no slope almost everywhere, and yet T is not flat
    else:
        np.testing.assert_allclose(Tdot, slope, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@every_activation
def test_gradients_are_difference_quotients(row):
    points = [(1.0, 1.4, 0.5), (0.5, 0.6, -0.2)]
    for jacobian in (jax.jacrev, jax.jacfwd):
        exact = gradients(row.act, points, jacobian)
        for place in range(3):
            quotient = difference_quotients(lambda points: evaluate(row.act, points), points, place).T
            np.testing.assert_allclose(exact[:, :, place], quotient, rtol=1e-7, atol=1e-9)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("row", [row for row in ACTIVATIONS if row.leaves], ids=repr)
def test_gradients_in_tunable_numbers_are_difference_quotients(row):
    points = padded([(1.0, 1.4, 0.5), (0.7, 0.7, 0.7)])
    for name in row.leaves:

        def outputs(value, name=name):
            act = type(row.act)(**{**vars(row.act), name: value})
            return _evaluate(act, *points)[:, :2]

        value = float(getattr(row.act, name))
        quotient = oracles.difference_quotient(outputs, value)
        np.testing.assert_allclose(jax.jacfwd(outputs)(value), quotient, rtol=1e-7, atol=1e-9)


SPECIAL = {
    "both zero": (0.0, 0.0, 0.0),
    "first zero": (0.0, 1.0, 0.0),
    "second zero": (1.0, 0.0, 0.0),
    "equal": (1.0, 1.0, 1.0),
    "opposite": (1.0, 1.0, -1.0),
    "parallel": (1.0, 4.0, 2.0),
    "nearly zero": (1e-30, 1e-30, 1e-30),
}


@pytest.mark.slow_after_first
@every_activation
def test_values_and_gradients_are_finite_at_special_points(row):
    points = list(SPECIAL.values())
    bad = lambda array: [name for name, finite in zip(SPECIAL, np.isfinite(array)) if not finite.all()]
    assert not bad(evaluate(row.act, points).T)
    assert not bad(gradients(row.act, points, jax.jacrev))
    assert not bad(gradients(row.act, points, jax.jacfwd))


@every_activation
def test_dual_at_zero_variance_is_phi_of_zero(row):
    T, _, variance, _ = evaluate(row.act, [(0.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
    phi0, mean = float(row.phi(np.zeros(1))[0]), oracles.gaussian_average(row.phi, 1.0)
    np.testing.assert_allclose(variance, phi0**2, atol=1e-15)
    np.testing.assert_allclose(T, [phi0**2, phi0 * mean], rtol=1e-10, atol=1e-14)


@every_activation
def test_dual_is_symmetric_and_bounded(row):
    points = np.array([point for point in POINTS if max(point) <= row.q_max])
    swapped = points[:, [1, 0, 2]]
    one, other = evaluate(row.act, points), evaluate(row.act, swapped)
    bound = np.sqrt(one[2:] * other[2:])
    assert (np.abs(one[:2] - other[:2]) <= 1e-9 * bound).all()
    assert (np.abs(one[:2]) <= bound * (1 + 1e-9)).all()  # Cauchy-Schwarz


@pytest.mark.slow_after_first
@every_activation
def test_float32_follows_float64(row):
    points = np.array([point for point in POINTS if max(point) <= min(row.q_max, row.q_max32, 9.0)], np.float32)
    wide, narrow = evaluate(row.act, points.astype(float)), evaluate(row.act, points, np.float32)
    scale = np.sqrt(wide[2:] * evaluate(row.act, points[:, [1, 0, 2]].astype(float))[2:])
    # A cosine that rounds by 6e-8 near 1 moves the angle by 3e-4: so much a slope that jumps must lose.
    tol = np.array([[1e-3 if row.jumps else 2e-5], [1e-3 if row.kinked else 2e-5]])
    assert (np.abs(narrow - wide)[:2] <= tol * scale + 1e-30).all()


@pytest.mark.slow
@every_activation
def test_dual_broadcasts_and_maps(row):
    """Variances (2, 1) and (1, 3) against covariances (2, 3), as in a network; and one point at a time by vmap."""
    q1, q2 = jnp.array([[0.5], [1.0]]), jnp.array([[0.7, 1.0, 2.0]])
    k = 0.3 * jnp.sqrt(q1) * jnp.sqrt(q2)
    table = np.stack(jax.jit(lambda *q: row.act.dual(*q))(q1, q2, k))
    points = np.stack([np.ravel(array) for array in jnp.broadcast_arrays(q1, q2, k)], -1)
    flat = evaluate(row.act, points)[:2]
    np.testing.assert_allclose(table.reshape(2, 6), flat, rtol=1e-12, atol=1e-15)
    one_by_one = jax.jit(jax.vmap(lambda *q: jnp.stack(row.act.dual(*q))))(*jnp.asarray(points.T))
    np.testing.assert_allclose(one_by_one.T, flat, rtol=1e-12, atol=1e-15)


@jax.jit
def value_and_slope(act, x):
    return jax.jvp(act.phi, (x,), (jnp.ones_like(x),))


@pytest.mark.slow_after_first
@every_activation
def test_phi_and_dual_belong_together(row):
    """Monte Carlo with the library's own phi, and its slope by automatic differentiation."""
    q1, q2, k = 0.8, 0.6, 0.35
    z = np.random.default_rng(0).normal(size=(2, 40_000))
    u = math.sqrt(q1) * z[0]
    v = k / math.sqrt(q1) * z[0] + math.sqrt(q2 - k * k / q1) * z[1]
    for at_u, at_v, expected in zip(
        value_and_slope(row.act, u), value_and_slope(row.act, v), evaluate(row.act, [(q1, q2, k)])
    ):
        samples = np.asarray(at_u * at_v)
        standard_error = samples.std() / math.sqrt(samples.size)
        assert abs(samples.mean() - expected[0]) <= 4 * standard_error + 1e-12


# T and Tdot at (1, 1.5, 0.6), agreed on by closed forms, another library and another quadrature
GOLDEN = [
    (nb.Relu(), 0.368820768578, 0.331482984031),
    (nb.LeakyRelu(0.2), 0.356045291890, 0.412149109780),
    (nb.Abs(), 0.875283074311, 0.325931936124),
    (nb.Erf(), 0.225198900618, 0.391812384838),
    (nb.Gelu(), 0.284110195822, 0.342688122708),
    (nb.Cos(), 0.339641471537, 0.182404305224),
    (nb.Rbf(0.6), 0.458406011305, 0.550087213566),
    (nb.Elementwise(lambda x: jnp.exp(-0.8 * x**2)), 0.355370425075, 0.068934250974),
    (nb.Elementwise(lambda x: jnp.exp(-(x**2)) * jnp.sin(x)), 0.012523131170, 0.030382295056),
    (nb.Polynomial((0.0, 0.0, 1.0)), 2.22, 2.4),
    (nb.Polynomial((0.0, 0.0, 0.0, 1.0)), 9.396, 19.98),
    (nb.Elementwise(lambda x: jnp.maximum(x, 0) ** 2), 1.041767985235, 1.475283074311),
    (nb.Elu(), 0.382419648713, 0.598294236094),
    (nb.Tanh(), 0.196571605627, 0.339318996404),
    (nb.Silu(), 0.229548428289, 0.316484306537),
    (nb.Sigmoid(), 0.274010036015, 0.040398704491),
    (nb.Softplus(), 0.847103925959, 0.274010036015),
]
GOLDEN_NAMES = [f"{i}-{type(row[0]).__name__}" for i, row in enumerate(GOLDEN)]


@pytest.mark.parametrize("act, T, Tdot", GOLDEN, ids=GOLDEN_NAMES)
def test_golden_values(act, T, Tdot):
    assert evaluate(act, [(1.0, 1.5, 0.6)])[:2, 0] == pytest.approx([T, Tdot], rel=1e-10, abs=1e-12)


def test_hermite_polynomials_are_powers_of_the_correlation():
    """E[h_n h_n] = c^n at unit variance: what makes them the modes of every dual."""
    c = np.linspace(-1, 1, 9)
    for n in range(7):
        T, Tdot = evaluate(nb.Hermite(n), np.stack([np.ones(9), np.ones(9), c], -1))[:2]
        np.testing.assert_allclose(T, c**n, atol=1e-13)
        np.testing.assert_allclose(Tdot, n * c ** max(n - 1, 0), atol=1e-13)


@pytest.mark.parametrize("q", [1e4, 1e9, 1e17, 1e40, 1e170])
def test_gelu_tends_to_relu_for_large_variances(q):
    """It neither overflows nor loses its digits, also on the diagonal."""
    points = [(q, q, 0.3 * q), (q, q, q), (q, q, -q)]
    gelu, relu = evaluate(nb.Gelu(), points), evaluate(nb.Relu(), points)
    np.testing.assert_allclose(gelu[::2], relu[::2], rtol=2 / math.sqrt(q) + 1e-15, atol=2 * math.sqrt(q))
    np.testing.assert_allclose(gelu[1::2], relu[1::2], atol=2 / math.sqrt(q) + 1e-15)


def test_kinds_of_activations_are_told_apart():
    """Tree structures are keys of jit's cache: two activations that share one would share a compiled function."""
    acts = [row.act for row in ACTIVATIONS]
    for one in acts:
        for other in acts:
            same = jax.tree.structure(one) == jax.tree.structure(other)
            assert not same or type(one) is type(other), f"{one} and {other} have equal tree structures"


def test_a_single_number_may_be_traced():
    """Slopes and frequencies are leaves: one compilation serves all of them."""
    points = padded([(1.0, 1.5, 0.6)])
    before = _evaluate._cache_size()
    for slope in np.linspace(0, 1, 20):
        _evaluate(nb.LeakyRelu(float(slope)), *points)
    assert _evaluate._cache_size() <= before + 1
