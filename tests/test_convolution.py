"""Layers of images and sequences: the generic tests on their networks, then what convolution and pooling promise."""

import dataclasses

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
from ntkbook import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu, serial


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        rows = [row for row in networks.NETWORKS if len(row.shape) > 1 and "attention" not in row.name]
        metafunc.parametrize("row", [networks.marked(row) for row in rows], ids=repr)


def images(n, *shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)))


def assert_same_kernels(one, other, x1, x2=None, rtol=1e-11):
    """Two networks with the same NNGP and NTK."""
    for second in (x2, None):
        a, b = nb.kernel(one, x1, second), nb.kernel(other, x1, second)
        np.testing.assert_allclose(a.nngp, b.nngp, rtol=rtol, atol=1e-13)
        np.testing.assert_allclose(a.ntk, b.ntk, rtol=rtol, atol=1e-13)


def test_a_filter_as_large_as_the_image_is_a_dense_layer():
    x = images(4, 3, 2, 5)
    conv = serial(Conv(8, (3, 2), padding="VALID", W_std=1.3, b_std=0.2), Relu(), Flatten(), Dense(1))
    dense = serial(Flatten(), Dense(8, 1.3, 0.2), Relu(), Dense(1))
    assert_same_kernels(conv, dense, x[:2], x[2:])


@pytest.mark.slow
def test_a_filter_of_one_pixel_is_a_dense_layer_at_each_position():
    x = images(4, 3, 2, 5)
    conv = serial(Conv(8, (1, 1), W_std=1.3, b_std=0.2), Relu(), Flatten(), Dense(1))
    dense = serial(Dense(8, 1.3, 0.2), Relu(), Flatten(), Dense(1))
    assert_same_kernels(conv, dense, x[:2], x[2:])
    pixels = serial(Dense(8, 1.3, 0.2), Relu(), Dense(1))
    one_by_one = [nb.ntk(pixels, x[:2, i, j], x[2:, i, j]) for i in range(3) for j in range(2)]
    np.testing.assert_allclose(nb.ntk(conv, x[:2], x[2:]), sum(one_by_one) / 6, rtol=1e-12)


@pytest.mark.slow
def test_circular_padding_and_global_pooling_do_not_see_shifts():
    """Arora et al. 2019: the pooled kernel is invariant to translations, if the border does not tell where they are."""
    x = images(3, 4, 5, 2)
    shifted = jnp.roll(x, (1, -2), (1, 2))

    def net(padding, end):
        return serial(
            Conv(8, (3, 3), padding=padding, W_std=1.4), Relu(), Conv(8, (3, 3), padding=padding), end, Dense(1)
        )

    pooled = net("CIRCULAR", GlobalAvgPool())
    np.testing.assert_allclose(nb.ntk(pooled, shifted, x), nb.ntk(pooled, x, x), rtol=1e-6)  # angles of twins round
    np.testing.assert_allclose(nb.nngp(pooled, shifted, x), nb.nngp(pooled, x, x), rtol=1e-12)
    for other in (net("SAME", GlobalAvgPool()), net("CIRCULAR", Flatten())):
        assert np.abs(nb.ntk(other, shifted, x) / nb.ntk(other, x, x) - 1).max() > 0.01


@pytest.mark.slow
def test_pooling_all_at_once_is_global_pooling():
    x = images(4, 3, 2, 3)
    front = (Conv(8, (2, 2), b_std=0.1), Relu())
    windows = serial(*front, AvgPool((3, 2)), Flatten(), Dense(1))
    in_two = serial(*front, AvgPool((3, 1)), AvgPool((1, 2)), GlobalAvgPool(), Dense(1))
    at_once = serial(*front, GlobalAvgPool(), Dense(1))
    assert_same_kernels(windows, at_once, x[:2], x[2:])
    assert_same_kernels(in_two, at_once, x[:2], x[2:])


