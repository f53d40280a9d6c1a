"""Exercises of chapter 12: a step of the catapult, how far a ReLU kernel varies, what the output scale does."""

from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.lazy_and_rich import ALPHAS, STEPS, arrays
from .checking import Case, Exercise, Mistake, Result, judge

# ---------------------------------------------------------------- 1: a step of the catapult


def _step(f, lam, eta, n, *, kick=1.0, four=4.0, sign=1.0, late=False, width=True):
    size = f * f / (n if width else 1)
    new = (1 - eta * lam + kick * eta**2 * size) * f
    used = new * new / n if late else size
    return np.array([new, lam + sign * eta * used * (eta * lam - four)])


CATAPULT_STEP = Exercise(
    "check_catapult_step",
    _step,
    (
        Case("a lazy rate", (1.0, 1.2, 0.5, 16)),
        Case("in flight", (9.0, 1.0, 3.0, 64)),
        Case("a negative output", (-2.0, 0.7, 2.5, 32)),
    ),
    (
        Mistake(
            "this is the linearized network: f' = (1 - η λ) f with a kernel that stays. Both vectors move at once, and "
            "the product of their moves is the term η² f³/n.",
            lambda f, lam, eta, n: np.array([(1 - eta * lam) * f, lam]),
        ),
        Mistake(
            "the output is that of the linearized network: the product of the two moves, η² f³/n, is missing.",
            partial(_step, kick=0.0),
        ),
        Mistake(
            "λ' has to be computed from the old f: both vectors are moved at once.",
            partial(_step, late=True),
        ),
        Mistake(
            "the 1/n is missing: each vector moves by η f/√n times the other.",
            partial(_step, width=False),
        ),
        Mistake(
            "the kernel grows where it should shrink: the cross term of |u - η f v/√n|² has a minus.",
            partial(_step, sign=-1.0),
        ),
        Mistake(
            "the cross term counts 2 u.v for each of the two vectors: together 4, not 2.",
            partial(_step, four=2.0),
        ),
        Mistake(
            "the two numbers are exchanged: first the output, then the kernel.",
            lambda *given: _step(*given)[::-1],
        ),
    ),
    praise="all right: two numbers, and a phase transition at 2 and at 4",
)


def check_catapult_step(answer: Any) -> Result:
    """Judge `answer(f, lam, eta, n)`: (f, lambda) after a step on u.v/sqrt(n) with the target 0."""
    return judge(answer, CATAPULT_STEP)


# ---------------------------------------------------------------- 2: the variance of a kernel


def _variance(width, depth, *, shared=5.0, lost=4.0, affine=1, exact=False):
    L = depth + affine
    pairs = sum(abs(l - m) for l in range(L) for m in range(L)) / L**2  # mean distance of two layers
    value = (shared * (L - 1) - lost * pairs) / width
    return np.exp(value) - 1 if exact else value


KERNEL_VARIANCE = Exercise(
    "check_kernel_variance",
    _variance,
    (
        Case("one hidden layer of 100 units", (100, 1)),
        Case("three of 64", (64, 3)),
        Case("nine of 1000", (1000, 9)),
    ),
    (
        Mistake(
            "this takes all layers' terms for fully correlated. Terms of the layers l and m share 5 per common ratio, "
            "and only 1 for each of the |l - m| layers between them.",
            partial(_variance, lost=0.0),
        ),
        Mistake(
            "this is the bound exp(5 depth/width) - 1 of Hanin and Nica without its constants: it is no prediction.",
            partial(_variance, lost=0.0, exact=True),
        ),
        Mistake(
            "between the layers l and m a forward and a backward ratio see the same units: their covariance is 1/n, "
            "not 0.",
            partial(_variance, lost=5.0),
        ),
        Mistake(
            "L counts affine layers, one more than the hidden ones.",
            partial(_variance, affine=0),
        ),
        Mistake(
            "this takes the layers' terms for independent. Any two of them share most of their ratios.",
            lambda width, depth: 5 * depth / (depth + 1) / width,
        ),
        Mistake(
            "this is the limit of many layers, 11/3 depth/width: right for deep networks, a quarter too large for one.",
            lambda width, depth: 11 / 3 * depth / width,
        ),
        Mistake(
            "this is the standard deviation, the root of the variance.",
            lambda width, depth: _variance(width, depth) ** 0.5,
        ),
    ),
    praise="all right: depth over width, with its number",
)


def check_kernel_variance(answer: Any) -> Result:
    """Judge `answer(width, depth)`: Var Theta / (E Theta)^2 of a ReLU network with `depth` hidden layers."""
    return judge(answer, KERNEL_VARIANCE)


# ---------------------------------------------------------------- 3: lazier


