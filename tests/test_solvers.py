"""Every solver in function space: the same methods, the same answer whatever the size of the kernel, one sentence."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook.dynamics import gradient
from ntkbook.dynamics.gradient import gradient_flow
from ntkbook.dynamics.large import krylov_flow

RNG = np.random.default_rng(0)
PHI, PHI_TEST = RNG.normal(size=(6, 10)), RNG.normal(size=(3, 10))
K, KX, KXX = PHI @ PHI.T, PHI_TEST @ PHI.T, PHI_TEST @ PHI_TEST.T
Y, F0, F0_TEST = RNG.normal(size=6), RNG.normal(size=6), RNG.normal(size=3)
SOLVERS = {
    "flow": gradient_flow,
    "krylov": lambda k, y, lr=1.0: krylov_flow(k, y, lr=lr, progress=False),
    "function": lambda k, y, lr=1.0: nb.function_flow("squared", k, y, lr=lr),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_every_public_method_of_every_solver(name):
    made, exact = SOLVERS[name](K, Y, lr=0.1), gradient_flow(K, Y, lr=0.1)
    assert {m for m in dir(gradient.Training) if m[0] != "_"} == {
        *("train", "test", "residual", "coefficients", "omega", "rank")
    }
    for t in (0.7, np.array([0.0, 2.0])):
        for method, given in {
            "train": (F0,),
            "residual": (F0,),
            "coefficients": (F0,),
            "test": (KX, F0, F0_TEST),
            "omega": (PHI, F0),
        }.items():
            np.testing.assert_allclose(getattr(made, method)(t, *given), getattr(exact, method)(t, *given), atol=3e-7)
    assert made.rank == 6 and len(repr(made).splitlines()) == 1


@pytest.mark.slow
def test_the_ensemble_beyond_the_dense_limit(monkeypatch):
    """Mean and covariance by products are those of the eigendecomposition, at test and at training points."""
    net = nb.serial(nb.Dense(1, 1.4, 0.3), nb.Erf(), nb.Dense(1, 1.4, 0.3))
    x, x_test, times = RNG.normal(size=(9, 3)), RNG.normal(size=(4, 3)), np.array([0.0, 0.7, np.inf])
    exact = nb.ensemble(net, x, RNG.normal(size=9), noise=0.1)
    laws = [exact.predict(times, x_test), exact.predict(2.0)]
    monkeypatch.setattr(gradient, "DENSE_LIMIT", 5)
    large = nb.ensemble(net, x, exact.y, noise=0.1)
    for law, one in zip(laws, (large.predict(times, x_test), large.predict(2.0))):
        np.testing.assert_allclose(one.mean, law.mean, atol=1e-9)
        np.testing.assert_allclose(one.covariance, law.covariance, atol=1e-9)
    assert not isinstance(large.dynamics, gradient.Dynamics)


DTYPES = [(np.float64, 1e-30), (np.float64, 1e30), (np.float32, 1e-15), (np.float32, 1e15)]


def answers(c, dtype):
    """Everything that must not change when the kernel is multiplied by c and time divided by it."""
    k, kx, kxx = ((a * c).astype(dtype) for a in (K, KX, KXX))
    y, f0, t = Y.astype(dtype), F0.astype(dtype), np.array([0.3 / c, 5 / c], dtype)
    for name, make in SOLVERS.items():
        yield f"train {name}", make(k, y, lr=0.1).train(t, f0)
        yield f"test {name}", make(k, y, lr=0.1).test(t, kx, f0)
        yield f"alpha {name}", make(k, y).coefficients(t[0], f0) * np.asarray(c, dtype)
    yield "end", gradient_flow(k, y).test(np.inf, kx)
    yield "end krylov", krylov_flow(k, y, progress=False).test(np.inf, kx)
    rate = float(nb.max_learning_rate(k))
    yield "steps", nb.gradient_descent(k, y, lr=rate / 3, momentum=0.5).test(np.array([3.0, 40.0], dtype), kx, f0)
    yield "rates", jnp.asarray([rate * c, float(nb.critical_learning_rate(k)) * c])
    yield "classes", nb.function_flow("cross_entropy", k, np.eye(3, dtype=dtype)[[0, 1, 2, 0, 1, 2]]).train(t)
    for train in ("all", "last_layer"):
        made = nb.ensemble_from_kernels(k, y, train=train, noise=0.1 * c).at_kernels(kx, kxx)
        law = made.predict(np.array([*t, np.inf], dtype))
        yield f"mean {train}", law.mean
        yield f"covariance {train}", law.covariance / np.asarray(c, dtype)
        yield f"posterior {train}", made.predict(np.inf).mean
    found = nb.spectrum(k, y)
    yield "spectrum", jnp.stack([found.eigenvalues / np.asarray(c, dtype), found.power])
    yield "constants", found.time_constants() * np.asarray(c, dtype)
    pca = nb.kernel_pca(k, 3)
    yield "pca", pca.project(kx)
    other = (k * k / c + k).astype(dtype)
    numbers = nb.alignment(k, other), nb.kernel_distance(k, other), nb.label_alignment(k, y * np.asarray(c, dtype))
    yield "numbers", jnp.stack([*numbers, nb.effective_rank(k), nb.condition_number(k)])
    power = np.arange(6, 0, -1).astype(dtype)
    yield "curve", nb.learning_curve(found.eigenvalues, power, np.array(2.0, dtype), ridge=0.01 * c, noise=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, c", DTYPES)
def test_the_size_of_the_kernel_does_not_matter(dtype, c):
    tolerance = 2e-6 if dtype == np.float64 else 2e-3  # the solvers' own tolerances lie below
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = dict(answers(1.0, np.float64))
        for name, found in answers(c, dtype):
            assert found.dtype == (np.float64 if name == "rates" else dtype), name
            size = np.abs(np.asarray(exact[name])).max()
            np.testing.assert_allclose(found, exact[name], atol=tolerance * size, err_msg=name)


def test_kernels_far_beyond_the_range_of_squares(rng=RNG):
    for c in (1e-30, 1e-21, 1e19, 1e30):
        k, y = (K * c).astype(np.float32), Y.astype(np.float32)
        solution = krylov_flow(k, y, progress=False).solve(1e-1 / c)
        exact = gradient_flow(K, Y).coefficients(0.1)
        np.testing.assert_allclose(solution.coefficients * np.float32(c), exact, atol=1e-4)
        assert solution.residual < 1e-5


INDEFINITE, TARGETS = np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([1.0, -1.0])


@pytest.mark.parametrize(
    "call",
    [
        *[lambda make=make: make(INDEFINITE, TARGETS).train(1.0) for make in SOLVERS.values()],
        lambda: nb.gradient_descent(INDEFINITE, TARGETS, lr=0.1),
        *[lambda f=f: f(INDEFINITE) for f in (nb.spectrum, nb.kernel_pca, nb.condition_number, nb.effective_rank)],
        *[lambda f=f: f(INDEFINITE) for f in (nb.max_learning_rate, nb.critical_learning_rate)],
        lambda: nb.ensemble_from_kernels(INDEFINITE, TARGETS).predict(1.0),
        lambda: nb.posterior_from_kernels(INDEFINITE, TARGETS, 0.1).predict(),
    ],
)
def test_an_indefinite_kernel_is_told(call):
    with pytest.raises(ValueError, match="positive semi-definite"):
        call()


@pytest.mark.slow
def test_an_indefinite_kernel_inside_jit_is_no_number():
    for make in (gradient_flow, SOLVERS["function"]):
        assert np.isnan(jax.jit(lambda k, make=make: make(k, TARGETS).train(1.0))(INDEFINITE)).all()


@pytest.mark.slow
def test_extreme_eigenvalues_are_those_of_all(monkeypatch):
    from ntkbook.dynamics import extremes

    x = RNG.normal(size=(60, 5))
    kernels = [x @ x.T, (x @ x.T / 5 + 1) ** 4 + 0.1 * np.eye(60), np.eye(60), np.ones((60, 60))]
    monkeypatch.setattr(extremes, "_DIRECT", 20)
    for k in kernels:
        eigenvalues = np.linalg.eigvalsh(k)
        for one in (k, 1e-200 * k):
            scale = 2 / nb.max_learning_rate(one) / eigenvalues[-1]
            np.testing.assert_allclose(scale, one[0, 0] / k[0, 0], rtol=1e-10)
        condition = nb.condition_number(k)
        if eigenvalues[0] > 1e-10:
            np.testing.assert_allclose(condition, eigenvalues[-1] / eigenvalues[0], rtol=1e-9)
        else:
            assert np.isinf(condition)
    slope = jax.grad(lambda e: nb.max_learning_rate(jnp.asarray(kernels[1]) + e * jnp.asarray(kernels[0])))(0.1)
    up, down = (nb.max_learning_rate(kernels[1] + e * kernels[0]) for e in (0.1001, 0.0999))
    np.testing.assert_allclose(slope, (up - down) / 2e-4, rtol=1e-5)


@pytest.mark.slow
def test_the_largest_eigenvalue_is_never_missed(monkeypatch):
    """Spectra that are hard for Lanczos, a start that cannot see the largest, and a search that ends too early."""
    from ntkbook.dynamics import extremes

    monkeypatch.setattr(extremes, "_DIRECT", 20)
    n, start = 61, np.asarray(jax.random.normal(jax.random.key(0), (61,), jnp.float64))
    Q, _ = np.linalg.qr(np.stack([start, *RNG.normal(size=(n - 1, n))], 1))  # all but the first are orthogonal to it
    unseen = np.linspace(1, 2, n)[::-1].copy()
    unseen[:2] = 1.5, 3.0
    spectra = [1 + 1e-9 * np.arange(n), np.repeat([3.0, 1.0], [5, n - 5]), np.logspace(-14, 0, n), unseen]
    spectra += [np.where(unseen == 3, 300, unseen), np.r_[1.0, 300, unseen[2:]]]  # one stands out: unseen, then seen
    kernels = [Q * eigenvalues @ Q.T for eigenvalues in spectra] + [np.zeros((n, n))]
    for k in kernels:
        k = (k + k.T) / 2
        for one in (k, k.astype(np.float32)):
            close = dict(rtol=1e-11 if one.dtype == np.float64 else 3e-5)
            np.testing.assert_allclose(2 / nb.max_learning_rate(one), np.linalg.eigvalsh(k)[-1], **close)
    monkeypatch.setattr(extremes, "_CHUNK", 1)
    monkeypatch.setattr(extremes, "_CHUNKS", 2)
    hurried = np.diag(np.linspace(1, 2, n + 1))
    np.testing.assert_allclose(2 / jax.jit(nb.max_learning_rate)(hurried), 2, rtol=1e-12)
    with pytest.raises(ValueError, match="positive semi-definite"):
        nb.max_learning_rate(np.diag(np.r_[np.linspace(1, 2, n + 1), -1e-3]))
    monkeypatch.setattr(extremes, "_lanczos", lambda k: (k[-2, -2], 0 * k[0, 0]))  # an eigenvalue, but the second one
    np.testing.assert_allclose(2 / nb.max_learning_rate(np.diag(np.r_[np.linspace(1, 2, n), 4, 300])), 300)
    for k in ([[3.0]], [[0.0]], [[2.0, 1.0], [1.0, 2.0]]):
        np.testing.assert_allclose(2 / nb.max_learning_rate(np.array(k)), np.linalg.eigvalsh(k)[-1])


def test_a_warning_stands_at_the_line_that_asked():
    flow = gradient_flow(np.ones((2, 2)), np.ones(2))
    made = nb.ensemble_from_kernels(np.ones((2, 2)), np.ones(2))
    rough = krylov_flow(K, Y, progress=False, max_iterations=1)
    for call in (lambda: flow.train(np.inf), lambda: made.predict(np.inf), lambda: rough.train(1.0)):
        with pytest.warns(UserWarning) as record:
            call()
        assert record[0].filename == __file__


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: gradient_flow(K, Y).train(K), "Time comes first"),
        (lambda: gradient_flow(K, Y).train(np.zeros(0)), "shape"),
        (lambda: gradient_flow(K, Y, lr=np.ones(6)), "one number as lr"),
        (lambda: gradient_flow(K, Y, lr=np.inf), "finite"),
        (lambda: nb.function_flow("squared", K, Y, tolerance=0.3), "tolerance"),
        (lambda: nb.function_flow("squared", K, Y, tolerance=1e-20), "tolerance"),
        (lambda: krylov_flow(K, Y, tolerance=0.3), "tolerance"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert len(str(error.value)) < 250


@pytest.mark.slow_after_first
@pytest.mark.parametrize("bad", [None, "one", True, 1j, [None], ["a"]])
def test_a_time_that_is_no_number(bad):
    for make in SOLVERS.values():
        with pytest.raises(TypeError, match="Expected t"):
            make(K, Y).train(bad)
