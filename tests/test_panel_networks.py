"""The panels' one network for all widths against the library's layers and differentiation, cut to each width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.panels.masked_network import (
    Sizes,
    descended,
    draw,
    first_units,
    gradient,
    kernel,
    kernel_diagonal,
    recorded,
    signals,
)

FEATURES, WIDEST, DEEPEST = 3, 24, 4
SCALES = (1.3, 0.4), (0.9, 0.2), (0.7, 0.1)
PHIS = {"relu": nb.Relu(), "erf": nb.Erf(), "tanh": nb.Tanh()}


@pytest.fixture(scope="module")
def drawn():
    """One of two networks, and inputs."""
    params = jax.tree.map(lambda array: array[1], draw(0, FEATURES, WIDEST, DEEPEST, 2))
    return params, np.random.default_rng(1).standard_normal((5, FEATURES)).astype(np.float32)


def library(params, width, depth, phi):
    """The oracle: the same network cut out and rebuilt from the library's layers, in float64."""
    first, inner, last = ({"W_std": W_std, "b_std": b_std} for W_std, b_std in SCALES)
    layers = [nb.Dense(width, **first), phi] + [nb.Dense(width, **inner), phi] * (depth - 1) + [nb.Dense(1, **last)]
    p = {name: np.asarray(array, dtype=float) for name, array in params.items()}
    weights = [(p["W_in"][:, :width], p["b_in"][:width])]
    weights += [(p["W"][l][:width, :width], p["b"][l][:width]) for l in range(depth - 1)]
    weights += [(p["W_out"][:width, None], p["b_out"][None])]
    tree = [part for layer in weights for part in (layer, ())][:-1]
    return nb.serial(*layers), jax.tree.map(jnp.asarray, tuple(tree))


@pytest.fixture(scope="module")
def masked():
    """name -> one program for every width and depth: outputs, kernel, its diagonal, outputs after a step."""

    def made(phi):
        @jax.jit
        def run(params, x, y, width, depth):
            sizes = Sizes(width, depth, *SCALES)
            s = signals(params, x, sizes, phi)
            stepped = descended(params, gradient(params, x, s, s.f - y, sizes), 0.05)
            after = signals(stepped, x, sizes, phi).f
            return s.f, kernel(x, s, x, s, sizes), kernel_diagonal(x, s, sizes), after

        return run

    return {name: made(activation.phi) for name, activation in PHIS.items()}


@pytest.mark.slow_after_first
@pytest.mark.parametrize("name, width, depth", [("relu", 24, 4), ("relu", 7, 1), ("erf", 16, 3), ("tanh", 5, 2)])
def test_every_width_and_depth_is_the_network_cut_out(drawn, masked, name, width, depth):
    params, x = drawn
    y = x[:, 0] * x[:, 1]
    net, oracle = library(params, width, depth, PHIS[name])
    X, Y = jnp.asarray(x, dtype=float), jnp.asarray(y, dtype=float)[:, None]

    @jax.jit
    def by_differentiation(oracle):
        loss = lambda p: jnp.sum((net.apply(p, X) - Y) ** 2) / 2
        J = [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(jax.jacobian(net.apply)(oracle, X))]
        theta = sum(leaf @ leaf.T for leaf in J)
        moved = jax.tree.map(lambda p, g: p - 0.05 * g, oracle, jax.grad(loss)(oracle))
        return net.apply(oracle, X)[:, 0], theta, jnp.diagonal(theta), net.apply(moved, X)[:, 0]

    for fast, slow in zip(masked[name](params, x, y, width, depth), by_differentiation(oracle)):
        assert np.allclose(fast, slow, rtol=1e-4, atol=1e-5)


def test_a_cut_network_is_the_same(drawn, masked):
    params, x = drawn
    small = first_units(params, 7, (8, WIDEST))
    assert small["W"].shape == (DEEPEST - 1, 8, 8) and small["W_in"].shape == (FEATURES, 8)
    for one, two in zip(masked["erf"](small, x, x[:, 0], 7, 2), masked["erf"](params, x, x[:, 0], 7, 2)):
        assert np.allclose(one, two, atol=1e-6)


def test_what_is_recorded_counts_the_steps():
    found = recorded(lambda i, state: state + i, 0, jnp.array([0, 1, 4]), lambda state: 10 * state)
    assert found.tolist() == [0, 0, 60]
