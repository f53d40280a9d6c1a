"""Exercises of chapter 11: eigenvalues on the circle, what is learnt by time t, and the kernel of Fourier features."""

from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.spectral_bias import STEPS, arrays
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: eigenvalues on the circle


def _row(seed, n):
    """First row of a kernel of n evenly spaced points on the circle."""
    k = np.minimum(np.arange(n), n - np.arange(n))
    spectrum = generator(seed).uniform(0.5, 1.5, n // 2 + 1)[k] / (1 + k**2)
    return np.fft.ifft(spectrum).real * n


def _rfft(row):
    return np.fft.rfft(row).real / len(row)


def _doubled(row):
    c = _rfft(row)
    return np.concatenate([c[:1], 2 * c[1:]])


EIGENVALUES = Exercise(
    "check_eigenvalues",
    _rfft,
    (Case("8 points", (_row(1, 8),)), Case("9 points", (_row(2, 9),)), Case("64 points", (_row(3, 64),))),
    (
        Mistake(
            "the factor 1/n is missing: these are the eigenvalues of the Gram matrix. Divide by the number of points.",
            lambda row: np.fft.rfft(row).real,
        ),
        Mistake(
            "you have n numbers: frequencies k and n - k are the same pair, cos and sin. Return k = 0 to n // 2 once.",
            lambda row: np.fft.fft(row).real / len(row),
            also=(lambda row: np.fft.fft(row).real,),
        ),
        Mistake(
            "you counted cos and sin of a frequency together: each has the eigenvalue c_k, there are just two of them.",
            _doubled,
        ),
        Mistake(
            "you squared them: this is the power spectrum. The eigenvalue is the Fourier coefficient itself.",
            lambda row: np.abs(np.fft.rfft(row) / len(row)) ** 2,
            also=(lambda row: np.abs(np.fft.rfft(row)) ** 2 / len(row),),
        ),
        Mistake(
            "the factor in front is 1/sqrt(n), that of unit eigenvectors. The mean loss asks for 1/n.",
            lambda row: np.fft.rfft(row, norm="ortho").real,
        ),
    ),
    praise="all right: on the circle an FFT replaces the eigendecomposition",
)


def check_eigenvalues(answer: Any) -> Result:
    """Judge `answer(row)`: eigenvalues over n of the circulant matrix with this first row, for k = 0 to n // 2."""
    return judge(answer, EIGENVALUES)


# ---------------------------------------------------------------- 2: what is learnt


def _learnt(row, y, t, *, filter=lambda c, t: 1 - np.exp(-t * c), n=None):
    c = np.fft.rfft(row).real / (n or len(row))
    return np.fft.irfft(filter(c, t) * np.fft.rfft(y), len(y))


def _learnt_case(name, seed, n, t):
    return Case(name, (_row(seed, n), generator(seed + 50).standard_normal(n), t))


LEARNT = Exercise(
    "check_learnt",
    _learnt,
    (
        _learnt_case("16 points, an early time", 4, 16, 0.7),
        _learnt_case("16 points, a late time", 5, 16, 30.0),
        _learnt_case("15 points", 6, 15, 3.0),
    ),
    (
        Mistake(
            "this is what is left of the target, exp(-c t) of it. Learnt is 1 - exp(-c t).",
            partial(_learnt, filter=lambda c, t: np.exp(-t * c)),
        ),
        Mistake(
            "the factor 1/n is missing in the exponent: for the mean loss the rate is the eigenvalue over n.",
            partial(_learnt, n=1),
        ),
        Mistake(
            "this is the end of training. At time t a frequency has come as far as 1 - exp(-c t).",
            lambda row, y, t: y,
        ),
        Mistake(
            "this is the start of training, t c y: the output slows down as the error shrinks.",
            partial(_learnt, filter=lambda c, t: t * c),
        ),
        Mistake(
            "this is the solution with weight decay, c/(c + 1/t). Early stopping resembles it; it is not the same.",
            partial(_learnt, filter=lambda c, t: c / (c + 1 / t)),
        ),
        Mistake(
            "your exponent has a factor 2: the loss is 1/2 (f - y)^2, whose slope is f - y.",
            partial(_learnt, filter=lambda c, t: 1 - np.exp(-2 * t * c)),
        ),
        Mistake(
            "the sign is wrong: the output goes towards the target.",
            partial(_learnt, filter=lambda c, t: np.exp(-t * c) - 1),
        ),
    ),
    praise="all right: training is a low-pass filter that opens with time",
)


def check_learnt(answer: Any) -> Result:
    """Judge `answer(row, y, t)`: outputs (n,) at time t of gradient flow on the mean loss, from a start at zero."""
    return judge(answer, LEARNT)


# ---------------------------------------------------------------- 3: the kernel of Fourier features


def _cosine(delta, p, n, *, power=2.0, turn=2 * np.pi, first=1, normalized=True):
    j = np.arange(1, n + 1.0)
    weights = j ** (-power * p)
    inner = np.cos(turn * np.outer(delta, j - 1 + first)) @ weights
    return inner / weights.sum() if normalized else inner


_DELTA = np.array([0.0, 0.05, 0.2, 0.5])
COSINE = Exercise(
    "check_cosine",
    _cosine,
    (
        Case("p = 1, 4 frequencies", (_DELTA, 1.0, 4)),
        Case("p = 0.5, 16 frequencies", (_DELTA, 0.5, 16)),
        Case("p = 2, 3 frequencies", (_DELTA, 2.0, 3)),
    ),
    (
        Mistake(
            "the amplitude appears once in each of the two inputs: the weight of frequency j is a_j^2 = j^(-2p).",
            partial(_cosine, power=1.0),
        ),
        Mistake(
            "the division by the squared length is missing: at distance 0 the inner product of unit vectors is 1.",
            partial(_cosine, normalized=False),
        ),
        Mistake("2 pi is missing: frequency j makes j full turns from 0 to 1.", partial(_cosine, turn=1.0)),
        Mistake("this is half a turn: frequency j has 2 pi j, not pi j.", partial(_cosine, turn=np.pi)),
        Mistake("the amplitudes grow with the frequency: a_j = j^(-p), not j^p.", partial(_cosine, power=-2.0)),
        Mistake("your frequencies start at 0: they are 1 to n.", partial(_cosine, first=0)),
    ),
    praise="all right: the features make the kernel depend on the distance alone, and p sets its width",
)


def check_cosine(answer: Any) -> Result:
    """Judge `answer(delta, p, n)`: the inner product of the unit features of two points a distance `delta` apart."""
    return judge(answer, COSINE)


# ---------------------------------------------------------------- the question and the mission


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "spectral_bias" moves."""
    return Predict(
        "Take the biases of the hidden layer away and train for as long as you like. Which of the six frequencies are "
        "learnt?",
        {
            "All six, the low ones first.": (
                "So it is with biases. Without them look at frequencies 3 and 5 in the panel, at the last step."
            ),
            "1, 2, 4 and 6: never 3 and 5.": (
                "A ReLU is half its input plus half its absolute value. The input has frequency 1, and the absolute "
                "value is even: opposite points of the circle get the same number."
            ),
            "Only the first: the others need biases.": (
                "Kinks sit anywhere on the circle without biases too. The panel shows which frequencies they make."
            ),
        },
        answer="1, 2, 4 and 6: never 3 and 5.",
        panel=panel,
        look={"t": STEPS[-1], "bias": 0},
    )


def mission(panel: Panel) -> Mission:
    """The first step at which the infinite network with biases has learnt nine tenths of frequency 5."""
    return Mission(
        panel,
        "With biases: find the first step of the slider at which the infinite network has learnt more than 90 % of "
        "frequency 5.",
        _is_first_step,
        hint="The orange mark over 5 has to lie above 0.9 here, and below 0.9 one step earlier.",
        hint_after=6,
    )


def _is_first_step(data: dict[str, Any], state: dict[str, float]) -> bool:
    if not state["bias"] or data["share_infinite"][4] <= 0.9:
        return False
    earlier = STEPS[STEPS.index(int(state["t"])) - 1]
    return float(arrays(**{**state, "t": earlier})["share_infinite"][4]) <= 0.9


EXERCISES = {
    "eigenvalues": (check_eigenvalues, EIGENVALUES),
    "learnt": (check_learnt, LEARNT),
    "cosine": (check_cosine, COSINE),
}
