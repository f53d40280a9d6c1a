"""Exercises of chapter 07: components at new pictures, what is learnt by time t, and what wrong labels cost."""

from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- what the cases are made of


def _case(name, seed, n, n_new, kept):
    """A kernel exp(x . x') of n + n_new random points, and the first components of the n."""
    x = generator(seed).standard_normal((n + n_new, 3)) / 2
    k = np.exp(x @ x.T)
    eigenvalues, modes = np.linalg.eigh(k[:n, :n])
    return name, k[n:, :n], modes[:, ::-1][:, :kept] * n**0.5, eigenvalues[::-1][:kept] / n


_BASIS = (
    _case("4 pictures, 2 components", 0, 4, 3, 2),
    _case("6 pictures, all components", 1, 6, 2, 6),
    _case("9 pictures, 4 components", 2, 9, 5, 4),
)

# ---------------------------------------------------------------- 1: a component at new pictures


def _extend(k_new_train, functions, eigenvalues):
    return k_new_train @ functions / (len(functions) * eigenvalues)


EXTEND = Exercise(
    "check_extend",
    _extend,
    tuple(Case(name, (k, f, lam)) for name, k, f, lam in _BASIS),
    (
        Mistake(
            "the factor 1/N is missing: the eigenvalues are those of K/N, so the sum over the N pictures is a mean.",
            lambda k, f, lam: k @ f / lam,
        ),
        Mistake(
            "the eigenvalue is missing: the mean of K(x, x_j) f(x_j) is lambda f(x), not yet f(x).",
            lambda k, f, lam: k @ f / len(f),
        ),
        Mistake(
            "you divided by the square root of the eigenvalue. That gives coordinates for a picture, as kernel PCA "
            "plots them, but not the function itself: put the training pictures in, and f does not come back.",
            lambda k, f, lam: k @ f / (len(f) * np.sqrt(lam)),
        ),
        Mistake(
            "you multiplied by the eigenvalue. The mean of K(x, x_j) f(x_j) is lambda f(x) already: divide.",
            lambda k, f, lam: k @ f / len(f) * lam,
        ),
        Mistake(
            "your answer is transposed: rows belong to new pictures, columns to components.",
            lambda k, f, lam: _extend(k, f, lam).T,
        ),
        Mistake(
            "you divided by the number of new pictures. The mean runs over the training pictures, N = len(functions).",
            lambda k, f, lam: k @ f / (len(k) * lam),
        ),
        Mistake(
            "you divided by the root of N: the sum over the N pictures is a mean, divided by N.",
            lambda k, f, lam: k @ f / (len(f) ** 0.5 * lam),
        ),
        Mistake(
            "one 1/N too many: these eigenvalues are those of K/N, and the sum over the pictures is divided by N once.",
            lambda k, f, lam: k @ f / (len(f) ** 2 * lam),
        ),
        Mistake(
            "you divided by the number of components. The mean runs over the N training pictures.",
            lambda k, f, lam: k @ f / (f.shape[1] * lam),
        ),
        Mistake(
            "you took the mean off. The tangent kernel's components are not centred: training does not centre either.",
            lambda k, f, lam: _extend(k, f, lam) - _extend(k, f, lam).mean(0),
        ),
        Mistake(
            "you scaled the functions to mean square 1 on the new pictures. Their size is fixed by the training "
            "pictures.",
            lambda k, f, lam: _extend(k, f, lam) / np.sqrt((_extend(k, f, lam) ** 2).mean(0)),
        ),
    ),
    praise="all right: the kernel carries a function from the training pictures to every other picture",
)


def check_extend(answer: Any) -> Result:
    """Judge `answer(k_new_train, functions, eigenvalues)`: principal functions at new pictures, (n_new, m)."""
    return judge(answer, EXTEND)


# ---------------------------------------------------------------- 2: what has been learnt


def _learnt(k_new_train, functions, eigenvalues, y, lr, steps):
    part = 1 - np.exp(-lr * steps * eigenvalues)
    return _extend(k_new_train, functions, eigenvalues) @ (part * (functions.T @ y) / len(y))


def _changed(part=None, divide=True, extend=_extend):
    """The same with one thing wrong."""

    def answer(k, f, lam, y, lr, steps):
        default = 1 - np.exp(-lr * steps * lam)
        learnt = default if part is None else part(lam, lr, steps, len(y))
        return extend(k, f, lam) @ (learnt * (f.T @ y)) / (len(y) if divide else 1)

    return answer


