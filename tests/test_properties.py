"""Random networks and random kernels, far outside of what a chapter would try: what holds for all of them.

NTKBOOK_CASES=10000 runs as many as that, on every activation; without it a few stand for them.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.networks.quadrature import Quadrature

CASES = int(os.environ.get("NTKBOOK_CASES", "0"))
FEW = (nb.Relu(), nb.Erf(), nb.Tanh(), nb.Step())
MORE = (
    *(nb.Gelu(), nb.LeakyRelu(0.2), nb.Abs(), nb.Sign(), nb.Elu(), nb.Sigmoid(), nb.Silu(), nb.Softplus(), nb.Sin()),
    *(nb.Cos(), nb.Gaussian(), nb.Rbf(0.5), nb.Polynomial((0.1, 1.0, 0.5)), nb.Hermite(2), nb.Exp(0.1)),
)
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}  # relative to the largest entry
PER_NETWORK = max(6, CASES // (2 * len(FEW + MORE)) + 1)


@pytest.fixture(autouse=True)
def strict():
    """As strict users run: no silent promotion of ranks."""
    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


def networks(activation, dtype, rng):
    """(network, five inputs): scales over sixty decades; row 3 is row 0 again, row 4 nearly row 1."""
    for _ in range(PER_NETWORK):
        W, b = 10.0 ** rng.uniform(-2, 2), 0.0 if rng.random() < 0.5 else 10.0 ** rng.uniform(-2, 2)
        size = 10.0 ** (rng.uniform(-30, 30) if rng.random() < 0.6 else rng.uniform(-2, 2))
        x = rng.normal(size=(5, 3))
        x[3], x[4] = x[0], x[1] * (1 + 1e-6)
        x *= size
        with np.errstate(over="ignore"):
            x = x.astype(dtype)
        if np.isfinite(x).all():
            yield (
                nb.serial(nb.Dense(1, W, b), activation, nb.Dense(1, 1.2, 0.1), activation, nb.Dense(1)),
                jnp.asarray(x),
            )


@pytest.mark.slow_after_first
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", FEW + (MORE if CASES else ()), ids=lambda act: type(act).__name__)
def test_kernels_are_kernels(activation, dtype):
    """Finite or said; symmetric, equal for equal rows, positive up to rounding, the same for x2 given."""
    rng, tolerance = np.random.default_rng(7), TOLERANCE[dtype]
    if isinstance(activation, Quadrature):
        tolerance = max(tolerance, 1e-8)  # that of variances beyond 1e8
    # a quadrature adds up ten thousand terms, in an order that may differ from row to row
    same = 100 if isinstance(activation, Quadrature) else 20
    eps, checked, said = float(np.finfo(dtype).eps), 0, 0
    for net, x in networks(activation, dtype, rng):
        try:
            both, across = nb.kernel(net, x), nb.kernel(net, x, x[jnp.array([0, 1, 2, 3])])
        except ValueError as error:
            assert "within the range" in str(error)
            said += 1
            continue
        checked += 1
        for k, a in zip(both, across):
            k, a = np.asarray(k, float), np.asarray(a, float)
            size = np.abs(k).max() + 1e-300
            assert np.isfinite(k).all() and (k == k.T).all() and np.diag(k).min() >= 0, repr(net)
            assert np.abs(k[0] - k[3]).max() <= same * eps * size, f"copies differ: {net!r}"
            assert np.linalg.eigvalsh(k / size).min() > -tolerance, f"not positive: {net!r}"
            assert np.abs(a - k[:, :4]).max() <= tolerance * size, f"x2 given differs: {net!r}"
    assert checked and (checked > said or CASES)
    print(f"{type(activation).__name__} {dtype}: {checked} checked, {said} said to be out of range")


@pytest.mark.slow
@pytest.mark.parametrize("dtype, decades", [("float64", 30), ("float32", 15)])
def test_training_knows_no_unit(dtype, decades):
    """(c K, t / c, lr / c) is the same training for every c."""
    rng = np.random.default_rng(8)
    tolerance = 1e-8 if dtype == "float64" else 2e-3
    for _ in range(max(8, CASES // 10)):
        J = rng.normal(size=(6, 9))
        k, y, t = (J @ J.T).astype(dtype), rng.normal(size=6).astype(dtype), 10.0 ** rng.uniform(-3, 2)
        c = np.asarray(10.0 ** rng.uniform(-decades, decades), dtype)
        one, other = (nb.gradient_flow(kernel, jnp.asarray(y)).train(time) for kernel, time in ((k, t), (c * k, t / c)))
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(y).max())
        lr = 1.0 / np.linalg.eigvalsh(k)[-1]
        one, other = (
            nb.gradient_descent(kernel, jnp.asarray(y), lr=rate).train(5) for kernel, rate in ((k, lr), (c * k, lr / c))
        )
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(y).max())
