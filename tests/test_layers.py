"""Layers of flat data: the generic tests on their networks, then what each layer promises."""

from functools import reduce

import jax
import jax.numpy as jnp
import networks
import numpy as np
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
from ntkbook import Dense, Erf, LayerNorm, Relu, Repeat, Residual, serial
from ntkbook.networks.kernel import program


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        rows = [row for row in networks.NETWORKS if len(row.shape) == 1]
        metafunc.parametrize("row", [networks.marked(row) for row in rows], ids=repr)


@pytest.mark.slow
def test_a_network_unpacks_into_three_functions():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    net = serial(Dense(8), Relu(), Dense(1))
    init_fn, apply_fn, kernel_fn = net
    _, params = init_fn(jax.random.key(1), x.shape)
    np.testing.assert_array_equal(apply_fn(params, x), net.apply(params, x))
    np.testing.assert_array_equal(kernel_fn(x, None, "ntk"), nb.ntk(net, x))
    np.testing.assert_array_equal(kernel_fn(x, x).ntk, nb.ntk(net, x, x))
    ntk, nngp = kernel_fn(x, None, ("ntk", "nngp"))
    np.testing.assert_array_equal(ntk, nb.ntk(net, x))
    np.testing.assert_array_equal(nngp, nb.nngp(net, x))


def test_dense_is_its_formula(key):
    # numbers on a grid, so that each product and sum is exact, and so is the comparison
    on_grid = lambda array: jnp.round(64 * array) / 64
    x = on_grid(np.random.default_rng(0).normal(size=(4, 4)))
    layer = Dense(5, 1.5, 0.25)
    W, b = map(on_grid, layer.init(key, x.shape)[1])
    assert W.shape == (4, 5) and b.shape == (5,)
    np.testing.assert_array_equal(layer.apply((W, b), x), 1.5 / np.sqrt(4) * x @ W + 0.25 * b)


def test_dense_in_standard_parameterization_is_its_formula(key):
    """The scales are in the draw, not in the formula."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 300)))
    for b_std in (0.3, None):
        layer = Dense(500, 1.5, b_std, parameterization="standard")
        _, (W, b) = layer.init(key, x.shape)
        assert float(W.std()) == pytest.approx(1.5 / 300**0.5, rel=0.02)
        np.testing.assert_allclose(layer.apply((W, b), x), x @ W + (0 if b_std is None else b), rtol=1e-12, atol=1e-14)
        if b_std is not None:
            assert float(b.std()) == pytest.approx(0.3, rel=0.15)


def test_standard_parameterization_has_the_same_nngp_and_a_tangent_kernel_of_widths():
    """Theta' = n K + 1 + W_std^2 Kdot Theta (Sohl-Dickstein et al. 2020), the 1 only where there is a bias."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)))
    gram = x @ x.T / 4
    ours = nb.kernel(serial(Dense(10, 1.5, 0.3, parameterization="standard")), x)
    np.testing.assert_allclose(ours.nngp, 2.25 * gram + 0.09, rtol=1e-13)
    np.testing.assert_allclose(ours.ntk, 4 * gram + 1, rtol=1e-13)
    two = serial(*(Dense(10, 1.5, None, parameterization="standard") for _ in range(2)))
    ours = nb.kernel(two, x)
    np.testing.assert_allclose(ours.nngp, 2.25**2 * gram, rtol=1e-13)
    np.testing.assert_allclose(ours.ntk, 10 * 2.25 * gram + 2.25 * 4 * gram, rtol=1e-13)


def arc_cosine_recursion(x, stds):
    """Both kernels after Dense(W_std, b_std) and ReLU for each pair, the last without ReLU (Cho and Saul 2009)."""
    nngp = x @ x.T / x.shape[1]
    ntk = 0 * nngp
    for i, (W_std, b_std) in enumerate(stds):
        if i:
            size = np.sqrt(np.outer(np.diag(nngp), np.diag(nngp)))
            angle = np.arccos(np.clip(nngp / size, -1, 1)) * (1 - np.eye(len(x)))
            nngp = size * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
            ntk = ntk * (np.pi - angle) / (2 * np.pi)
        nngp = W_std**2 * nngp + b_std**2
        ntk = nngp + W_std**2 * ntk
    return nngp, ntk


