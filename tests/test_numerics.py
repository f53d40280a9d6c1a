"""Safe elementary functions: right to rounding, and finite where the naive formula is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook.numerics import arccos, cosine, reciprocal, safe_sqrt, sine

COSINES = np.concatenate([np.linspace(-1, 1, 2001), 1 - np.logspace(-15, 0, 200), np.logspace(-15, 0, 200) - 1])


@pytest.mark.parametrize("dtype, tol", [(np.float64, 4e-16), (np.float32, 3e-7)])
def test_arccos_and_sine_to_rounding(dtype, tol):
    c = COSINES.astype(dtype)
    angle, s = np.asarray(arccos(jnp.asarray(c))), np.asarray(sine(jnp.asarray(c)))
    assert angle.dtype == s.dtype == dtype
    exact = np.arccos(c.astype(np.longdouble))
    assert (np.abs(angle - exact) <= tol * np.maximum(exact, 0.5)).all()
    np.testing.assert_allclose(s, np.sqrt((1 - c.astype(np.longdouble)) * (1 + c.astype(np.longdouble))), rtol=2 * tol)


@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-15), (np.float32, 5e-7)])
def test_small_angles_keep_their_digits(dtype, tol):
    """Relative to the angle, not to pi: kernels of nearly parallel inputs depend on it."""
    one_minus = (1 - (1 - np.logspace(-6, -1, 50)).astype(dtype)).astype(float)  # what the type can hold
    c = (1 - one_minus).astype(dtype)
    exact = 2 * np.arcsin(np.sqrt(one_minus.astype(np.longdouble) / 2))
    np.testing.assert_allclose(np.asarray(arccos(jnp.asarray(c)), float), exact.astype(float), rtol=tol)


def test_angles_at_and_beyond_the_ends():
    c = jnp.array([1.0, 1 + 1e-15, 1.5, -1.0, -1 - 1e-15, 0.0])
    np.testing.assert_allclose(arccos(c), [0, 0, 0, np.pi, np.pi, np.pi / 2], atol=1e-16)
    assert (sine(c)[:5] == 0).all()


@pytest.mark.parametrize(
    "function, slope", [(arccos, lambda c: -1 / np.sqrt(1 - c * c)), (sine, lambda c: -c / np.sqrt(1 - c * c))]
)
def test_derivatives_inside_and_at_the_ends(function, slope):
    c = np.linspace(-0.99, 0.99, 41)
    for derivative in (jax.grad(function), jax.jacfwd(function)):
        np.testing.assert_allclose(jax.jit(jax.vmap(derivative))(jnp.asarray(c)), slope(c), rtol=1e-12, atol=1e-14)
        assert (jax.jit(jax.vmap(derivative))(jnp.array([1.0, -1.0, 1 + 1e-15])) == 0).all()
    second = jax.jit(jax.vmap(jax.grad(jax.grad(function))))
    assert np.isfinite(second(jnp.array([-1.0, -0.5, 0.0, 0.5, 1.0]))).all()


def test_safe_sqrt():
    x = jnp.array([0.0, -1e-17, 4.0, 1e-300, 1e300])
    np.testing.assert_allclose(safe_sqrt(x), [0, 0, 2, 1e-150, 1e150], rtol=1e-15)
    np.testing.assert_allclose(jax.vmap(jax.grad(safe_sqrt))(x[:3]), [0, 0, 0.25])


def test_reciprocal():
    x = jnp.array([0.0, 2.0, -4.0])
    np.testing.assert_allclose(reciprocal(x), [0, 0.5, -0.25])
    np.testing.assert_allclose(jax.vmap(jax.grad(reciprocal))(x), [0, -0.25, -0.0625])


def test_cosine_of_variances():
    q1, q2 = jnp.array([1.0, 4.0, 0.0, 1e300, 1e-290, 1e-300]), jnp.array([1.0, 9.0, 1.0, 1e300, 1e-290, 1e-300])
    k = jnp.array([0.5, -6.0, 0.0, 2e299, 1e-290, 1e-300])
    np.testing.assert_allclose(cosine(q1, q2, k), [0.5, -1, 0, 0.2, 1, 0], rtol=1e-14)  # the last counts as zero
    gradients = jax.vmap(jax.grad(cosine, argnums=(0, 1, 2)))(q1, q2, k)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
