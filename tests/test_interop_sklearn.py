"""Estimators and the kernel of scikit-learn: its own checks, and formulas written out in numpy for one hidden layer."""

import copy
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from oracles import erf_kernels as by_hand
from sklearn.base import clone
from sklearn.decomposition import KernelPCA
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import estimator_checks_generator

import ntkbook as nb
from ntkbook.interop import NNGPRegressor, NTKClassifier, NTKRegressor, bridge
from ntkbook.interop.bridge import precision
from ntkbook.interop.estimators import shares_of_largest
from ntkbook.interop.sklearn import NTKKernel

RNG = np.random.default_rng(0)
X, X_TEST = RNG.normal(size=(9, 3)), RNG.normal(size=(4, 3))
Y = np.sin(X[:, 0]) + X[:, 1]
PAGE = (Path(__file__).parent.parent / "docs" / "scikit_learn.md").read_text()


def network(W1=1.5, b1=0.3, W2=1.2, b2=0.2):
    return nb.serial(nb.Dense(1, W1, b1), nb.Erf(), nb.Dense(1, W2, b2))


# ---------------------------------------------------------------- estimators


def known_checks(estimator) -> list[Any]:
    return list(estimator_checks_generator(estimator))


def checks_of_scikit_learn():
    """All that it knows for such estimators, less those of pandas and of its array interface, which are not here."""
    for estimator in (NTKRegressor(network()), NNGPRegressor(network()), NTKClassifier(network())):
        for ready, check in known_checks(estimator):
            name = check.func.__name__
            if name != "check_array_api_input" and not name.endswith("data_not_an_array"):
                yield pytest.param(ready, check, id=f"{type(estimator).__name__}-{name}")


@pytest.mark.slow
@pytest.mark.parametrize("estimator, check", list(checks_of_scikit_learn()))
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_checks_are_many_and_see_a_wrong_estimator():
    assert len(list(checks_of_scikit_learn())) > 100

    class Forgetful(NTKRegressor):
        def predict(self, X, return_std=False, return_cov=False):
            self.seen_ = X
            return super().predict(X)

    (check,) = (c for _, c in known_checks(Forgetful(network())) if "dict_unchanged" in str(c))
    with pytest.raises(AssertionError, match="changes __dict__"):
        check(Forgetful(network()))


def test_regression_at_any_time_is_the_formula():
    (nngp, ntk), (cross, k) = by_hand(X, X), by_hand(X_TEST, X)
    own, noise = by_hand(X_TEST, X_TEST)[0], 0.1
    noisy = ntk + noise * np.eye(9)
    for t in (0.7, np.inf):
        rest = scipy.linalg.expm(-2 * t * noisy) if np.isfinite(t) else 0
        A = k @ np.linalg.inv(noisy) @ (np.eye(9) - rest)
        covariance = own - A @ cross.T - cross @ A.T + A @ (nngp + noise * np.eye(9)) @ A.T
        model = NTKRegressor(network(), t=t, lr=2.0, noise=noise).fit(X, Y)
        mean, found = model.predict(X_TEST, return_cov=True)
        np.testing.assert_allclose(mean, A @ Y, rtol=1e-9)
        np.testing.assert_allclose(found, covariance, rtol=1e-7, atol=1e-10)
        std = model.predict(X_TEST, return_std=True)[1]
        np.testing.assert_allclose(std, np.sqrt(np.diagonal(covariance)), rtol=1e-7)
    law = model.ensemble().at_kernels(SimpleNamespace(nngp=cross, ntk=k), own).predict(np.inf)
    np.testing.assert_allclose(law.covariance, covariance, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("noise", [0.05, 0.0])
def test_the_posterior_is_that_of_scikit_learn_with_the_matrix_of_the_formula(noise):
    """The kernel as a table that scikit-learn looks up; without noise nothing is open at the points of the data."""
    everything = np.concatenate([X, X_TEST])
    table = by_hand(everything, everything)[0]
    peer = GaussianProcessRegressor(lambda_of_rows(table), alpha=noise or 1e-13, optimizer=None)
    peer.fit(np.arange(9.0)[:, None], Y)
    expected = peer.predict(np.arange(9.0, 13.0)[:, None], return_std=True)
    model = NNGPRegressor(network(), noise=noise).fit(X, Y)
    for actual, wanted in zip(model.predict(X_TEST, return_std=True), expected):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=1e-7)
    if noise == 0:
        mean, std = model.predict(X, return_std=True)
        np.testing.assert_allclose(mean, Y, rtol=1e-7)
        assert std.max() < 1e-5


