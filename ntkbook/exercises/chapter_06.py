"""Exercises of chapter 06: the mean over time, the covariance of an ensemble, the last layer's variance over time."""

from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.ensembles import TIMES, arrays
from .checking import Case, Exercise, Mistake, Result, generator, judge


def _kernel(seed, n, m):
    """A kernel matrix of n training points and m others: (n, n), (m, n), (m, m)."""
    x = generator(seed).uniform(-2, 2, (n + m, 2))
    k = np.exp(-0.5 * ((x[:, None] - x[None]) ** 2).sum(-1)) + 0.2 * x @ x.T + 0.1 * np.eye(n + m)
    return k[:n, :n], k[n:, :n], k[n:, n:]


def _function(k, f):
    values, modes = np.linalg.eigh(np.asarray(k))
    return (modes * f(values)) @ modes.T


# ---------------------------------------------------------------- 1: the mean over time


def _mean(steps, k_train, k_test_train, y, lr, *, rate=1.0, inverse=True, learnt=lambda d: 1 - d):
    """The mean by the flow, or with one thing wrong; without `learnt`, by real steps."""
    flow = lambda v: learnt(np.exp(-rate * lr * steps * v))
    decay = flow if learnt else lambda v: 1 - np.sign(1 - lr * v) * abs(1 - lr * v) ** steps
    return k_test_train @ _function(k_train, (lambda v: decay(v) / v) if inverse else decay) @ y


def _elementwise(steps, k_train, k_test_train, y, lr):
    return k_test_train @ np.linalg.inv(k_train) @ (np.eye(len(y)) - np.exp(-lr * steps * k_train)) @ y


def _mean_case(name, seed, n, m, t, lr):
    k_train, k_test_train, _ = _kernel(seed, n, m)
    return Case(name, (t, k_train, k_test_train, generator(seed + 1).standard_normal(n), lr))


MEAN_AT = Exercise(
    "check_mean_at",
    _mean,
    (
        _mean_case("four training points, three others", 0, 4, 3, 0.7, 1.0),
        _mean_case("another learning rate", 10, 4, 3, 2.0, 0.3),
        _mean_case("one training point", 20, 1, 4, 0.5, 0.8),
        _mean_case("the start: nothing is learnt", 30, 3, 2, 0.0, 1.0),
    ),
    (
        Mistake(
            "the inverse kernel is missing: k(x, X) (I - exp(-k t)) y. It is easily written down, but at the "
            "end of training it does not even fit the data. Between k(x, X) and the bracket stands k(X, X)^-1.",
            partial(_mean, inverse=False),
        ),
        Mistake(
            "the learning rate is missing: it multiplies t in the exponent.",
            lambda t, k, kx, y, lr: _mean(t, k, kx, y, 1.0),
        ),
        Mistake(
            "there is a 1/n in your exponent. That belongs to the mean loss; this loss is a sum.",
            lambda t, k, kx, y, lr: _mean(t, k, kx, y, lr, rate=1 / len(y)),
        ),
        Mistake(
            "your exponent has a factor 2. The loss is 1/2 (f - y)^2: the 1/2 cancels the 2 of the square.",
            partial(_mean, rate=2.0),
        ),
        Mistake(
            "your exponent has a factor 1/2. The 1/2 of the loss has already cancelled the 2 of the square.",
            partial(_mean, rate=0.5),
        ),
        Mistake(
            "this is what is left to learn, not what has been learnt: I - exp(-k t), not exp(-k t).",
            partial(_mean, learnt=lambda d: d),
        ),
        Mistake(
            "the sign is turned: at the start nothing is learnt, and then outputs go towards the targets.",
            partial(_mean, learnt=lambda d: d - 1),
        ),
        Mistake(
            "this is the end of training, kernel regression, for any t.",
            partial(_mean, learnt=lambda d: 1.0),
        ),
        Mistake(
            "np.exp of a matrix takes the exponential of each entry. The exponential of a matrix acts on its "
            "eigenvalues: np.linalg.eigh, or scipy.linalg.expm.",
            _elementwise,
        ),
        Mistake(
            "the learning rate stands on the wrong side: it multiplies the number of steps.",
            lambda steps, k, kx, y, lr: _mean(steps, k, kx, y, lr, rate=lr**-2),
        ),
        Mistake(
            "this is exact for real steps, (1 - lr lam)^steps. Asked is the formula of the flow, exp(-lr lam steps).",
            partial(_mean, learnt=None),
        ),
        Mistake(
            "what has been learnt is squared: I - exp(-k t) stands there once.",
            partial(_mean, learnt=lambda d: (1 - d) ** 2),
        ),
        Mistake(
            "this is ridge regression with 1/t: a similar filter, but not this one.",
            lambda steps, k, kx, y, lr: lr * steps * kx @ np.linalg.solve(lr * steps * k + np.eye(len(y)), y),
        ),
        Mistake(
            "this is the first step only, t k(x, X) y: the errors shrink on the way, and pull less and less.",
            lambda steps, k, kx, y, lr: lr * steps * kx @ y,
        ),
        Mistake(
            "this is the matrix A_t. The mean is A_t y.",
            lambda steps, k, kx, y, lr: _mean(steps, k, kx, np.eye(len(y)), lr),
        ),
        Mistake(
            "these are the outputs at the training points. Elsewhere the first factor is k(x, X).",
            lambda steps, k, kx, y, lr: _mean(steps, k, k, y, lr),
        ),
    ),
    praise="all right: the mean of infinitely many networks, at any time",
)


