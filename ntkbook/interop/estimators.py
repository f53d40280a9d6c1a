"""Infinitely wide networks as estimators of scikit-learn: `fit`, `predict`, pipelines, searches, pickles.

The regressors are the mean and the spread of infinitely many trained networks (`ensemble`), or the posterior of the
Gaussian process that they start from (`posterior`). Inputs are used as they are: put a `StandardScaler` before. All is
computed in float64, whatever the setting of JAX. The page "Kernels in scikit-learn" uses them.
"""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.special import ndtr
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import checks
from ..dynamics.ensemble import Ensemble, ensemble_from_kernels
from ..dynamics.evidence import fit as fit_evidence
from ..dynamics.gradient import gradient_flow
from . import bridge

ROWS = 512  # test points whose covariances are made at once


class _Estimator(BaseEstimator):
    """What the three share: training kernels to an `Ensemble`, and its mean and spread at new rows."""

    net: Any
    noise: Any
    input_shape: Any

    def _train(self, x, targets, net, noise, train, t, lr):
        """Sets the fitted attributes; `x` has the shape that the network takes, `targets` are (n,) or (n, o)."""
        for value, name in ((t, "t"), (lr, "lr"), (noise, "noise")):
            checks.non_negative(value, name)
        self._words = ("nngp",) if train == "last_layer" else ("nngp", "ntk")
        kernels = bridge.matrices(net, self._words, x)
        self.net_, self.noise_, self.X_fit_, self.y_fit_ = net, noise, x, targets
        self._kernels, self._time, self._lr, self._made = kernels, t, lr, {}
        self._root = safe_root(self._noisy()) if np.isinf(t) and lr > 0 else None
        self.dual_coef_ = self._pull(targets)
        return self

    def _noisy(self):
        return self._kernels[-1] + self.noise_ * np.eye(len(self.X_fit_))

    def _pull(self, columns):
        """gain(K + noise) columns: at the end of training (K + noise)^{-1} columns, by Cholesky where that is safe."""
        if self._root is not None:
            return cho_solve((self._root, True), columns)
        with bridge.precision():
            if "flow" not in self._made:
                self._made["flow"] = gradient_flow(self._noisy(), self.y_fit_, lr=self._lr)
            flow: Any = self._made["flow"]
            return np.array(flow.towards(jnp.asarray(columns)).coefficients(self._time))

    def ensemble(self) -> Ensemble:
        """The law of the trained networks in float64, from matrices; made at the first call, as spreads need it."""
        check_is_fitted(self)
        if "law" not in self._made:
            train = "all" if len(self._words) == 2 else "last_layer"
            with bridge.precision():
                self._made["law"] = ensemble_from_kernels(
                    _both(self._kernels), self.y_fit_, lr=self._lr, train=train, noise=self.noise_
                )
        return self._made["law"]

    def _rows(self, X):
        check_is_fitted(self)
        rows: Any = validate_data(self, X, reset=False, dtype=np.float64)
        return bridge.as_images(rows, self.input_shape)

    def _mean(self, x):
        """(m,) or (m, o), of targets without their scale."""
        return bridge.matrices(self.net_, self._words[-1:], x, self.X_fit_)[0] @ self.dual_coef_

    def _covariance(self, x):
        """own - A c^T - c A^T + A (NNGP + noise) A^T with c = nngp(x, X), A = k(x, X) gain; (m, m)."""
        shared, pulled = self._shared(x)
        covariance = bridge.matrices(self.net_, ("nngp",), x)[0] - shared - shared.T + pulled
        return (covariance + covariance.T) / 2

    def _std(self, x):
        """(m,)."""
        variances = []
        for i in range(0, len(x), ROWS):
            shared, pulled = self._shared(x[i : i + ROWS])
            own = bridge.diagonal(self.net_, x[i : i + ROWS], "nngp")
            variances.append(own - 2 * np.diagonal(shared) + np.diagonal(pulled))
        return np.sqrt(np.maximum(np.concatenate(variances), 0))

    def _shared(self, x):
        cross = bridge.matrices(self.net_, self._words, x, self.X_fit_)
        A = self._pull(cross[-1].T).T
        return A @ cross[0].T, A @ (self._kernels[0] + self.noise_ * np.eye(len(self.X_fit_))) @ A.T

    def __getstate__(self):
        state: Any = super().__getstate__()
        if "_made" in state:  # arrays of JAX would lose half of their digits where float64 is off
            state = {**state, "_made": {}}
        return state


