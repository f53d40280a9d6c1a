"""Exercises of chapter 02: the dual of |z|, the NNGP of a sine network, the kernel that one network's units give."""

import math
from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.wide_networks_are_gaussian import arrays
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: the dual of the absolute value


def _relu(q1, q2, k):
    p = math.sqrt(q1 * q2)
    angle = math.acos(k / p)
    return p / (2 * math.pi) * (math.sin(angle) + (math.pi - angle) * k / p)


def _abs_reference(q1, q2, k):
    return 2 * _relu(q1, q2, k) + 2 * _relu(q1, q2, -k)


ABS_DUAL = Exercise(
    "check_abs_dual",
    _abs_reference,
    (
        Case("variances 1 and 1.5, covariance 0.6", (1.0, 1.5, 0.6)),
        Case("a negative covariance", (1.0, 1.5, -0.9)),
        Case("large variances", (4.0, 9.0, 2.0)),
        Case("independent", (1.0, 2.0, 0.0)),
    ),
    (
        Mistake(
            "this is the average for the ReLU. |z| is the ReLU of z plus the ReLU of -z.",
            _relu,
        ),
        Mistake(
            "the mixed terms are missing: (a + b)(c + d) has four, and relu(u) relu(-v) is not zero on average.",
            lambda q1, q2, k: 2 * _relu(q1, q2, k),
        ),
        Mistake(
            "each of the two kinds of terms comes twice: relu(u) relu(v) and relu(-u) relu(-v) have the same average.",
            lambda q1, q2, k: _relu(q1, q2, k) + _relu(q1, q2, -k),
        ),
        Mistake(
            "the mixed terms have the wrong sign: relu(z) - relu(-z) is z itself, and your average is that of u v.",
            lambda q1, q2, k: 2 * _relu(q1, q2, k) - 2 * _relu(q1, q2, -k),
        ),
        Mistake(
            "your answer is right for variances of 1 only: after the angle of k / sqrt(q1 q2), the factor sqrt(q1 q2) "
            "stands in front.",
            lambda q1, q2, k: _abs_reference(1.0, 1.0, k / math.sqrt(q1 * q2)),
        ),
        Mistake(
            "the angle is not that of k: divide by sqrt(q1 q2) first, as a cosine must lie between -1 and 1.",
            lambda q1, q2, k: math.sqrt(q1 * q2) * _abs_reference(1.0, 1.0, min(max(k, -1.0), 1.0)),
        ),
        Mistake(
            "this is |E[u v]|. The absolute value stands inside the average, on each factor.",
            lambda q1, q2, k: abs(k),
        ),
        Mistake(
            "this is E|u| E|v|: right if the two are independent. Their covariance adds to it, of either sign.",
            lambda q1, q2, k: 2 / math.pi * math.sqrt(q1 * q2),
        ),
    ),
    praise="all right: where an activation is a sum, its average is a sum over pairs",
)


def check_abs_dual(answer: Any) -> Result:
    """Judge `answer(q1, q2, k)`: the Gaussian average E[|u| |v|]."""
    return judge(answer, ABS_DUAL)


# ---------------------------------------------------------------- 2: the NNGP of a sine network


def _sin_recursion(
    x1,
    x2,
    depth,
    W_std,
    b_std,
    *,
    features=None,
    power=2,
    bias=2,
    halve=False,
    last=True,
    tangent=False,
    frozen=False,
    first_bias=1.0,
    outside=False,
):
    """The recursion with one thing changed: each change is a mistake. Nothing changed: the answer."""
    features = x1.shape[1] if features is None else features
    variance = (b_std**bias if bias else 0.0) * (W_std**2 if outside else 1.0)
    up = lambda t, share=1.0: W_std**power * t + share * variance
    own = lambda q: q / 2 if halve else np.exp(-q) * np.sinh(q)
    k = up(x1 @ x2.T / features, first_bias)
    q1, q2 = (up((x**2).sum(1) / features, first_bias) for x in (x1, x2))
    q1, q2 = q1[:, None], q2[None]
    T = theta = k
    for _ in range(depth):
        T, Tdot = (np.exp(-(q1 + q2) / 2) * wave(k) for wave in (np.sinh, np.cosh))
        k, q1, q2 = (up(T), q1, q2) if frozen else (up(T), up(own(q1)), up(own(q2)))
        theta = k + W_std**2 * Tdot * theta
    return theta if tangent else k if last else T