def check_mean_at(answer: Any) -> Result:
    """Judge `answer(steps, k_train, k_test_train, y, lr)`: the mean of the ensemble at the test points, (m,)."""
    return judge(answer, MEAN_AT)


# ---------------------------------------------------------------- 2: the covariance


def _covariance(A, K_train, K_test_train, K_test, *, cross=-1, both=True, last=1):
    shared = A @ K_test_train.T
    return K_test + cross * (shared + shared.T if both else shared) + last * A @ K_train @ A.T


def _covariance_case(name, seed, n, m):
    K_train, K_test_train, K_test = _kernel(seed, n, m)
    A = generator(seed + 1).uniform(-0.5, 1, (m, n))
    return Case(name, (A, K_train, K_test_train, K_test))


COVARIANCE = Exercise(
    "check_covariance",
    _covariance,
    (
        _covariance_case("three training points, two others", 40, 3, 2),
        _covariance_case("as many test points as training points", 50, 3, 3),
        _covariance_case("one training point", 60, 1, 4),
    ),
    (
        Mistake(
            "the sign of the mixed terms is turned: what training takes away is minus A f_0(X).",
            partial(_covariance, cross=1),
        ),
        Mistake(
            "only one of the two mixed terms is there: a covariance is symmetric, so A K_Xx comes with its transpose.",
            partial(_covariance, both=False),
        ),
        Mistake(
            "the last term, A K_XX A^T, is missing: the starts at the training points vary too.",
            partial(_covariance, last=0),
        ),
        Mistake(
            "the sign of the last term is turned: a square is positive, (-A) K (-A)^T = A K A^T.",
            partial(_covariance, last=-1),
        ),
        Mistake(
            "only one mixed term, and no last term: that is the posterior's formula. It needs A = K_xX K_XX^-1, and "
            "here A is given.",
            partial(_covariance, both=False, last=0),
        ),
        Mistake(
            "these are variances. Return the whole matrix, (m, m).",
            lambda *arguments: np.diagonal(_covariance(*arguments)),
        ),
        Mistake(
            "this is the covariance at the start. Training changed it.",
            lambda A, K_train, K_test_train, K_test: K_test,
        ),
        Mistake(
            "your last term has no kernel in it: f_0(X) has the covariance K_XX, not the identity.",
            lambda A, K_train, K_test_train, K_test: _covariance(A, np.eye(len(K_train)), K_test_train, K_test),
        ),
        Mistake(
            "you counted one mixed term twice, 2 A K_Xx. The second one is its transpose, and the sum is symmetric.",
            lambda A, K, Kx, Kxx: Kxx - 2 * A @ Kx.T + A @ K @ A.T,
        ),
        Mistake(
            "this is the last term alone, A K_XX A^T: the start at x itself, and the mixed terms, are missing.",
            lambda A, K, Kx, Kxx: A @ K @ A.T,
        ),
        Mistake(
            "the mixed terms are missing: f_0(x) and A f_0(X) are not independent.",
            partial(_covariance, cross=0),
        ),
        Mistake(
            "this is K_xx - A K_XX A^T. That holds only where A = K_xX K_XX^-1, and here A is given.",
            partial(_covariance, cross=0, last=-1),
        ),
        Mistake(
            "this is the posterior of the prior K, which has an A of its own. Here A is given.",
            lambda A, K, Kx, Kxx: Kxx - Kx @ np.linalg.solve(K, Kx.T),
        ),
        Mistake(
            "these are standard deviations. Return the covariance matrix, (m, m).",
            lambda *arguments: np.sqrt(np.diagonal(_covariance(*arguments))),
        ),
        Mistake(
            "this is the correlation: do not divide by the standard deviations.",
            lambda *arguments: (lambda S: S / np.sqrt(np.outer(S.diagonal(), S.diagonal())))(_covariance(*arguments)),
        ),
        Mistake(
            "you added y's own outer product: the targets are the same for every network, so they do not vary.",
            lambda A, K, Kx, Kxx: _covariance(A, K, Kx, Kxx) + A @ A.T,
        ),
    ),
    praise="all right: it is (1, -A) times the joint covariance times (1, -A)^T, so it has no negative eigenvalue",
)


