"""Exercises of chapter 16: evidence and its slope, honest error bars, leaving an example out, adding two tasks."""

from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.kernels_at_work import KEPT
from .checking import Case, Exercise, Mistake, Result, generator, judge


def _kernel(n, seed):
    """A positive definite matrix (n, n) with unequal diagonal, and targets (n,)."""
    rng = generator(seed)
    a = rng.standard_normal((n, n + 2))
    return a @ a.T / n + 0.2 * np.eye(n), rng.standard_normal(n)


# ---------------------------------------------------------------- 1: the slope of the evidence


def _slope(k, slope_of_k, y, *, fit=0.5, volume=0.5):
    inverse = np.linalg.inv(k)
    weights = inverse @ y
    return fit * weights @ slope_of_k @ weights - volume * np.trace(inverse @ slope_of_k)


def _slope_case(name, n, seed):
    k, y = _kernel(n, seed)
    return Case(name, (k, _kernel(n, seed + 50)[0], y))


EVIDENCE_SLOPE = Exercise(
    "check_evidence_slope",
    _slope,
    (_slope_case("four points", 4, 0), _slope_case("seven points", 7, 1), _slope_case("two points", 2, 2)),
    (
        Mistake(
            "this is the slope of the fit to the data alone. It always asks for a larger kernel: the volume, the slope "
            "of log |K|, is what evidence has and training error has not.",
            partial(_slope, volume=0.0),
        ),
        Mistake(
            "both halves are missing: log p has -1/2 in front of both terms.", partial(_slope, fit=1.0, volume=1.0)
        ),
        Mistake("the 1/2 of the fit is missing.", partial(_slope, fit=1.0)),
        Mistake("the 1/2 of log |K| is missing.", partial(_slope, volume=1.0)),
        Mistake(
            "the sign is that of the loss -log p: the evidence is what should rise.",
            partial(_slope, fit=-0.5, volume=-0.5),
        ),
        Mistake(
            "the slope of K^{-1} is -K^{-1} K' K^{-1}: its minus and that of the fit make a plus.",
            partial(_slope, fit=-0.5),
        ),
        Mistake(
            "y stands where K^{-1} y belongs: both sides of K' have their K^{-1}.",
            lambda k, slope, y: y @ slope @ y / 2 - np.trace(np.linalg.inv(k) @ slope) / 2,
        ),
        Mistake(
            "the trace is that of the product K^{-1} K', not of K' alone.",
            lambda k, slope, y: _slope(k, slope, y, volume=0.0) - np.trace(slope) / 2,
        ),
    ),
    praise="all right: the fit pulls one way, the volume the other",
)


def check_evidence_slope(answer: Any) -> Result:
    """Judge `answer(k, slope_of_k, y)`: the derivative of log N(y; 0, K) along K' = slope_of_k, one number."""
    return judge(answer, EVIDENCE_SLOPE)


# ---------------------------------------------------------------- 2: honest error bars


def _covered(mean, std, noise, y, *, width=1.645, share=1.0, root=False):
    spread = std + np.sqrt(noise) if root else np.sqrt(std**2 + share * noise)
    return np.mean(np.abs(y - mean) <= width * spread)


def _coverage_case(name, n, noise, seed):
    rng = generator(seed)
    std = rng.uniform(0.05, 0.4, n)
    mean = rng.standard_normal(n)
    return Case(name, (mean, std, noise, mean + np.sqrt(std**2 + noise) * rng.standard_normal(n)))


COVERAGE = Exercise(
    "check_coverage",
    _covered,
    (
        _coverage_case("400 answers with noise", 400, 0.3, 0),
        _coverage_case("300 with little noise", 300, 0.03, 1),
        _coverage_case("200 others", 200, 0.1, 2),
    ),
    (
        Mistake(
            "these are intervals for the function. A new *observation* has its noise on top: variances add.",
            partial(_covered, share=0.0),
        ),
        Mistake("variances add, standard deviations do not.", partial(_covered, root=True)),
        Mistake("1.96 standard deviations hold 95 %; 90 % are in 1.645.", partial(_covered, width=1.96)),
        Mistake(
            "1.28 standard deviations leave a tenth on *one* side; 90 % between both are in 1.645.",
            partial(_covered, width=1.2816),
        ),
        Mistake("one standard deviation holds 68 %; 90 % are in 1.645.", partial(_covered, width=1.0)),
        Mistake(
            "`noise` is a variance already: do not square it.",
            lambda mean, std, noise, y: _covered(mean, std, noise**2, y),
        ),
        Mistake("this is the share outside.", lambda mean, std, noise, y: 1 - _covered(mean, std, noise, y)),
    ),
    praise="all right: what was promised, and what came",
)


