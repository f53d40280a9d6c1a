"""Exercises of chapter 14: u'' of a network, the speeds of a physics-informed loss, trace weights, a straight line."""

from functools import partial
from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.physics_informed import WEIGHTS, boundary_arrays
from .checking import Case, Exercise, Mistake, Result, judge

# ---------------------------------------------------------------- 1: the second derivative of a network


def _curve(W, b, v, x, spread, *, power=2, divide=2, factor=-2.0, outer="sech2"):
    h = np.tanh(np.outer(x / spread, W) + b)
    second = factor * h * (1 - h * h) if outer == "sech2" else 1 - h * h
    return second @ (W**power * v) / W.size**0.5 / spread**divide


def _third_of_network(W, b, v, x, spread):
    h = np.tanh(np.outer(x / spread, W) + b)
    return ((1 - h * h) * (6 * h * h - 2)) @ (W**3 * v) / W.size**0.5 / spread**3


def _units(seed, n):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((3, n)))


CURVE = Exercise(
    "check_second_derivative",
    _curve,
    (
        Case("4 units", (*_units(0, 4), np.linspace(-1, 1, 5), 1.5)),
        Case("16 units", (*_units(1, 16), np.linspace(0, 1, 3), 0.3)),
        Case("64 units", (*_units(2, 64), np.array([0.2, -0.7]), 0.5)),
    ),
    (
        Mistake(
            "the inner derivative is missing: each derivative in z brings down a weight W, two of them W^2.",
            partial(_curve, power=0),
        ),
        Mistake(
            "each of the two derivatives brings down a weight: it is W^2, not W.",
            partial(_curve, power=1),
        ),
        Mistake(
            "this is the second derivative in z = x / spread. In x each derivative has a factor 1/spread.",
            partial(_curve, divide=0),
        ),
        Mistake("one factor 1/spread is missing: there are two derivatives.", partial(_curve, divide=1)),
        Mistake(
            "the sign or the factor of tanh'' is wrong: the derivative of 1 - tanh^2 is -2 tanh (1 - tanh^2).",
            partial(_curve, factor=2.0),
            also=(partial(_curve, factor=-1.0), partial(_curve, factor=1.0)),
        ),
        Mistake(
            "this is the first derivative, u'. The equation asks for u''.",
            partial(_curve, power=1, divide=1, outer="slope"),
        ),
        Mistake("this is the third derivative.", _third_of_network),
    ),
    praise="all right: the weights come squared, so steep units dominate the residual",
)


def check_second_derivative(answer: Any) -> Result:
    """Judge `answer(W, b, v, x, spread)`: u''(x), (m,), of u(x) = sum v tanh(W x / spread + b) / sqrt(units)."""
    return judge(answer, CURVE)


# ---------------------------------------------------------------- 2: the speeds of the weighted loss


def _speeds(J_u, J_r, weight_u, weight_r, *, factor=2.0, mean=True, root=False, cross=True):
    n_u, n_r = (len(J_u), len(J_r)) if mean else (1, 1)
    scale = np.concatenate([np.full(len(J_u), factor * weight_u / n_u), np.full(len(J_r), factor * weight_r / n_r)])
    J = np.concatenate([J_u, J_r])
    k = J @ J.T
    if not cross:
        k[: len(J_u), len(J_u) :] = 0
        k[len(J_u) :, : len(J_u)] = 0
    scale = scale if root else np.sqrt(scale)
    return np.sort(np.linalg.eigvalsh(scale[:, None] * k * scale))[::-1]


def _jacobians(seed, n_u, n_r, p):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_u, p)), 3 * rng.standard_normal((n_r, p))