def check_covariance(answer: Any) -> Result:
    """Judge `answer(A, K_train, K_test_train, K_test)`: the covariance of f_0(x) - A f_0(X), (m, m)."""
    return judge(answer, COVARIANCE)


# ---------------------------------------------------------------- 3: the last layer alone


def _variance(t, K_train, K_test_train, K_test, *, rate=2.0, inverse=True, sign=-1):
    learnt = lambda v: -np.expm1(-rate * t * v)
    middle = _function(K_train, (lambda v: learnt(v) / v) if inverse else learnt)
    return np.diagonal(K_test) + sign * np.einsum("mn,no,mo->m", K_test_train, middle, K_test_train)


def _variance_case(name, seed, n, m, t):
    return Case(name, (t, *_kernel(seed, n, m)))


LAST_LAYER = Exercise(
    "check_last_layer_variance",
    _variance,
    (
        _variance_case("four training points, three others", 70, 4, 3, 0.4),
        _variance_case("a later time", 80, 3, 2, 3.0),
        _variance_case("one training point", 90, 1, 3, 0.2),
    ),
    (
        Mistake(
            "the 2 in the exponent is missing: a variance is quadratic, so what is left of the start decays twice as "
            "fast.",
            partial(_variance, rate=1.0),
        ),
        Mistake(
            "this is the posterior, the end of training, for any t.",
            lambda t, *kernels: _variance(np.inf, *kernels),
        ),
        Mistake(
            "the inverse kernel is missing: it stands between K(x, X) and the bracket.",
            partial(_variance, inverse=False),
        ),
        Mistake(
            "the sign is turned: training the last layer takes variance away.",
            partial(_variance, sign=1),
        ),
        Mistake(
            "these are standard deviations. Return the variances.",
            lambda *arguments: np.sqrt(_variance(*arguments)),
        ),
        Mistake(
            "this is the whole matrix. Return its diagonal, (m,).",
            lambda t, K, Kx, Kxx: Kxx - Kx @ _function(K, lambda v: -np.expm1(-2 * t * v) / v) @ Kx.T,
        ),
        Mistake(
            "you kept only the square of what has been learnt, (I - exp(-K t))^2: the mixed terms take away twice "
            "I - exp(-K t), and -2 (I - E) + (I - E)^2 = -(I - E^2).",
            lambda t, K, Kx, Kxx: (
                np.diagonal(Kxx) - np.einsum("mn,no,mo->m", Kx, _function(K, lambda v: np.expm1(-t * v) ** 2 / v), Kx)
            ),
        ),
        Mistake(
            "np.exp of a matrix takes the exponential of each entry. The exponential of a matrix acts on its "
            "eigenvalues.",
            lambda t, K, Kx, Kxx: np.diagonal(
                Kxx - Kx @ np.linalg.inv(K) @ (np.eye(len(K)) - np.exp(-2 * t * K)) @ Kx.T
            ),
        ),
        Mistake(
            "this is what training has taken away. Subtract it from the variance of the start.",
            lambda t, K, Kx, Kxx: np.diagonal(Kxx) - _variance(t, K, Kx, Kxx),
        ),
        Mistake(
            "this subtracts what is left, exp(-2 K t), in place of what has been learnt, I - exp(-2 K t).",
            lambda t, K, Kx, Kxx: (
                np.diagonal(Kxx) - np.einsum("mn,no,mo->m", Kx, _function(K, lambda v: np.exp(-2 * t * v) / v), Kx)
            ),
        ),
        Mistake(
            "there is a 1/n in your exponent. That belongs to the mean loss; this loss is a sum.",
            lambda t, K, Kx, Kxx: _variance(t / len(K), K, Kx, Kxx),
        ),
        Mistake(
            "your exponent is twice too large: exp(-K t) squared is exp(-2 K t).",
            partial(_variance, rate=4.0),
        ),
        Mistake(
            "this is the variance at the start. Training has changed it.",
            lambda t, K, Kx, Kxx: np.diagonal(Kxx),
        ),
    ),
    praise="all right: at t = infinity it is the variance of the posterior",
)


