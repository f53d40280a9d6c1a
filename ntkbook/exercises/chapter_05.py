"""Exercises of chapter 05: errors after k steps, how many steps, the largest rate, the flow at other points."""

from typing import Any

import numpy as np

from .checking import Case, Exercise, Mistake, Result, generator, judge
from .guides_05 import mission_heavy as mission_heavy
from .guides_05 import mission_stop as mission_stop
from .guides_05 import mission_units as mission_units
from .guides_05 import predict as predict


def _kernel(seed, n, n_test=0):
    """A kernel matrix of n + n_test random points, well conditioned."""
    x = generator(seed).standard_normal((n + n_test, 3))
    return np.exp(-0.2 * ((x[:, None] - x[None]) ** 2).sum(-1)) + 0.2 * np.eye(n + n_test)


# ---------------------------------------------------------------- 1: the errors after k steps


def _errors_after(lam, Q, r0, lr, k):
    return Q @ ((1 - lr * lam) ** k * (Q.T @ r0))


def _modes_case(name, seed, n, lr, k):
    lam, Q = np.linalg.eigh(_kernel(seed, n))
    return Case(name, (lam, Q, generator(seed + 1).standard_normal(n), lr, k))


ERRORS_AFTER = Exercise(
    "check_errors_after",
    _errors_after,
    (
        _modes_case("four points, three steps", 0, 4, 0.4, 3),
        _modes_case("six points, one step", 10, 6, 0.3, 1),
        _modes_case("a rate at which some modes change sign", 20, 5, 0.7, 5),
    ),
    (
        Mistake(
            "these are the errors of the flow, exp(-lr lam k). With real steps each mode is multiplied by 1 - lr lam, "
            "k times.",
            lambda lam, Q, r0, lr, k: Q @ (np.exp(-lr * lam * k) * (Q.T @ r0)),
        ),
        Mistake(
            "Q and its transpose are exchanged: Q.T takes the errors to the modes, Q takes the modes back.",
            lambda lam, Q, r0, lr, k: Q.T @ ((1 - lr * lam) ** k * (Q @ r0)),
        ),
        Mistake(
            "the errors are still in the modes: multiply by Q to come back to the points.",
            lambda lam, Q, r0, lr, k: (1 - lr * lam) ** k * (Q.T @ r0),
        ),
        Mistake(
            "the learning rate is missing: each mode is multiplied by 1 - lr lam.",
            lambda lam, Q, r0, lr, k: _errors_after(lam, Q, r0, 1.0, k),
        ),
        Mistake(
            "the sign is turned: the errors shrink, by 1 - lr lam per step.",
            lambda lam, Q, r0, lr, k: Q @ ((1 + lr * lam) ** k * (Q.T @ r0)),
        ),
        Mistake(
            "the factor 1/n does not belong here: this loss is a sum over the points.",
            lambda lam, Q, r0, lr, k: _errors_after(lam, Q, r0, lr / len(r0), k),
        ),
        Mistake(
            "this is what has been learnt, r0 minus the errors. The errors are what is left.",
            lambda lam, Q, r0, lr, k: r0 - _errors_after(lam, Q, r0, lr, k),
        ),
        Mistake(
            "a factor 2 too much: the loss is 1/2 r^2, and its 1/2 cancels the 2 of the square. Each mode is "
            "multiplied by 1 - lr lam.",
            lambda lam, Q, r0, lr, k: _errors_after(lam, Q, r0, 2 * lr, k),
        ),
        Mistake(
            "this is one step of k times the rate, 1 - k lr lam. Each of the k steps starts from what the step "
            "before has left.",
            lambda lam, Q, r0, lr, k: _errors_after(lam, Q, r0, k * lr, 1),
        ),
        Mistake(
            "the errors were never taken to the modes: Q.T comes first, then the factors, then Q.",
            lambda lam, Q, r0, lr, k: Q @ ((1 - lr * lam) ** k * r0),
        ),
        Mistake(
            "the factors belong to modes, not to points: Q.T takes the errors to the modes, and Q takes them back.",
            lambda lam, Q, r0, lr, k: (1 - lr * lam) ** k * r0,
        ),
        Mistake(
            "this is one step too many: the factor 1 - lr lam occurs k times.",
            lambda lam, Q, r0, lr, k: _errors_after(lam, Q, r0, lr, k + 1),
        ),
        Mistake(
            "this is one step too few: the factor 1 - lr lam occurs k times.",
            lambda lam, Q, r0, lr, k: _errors_after(lam, Q, r0, lr, k - 1),
        ),
        Mistake(
            "the factor is squared: that is how the loss decays, which is quadratic in the errors.",
            lambda lam, Q, r0, lr, k: _errors_after(lam, Q, r0, lr, 2 * k),
        ),
        Mistake(
            "you took the size of the factor: where lr lam is above 1, the error changes its sign at each step.",
            lambda lam, Q, r0, lr, k: Q @ (abs(1 - lr * lam) ** k * (Q.T @ r0)),
        ),
    ),
    praise="all right: exact for steps of any size, also for those that diverge",
)


