"""Generic tests of kernels. A file that imports them says on which rows of networks.py they run, as test_layers.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import ntkbook as nb

N = 5  # inputs in all tests: each network compiles once for all of them

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
def forward(net, x, net_dot, x_dot, weights):
    """The derivative of sum(weights * both) in one direction of numbers and inputs, by forward mode."""
    return jax.jvp(lambda net, x: (weights * _both(net, x)).sum(), (net, x), (net_dot, x_dot))[1]


@quick_jit
def backward(net, x, net_dot, x_dot, weights):
    """The same by reverse mode: all partial derivatives, then the direction."""
    bars = jax.grad(lambda net, x: (weights * _both(net, x)).sum(), argnums=(0, 1))(net, x)
    return sum((bar * dot).sum() for bar, dot in zip(jax.tree.leaves(bars), jax.tree.leaves((net_dot, x_dot))))


def derivative(row):
    """By reverse mode, which is made from forward mode; by forward mode through a loop of traced length."""
    return forward if row.forward_only else backward


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


def test_kernel_is_the_loop_over_positions(row):
    x1, x2 = row.inputs(N), row.inputs(N, seed=1)
    x2[1] = -x1[0]
    expected = expected_kernels(row, x1[:3], x2[:2])
    computed = positions_side_by_side(np.asarray(both(arrays(row.network(8, 4)), x1, x2))[:, :3, :2], expected)
    assert relative(computed - expected, expected).max() < 1e-10


@pytest.mark.slow_after_first
def test_kernel_of_points_with_themselves_is_exact(row):
    x = row.inputs(N)
    expected = expected_kernels(row, x[:2], x[:2])
    computed = positions_side_by_side(np.asarray(both(arrays(row.network(8, 4)), x))[:, :2, :2], expected)
    assert relative(computed - expected, expected).max() < 1e-12


@pytest.mark.slow_after_first
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


@pytest.mark.slow_after_first
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


@pytest.mark.slow
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

    quotient = oracles.difference_quotient(moved, 0.0, 2e-4)
    weights = rng.normal(size=quotient.shape)
    coincident = np.zeros(quotient.shape, bool)
    coincident[:, [0, 2], [2, 0]] = True
    # The angle of two equal inputs rounds to about 1e-8, which the quotient divides by its step.
    for entries, tol in ((~coincident, 1e-7), (coincident, 1e-3 if row.kinked else 1e-7)):
        exact = float(derivative(row)(net, x, net_dot, x_dot, weights * entries))
        assert exact == pytest.approx((weights * entries * quotient).sum(), rel=tol)


def with_zeros(net, names):
    """The network with the numbers of these names set to zero."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(net)
    return jax.tree.unflatten(
        structure, [jnp.zeros(()) if getattr(path[-1], "name", "") in names else leaf for path, leaf in leaves]
    )


BIASES = {"b_std", "position_std"}
WEIGHTS = {"W_std", "W_query_std", "W_key_std", "W_value_std", "W_out_std"}


@pytest.mark.slow_after_first
@pytest.mark.parametrize("zeros", [set(), BIASES, WEIGHTS, BIASES | WEIGHTS], ids=["all", "no b", "no W", "nothing"])
def test_values_and_gradients_are_finite_at_special_inputs(row, zeros):
    """Zero, equal, opposite and parallel inputs; a network without biases, without weights, without both."""
    x = row.inputs(N)
    x[1], x[2], x[3], x[4] = 0, x[0], -x[0], 2 * x[0]
    rng = np.random.default_rng(2)
    net = with_zeros(arrays(row.network(8, 4)), zeros)
    values = both(net, x)
    assert np.isfinite(values).all()
    assert np.isfinite(both(net, x, x)).all()
    slope = derivative(row)(net, x, direction(net, rng), rng.normal(size=x.shape), rng.normal(size=values.shape))
    assert np.isfinite(slope)


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