def check_last_layer_variance(answer: Any) -> Result:
    """Judge `answer(t, K_train, K_test_train, K_test)`: the variances when only the last layer is trained, (m,)."""
    return judge(answer, LAST_LAYER)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "two_ensembles" moves."""
    return Predict(
        "Both ensembles start from the same eight networks. All layers are trained on the left, the last one on "
        "the right. At the end of training, which band is wider?",
        {
            "The right one: the last layer alone can learn less, so it removes less.": (
                "It removes as much as can be removed: it ends in the posterior, which has the least variance of "
                "all linear predictors. The panel shows the end."
            ),
            "The left one, by a little.": (
                "By completing the square: every other way to learn leaves more variance than the posterior. By "
                "how much was measured in section 7. The panel shows the end."
            ),
            "They are the same: the starts are.": (
                "The starts are the same, the pull A is not. The difference is small here; section 7 measures it."
                " The panel shows the end."
            ),
        },
        answer="The left one, by a little.",
        panel=panel,
        look={"t": 128.0, "width": 256},
    )


# ---------------------------------------------------------------- the mission

NEAR = 0.25


def mission(panel: Panel) -> Mission:
    """The first stop at which the last layer's mean is within 0.25 of the posterior's, on the panel "two_ensembles"."""
    return Mission(
        panel,
        "Find the earliest stop of the time slider at which the mean of the last-layer ensemble is within 0.25 of its "
        "end, the posterior. (How much earlier were the networks with all layers trained?)",
        _is_earliest,
        hint="The reading under the picture has the distance from the end. Is it above 0.25 one stop earlier?",
        hint_after=6,
    )


def _is_earliest(data: dict[str, Any], state: dict[str, float]) -> bool:
    at = int(np.argmin(np.abs(TIMES - state["t"])))
    if at == 0 or data["to_end_last_layer"] >= NEAR:
        return False
    earlier: Any = {**state, "t": float(TIMES[at - 1])}
    return float(arrays(**earlier)["to_end_last_layer"]) >= NEAR


EXERCISES = {
    "mean_at": (check_mean_at, MEAN_AT),
    "covariance": (check_covariance, COVARIANCE),
    "last_layer_variance": (check_last_layer_variance, LAST_LAYER),
}