def _both(kernels):
    """One matrix as it is, two as an object with `.nngp` and `.ntk`."""
    return kernels[0] if len(kernels) == 1 else SimpleNamespace(nngp=kernels[0], ntk=kernels[1])


def safe_root(k: np.ndarray) -> np.ndarray | None:
    """The lower Cholesky factor, or None where a pivot is rounding."""
    try:
        root = cholesky(k, lower=True)
    except LinAlgError:
        return None
    pivots = np.square(np.diagonal(root))
    return root if pivots.min() > 1e3 * len(k) * np.finfo(float).eps * pivots.max() else None


class _Regressor(RegressorMixin, _Estimator):
    """Targets with their mean and scale, and predictions with their spread."""

    normalize_y: Any

    def _checked(self, X, y):
        """(inputs as the network takes them, targets); keeps the mean and the scale of the targets."""
        checked: Any = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        X, y = checked
        y = y.astype(np.float64)
        self.y_mean_ = y.mean(axis=0) if self.normalize_y else np.zeros(y.shape[1:])
        scale = y.std(axis=0) if self.normalize_y else np.ones(y.shape[1:])
        self.y_scale_ = np.where(scale > 0, scale, 1.0)
        return bridge.as_images(X, self.input_shape), (y - self.y_mean_) / self.y_scale_

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """The mean at the rows of X, (m,) or (m, o); with `return_std` or `return_cov` also the spread of the function.

        The standard deviation has the shape of the mean; the covariance is (m, m), or (m, m, o). Observation noise is
        not in them.

        Raises:
            NotFittedError: before `fit`. ValueError: for other features, or if both are asked for.
        """
        if return_std and return_cov:
            raise ValueError("Expected return_std or return_cov, got both. The first is the diagonal of the second.")
        x = self._rows(X)
        mean = self._mean(x) * self.y_scale_ + self.y_mean_
        if return_std:
            return mean, np.multiply.outer(self._std(x), self.y_scale_)
        if return_cov:
            return mean, np.multiply.outer(self._covariance(x), np.square(self.y_scale_))
        return mean

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class NTKRegressor(_Regressor):
    """Infinitely many infinitely wide networks, trained by gradient descent on the squared loss: `ensemble`.

    Args:
        net: a network; None is two hidden ReLU layers. Its widths do not matter.
        t: the time when training stops, in units of 1/lr; infinity is kernel regression with the NTK.
        lr: the learning rate of the loss 1/2 sum |f - y|^2; only lr * t matters.
        noise: the variance of the noise on the targets, as in `ensemble`; it is the ridge of kernel regression.
        normalize_y: are targets shifted and scaled to mean 0 and variance 1 first?
        input_shape: (height, width, channels), say, if the rows of X are images that were flattened.

    `predict(X, return_std=True)` gives the standard deviation over networks from random starts.

    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> mean, std = NTKRegressor(noise=1e-4).fit(x, np.sin(3 * x[:, 0])).predict(x, return_std=True)
    >>> bool(abs(mean - np.sin(3 * x[:, 0])).max() < 0.05), std.shape
    (True, (20,))

    Jacot et al. 2018; Lee et al. 2019, section 2.3.
    """

    def __init__(
        self,
        net: Any = None,
        *,
        t: Any = float("inf"),
        lr: Any = 1.0,
        noise: Any = 0.01,
        normalize_y: Any = False,
        input_shape: Any = None,
    ):
        self.net = net
        self.t = t
        self.lr = lr
        self.noise = noise
        self.normalize_y = normalize_y
        self.input_shape = input_shape

    def fit(self, X: Any, y: Any) -> "NTKRegressor":
        """Train on X (n, d) and y, (n,) or (n, o)."""
        x, targets = self._checked(X, y)
        return self._train(x, targets, bridge.network_of(self.net), self.noise, "all", self.t, self.lr)


