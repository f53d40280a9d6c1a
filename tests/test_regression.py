"""Kernel regression past memory, against dense solves, eigenvectors, and the ensembles of small kernels."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.scale.blocks import Recomputed
from ntkbook.scale.regression import Whole, accuracy, kernel_regression, one_hot, pivoted_cholesky

NET = nb.serial(nb.Dense(8, 1.4, 0.3), nb.Erf(), nb.Dense(1))
RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.normal(size=(90, 3)))
Z = jnp.asarray(RANDOM.normal(size=(7, 3)))
Y = RANDOM.normal(size=(90, 2))
quiet = {"progress": False}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The same NTK on a disk, nowhere, and in memory."""
    stored = nb.gram(NET, X, store=tmp_path_factory.mktemp("k") / "kernel", tile=32)
    return {"stored": stored, "recomputed": Recomputed(NET, X), "array": nb.ntk(NET, X)}


@pytest.fixture(scope="module")
def both():
    return nb.kernel(NET, X), nb.kernel(NET, Z, X), nb.kernel(NET, Z)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stored", "recomputed", "array"])
def test_coefficients_are_those_of_a_dense_solve(kernels, name):
    A = np.asarray(kernels["array"]) + 0.01 * np.eye(90)
    made = kernel_regression(kernels[name], Y, noise=0.01, tolerance=1e-10, **quiet)
    np.testing.assert_allclose(made.coefficients, np.linalg.solve(A, Y), rtol=1e-6, atol=1e-7)
    rest = np.linalg.norm(Y - A @ made.coefficients, axis=0) / np.linalg.norm(Y, axis=0)
    np.testing.assert_allclose(made.residual, rest.max(), rtol=1e-2)
    one = kernel_regression(kernels[name], Y[:, 0], noise=0.01, tolerance=1e-10, **quiet)
    np.testing.assert_allclose(one.coefficients, made.coefficients[:, 0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(one.predict(nb.ntk(NET, Z, X)), np.asarray(nb.ntk(NET, Z, X)) @ one.coefficients)


def test_the_preconditioner_saves_most_of_the_products(kernels):
    plain, preconditioned = (
        kernel_regression(kernels["array"], Y, noise=1e-3, rank=rank, tolerance=1e-8, **quiet) for rank in (0, 45)
    )
    assert max(plain.residual, preconditioned.residual) < 1e-8
    assert preconditioned.iterations < plain.iterations / 3
    np.testing.assert_allclose(plain.coefficients, preconditioned.coefficients, rtol=1e-4, atol=1e-3)


@pytest.mark.slow_after_first
@pytest.mark.parametrize("t", [0.0, 3.0, 1e3])
def test_finite_times_are_those_of_the_eigenvectors(kernels, t):
    made = kernel_regression(kernels["stored"], Y, noise=0.01, t=t, lr=0.1, **quiet)
    lam, Q = np.linalg.eigh(np.asarray(kernels["array"]) + 0.01 * np.eye(90))
    gain = -np.expm1(-0.1 * t * lam) / lam
    np.testing.assert_allclose(made.coefficients, Q @ (gain[:, None] * (Q.T @ Y)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_posterior_has_its_mean_and_its_variance(both):
    train, cross, own = both
    law = nb.posterior(NET, X, Y, noise=0.1).predict(Z)
    made = kernel_regression(train.nngp, Y, noise=0.1, tolerance=1e-10, **quiet)
    np.testing.assert_allclose(made.predict(cross.nngp), law.mean, atol=1e-7)
    np.testing.assert_allclose(made.variance(cross.nngp, np.diag(own.nngp)), np.square(law.std), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("t", [jnp.inf, 5.0])
def test_an_ensemble_has_its_mean_and_its_variance(both, t):
    train, cross, own = both
    law = nb.ensemble(NET, X, Y, noise=0.1, lr=0.2).predict(t, Z)
    made = kernel_regression(train.ntk, Y, noise=0.1, t=float(t), lr=0.2, tolerance=1e-10, **quiet)
    np.testing.assert_allclose(made.predict(cross.ntk), law.mean, atol=1e-6)
    variance = made.variance(cross.ntk, np.diag(own.nngp), train.nngp, cross.nngp)
    np.testing.assert_allclose(variance, np.square(law.std), atol=1e-6)


def test_other_targets_begin_where_they_are_told(kernels):
    made = kernel_regression(kernels["array"], Y, noise=0.01, tolerance=1e-8, **quiet)
    again = made.towards(Y, made.coefficients)
    assert again.iterations <= 1 and again.residual <= 1e-8
    near = Y + 1e-5 * RANDOM.normal(size=Y.shape)
    warm, cold = made.towards(near, made.coefficients), made.towards(near)
    assert warm.iterations < cold.iterations and warm.residual < 1e-8
    np.testing.assert_allclose(warm.coefficients, cold.coefficients, rtol=1e-4, atol=1e-5)


def test_classes_are_found():
    labels = np.arange(60) % 3
    centres = 3 * np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    points = lambda seed: jnp.asarray(centres[labels] + 0.5 * np.random.default_rng(seed).normal(size=(60, 3)))
    made = kernel_regression(nb.ntk(NET, points(1)), one_hot(labels), noise=0.01, **quiet)
    outputs = made.predict(nb.ntk(NET, points(2), points(1)))
    assert accuracy(outputs, labels) > 0.95 and accuracy(outputs, (labels + 1) % 3) < 0.05
    np.testing.assert_allclose(one_hot(labels, 4).sum(axis=1), 0)


def test_the_factor_of_the_preconditioner():
    F = RANDOM.normal(size=(40, 5))
    low = Whole(F @ F.T)
    found = pivoted_cholesky(low, 30, chunk=4)
    assert found.shape[1] < 30  # there is nothing more to draw
    np.testing.assert_allclose(found @ found.T, F @ F.T, atol=1e-6)
    full = F @ F.T + np.diag(RANDOM.uniform(size=40))
    some, all_ = (pivoted_cholesky(Whole(full), rank, chunk=4) for rank in (10, 40))
    gaps = [np.linalg.eigvalsh(full - part @ part.T) for part in (some, all_)]
    assert gaps[0].min() > -1e-8 and abs(gaps[1]).max() < 1e-6 * np.trace(full)
    assert gaps[0].sum() < 2 * np.linalg.eigvalsh(full)[:-10].sum()  # near to the best of this rank


@pytest.mark.slow
def test_the_page_on_scale_runs(capsys):
    page = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(compile(block, "scale.md", "exec"), {})
    assert capsys.readouterr().out == "True True\n"


def test_what_is_wrong_is_said(kernels):
    k = kernels["array"]
    with pytest.warns(UserWarning, match="stopped after 2 products with a relative residual of .*Raise rank"):
        kernel_regression(k, Y, noise=1e-6, rank=0, max_iterations=2, **quiet)
    made = kernel_regression(k, Y, noise=0.1, **quiet)
    for call, words in (
        (lambda: kernel_regression(k, Y[:5]), "Expected a kernel of shape"),
        (lambda: kernel_regression(k, Y, noise=-1.0), "noise to be zero or positive"),
        (lambda: kernel_regression(k, Y, rank=-1), "rank to be"),
        (lambda: made.predict(k[:, :4]), "Expected k_test_train of shape"),
        (lambda: made.towards(Y, Y[:, 0]), "Expected start with the shape"),
        (lambda: made.towards(Y[:4]), "Expected targets for 90 points"),
        (lambda: one_hot([0.5]), "Expected labels"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