def _points(seed, n, features):
    return generator(seed).standard_normal((n, features))


SIN_NNGP = Exercise(
    "check_sin_nngp",
    _sin_recursion,
    (
        Case("one hidden layer, no bias", (_points(0, 3, 3), _points(1, 2, 3), 1, 1.5, 0.0)),
        Case("one hidden layer, with bias", (_points(0, 3, 3), _points(1, 2, 3), 1, 1.5, 0.3)),
        Case("two hidden layers", (_points(2, 2, 5), _points(3, 4, 5), 2, 1.2, 0.1)),
        Case("three hidden layers, smaller weights", (_points(2, 2, 5), _points(3, 4, 5), 3, 0.7, 0.4)),
    ),
    (
        Mistake(
            "the input kernel lacks 1/n: x . x' is divided by the number of input features.",
            partial(_sin_recursion, features=1),
        ),
        Mistake(
            "your weights enter as W_std. A covariance is quadratic: W_std^2.",
            partial(_sin_recursion, power=1),
        ),
        Mistake(
            "your biases enter as b_std. A covariance is quadratic: b_std^2.",
            partial(_sin_recursion, bias=1),
        ),
        Mistake(
            "the biases are missing: each layer adds b_std^2.",
            partial(_sin_recursion, bias=0),
        ),
        Mistake(
            "for the sine, T of a point with itself is not q/2 (that is the ReLU): it goes through the formula too, "
            "with q1 = q2 = k = q.",
            partial(_sin_recursion, halve=True),
        ),
        Mistake(
            "you stopped before the last layer: the output is W_std^2 T + b_std^2, not T.",
            partial(_sin_recursion, last=False),
        ),
        Mistake(
            "there is one hidden layer too few: depth counts hidden layers in this book, not affine maps.",
            lambda x1, x2, depth, W_std, b_std: _sin_recursion(x1, x2, depth - 1, W_std, b_std),
        ),
        Mistake(
            "there is one hidden layer too many.",
            lambda x1, x2, depth, W_std, b_std: _sin_recursion(x1, x2, depth + 1, W_std, b_std),
        ),
        Mistake(
            "this is the tangent kernel of the next chapter. The NNGP, the covariance of the outputs, is wanted.",
            partial(_sin_recursion, tangent=True),
        ),
        Mistake(
            "your answer is transposed: rows belong to x1, columns to x2.",
            lambda *arguments: _sin_recursion(*arguments).T,
        ),
        Mistake(
            "your answer is half of the kernel: is there a factor 1/2 in front that belongs to no formula here?",
            lambda *arguments: _sin_recursion(*arguments) / 2,
        ),
        Mistake(
            "the variances are frozen: q1 and q2 are kernels too, of a point with itself, and go up from layer to "
            "layer like k.",
            partial(_sin_recursion, frozen=True),
        ),
        Mistake(
            "the first layer's bias is missing: K starts as W_std^2 x . x' / n + b_std^2.",
            partial(_sin_recursion, first_bias=0.0),
        ),
        Mistake(
            "W_std^2 stands in front of the bias too: only the weights carry it, W_std^2 T + b_std^2.",
            partial(_sin_recursion, outside=True),
        ),
    ),
    praise="all right: a new activation changes two lines, never the recursion",
)


def check_sin_nngp(answer: Any) -> Result:
    """Judge `answer(x1, x2, depth, W_std, b_std)`: the NNGP kernel of a sine network, (n1, n2)."""
    return judge(answer, SIN_NNGP)


# ---------------------------------------------------------------- 3: what one network says about the kernel


def _from_units(units, W_std, b_std, *, divide=None, power=2, bias=2):
    divide = units.shape[1] if divide is None else divide
    return W_std**power * units @ units.T / divide + (b_std**bias if bias else 0.0)


def _centred(units, W_std, b_std):
    return _from_units(units - units.mean(1, keepdims=True), W_std, b_std)


def _across(units, W_std, b_std):
    return W_std**2 * units.T @ units / len(units) + b_std**2


def _units(seed, points, width):
    return np.maximum(_points(seed, points, width), 0)


