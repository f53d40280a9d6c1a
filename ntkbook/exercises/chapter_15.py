"""Exercises of chapter 15: a convolution and two read-outs as kernels, LayerNorm, residual blocks, attention."""

from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.key_token import SHARPNESS, curves
from .checking import Case, Exercise, Mistake, Result, judge


def _some(seed, n, m=3):
    """A kernel between the places of two images, (n, n)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, m)) @ rng.standard_normal((m, n)) / m


# ---------------------------------------------------------------- 1: a convolution


def _conv(k, *, own=False, total=False, pad=False, only=None):
    n, parts = len(k), []
    for a in (-1, 0, 1):
        for b in (-1, 0, 1) if own else (a,):
            rolled = np.roll(k, (-a, -b), (0, 1))
            if pad:
                rolled[[n - 1] if a > 0 else [0] if a < 0 else []] = 0
                rolled[:, [n - 1] if b > 0 else [0] if b < 0 else []] = 0
            parts.append(rolled)
    result = np.sum(parts, 0) / (1 if total else len(parts))
    return result if only is None else result * np.eye(n)


CONVOLVE = Exercise(
    "check_convolve",
    _conv,
    (Case("five places", (_some(0, 5),)), Case("eight places", (_some(1, 8),)), Case("four", (_some(2, 4),))),
    (
        Mistake(
            "the two places moved apart: this is pooling. A filter has one weight for each offset, so only equal "
            "offsets on both sides meet the same weight.",
            partial(_conv, own=True),
            also=(partial(_conv, own=True, total=True),),
        ),
        Mistake(
            "this is the sum. The weights have variance 1 over the fan-in, which counts the 3 places of the filter.",
            partial(_conv, total=True),
        ),
        Mistake(
            "this pads with zeros: on a circle the place after the last one is the first.",
            partial(_conv, pad=True),
        ),
        Mistake(
            "only pairs of a place with itself were kept. That is enough before Flatten, and not before pooling: "
            "all pairs are asked for.",
            partial(_conv, only=True),
        ),
        Mistake(
            "only one of the two images was moved.",
            lambda k: (k + np.roll(k, 1, 0) + np.roll(k, -1, 0)) / 3,
            also=(lambda k: (k + np.roll(k, 1, 1) + np.roll(k, -1, 1)) / 3,),
        ),
        Mistake("this is the kernel before the convolution.", lambda k: k),
    ),
    praise="all right: both places move together",
)


def check_convolve(answer: Any) -> Result:
    """Judge `answer(k)`: (n, n) after a convolution of 3 places on a circle with W_std = 1, from k (n, n) before it."""
    return judge(answer, CONVOLVE)


# ---------------------------------------------------------------- 2: two read-outs


def _read_out(k, is_pooled, *, swapped=False, total=False, row=False):
    pooled = bool(is_pooled) != swapped
    if row and pooled:
        return k[0].mean()
    value = k.mean() if pooled else np.diag(k).mean()
    return value * (k.size if pooled else len(k)) if total else value


READ_OUT = Exercise(
    "check_read_out",
    _read_out,
    (
        Case("Flatten, six places", (_some(3, 6), False)),
        Case("pooling, six places", (_some(3, 6), True)),
        Case("Flatten, nine places", (_some(4, 9), False)),
        Case("pooling, nine places", (_some(4, 9), True)),
    ),
    (
        Mistake(
            "the two are exchanged. Flatten gives each place weights of its own, so that a place meets only itself: "
            "the diagonal. Pooling sums outputs before the weights: all pairs meet.",
            partial(_read_out, swapped=True),
        ),
        Mistake(
            "these are sums. The fan-in of Flatten counts the places, and pooling is a mean on both sides.",
            partial(_read_out, total=True),
        ),
        Mistake(
            "this pools on one side only: each of the two images has its own mean over places.",
            partial(_read_out, row=True),
        ),
        Mistake(
            "this does not tell them apart: with pooling all pairs of places count, not only equal ones.",
            lambda k, is_pooled: np.diag(k).mean(),
        ),
        Mistake(
            "this does not tell them apart: with Flatten only equal places count.",
            lambda k, is_pooled: k.mean(),
        ),
    ),
    praise="all right: the diagonal, or everything",
)


def check_read_out(answer: Any) -> Result:
    """Judge `answer(k, is_pooled)`: the kernel of a Dense layer (W_std = 1) after pooling over places, or Flatten."""
    return judge(answer, READ_OUT)


# ---------------------------------------------------------------- 3: LayerNorm


def _normalized(nngp, ntk, var1, var2, *, power=0.5, both=True, sides=(1, 1)):
    scale = (var1 ** sides[0] * var2 ** sides[1]) ** power
    return np.array([nngp / scale, ntk / scale if both else ntk])


NORMALIZED = Exercise(
    "check_normalized",
    _normalized,
    (
        Case("two inputs", (1.2, 3.1, 2.0, 4.5)),
        Case("two others", (-0.3, 0.8, 0.5, 1.7)),
        Case("a long input", (5.0, 11.0, 100.0, 0.7)),
    ),
    (
        Mistake(
            "the variances stand under a root: LayerNorm divides a signal by its standard deviation, and the kernel "
            "has one signal from each side.",
            partial(_normalized, power=1.0),
        ),
        Mistake(
            "the tangent kernel is divided as well: behind LayerNorm every derivative carries the factor 1/σ.",
            partial(_normalized, both=False),
        ),
        Mistake(
            "with its own variance Theta does not become 1: divide both kernels by the standard deviations of the "
            "NNGP.",
            lambda nngp, ntk, var1, var2: np.array([nngp / (var1 * var2) ** 0.5, 1.0]),
        ),
        Mistake("each input has its own variance: divide by both deviations.", partial(_normalized, sides=(2, 0))),
        Mistake(
            "the two kernels are exchanged: first the NNGP, then the NTK.",
            lambda *given: _normalized(*given)[::-1],
        ),
    ),
    praise="all right: both kernels over both deviations",
)


def check_normalized(answer: Any) -> Result:
    """Judge `answer(nngp, ntk, var1, var2)`: (nngp, ntk) after LayerNorm."""
    return judge(answer, NORMALIZED)


# ---------------------------------------------------------------- 4: residual blocks in plain layers


def _worth(sizes, *, f=lambda s: s**2 / (1 + s**2)):
    return np.sum(f(np.asarray(sizes, float)))


WORTH = Exercise(
    "check_worth",
    _worth,
    (
        Case("three blocks with branches as long as their inputs", (np.ones(3),)),
        Case("four small ones", (np.array([0.1, 0.2, 0.3, 0.1]),)),
        Case("one large one", (np.array([3.0]),)),
    ),
    (
        Mistake(
            "a block is worth a plain layer only if the branch hides its input. What is left of the way to it is the "
            "branch's share of the variance, s²/(1 + s²).",
            lambda sizes: float(len(sizes)),
        ),
        Mistake(
            "this is right for small branches; a large one cannot be worth more than a plain layer. Divide by the "
            "variance after the block.",
            partial(_worth, f=lambda s: s**2),
        ),
        Mistake("variances add, lengths do not: square both.", partial(_worth, f=lambda s: s / (1 + s))),
        Mistake("the variance of a branch of relative size s is s².", partial(_worth, f=lambda s: s)),
        Mistake(
            "this is the share of the input that stays. The branch moves the angle.",
            partial(_worth, f=lambda s: 1 / (1 + s**2)),
        ),
    ),
    praise="all right: the branch's share of the variance",
)


def check_worth(answer: Any) -> Result:
    """Judge `answer(sizes)`: how many plain ReLU layers move the angle as blocks z + s W relu(z) of these sizes do."""
    return judge(answer, WORTH)


# ---------------------------------------------------------------- 5: attention


def _softmax(logits, axis=-1):
    grown = np.exp(logits - logits.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def _attend(x1, x2, sharpness, *, axis=-1, cross=False, scale=1.0, both=True, turned=True, none=False):
    k11, k12, k22 = (a @ b.T / x1.shape[1] for a, b in ((x1, x1), (x1, x2), (x2, x2)))
    first, second = (k12, k12.T) if cross else (k11, k22)
    Z1, Z2 = (_softmax(sharpness * scale * k, axis) for k in (first, second))
    if none:
        Z1, Z2 = (sharpness * k for k in (first, second))
    return Z1 @ k12 @ (Z2.T if turned else Z2) if both else Z1 @ k12


def _tokens(seed, n=4, d=5):
    return np.random.default_rng(seed).standard_normal((n, d))


ATTEND = Exercise(
    "check_attend",
    _attend,
    (
        Case("soft", (_tokens(0), _tokens(1), 0.5)),
        Case("sharp", (_tokens(2), _tokens(3), 4.0)),
        Case("a sequence with itself", (_tokens(4), _tokens(4), 2.0)),
    ),
    (
        Mistake(
            "self-attention looks at its own sequence: the weights of x come from K(x, x), those of x' from "
            "K(x', x'). The kernel of both stands between them.",
            partial(_attend, cross=True),
        ),
        Mistake(
            "the softmax runs over the tokens that are read, the last axis: every reader's weights sum to 1.",
            partial(_attend, axis=0),
        ),
        Mistake(
            "both sequences attend: weights stand on both sides of the kernel.",
            partial(_attend, both=False),
        ),
        Mistake("the second matrix of weights is transposed: Z K Z'^T.", partial(_attend, turned=False)),
        Mistake(
            "the logits are divided once too often: q.k over the key width is already a mean, and K has its 1/d.",
            partial(_attend, scale=1 / 5**0.5),
            also=(partial(_attend, scale=1 / 5),),
        ),
        Mistake("the softmax is missing: these are the logits.", partial(_attend, none=True)),
    ),
    praise="all right: each sequence looks at itself, and then they are compared",
)


def check_attend(answer: Any) -> Result:
    """Judge `answer(x1, x2, sharpness)`: the NNGP (s, s) of softmax attention with 1/d scaling, from (s, d) tokens."""
    return judge(answer, ATTEND)


# ---------------------------------------------------------------- the questions and the mission


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "shifted_digit" moves."""
    return Predict(
        "Three of these networks are convolutional: a filter finds a stroke wherever it is. None has seen a shifted "
        "digit. We shift the test digits by one pixel, around the edge. Which networks give the scores of before?",
        {
            "All three convolutional ones.": (
                "Filters move with the picture. What reads them need not: see how the kernel of Flatten falls."
            ),
            "The two that pool.": "Pooling by 2 has a grid. See the triangles at a shift of one pixel.",
            "Only the one that pools at the end.": (
                "One mean over all places does not know where they are. Flatten has weights for each place, and "
                "pooling by 2 knows odd places from even ones."
            ),
            "None: no network extrapolates.": "One of them need not extrapolate. Which curve is flat?",
        },
        answer="Only the one that pools at the end.",
        panel=panel,
        look={"dx": 1, "dy": 0},
    )