SPEEDS = Exercise(
    "check_speeds",
    _speeds,
    (
        Case("equal weights", (*_jacobians(0, 2, 5, 12), 1.0, 1.0)),
        Case("a heavy boundary", (*_jacobians(1, 2, 6, 12), 9.0, 1.0)),
        Case("both weights", (*_jacobians(2, 3, 4, 12), 2.0, 0.5)),
    ),
    (
        Mistake(
            "the blocks that couple boundary and equation are missing: what one learns moves the other, J_u J_r^T.",
            partial(_speeds, cross=False),
        ),
        Mistake(
            "the factor 2 is missing: these losses are means of squares without 1/2, so the slope is twice the error.",
            partial(_speeds, factor=1.0),
        ),
        Mistake(
            "the losses are means: each part is divided by the number of its own points.",
            partial(_speeds, mean=False),
            also=(partial(_speeds, mean=False, factor=1.0),),
        ),
        Mistake(
            "the weights act once on K: multiply its rows by them, or both sides by their square roots.",
            partial(_speeds, root=True),
        ),
        Mistake(
            "these are the eigenvalues of K, without the weights.",
            lambda J_u, J_r, weight_u, weight_r: _speeds(J_u, J_r, 1.0, 1.0, mean=False, factor=1.0),
            also=(lambda J_u, J_r, weight_u, weight_r: _speeds(J_u, J_r, 1.0, 1.0),),
        ),
        Mistake(
            "the weights are exchanged: weight_u belongs to the boundary.",
            lambda J_u, J_r, weight_u, weight_r: _speeds(J_u, J_r, weight_r, weight_u),
        ),
        Mistake(
            "these are the singular values of the weighted Jacobian: the speeds are their squares.",
            lambda *given: np.sqrt(np.maximum(_speeds(*given), 0)),
        ),
        Mistake("right numbers, the wrong way round: largest first.", lambda *given: _speeds(*given)[::-1]),
    ),
    praise="all right: one matrix holds all speeds, and the weights of the losses set it",
)


def check_speeds(answer: Any) -> Result:
    """Judge `answer(J_u, J_r, weight_u, weight_r)`: the decay rates of the errors, (n_u + n_r,), largest first."""
    return judge(answer, SPEEDS)


# ---------------------------------------------------------------- 3: trace weights


def _traces(K, n_u):
    return np.trace(K[:n_u, :n_u]), np.trace(K[n_u:, n_u:])


def _trace_weights(K, n_u):
    u, r = _traces(K, n_u)
    return np.array([(u + r) / u, (u + r) / r])


def _tops(K, n_u):
    return np.array([np.linalg.eigvalsh(block)[-1] for block in (K[:n_u, :n_u], K[n_u:, n_u:], K)])


def _by_points(K, n_u):
    u, r = (trace / n for trace, n in zip(_traces(K, n_u), (n_u, len(K) - n_u)))
    return np.array([(u + r) / u, (u + r) / r])


def _by_eigenvalues(K, n_u):
    u, r, both = _tops(K, n_u)
    return np.array([both / u, both / r])


def _kernel(seed, n_u, n_r):
    J_u, J_r = _jacobians(seed, n_u, n_r, 2 * (n_u + n_r))
    J = np.concatenate([J_u, J_r])
    return J @ J.T


TRACES = Exercise(
    "check_trace_weights",
    _trace_weights,
    (
        Case("2 and 5 points", (_kernel(3, 2, 5), 2)),
        Case("3 and 9 points", (_kernel(4, 3, 9), 3)),
        Case("4 and 4 points", (_kernel(5, 4, 4), 4)),
    ),
    (
        Mistake(
            "the two are exchanged: the part with the small trace, the slow one, gets the large weight.",
            lambda K, n_u: _trace_weights(K, n_u)[::-1],
        ),
        Mistake(
            "this is upside down: a part with a small trace is slow, and needs a weight above 1.",
            lambda K, n_u: 1 / _trace_weights(K, n_u),
        ),
        Mistake(
            "these are the traces over the number of points. The rule of Wang et al. takes the traces themselves.",
            _by_points,
        ),
        Mistake(
            "these are largest eigenvalues. The trace is their sum: the mean speed, not the top one.", _by_eigenvalues
        ),
        Mistake(
            "the numerator is the trace of the whole kernel, both parts together.",
            lambda K, n_u: _trace_weights(K, n_u) - 1,
        ),
        Mistake("these are the traces: divide that of K by each.", lambda K, n_u: np.array(_traces(K, n_u))),
    ),
    praise="all right: the weights make both parts' mean speeds equal",
)


def check_trace_weights(answer: Any) -> Result:
    """Judge `answer(K, n_u)`: the weights (of the boundary, of the equation); the first n_u rows are the boundary's."""
    return judge(answer, TRACES)


# ---------------------------------------------------------------- 4: what is wrong when the residual is zero


def _line(at_0, at_1, x):
    return at_0 * (1 - x) + at_1 * x