def test_a_deep_network_is_compiled_as_a_loop_in_which_numbers_differ():
    x = np.random.default_rng(0).normal(size=(5, 3))
    deep = lambda depth: [(1.3 + 0.01 * i, 0.2 - 0.004 * i) for i in range(depth)]
    net = lambda stds: serial(*(layer for W, b in stds for layer in (Dense(8, W, b), Relu())), Dense(1, 0.9, 0.1))
    for got, expected in zip(both(net(deep(40)), x), arc_cosine_recursion(x, [*deep(40), (0.9, 0.1)])):
        np.testing.assert_allclose(got, expected, rtol=1e-11)
    size = lambda depth: len(program.lower(net(deep(depth)), jnp.asarray(x), None, words=("ntk",)).as_text())
    assert size(50) < 1.3 * size(10)

    entry = lambda W_std: nb.ntk(net([(W_std, 0.1)] * 6), jnp.asarray(x))[0, 1]
    slope = (entry(1.3 + 1e-5) - entry(1.3 - 1e-5)) / 2e-5
    assert float(jax.grad(entry)(1.3)) == pytest.approx(float(slope), rel=1e-7)


@pytest.mark.slow
def test_repetitions_that_change_what_flows_are_written_out():
    """Filters without padding shrink the picture at each of four times; with it, a loop."""
    x = np.random.default_rng(0).normal(size=(2, 9, 3))
    for padding in ("VALID", "CIRCULAR"):
        front = [layer for _ in range(4) for layer in (nb.Conv(8, (3,), padding=padding, W_std=1.4), Relu())]
        in_pairs = serial(serial(*front[:4]), serial(*front[4:]), nb.GlobalAvgPool(), Dense(1))
        np.testing.assert_allclose(both(serial(*front, nb.GlobalAvgPool(), Dense(1)), x), both(in_pairs, x), rtol=1e-12)


@pytest.mark.slow
def test_repeat_is_the_same_layers_written_out():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    block = serial(Relu(), Dense(8, 1.4, 0.2))
    for times in (1, 2, 7):
        for number in (times, float(times), jnp.asarray(float(times)), jnp.asarray(times)):
            repeated = serial(Dense(8), Repeat(block, number))
            written = reduce(serial, [block] * times, Dense(8))
            np.testing.assert_allclose(both(repeated, x), both(written, x), rtol=1e-13)


def test_finite_repeat_applies_its_layers_one_after_another(key):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)))
    layer = serial(Dense(8, 1.2, 0.1), Erf())
    _, params = Repeat(layer, 3).init(key, x.shape)
    expected = x
    for i in range(3):
        expected = layer.apply(jax.tree.map(lambda p, i=i: p[i], params), expected)
    np.testing.assert_allclose(Repeat(layer, 3).apply(params, x), expected, rtol=1e-13)
    draws = params[0][0]
    assert not np.allclose(draws[0], draws[1])


def test_finite_layer_norm_has_unit_variance():
    x = jnp.asarray(3 + 2 * np.random.default_rng(0).normal(size=(4, 50)))
    normed = LayerNorm().apply((), x)
    np.testing.assert_allclose(normed.mean(-1), 0, atol=1e-13)
    np.testing.assert_allclose(normed.std(-1), 1, rtol=1e-10)


def test_serial_is_associative_and_prints_as_it_is_written():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    flat = serial(Dense(8, 1.5), Relu(), Dense(8), Erf(), Dense(1))
    nested = serial(serial(Dense(8, 1.5), Relu()), serial(Dense(8), serial(Erf(), Dense(1))))
    np.testing.assert_array_equal(both(flat, x), both(nested, x))
    assert repr(serial(Relu(), Residual(Erf()))) == "serial(Relu(), Residual(Erf()))"


@pytest.mark.parametrize("layers", [(LayerNorm(),), (), (nb.Identity(),), (Residual(Dense(8)),), (Relu(),)], ids=repr)
def test_residual_refuses_a_branch_that_is_correlated_with_its_input(layers):
    """Adding the two kernels needs a branch that ends in random weights of its own."""
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="Expected .*, got "):
        nb.kernel(serial(Dense(8), Residual(*layers), Dense(1)), x)