def check_coverage(answer: Any) -> Result:
    """Judge `answer(mean, std, noise, y)`: the share of observations y inside their central 90 % intervals."""
    return judge(answer, COVERAGE)


# ---------------------------------------------------------------- 3: leave one out


def _left_out(k, y, ridge, *, own=1.0):
    inverse = np.linalg.inv(k + own * ridge * np.eye(len(y)))
    return inverse @ y / np.diag(inverse)


def _leave_case(name, n, ridge, seed):
    return Case(name, (*_kernel(n, seed), ridge))


LEFT_OUT = Exercise(
    "check_left_out",
    _left_out,
    (
        _leave_case("five examples", 5, 0.1, 3),
        _leave_case("eight examples", 8, 1.0, 4),
        _leave_case("three examples", 3, 0.02, 5),
    ),
    (
        Mistake(
            "these are the residuals of the model that *has* seen the examples, ridge times their weights: near zero "
            "for everyone where the ridge is small.",
            lambda k, y, ridge: ridge * np.linalg.solve(k + ridge * np.eye(len(y)), y),
        ),
        Mistake(
            "these are the representer weights (K + ridge)^{-1} y. Divide each by its diagonal entry of the inverse.",
            lambda k, y, ridge: np.linalg.solve(k + ridge * np.eye(len(y)), y),
        ),
        Mistake(
            "this divides by the diagonal of K + ridge; it is the diagonal of the *inverse* that counts.",
            lambda k, y, ridge: np.linalg.solve(k + ridge * np.eye(len(y)), y) / (np.diag(k) + ridge),
        ),
        Mistake(
            "this multiplies by the diagonal of K + ridge. It is 1 over the diagonal of the inverse only where "
            "examples do not know of each other.",
            lambda k, y, ridge: np.linalg.solve(k + ridge * np.eye(len(y)), y) * (np.diag(k) + ridge),
        ),
        Mistake("the ridge is missing.", partial(_left_out, own=0.0)),
        Mistake("the sign: the residual is y minus the answer.", lambda *given: -_left_out(*given)),
        Mistake(
            "these are the answers of the models that have not seen the example; asked is y minus them.",
            lambda k, y, ridge: y - _left_out(k, y, ridge),
        ),
    ),
    praise="all right: n models for the price of one",
)


def check_left_out(answer: Any) -> Result:
    """Judge `answer(k, y, ridge)`: y_i minus the answer at x_i of kernel regression without example i, (n,)."""
    return judge(answer, LEFT_OUT)


# ---------------------------------------------------------------- 4: whom it helps


def _effect(k_new, k, y, ridge):
    inverse = np.linalg.inv(k + ridge * np.eye(len(y)))
    return (k_new @ inverse) * (inverse @ y / np.diag(inverse))


def _effect_case(name, n, m, ridge, seed):
    k, y = _kernel(n + m, seed)
    return Case(name, (k[n:, :n], k[:n, :n], y[:n], ridge))


EFFECT = Exercise(
    "check_effect",
    _effect,
    (
        _effect_case("five examples, three new points", 5, 3, 0.1, 6),
        _effect_case("four examples, six new points", 4, 6, 0.5, 7),
        _effect_case("seven examples, two new points", 7, 2, 0.05, 8),
    ),
    (
        Mistake(
            "this is the example's term in the sum f(x) = Σ k(x, x_i) weight_i. When it is left out the other weights "
            "change too, and take over most of it.",
            lambda k_new, k, y, ridge: k_new * np.linalg.solve(k + ridge * np.eye(len(y)), y),
        ),
        Mistake(
            "this is the kernel times the left-out residual. At a new point the example has the weight "
            "(k_new (K + ridge)^{-1})_i, as the others speak for it as well.",
            lambda k_new, k, y, ridge: k_new * _left_out(k, y, ridge),
        ),
        Mistake(
            "the weight is right, but it is multiplied with the residual of the model that has seen the example. "
            "Take the one that has not.",
            lambda k_new, k, y, ridge: (
                k_new
                @ np.linalg.inv(k + ridge * np.eye(len(y)))
                * (ridge * np.linalg.solve(k + ridge * np.eye(len(y)), y))
            ),
        ),
        Mistake(
            "the weight is right, but it is multiplied with the target itself: an example that the others predict "
            "well adds little.",
            lambda k_new, k, y, ridge: (k_new @ np.linalg.inv(k + ridge * np.eye(len(y)))) * y,
        ),
        Mistake("the sign: with the example minus without it.", lambda *given: -_effect(*given)),
        Mistake("one row per new point, one column per example: this is transposed.", lambda *given: _effect(*given).T),
    ),
    praise="all right: a row of the kernel, and no training",
)


