"""Exercises of chapter 09: rates that make two networks one, the kernel of a standard layer, from NTK to mu-P."""

from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.parameterizations import BASE, RULES
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: rates for each array


def _pair(weights, biases):
    """The answer `lr * (weights, biases)` as a function of lr and the layer's numbers."""
    return lambda lr, n_in, W_std, b_std: np.array([lr * weights(n_in, W_std), lr * biases(b_std)])


def _bias(b):
    return b**-2


EQUIVALENT_RATES = Exercise(
    "check_equivalent_rates",
    _pair(lambda n, s: n / s**2, _bias),
    (
        Case("64 inputs, scales 2 and 0.5", (0.1, 64, 2.0, 0.5)),
        Case("5 inputs, scales 0.8 and 3", (0.02, 5, 0.8, 3.0)),
    ),
    (
        Mistake(
            "this is the inverse: the NTK network divides its weights by sqrt(n_in), so a step of the same length in W "
            "moves z less, and the rate must be larger.",
            _pair(lambda n, s: s**2 / n, lambda b: b**2),
        ),
        Mistake(
            "the scale counts twice: once in the gradient, and once more because the step is taken in the scaled "
            "weight. The rate is divided by the square of the scale.",
            _pair(lambda n, s: n**0.5 / s, lambda b: 1 / b),
        ),
        Mistake(
            "the rate of the bias changes as well: in the NTK parameterization b is multiplied by b_std.",
            _pair(lambda n, s: n / s**2, lambda b: 1.0),
        ),
        Mistake(
            "W_std is missing: the scale in front of W is W_std/sqrt(n_in), all of it.",
            _pair(lambda n, s: n, _bias),
            also=(_pair(lambda n, s: n, lambda b: 1.0),),
        ),
        Mistake(
            "n_in is missing: the scale in front of W is W_std/sqrt(n_in), all of it.",
            _pair(lambda n, s: s**-2, _bias),
        ),
        Mistake(
            "n_in belongs to the weights only: each output has one bias, and its scale is b_std.",
            lambda lr, n, s, b: lr * np.array([n / s**2, n / b**2]),
        ),
        Mistake(
            "the two are exchanged: first the rate of the weights, then that of the bias.",
            lambda lr, n, s, b: lr * np.array([b**-2, n / s**2]),
        ),
        Mistake("lr is missing: these are the factors alone.", lambda lr, n, s, b: np.array([n / s**2, b**-2])),
    ),
    praise="all right: with these rates the two networks stay one function",
)


def check_equivalent_rates(answer: Any) -> Result:
    """Judge `answer(lr, n_in, W_std, b_std)`: rates of (W, b) in NTK coordinates that train as the standard layer."""
    return judge(answer, EQUIVALENT_RATES)


# ---------------------------------------------------------------- 2: the kernel of a standard layer


def _kernels(seed, n):
    a = generator(seed).standard_normal((2, n, n + 2))
    return a[0] @ a[0].T, a[1] @ a[1].T


STANDARD_NTK = Exercise(
    "check_standard_ntk",
    lambda cov, ntk, n_in, W_std: n_in * cov + 1 + W_std**2 * ntk,
    (
        Case("two inputs, 16 units below", (*_kernels(1, 2), 16, 1.4)),
        Case("four inputs, 100 units below", (*_kernels(2, 4), 100, 0.7)),
    ),
    (
        Mistake(
            "this is the layer in the NTK parameterization without its bias: there W has the slope W_std a/sqrt(n_in). "
            "Here it is a itself, and n_in squares are summed.",
            lambda cov, ntk, n, s: s**2 * (cov + ntk),
            also=(lambda cov, ntk, n, s: s**2 * cov + 1 + s**2 * ntk,),
        ),
        Mistake("the 1 is missing: the slope of z in its bias is 1.", lambda cov, ntk, n, s: n * cov + s**2 * ntk),
        Mistake(
            "n_in is missing: cov is a mean over the units below, and the kernel is a sum over the weights.",
            lambda cov, ntk, n, s: cov + 1 + s**2 * ntk,
        ),
        Mistake(
            "the slope of z in W is a, without W_std: that stands in the random draw, not in the formula.",
            lambda cov, ntk, n, s: n * s**2 * cov + 1 + s**2 * ntk,
        ),
        Mistake(
            "what comes from below passes through W, whose entries have the variance W_std^2/n_in: W_std^2 is missing.",
            lambda cov, ntk, n, s: n * cov + 1 + ntk,
        ),
        Mistake(
            "W_std enters squared: a kernel is a product of two slopes.",
            lambda cov, ntk, n, s: n * cov + 1 + s * ntk,
        ),
        Mistake(
            "n_in multiplies the layer's own weights only; below, the sum over units and the variance W_std^2/n_in "
            "cancel it.",
            lambda cov, ntk, n, s: n * (cov + s**2 * ntk) + 1,
        ),
        Mistake(
            "the kernel of the layers below is missing: their weights move z too.",
            lambda cov, ntk, n, s: n * cov + 1,
        ),
    ),
    praise="all right: this is the recursion that grows with the width",
)