@pytest.mark.slow
def test_all_parameters_are_independent_draws(key):
    layers = Dense(400, 1.0, 1.0), Relu(), Dense(400, 1.0, 1.0)
    (W1, b1), _, (W2, b2) = jax.vmap(lambda k: serial(*layers).init(k, (1, 3))[1])(jax.random.split(key, 50))
    draws = [np.asarray(a).reshape(50, -1) for a in (W1, b1, W2, b2)]
    for array in draws:
        assert abs(array.mean()) < 4 / array.size**0.5
        assert abs(array.var() - 1) < 4 * (2 / array.size) ** 0.5
    flat = np.concatenate([array[:, :400] for array in draws], 1)
    assert len(np.unique(flat)) == flat.size  # no number serves twice
    for i in range(4):
        for j in range(i):
            assert abs((draws[i][:, :400] * draws[j][:, :400]).mean()) < 4 / (50 * 400) ** 0.5


def test_paths_side_by_side_are_means_over_channels(key):
    """By hand: each path weighs as many channels as it has."""
    x = jax.random.normal(key, (4, 3))
    net = nb.Concat(Dense(8, 1.3, 0.2), serial(Dense(4, 0.7)), nb.Identity())
    raw = np.asarray(x @ x.T / 3)
    first, second = 1.3**2 * raw + 0.2**2, 0.7**2 * raw
    mean = (8 * first + 4 * second + 3 * raw) / 15
    nngp, ntk = nb.kernel(serial(net, Dense(1, 1.1)), x)
    np.testing.assert_allclose(nngp, 1.1**2 * mean, rtol=1e-12)
    np.testing.assert_allclose(ntk, 1.1**2 * (mean + (8 * first + 4 * second) / 15), rtol=1e-12)
    shape, params = net.init(key, x.shape)
    out = net.apply(params, x)
    assert out.shape == shape == (4, 15)
    np.testing.assert_allclose(out[:, 12:], x)
    with pytest.raises(ValueError, match="Gaussian"):
        nb.ntk(serial(net, Relu(), Dense(1)), x)
    with pytest.raises(ValueError, match="two or more paths"):
        nb.Concat(Dense(1))
    images = jax.random.normal(key, (2, 4, 4, 3))
    apart = nb.Concat(nb.Conv(2, (3, 3), padding="VALID"), nb.Identity())
    with pytest.raises(ValueError, match="positions"):
        nb.ntk(serial(apart, nb.Flatten(), Dense(1)), images)
    with pytest.raises(ValueError, match="one shape"):
        apart.init(key, images.shape)


def test_arguments_that_do_not_fit_are_said():
    key, x, net = jax.random.key(0), jnp.ones((3, 4)), serial(Dense(5), Relu(), Dense(1))
    _, params = net.init(key, x.shape)
    for bad in (0, jax.random.split(key, 3), jnp.ones(2)):
        with pytest.raises(TypeError, match="Expected one random key"):
            net.init(bad, x.shape)
    for bad in (None, "ab", (3, 4.5), (3,), (3, 0)):
        with pytest.raises((TypeError, ValueError), match="Expected the shape of the inputs"):
            net.init(key, bad)
    with pytest.raises(ValueError, match="with 4 features on the last axis"):
        net.apply(params, jnp.ones((3, 7)))
    with pytest.raises(ValueError, match="Expected the parameters"):
        net.apply(((),) * 3, x)
    with pytest.raises(ValueError, match="each of the 3 layers"):
        net.apply(params[:2], x)
    with pytest.raises(ValueError, match="Expected one number for each hyperparameter"):
        nb.ntk(serial(Dense(1, jnp.ones(3)), Relu(), Dense(1)), x)
    with pytest.raises(ValueError, match="at most 1024"):
        nb.Conv(8, (10**9, 3))
    with pytest.raises(TypeError, match="jnp.tanh rather than np.tanh"):
        nb.Elementwise(np.tanh)
    with pytest.raises(ValueError, match="Expected an elementwise function"):
        nb.Elementwise(lambda z: z.sum())
    for nodes in (3, (3,), (0, 3), (3.5, 2)):
        with pytest.raises((TypeError, ValueError), match="Expected nodes"):
            nb.Elementwise(jnp.tanh, nodes=nodes)
