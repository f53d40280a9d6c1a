"""Self-attention: the generic tests on its networks, then what the layer promises."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import oracles
import pytest
from network_tests import (  # noqa: F401  (they run here on the rows below)
    both,
    test_derivatives_are_difference_quotients,
    test_finite_network_has_the_shape_that_it_announces,
    test_float32_follows_float64,
    test_kernel_is_the_loop_over_positions,
    test_kernel_of_points_with_themselves_is_exact,
    test_symmetry_permutation_and_transpose,
    test_values_and_gradients_are_finite_at_special_inputs,
)

import ntkbook as nb
from ntkbook import Dense, GlobalAvgPool, SelfAttention, serial


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        rows = [row for row in networks.NETWORKS if "attention" in row.name]
        metafunc.parametrize("row", [networks.marked(row) for row in rows], ids=repr)


def sequences(n, s=4, d=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, s, d)))


def pooled(*layers):
    return serial(*layers, GlobalAvgPool(), Dense(1))


@pytest.mark.slow
def test_tokens_have_no_order_without_positions():
    x = sequences(3)
    order = np.array([2, 0, 3, 1])
    for options in ({}, {"scaling": "sqrt", "zeta": "relu"}):
        blind = pooled(SelfAttention(8, b_std=0.1, **options))
        np.testing.assert_allclose(nb.ntk(blind, x[:, order], x), nb.ntk(blind, x, x), rtol=1e-6)
    seeing = pooled(SelfAttention(8, position_std=1.0, position_decay=0.5))
    assert np.abs(nb.ntk(seeing, x[:, order], x) / nb.ntk(seeing, x, x) - 1).max() > 1e-3


def test_without_queries_softmax_attends_to_all_alike():
    """Every position then reads the mean over positions: values, outputs, and the bias."""
    x = sequences(3)
    k = nb.kernel(SelfAttention(8, W_query_std=0.0, W_value_std=1.2, W_out_std=0.9, b_std=0.3), x)
    mean = np.einsum("nsd,mtd->nm", x, x) / (3 * 16)
    nngp = (1.2 * 0.9) ** 2 * mean
    np.testing.assert_allclose(k.nngp, (nngp + 0.09)[..., None, None] * np.ones((4, 4)), rtol=1e-12)
    np.testing.assert_allclose(k.ntk, (2 * nngp + 0.09)[..., None, None] * np.ones((4, 4)), rtol=1e-12)


def test_the_kernel_does_not_know_the_finite_widths():
    x = sequences(3)
    np.testing.assert_array_equal(nb.ntk(pooled(SelfAttention(8)), x), nb.ntk(pooled(SelfAttention(16, 2, 3, 5)), x))


@pytest.mark.slow
@pytest.mark.parametrize("scaling", ["linear", "sqrt"])
def test_zeta_may_be_any_activation(scaling):
    x = sequences(3)
    for word, act in (("identity", nb.Identity()), ("relu", nb.Relu()), ("identity", nb.LeakyRelu(1.0))):
        named = nb.kernel(pooled(SelfAttention(8, scaling=scaling, zeta=word)), x)
        given = nb.kernel(pooled(SelfAttention(8, scaling=scaling, zeta=act)), x)
        np.testing.assert_allclose(named.ntk, given.ntk, rtol=1e-12)
        np.testing.assert_allclose(named.nngp, given.nngp, rtol=1e-12)


def test_sqrt_scaling_with_erf_is_its_formula():
    """Hron et al. 2020 for a zeta that they do not have: sums over positions of duals of erf."""
    x = sequences(2, s=3)
    net = pooled(SelfAttention(8, scaling="sqrt", zeta=nb.Erf(), W_query_std=1.2, W_value_std=0.8, b_std=0.2))

    def network(pair):
        return oracles.dense(oracles.global_avg_pool(oracles.attention_sqrt(pair, oracles.erf_dual, 1.2, 0.8, 0.2)), 1)

    nngp, ntk = oracles.matrices(x, x, network)
    k = nb.kernel(net, x)
    np.testing.assert_allclose(k.nngp, nngp, rtol=1e-12)
    np.testing.assert_allclose(k.ntk, ntk, rtol=1e-12)


def test_sqrt_scaling_sees_positions_in_queries_and_keys_only():
    """With identity zeta: K'_ab = s^2 sum_cd I_ab I_cd K_cd, where I is K plus the covariance of positions."""
    x = sequences(2, s=3)
    layer = SelfAttention(8, scaling="sqrt", zeta="identity", position_std=0.7, position_decay=0.4)
    nngp = nb.nngp(layer, x)
    places = np.arange(3)
    R = 0.49 * np.exp(-0.4 * np.abs(places[:, None] - places))
    for i in range(2):
        for j in range(2):
            K = np.asarray(x[i] @ x[j].T) / 3
            np.testing.assert_allclose(nngp[i, j], (K + R) * ((K + R) * K).sum(), rtol=1e-12)


