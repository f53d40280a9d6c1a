"""Closed-form training: oracles are loops over steps, tiny Euler steps, and dense matrix functions by scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ntkbook.dynamics.extremes import critical_learning_rate, max_learning_rate
from ntkbook.dynamics.gradient import gradient_flow
from ntkbook.dynamics.steps import gradient_descent


def problem(n=8, m=3, features=20, outputs=None, seed=0):
    """A kernel made of explicit random features: (features_train, features_test, y, f0_train, f0_test)."""
    rng = np.random.default_rng(seed)
    shape = () if outputs is None else (outputs,)
    phi, phi_test = rng.normal(size=(n, features)) / features**0.5, rng.normal(size=(m, features)) / features**0.5
    return phi, phi_test, rng.normal(size=(n, *shape)), rng.normal(size=(n, *shape)), rng.normal(size=(m, *shape))


def descend(phi, y, f0, lr, momentum, steps):
    """theta - theta_0 of the linear model f = f0 + phi theta after `steps` steps of heavy ball, one by one."""
    theta = velocity = np.zeros((phi.shape[1], *y.shape[1:]))
    for _ in range(steps):
        velocity = momentum * velocity - lr * phi.T @ (f0 + phi @ theta - y)
        theta = theta + velocity
    return theta


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [None, 2])
def test_flow_is_euler_with_tiny_steps(outputs):
    phi, phi_test, y, f0, f0_test = problem(outputs=outputs)
    flow = gradient_flow(phi @ phi.T, y, lr=0.3)
    for t, tolerance in ((0.5, 1e-4), (4.0, 1e-4)):
        theta = descend(phi, y, f0, 0.3 * t / 20000, 0.0, 20000)
        np.testing.assert_allclose(flow.train(t, f0), f0 + phi @ theta, atol=tolerance)
        np.testing.assert_allclose(
            flow.test(t, phi_test @ phi.T, f0, f0_test), f0_test + phi_test @ theta, atol=tolerance
        )


def test_flow_is_the_matrix_exponential():
    phi, phi_test, y, f0, f0_test = problem()
    k, kx = phi @ phi.T, phi_test @ phi.T
    for t in (0.0, 0.7, 30.0):
        decay = scipy.linalg.expm(-0.3 * t * k)
        flow = gradient_flow(k, y, lr=0.3)
        np.testing.assert_allclose(flow.train(t, f0), y + decay @ (f0 - y), rtol=1e-10, atol=1e-12)
        expected = f0_test + kx @ np.linalg.solve(k, (y - f0) - decay @ (y - f0))
        np.testing.assert_allclose(flow.test(t, kx, f0, f0_test), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_descent_is_the_loop_over_steps(momentum, reduction):
    phi, phi_test, y, f0, f0_test = problem(outputs=2)
    lr = 0.8 * max_learning_rate(phi @ phi.T, momentum=momentum, reduction=reduction)
    flow = gradient_descent(phi @ phi.T, y, lr=lr, momentum=momentum, reduction=reduction)
    for steps in (0, 1, 2, 3, 57, 400):
        theta = descend(phi, y, f0, lr / (len(y) if reduction == "mean" else 1), momentum, steps)
        np.testing.assert_allclose(flow.train(steps, f0), f0 + phi @ theta, atol=1e-10)
        np.testing.assert_allclose(
            flow.test(steps, phi_test @ phi.T, f0, f0_test), f0_test + phi_test @ theta, atol=1e-10
        )
        np.testing.assert_allclose(flow.omega(steps, phi[:, None, :] * np.ones((1, 2, 1)), f0).shape, (20,))


def test_steps_above_the_threshold_grow_as_the_loop_does():
    phi, _, y, f0, _ = problem()
    lr = 1.1 * float(max_learning_rate(phi @ phi.T))
    theta = descend(phi, y, f0, lr, 0.0, 60)
    np.testing.assert_allclose(gradient_descent(phi @ phi.T, y, lr=lr).train(60, f0), f0 + phi @ theta, rtol=1e-9)


def test_double_root_of_momentum():
    """At lr lambda = (1 - sqrt(b))^2 the roots coincide, and the formula that divides by their difference is 0/0."""
    k, y = np.eye(3), np.arange(1.0, 4.0)
    lr = (1 - 0.81**0.5) ** 2
    theta = descend(np.eye(3), y, np.zeros(3), lr, 0.81, 50)
    np.testing.assert_allclose(gradient_descent(k, y, lr=lr, momentum=0.81).train(50), theta, rtol=1e-11)


def test_a_slow_mode_keeps_its_digits():
    """lambda = 1e-13: (1 - exp(-lambda t))/lambda from the subtraction has 3 digits."""
    k, y = np.diag([1.0, 1e-13]), np.array([1.0, 1.0])
    coefficients = gradient_flow(k, y).coefficients(2.0)
    np.testing.assert_allclose(coefficients[1], 2.0 - 2e-13, rtol=1e-14)
    assert abs((1 - np.exp(-2e-13)) / 1e-13 - 2.0) > 1e-4  # the naive formula
    np.testing.assert_allclose(gradient_descent(k, y, lr=1.0).coefficients(2)[1], 2.0 - 1e-13, rtol=1e-14)
    np.testing.assert_allclose(
        gradient_descent(k, y, lr=1.0).coefficients(1000)[1], 1000 - 1000 * 999e-13 / 2, rtol=1e-13
    )


def test_the_residual_keeps_its_digits():
    k, y = np.diag([1.0, 2.0]), np.ones(2)
    np.testing.assert_allclose(gradient_flow(k, y).residual(80.0), -np.exp([-80.0, -160.0]), rtol=1e-12)


def test_many_times_at_once_are_single_times():
    phi, phi_test, y, f0, f0_test = problem(outputs=2)
    times = jnp.array([0.0, 3.0, 1.0, 500.0, jnp.inf])
    for flow in (gradient_flow(phi @ phi.T, y), gradient_descent(phi @ phi.T, y, lr=0.1, momentum=0.3)):
        train, test = flow.train(times, f0), flow.test(times, phi_test @ phi.T, f0, f0_test)
        assert train.shape == (5, 8, 2) and test.shape == (5, 3, 2)
        for i, t in enumerate(times):
            np.testing.assert_allclose(train[i], flow.train(float(t), f0), rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(
                test[i], flow.test(float(t), phi_test @ phi.T, f0, f0_test), rtol=1e-12, atol=1e-13
            )


def test_time_zero_and_infinity():
    phi, phi_test, y, f0, f0_test = problem()
    k, kx = phi @ phi.T, phi_test @ phi.T
    for flow in (gradient_flow(k, y), gradient_descent(k, y, lr=0.1), gradient_descent(k, y, lr=0.1, momentum=0.9)):
        np.testing.assert_allclose(flow.train(0.0, f0), f0, rtol=1e-14, atol=1e-15)
        np.testing.assert_array_equal(flow.test(0.0, kx, f0, f0_test), f0_test)
        np.testing.assert_allclose(flow.train(jnp.inf, f0), y, rtol=1e-14)
        np.testing.assert_allclose(flow.test(jnp.inf, kx), kx @ np.linalg.solve(k, y), rtol=1e-10)
        np.testing.assert_allclose(flow.test(1e7, kx), flow.test(jnp.inf, kx), rtol=1e-8)


def test_learning_rate_zero_never_moves():
    phi, phi_test, y, f0, f0_test = problem()
    for flow in (gradient_flow(phi @ phi.T, y, lr=0.0), gradient_descent(phi @ phi.T, y, lr=0.0)):
        np.testing.assert_allclose(flow.train(jnp.array([3.0, jnp.inf]), f0), [f0, f0], rtol=1e-14)
        np.testing.assert_array_equal(flow.test(jnp.inf, phi_test @ phi.T, f0, f0_test), f0_test)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_singular_kernel_gives_the_pseudo_inverse_with_one_warning(dtype):
    """The naive formulas, an inverse or a division by the rounded eigenvalue, are off by orders of magnitude."""
    phi, phi_test, y, f0, f0_test = problem()
    phi[4] = phi[1]  # two equal inputs with two targets
    k, kx, y, f0 = (a.astype(dtype) for a in (phi @ phi.T, phi_test @ phi.T, y, f0))
    flow = gradient_flow(k, y)
    assert flow.rank == 7
    with pytest.warns(UserWarning, match="rank 7 of 8") as record:
        test = flow.test(jnp.inf, kx)
    assert len(record) == 1
    with pytest.warns(UserWarning, match="rank 7 of 8"):
        train = flow.train(jnp.inf, f0)
    tolerance = 1e-10 if dtype == np.float64 else 2e-4
    theta = np.linalg.lstsq(phi, y.astype(float), rcond=None)[0]  # the minimum-norm solution of the linear model
    np.testing.assert_allclose(test, phi_test @ theta, atol=tolerance)
    np.testing.assert_allclose(train[1] + train[4], y[1] + y[4], atol=tolerance)  # the mean of both is learned
    np.testing.assert_allclose(train[1] - train[4], f0[1] - f0[4], atol=tolerance)  # their difference never is
    assert np.abs(np.linalg.eigvalsh(k)).min() < 1e-6
    eigenvalues, modes = np.linalg.eigh(k)
    naive = kx @ modes @ (modes.T @ y / eigenvalues)
    assert np.abs(naive - phi_test @ theta).max() > 1e-3


def test_late_finite_times_on_a_singular_kernel_do_not_amplify_rounding():
    """Where lambda = 0 the gain is lr t, and k(x, X) q is 1e-16: at t = 1e20 the naive product is 1e4."""
    phi, phi_test, y, f0, f0_test = problem(features=3)
    flow = gradient_flow(phi @ phi.T, y)
    expected = f0_test + phi_test @ np.linalg.lstsq(phi, y - f0, rcond=None)[0]
    for t in (1e3, 1e6, 1e8, 1e10, 1e20, 1e300):
        np.testing.assert_allclose(flow.test(t, phi_test @ phi.T, f0, f0_test), expected, atol=1e-7)
    _, modes = np.linalg.eigh(phi @ phi.T)
    assert np.abs(1e20 * phi_test @ phi.T @ modes[:, :5]).max() > 1


def test_without_eigenvalue_the_coefficients_grow_as_time():
    flow = gradient_flow(np.diag([1.0, 0.0]), np.ones(2), lr=0.5)
    np.testing.assert_allclose(flow.test(np.array([1.0, 1e3]), np.array([[0.0, 1.0]])), [[0.5], [500.0]], rtol=1e-12)
    steps = gradient_descent(np.diag([1.0, 0.0]), np.ones(2), lr=0.5)
    np.testing.assert_allclose(steps.coefficients(70)[1], 35.0, rtol=1e-12)
    np.testing.assert_allclose(gradient_flow(np.zeros((2, 2)), np.ones(2)).coefficients(1e12), 1e12)


def test_negative_rounding_eigenvalues_do_not_explode():
    """-1e-17 * 1e20: the naive exp(-lambda t) overflows."""
    phi, _, y, f0, _ = problem(features=2)
    k = phi @ phi.T
    assert np.linalg.eigvalsh(k).min() < 0
    t = 1e20
    with np.errstate(over="ignore"):
        assert not np.isfinite(np.exp(-np.linalg.eigvalsh(k) * t)).all()
    projector = phi @ np.linalg.pinv(phi)
    np.testing.assert_allclose(gradient_flow(k, y).train(t, f0), f0 + projector @ (y - f0), atol=1e-10)


def test_full_kernel_of_a_network_with_several_outputs():
    """f(params, x) linear in its parameters, with outputs that share them: brute-force descent on the parameters."""
    rng = np.random.default_rng(3)
    J, J_test = rng.normal(size=(5, 2, 30)) / 5, rng.normal(size=(3, 2, 30)) / 5
    y, f0, f0_test = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), rng.normal(size=(3, 2))
    k, kx = np.einsum("nop,mqp->nmoq", J, J), np.einsum("nop,mqp->nmoq", J_test, J)
    flow = gradient_descent(k, y, lr=0.1, momentum=0.4)
    theta = velocity = np.zeros(30)
    for _ in range(40):
        velocity = 0.4 * velocity - 0.1 * np.einsum("nop,no->p", J, f0 + J @ theta - y)
        theta = theta + velocity
    np.testing.assert_allclose(flow.train(40, f0), f0 + J @ theta, atol=1e-12)
    np.testing.assert_allclose(flow.test(40, kx, f0, f0_test), f0_test + J_test @ theta, atol=1e-12)
    np.testing.assert_allclose(flow.omega(40, J, f0), theta, atol=1e-12)
    moved = flow.omega(jnp.array([0.0, 40.0]), {"a": J[..., :10].reshape(5, 2, 2, 5), "b": J[..., 10:]}, f0)
    np.testing.assert_allclose(moved["a"][1].ravel(), theta[:10], atol=1e-12)
    np.testing.assert_array_equal(moved["b"][0], 0)
    eye = np.eye(2)
    shared = gradient_flow(np.einsum("nm,oq->nmoq", k[:, :, 0, 0], eye), y)
    np.testing.assert_allclose(shared.train(3.0, f0), gradient_flow(k[:, :, 0, 0], y).train(3.0, f0), atol=1e-12)


def test_omega_of_a_single_output_moves_the_parameters_of_the_linear_model():
    phi, _, y, f0, _ = problem()
    flow = gradient_descent(phi @ phi.T, y, lr=0.3)
    np.testing.assert_allclose(flow.omega(25, phi, f0), descend(phi, y, f0, 0.3, 0.0, 25), atol=1e-12)
    np.testing.assert_allclose(flow.omega(jnp.inf, phi, f0), np.linalg.pinv(phi) @ (y - f0), atol=1e-10)


def test_learning_rate_limits_are_where_the_loop_turns():
    phi, _, y, f0, _ = problem()
    k = phi @ phi.T
    eigenvalues = np.linalg.eigvalsh(k)
    np.testing.assert_allclose(critical_learning_rate(k), 2 / (eigenvalues[0] + eigenvalues[-1]), rtol=1e-12)
    for momentum in (0.0, 0.6):
        limit = float(max_learning_rate(k, momentum=momentum))
        below, above = (f0 + phi @ descend(phi, y, f0, c * limit, momentum, 1000) - y for c in (0.97, 1.03))
        assert np.abs(below).max() < 1.5 * np.abs(f0 - y).max() and np.abs(above).max() > 1e3
        np.testing.assert_allclose(max_learning_rate(k, momentum=momentum, reduction="mean"), 8 * limit)
    rates = [np.abs(1 - lr * eigenvalues).max() for lr in np.array([0.9, 1.0, 1.1]) * critical_learning_rate(k)]
    assert rates[1] < min(rates[0], rates[2])


@pytest.mark.slow
def test_inside_jit_vmap_and_grad_first(checking_leaks):
    """Called first inside transformations: no tracer leaks, and the derivative is that of finite differences."""
    phi, phi_test, y, f0, f0_test = problem(n=5)

    def predict(t, lr, scale):
        flow = gradient_flow(scale * jnp.asarray(phi @ phi.T), y, lr=lr)
        return flow.test(t, phi_test @ phi.T * scale, f0, f0_test).sum() + flow.train(t, f0)[0]

    with checking_leaks():
        value, slopes = jax.jit(jax.value_and_grad(predict, argnums=(0, 1, 2)))(2.0, 0.7, 1.3)
    np.testing.assert_allclose(value, predict(2.0, 0.7, 1.3), rtol=1e-12)
    for i, slope in enumerate(slopes):
        step = np.eye(3)[i] * 1e-5
        up, down = (predict(*(np.array([2.0, 0.7, 1.3]) + sign * step)) for sign in (1, -1))
        np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-7)
    many = jax.vmap(lambda t: gradient_flow(phi @ phi.T, y).train(t))(jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(many, gradient_flow(phi @ phi.T, y).train(jnp.array([0.5, 2.0])), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("make", [gradient_flow, lambda k, y: gradient_descent(k, y, lr=0.2, momentum=0.5)])
def test_gradient_through_equal_eigenvalues(make):
    """Points on a circle have pairs of equal eigenvalues: the derivative of eigenvectors is infinite, ours is not."""
    angles = np.arange(6) * np.pi / 3
    circulant = jnp.asarray(np.exp(np.cos(angles[:, None] - angles)))
    change = jnp.asarray(np.cos(angles[:, None] * 2) * np.cos(angles[None, :] * 2) + 0.1 * np.eye(6))
    y = np.array([1.0, -0.3, 0.2, 0.5, -1.0, 0.4])
    kx = np.exp(np.cos(0.3 - angles))[None]

    @jax.jit
    def f(e, t):
        return make(circulant + e * change, y).test(t, kx)[0]

    forward, reverse = jax.jit(jax.jacfwd(f)), jax.jit(jax.grad(f))
    for t in (0.0, 3.0, jnp.inf):
        slope = (f(1e-5, t) - f(-1e-5, t)) / 2e-5
        np.testing.assert_allclose(forward(0.0, t), slope, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(reverse(0.0, t), slope, rtol=1e-6, atol=1e-8)
    naive = jax.grad(lambda e: jnp.linalg.eigh(circulant + e * change)[1][0, 1])(0.0)
    assert not np.isfinite(naive) or abs(naive) > 1e6


def test_gradient_at_a_singular_kernel_is_finite():
    phi, phi_test, y, f0, _ = problem(features=3)
    k, kx = jnp.asarray(phi @ phi.T), jnp.asarray(phi_test @ phi.T)
    slope = jax.jit(jax.grad(lambda s, t: gradient_flow(s * k, y).test(t, s * kx).sum()))
    assert np.isfinite([slope(1.0, t) for t in (0.0, 1.0)]).all()
    np.testing.assert_allclose(
        slope(1.0, jnp.inf), 0, atol=1e-10
    )  # at infinity the scale of the kernel does not matter


def test_moving_sliders_does_not_compile(caplog):
    phi, phi_test, y, _, _ = problem()

    def move(t, lr, momentum):
        gradient_flow(phi @ phi.T, y, lr=lr).test(t, phi_test @ phi.T)
        gradient_descent(phi @ phi.T, y, lr=lr, momentum=momentum).test(t, phi_test @ phi.T)

    move(1.0, 0.1, 0.0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        move(7.0, 0.2, 0.4)
        move(0.0, 0.01, 0.0)
    assert not [record for record in caplog.records if "compil" in record.message.lower()]


def test_float32_stays_float32_and_accurate():
    phi, phi_test, y, f0, f0_test = (a.astype(np.float32) for a in problem())
    flow = gradient_flow(phi @ phi.T, y, lr=0.5)
    out = flow.test(jnp.array([1.0, 10.0]), phi_test @ phi.T, f0, f0_test)
    assert out.dtype == jnp.float32
    wide = [a.astype(np.float64) for a in (phi, phi_test, y, f0, f0_test)]
    exact = gradient_flow(wide[0] @ wide[0].T, wide[2], lr=0.5).test(
        jnp.array([1.0, 10.0]), wide[1] @ wide[0].T, wide[3], wide[4]
    )
    np.testing.assert_allclose(out, exact, atol=2e-5)


PHI = np.random.default_rng(0).normal(size=(4, 9))
K, Y = PHI @ PHI.T, np.ones(4)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: gradient_flow(K[:3], Y), "square"),
        (lambda: gradient_flow(np.triu(K), Y), "symmetric"),
        (lambda: gradient_flow(K * np.nan, Y), "finite"),
        (lambda: gradient_flow(K, Y[:3]), "4 examples"),
        (lambda: gradient_flow(K, Y * np.nan), "finite"),
        (lambda: gradient_flow(K, Y, lr=-1.0), "lr"),
        (lambda: gradient_flow(K, Y, reduction="total"), "reduction"),
        (lambda: gradient_descent(K, Y, lr=0.1, momentum=1.0), "momentum"),
        (lambda: gradient_descent(K, Y, lr=0.1).train(0.5), "whole steps"),
        (lambda: gradient_flow(K, Y).train(-1.0), "t to be zero or positive"),
        (lambda: gradient_flow(K, Y).train(np.nan), "t to be zero or positive"),
        (lambda: gradient_flow(K, Y).test(1.0, K[:, :3]), "Test points come first"),
        (lambda: gradient_flow(K, Y).test(1.0, K, np.ones(3)), "f0_train"),
        (lambda: gradient_descent(K, Y, lr=10.0).train(jnp.inf), "limit for t = inf"),
        (lambda: gradient_descent(K, Y, lr=10.0).train(10000), "overflow"),
        (lambda: gradient_flow(K[:, :, None, None], Y), "2 axes"),
        (lambda: max_learning_rate(K, reduction="all"), "reduction"),
    ],
)
def test_bad_input_is_told_at_the_call(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("bad", [None, "kernel", np.eye(4, dtype=bool)])
def test_what_is_no_array_of_floats_is_a_type_error(bad):
    with pytest.raises(TypeError):
        gradient_flow(bad, Y)
    with pytest.raises(TypeError):
        gradient_flow(K, bad)


@pytest.mark.slow
def test_a_linearized_network_trained_on_its_parameters():
    """f_0 + (df/dtheta) omega of a small network by jax.jvp, with momentum: brute force on the parameters."""
    rng = np.random.default_rng(7)
    params = {"W": jnp.asarray(rng.normal(size=(3, 20))), "V": jnp.asarray(rng.normal(size=(20, 2)))}
    f = lambda p, x: jnp.tanh(x @ p["W"]) @ p["V"] / 20**0.5
    x, x_test, y = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.normal(size=(4, 3))), rng.normal(size=(5, 2))
    lin = lambda omega, x: sum(jax.jvp(lambda p: f(p, x), (params,), (omega,)))
    slope = jax.jit(jax.grad(lambda omega: jnp.square(lin(omega, x) - y).sum() / 2))
    omega = velocity = jax.tree.map(jnp.zeros_like, params)
    for _ in range(60):
        velocity = jax.tree.map(lambda v, g: 0.6 * v - 0.05 * g, velocity, slope(omega))
        omega = jax.tree.map(jnp.add, omega, velocity)
    J, J_test = jax.jacobian(f)(params, x), jax.jacobian(f)(params, x_test)
    flat = lambda J, n: np.concatenate([np.asarray(leaf).reshape(n, 2, -1) for leaf in jax.tree.leaves(J)], axis=2)
    k = np.einsum("nop,mqp->nmoq", flat(J, 5), flat(J, 5))
    kx = np.einsum("nop,mqp->nmoq", flat(J_test, 4), flat(J, 5))
    flow = gradient_descent(k, y, lr=0.05, momentum=0.6)
    np.testing.assert_allclose(flow.test(60, kx, f(params, x), f(params, x_test)), lin(omega, x_test), atol=1e-11)
    for mine, brute in zip(jax.tree.leaves(flow.omega(60, J, f(params, x))), jax.tree.leaves(omega)):
        np.testing.assert_allclose(mine, brute, atol=1e-11)
