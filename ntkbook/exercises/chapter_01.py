"""Exercises of chapter 01: one step on one example, the kernel of a line, similarity, the speed of the loss."""

from typing import Any

import numpy as np

from ..panel import Mission, Panel, Predict
from .checking import Case, Exercise, Mistake, Result, generator, judge


def _jacobian(seed, n, parameters):
    return generator(seed).standard_normal((n, parameters))


# ---------------------------------------------------------------- 1: what one step on one example does


def _one_example(J, i, f, y, lr):
    return -lr * J @ J[i] * (f[i] - y)


def _example_case(name, seed, n, parameters, i, lr):
    f = generator(seed + 1).standard_normal(n)
    return Case(name, (_jacobian(seed, n, parameters), i, f, 1.5, lr))


ONE_EXAMPLE = Exercise(
    "check_one_example",
    _one_example,
    (
        _example_case("four points, six parameters", 0, 4, 6, 1, 0.1),
        _example_case("more points than parameters", 10, 7, 2, 6, 0.05),
        _example_case("a larger rate", 20, 3, 5, 0, 0.5),
    ),
    (
        Mistake(
            "the sign is turned: a step goes against the gradient, so an output that is too high comes down.",
            lambda *arguments: -_one_example(*arguments),
        ),
        Mistake(
            "the learning rate is missing.",
            lambda J, i, f, y, lr: _one_example(J, i, f, y, 1.0),
        ),
        Mistake(
            "your change is twice too large: the loss is 1/2 (f - y)^2, and the 1/2 cancels the 2 of the square.",
            lambda *arguments: 2 * _one_example(*arguments),
        ),
        Mistake(
            "the factor 1/n does not belong here: the step is on one example, however many points you look at.",
            lambda J, i, f, y, lr: _one_example(J, i, f, y, lr) / len(J),
        ),
        Mistake(
            "this is the change if every point had been an example with its own error: only example i was stepped on.",
            lambda J, i, f, y, lr: -lr * J @ J.T @ (f - y),
        ),
        Mistake(
            "each point was multiplied by its own error f - y. What pulls at every point is the error of example i.",
            lambda J, i, f, y, lr: -lr * J @ J[i] * (f - y),
        ),
        Mistake(
            "the target is missing: what pulls is the error f - y, not the output f.",
            lambda J, i, f, y, lr: _one_example(J, i, f, 0.0, lr),
        ),
        Mistake(
            "these are the outputs after the step. Asked is the change.",
            lambda J, i, f, y, lr: f + _one_example(J, i, f, y, lr),
        ),
        Mistake(
            "you divided by the kernel of the example with itself: then every step would close the same share of the "
            "gap. Plain gradient descent does not know its own kernel.",
            lambda J, i, f, y, lr: _one_example(J, i, f, y, lr) / (J[i] @ J[i]),
        ),
        Mistake(
            "the output at the example is missing: what pulls is the error f - y, not -y.",
            lambda J, i, f, y, lr: _one_example(J, i, 0 * f, y, lr),
        ),
        Mistake(
            "this is the change of the parameters. Multiply it by J once more: the outputs are asked for.",
            lambda J, i, f, y, lr: -lr * J[i] * (f[i] - y),
        ),
    ),
    praise="all right: one row of the kernel, times the error, times the rate",
)


def check_one_example(answer: Any) -> Result:
    """Judge `answer(J, i, f, y, lr)`: the change of all outputs, (n,), after one step on example i."""
    return judge(answer, ONE_EXAMPLE)


# ---------------------------------------------------------------- 2: the kernel of a line


def _line_kernel(x1, x2, a):
    return np.outer(x1, x2) + a**2


_X1, _X2 = np.array([-1.0, 0.5, 2.0]), np.array([0.3, 1.7])

