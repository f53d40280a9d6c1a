"""Any loss in function space: against small steps on explicit parameters, and the closed form where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkbook.dynamics.gradient import gradient_flow
from ntkbook.dynamics.losses import function_flow

RNG = np.random.default_rng(0)
PHI, PHI_TEST = RNG.normal(size=(6, 10)) / 3, RNG.normal(size=(3, 10)) / 3
K, KX = PHI @ PHI.T, PHI_TEST @ PHI.T
Y = np.eye(3)[RNG.integers(3, size=6)]
F0, F0_TEST = RNG.normal(size=(6, 3)), RNG.normal(size=(3, 3))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def descend(force, lr, momentum, t, substeps, velocity=0.0):
    """theta and theta' of the linear model: midpoint steps on theta'' = -(1 - b) theta' - lr grad L, or no inertia."""
    h, theta, velocity = 1 / substeps, np.zeros((10, 3)), velocity + np.zeros((10, 3))

    def slope(theta, velocity):
        pull = lr * PHI.T @ force(F0 + PHI @ theta)
        return (pull, 0) if momentum is None else (velocity, pull - (1 - momentum) * velocity)

    for _ in range(int(t * substeps)):
        d_theta, d_velocity = slope(theta, velocity)
        d_theta, d_velocity = slope(theta + h / 2 * d_theta, velocity + h / 2 * d_velocity)
        theta, velocity = theta + h * d_theta, velocity + h * d_velocity
    return theta, velocity


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [None, 0.8])
def test_cross_entropy_is_small_steps_on_the_parameters(momentum):
    flow = function_flow("cross_entropy", K, Y, lr=0.3, momentum=momentum)
    theta, _ = descend(lambda f: Y - softmax(f), 0.3, momentum, 20, 300)
    np.testing.assert_allclose(flow.train(20.0, F0), F0 + PHI @ theta, atol=2e-6)
    np.testing.assert_allclose(flow.test(20.0, KX, F0, F0_TEST), F0_TEST + PHI_TEST @ theta, atol=2e-6)


@pytest.mark.slow
def test_a_start_that_moves_is_small_steps_on_moving_parameters():
    """Outputs and velocities at training points and others, and training that goes on from them."""
    push = np.random.default_rng(1).normal(size=(10, 3)) / 10
    theta, velocity = descend(lambda f: Y - softmax(f), 0.3, 0.8, 9, 300, push)
    flow = function_flow("cross_entropy", K, Y, lr=0.3, momentum=0.8)
    at = flow.motion(jnp.array([4.0, 9.0]), F0, PHI @ push)
    for k, phi, f0 in ((K, PHI, F0), (KX, PHI_TEST, F0_TEST)):
        outputs, velocities = at(k, f0, phi @ push)
        np.testing.assert_allclose(outputs[1], f0 + phi @ theta, atol=1e-4)
        np.testing.assert_allclose(velocities[1], phi @ velocity, atol=1e-5)
    then = [a[0] for a in at(K, F0, PHI @ push)]
    again = flow.motion(5.0, *then)(K, *then)
    np.testing.assert_allclose(again, [a[1] for a in at(K, F0, PHI @ push)], atol=1e-6)
    np.testing.assert_allclose(flow.motion(4.0, F0)(K, F0)[0], flow.train(4.0, F0), atol=1e-9)
    full = lambda k: np.einsum("ij,ab->ijab", k, np.eye(3))
    same = function_flow("cross_entropy", full(K), Y, lr=0.3, momentum=0.8).motion(9.0, F0, PHI @ push)
    np.testing.assert_allclose(
        same(full(KX), F0_TEST, PHI_TEST @ push), [a[1] for a in at(KX, F0_TEST, PHI_TEST @ push)], atol=1e-6
    )
    with pytest.raises(ValueError, match="k_test_train"):
        at(KX.T)
    with pytest.raises(ValueError, match="Expected momentum"):
        function_flow("squared", K, Y).motion(1.0)
    with pytest.raises(ValueError, match="velocity"):
        flow.motion(1.0, F0, np.ones((2, 3)))


@pytest.mark.slow
def test_momentum_on_the_squared_loss_is_a_damped_oscillator():
    k, y, b, lr = np.eye(1), np.ones(1), 0.9, 0.05
    root = np.sqrt(lr - 0.05**2)  # f'' = -0.1 f' - lr (f - 1)
    t = np.array([0.0, 3.0, 40.0])
    expected = 1 - np.exp(-0.05 * t) * (np.cos(root * t) + 0.05 / root * np.sin(root * t))
    np.testing.assert_allclose(function_flow("squared", k, y, lr=lr, momentum=b).train(t)[:, 0], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_squared_loss_is_the_closed_form(reduction):
    times = jnp.array([5.0, 0.0, 1.0, 5.0, 30.0])  # any order, twice the same
    flow = function_flow("squared", K, Y, lr=0.5, reduction=reduction)
    closed = gradient_flow(K, Y, lr=0.5, reduction=reduction)
    np.testing.assert_allclose(flow.train(times, F0), closed.train(times, F0), atol=1e-6)
    np.testing.assert_allclose(flow.test(times, KX, F0, F0_TEST), closed.test(times, KX, F0, F0_TEST), atol=1e-6)
    np.testing.assert_allclose(flow.train(0.0, F0), F0, atol=1e-15)


def test_your_own_loss():
    flow = function_flow(lambda f, y: jnp.log(jnp.cosh(f - y)).sum(), K, Y, lr=0.4)
    theta, _ = descend(lambda f: np.tanh(Y - f), 0.4, None, 8, 200)
    np.testing.assert_allclose(flow.train(8.0, F0), F0 + PHI @ theta, atol=2e-6)


@pytest.mark.slow
def test_full_kernel():
    J = RNG.normal(size=(6, 3, 30)) / 5
    full = np.einsum("nop,mqp->nmoq", J, J)
    theta = np.zeros(30)
    for _ in range(4000):
        theta = theta + 5e-4 * np.einsum("nop,no->p", J, Y - softmax(F0 + J @ theta))
    flow = function_flow("cross_entropy", full, Y)
    np.testing.assert_allclose(flow.train(2.0, F0), F0 + J @ theta, atol=1e-3)
    np.testing.assert_allclose(flow.test(2.0, full[:2], F0, F0[:2]), flow.train(2.0, F0)[:2], atol=1e-12)


def test_a_finer_tolerance_is_finer():
    exact = gradient_flow(K, Y).train(10.0)
    error = [np.abs(function_flow("squared", K, Y, tolerance=e).train(10.0) - exact).max() for e in (1e-4, 1e-10)]
    assert error[1] < 1e-8 < error[0]


@pytest.mark.slow
def test_jit_and_grad_and_no_recompilation(caplog):
    def f(lr, t):
        return function_flow("cross_entropy", K, Y, lr=lr).train(t).sum(where=jnp.asarray(Y, bool))

    slope = jax.jit(jax.grad(f))(0.3, 4.0)
    np.testing.assert_allclose(slope, (f(0.3 + 1e-4, 4.0) - f(0.3 - 1e-4, 4.0)) / 2e-4, rtol=1e-4)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        f(0.7, 9.0)
    assert not [record for record in caplog.records if "compil" in record.message.lower()]


@pytest.mark.slow
def test_float32():
    out = function_flow("cross_entropy", K.astype(np.float32), Y.astype(np.float32)).train(5.0)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, function_flow("cross_entropy", K, Y).train(5.0), atol=1e-3)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: function_flow("hinge", K, Y), "loss"),
        (lambda: function_flow("cross_entropy", K, Y[:, 0]), "one-hot"),
        (lambda: function_flow("squared", K, Y, momentum=1.5), "momentum"),
        (lambda: function_flow("squared", K, Y, lr=-1.0), "lr"),
        (lambda: function_flow("squared", K, Y).train(jnp.inf), "finite times"),
        (lambda: function_flow("squared", K, Y).train(-1.0), "t to be"),
        (lambda: function_flow("squared", K, Y, max_steps=16).train(1e4), "max_steps"),
        (lambda: function_flow("squared", K, Y).test(1.0, KX.T), "Test points"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