KERNEL_OF_UNITS = Exercise(
    "check_kernel_of_units",
    _from_units,
    (
        Case("three points, eight units", (_units(5, 3, 8), 1.5, 0.3)),
        Case("no bias", (_units(6, 4, 2), 0.8, 0.0)),
        Case("two points, six units", (_units(7, 2, 6), 1.2, 0.5)),
    ),
    (
        Mistake(
            "the factor 1/n is missing: the sum over n units is divided by n, because the weights above carry "
            "1/sqrt(n).",
            partial(_from_units, divide=1),
        ),
        Mistake(
            "you averaged over the examples. What is averaged is the product of two examples' values, over the units.",
            lambda units, W_std, b_std: _from_units(units, W_std, b_std, divide=len(units)),
        ),
        Mistake(
            "this is the kernel between units, (n, n). The kernel is between examples, (m, m): the units are summed "
            "over.",
            _across,
        ),
        Mistake(
            "you subtracted the mean over the units. The weights above have mean zero, so that nothing needs to be "
            "centred: ReLU units have a mean, and it counts.",
            _centred,
        ),
        Mistake("your weights enter as W_std. A covariance is quadratic: W_std^2.", partial(_from_units, power=1)),
        Mistake("your bias enters as b_std. A covariance is quadratic: b_std^2.", partial(_from_units, bias=1)),
        Mistake("the bias is missing: it adds b_std^2 to every entry.", partial(_from_units, bias=0)),
        Mistake("W_std is missing: the units reach the output through W_std/sqrt(n) w.", partial(_from_units, power=0)),
        Mistake(
            "W_std^2 stands in front of the bias too: only the weights carry it.",
            lambda units, W_std, b_std: W_std**2 * (_from_units(units, 1.0, b_std)),
        ),
        Mistake(
            "these are the variances only. The kernel has an entry for every pair of examples.",
            lambda units, W_std, b_std: np.diagonal(_from_units(units, W_std, b_std)),
        ),
        Mistake(
            "the root of the number of units divides in your answer. It stands in front of each weight, and a "
            "covariance has two: 1/n.",
            lambda units, W_std, b_std: _from_units(units, W_std, b_std, divide=units.shape[1] ** 0.5),
        ),
    ),
    praise="all right: one wide network is enough to see its own prior",
)


def check_kernel_of_units(answer: Any) -> Result:
    """Judge `answer(units, W_std, b_std)`: the covariance of the output given the last hidden layer, (m, m)."""
    return judge(answer, KERNEL_OF_UNITS)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "random_outputs" moves."""
    return Predict(
        "One hidden ReLU layer of 16 units is nearly Gaussian. Now stack five such layers. What happens to the bars?",
        {
            "They come closer to the Gaussian: every layer averages once more.": (
                "Each layer averages, but over units that share one random variance, and these variances "
                "multiply. The panel shows five layers."
            ),
            "They move away from it: too many values near zero, and some very far out.": (
                "Each layer multiplies the variance by a random factor near one, and a product of five varies "
                "more. The panel shows five layers."
            ),
            "Nothing: the covariance is exact at any width.": (
                "The covariance is, here; the shape is not. The panel shows five layers: compare the share within"
                " one sd."
            ),
        },
        answer="They move away from it: too many values near zero, and some very far out.",
        panel=panel,
        look={"width": 16, "depth": 5, "is_erf": 0},
    )


# ---------------------------------------------------------------- the mission

SHARE = 0.75


def mission(panel: Panel) -> Mission:
    """The smallest width at which five ReLU layers are as Gaussian as one layer of 8, on the panel "random_outputs"."""
    return Mission(
        panel,
        "One hidden ReLU layer of 8 units has less than 75 % of its outputs within one predicted sd. Find the smallest "
        "width for which five hidden ReLU layers have, too.",
        _is_smallest_width,
        hint="Set the depth to 5 and double the width until the reading is below 75 %. How does the answer compare "
        "with 5 × 8?",
        hint_after=6,
    )


def _is_smallest_width(data: dict[str, Any], state: dict[str, float]) -> bool:
    if state["depth"] != 5 or state["is_erf"] or data["inside"] >= SHARE or state["width"] < 2:
        return False
    return float(arrays(**{**state, "width": state["width"] / 2})["inside"]) >= SHARE


EXERCISES = {
    "abs_dual": (check_abs_dual, ABS_DUAL),
    "sin_nngp": (check_sin_nngp, SIN_NNGP),
    "kernel_of_units": (check_kernel_of_units, KERNEL_OF_UNITS),
}
