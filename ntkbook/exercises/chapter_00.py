"""Exercises of chapter 00: the band of an ensemble, what is left to learn, how wide a network must be."""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.start_here import LR, STEPS, arrays
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: the band


def _edges(mean, half_width):
    return jnp.stack([mean - half_width, mean + half_width])


def _either(edges):
    """`wrong` and `also` of a mistake: the same edges with standard deviations that divide by n, and by n - 1."""
    return {"wrong": partial(edges, ddof=0), "also": (partial(edges, ddof=1),)}


def _outputs(seed, networks, points):
    return generator(seed).standard_normal((networks, points)) * [0.3 + p for p in range(points)]


BAND = Exercise(
    "check_band",
    lambda outputs: _edges(outputs.mean(0), 2 * outputs.std(0)),
    (
        Case("ten networks at three points", (_outputs(0, 10, 3),)),
        Case("three networks at five points", (_outputs(1, 3, 5),)),
        Case("four networks that agree", (np.ones((4, 2)),)),
    ),
    (
        Mistake(
            "your band is one standard deviation on each side; two hold about 95 % of a normal distribution.",
            **_either(lambda outputs, ddof: _edges(outputs.mean(0), outputs.std(0, ddof=ddof))),
        ),
        Mistake(
            "your band uses the variance. The standard deviation is its root, and has the unit of the output.",
            **_either(lambda outputs, ddof: _edges(outputs.mean(0), 2 * outputs.var(0, ddof=ddof))),
        ),
        Mistake(
            "your band is the standard error of the mean: it says how well the mean is known, and shrinks with more "
            "networks. The band says where one more network would be.",
            **_either(
                lambda outputs, ddof: _edges(outputs.mean(0), 2 * outputs.std(0, ddof=ddof) / len(outputs) ** 0.5)
            ),
        ),
        Mistake(
            "you averaged over the points. Rows are networks: average over axis 0.",
            **_either(lambda outputs, ddof: _edges(outputs.mean(1), 2 * outputs.std(1, ddof=ddof))),
        ),
        Mistake(
            "your standard deviation runs over all numbers at once: each point has a spread of its own, over axis 0.",
            **_either(lambda outputs, ddof: _edges(outputs.mean(0), 2 * outputs.std(ddof=ddof))),
        ),
        Mistake(
            "your answer is transposed: first the lower edge, then the upper one, (2, points).",
            **_either(lambda outputs, ddof: _edges(outputs.mean(0), 2 * outputs.std(0, ddof=ddof)).T),
        ),
        Mistake(
            "your edges are exchanged: the lower one comes first.",
            **_either(lambda outputs, ddof: _edges(outputs.mean(0), -2 * outputs.std(0, ddof=ddof))),
        ),
        Mistake(
            "this is the half width of the band around zero: the mean is missing.",
            **_either(lambda outputs, ddof: _edges(0 * outputs.mean(0), 2 * outputs.std(0, ddof=ddof))),
        ),
        Mistake(
            "these are the smallest and the largest curve: they move outwards with every further network.",
            lambda outputs: jnp.stack([outputs.min(0), outputs.max(0)]),
        ),
        Mistake(
            "these are mean and standard deviation; asked are two edges.",
            **_either(lambda outputs, ddof: jnp.stack([outputs.mean(0), outputs.std(0, ddof=ddof)])),
        ),
    ),
    praise="all right: about 95 of 100 further networks would lie in it, at each point",
    also=(lambda outputs: _edges(outputs.mean(0), 2 * outputs.std(0, ddof=1)),),
)


def check_band(answer: Any) -> Result:
    """Judge `answer(outputs)`: the edges (2, points) of the mean ± 2 sd of outputs (networks, points).

    The standard deviation may divide by the number of networks, or by one less.
    """
    return judge(answer, BAND)


# ---------------------------------------------------------------- 2: what is left to learn

LEFT_TO_LEARN = Exercise(
    "check_left_to_learn",
    lambda lam, lr, steps: math.exp(-lam * lr * steps),
    (
        Case("before the first step", (2.0, 0.1, 0)),
        Case("a fast direction", (9.5, 0.02, 10)),
        Case("a slow direction", (1.09, 0.02, 50)),
        Case("a larger rate", (1.09, 0.5, 3)),
    ),
    (
        Mistake(
            "this is what has been learnt; asked is what is left, one minus that.",
            lambda lam, lr, steps: 1 - math.exp(-lam * lr * steps),
        ),
        Mistake(
            "the learning rate is missing: time is t = lr × steps.",
            lambda lam, lr, steps: math.exp(-lam * steps),
        ),
        Mistake(
            "the sign in the exponent is turned: your error grows.",
            lambda lam, lr, steps: math.exp(lam * lr * steps),
        ),
        Mistake(
            "this is the loss, not the error: the loss is a square, and falls twice as fast.",
            lambda lam, lr, steps: math.exp(-2 * lam * lr * steps),
        ),
        Mistake(
            "this is the first order in t only: a straight line, which becomes negative. The exponential is needed.",
            lambda lam, lr, steps: 1 - lam * lr * steps,
        ),
        Mistake(
            "the eigenvalue is missing: each direction has its own speed.",
            lambda lam, lr, steps: math.exp(-lr * steps),
        ),
        Mistake(
            "these are steps of finite size: (1 − lr λ) per step. The formula of section 2 is their limit of small "
            "steps, exp(−λ t). Chapter 05 has both.",
            lambda lam, lr, steps: (1 - lr * lam) ** steps,
        ),
        Mistake(
            "you averaged over the steps: time is t = lr × steps, not lr / steps.",
            lambda lam, lr, steps: math.exp(-lam * lr / max(steps, 1)) if steps else 1.0,
        ),
        Mistake(
            "the eigenvalue divides in your exponent: a large one must be fast, exp(−λ t).",
            lambda lam, lr, steps: math.exp(-lr * steps / lam),
        ),
        Mistake(
            "time stands outside of the exponential: it is exp(−λ t), with t in the exponent.",
            lambda lam, lr, steps: lr * steps * math.exp(-lam),
        ),
    ),
    praise="all right: large eigenvalues are learnt first",
)


