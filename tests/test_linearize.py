"""Taylor expansions in the parameters against polynomials, finite differences and scaling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook.finite.empirical import _empirical_ntk, empirical_ntk
from ntkbook.finite.linearize import linearize, taylor_expand


def f(params, x):
    return jnp.tanh(x @ params["W"] + params["b"][0]) @ params["v"]


@pytest.fixture(scope="module")
def setting():
    keys = jax.random.split(jax.random.key(0), 7)
    make = lambda k1, k2, k3: {
        "W": jax.random.normal(k1, (3, 4)),
        "b": [jax.random.normal(k2, (4,))],
        "v": jax.random.normal(k3, (4, 2)),
    }
    return make(*keys[:3]), make(*keys[3:6]), jax.random.normal(keys[6], (5, 3))


def moved(params_0, direction, s):
    return jax.tree.map(lambda a, b: a + s * b, params_0, direction)


@pytest.mark.slow
def test_linearize_is_value_and_slope_at_the_start(setting):
    params_0, direction, x = setting
    g = linearize(f, params_0)
    np.testing.assert_allclose(g(params_0, x), f(params_0, x), rtol=1e-14)
    slope = (f(moved(params_0, direction, 1e-5), x) - f(moved(params_0, direction, -1e-5), x)) / 2e-5
    expected = f(params_0, x) + 0.7 * slope
    np.testing.assert_allclose(g(moved(params_0, direction, 0.7), x), expected, rtol=1e-8)


def test_linearize_matches_its_definition_entry_by_entry(setting):
    params_0, direction, x = setting
    jacobian = jax.jacrev(f)(params_0, x)
    products = jax.tree.map(lambda j, d: np.tensordot(j, d, d.ndim), jacobian, direction)
    expected = f(params_0, x) + sum(jax.tree.leaves(products))
    np.testing.assert_allclose(linearize(f, params_0)(moved(params_0, direction, 1.0), x), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_error_of_the_expansion_has_the_next_order(setting, order):
    params_0, direction, x = setting
    g = taylor_expand(f, params_0, order)
    sizes = np.array([0.04, 0.02])
    errors = [abs(g(p, x) - f(p, x)).max() for p in (moved(params_0, direction, s) for s in sizes)]
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order + 1, atol=0.25)


@pytest.mark.parametrize("order", range(5))
def test_expansion_of_a_cubic_keeps_its_lowest_orders(order):
    cubic = lambda params, x: (x @ params) ** 3
    x, p0, p = jnp.array([[1.0, 2.0]]), jnp.array([0.5, -0.2]), jnp.array([0.9, 0.4])
    a, s = float((x @ p0)[0]), float((x @ (p - p0))[0])
    exact = [a**3, 3 * a**2 * s, 3 * a * s**2, s**3, 0.0]
    np.testing.assert_allclose(taylor_expand(cubic, p0, order)(p, x)[0], sum(exact[: order + 1]), rtol=1e-12)


def test_kernel_of_the_linear_model_is_that_of_the_network_everywhere(setting):
    params_0, direction, x = setting
    elsewhere = moved(params_0, direction, 2.0)
    kernel = empirical_ntk(f, params_0, x, outputs="full", method="jacobian")
    linear = empirical_ntk(linearize(f, params_0), elsewhere, x, outputs="full", method="jacobian")
    np.testing.assert_allclose(linear, kernel, rtol=1e-12, atol=1e-12)
    assert abs(empirical_ntk(f, elsewhere, x, outputs="full", method="jacobian") - kernel).max() > 0.1


def test_a_new_starting_point_compiles_nothing(setting):
    params_0, direction, x = setting
    kernel = lambda s: empirical_ntk(linearize(f, moved(params_0, direction, s)), params_0, x)
    kernel(0.0)
    compiled = _empirical_ntk._cache_size()
    assert abs(kernel(0.5) - kernel(1.0)).max() > 0.01
    assert _empirical_ntk._cache_size() == compiled > 0


@pytest.mark.slow
def test_expansion_under_jit_vmap_and_grad(setting):
    params_0, direction, x = setting
    p = moved(params_0, direction, 0.3)
    value = lambda p0, p: taylor_expand(f, p0, 2)(p, x)
    expected = value(params_0, p)
    np.testing.assert_allclose(jax.jit(value)(params_0, p), expected, rtol=1e-12)
    stack = jax.tree.map(lambda a: jnp.stack([a, a + 1]), p)
    np.testing.assert_allclose(jax.vmap(value, (None, 0))(params_0, stack)[0], expected, rtol=1e-12)
    along = lambda s: value(params_0, moved(params_0, direction, s)).sum()
    np.testing.assert_allclose(jax.grad(along)(0.3), (along(0.3001) - along(0.2999)) / 2e-4, rtol=1e-6)


def test_whole_numbers_among_the_parameters_are_constants():
    power = lambda params, x: x @ params["w"] ** params["power"]
    p0 = {"w": jnp.array([2.0]), "power": jnp.array(3)}
    value = linearize(power, p0)({"w": jnp.array([2.5]), "power": jnp.array(3)}, jnp.ones((1, 1)))
    np.testing.assert_allclose(value, [8 + 12 * 0.5], rtol=1e-14)


@pytest.mark.parametrize(
    "arguments, error, sentence",
    [
        ((f, {"w": jnp.arange(3)}, 1), TypeError, "at least one floating array"),
        ((f, {"w": "text"}, 1), TypeError, "Expected params to hold arrays only"),
        (("f", {"w": jnp.ones(3)}, 1), TypeError, "Expected"),
        ((f, {"w": jnp.ones(3)}, -1), ValueError, "order"),
        ((f, {"w": jnp.ones(3)}, 1.5), TypeError, "order"),
    ],
)
def test_bad_input_is_told_in_a_sentence(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        taylor_expand(*arguments)