def check_errors_after(answer: Any) -> Result:
    """Judge `answer(lam, Q, r0, lr, k)`: the errors after k steps, (n,)."""
    return judge(answer, ERRORS_AFTER)


# ---------------------------------------------------------------- 2: how many steps


def _steps_until(part, lam, lr, n):
    return -np.log(part) * n / (lr * lam)


STEPS_UNTIL = Exercise(
    "check_steps_until",
    _steps_until,
    (
        Case("1/e of it, 24 examples", (1 / np.e, 2.0, 0.1, 24)),
        Case("one per cent, 100 examples", (0.01, 0.05, 0.5, 100)),
        Case("a half, one example", (0.5, 3.0, 0.02, 1)),
    ),
    (
        Mistake(
            "the number of examples is missing: with the mean loss one step is the time lr/n.",
            lambda part, lam, lr, n: _steps_until(part, lam, lr, 1),
        ),
        Mistake(
            "n stands on the wrong side: a mean over more examples pulls less, so more steps are needed.",
            lambda part, lam, lr, n: -np.log(part) / (n * lr * lam),
        ),
        Mistake(
            "this is a time. The number of steps is the time divided by the time of one step, lr/n.",
            lambda part, lam, lr, n: -np.log(part) / lam,
        ),
        Mistake(
            "the learning rate is missing: one step is the time lr/n.",
            lambda part, lam, lr, n: -np.log(part) * n / lam,
        ),
        Mistake(
            "your number is negative: the logarithm of a part below 1 is.",
            lambda *arguments: -_steps_until(*arguments),
        ),
        Mistake(
            "your number is half of it: the 1/2 of the loss has already cancelled the 2 of the square.",
            lambda *arguments: _steps_until(*arguments) / 2,
        ),
        Mistake(
            "your number is twice too large: the 1/2 of the loss has already cancelled the 2 of the square.",
            lambda *arguments: 2 * _steps_until(*arguments),
        ),
        Mistake(
            "the logarithm is the natural one, not that to base 10.",
            lambda part, lam, lr, n: -np.log10(part) * n / (lr * lam),
        ),
        Mistake(
            "you solved for the part that has been learnt: `part` is what is left.",
            lambda part, lam, lr, n: -np.log(1 - part) * n / (lr * lam),
        ),
        Mistake(
            "the logarithm is the natural one, not that to base 2.",
            lambda part, lam, lr, n: -np.log2(part) * n / (lr * lam),
        ),
        Mistake(
            "this is the number of real steps, by log(1 - lr lam/n). Asked is that of the flow, which needs a "
            "little longer.",
            lambda part, lam, lr, n: np.log(part) / np.log(1 - lr * lam / n),
        ),
        Mistake(
            "this is the time constant: it leaves 1/e. For another part it is multiplied by log(1/part).",
            lambda part, lam, lr, n: n / (lr * lam),
        ),
        Mistake(
            "the eigenvalue is missing: it is the rate of its mode.",
            lambda part, lam, lr, n: -np.log(part) * n / lr,
        ),
        Mistake(
            "the learning rate stands on the wrong side: larger steps, fewer of them.",
            lambda part, lam, lr, n: -np.log(part) * n * lr / lam,
        ),
    ),
    praise="all right: the time, divided by the time of one step",
    also=(lambda *arguments: np.ceil(_steps_until(*arguments)),),
)


def check_steps_until(answer: Any) -> Result:
    """Judge `answer(part, lam, lr, n)`: the number of steps of the mean loss until `part` of a mode is left."""
    return judge(answer, STEPS_UNTIL)


# ---------------------------------------------------------------- 3: the largest rate


def _largest_rate(k, momentum):
    return len(k) * (1 + momentum) / np.linalg.eigvalsh(k)[-1]


