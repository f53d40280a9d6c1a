"""Exercises of chapter 13: the effective ridge, two sides of a peak, the end of training from f_0, the asinh law."""

from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.generalization import EXAMPLES, RIDGES, arrays, degree_arrays, rises
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: the effective ridge


def _z(lam, n, ridge, *, excess=None):
    """The root of z = ridge + z sum lam/(n lam + z), or of another right side, by halving of log z."""
    excess = excess or (lambda z: ridge + z * (lam / (n * lam + z)).sum())
    low, high = -60.0, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        z = np.exp(middle)
        low, high = (middle, high) if excess(z) > z else (low, middle)
    return float(np.exp(high))


def _other(right_side):
    """A wrong answer: the root of z = right_side(z, lam, n, ridge)."""
    return lambda lam, n, ridge: _z(lam, n, ridge, excess=lambda z: right_side(z, lam, n, ridge))


_modes = lambda count, power: np.arange(1, count + 1) ** -float(power)

EFFECTIVE_RIDGE = Exercise(
    "check_effective_ridge",
    _z,
    (
        Case("ten modes, four examples, no ridge", (_modes(10, 1), 4, 0.0)),
        Case("ten modes, four examples, ridge 0.3", (_modes(10, 1), 4, 0.3)),
        Case("200 modes, 50 examples", (_modes(200, 2), 50, 0.01)),
    ),
    (
        Mistake(
            "this takes all modes for unlearnt: ridge + the sum of all eigenvalues. A mode that is learnt (nλ far "
            "above z) adds no more than z/n.",
            lambda lam, n, ridge: ridge + lam.sum(),
        ),
        Mistake(
            "the ridge is missing: this is the z of interpolation.",
            _other(lambda z, lam, n, ridge: z * (lam / (n * lam + z)).sum()),
        ),
        Mistake(
            "the factor z in front of the sum is missing: each mode adds λ z/(nλ + z), which is λ where n is small.",
            _other(lambda z, lam, n, ridge: ridge + (lam / (n * lam + z)).sum()),
        ),
        Mistake(
            "n is missing in the denominator: more examples would change nothing.",
            _other(lambda z, lam, n, ridge: ridge + z * (lam / (lam + z)).sum()),
        ),
        Mistake(
            "you added n times the ridge. On the diagonal of the kernel matrix stands the ridge itself.",
            lambda lam, n, ridge: _z(lam, n, n * ridge),
        ),
        Mistake(
            "this is z/n. Compare the mode's nλ with z, or λ with z/n.",
            lambda lam, n, ridge: _z(lam, n, ridge) / n,
        ),
    ),
    praise="all right: what is not learnt acts as ridge",
)


def check_effective_ridge(answer: Any) -> Result:
    """Judge `answer(eigenvalues, n, ridge)`: the z of section 2, a number."""
    return judge(answer, EFFECTIVE_RIDGE)


# ---------------------------------------------------------------- 2: two sides of a peak


def _peak(p, n, signal, noise, *, bias=lambda r: 1 - r, beyond=lambda p, n: n / (p - n), more=0.0):
    if p < n:
        return noise * p / (n - p) + more * noise
    return signal * bias(n / p) + noise * beyond(p, n) + more * noise


PEAK = Exercise(
    "check_equal_modes",
    _peak,
    (
        Case("half as many modes as examples", (50, 100, 1.0, 0.25)),
        Case("a tenth more modes than examples", (110, 100, 2.0, 0.5)),
        Case("ten times as many", (1000, 100, 1.0, 0.25)),
    ),
    (
        Mistake(
            "beyond n the modes outnumber the examples, and a share 1 - n/p of the target is never seen: the signal is "
            "missing.",
            partial(_peak, bias=lambda r: 0.0),
            also=(partial(_peak, bias=lambda r: 0.0, beyond=lambda p, n: p / (p - n)),),
        ),
        Mistake(
            "(1 - n/p)² is the part that is missed before the division by 1 - γ, and γ = n/p: one power is left.",
            partial(_peak, bias=lambda r: (1 - r) ** 2),
        ),
        Mistake(
            "beyond the peak the roles of p and n change: the noise adds n/(p - n), which vanishes for many modes.",
            partial(_peak, beyond=lambda p, n: p / (p - n)),
        ),
        Mistake(
            "this has no peak: 1/(1 - γ) is missing. Near p = n it is large.",
            lambda p, n, signal, noise: signal * max(1 - n / p, 0) ** 2 + noise * min(n / p, p / n),
        ),
        Mistake(
            "this is the error against noisy targets, larger by the noise. Asked is the error against clean ones.",
            partial(_peak, more=1.0),
        ),
        Mistake(
            "the formula for p < n does not hold beyond it: it turns negative there.",
            lambda p, n, signal, noise: noise * p / (n - p),
        ),
    ),
    praise="all right: a peak from two lines, with no network in it",
)


