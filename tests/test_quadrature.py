"""Numerical duals: as accurate as they say, for smooth functions and for kinks at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import ntkbook as nb
from ntkbook.networks import quadrature

POINTS = np.array(
    [(1.0, 1.5, 0.6), (0.3, 2.0, -0.4), (4.0, 4.0, 3.9), (1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (0.5, 0.0, 0.0)]
)


@jax.jit
def duals(act, q1, q2, k):
    return jnp.stack(act.dual(q1, q2, k))


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


def test_stated_error_of_tanh():
    """The error grows with the variance, as stated, and more nodes buy it back."""
    slope = lambda x: 1 - np.tanh(x) ** 2
    for q, stated in ((1.0, 1e-12), (4.0, 5e-11), (25.0, 2e-7), (100.0, 3e-4)):
        exact = oracles.dual(np.tanh, slope, q, q, 0.7 * q)
        for nodes, error in ((None, stated), ((200, 100), max(1e-4 * stated, 1e-13))):
            value = duals(nb.Elementwise(jnp.tanh, nodes=nodes), *map(jnp.asarray, (q, q, 0.7 * q)))
            np.testing.assert_allclose(value, exact, rtol=error)


def test_float32_uses_its_own_nodes():
    points = POINTS.astype(np.float32)
    narrow = duals(nb.Tanh(), *map(jnp.asarray, points.T))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, duals(nb.Tanh(), *POINTS.T), atol=3e-6)


def test_memory_stays_that_of_the_result():
    """The sum runs node by node: no array of all nodes times all pairs."""
    n = 400
    q, k = jnp.ones((n, 1)), jnp.full((n, n), 0.3)
    compiled = jax.jit(lambda q, k: quadrature.dual(jnp.tanh, q, q.T, k, None)).lower(q, k).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * k.nbytes


def test_variance_is_the_dual_at_angle_zero_with_twice_the_nodes():
    q = jnp.array([0.0, 0.2, 1.0, 4.0])
    for phi in (jnp.tanh, jax.nn.elu):
        for a, b in zip(quadrature.variance(phi, q, (20, 12)), quadrature.dual(phi, q, q, q, (40, 24))):
            np.testing.assert_allclose(a[1:], b[1:], rtol=1e-12)
            assert np.isfinite(a).all() and np.isfinite(b).all()
