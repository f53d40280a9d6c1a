"""The kernel of tinygp: formulas of one hidden layer, and the likelihood of a normal with its slopes."""

import importlib
import os
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import erf_kernels as by_hand

import ntkbook as nb

if find_spec("tinygp") is None and os.environ.get("NTKBOOK_REQUIRE_MODELS") != "1":
    pytest.skip("tinygp not here: make test LEVEL=everything", allow_module_level=True)

import tinygp

from ntkbook.interop.tinygp import NTKKernel

RNG = np.random.default_rng(0)
X, X_TEST = jnp.asarray(RNG.normal(size=(6, 3))), jnp.asarray(RNG.normal(size=(4, 3)))
Y = jnp.sin(X[:, 0])


def network(W1=1.5, b1=0.3, W2=1.2, b2=0.2):
    return nb.serial(nb.Dense(1, W1, b1), nb.Erf(), nb.Dense(1, W2, b2))


@pytest.mark.parametrize("get, which", [("nngp", 0), ("ntk", 1)])
def test_values_are_those_of_the_formula(get, which):
    kernel = NTKKernel(network(), get)
    for x1, x2 in ((X, X), (X_TEST, X)):
        np.testing.assert_allclose(kernel(x1, x2), by_hand(x1, x2)[which], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(kernel(X), np.diagonal(by_hand(X, X)[which]), rtol=1e-12)
    np.testing.assert_allclose(kernel.evaluate(X[0], X[1]), by_hand(X, X)[which][0, 1], rtol=1e-12)
    column = X[:, 0]
    np.testing.assert_allclose(kernel(column, column), by_hand(column[:, None], column[:, None])[which], rtol=1e-12)


def test_a_process_has_the_likelihood_of_a_normal_and_its_slopes():
    def likelihood(kernel):
        return tinygp.GaussianProcess(2.0 * kernel, X, diag=0.1).log_probability(Y)

    with jax.numpy_dtype_promotion("standard"):
        value, slope = jax.jit(jax.value_and_grad(likelihood))(NTKKernel(network()))
    density = lambda W: scipy.stats.multivariate_normal(np.zeros(6), 2 * by_hand(X, X, W)[0] + 0.1 * np.eye(6))
    np.testing.assert_allclose(value, density(1.5).logpdf(Y), rtol=1e-10)
    finite = (density(1.5 + 1e-5).logpdf(Y) - density(1.5 - 1e-5).logpdf(Y)) / 2e-5
    np.testing.assert_allclose(slope.net.layers[0].W_std, finite, rtol=1e-6)


def test_without_tinygp_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygp.kernels", None)
    monkeypatch.delitem(sys.modules, "ntkbook.interop.tinygp")
    with pytest.raises(ImportError, match="pip install tinygp"):
        importlib.import_module("ntkbook.interop.tinygp")