def predict_attention(panel: Panel) -> Predict:
    """The question to answer before the panel "key_token" moves."""
    return Predict(
        "One token of x is three times as long as the others, which point a little towards it. Another sequence "
        "shares this token, a third one all the rest. Queries and keys become longer. What does softmax attention do?",
        {
            "Nothing: the kernel is only scaled.": "That is relu with 1/√d. Softmax is not homogeneous.",
            "The two sequences become equally like x.": "They part. Who is read by all tokens?",
            "The one with the same long token becomes like x, the other one unlike.": (
                "All tokens turn to the long one, and in the end the sequence is that token."
            ),
            "The one with the most tokens in common becomes like x.": (
                "Sharp attention does not count tokens: one is read by all of them."
            ),
        },
        answer="The one with the same long token becomes like x, the other one unlike.",
        panel=panel,
        look={"sharpness": 4, "scaling": 0},
    )


def mission(panel: Panel) -> Mission:
    """The first sharpness at which most attention goes to the key token, on "key_token"."""
    return Mission(
        panel,
        "With softmax and 8 tokens: find the smallest sharpness at which the other tokens give more than half of their "
        "attention to the key token.",
        _is_first,
        hint="Read the percentage while you drag; one key press is a quarter.",
        hint_after=6,
    )


def _is_first(data: dict[str, Any], state: dict[str, float]) -> bool:
    if state["scaling"] != 0 or state["tokens"] != 8 or data["to_key"] <= 0.5:
        return False
    before = curves(0, 8)[1][max(int(np.argmin(np.abs(SHARPNESS - state["sharpness"]))) - 1, 0), 1:, 0].mean()
    return bool(before <= 0.5)


EXERCISES = {
    "convolve": (check_convolve, CONVOLVE),
    "read_out": (check_read_out, READ_OUT),
    "normalized": (check_normalized, NORMALIZED),
    "worth": (check_worth, WORTH),
    "attend": (check_attend, ATTEND),
}