LEARNT = Exercise(
    "check_learnt_at_new",
    _learnt,
    tuple(
        Case(
            f"{name}, rate {lr}, {steps} steps",
            (k, f, lam, generator(9).standard_normal(len(f)), lr, steps),
        )
        for (name, k, f, lam), lr, steps in zip(_BASIS, (0.3, 0.5, 1.5), (2, 7, 12))
    ),
    (
        Mistake(
            "this is what is still to be learnt, exp(-lr lambda t). What has been learnt is 1 minus that.",
            _changed(lambda lam, lr, steps, n: np.exp(-lr * steps * lam)),
        ),
        Mistake(
            "the learning rate is missing from the exponent: time is lr times steps.",
            _changed(lambda lam, lr, steps, n: 1 - np.exp(-steps * lam)),
        ),
        Mistake(
            "one 1/N too many in the exponent: these eigenvalues are those of K/N already.",
            _changed(lambda lam, lr, steps, n: 1 - np.exp(-lr * steps * lam / n)),
        ),
        Mistake(
            "the exponent is N times too large: these eigenvalues are those of K/N, and the loss is a mean.",
            _changed(lambda lam, lr, steps, n: 1 - np.exp(-lr * steps * lam * n)),
        ),
        Mistake(
            "a factor 2 too much in the exponent: the loss has 1/2 in front of the square.",
            _changed(lambda lam, lr, steps, n: 1 - np.exp(-2 * lr * steps * lam)),
        ),
        Mistake(
            "the coefficient of a function is a mean over the pictures: divide the sum of f(x_j) y_j by N.",
            _changed(divide=False),
        ),
        Mistake(
            "the inverse kernel is missing: the functions at new pictures are the mean of K(x, x_j) f(x_j) divided by "
            "the eigenvalue (exercise 1). Test yours at t = infinity: it does not give y back.",
            _changed(extend=lambda k, f, lam: k @ f / len(f)),
        ),
        Mistake(
            "this is the end of training: the factor 1 - exp(-lr lambda steps) is missing.",
            _changed(lambda lam, lr, steps, n: 1.0),
        ),
        Mistake(
            "you divided by the number of new pictures. The coefficient is a mean over the N training pictures.",
            lambda k, f, lam, y, lr, steps: _learnt(k, f, lam, y, lr, steps) * len(y) / len(k),
        ),
        Mistake(
            "you divided by the root of N: the coefficient of a function is a mean, divided by N.",
            lambda k, f, lam, y, lr, steps: _learnt(k, f, lam, y, lr, steps) * len(y) ** 0.5,
        ),
        Mistake(
            "this is exact for real steps, (1 - lr lambda)^steps. Asked is the formula of the flow.",
            _changed(lambda lam, lr, steps, n: 1 - (1 - lr * lam) ** steps),
        ),
        Mistake(
            "what has been learnt is squared: it stands there once. (In the risk of exercise 3 it is squared.)",
            _changed(lambda lam, lr, steps, n: (1 - np.exp(-lr * steps * lam)) ** 2),
        ),
        Mistake(
            "these are outputs at the training pictures: the functions must be carried to the new ones.",
            _changed(extend=lambda k, f, lam: f),
        ),
        Mistake(
            "each component is here on its own. The output is their sum.",
            lambda k, f, lam, y, lr, steps: _extend(k, f, lam) * ((1 - np.exp(-lr * steps * lam)) * (f.T @ y) / len(y)),
        ),
    ),
    praise="all right: with all components this is the whole training, at every time",
)


def check_learnt_at_new(answer: Any) -> Result:
    """Judge `answer(k_new_train, functions, eigenvalues, y, lr, steps)`: outputs at new pictures, (n_new,)."""
    return judge(answer, LEARNT)


# ---------------------------------------------------------------- 3: what wrong labels cost


def _risk(eigenvalues, y_coefficients, share, n, t):
    part = 1 - np.exp(-eigenvalues * t)
    return _risk_of(part, y_coefficients, share, n)


def _risk_of(part, y_coefficients, share, n, *, spread=None, fade=None, power=2):
    spread = 4 * share * (1 - share) / n if spread is None else spread
    fade = 1 - 2 * share if fade is None else fade
    return (((1 - part) * fade * y_coefficients) ** 2 + part**power * spread).sum()


def _wrong_risk(**change):
    def answer(eigenvalues, y_coefficients, share, n, t):
        part = 1 - np.exp(-eigenvalues * t)
        values: dict[str, Any] = {name: value(share, n) if callable(value) else value for name, value in change.items()}
        return _risk_of(part, y_coefficients, share, n, **values)

    return answer


_COEFFICIENTS = np.array([0.1, 0.8, -0.5, 0.2, 0.1])
_EIGENVALUES = np.array([2.0, 0.5, 0.2, 0.05, 0.01])