LINE_KERNEL = Exercise(
    "check_line_kernel",
    _line_kernel,
    (
        Case("the plain line, a = 1", (_X1, _X2, 1.0)),
        Case("a = 10", (_X1, _X2, 10.0)),
        Case("a = 0.5, other points", (_X2, _X1 + 1, 0.5)),
    ),
    (
        Mistake(
            "the constant is a^2, not a: the derivative by theta_2 is a at both points, and they are multiplied.",
            lambda x1, x2, a: np.outer(x1, x2) + a,
        ),
        Mistake(
            "the intercept is missing: theta_2 is a parameter too, with derivative a everywhere.",
            lambda x1, x2, a: np.outer(x1, x2),
        ),
        Mistake(
            "your kernel does not know the scale a: it is that of the plain line. Differentiate a theta_2 by theta_2.",
            lambda x1, x2, a: np.outer(x1, x2) + 1,
        ),
        Mistake(
            "your answer is transposed: rows belong to x1, columns to x2.",
            lambda *arguments: _line_kernel(*arguments).T,
        ),
        Mistake(
            "the scale a stands before theta_2 only; you multiplied the slope by it too.",
            lambda x1, x2, a: a**2 * (np.outer(x1, x2) + 1),
        ),
        Mistake(
            "your answer is half of the kernel. The 1/2 belongs to the loss, not to the kernel.",
            lambda *arguments: _line_kernel(*arguments) / 2,
        ),
        Mistake(
            "this is a similarity, with the lengths of the gradients divided out. The kernel is the product itself.",
            lambda x1, x2, a: _line_kernel(x1, x2, a) / np.sqrt(np.outer(x1**2 + a**2, x2**2 + a**2)),
        ),
        Mistake(
            "you added the points instead of multiplying: the derivative by theta_1 is x at one point and x' at the "
            "other, and they are multiplied.",
            lambda x1, x2, a: np.add.outer(x1, x2) + a**2,
        ),
        Mistake(
            "one factor a has come to the slope: the derivative by theta_1 is x, without a.",
            lambda x1, x2, a: np.outer(x1, x2) * a + a**2,
        ),
    ),
    praise="all right: the same lines, another kernel for each a",
)


def check_line_kernel(answer: Any) -> Result:
    """Judge `answer(x1, x2, a)`: the tangent kernel of f = theta_1 x + a theta_2, (n1, n2)."""
    return judge(answer, LINE_KERNEL)


# ---------------------------------------------------------------- 3: kernel as similarity


def _similarity(theta):
    size = np.sqrt(np.diagonal(theta))
    return theta / np.outer(size, size)


def _kernel_case(name, seed, n, parameters):
    J = _jacobian(seed, n, parameters) * np.arange(1.0, n + 1)[:, None]
    return Case(name, (J @ J.T,))


SIMILARITY = Exercise(
    "check_similarity",
    _similarity,
    (_kernel_case("four points", 30, 4, 6), _kernel_case("six points, three parameters", 40, 6, 3)),
    (
        Mistake(
            "each row is divided by its own diagonal entry: that is a share of the move, which is not symmetric and "
            "can exceed 1. A cosine divides by both lengths, sqrt(Theta_ii) and sqrt(Theta_jj).",
            lambda theta: theta / np.diagonal(theta)[:, None],
        ),
        Mistake(
            "each column is divided by its own diagonal entry: that is a share of the move, which is not symmetric and "
            "can exceed 1. A cosine divides by both lengths, sqrt(Theta_ii) and sqrt(Theta_jj).",
            lambda theta: theta / np.diagonal(theta),
        ),
        Mistake(
            "the square root is missing: Theta_ii is the square of the length of the gradient.",
            lambda theta: theta / np.outer(np.diagonal(theta), np.diagonal(theta)),
        ),
        Mistake(
            "dividing by the largest entry changes the units only. A cosine divides each entry by two lengths.",
            lambda theta: theta / np.max(theta),
        ),
        Mistake(
            "dividing by the trace changes the units only. A cosine divides each entry by two lengths.",
            lambda theta: theta / np.trace(theta),
        ),
        Mistake(
            "this is a correlation: means were subtracted first. A cosine takes the gradients as they are.",
            lambda theta: np.corrcoef(theta),
        ),
        Mistake(
            "these are cosines between the rows of the kernel. The gradients are not its rows; their products are its "
            "entries.",
            lambda theta: theta @ theta.T / np.outer(np.linalg.norm(theta, axis=1), np.linalg.norm(theta, axis=1)),
        ),
        Mistake(
            "this is the angle. Its cosine is asked for.",
            lambda theta: np.arccos(np.clip(_similarity(theta), -1, 1)),
        ),
    ),
    praise="all right: 1 on the diagonal, at most 1 elsewhere",
)


def check_similarity(answer: Any) -> Result:
    """Judge `answer(theta)`: the cosines between the gradients whose products are theta, (n, n)."""
    return judge(answer, SIMILARITY)


# ---------------------------------------------------------------- 4: the speed of the loss


def _loss_speed(theta, f, y):
    r = f - y
    return -(r @ theta @ r) / len(y) ** 2


def _speed_case(name, seed, n, parameters):
    J, rng = _jacobian(seed, n, parameters), generator(seed + 1)
    return Case(name, (J @ J.T + 0.1 * np.eye(n), rng.standard_normal(n), rng.standard_normal(n)))