def _lazier(change, alpha, new, is_symmetric, *, plain=1.0, symmetric=2.0):
    return change * (alpha / new) ** (symmetric if is_symmetric else plain)


LAZIER = Exercise(
    "check_lazier",
    _lazier,
    (
        Case("ten times as large, plain start", (0.02, 10.0, 100.0, False)),
        Case("three times as large, symmetric start", (0.02, 10.0, 30.0, True)),
        Case("half as large, plain start", (0.001, 64.0, 32.0, False)),
        Case("half as large, symmetric start", (0.001, 64.0, 32.0, True)),
    ),
    (
        Mistake(
            "this is upside down: the larger the output scale, the less the weights have to move, and the kernel with "
            "them.",
            partial(_lazier, plain=-1.0, symmetric=-2.0),
        ),
        Mistake(
            "a symmetric start is lazier than that: the partners' first-order changes of the kernel cancel, and the "
            "second order is left, 1/α².",
            partial(_lazier, symmetric=1.0),
        ),
        Mistake(
            "with a plain start nothing cancels: the kernel changes in proportion to the weights' move, 1/α.",
            partial(_lazier, plain=2.0),
        ),
        Mistake(
            "the two starts are exchanged: pairs with opposite signs cancel the first order.",
            partial(_lazier, plain=2.0, symmetric=1.0),
        ),
        Mistake(
            "the root of α is the scale of the start that does the same as α; the change goes by α itself.",
            partial(_lazier, plain=0.5, symmetric=1.0),
        ),
        Mistake("this does not depend on the start.", partial(_lazier, plain=0.0, symmetric=0.0)),
    ),
    praise="all right: lazy by a power, and by a square with a symmetric start",
)


def check_lazier(answer: Any) -> Result:
    """Judge `answer(change, alpha, new, is_symmetric)`: the relative change of the kernel at output scale `new`."""
    return judge(answer, LAZIER)


# ---------------------------------------------------------------- the questions and the mission


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "lazy_and_rich" moves."""
    return Predict(
        "The output of a network is multiplied by 64, and the loss divided by 64². Nothing else changes. What do the "
        "units of the hidden layer do in training?",
        {
            "They move 64 times as far: the gradient is larger.": (
                "The gradient of 64 h is 64 times as large, but the loss is divided by 64². See the paths on the left."
            ),
            "Nothing changes: it is only a unit of measurement.": (
                "It would be, if the target were multiplied as well. It stays, so the network has less to do: see the "
                "paths on the left."
            ),
            "They hardly move, and the loss still goes to zero.": (
                "A large output has to change by a small part only, so the weights move by 1/64 of what they did. "
                "There are more of them than examples, so this is enough."
            ),
            "They hardly move, and the loss stays high.": (
                "The units stay, but with more weights than examples the tangent plane reaches the targets: read the "
                "loss."
            ),
        },
        answer="They hardly move, and the loss still goes to zero.",
        panel=panel,
        look={"alpha": 64, "t": STEPS[-1]},
    )


def predict_catapult(panel: Panel) -> Predict:
    """The question to answer before the panel "catapult" moves."""
    return Predict(
        "Gradient descent on u·v/√n starts with η λ₀ = 3, beyond the limit 2 of the linearized network. What happens?",
        {
            "It diverges.": "The linearized network does. In the panel look at η λ on the right: what changes?",
            "The error falls as it does below 2.": "Not at first: look at the left side, steps 0 to 5.",
            "The error rises, then falls to zero.": (
                "A large output makes the kernel smaller, by (η f²/n)(η λ - 4) a step, until η λ is below 2."
            ),
        },
        answer="The error rises, then falls to zero.",
        panel=panel,
        look={"rate": 3.0, "width": 1024},
    )


def mission(panel: Panel) -> Mission:
    """The laziest scale that still learns the teacher's directions, on "lazy_and_rich"."""
    return Mission(
        panel,
        "At the last step: find the largest α at which more than four fifths of the units' weight is within 10° of a "
        "teacher's direction.",
        _is_laziest,
        hint="Move the step to its end, begin at the smallest α, and go up while the percentage is above 80.",
        hint_after=6,
    )


def _is_laziest(data: dict[str, Any], state: dict[str, float]) -> bool:
    if state["t"] != STEPS[-1] or data["pointing"] <= 0.8 or state["alpha"] == ALPHAS[-1]:
        return False
    next_one = ALPHAS[ALPHAS.index(state["alpha"]) + 1]
    return float(arrays(alpha=next_one, t=state["t"])["pointing"]) <= 0.8


EXERCISES = {
    "catapult_step": (check_catapult_step, CATAPULT_STEP),
    "kernel_variance": (check_kernel_variance, KERNEL_VARIANCE),
    "lazier": (check_lazier, LAZIER),
}
