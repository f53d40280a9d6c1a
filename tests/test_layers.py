"""Kernels of networks: generic tests on every row of networks.py; then what single layers promise."""

from functools import partial

import jax
import jax.numpy as jnp
import networks
import numpy as np
import oracles
import pytest

import ntkbook as nb
from ntkbook import Dense, Erf, LayerNorm, Relu, Repeat, Residual, serial

every_network = pytest.mark.parametrize("row", networks.NETWORKS, ids=repr)
N = 5  # inputs in most tests: each network compiles once for all of them

# Most of the time goes into compiling: here each program runs once or twice.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _both(net, x1, x2=None):
    k = nb.kernel(net, x1, x2)
    return jnp.stack([k.nngp, k.ntk])


@quick_jit
def both(net, x1, x2=None):
    """NNGP and NTK, (2, n1, n2, ...), in one compilation."""
    return _both(net, x1, x2)


@quick_jit
def directional_derivative(net, x, net_dot, x_dot):
    return jax.jvp(_both, (net, x), (net_dot, x_dot))[1]


@quick_jit
def pulled_back(net, x, weights):
    return jax.vjp(_both, net, x)[1](weights)


def arrays(net):
    """The network with float64 arrays for its numbers, so that all of these tests share their compilations."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64) if isinstance(leaf, float) else leaf, net)


def direction(net, rng):
    """A tangent of all its numbers; whole numbers, such as a depth, have none."""
    return jax.tree.map(
        lambda leaf: np.zeros((), jax.dtypes.float0) if isinstance(leaf, int) else jnp.asarray(rng.normal()), net
    )


def relative(error, to):
    """The error of each kernel, relative to its largest entry."""
    return np.abs(error) / np.abs(to).max(tuple(range(1, to.ndim)), keepdims=True)


def positions_side_by_side(array, like):
    """(..., h, h, w, w) as (..., h w, h w), as the oracle has them."""
    order = (0, 1, 2, *range(3, array.ndim, 2), *range(4, array.ndim, 2))
    return array.transpose(order).reshape(like.shape)


def expected_kernels(row, x1, x2):
    return np.stack(oracles.matrices(x1, x2, lambda pair: row.oracle(pair, 8)))


@every_network
def test_kernel_is_the_loop_over_positions(row):
    x1, x2 = row.inputs(3), row.inputs(2, seed=1)
    x2[1] = -x1[0]
    expected = expected_kernels(row, x1, x2)
    computed = positions_side_by_side(np.asarray(both(arrays(row.network(8, 4)), x1, x2)), expected)
    assert relative(computed - expected, expected).max() < 1e-10


@every_network
def test_kernel_of_points_with_themselves_is_exact(row):
    x = row.inputs(N)
    expected = expected_kernels(row, x[:2], x[:2])
    computed = positions_side_by_side(np.asarray(both(arrays(row.network(8, 4)), x))[:, :2, :2], expected)
    assert relative(computed - expected, expected).max() < 1e-12


@every_network
def test_symmetry_permutation_and_transpose(row):
    x = row.inputs(N)
    net = arrays(row.network(8, 4))
    within = np.asarray(both(net, x))
    transposed = within.transpose(0, 2, 1, *(axis + (1 if axis % 2 else -1) for axis in range(3, within.ndim)))
    np.testing.assert_allclose(within, transposed, rtol=1e-13, atol=1e-14)
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(both(net, x[order]), within[:, order][:, :, order], rtol=1e-12, atol=1e-13)
    # A kernel with itself as second input has the same numbers, up to the angle of a point with itself.
    across = np.asarray(both(net, x, x))
    assert relative(across - within, within).max() < (1e-7 if row.kinked else 1e-12)
    others = np.asarray(both(net, x[order], x))
    assert relative(others - across[:, order], within).max() < 1e-7
    if within.ndim == 3:
        for matrix in within:
            assert np.linalg.eigvalsh(matrix).min() > -1e-13 * np.trace(matrix)


@every_network
def test_float32_follows_float64(row):
    x = row.inputs(N)
    net = row.network(8, 4)
    narrow = both(net, x.astype(np.float32))
    assert narrow.dtype == jnp.float32
    wide = np.asarray(both(arrays(net), x.astype(np.float32).astype(float)))
    assert relative(np.asarray(narrow, float) - wide, wide).max() < 1e-5
    diagonal = np.arange(N)
    error = relative(np.asarray(narrow, float) - wide, wide)[:, diagonal, diagonal]
    if error.ndim == 2:
        assert error.max() < 1e-6


@every_network
def test_derivatives_are_difference_quotients(row):
    """In all numbers and inputs at once, also where two inputs coincide and stay so."""
    rng = np.random.default_rng(2)
    x, x_dot = row.inputs(N), rng.normal(size=(N, *row.shape))
    x[2], x_dot[2] = x[0], x_dot[0]
    net = arrays(row.network(8, 4))
    net_dot = direction(net, rng)

    def moved(t):
        step = lambda leaf, dot: leaf if isinstance(leaf, int) else leaf + t * dot
        return both(jax.tree.map(step, net, net_dot), x + t * x_dot)

    exact = np.asarray(directional_derivative(net, x, net_dot, x_dot))
    quotient = oracles.difference_quotient(moved, 0.0, 2e-4)
    coincident = np.zeros((N, N), bool)
    coincident[[0, 2], [2, 0]] = row.kinked  # the angle rounds to about 1e-8, which the quotient divides by its step
    error = relative(exact - quotient, exact)
    assert error[:, ~coincident].max() < 1e-7
    assert error.max() < 1e-3
    if not row.forward_only:
        weights = rng.normal(size=exact.shape)
        net_bar, x_bar = pulled_back(net, x, weights)
        numbers = zip(jax.tree.leaves(net_bar), jax.tree.leaves(net_dot))
        backward = sum(float(bar * dot) for bar, dot in numbers) + (np.asarray(x_bar) * x_dot).sum()
        assert backward == pytest.approx((weights * exact).sum(), rel=1e-7)


def with_zeros(net, names):
    """The network with the numbers of these names set to zero."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(net)
    return jax.tree.unflatten(
        structure, [jnp.zeros(()) if getattr(path[-1], "name", "") in names else leaf for path, leaf in leaves]
    )


