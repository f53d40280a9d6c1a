"""Exercises of chapter 10: one layer as a map, the depth scale of a path, the condition number of a deep kernel."""

from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from .checking import Case, Exercise, Mistake, Result, judge

# ---------------------------------------------------------------- 1: one layer of erf


def _erf(W_std, b_std, q, c, *, square=True, bias=True, one=1.0, correlated=True, over="next", scale=2 / np.pi):
    """(q', c') of a layer, or what the usual mistakes make of it."""
    W2, b2 = (W_std**2, b_std**2) if square else (W_std, b_std)
    b2 = b2 if bias else 0.0
    T = lambda k: scale * np.arcsin(2 * k / (one + 2 * q))
    q_next = W2 * T(q) + b2
    top = W2 * T(q * c if correlated else c) + b2
    return np.array([q_next, top / {"next": q_next, "old": q, "nothing": 1.0}[over]])


def _without_bias_above(W_std, b_std, q, c):
    q_next = _erf(W_std, b_std, q, c)[0]
    return np.array([q_next, (_erf(W_std, b_std, q, c)[1] * q_next - b_std**2) / q_next])


NEXT_LAYER = Exercise(
    "check_next_layer",
    _erf,
    (
        Case("W_std 1.5, b_std 0.3", (1.5, 0.3, 0.8, 0.4)),
        Case("W_std 0.9, b_std 0.7", (0.9, 0.7, 1.7, -0.6)),
    ),
    (
        Mistake(
            "W_std and b_std are scales: variances have their squares.",
            lambda *a: _erf(*a, square=False),
        ),
        Mistake("the bias is missing: it adds b_std² to both entries.", lambda *a: _erf(*a, bias=False)),
        Mistake(
            "both inputs meet the same bias: b_std² belongs above the line as well, and makes them more alike.",
            _without_bias_above,
        ),
        Mistake(
            "the covariance of the inputs is q c, not c: the arcsine takes a covariance.",
            lambda *a: _erf(*a, correlated=False),
        ),
        Mistake(
            "the second number is a covariance: divide it by the variance of the same layer.",
            lambda *a: _erf(*a, over="nothing"),
        ),
        Mistake(
            "you divided by the variance of the layer before: the correlation is that of the new signals.",
            lambda *a: _erf(*a, over="old"),
        ),
        Mistake(
            "the 1 under the arcsine is missing: without it erf would be a sign, which knows no scale.",
            lambda *a: _erf(*a, one=0.0),
        ),
        Mistake("the factor 2/pi before the arcsine is missing.", lambda *a: _erf(*a, scale=1.0)),
    ),
    praise="all right: this is the map that the cobwebs climb",
)


def check_next_layer(answer: Any) -> Result:
    """Judge `answer(W_std, b_std, q, c)`: variance and correlation after one layer of erf."""
    return judge(answer, NEXT_LAYER)


# ---------------------------------------------------------------- 2: a depth scale, from a path


def _path(c_star, chi, start, layers):
    return c_star + (start - c_star) * chi ** np.arange(layers)


def _ratio(c, c_star):
    gap = np.abs(np.asarray(c) - c_star)
    return (gap[-1] / gap[0]) ** (1 / (len(gap) - 1))


DEPTH_SCALE = Exercise(
    "check_depth_scale",
    lambda c, c_star: -1 / np.log(_ratio(c, c_star)),
    (
        Case("a chaotic network", (_path(0.6, 0.88, 0.75, 12), 0.6)),
        Case("an ordered network", (_path(1.0, 0.96, 0.9, 30), 1.0)),
        Case("from below", (_path(0.3, 0.7, 0.1, 6), 0.3)),
    ),
    (
        Mistake(
            "the sign: logarithms of ratios below 1 are negative, and a depth is not.",
            lambda c, c_star: 1 / np.log(_ratio(c, c_star)),
        ),
        Mistake(
            "this is the rate for each layer, its inverse is the number of layers.",
            lambda c, c_star: -np.log(_ratio(c, c_star)),
            also=(lambda c, c_star: np.log(_ratio(c, c_star)),),
        ),
        Mistake(
            "this is chi, what one layer leaves of the distance. After how many layers is 1/e of it left?",
            _ratio,
        ),
        Mistake(
            "the correlations go to c*, not to zero: take the distance from c* first.",
            lambda c, c_star: -1 / np.log((c[-1] / c[0]) ** (1 / (len(c) - 1))),
        ),
        Mistake(
            "n values have n - 1 steps between them.",
            lambda c, c_star: -len(c) / np.log(abs((c[-1] - c_star) / (c[0] - c_star))),
        ),
        Mistake(
            "this is the depth over which the distance is halved: the scale takes the natural logarithm.",
            lambda c, c_star: -1 / np.log2(_ratio(c, c_star)),
        ),
        Mistake(
            "this is the depth over which a tenth is left: the scale takes the natural logarithm.",
            lambda c, c_star: -1 / np.log10(_ratio(c, c_star)),
        ),
        Mistake(
            "1/(1 - chi) is the limit of the scale for chi near 1, and too large elsewhere.",
            lambda c, c_star: 1 / (1 - _ratio(c, c_star)),
        ),
    ),
    praise="all right: from two numbers of a path you know how deep a network can be",
)