LOSS_SPEED = Exercise(
    "check_loss_speed",
    _loss_speed,
    (
        _speed_case("four examples", 50, 4, 6),
        _speed_case("one example", 60, 1, 3),
        _speed_case("six examples, two parameters", 70, 6, 2),
    ),
    (
        Mistake(
            "the sign is turned: gradient flow lowers the loss.",
            lambda *arguments: -_loss_speed(*arguments),
        ),
        Mistake(
            "there is one factor 1/N too few. It comes twice: once from the motion of f, once from the loss itself.",
            lambda theta, f, y: _loss_speed(theta, f, y) * len(y),
        ),
        Mistake(
            "the factor 1/N^2 is missing: the loss is a mean over N examples.",
            lambda theta, f, y: _loss_speed(theta, f, y) * len(y) ** 2,
        ),
        Mistake(
            "your speed is twice too large: d/dt of 1/2 r^2 is r times dr/dt.",
            lambda *arguments: 2 * _loss_speed(*arguments),
        ),
        Mistake(
            "your speed is half of it: the 1/2 of the loss has already cancelled the 2 of the square.",
            lambda *arguments: _loss_speed(*arguments) / 2,
        ),
        Mistake(
            "there is an inverse kernel in your answer. It belongs to the end of training; speeds are multiplied by "
            "the kernel itself.",
            lambda theta, f, y: -(f - y) @ np.linalg.solve(theta, f - y) / len(y) ** 2,
        ),
        Mistake(
            "the errors do not see each other in your answer: you used only the diagonal of the kernel.",
            lambda theta, f, y: -np.sum(np.diagonal(theta) * (f - y) ** 2) / len(y) ** 2,
        ),
        Mistake(
            "the targets are missing: what is measured by the kernel is the error f - y, not the output f.",
            lambda theta, f, y: _loss_speed(theta, f, 0 * y),
        ),
        Mistake(
            "the kernel is missing: this is the squared error. Its length is measured by the kernel, r Theta r.",
            lambda theta, f, y: -((f - y) @ (f - y)) / len(y) ** 2,
        ),
        Mistake(
            "this is the speed of the errors, one number for each example. Asked is that of the loss.",
            lambda theta, f, y: -theta @ (f - y) / len(y),
        ),
    ),
    praise="all right: minus the squared length of the error, measured by the kernel",
)


def check_loss_speed(answer: Any) -> Result:
    """Judge `answer(theta, f, y)`: dC/dt of C = 1/(2N) sum (f - y)^2 under gradient flow with rate 1."""
    return judge(answer, LOSS_SPEED)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "one_example" moves."""
    return Predict(
        "A straight line takes one step on an example at x₀ = 2 that lies above it. What happens to the "
        "prediction at x = −2?",
        {
            "It goes up as well, but less.": (
                "The kernel is x x₀ + 1. Put in x = −2 and x₀ = 2. The panel below shows it."
            ),
            "It goes down.": (
                "The kernel between −2 and 2 is −3: the line turns more than it shifts. The panel below shows it;"
                " compare with the rescaled line."
            ),
            "It stays: −2 is far away from 2.": (
                "Distance counts in models such as the bumps. A line has two parameters, and every point depends "
                "on both. The panel below shows it."
            ),
        },
        answer="It goes down.",
        panel=panel,
        look={"model": 2, "x0": 2.0, "y0": 3.0, "part": 0.5},
    )


# ---------------------------------------------------------------- the missions


def mission(panel: Panel) -> Mission:
    """A line that moves another prediction more than twice as far as the example's own, on the panel "one_example"."""
    return Mission(
        panel,
        "With the straight line, find an example x₀ whose step moves another prediction more than 2.05 times as far as "
        "the example's own.",
        lambda data, state: state["model"] == 2 and float(data["farthest"][1]) > 2.05,
        hint="The kernel of the line is x x₀ + 1. Which x₀ makes (3 x₀ + 1) / (x₀² + 1) large? See the reading.",
        hint_after=8,
    )


def mission_two(panel: Panel) -> Mission:
    """A start from which the errors take longest, on the panel "two_outputs"."""
    return Mission(
        panel,
        "At distance 0.5 and width 512: choose a start of the errors so that more than 90 % is left after step 11.",
        _is_slow,
        hint="Each part of the error shrinks along one axis of the ellipse, in proportion to the length of that axis.",
        hint_after=8,
    )


def _is_slow(data: dict[str, Any], state: dict[str, float]) -> bool:
    is_there = abs(state["distance"] - 0.5) < 1e-6 and state["width"] == 512 and state["step"] >= 11
    return is_there and float(data["left"]) > 0.9


EXERCISES = {
    "one_example": (check_one_example, ONE_EXAMPLE),
    "line_kernel": (check_line_kernel, LINE_KERNEL),
    "similarity": (check_similarity, SIMILARITY),
    "loss_speed": (check_loss_speed, LOSS_SPEED),
}