def check_equal_modes(answer: Any) -> Result:
    """Judge `answer(p, n, signal, noise)`: the test error without ridge with p equal modes, p not n."""
    return judge(answer, PEAK)


# ---------------------------------------------------------------- 3: the end of training


def _end(f0_train, f0_test, k_train, k_test, y, *, at_train=1.0, at_test=1.0, sign=1.0):
    return at_test * f0_test + sign * k_test @ np.linalg.solve(k_train, y - at_train * f0_train)


def _end_case(name, seed, n, m):
    rng = generator(seed)
    features = rng.standard_normal((n + m, n + 4))
    k = features @ features.T / (n + 4)
    f0, y = rng.standard_normal(n + m), rng.standard_normal(n)
    return Case(name, (f0[:n], f0[n:], k[:n, :n], k[n:, :n], y))


INTERPOLANT = Exercise(
    "check_interpolant",
    _end,
    (_end_case("three examples", 1, 3, 4), _end_case("eight examples", 2, 8, 2), _end_case("one test input", 3, 5, 1)),
    (
        Mistake(
            "this is the interpolant of least norm from zero. Training starts at f_0, and ends nearest to f_0.",
            partial(_end, at_train=0.0, at_test=0.0),
        ),
        Mistake(
            "the start at the test inputs is missing: what the kernel adds is the change from f_0.",
            partial(_end, at_test=0.0),
        ),
        Mistake(
            "the start at the training inputs is missing: there the network has y - f_0 left to learn, not y.",
            partial(_end, at_train=0.0),
        ),
        Mistake(
            "the inverse kernel is missing: at the training inputs this does not give y.",
            lambda f0, g0, k, k_test, y: g0 + k_test @ (y - f0),
        ),
        Mistake("the sign is wrong: the output goes towards the targets.", partial(_end, sign=-1.0)),
    ),
    praise="all right: nearest to where it began, as the kernel measures",
)


def check_interpolant(answer: Any) -> Result:
    """Judge `answer(f0_train, f0_test, k_train, k_test, y)`: outputs (m,) at the test inputs, when training ends."""
    return judge(answer, INTERPOLANT)


# ---------------------------------------------------------------- 4: the asinh law


def _law(alpha, s, *, rate=4.0, shape=np.sinh, power=2, factor=2.0):
    return factor * alpha**power * shape(rate * np.asarray(s, float))


_pull = np.array([0.3, -1.0, 0.0, 0.7])

ASINH_LAW = Exercise(
    "check_diagonal_weights",
    _law,
    (
        Case("alpha = 1", (1.0, _pull)),
        Case("alpha = 0.1", (0.1, 1.5 * _pull)),
        Case("alpha = 3, a small pull", (3.0, 0.01 * _pull)),
    ),
    (
        Mistake(
            "this is the lazy limit: sinh(x) is x for a small pull only.",
            partial(_law, shape=lambda x: x),
        ),
        Mistake(
            "u grows as exp(2 s), and its square as exp(4 s).",
            partial(_law, rate=2.0),
        ),
        Mistake(
            "each weight is a square: alpha enters squared.",
            partial(_law, power=1),
        ),
        Mistake(
            "v is missing: it shrinks as u grows, and w = u² - v² begins at zero.",
            lambda alpha, s: alpha**2 * np.exp(4 * np.asarray(s, float)),
        ),
        Mistake(
            "the factor 2 is missing: the difference of two exponentials is 2 sinh.",
            partial(_law, factor=1.0),
        ),
        Mistake("the sign is wrong: w moves the way it is pulled.", partial(_law, factor=-2.0)),
    ),
    praise="all right: a sinh, which is what makes small starts sparse",
)


