"""Products in place of an eigendecomposition: against the eigendecomposition, scipy, and a known residual."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ntkbook.dynamics import gradient as dynamics
from ntkbook.dynamics.gradient import gradient_flow
from ntkbook.dynamics.large import KrylovFlow, krylov_flow

RNG = np.random.default_rng(0)
PHI, PHI_TEST = RNG.normal(size=(120, 200)) / 14, RNG.normal(size=(5, 200)) / 14
K, KX = PHI @ PHI.T, PHI_TEST @ PHI.T
Y, F0, F0_TEST = RNG.normal(size=(120, 2)), RNG.normal(size=(120, 2)), RNG.normal(size=(5, 2))


@pytest.mark.slow
def test_it_is_the_matrix_exponential():
    times = np.array([0.0, 0.3, 5.0, 80.0])
    flow = krylov_flow(K, Y, lr=0.7, tolerance=1e-10, progress=False)
    for i, t in enumerate(times):
        decay = scipy.linalg.expm(-0.7 * t * K)
        expected = F0_TEST + KX @ np.linalg.solve(K, (np.eye(120) - decay) @ (Y - F0))
        np.testing.assert_allclose(flow.test(times, KX, F0, F0_TEST)[i], expected, atol=1e-8)
        np.testing.assert_allclose(flow.train(float(t), F0), Y + decay @ (F0 - Y), atol=1e-8)


def test_infinite_time_is_the_solution_and_the_residual_is_true():
    flow = krylov_flow(K, Y[:, 0], progress=False, tolerance=1e-9)
    solution = flow.solve(jnp.inf)
    np.testing.assert_allclose(solution.coefficients, np.linalg.solve(K, Y[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(flow.test(jnp.inf, KX), KX @ np.linalg.solve(K, Y[:, 0]), atol=1e-8)
    with pytest.warns(UserWarning, match="residual"):
        rough = krylov_flow(K, Y[:, 0], progress=False, max_iterations=20).solve(jnp.inf)
    true = np.linalg.norm(Y[:, 0] - K @ rough.coefficients) / np.linalg.norm(Y[:, 0])
    np.testing.assert_allclose(rough.residual, true, rtol=1e-6)
    assert rough.iterations == 20 and true > 1e-4


@pytest.mark.slow
def test_one_product_is_far_off_and_few_products_are_enough_where_time_is_short():
    exact = gradient_flow(K, Y, method="eigh").coefficients(2.0)
    found = krylov_flow(K, Y, progress=False).solve(2.0)
    np.testing.assert_allclose(found.coefficients, exact, atol=1e-7)
    assert found.iterations < 40
    with pytest.warns(UserWarning, match="residual"):
        few = krylov_flow(K, Y, progress=False, max_iterations=2).solve(2.0)
    assert np.abs(few.coefficients - exact).max() > 1e-3


def test_singular_kernels_and_zero_residuals():
    low = PHI[:, :10] @ PHI[:, :10].T
    theta = np.linalg.lstsq(PHI[:, :10], Y, rcond=None)[0]
    flow = krylov_flow(low, Y, progress=False).test(jnp.inf, PHI_TEST[:, :10] @ PHI[:, :10].T)
    np.testing.assert_allclose(flow, PHI_TEST[:, :10] @ theta, atol=1e-8)
    np.testing.assert_allclose(krylov_flow(K, Y, progress=False).train(3.0, Y), Y, atol=1e-12)


def test_a_function_in_place_of_the_matrix_and_progress(capsys):
    calls = []

    def product(v):
        calls.append(v.shape)
        return jnp.concatenate([jnp.asarray(PHI[i : i + 40]) @ (PHI.T @ v) for i in range(0, 120, 40)])

    flow = krylov_flow(product, Y, lr=0.5, reduction="mean")
    np.testing.assert_allclose(
        flow.test(30.0, KX), gradient_flow(K, Y, lr=0.5, reduction="mean").test(30.0, KX), atol=1e-7
    )
    assert set(calls) == {(120, 2)}
    assert "residual=" in capsys.readouterr().err


def test_gradient_flow_comes_here_by_itself(monkeypatch):
    monkeypatch.setattr(dynamics, "DENSE_LIMIT", 100)
    large = gradient_flow(K, Y)
    assert isinstance(large, KrylovFlow) and not isinstance(gradient_flow(K[:50, :50], Y[:50]), KrylovFlow)
    np.testing.assert_allclose(large.test(4.0, KX), gradient_flow(K, Y, method="eigh").test(4.0, KX), atol=1e-7)


@pytest.mark.slow
def test_float32():
    flow = krylov_flow(K.astype(np.float32), Y.astype(np.float32), progress=False)
    out = flow.test(10.0, KX.astype(np.float32))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, gradient_flow(K, Y).test(10.0, KX), atol=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: krylov_flow(K[:, :3], Y),
        lambda: krylov_flow(np.triu(K), Y),
        lambda: krylov_flow(K, Y[:7]),
        lambda: krylov_flow(K, Y, reduction="all"),
        lambda: krylov_flow(K, Y, progress=False).train(-1.0),
        lambda: krylov_flow(K, Y, progress=False).test(1.0, KX.T),
        lambda: gradient_flow(K, Y, method="cg"),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="Expected"):
        call()