def check_effect(answer: Any) -> Result:
    """Judge `answer(k_new, k, y, ridge)`: f(x) with all examples minus f(x) without example i, (new, n)."""
    return judge(answer, EFFECT)


# ---------------------------------------------------------------- 5: two tasks in one network


def _added(before, first, second):
    return first + second - before


def _added_case(name, shape, seed):
    before, *moves = generator(seed).standard_normal((3, *shape))
    return Case(name, (before, before + moves[0], before + moves[1]))


ADDED = Exercise(
    "check_added",
    _added,
    (_added_case("six answers", (6,), 9), _added_case("four answers of three outputs", (4, 3), 10)),
    (
        Mistake(
            "this is the sum of the two networks: the start counts twice.", lambda before, first, second: first + second
        ),
        Mistake(
            "this is the mean of the two networks: half of each task.",
            lambda before, first, second: (first + second) / 2,
        ),
        Mistake(
            "these are the two changes alone: add them to the start.",
            lambda before, first, second: first + second - 2 * before,
        ),
        Mistake(
            "this takes the second task away instead of adding it.",
            lambda before, first, second: first - second + before,
        ),
    ),
    praise="all right: a linear model is linear",
)


def check_added(answer: Any) -> Result:
    """Judge `answer(before, first, second)`: outputs of a linearized network with the moves of both tasks added."""
    return judge(answer, ADDED)


# ---------------------------------------------------------------- the questions and the missions


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "who_helps" moves."""
    return Predict(
        "One of forty training pictures is left out, and the network trained again. Which one changes the answers at "
        "new pictures most?",
        {
            "A typical one: most new pictures look like it.": (
                "Many training pictures look like it too, and speak for it when it is gone: that in column 2, row 4 "
                "is missed by 0.04. The marked one is odd."
            ),
            "All the same: each is one in forty.": (
                "The ratio of the largest to the smallest is above a hundred: compare the marked one with column 2 of "
                "row 4."
            ),
            "An odd one, that the others would have got wrong.": (
                "The effect is the error at the picture without it, times a weight. The marked one is missed by 0.89: "
                "the others cannot speak for it."
            ),
        },
        answer="An odd one, that the others would have got wrong.",
        panel=panel,
        look={"column": 6, "row": 2, "width": 256},
    )


def predict_ten(panel: Panel) -> Predict:
    """The question to answer before the panel "ten_pictures" moves."""
    return Predict(
        "A kernel may have ten training pictures, one for each digit, and may draw them itself. The ten class means of "
        "400 pictures give 89 % right answers. What does it draw?",
        {
            "The class means: nothing represents a digit better.": (
                "It leaves them when it starts there, and gains. Read the right answers."
            ),
            "Ten clean, typical digits.": (
                "The answers get better while the pictures get less clean: look at the contrast around the strokes."
            ),
            "Smeared digits with negative strokes, and more right answers.": (
                "What counts is what separates a digit from the nine others; the dark places are where the others "
                "have ink."
            ),
        },
        answer="Smeared digits with negative strokes, and more right answers.",
        panel=panel,
        look={"step": KEPT[-1], "start": 1},
    )


def mission(panel: Panel) -> Mission:
    """The most harmful picture, on "who_helps"."""
    return Mission(
        panel,
        "Width 256: find the training picture that harms most, all new pictures together.",
        lambda data, state: state["width"] == 256 and data["number"] == data["all_totals"].argmin() + 1,
        hint="Its own error, left out, is large as well. It is an untypical picture in the lowest row.",
        hint_after=8,
    )


def mission_ten(panel: Panel) -> Mission:
    """The first step at which ten pictures from noise beat the class means, on "ten_pictures"."""
    return Mission(
        panel,
        "Start from noise: find the first of the kept steps at which ten pictures beat the ten class means.",
        _is_first_past,
        hint="Set the start to noise, and go up until the mark crosses the dotted line.",
        hint_after=6,
    )


def _is_first_past(data: dict[str, Any], state: dict[str, float]) -> bool:
    past = data["right"] > data["means"]
    return state["start"] == 0 and bool(past.any()) and KEPT.index(int(state["step"])) == int(past.argmax())


EXERCISES = {
    "evidence_slope": (check_evidence_slope, EVIDENCE_SLOPE),
    "coverage": (check_coverage, COVERAGE),
    "left_out": (check_left_out, LEFT_OUT),
    "effect": (check_effect, EFFECT),
    "added": (check_added, ADDED),
}