BIASES = {"b_std", "position_std"}
WEIGHTS = {"W_std", "W_query_std", "W_key_std", "W_value_std", "W_out_std"}


@every_network
@pytest.mark.parametrize("zeros", [set(), BIASES, WEIGHTS, BIASES | WEIGHTS], ids=["all", "no b", "no W", "nothing"])
def test_values_and_gradients_are_finite_at_special_inputs(row, zeros):
    """Zero, equal, opposite and parallel inputs; a network without biases, without weights, without both."""
    x = row.inputs(N)
    x[1], x[2], x[3], x[4] = 0, x[0], -x[0], 2 * x[0]
    rng = np.random.default_rng(2)
    net = with_zeros(arrays(row.network(8, 4)), zeros)
    assert np.isfinite(both(net, x)).all()
    assert np.isfinite(both(net, x[:3], x[3:])).all()
    assert np.isfinite(directional_derivative(net, x, direction(net, rng), rng.normal(size=x.shape))).all()
    if not row.forward_only:
        gradients = jax.tree.leaves(pulled_back(net, x, rng.normal(size=both(net, x).shape)))
        assert all(np.isfinite(gradient).all() for gradient in gradients)


# Finite layers --------------------------------------------------------------------------------------------------------


@every_network
def test_finite_network_has_the_shape_that_it_announces(row, key):
    init, apply, _ = row.network(8, 4)
    announced = []

    def outputs(key, x):
        shape, params = init(key, (-1, *row.shape))
        announced.extend([shape, init(key, (7, *row.shape))[0]])
        return apply(params, x)

    actual = jax.eval_shape(outputs, key, jnp.asarray(row.inputs(2)))
    assert announced == [(-1, *actual.shape[1:]), (7, *actual.shape[1:])]
    assert actual.dtype == jnp.float64


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
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    layer = Dense(5, 1.5, 0.3)
    _, (W, b) = layer.init(key, x.shape)
    assert W.shape == (3, 5) and b.shape == (5,)
    np.testing.assert_allclose(layer.apply((W, b), x), 1.5 / np.sqrt(3) * x @ W + 0.3 * b, rtol=1e-14)


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


def test_repeat_is_the_same_layers_written_out():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    block = serial(Relu(), Dense(8, 1.4, 0.2))
    for times in (1, 2, 7):
        for number in (times, float(times), jnp.asarray(float(times)), jnp.asarray(times)):
            repeated = serial(Dense(8), Repeat(block, number))
            written = serial(Dense(8), *(block,) * times)
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