class lambda_of_rows(WhiteKernel):  # noqa: N801
    """A kernel of scikit-learn that reads k(i, j) from a table; inputs are numbers of rows."""

    def __init__(self, table):
        self.table = table

    hyperparameters = property(lambda self: [])

    def __call__(self, X, Y=None, eval_gradient=False):
        rows, columns = (np.asarray(part, int)[:, 0] for part in (X, X if Y is None else Y))
        return self.table[np.ix_(rows, columns)].copy()

    def diag(self, X):
        return np.diagonal(self(X)).copy()


def test_scaled_targets_and_many_outputs():
    """With normalize_y, affine targets give affine predictions; spreads have the shape and the units of the targets."""
    many = np.stack([Y, 100 + 20 * Y], axis=1)
    model = NTKRegressor(network(), normalize_y=True).fit(X, many)
    mean, std = model.predict(X_TEST, return_std=True)
    np.testing.assert_allclose(mean[:, 1], 100 + 20 * mean[:, 0], rtol=1e-9)
    np.testing.assert_allclose(std[:, 1], 20 * std[:, 0], rtol=1e-9)
    assert model.predict(X_TEST, return_cov=True)[1].shape == (4, 4, 2)
    one = NTKRegressor(network(), normalize_y=True).fit(X, Y).predict(X_TEST, return_std=True)
    np.testing.assert_allclose(one, (mean[:, 0], std[:, 0]), rtol=1e-9)
    np.testing.assert_allclose(NTKRegressor(network(), normalize_y=True).fit(X, 0 * Y + 3).predict(X_TEST), 3)


@pytest.mark.slow
def test_tuning_by_evidence_finds_the_noise():
    x = RNG.uniform(-2, 2, size=(40, 1))
    y = np.sin(2 * x[:, 0]) + 0.2 * RNG.normal(size=40)
    model = NNGPRegressor(network(), noise=1.0, tune=True).fit(x, y)
    assert 0.01 < model.noise_ < 0.1 and model.net_ != network() and model.noise == 1.0
    assert model.score(x, y) > NNGPRegressor(network(), noise=1.0).fit(x, y).score(x, y)


def test_shares_of_classes_are_those_of_samples(key):
    mean, std = np.array([[0.3, 0.1, -0.2], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]), np.array([0.5, 1e-9, 0.0])
    drawn = mean[0] + std[0] * np.random.default_rng(0).normal(size=(200_000, 3))
    counted = np.bincount(drawn.argmax(axis=1), minlength=3) / len(drawn)
    shares = shares_of_largest(mean, std)
    np.testing.assert_allclose(shares[0], counted, atol=4 * 0.5 / len(drawn) ** 0.5)
    np.testing.assert_allclose(shares[1:], [[0.5, 0.5, 0], [0, 0, 1]], atol=1e-9)
    two = shares_of_largest(np.array([[0.2, 0.5]]), np.array([0.4]))
    np.testing.assert_allclose(two[0, 1], scipy.stats.norm.cdf(0.3 / (0.4 * 2**0.5)), rtol=1e-10)


@pytest.mark.slow
def test_a_classifier_of_images_by_convolution():
    """Bright upper halves against bright lower ones; widths of the network are free, rows are made images."""
    net = nb.serial(nb.Conv(1, (3, 3), W_std=1.4), nb.Relu(), nb.Flatten(), nb.Dense(1))
    images = 0.1 * RNG.normal(size=(12, 4, 4, 1))
    images[::2, :2] += 1
    images[1::2, 2:] += 1
    rows, labels = images.reshape(12, 16), np.array(["up", "down"] * 6)
    model = NTKClassifier(net, input_shape=(4, 4, 1)).fit(rows[:8], labels[:8])
    assert (model.predict(rows) == labels).all() and (model.predict_proba(rows).max(axis=1) > 0.9).all()
    expected = np.asarray(nb.ntk(net, jnp.asarray(images), jnp.asarray(images[:8])))
    own = np.asarray(nb.ntk(net, jnp.asarray(images[:8]))) + 0.01 * np.eye(8)
    onehot = (labels[:8, None] == model.classes_).astype(float)
    np.testing.assert_allclose(model.outputs(rows), expected @ np.linalg.solve(own, onehot), rtol=1e-8)
    with pytest.raises(ValueError, match="Expected rows of 20 numbers"):
        clone(model).set_params(input_shape=(4, 5, 1)).fit(rows, labels)