def check_left_to_learn(answer: Any) -> Result:
    """Judge `answer(lam, lr, steps)`: the part of the error that is left in a direction with eigenvalue lam."""
    return judge(answer, LEFT_TO_LEARN)


# ---------------------------------------------------------------- 3: the width for an error


def _width_for(target, width, error):
    return width * (error / target) ** 2


def _rounded(width):
    """`wrong` and `also` of a mistake: a number of units may stay a fraction, or be rounded to the next one or up."""
    ways = (round, math.ceil, lambda value: math.ceil(round(value, 6)))
    return {"wrong": width, "also": tuple(lambda *a, way=way: way(width(*a)) for way in ways)}


WIDTH_FOR = Exercise(
    "check_width_for",
    _width_for,
    (
        Case("a tenth of the error", (0.02, 64, 0.2)),
        Case("half of the error", (0.1, 100, 0.2)),
        Case("three times the error", (0.3, 900, 0.1)),
    ),
    (
        Mistake(
            "your width grows as 1/error. The error falls with the root of the width: take the square of the ratio.",
            **_rounded(lambda target, width, error: width * error / target),
        ),
        Mistake(
            "your width grows with the root of the ratio. Turn the law around: error ~ 1/sqrt(width) means "
            "width ~ 1/error^2.",
            **_rounded(lambda target, width, error: width * (error / target) ** 0.5),
        ),
        Mistake(
            "the ratio is upside down: a smaller error needs a wider network.",
            **_rounded(lambda target, width, error: width * (target / error) ** 2),
        ),
        Mistake(
            "the width that you measured at is missing: this is the factor by which it must grow.",
            **_rounded(lambda target, width, error: (error / target) ** 2),
        ),
        Mistake(
            "this is the error at the width `target`, not the width for an error: solve error × √width = constant "
            "for the width.",
            **_rounded(lambda target, width, error: error * (width / target) ** 0.5),
        ),
    ),
    praise="all right: one more digit costs a hundred times the width",
    also=tuple(_rounded(_width_for)["also"]),
)


def check_width_for(answer: Any) -> Result:
    """Judge `answer(target, width, error)`: the width that brings the error down to the target."""
    return judge(answer, WIDTH_FOR)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "sine_ensemble" moves."""
    return Predict(
        "Training goes on until t = 20, when all networks fit all points. What has become of the band?",
        {
            "It has closed everywhere: all networks have become the same curve.": (
                "They agree where they were told what to do. The panel shows t = 20: look between x = 0 and the "
                "point to its right."
            ),
            "It has closed at the five points, and stays open between them.": (
                "Between the points each network keeps a part of its own random start. The panel shows t = 20."
            ),
            "It is as wide as at the start: training moves the mean only.": (
                "The panel shows t = 20. Drag the time back to 0 to compare: training also removes randomness, "
                "first where there are data."
            ),
        },
        answer="It has closed at the five points, and stays open between them.",
        panel=panel,
        look={"t": 20.0, "width": 512},
    )


# ---------------------------------------------------------------- the mission

SPREAD = 0.3


def mission(panel: Panel) -> Mission:
    """The earliest time at which networks of width 512 spread less than 0.3, on the panel "sine_ensemble"."""
    return Mission(
        panel,
        "At width 512, find the earliest time on the slider at which the spread of the networks is below 0.3.",
        _is_earliest,
        hint="The reading under the picture has the spread. Go one stop back: is it still below 0.3 there?",
        hint_after=8,
    )


def _is_earliest(data: dict[str, Any], state: dict[str, float]) -> bool:
    if state["width"] != 512 or float(data["spread"]) >= SPREAD or state["t"] <= 0:
        return False
    at = int(np.argmin(np.abs(LR * STEPS - state["t"])))
    return float(arrays(**{**state, "t": LR * STEPS[at - 1]})["spread"]) >= SPREAD


EXERCISES = {
    "band": (check_band, BAND),
    "left_to_learn": (check_left_to_learn, LEFT_TO_LEARN),
    "width_for": (check_width_for, WIDTH_FOR),
}