class NNGPRegressor(_Regressor):
    """The Gaussian process of infinitely wide random networks, given the data: `posterior`.

    Args:
        net, normalize_y, input_shape: as for `NTKRegressor`.
        noise: the variance of the noise on the targets.
        tune: are noise and the network's tunable numbers learned by evidence (`ntkbook.fit`)? What was found is
            `net_` and `noise_`.

    >>> import numpy as np
    >>> mean, std = NNGPRegressor(noise=0.1).fit(np.eye(3), np.ones(3)).predict(np.eye(3), return_std=True)
    >>> mean.shape, std.shape
    ((3,), (3,))

    Lee et al. 2018; Rasmussen and Williams 2006, eqs. 2.25 and 2.26.
    """

    def __init__(
        self,
        net: Any = None,
        *,
        noise: Any = 0.01,
        tune: Any = False,
        normalize_y: Any = False,
        input_shape: Any = None,
    ):
        self.net = net
        self.noise = noise
        self.tune = tune
        self.normalize_y = normalize_y
        self.input_shape = input_shape

    def fit(self, X: Any, y: Any) -> "NNGPRegressor":
        """Condition on X (n, d) and y, (n,) or (n, o)."""
        x, targets = self._checked(X, y)
        net, noise = bridge.network_of(self.net), self.noise
        if self.tune:
            with bridge.precision():
                found = fit_evidence(net, x, targets, noise)
            net, noise = found.net, found.noise
        return self._train(x, targets, net, noise, "last_layer", float("inf"), 1.0)


class NTKClassifier(ClassifierMixin, _Estimator):
    """Infinitely many infinitely wide networks, trained on one-hot targets with the squared loss: `ensemble`.

    The arguments are those of `NTKRegressor`. `predict` names the class with the largest mean output.
    `predict_proba` is the share of networks, over random starts, whose largest output is the class: how much they
    agree, and no calibrated frequency.

    >>> import numpy as np
    >>> model = NTKClassifier().fit(np.eye(4), ["a", "b", "a", "b"])
    >>> print(*model.predict(np.eye(4)))
    a b a b

    Lee et al. 2020, for classification by regression on one-hot targets.
    """

    def __init__(
        self, net: Any = None, *, t: Any = float("inf"), lr: Any = 1.0, noise: Any = 0.01, input_shape: Any = None
    ):
        self.net = net
        self.t = t
        self.lr = lr
        self.noise = noise
        self.input_shape = input_shape

    def fit(self, X: Any, y: Any) -> "NTKClassifier":
        """Train on X (n, d) and labels y (n,) of any kind."""
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        X, y = checked
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        targets = np.eye(len(self.classes_))[labels]
        x = bridge.as_images(X, self.input_shape)
        return self._train(x, targets, bridge.network_of(self.net), self.noise, "all", self.t, self.lr)

    def outputs(self, X: Any) -> np.ndarray:
        """The mean outputs, (m, classes): near 1 for the class and 0 for the others."""
        return self._mean(self._rows(X))

    def predict(self, X: Any) -> np.ndarray:
        """The class with the largest mean output, (m,)."""
        outputs = self.outputs(X)
        return self.classes_[outputs.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The share of networks that choose each class, (m, classes)."""
        x = self._rows(X)
        return shares_of_largest(self._mean(x), self._std(x))


def shares_of_largest(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """P(output c is the largest), (m, c), for independent Gaussians of mean (m, c) and deviation (m,).

    E[product over j != c of Phi(z + (mean_c - mean_j)/std)] over z ~ N(0, 1), by the trapezoidal rule, whose error
    falls faster than any power of the step for so smooth a function.
    """
    z = np.linspace(-8, 8, 129)
    weights = np.exp(-(z**2) / 2)
    shares = np.empty_like(mean)
    others = ~np.eye(mean.shape[1], dtype=bool)
    for i, (row, spread) in enumerate(zip(mean, std)):
        gaps = (row[:, None] - row) / max(spread, 1e-12)  # (c, c)
        below = np.where(others[..., None], ndtr(gaps[..., None] + z), 1)
        shares[i] = below.prod(axis=1) @ weights
    return shares / shares.sum(axis=1, keepdims=True)