RISK = Exercise(
    "check_expected_risk",
    _risk,
    tuple(
        Case(f"{share:.0%} wrong labels, t = {t:g}", (_EIGENVALUES, _COEFFICIENTS, share, 5, t))
        for share, t in ((0.2, 3.0), (0.1, 10.0), (0.4, 1.0))
    ),
    (
        Mistake(
            "the two parts are exchanged: what is missing of the signal is exp(-lambda t), what is taken of the noise "
            "is 1 - exp(-lambda t).",
            lambda lam, c, share, n, t: _risk_of(np.exp(-lam * t), c, share, n),
        ),
        Mistake(
            "the noise in a component is a mean over N labels: its variance is 4 p (1 - p)/N, not that of one label.",
            _wrong_risk(spread=lambda share, n: 4 * share * (1 - share)),
        ),
        Mistake(
            "a factor 4 is missing in the noise: a wrong label moves by 2, from y to -y.",
            _wrong_risk(spread=lambda share, n: share * (1 - share) / n),
        ),
        Mistake(
            "the signal is (1 - 2p) y: wrong labels also make the mean label smaller.",
            _wrong_risk(fade=1.0),
        ),
        Mistake(
            "the part of the noise that is learnt is squared too: an error of 1 - exp(-lambda t) times the noise.",
            _wrong_risk(power=1),
        ),
        Mistake(
            "the noise is missing: without it, there would be no reason to stop.",
            _wrong_risk(spread=0.0),
        ),
        Mistake(
            "this is the distance from the true labels. Asked is that from the mean label, (1 - 2p) y: the truth "
            "is (1 - 2p) y from the start.",
            lambda lam, c, share, n, t: (
                _risk(lam, c, share, n, t)
                - ((np.exp(-lam * t) * (1 - 2 * share) * c) ** 2).sum()
                + (((1 - (1 - np.exp(-lam * t)) * (1 - 2 * share)) * c) ** 2).sum()
            ),
        ),
        Mistake(
            "this is the mean over the components: the squared distance is their sum.",
            lambda lam, c, share, n, t: _risk(lam, c, share, n, t) / len(lam),
        ),
        Mistake(
            "what is missing of the truth is squared too: exp(-2 lambda t), not exp(-lambda t).",
            lambda lam, c, share, n, t: (
                np.exp(-lam * t) * ((1 - 2 * share) * c) ** 2
                + (1 - np.exp(-lam * t)) ** 2 * 4 * share * (1 - share) / n
            ).sum(),
        ),
        Mistake(
            "the mean label is (1 - 2p) y, not (1 - p) y: a wrong label counts against the truth.",
            _wrong_risk(fade=lambda share, n: 1 - share),
        ),
        Mistake(
            "the variance of one label is 1 - (1 - 2p)^2 = 4 p (1 - p), not 4p.",
            _wrong_risk(spread=lambda share, n: 4 * share / n),
        ),
        Mistake(
            "in the truth 1 - 2p stands squared, as the coefficient does.",
            _wrong_risk(fade=lambda share, n: np.sqrt(abs(1 - 2 * share))),
        ),
        Mistake(
            "this is the root of it. Asked is the squared distance.",
            lambda *arguments: np.sqrt(_risk(*arguments)),
        ),
        Mistake(
            "the noise is a standard deviation here. The variance, 4 p (1 - p)/N, belongs there.",
            _wrong_risk(spread=lambda share, n: np.sqrt(4 * share * (1 - share) / n)),
        ),
        Mistake(
            "one 1/N too many in the time: these eigenvalues are those of K/N already.",
            lambda lam, c, share, n, t: _risk(lam, c, share, n, t / n),
        ),
    ),
    praise="all right: two sums, one falls and one rises, and their lowest point is the time to stop",
)


def check_expected_risk(answer: Any) -> Result:
    """Judge `answer(eigenvalues, y_coefficients, share, n, t)`: the expected squared error, a number."""
    return judge(answer, RISK)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "straight_line" moves."""
    return Predict(
        "At width 64, the target is made ten times closer to the start (size 0.1 in place of 1). What happens to "
        "their path?",
        {
            "It becomes straight: near the start the kernel is constant.": (
                "The kernel hardly changes now, and the blue curves lie on the green ones. But green is not "
                "straight. The panel shows size 0.1."
            ),
            "It follows its own kernel, frozen at the start, and is as crooked as that.": (
                "Blue lies near green: what is left is the draw of the weights, and only width cures it. The "
                "panel shows size 0.1."
            ),
            "Nothing: only the width counts.": (
                "The width sets the draw. But how far training moves the kernel depends on how far the target is."
                " The panel shows size 0.1; go to size 1 to compare."
            ),
        },
        answer="It follows its own kernel, frozen at the start, and is as crooked as that.",
        panel=panel,
        look={"t": 4, "width": 64, "size": 0.1},
    )


# ---------------------------------------------------------------- the missions


def mission_straight(panel: Panel) -> Mission:
    """On "straight_line": a deviation that the draw made, not training."""
    return Mission(
        panel,
        "At λ₂t = 4, find a setting at which the networks were more than 15 % off the line at worst, although their "
        "kernel along component 2 has grown by less than 30 %.",
        lambda data, state: state["t"] == 4 and data["worst"] > 0.15 and data["growth"] < 1.3,
        hint="Training moves the kernel the more, the farther the target is. The draw does not know the target.",
        hint_after=6,
    )


def mission_stop(panel: Panel) -> Mission:
    """On "noisy_labels": stop in time."""
    return Mission(
        panel,
        "With 30 % wrong labels: stop when fewer than 8 % of the answers on new pictures are wrong.",
        lambda data, state: abs(state["share"] - 0.3) < 1e-6 and data["here"] < 0.08,
        hint="Which components stand above the noise line? Give them time, and the others none.",
        hint_after=6,
    )


EXERCISES = {
    "extend": (check_extend, EXTEND),
    "learnt_at_new": (check_learnt_at_new, LEARNT),
    "expected_risk": (check_expected_risk, RISK),
}
