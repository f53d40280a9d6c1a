"""The layerwise kernel against gradients of one output at a time, and which layers it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import NETWORKS

from ntkbook.finite import taps
from ntkbook.finite.empirical import empirical_ntk
from ntkbook.finite.layerwise import layerwise

NHWC = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def convolution(layout=NHWC, **options):
    def f(params, x):
        if layout[0] == "NCHW":
            x = x.transpose(0, 3, 1, 2)
        z = jax.lax.conv_general_dilated(x, params[0] / 3, dimension_numbers=layout, **options)
        return jnp.tanh(z).reshape(len(x), -1)[:, :40] @ params[1]

    return f


def heads(params, x):
    # one matrix for each head: a product with batch axes on the weight, and the weight on the left
    q = jnp.einsum("hij,nsi->nhsj", params[0], x)
    v = jnp.einsum("nsi,hij->nhsj", x, params[1])
    return jnp.einsum("nhsj,hjo->no", jnp.tanh(q) * v, params[2])


@jax.jit
def nested(params, x):
    inner = jax.checkpoint(jax.jit(lambda W, x: jnp.tanh(x @ (W.T / 2.0))))
    return jax.nn.relu(inner(params[0], x)) @ (-(3 * params[1]).reshape(4, 2)) + params[2]


def loop(params, x):
    step = lambda x, layer: (x + jnp.tanh(x @ layer[0] / 2 + 0.1 * layer[1]), None)
    return jax.lax.scan(step, x @ params[0], (params[1], params[2]), reverse=True)[0] @ params[3]


def shared(params, x):
    return jnp.tanh(jnp.tanh(x @ params[0]) @ params[0]) @ params[1]


def quadratic(params, x):
    return (x @ (params[0] @ params[0].T)) @ (params[1] * x.shape[1]) + jnp.sin(params[2])


def gained(params, x):
    return (jnp.tanh(x @ params[0]) * params[2]) @ params[1]


same = convolution(window_strides=(1, 1), padding="SAME")
dilated = convolution(window_strides=(2, 1), padding="VALID", rhs_dilation=(1, 2))
channels_first = convolution(("NCHW", "OIHW", "NCHW"), window_strides=(1, 1), padding=((0, 1), (1, 1)))

#  f, shapes of its parameters, shape of an example, parameter arrays that are linear layers, those of the last layer
CASES = {
    "wide convolution": (same, [(3, 3, 4, 20), (40, 2)], (2, 1, 4), {0, 1}, {1}),
    "strided, dilated": (dilated, [(2, 2, 3, 10), (40, 2)], (6, 5, 3), {0, 1}, {1}),
    "channels first": (channels_first, [(4, 3, 2, 3), (40, 2)], (5, 5, 3), {0, 1}, {1}),
    "heads": (heads, [(2, 3, 4), (2, 3, 4), (2, 4, 2)], (5, 3), {0, 1, 2}, {2}),
    "few positions": (heads, [(2, 9, 11), (2, 9, 11), (2, 11, 2)], (2, 9), {0, 1, 2}, {2}),
    "nested": (nested, [(4, 3), (8,), (2,)], (3,), {0, 1}, {1, 2}),
    "loop": (loop, [(3, 4), (3, 4, 4), (3, 4), (4, 2)], (3,), {0, 1, 3}, {3}),
    "shared": (shared, [(3, 3), (3, 2)], (3,), {1}, {1}),
    "quadratic": (quadratic, [(3, 3), (3, 2), (2,)], (3,), {1}, {1, 2}),
    "gained": (gained, [(3, 4), (4, 2), (4,)], (3,), {0, 1}, {1}),
}


def draw(case):
    f, shapes, shape, layers, last = CASES[case]
    return f, [normal(i, *s) for i, s in enumerate(shapes)], normal(7, 3, *shape), layers, last


def one_by_one(f):
    return lambda params, x: f(params, x[None])[0]


def contracted_jacobians(f, params, x):
    jacobian = jax.jit(jax.jacrev(f))(params, x)  # reverse mode, all at once
    n_outputs = jax.eval_shape(f, params, x).shape[1]
    flat = np.concatenate([np.reshape(leaf, (len(x), n_outputs, -1)) for leaf in jax.tree.leaves(jacobian)], axis=2)
    return np.einsum("iap,jbp->ijab", flat, flat)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("case", CASES)
def test_kernel_and_the_layers_it_finds(case):
    f, params, x, expected_layers, expected_last = draw(case)
    expected = contracted_jacobians(f, params, x)
    full = empirical_ntk(f, params, x, x, method="layerwise", outputs="full")
    np.testing.assert_allclose(full, expected, rtol=1e-10, atol=1e-11 * abs(expected).max())
    found = taps.survey(jax.make_jaxpr(one_by_one(f))(params, x[0]), len(params))
    assert {layer.leaf for layer in found.layers} == expected_layers
    assert found.last == expected_last


@pytest.mark.parametrize("full", [False, True])
def test_both_ways_to_sum_over_positions_agree(full, monkeypatch):
    f, params, x, *_ = draw("few positions")
    expected = contracted_jacobians(f, params, x)
    expected = expected if full else np.trace(expected, axis1=2, axis2=3) / 2
    for choice in (True, False):
        monkeypatch.setattr("ntkbook.finite.layerwise._prefers_outer", lambda *_, choice=choice: choice)
        rule = layerwise(one_by_one(f), params, x[0], 4, full)
        features = jax.jit(rule.features)(x)
        assert any(isinstance(part, tuple) for part in features) != choice
        actual = jax.jit(rule.contract)(features, features)
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_last_layer_alone():
    f, params, x, *_ = draw("nested")
    rule = layerwise(one_by_one(f), params, x[0], 4, False)
    features = rule.features(x)
    expected = contracted_jacobians(lambda free, x: f([params[0], *free], x), params[1:], x)
    actual = rule.contract(features, features, rule.last)
    np.testing.assert_allclose(actual, np.trace(expected, axis1=2, axis2=3) / 2, rtol=1e-11, atol=1e-11)


def test_long_loops_are_left_alone():
    f = lambda params, x: jax.lax.scan(lambda x, w: (jnp.tanh(x * w), None), x, params)[0]
    params, x = normal(0, 1000, 1) / 10 + 1, normal(1, 3, 1)
    np.testing.assert_allclose(
        empirical_ntk(f, params, x, method="layerwise"), empirical_ntk(f, params, x, method="jacobian"), rtol=1e-10
    )


@pytest.mark.slow_after_first
@pytest.mark.parametrize("row", NETWORKS, ids=repr)
def test_every_network_of_the_library(row):
    net = row.network(4, 2)
    x = jnp.asarray(row.inputs(3))
    drawn = np.random.default_rng(1).standard_normal  # any numbers: to draw them by `init` takes a program per shape
    params = jax.eval_shape(lambda key: net.init(key, x.shape)[1], jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(drawn(leaf.shape)), params)
    flat = lambda params, x: net.apply(params, x).reshape(len(x), -1)  # some keep positions to the end
    expected = contracted_jacobians(flat, params, x)
    full = empirical_ntk(net.apply, params, x, x, method="layerwise", outputs="full")
    np.testing.assert_allclose(full, expected, rtol=1e-9, atol=1e-10 * abs(expected).max())