LARGEST_RATE = Exercise(
    "check_largest_rate",
    _largest_rate,
    (
        Case("six points, no momentum", (_kernel(30, 6), 0.0)),
        Case("six points, momentum 0.9", (_kernel(30, 6), 0.9)),
        Case("nine points, momentum 0.5", (_kernel(40, 9), 0.5)),
    ),
    (
        Mistake(
            "your rate is twice too large: this loss has no 1/2, so one step is the time 2 lr/n.",
            lambda k, momentum: 2 * _largest_rate(k, momentum),
        ),
        Mistake(
            "the number of examples is missing: this loss is a mean.",
            lambda k, momentum: _largest_rate(k, momentum) / len(k),
        ),
        Mistake(
            "this is the limit for 1/2 the sum of squares. This loss is a mean without the 1/2: one step is the time "
            "2 lr/n.",
            lambda k, momentum: 2 * _largest_rate(k, momentum) / len(k),
        ),
        Mistake(
            "momentum is missing: it raises the limit by the factor 1 + momentum.",
            lambda k, momentum: _largest_rate(k, 0.0),
        ),
        Mistake(
            "the factor is 1 + momentum, not 1/(1 - momentum): the latter is how much faster slow modes go.",
            lambda k, momentum: _largest_rate(k, 0.0) / (1 - momentum),
        ),
        Mistake(
            "momentum raises the limit, by 1 + momentum. Yours is 1 - momentum.",
            lambda k, momentum: _largest_rate(k, 0.0) * (1 - momentum),
        ),
        Mistake(
            "the smallest eigenvalue does not decide: the fastest mode is the first to diverge.",
            lambda k, momentum: len(k) * (1 + momentum) / np.linalg.eigvalsh(k)[0],
        ),
        Mistake(
            "the trace is the sum of all eigenvalues. What decides is the largest one.",
            lambda k, momentum: len(k) * (1 + momentum) / np.trace(k),
        ),
        Mistake(
            "this uses 2/(lam_min + lam_max), the critical rate of the theorem. Steps converge up to 2/lam_max.",
            lambda k, momentum: 2 * len(k) * (1 + momentum) / np.linalg.eigvalsh(k)[[0, -1]].sum(),
        ),
        Mistake(
            "your rate is half of the limit: the time of one step, 2 lr/n, must stay below 2 (1 + momentum)/lam_max.",
            lambda k, momentum: _largest_rate(k, momentum) / 2,
        ),
        Mistake(
            "that is where swinging ends, (1 + sqrt(momentum))^2. Beyond it errors flip at each step but still "
            "shrink, up to 2 (1 + momentum).",
            lambda k, momentum: len(k) * (1 + momentum**0.5) ** 2 / 2 / np.linalg.eigvalsh(k)[-1],
        ),
        Mistake(
            "n stands on the wrong side: a mean over more examples pulls less, so the rate may be larger.",
            lambda k, momentum: _largest_rate(k, momentum) / len(k) ** 2,
        ),
        Mistake(
            "momentum enters once, as 1 + momentum, not as its square.",
            lambda k, momentum: _largest_rate(k, 0.0) * (1 + momentum) ** 2,
        ),
        Mistake(
            "this uses the Frobenius norm of k, the root of all squared eigenvalues. What decides is the largest one.",
            lambda k, momentum: len(k) * (1 + momentum) / np.linalg.norm(k),
        ),
        Mistake(
            "n is counted twice: eigvalsh(k) is already that of the whole kernel matrix.",
            lambda k, momentum: _largest_rate(k, momentum) * len(k),
        ),
    ),
    praise="all right: n (1 + momentum) / lam_max",
)


def check_largest_rate(answer: Any) -> Result:
    """Judge `answer(k, momentum)`: the limit of stability for the mean of all squares, without 1/2."""
    return judge(answer, LARGEST_RATE)


# ---------------------------------------------------------------- 4: the flow at other points


def _elsewhere(k_test, k_train, y, t):
    lam, Q = np.linalg.eigh(k_train)
    return k_test @ Q @ (_learnt(lam, t) * (Q.T @ y))


def _learnt(lam, t):
    return (1 - np.exp(-lam * t)) / lam


def _decay(k_train, t):
    lam, Q = np.linalg.eigh(k_train)
    return (Q * np.exp(-lam * t)) @ Q.T


def _test_case(name, seed, n, m, t):
    k = _kernel(seed, n, m)
    return Case(name, (k[n:, :n], k[:n, :n], generator(seed + 1).standard_normal(n), t))