def test_pieces_of_a_matrix_are_the_matrix(monkeypatch):
    whole = [*bridge.matrices(network(), ("nngp", "ntk"), X), *bridge.matrices(network(), ("nngp", "ntk"), X, X_TEST)]
    monkeypatch.setattr(bridge, "ENTRIES", 16)
    pieces = [*bridge.matrices(network(), ("nngp", "ntk"), X), *bridge.matrices(network(), ("nngp", "ntk"), X, X_TEST)]
    for one, piece in zip(whole, pieces):
        np.testing.assert_allclose(piece, one, rtol=1e-13, atol=1e-14)


def test_pipelines_searches_and_pickles():
    model = make_pipeline(StandardScaler(), NTKRegressor(noise=0.01))
    search = GridSearchCV(model, {"ntkregressor__net": [network(), network(W1=0.01, W2=0.01)]}, cv=3)
    found = search.fit(X, Y).best_estimator_[-1].net
    assert found == network()
    fitted = NNGPRegressor(network()).fit(X, Y)
    expected = fitted.predict(X_TEST, return_std=True)
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.predict(X_TEST, return_std=True), expected)


def test_float64_whatever_the_setting_of_jax():
    """Also after a pickle, and in a thread of its own; and the setting stays as it was."""
    expected = NNGPRegressor(network(), noise=1e-6).fit(X, Y).predict(X_TEST, return_std=True)
    kernel, slope = NTKKernel(network())(X, eval_gradient=True)
    with precision(False):
        model = pickle.loads(pickle.dumps(NNGPRegressor(network(), noise=1e-6).fit(X, Y)))
        np.testing.assert_allclose(model.predict(X_TEST, return_std=True), expected, rtol=1e-9)
        for actual, wanted in zip(NTKKernel(network())(X, eval_gradient=True), (kernel, slope)):
            assert actual.dtype == np.float64
            np.testing.assert_allclose(actual, wanted, rtol=1e-12)
        assert not jax.config.jax_enable_x64


def test_wrong_use_is_an_error_in_a_sentence():
    with pytest.raises(NotFittedError):
        NTKRegressor().predict(X)
    with pytest.raises(ValueError, match="Expected return_std or return_cov"):
        NTKRegressor(network()).fit(X, Y).predict(X, return_std=True, return_cov=True)
    for wrong, error in ((dict(noise=-1.0), "noise"), (dict(t=-1.0), "t to be"), (dict(lr=-2.0), "lr")):
        with pytest.raises(ValueError, match=f"Expected {error}"):
            NTKRegressor(network(), **wrong).fit(X, Y)
    with pytest.raises(TypeError, match="Expected net to be a network"):
        NTKRegressor(net=3).fit(X, Y)
    with pytest.raises(ValueError, match="keeps positions|keeps.positions"):
        NTKRegressor(nb.Conv(1, (3, 3)), input_shape=(1, 3, 1)).fit(X, Y)


# ---------------------------------------------------------------- the kernel


