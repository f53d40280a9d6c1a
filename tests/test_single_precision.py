"""From a network to a prediction, in the precision that the program runs in: float64, or float32 in `make single`.

The oracles are written in numpy's float64, and take nothing from the library. Tolerances are those of the precision.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb

DTYPE = jax.dtypes.canonicalize_dtype(float)
# float32 has 1.2e-7: some hundred roundings on the way; near equal inputs an angle of ReLU keeps half of the digits
TOLERANCE, NEAR_ANGLES = {"float64": (1e-10, 1e-7), "float32": (2e-5, 1e-3)}[DTYPE.name]
W_STD, B_STD, NOISE = 1.4, 0.3, 0.1
NET = nb.serial(nb.Dense(64, W_STD, B_STD), nb.Relu(), nb.Dense(64, W_STD, B_STD), nb.Relu(), nb.Dense(1, W_STD, B_STD))
_rng = np.random.default_rng(3)
X, X_TEST, Y = _rng.standard_normal((12, 5)), _rng.standard_normal((4, 5)), _rng.standard_normal((12, 1))
PARAMS = {"W": _rng.standard_normal((5, 7)), "v": _rng.standard_normal(7)}
here = lambda array: jnp.asarray(array, DTYPE)


def close(got, expected, tolerance=TOLERANCE):
    assert got.dtype == DTYPE
    assert np.abs(np.asarray(got, float) - expected).max() <= tolerance * np.abs(expected).max()


def recursion(x1, x2):
    """The two kernels of NET, entry by entry as in Cho and Saul 2009 and Jacot et al. 2018."""
    scaled = lambda a, b: W_STD**2 * np.sum(a * b, -1) / a.shape[-1] + B_STD**2
    a, b = x1[:, None], x2[None]
    k, p, q = scaled(a, b), scaled(a, a), scaled(b, b)
    theta = k
    for _ in range(2):
        angle = np.arccos(np.clip(k / np.sqrt(p * q), -1, 1))
        slope = (np.pi - angle) / (2 * np.pi)
        k = W_STD**2 * np.sqrt(p * q) * (np.sin(angle) / (2 * np.pi) + slope * np.cos(angle)) + B_STD**2
        theta = k + W_STD**2 * slope * theta
        p, q = (W_STD**2 * r / 2 + B_STD**2 for r in (p, q))
    return k, theta


def test_the_precision_is_the_one_that_was_asked_for():
    assert DTYPE.name == ("float32" if os.environ.get("NTKBOOK_X64") == "0" else "float64")


def test_kernels_of_wide_networks():
    got = nb.kernel(NET, here(X), here(X_TEST))
    for name, expected in zip(("nngp", "ntk"), recursion(X, X_TEST)):
        close(getattr(got, name), expected)
    close(nb.ntk(NET, here(X)), recursion(X, X)[1], NEAR_ANGLES)


def test_tiles():
    close(nb.gram(NET, here(X), here(X_TEST), tile=5), recursion(X, X_TEST)[1])


def test_slopes_at_equal_inputs_are_numbers():
    slopes = jax.grad(lambda x: nb.ntk(NET, x).sum())(here(np.ones((3, 5))))
    assert slopes.dtype == DTYPE and bool(jnp.isfinite(slopes).all())


def model(params, x):
    return jnp.tanh(x @ params["W"]) @ params["v"][:, None]


def jacobian(x):
    """Of the model: all derivatives, (n, parameters), W first; and its outputs."""
    h = np.tanh(x @ PARAMS["W"])
    by_W = x[:, :, None] * ((1 - h**2) * PARAMS["v"])[:, None]
    return np.concatenate([by_W.reshape(len(x), -1), h], 1), (h @ PARAMS["v"])[:, None]


@pytest.mark.parametrize("method", ["jacobian", "vector_product"])
def test_the_kernel_of_a_finite_network(method):
    params = jax.tree.map(here, PARAMS)
    got = nb.empirical_ntk(model, params, here(X), here(X_TEST), method=method)
    close(got, jacobian(X)[0] @ jacobian(X_TEST)[0].T)


def test_a_linearized_network():
    step = {"W": 0.1 * np.ones((5, 7)), "v": -0.2 * np.ones(7)}
    moved = jax.tree.map(lambda p, s: here(p + s), PARAMS, step)
    J, f = jacobian(X)
    got = nb.linearize(model, jax.tree.map(here, PARAMS))(moved, here(X))
    close(got, f + J @ np.concatenate([step["W"].ravel(), step["v"]])[:, None])


@pytest.mark.parametrize("t", [0.5, 20.0])
def test_training_in_function_space(t):
    K, K_test = recursion(X, X)[1], recursion(X_TEST, X)[1]
    lam, Q = np.linalg.eigh(K)
    flow = nb.gradient_flow(here(K), here(Y), lr=0.1)
    close(flow.train(t), Q @ ((1 - np.exp(-0.1 * t * lam))[:, None] * (Q.T @ Y)))
    learnt = Q @ (((1 - np.exp(-0.1 * t * lam)) / lam)[:, None] * (Q.T @ Y))
    close(flow.test(t, here(K_test)), K_test @ learnt, 10 * TOLERANCE)


def test_a_posterior():
    """Of the NNGP, with a noise that keeps the condition number low."""
    K, K_test = recursion(X, X)[0] + NOISE * np.eye(12), recursion(X_TEST, X)[0]
    got = nb.posterior(NET, here(X), here(Y), noise=NOISE).predict(here(X_TEST))
    close(got.mean, K_test @ np.linalg.solve(K, Y), 10 * TOLERANCE)


@pytest.mark.slow
def test_training_takes_the_steps_of_gradient_descent():
    w, x, y = PARAMS["v"][:5, None].copy(), X, Y
    for _ in range(20):
        w -= 0.01 * x.T @ (x @ w - y)
    start = here(PARAMS["v"][:5, None])
    history = nb.train(lambda w, x: x @ w, start, here(x), here(y), lr=0.01, steps=20)
    close(history.params, w)