def check_depth_scale(answer: Any) -> Result:
    """Judge `answer(c, c_star)`: the depth scale of correlations c (n,), in consecutive layers, that close in on c*."""
    return judge(answer, DEPTH_SCALE)


# ---------------------------------------------------------------- 3: the condition number of a deep kernel

CONDITION = Exercise(
    "check_condition",
    lambda m, ratio: (1 + (m - 1) * ratio) / (1 - ratio),
    (
        Case("10 inputs at the edge of chaos, erf", (10, 1 / 3)),
        Case("10 inputs at the edge, ReLU", (10, 1 / 4)),
        Case("200 inputs, nearly order", (200, 0.97)),
    ),
    (
        Mistake(
            "m - 1 entries stand beside the diagonal in each row, not m.",
            lambda m, ratio: (1 + m * ratio) / (1 - ratio),
        ),
        Mistake(
            "this is the largest eigenvalue: it has to be divided by the smallest, which is not 1.",
            lambda m, ratio: 1 + (m - 1) * ratio,
        ),
        Mistake("this is one over the smallest eigenvalue: the largest is not 1.", lambda m, ratio: 1 / (1 - ratio)),
        Mistake(
            "the wrong way up: the condition number is the largest eigenvalue over the smallest.",
            lambda m, ratio: (1 - ratio) / (1 + (m - 1) * ratio),
        ),
        Mistake(
            "(m + 2)/2 is the value for a ratio of 1/3, that of smooth activations: which one has ReLU?",
            lambda m, ratio: (m + 2) / 2,
        ),
        Mistake(
            "this is the ratio of the entries. Which vectors does the matrix stretch most, and which least?",
            lambda m, ratio: 1 / ratio,
        ),
        Mistake(
            "the vector of ones has the eigenvalue 1 + (m - 1) ratio: the diagonal counts too.",
            lambda m, ratio: (m - 1) * ratio / (1 - ratio),
            also=(lambda m, ratio: m * ratio / (1 - ratio),),
        ),
    ),
    praise="all right: 6 and 4.33 at the edge, thousands in the ordered phase",
)


def check_condition(answer: Any) -> Result:
    """Judge `answer(m, ratio)`: condition number of an (m, m) matrix of ones with all other entries `ratio`."""
    return judge(answer, CONDITION)


# ---------------------------------------------------------------- the question and the mission


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "phase_diagram" moves."""
    return Predict(
        "A chaotic network (erf, W_std = 2): within 30 layers the correlation of two inputs settles. What does the "
        "gradient do on its way back through 100 layers?",
        {
            "It settles as well: one depth scale for both.": (
                "That holds in the ordered phase. Here correlations close in on c*, with the slope of the map there; "
                "gradients take its slope at c = 1, which is larger than 1."
            ),
            "It vanishes: what is forgotten cannot be learnt.": (
                "Forgotten is where the inputs were; a small change of an input is enlarged by every layer."
            ),
            "It explodes.": (
                "Inputs that are nearly equal are driven apart by a factor chi_1 > 1 in each layer, which is what "
                "chaos means; gradients grow by the same factor. Correlations settle by another, chi at c*, below 1."
            ),
        },
        answer="It explodes.",
        panel=panel,
        look={"W_std": 2.0, "b_std": 0.22, "kind": 0, "width": 500},
    )


def mission(panel: Panel) -> Mission:
    """A point on the edge of chaos with large biases, on "phase_diagram"."""
    return Mission(
        panel,
        "Bring the bias scale to 0.5 or more, and find a weight scale with which the squared gradient of the infinite "
        "network changes by less than a factor of ten over 100 layers.",
        lambda data, state: bool(state["b_std"] >= 0.5 and abs(data["gradient"][0]) < 1),
        hint="The orange line is where one layer neither shrinks nor enlarges a gradient. Arrow keys move the dot.",
        hint_after=6,
    )


EXERCISES = {
    "next_layer": (check_next_layer, NEXT_LAYER),
    "depth_scale": (check_depth_scale, DEPTH_SCALE),
    "condition": (check_condition, CONDITION),
}