# The finite layer, head by head ---------------------------------------------------------------------------------------

ZETAS = {
    "softmax": oracles.softmax,
    "identity": lambda G: G,
    "relu": lambda G: np.maximum(G, 0),
}


@pytest.mark.slow_after_first
@pytest.mark.parametrize(
    "scaling, zeta",
    [("linear", "softmax"), ("linear", "identity"), ("linear", "relu"), ("sqrt", "identity"), ("sqrt", "relu")],
)
def test_finite_attention_is_its_formula(scaling, zeta, key):
    x = sequences(2)
    layer = SelfAttention(
        6,
        3,
        5,
        7,
        scaling=scaling,
        zeta=zeta,
        W_query_std=1.2,
        W_key_std=0.9,
        W_value_std=1.1,
        W_out_std=0.8,
        b_std=0.3,
    )
    announced, params = layer.init(key, x.shape)
    p = {name: np.asarray(value) for name, value in params.items()}
    expected = np.zeros((2, 4, 6))
    for n in range(2):
        for h in range(3):
            Q = 1.2 / np.sqrt(3) * x[n] @ p["query"][h]
            K = 0.9 / np.sqrt(3) * x[n] @ (p["query"] if scaling == "linear" else p["key"])[h]
            V = 1.1 / np.sqrt(3) * x[n] @ p["value"][h]
            G = np.asarray(Q @ K.T) / (5 if scaling == "linear" else np.sqrt(5))
            expected[n] += 0.8 / np.sqrt(3 * 7) * ZETAS[zeta](G) @ V @ p["out"][h]
    expected += 0.3 * p["bias"]
    assert announced == (2, 4, 6)
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-11, atol=1e-13)


def test_finite_encoding_is_not_trained(key):
    x = sequences(2)
    layer = SelfAttention(2, 1, 2, 2, position_std=0.7, position_decay=0.4, zeta="identity")
    _, params = layer.init(key, x.shape)
    gradient = jax.grad(lambda params: (layer.apply(params, x) ** 2).sum())(params)
    assert not np.asarray(gradient["position"]).any() and np.asarray(gradient["query"]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "are_two, options", [(True, {"position_std": 0.5}), (False, {"scaling": "sqrt", "zeta": "relu"})]
)
def test_images_are_sequences_of_their_pixels(are_two, options):
    """The same numbers for the network and both kernels, and for the layers that follow."""
    rng = np.random.default_rng(1)
    images, others = jnp.asarray(rng.normal(size=(3, 2, 3, 4))), jnp.asarray(rng.normal(size=(2, 2, 3, 4)))
    flat = lambda x: x.reshape(len(x), 6, 4)
    layer = SelfAttention(5, 2, 3, 2, b_std=0.3, **options)
    shape, params = layer.init(jax.random.key(0), images.shape)
    assert shape == (3, 2, 3, 5)
    np.testing.assert_allclose(
        layer.apply(params, images), layer.apply(params, flat(images)).reshape(shape), rtol=1e-10
    )
    net = pooled(Dense(8, 1.2, 0.1), nb.Relu(), layer, nb.Erf())
    inputs = [images, others] if are_two else [images]
    for whole, expected in zip(nb.kernel(net, *inputs), nb.kernel(net, *map(flat, inputs)), strict=True):
        np.testing.assert_allclose(whole, expected, rtol=1e-10)
    with pytest.raises(ValueError, match="position_decay"):
        nb.ntk(pooled(SelfAttention(8, position_std=1.0, position_decay=0.5)), images)