OUTPUTS_ELSEWHERE = Exercise(
    "check_outputs_elsewhere",
    _elsewhere,
    (
        _test_case("four training points, three others, early", 50, 4, 3, 0.3),
        _test_case("the same, late", 50, 4, 3, 30.0),
        _test_case("six training points, two others", 60, 6, 2, 1.0),
    ),
    (
        Mistake(
            "the inverse kernel is missing. Test it: at a training point, for t to infinity, the output must be y.",
            lambda k, kk, y, t: k @ (np.eye(len(y)) - _decay(kk, t)) @ y,
        ),
        Mistake(
            "this is the end of training: the factor 1 - exp(-lam t) is missing.",
            lambda k, kk, y, t: k @ np.linalg.solve(kk, y),
        ),
        Mistake(
            "this is what has not been learnt yet: exp(-lam t) stands where 1 - exp(-lam t) belongs.",
            lambda k, kk, y, t: k @ np.linalg.solve(kk, _decay(kk, t) @ y),
        ),
        Mistake(
            "that is the exponential of each entry. The exponential of a matrix is taken on its eigenvalues.",
            lambda k, kk, y, t: k @ np.linalg.solve(kk, (np.eye(len(y)) - np.exp(-kk * t)) @ y),
        ),
        Mistake(
            "the factor 1/n does not belong here: this loss is a sum over the training points.",
            lambda k, kk, y, t: _elsewhere(k, kk, y, t / len(y)),
        ),
        Mistake(
            "the sign is turned: from zero the outputs move towards the targets.",
            lambda *arguments: -_elsewhere(*arguments),
        ),
        Mistake(
            "this is ridge regression with alpha = 1/t: a similar filter, but not this one.",
            lambda k, kk, y, t: k @ np.linalg.solve(kk + np.eye(len(y)) / t, y),
        ),
        Mistake(
            "this is the first step only, t k_test y: the errors shrink on the way, and pull less and less.",
            lambda k, kk, y, t: t * k @ y,
        ),
        Mistake(
            "a factor 2 too much in the exponent: the loss is 1/2 the sum of squares, and its 1/2 cancels the 2 "
            "of the square.",
            lambda k, kk, y, t: _elsewhere(k, kk, y, 2 * t),
        ),
        Mistake(
            "the targets were never taken to the modes: Q.T @ y comes first.",
            lambda k, kk, y, t: k @ np.linalg.eigh(kk)[1] @ (_learnt(np.linalg.eigvalsh(kk), t) * y),
        ),
        Mistake(
            "the modes were not taken back to the points: Q stands between k_test and the factors.",
            lambda k, kk, y, t: k @ (_learnt(np.linalg.eigvalsh(kk), t) * (np.linalg.eigh(kk)[1].T @ y)),
        ),
        Mistake(
            "you divided twice by the eigenvalues: the inverse kernel stands there once.",
            lambda k, kk, y, t: k @ np.linalg.solve(kk, np.linalg.solve(kk, (np.eye(len(y)) - _decay(kk, t)) @ y)),
        ),
        Mistake(
            "that is the inverse of each entry. The inverse of a matrix is np.linalg.solve, or 1/lam in every mode.",
            lambda k, kk, y, t: k @ (1 / kk) @ (np.eye(len(y)) - _decay(kk, t)) @ y,
        ),
        Mistake(
            "this is the matrix that turns targets into outputs. Multiply it by y.",
            lambda k, kk, y, t: k @ np.linalg.solve(kk, np.eye(len(y)) - _decay(kk, t)),
        ),
        Mistake(
            "the part that has been learnt is squared: it stands there once.",
            lambda k, kk, y, t: (
                k @ np.linalg.solve(kk, (np.eye(len(y)) - _decay(kk, t)) @ (np.eye(len(y)) - _decay(kk, t)) @ y)
            ),
        ),
    ),
    praise="all right: the mean of infinitely many wide networks, chapter 06 says why",
)


def check_outputs_elsewhere(answer: Any) -> Result:
    """Judge `answer(k_test, k_train, y, t)`: the outputs at the test points after the time t, from zero."""
    return judge(answer, OUTPUTS_ELSEWHERE)


EXERCISES = {
    "errors_after": (check_errors_after, ERRORS_AFTER),
    "steps_until": (check_steps_until, STEPS_UNTIL),
    "largest_rate": (check_largest_rate, LARGEST_RATE),
    "outputs_elsewhere": (check_outputs_elsewhere, OUTPUTS_ELSEWHERE),
}