@pytest.mark.parametrize("get, which", [("nngp", 0), ("ntk", 1)])
def test_values_and_slopes_are_those_of_the_formula(get, which):
    kernel = NTKKernel(network(), get)
    numbers = np.array([1.5, 0.3, 1.2, 0.2])
    np.testing.assert_allclose(kernel.theta, np.log(numbers))
    np.testing.assert_allclose(kernel(X), by_hand(X, X)[which], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(kernel(X, X_TEST), by_hand(X, X_TEST)[which], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(kernel.diag(X), np.diagonal(by_hand(X, X)[which]), rtol=1e-12)
    value, slope = kernel(X, eval_gradient=True)
    np.testing.assert_allclose(value, by_hand(X, X)[which], rtol=1e-12, atol=1e-14)
    for i in range(4):
        up, down = (by_hand(X, X, *numbers * np.exp(s * 1e-6 * (np.arange(4) == i)))[which] for s in (1, -1))
        np.testing.assert_allclose(slope[..., i], (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


def test_hyperparameters_theta_and_bounds_are_one_list():
    net = nb.serial(nb.Dense(1, 1.5), nb.LeakyRelu(0.2), nb.Dense(1, -2.0, 0.5), nb.Rbf(2.0), nb.Dense(1))
    bounds = {"layers[1].slope": "fixed", "layers[0].W_std": (0.1, 10.0)}
    kernel = NTKKernel(net, net_bounds=bounds)
    names = [h.name for h in kernel.hyperparameters]
    free = [h.name for h in kernel.hyperparameters if not h.fixed]
    assert names[:3] == ["layers[0].W_std", "layers[0].b_std", "layers[1].slope"] and len(names) == 8
    assert free == ["layers[0].W_std", "layers[2].W_std", "layers[2].b_std", "layers[3].gamma", "layers[4].W_std"]
    np.testing.assert_allclose(np.exp(kernel.theta), [1.5, 2.0, 0.5, 2.0, 1.0])  # a scale by its magnitude
    assert kernel.n_dims == 5 and kernel.bounds.shape == (5, 2)
    np.testing.assert_allclose(np.exp(kernel.bounds[:2]), [[0.1, 10.0], [1e-3, 1e3]])
    moved = kernel.clone_with_theta(kernel.theta + np.log(2))
    np.testing.assert_allclose(np.exp(moved.theta), [3.0, 4.0, 1.0, 4.0, 2.0])
    np.testing.assert_allclose(np.exp(kernel.theta)[0], 1.5)
    assert moved != kernel and moved.clone_with_theta(kernel.theta) != NTKKernel(net)
    assert kernel.get_params()["layers[3].gamma"] == 2.0 and "layers[3].gamma" not in kernel.get_params(deep=False)
    kernel.set_params(**{"layers[3].gamma": 3.0, "get": "ntk"})
    assert kernel.net.layers[3].gamma == 3.0 and kernel.get == "ntk"
    all_fixed = NTKKernel(net, net_bounds="fixed")
    assert all_fixed.theta.size == 0 == all_fixed.bounds.size and all_fixed(X, eval_gradient=True)[1].shape == (9, 9, 0)


def test_clones_pickles_equality_and_repr():
    kernel = NTKKernel(network(), "ntk")
    for other in (clone(kernel), pickle.loads(pickle.dumps(kernel)), kernel.clone_with_theta(kernel.theta)):
        assert other == kernel and other is not kernel and hash(other.net) == hash(kernel.net)
    assert kernel != NTKKernel(network(), "nngp") and kernel != NTKKernel(network(W1=1.6), "ntk")
    assert eval(repr(kernel), {**vars(nb), "NTKKernel": NTKKernel}) == kernel
    assert not kernel.is_stationary() and repr(NTKKernel()).startswith("NTKKernel(serial(")
    both = 2.0 * kernel + WhiteKernel(0.1)
    assert {"k1__k2__layers[0].W_std", "k2__noise_level"} <= set(both.get_params())
    both.set_params(**{"k1__k2__layers[0].W_std": 9.0})
    assert np.isclose(np.exp(both.theta), 9.0).any() and clone(both) == both


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # an optimum at a bound is one
def test_a_sum_is_tuned_by_the_gaussian_process_of_scikit_learn():
    """Its likelihood at the optimum, by the density of a normal; and the slopes of the sum by finite differences."""
    kernel = ConstantKernel(1.5) * NTKKernel(network()) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=0).fit(X, Y)
    start = model.log_marginal_likelihood(kernel.theta, eval_gradient=True)
    density = scipy.stats.multivariate_normal(np.zeros(9), 1.5 * by_hand(X, X)[0] + (0.1 + 1e-10) * np.eye(9))
    np.testing.assert_allclose(start[0], density.logpdf(Y), rtol=1e-9)
    for i in range(len(kernel.theta)):
        step = 1e-5 * (np.arange(len(kernel.theta)) == i)
        up, down = (model.log_marginal_likelihood(kernel.theta + s * step) for s in (1, -1))
        np.testing.assert_allclose(start[1][i], (up - down) / 2e-5, rtol=1e-5, atol=1e-7)
    assert model.log_marginal_likelihood_value_ > start[0] + 1
    assert model.kernel_.k1.k2.net != network() and kernel.k1.k2.net == network()


def test_classification_and_other_machines_take_it():
    labels = (np.linalg.norm(X, axis=1) > 1.5).astype(int)
    kernel = NTKKernel(network(), "ntk")
    start = NTKKernel(network(), net_bounds={name: "fixed" for name in ("layers[0].b_std", "layers[2].b_std")})
    found = GaussianProcessClassifier(start).fit(X, labels)
    assert found.log_marginal_likelihood_value_ > found.log_marginal_likelihood(start.theta)
    assert found.kernel_.net.layers[0].b_std == 0.3 and found.kernel_.net.layers[0].W_std != 1.5
    k, k_test = by_hand(X, X)[1], by_hand(X_TEST, X)[1]
    ridge = KernelRidge(alpha=0.1, kernel=kernel).fit(X, Y)
    np.testing.assert_allclose(ridge.predict(X_TEST), k_test @ np.linalg.solve(k + 0.1 * np.eye(9), Y), rtol=1e-8)
    for by_callable, by_table in (
        (SVC(kernel=kernel).fit(X, labels), SVC(kernel="precomputed").fit(k, labels)),
        (KernelPCA(2, kernel=kernel).fit(X), KernelPCA(2, kernel="precomputed").fit(k)),
    ):
        use = "decision_function" if hasattr(by_callable, "decision_function") else "transform"
        actual, expected = getattr(by_callable, use)(X_TEST), getattr(by_table, use)(k_test)
        np.testing.assert_allclose(np.abs(actual), np.abs(expected), rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_images_and_depth_of_a_loop():
    loop = nb.serial(nb.Dense(1, 1.3), nb.Repeat(nb.serial(nb.Erf(), nb.Dense(1, 1.2, 0.1)), 2))
    flat = nb.serial(nb.Dense(1, 1.3), *[nb.Erf(), nb.Dense(1, 1.2, 0.1)] * 2)
    value, slope = NTKKernel(loop)(X, eval_gradient=True)
    wanted, slopes = NTKKernel(flat)(X, eval_gradient=True)
    np.testing.assert_allclose(value, wanted, rtol=1e-12)
    # three free numbers there: one W_std before the loop, one W_std and b_std shared by its rounds
    np.testing.assert_allclose(slope[..., 1], slopes[..., 1] + slopes[..., 3], rtol=1e-9, atol=1e-12)
    net = nb.serial(nb.Conv(1, (2, 2), W_std=1.4), nb.Relu(), nb.GlobalAvgPool(), nb.Dense(1))
    rows = RNG.normal(size=(3, 12))
    expected = nb.nngp(net, jnp.asarray(rows.reshape(3, 2, 3, 2)))
    np.testing.assert_allclose(NTKKernel(net, input_shape=(2, 3, 2))(rows), expected, rtol=1e-12)


def test_wrong_use_of_the_kernel():
    kernel = NTKKernel(network())
    with pytest.raises(ValueError, match="Expected no Y"):
        kernel(X, X, eval_gradient=True)
    with pytest.raises(ValueError, match="Expected theta with 4 entries"):
        kernel.theta = np.zeros(3)
    with pytest.raises(ValueError, match="a name in net_bounds"):
        _ = NTKKernel(network(), net_bounds={"W_std": (1, 2)}).bounds
    with pytest.raises(ValueError, match="0 < low <= high"):
        _ = NTKKernel(network(), net_bounds=(0.0, 1.0)).bounds
    with pytest.raises(ValueError, match="to be one of 'fixed'"):
        _ = NTKKernel(network(), net_bounds="free").bounds
    with pytest.raises(ValueError, match="get to be one of"):
        NTKKernel(network(), get="cov")(X)
    with pytest.raises(ValueError, match="a parameter of NTKKernel"):
        kernel.set_params(W_std=2.0)
    with pytest.raises(TypeError, match="Expected net to be a network"):
        NTKKernel(lambda x: x)(X)


SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
}


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title, blocks in SECTIONS.items() if blocks])
def test_the_page_runs(title, capsys):
    names = {}
    with jax.numpy_dtype_promotion("standard"), precision(False):
        for block in SECTIONS[title]:
            exec(compile(block, f"scikit_learn.md: {title}", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.strip() and "False" not in printed


def test_the_page_shows_estimators_and_the_kernel():
    assert sum(map(bool, SECTIONS.values())) == 4