def check_diagonal_weights(answer: Any) -> Result:
    """Judge `answer(alpha, s)`: w = u² - v², from u = v = alpha, after the pull s = the integral of X^T (y - X w)."""
    return judge(answer, ASINH_LAW)


# ---------------------------------------------------------------- the questions and the missions


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "double_descent" moves."""
    return Predict(
        "300 random features, almost no ridge, noise 0.25, 50 dimensions. You have 150 examples (N/n = 2, test error "
        "0.5) and may double them to 300 (N/n = 1). What does the test error do?",
        {
            "It falls, to about a half: more data never hurt.": (
                "They do here. Read the curve of n/d = 6 at N/n = 1, and compare it with that of n/d = 3 at N/n = 2."
            ),
            "It stays: both fit their examples exactly.": (
                "Both do, but at N = n there is one way to fit, and it is a bad one. Read the curves at N/n = 2 and 1."
            ),
            "It rises, about fourfold.": (
                "From 0.50 to 2.06: at N = n the only function that fits the noise is a wild one. With 150 examples "
                "there were many, and the one of least norm was calm."
            ),
            "It rises to a hundredfold.": (
                "It would without any ridge, in infinitely many dimensions. Read the peak for the ridge of 1e-4."
            ),
        },
        answer="It rises, about fourfold.",
        panel=panel,
        look={"samples": 6.0, "ridge": RIDGES[0], "noise": 0.25},
    )


def predict_degrees(panel: Panel) -> Predict:
    """The question to answer before the panel "learnt_degrees" moves."""
    return Predict(
        "In 15 dimensions there are 1, 15 and 119 harmonics of the degrees 0, 1 and 2: 135 numbers. You have 128 "
        "examples. How much of the target's part of degree 2 is learnt?",
        {
            "Nearly all: 128 is nearly 135.": (
                "Examples are not spent on low degrees alone: all the higher ones pull too, as a ridge. See the bars."
            ),
            "About a third.": (
                "λ n is about half of z there. The examples are shared among all modes, by their eigenvalues."
            ),
            "Nothing yet: it begins when degree 1 is finished.": (
                "There is no queue. Each degree has its share λn/(λn + z) at every n: see the bars."
            ),
            "119 of 135: about 90 %.": (
                "That would be the share if all modes up to degree 2 were alike, and higher ones absent. See the bars."
            ),
        },
        answer="About a third.",
        panel=panel,
        look={"n": 128.0},
    )


def mission(panel: Panel) -> Mission:
    """The least ridge that removes the peak, on "double_descent"."""
    return Mission(
        panel,
        "As much noise as signal (τ² = 1) and n/d = 3: find the smallest ridge λ with which the test error never rises "
        "as features are added.",
        _is_least_ridge,
        hint="The reading says whether it rises. Begin at the right end of the slider.",
        hint_after=6,
    )


def _is_least_ridge(data: dict[str, Any], state: dict[str, float]) -> bool:
    at = RIDGES.index(state["ridge"])
    if state["noise"] != 1 or state["samples"] != 3 or rises(data["error"]) or at == 0:
        return False
    return rises(arrays(**{**state, "ridge": RIDGES[at - 1]})["error"])


def mission_degrees(panel: Panel) -> Mission:
    """The least number of examples for half of degree 3, on "learnt_degrees"."""
    return Mission(
        panel,
        "Find the smallest n (of the slider's) that teaches more than half of degree 3. How many harmonics has it?",
        _is_least_n,
        hint="Degree 3 has 665 harmonics. Half of them is not enough: read its share.",
        hint_after=6,
    )


def _is_least_n(data: dict[str, Any], state: dict[str, float]) -> bool:
    at = int(np.argmin(np.abs(EXAMPLES - state["n"])))
    if data["shares"][3] <= 0.5 or at == 0:
        return False
    return float(degree_arrays(**{**state, "n": float(EXAMPLES[at - 1])})["shares"][3]) <= 0.5


EXERCISES = {
    "effective_ridge": (check_effective_ridge, EFFECTIVE_RIDGE),
    "equal_modes": (check_equal_modes, PEAK),
    "interpolant": (check_interpolant, INTERPOLANT),
    "diagonal_weights": (check_diagonal_weights, ASINH_LAW),
}