@pytest.mark.slow
def test_pooling_does_not_change_what_is_flat():
    x = images(4, 3, 2, 3)
    front = (Conv(8, (2, 2), b_std=0.1), Relu(), GlobalAvgPool())
    assert_same_kernels(serial(*front, GlobalAvgPool(), Flatten(), Dense(1)), serial(*front, Dense(1)), x[:2], x[2:])


def test_three_directions():
    """Videos: (n, t, h, w, channels)."""
    x = images(3, 2, 2, 3, 2)
    net = serial(Conv(8, (2, 1, 2), (1, 1, 2), "SAME", 1.2, 0.1), Relu(), GlobalAvgPool(), Dense(1))
    steps = networks.chain(
        networks.conv((2, 1, 2), (1, 1, 2), "SAME", 1.2, 0.1), networks.relu, networks.gap, networks.dense()
    )
    nngp, ntk = oracles.matrices(x, x, lambda pair: steps(pair, 8))
    k = nb.kernel(net, x)
    np.testing.assert_allclose(k.nngp, nngp, rtol=1e-12)
    np.testing.assert_allclose(k.ntk, ntk, rtol=1e-12)


def test_positions_at_the_end_come_after_the_examples():
    x = images(2, 3, 4, 2)
    k = nb.kernel(serial(Conv(8, (3, 3))), x)
    assert k.nngp.shape == k.ntk.shape == (2, 2, 3, 3, 4, 4)
    pixel = nb.nngp(serial(Conv(8, (1, 1), W_std=1.5)), x)
    np.testing.assert_allclose(pixel[0, 1, 2, 0, 1, 3], 2.25 * x[0, 2, 1] @ x[1, 0, 3] / 2, rtol=1e-12)


@pytest.mark.slow
def test_only_what_is_needed_is_carried():
    """Each position with itself before Flatten, one offset at a time before a mean: seldom all pairs of positions."""
    x = images(8, 10, 10, 3)

    def memory(end):
        net = serial(Conv(8, (3, 3)), Relu(), Conv(8, (3, 3)), Relu(), end, Dense(1))
        return jax.jit(nb.ntk).lower(net, x).compile().memory_analysis().temp_size_in_bytes

    all_pairs = 8 * 8 * 100 * 100 * x.itemsize
    assert memory(Flatten()) < all_pairs / 4
    assert memory(GlobalAvgPool()) < all_pairs < memory(serial(AvgPool((10, 10)), Flatten()))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