_X = np.linspace(0, 1, 5)
LINE = Exercise(
    "check_error_of_solution",
    _line,
    (
        Case("one end is wrong", (0.0, 1.0, _X)),
        Case("both are wrong by the same", (-0.5, -0.5, _X)),
        Case("both are wrong", (0.8, -0.3, np.array([0.1, 0.9]))),
    ),
    (
        Mistake(
            "a residual of zero does not mean that the solution is right: the equation knows u'' only. What has no "
            "second derivative?",
            lambda at_0, at_1, x: 0 * x,
        ),
        Mistake(
            "a constant has no second derivative, but neither has a slope: both ends have to be met.",
            lambda at_0, at_1, x: 0 * x + (at_0 + at_1) / 2,
        ),
        Mistake("the ends are exchanged: at x = 0 it is the first number.", lambda at_0, at_1, x: _line(at_1, at_0, x)),
        Mistake(
            "an error at the ends does not die away inside: nothing in the equation pulls u back to its value.",
            lambda at_0, at_1, x: at_0 * np.exp(-x) + at_1 * np.exp(x - 1),
            also=(lambda at_0, at_1, x: at_0 * (x == 0) + at_1 * (x == 1),),
        ),
        Mistake("this is the slope of the error, not the error.", lambda at_0, at_1, x: 0 * x + at_1 - at_0),
    ),
    praise="all right: a straight line, which the equation cannot see",
)


def check_error_of_solution(answer: Any) -> Result:
    """Judge `answer(at_0, at_1, x)`: u - u* at x (m,), if u'' = f everywhere, and it is at_0 and at_1 at the ends."""
    return judge(answer, LINE)


# ---------------------------------------------------------------- the questions and the mission


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "boundary_weight" moves."""
    return Predict(
        "Boundary and equation have equal weights. The equation is learnt first, and most of its error is gone. Which "
        "shape has the error of the solution then?",
        {
            "None to speak of: where the equation holds, the solution is right.": (
                "The equation is about u''. Look at the ends of u: a function without a second derivative is left over."
            ),
            "Waves between the points where the equation is asked for.": (
                "100 points are many for this network. Look at the panel: the error is smooth."
            ),
            "Nearly a straight line.": (
                "u'' of a straight line is zero: the equation does not see it. Only the boundary does, and it is slow."
            ),
            "A peak at each end that dies away inside.": (
                "Nothing pulls u back inside: the equation knows u'' only. Look at the dotted line."
            ),
        },
        answer="Nearly a straight line.",
        panel=panel,
        look={"weight": 1, "t": 100},
    )


def predict_frequency(panel: Panel) -> Predict:
    """The question to answer before the panel "frequency" moves."""
    return Predict(
        "A network learns sin(a π x) from its differential equation. Compared with a network that is told the values "
        "of u at the same points, at the same rate per step, how long does it need for a high frequency?",
        {
            "Longer: derivatives make a problem harder.": (
                "See the two curves on the right. What does a second derivative do to a wave of high frequency?"
            ),
            "As long: both have the tangent kernel of the same network.": (
                "Not the same kernel: that of the equation has u'' in the place of u, in both of its arguments."
            ),
            "Less: by many powers of ten.": (
                "u'' of a wave is (a π)² times the wave, and it stands twice in the kernel: its eigenvalues grow by "
                "(a π)⁴. Still, both curves rise by a factor for each half wave: the spectral bias stays."
            ),
        },
        answer="Less: by many powers of ten.",
        panel=panel,
        look={"a": 8, "t": 1e6},
    )


def mission(panel: Panel) -> Mission:
    """The weight that leaves the smallest error of u after 100 steps, on "boundary_weight"."""
    return Mission(
        panel,
        "After 100 steps: find the weight of the boundary that leaves the smallest error of u.",
        _is_best,
        hint="Set the step to 100. The thick curve on the right has a lowest point: bring the large mark there.",
        hint_after=6,
    )


def _is_best(data: dict[str, Any], state: dict[str, float]) -> bool:
    return state["t"] == 100 and state["weight"] == WEIGHTS[boundary_arrays(1.0, 100)["off"].argmin()]


EXERCISES = {
    "second_derivative": (check_second_derivative, CURVE),
    "speeds": (check_speeds, SPEEDS),
    "trace_weights": (check_trace_weights, TRACES),
    "error_of_solution": (check_error_of_solution, LINE),
}