def check_standard_ntk(answer: Any) -> Result:
    """Judge `answer(cov, ntk, n_in, W_std)`: the NTK after z = a W + b with W ~ N(0, W_std^2/n_in)."""
    return judge(answer, STANDARD_NTK)


# ---------------------------------------------------------------- 3: from NTK to mu-P


def _power(output, rate):
    return lambda lr, base, width: np.array([(base / width) ** output, lr * (width / base) ** rate])


TO_MU_P = Exercise(
    "check_to_mu_p",
    _power(0.5, 1.0),
    (
        Case("tuned at 64, wanted at 1024", (0.5, 64, 1024)),
        Case("tuned at 100, wanted at 30", (2.0, 100, 30)),
    ),
    (
        Mistake("this leaves the NTK parameterization as it is: its features freeze.", _power(0.0, 0.0)),
        Mistake(
            "the output is right, the rate is not: a smaller output has a smaller slope, and the features must be "
            "moved by a rate that grows as the width.",
            _power(0.5, 0.0),
        ),
        Mistake(
            "the rate grows as the width, not its root: the kernel of the divided output falls as 1/width.",
            _power(0.5, 0.5),
        ),
        Mistake(
            "the NTK network has a factor 1/sqrt(width) already: one more root makes the 1/width of mu-P.",
            _power(1.0, 1.0),
            also=(_power(1.0, 2.0), _power(1.0, 0.0)),
        ),
        Mistake(
            "base and width are exchanged: the wider the network, the smaller the factor on its output.",
            _power(-0.5, -1.0),
        ),
        Mistake(
            "the rate goes the wrong way: the wider the network, the larger the rate in these coordinates.",
            _power(0.5, -1.0),
        ),
        Mistake("the output has to be divided as well: the rate alone makes wide networks diverge.", _power(0.0, 1.0)),
    ),
    praise="all right: mu-P is the NTK network with a smaller voice and longer steps",
)


def check_to_mu_p(answer: Any) -> Result:
    """Judge `answer(lr, base, width)`: (factor on the output, rate) that make the NTK network a mu-P network."""
    return judge(answer, TO_MU_P)


# ---------------------------------------------------------------- the question and the mission


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "parameterizations" moves."""
    return Predict(
        "A network is written as PyTorch writes it (naive standard), and its rate is the best one at width 64. The "
        "width becomes 512, the rate stays. What happens?",
        {
            "It learns faster: a wide network is easier to train.": (
                "At its own best rate it would. The panel shows width 512 at the old rate."
            ),
            "Nothing much: a good rate is good at every width.": (
                "That holds for the other three ways to write the network. The panel shows this one."
            ),
            "Training diverges.": (
                "The slope in each output weight does not shrink with the width, and there are eight times as many: "
                "the kernel is eight times as large, and the largest stable rate an eighth."
            ),
        },
        answer="Training diverges.",
        panel=panel,
        look={"rule": 1, "width": 512, "rate": 2**0.5},
    )


def mission(panel: Panel) -> Mission:
    """The best rate of the widest network in the naive standard parameterization, on "parameterizations"."""
    return Mission(
        panel,
        f"You tuned the naive standard network at width {BASE}. Set the width to 512, and the rate to the one with the "
        "smallest loss there.",
        lambda data, state: (
            RULES[int(state["rule"])] == "naive standard"
            and state["width"] == 512
            and bool(np.isclose(state["rate"], data["best"]))
        ),
        hint="The large dot on the right stands at the best rate of the chosen width: bring the dotted line to it.",
        hint_after=6,
    )


EXERCISES = {
    "equivalent_rates": (check_equivalent_rates, EQUIVALENT_RATES),
    "standard_ntk": (check_standard_ntk, STANDARD_NTK),
    "to_mu_p": (check_to_mu_p, TO_MU_P),
}