@pytest.mark.parametrize("shape", [(5, 6, 3), (1, 3, 2), (3, 4, 2, 2)], ids=str)
def test_one_offset_at_a_time_gives_what_all_pairs_give(shape, padding):
    """The same network, with its mean written as a pool over one window, which asks for all pairs of positions."""
    x, z = images(3, *shape), images(2, *shape, seed=1).at[0].set(images(3, *shape)[1])
    sizes = shape[:-1]
    filters = [(window,) * len(sizes) for window in (3, 2, 5)]
    one, two, three = (Conv(8, window, padding=padding, W_std=1.3, b_std=0.2) for window in filters)
    two = dataclasses.replace(two, strides=(1, *[2] * (len(sizes) - 1)))
    sizes = (sizes[0], *[-(-size // 2) for size in sizes[1:]])
    block = nb.Repeat(nb.Residual(nb.LayerNorm(), Relu(), one), 2)
    layers = serial(one, Relu(), two, nb.Erf(), Dense(8), block, nb.Step(), three)
    assert_same_kernels(serial(layers, GlobalAvgPool()), serial(layers, AvgPool(sizes), Flatten()), x, z)


# Finite layers --------------------------------------------------------------------------------------------------------


@pytest.mark.slow_after_first
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("filter_shape", [(3, 3), (2, 3), (1, 4)])
def test_finite_convolution_is_a_sum_over_windows(padding, strides, filter_shape, key):
    x = images(2, 5, 4, 3)
    layer = Conv(6, filter_shape, strides, padding, 1.4, 0.3)
    announced, (W, b) = layer.init(key, x.shape)
    shape, windows = oracles.windows((5, 4), filter_shape, strides, padding)
    pixels = np.asarray(x).reshape(2, 20, 3)
    expected = np.zeros((2, len(windows), 6))
    for a, window in enumerate(windows):
        for place, matrix in zip(window, np.asarray(W).reshape(-1, 3, 6)):
            if place is not None:
                expected[:, a] += pixels[:, place] @ matrix
    expected = 1.4 / np.sqrt(len(windows[0]) * 3) * expected + 0.3 * np.asarray(b)
    assert announced == (2, *shape, 6)
    np.testing.assert_allclose(layer.apply((W, b), x), expected.reshape(announced), rtol=1e-12, atol=1e-13)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("window, strides", [((2, 2), None), ((3, 2), (1, 2)), ((5, 4), None), ((2, 3), (2, 1))])
def test_finite_pooling_is_a_mean_over_windows(window, strides):
    x = images(2, 5, 4, 3)
    announced, params = AvgPool(window, strides).init(jax.random.key(0), x.shape)
    shape, windows = oracles.windows((5, 4), window, strides or window, "VALID")
    pixels = np.asarray(x).reshape(2, 20, 3)
    expected = np.stack([pixels[:, places].mean(1) for places in windows], 1)
    assert announced == (2, *shape, 3)
    np.testing.assert_allclose(AvgPool(window, strides).apply(params, x), expected.reshape(announced), rtol=1e-12)


def test_finite_flatten_and_global_pooling():
    x = images(2, 5, 4, 3)
    np.testing.assert_array_equal(Flatten().apply((), x), np.asarray(x).reshape(2, -1))
    np.testing.assert_allclose(GlobalAvgPool().apply((), x), np.asarray(x).mean((1, 2)), rtol=1e-12)


def test_finite_convolution_in_standard_parameterization(key):
    x = images(2, 5, 4, 30)
    layer = Conv(50, (3, 3), W_std=1.4, b_std=0.3, parameterization="standard")
    _, (W, b) = layer.init(key, x.shape)
    assert float(W.std()) == pytest.approx(1.4 / (9 * 30) ** 0.5, rel=0.05)
    ntk_layer = Conv(50, (3, 3), W_std=1.0, b_std=1.0)
    np.testing.assert_allclose(
        layer.apply((W, b), x), ntk_layer.apply((W * (9 * 30) ** 0.5, b), x), rtol=1e-11, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("padding, normalize_edges", [("SAME", False), ("SAME", True), ("CIRCULAR", False)])
@pytest.mark.parametrize("is_sum", [False, True])
def test_pools_at_the_edges(key, padding, normalize_edges, is_sum):
    """The finite layer against loops over windows; the kernel of raw inputs is made of products of what it gives."""
    x = jax.random.normal(key, (3, 5, 4, 2))
    window, strides = (3, 2), (2, 1)
    pool = AvgPool(window, strides, padding, normalize_edges=normalize_edges, is_sum=is_sum)
    mode = {"mode": "wrap"} if padding == "CIRCULAR" else {}
    padded = np.pad(x, [(0, 0), (1, 1), (0, 1), (0, 0)], **mode)  # SAME: 3 outputs of 5 rows, 4 of 4 columns
    inside = np.pad(np.ones((5, 4)), [(1, 1), (0, 1)], **mode)
    expected = np.zeros((3, 3, 4, 2))
    for i in range(3):
        for j in range(4):
            rows, columns = slice(2 * i, 2 * i + 3), slice(j, j + 2)
            count = inside[rows, columns].sum() if normalize_edges else 6
            expected[:, i, j] = padded[:, rows, columns].sum((1, 2)) / (1 if is_sum else count)
    np.testing.assert_allclose(pool.apply((), x), expected, rtol=1e-12)
    flat = expected.reshape(3, -1)
    np.testing.assert_allclose(nb.nngp(serial(pool, Flatten()), x), flat @ flat.T / 24, rtol=1e-12)
    whole = expected.sum((1, 2))
    total = nb.nngp(serial(pool, GlobalAvgPool(is_sum=True)), x[:2], x)
    np.testing.assert_allclose(total, whole[:2] @ whole.T / 2, rtol=1e-12)
