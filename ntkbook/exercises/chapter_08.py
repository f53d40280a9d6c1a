"""Exercises of chapter 08: the pull of the cross-entropy, a step of a classifier, heavy ball in function space."""

from functools import partial
from typing import Any

import jax
import numpy as np

from ..panel import Mission, Panel, Predict
from ..panels.beyond_squared_loss import BATCHES, X_TRAIN
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: what drives an output


def _pull(f, y):
    return jax.nn.softmax(f, axis=-1) - y


def _classes(seed, n, classes):
    rng = generator(seed)
    return 2 * rng.standard_normal((n, classes)), np.eye(classes)[rng.integers(0, classes, n)]


SOFTMAX_PULL = Exercise(
    "check_softmax_pull",
    _pull,
    (
        Case("two examples, two classes", _classes(0, 2, 2)),
        Case("five examples, three classes", _classes(1, 5, 3)),
        Case("three examples, ten classes", _classes(2, 3, 10)),
    ),
    (
        Mistake(
            "this is the pull of the squared loss. The cross-entropy compares probabilities: softmax(f) - y.",
            lambda f, y: f - y,
        ),
        Mistake(
            "the sign is turned: the slope of the loss is softmax(f) - y, positive where the probability is too high.",
            lambda f, y: -_pull(f, y),
        ),
        Mistake(
            "your softmax runs over the examples. The probabilities of one example, one row, add up to 1.",
            lambda f, y: jax.nn.softmax(f, axis=0) - y,
        ),
        Mistake(
            "this is the softmax alone: the targets are missing.",
            lambda f, y: jax.nn.softmax(f, axis=-1),
        ),
        Mistake(
            "your answer is divided by the number of examples. That factor stands in the step, not in the pull of one "
            "example.",
            lambda f, y: _pull(f, y) / len(f),
        ),
        Mistake(
            "you used the logarithm of the softmax. The loss contains it; its slope does not.",
            lambda f, y: jax.nn.log_softmax(f, axis=-1) - y,
        ),
        Mistake(
            "you used one sigmoid for each output. The classes exclude each other: softmax.",
            lambda f, y: jax.nn.sigmoid(f) - y,
        ),
        Mistake(
            "this is the slope in the probabilities, -y/p. Asked is the slope in the outputs f: go on with the "
            "chain rule, through the softmax.",
            lambda f, y: -y / jax.nn.softmax(f, axis=-1),
        ),
        Mistake(
            "this is the slope of the squared error of the probabilities. The cross-entropy has the logarithm in "
            "it, and then the factors of the softmax cancel.",
            lambda f, y: (lambda p: p * ((p - y) - (p * (p - y)).sum(-1, keepdims=True)))(jax.nn.softmax(f, axis=-1)),
        ),
        Mistake(
            "only the right class is pulled here. The other outputs are in the softmax too, and are pushed down.",
            lambda f, y: y * _pull(f, y),
        ),
        Mistake(
            "your answer is divided by the number of classes. Each output has its own slope, of the sum.",
            lambda f, y: _pull(f, y) / f.shape[-1],
        ),
        Mistake(
            "your answer is divided by the number of entries. It is the slope of the sum over examples and classes.",
            lambda f, y: _pull(f, y) / f.size,
        ),
        Mistake(
            "your softmax runs over all entries at once. The probabilities of one example, one row, add up to 1.",
            lambda f, y: jax.nn.softmax(f, axis=None) - y,
        ),
        Mistake(
            "the exponentials are not divided by their sum: softmax(f)_a = exp(f_a) / sum_b exp(f_b).",
            lambda f, y: np.exp(f) - y,
        ),
        Mistake(
            "this is the loss of each example, a number for each row. Asked is its slope in each output.",
            lambda f, y: -(y * jax.nn.log_softmax(f, axis=-1)).sum(-1),
        ),
        Mistake(
            "you multiplied by p (1 - p), the slope of one probability. The logarithm of the loss cancels it.",
            lambda f, y: (lambda p: (p - y) * p * (1 - p))(jax.nn.softmax(f, axis=-1)),
        ),
    ),
    praise="all right: every loss enters training through its pull alone",
)


def check_softmax_pull(answer: Any) -> Result:
    """Judge `answer(f, y)`: the slope of -sum y log softmax(f) in every output, (n, o)."""
    return judge(answer, SOFTMAX_PULL)


# ---------------------------------------------------------------- 2: one step of a classifier, elsewhere


def _step(k, f_test, f_train, y, lr):
    return f_test - lr / len(y) * k @ _pull(f_train, y)


def _step_case(name, seed, n, m, classes, lr):
    rng = generator(seed)
    x = rng.standard_normal((n + m, 3))
    k = np.exp(-0.2 * ((x[:, None] - x[None]) ** 2).sum(-1))[n:, :n]
    f, y = _classes(seed + 1, n, classes)
    return Case(name, (k, rng.standard_normal((m, classes)), f, y, lr))


STEP = Exercise(
    "check_classifier_step",
    _step,
    (
        _step_case("four examples, two others, three classes", 10, 4, 2, 3, 0.5),
        _step_case("one example", 20, 1, 3, 2, 1.0),
        _step_case("six examples, ten classes", 30, 6, 4, 10, 2.0),
    ),
    (
        Mistake(
            "the factor 1/n is missing: this loss is a mean over the n training examples.",
            lambda k, f_test, f, y, lr: f_test - lr * k @ _pull(f, y),
        ),
        Mistake(
            "you divided by the number of outputs too. The mean is over examples; each output has its own pull.",
            lambda k, f_test, f, y, lr: f_test - lr / y.size * k @ _pull(f, y),
        ),
        Mistake(
            "this is the step of the squared loss: the pull is f - y there, and softmax(f) - y here.",
            lambda k, f_test, f, y, lr: f_test - lr / len(y) * k @ (f - y),
        ),
        Mistake(
            "the sign is turned: a step goes against the pull.",
            lambda k, f_test, f, y, lr: f_test + lr / len(y) * k @ _pull(f, y),
        ),
        Mistake(
            "this is the change alone: it adds to the outputs at the test points.",
            lambda k, f_test, f, y, lr: -lr / len(y) * k @ _pull(f, y),
        ),
        Mistake(
            "you moved the probabilities. The kernel moves the outputs before the softmax.",
            lambda k, f_test, f, y, lr: jax.nn.softmax(f_test) - lr / len(y) * k @ _pull(f, y),
        ),
        Mistake(
            "you divided by the number of test points. The mean runs over the training examples.",
            lambda k, f_test, f, y, lr: f_test - lr / len(f_test) * k @ _pull(f, y),
        ),
        Mistake(
            "the learning rate is missing.",
            lambda k, f_test, f, y, lr: f_test - k @ _pull(f, y) / len(y),
        ),
        Mistake(
            "your softmax runs over the examples. The probabilities of one example, one row, add up to 1.",
            lambda k, f_test, f, y, lr: f_test - lr / len(y) * k @ (jax.nn.softmax(f, axis=0) - y),
        ),
        Mistake(
            "the targets are missing: the pull is softmax(f) - y.",
            lambda k, f_test, f, y, lr: f_test - lr / len(y) * k @ jax.nn.softmax(f),
        ),
        Mistake(
            "these are probabilities. Asked are the outputs before the softmax.",
            lambda k, f_test, f, y, lr: jax.nn.softmax(_step(k, f_test, f, y, lr)),
        ),
        Mistake(
            "only the right class is pulled here. The other outputs are in the softmax too, and are pushed down.",
            lambda k, f_test, f, y, lr: f_test - lr / len(y) * k @ (y * _pull(f, y)),
        ),
        Mistake(
            "the inverse kernel does not belong here: one step is the kernel times the pull. (It comes with the "
            "sum over all steps.)",
            lambda k, f_test, f, y, lr: f_test - lr / len(y) * (k / k.sum(1, keepdims=True)) @ _pull(f, y),
        ),
    ),
    praise="all right: one kernel, used for each class alone",
)


def check_classifier_step(answer: Any) -> Result:
    """Judge `answer(k_test_train, f_test, f_train, y, lr)`: the test outputs after one step on the cross-entropy."""
    return judge(answer, STEP)


# ---------------------------------------------------------------- 3: heavy ball


def _heavy_ball(k, f0, y, lr, momentum, steps, *, n=None, forget=False, average=False, nesterov=False, late=False):
    f, velocity = f0, 0 * f0
    for _ in range(steps):
        force = k @ (f - y) / (n or len(y))
        old = velocity
        velocity = momentum * (0 if forget else velocity) + (1 - momentum if average else 1) * force
        f = f - lr * (old if late else force + momentum * velocity if nesterov else velocity)
    return f


def _ball_case(name, seed, n, lr, momentum, steps):
    rng = generator(seed)
    x = rng.standard_normal((n, 3))
    k = np.exp(-0.2 * ((x[:, None] - x[None]) ** 2).sum(-1))
    return Case(name, (k, rng.standard_normal(n), rng.standard_normal(n), lr, momentum, steps))


HEAVY_BALL = Exercise(
    "check_heavy_ball",
    _heavy_ball,
    (
        _ball_case("two steps", 40, 3, 0.5, 0.9, 2),
        _ball_case("ten steps", 50, 4, 0.3, 0.5, 10),
        _ball_case("thirty steps", 60, 5, 0.5, 0.9, 30),
    ),
    (
        Mistake(
            "there is no momentum in this: the velocity keeps a part of what it was, velocity <- momentum * velocity "
            "+ force.",
            partial(_heavy_ball, forget=True),
        ),
        Mistake(
            "you averaged the forces, with a factor 1 - momentum. Heavy ball adds them up, and so is 1/(1 - momentum) "
            "times faster.",
            partial(_heavy_ball, average=True),
        ),
        Mistake(
            "this is Nesterov's momentum, which looks one step ahead. Heavy ball moves by the velocity itself.",
            partial(_heavy_ball, nesterov=True),
        ),
        Mistake(
            "you moved by the old velocity. First the force changes the velocity, then the velocity moves the outputs.",
            partial(_heavy_ball, late=True),
        ),
        Mistake(
            "the factor 1/n is missing: this loss is a mean over the n training points.",
            partial(_heavy_ball, n=1),
        ),
        Mistake(
            "your outputs run away from the targets: the force is K (f - y) / n, and a step goes against it.",
            lambda k, f0, y, lr, *rest: _heavy_ball(k, f0, y, -lr, *rest),
        ),
        Mistake(
            "this is plain descent with the rate lr/(1 - momentum): where the velocity settles, but not how it "
            "starts up.",
            lambda k, f0, y, lr, momentum, steps: _heavy_ball(k, f0, y, lr / (1 - momentum), 0.0, steps),
        ),
        Mistake(
            "this is one step too many.",
            lambda k, f0, y, lr, momentum, steps: _heavy_ball(k, f0, y, lr, momentum, steps + 1),
        ),
        Mistake(
            "this is one step too few.",
            lambda k, f0, y, lr, momentum, steps: _heavy_ball(k, f0, y, lr, momentum, steps - 1),
        ),
        Mistake(
            "a factor 2 too much: the loss is 1/2 the square, so the force is K (f - y) / n.",
            lambda k, f0, y, lr, momentum, steps: _heavy_ball(k, f0, y, 2 * lr, momentum, steps),
        ),
        Mistake(
            "the learning rate is in your velocity and in your step. It belongs in one of them.",
            lambda k, f0, y, lr, momentum, steps: _heavy_ball(k, f0, y, lr**2, momentum, steps),
        ),
        Mistake(
            "this is the velocity. Asked are the outputs.",
            lambda k, f0, y, lr, momentum, steps: (
                (_heavy_ball(k, f0, y, lr, momentum, steps - 1) - _heavy_ball(k, f0, y, lr, momentum, steps)) / lr
            ),
        ),
        Mistake(
            "these are the errors f - y. Asked are the outputs.",
            lambda k, f0, y, *rest: _heavy_ball(k, f0, y, *rest) - y,
        ),
    ),
    praise="all right: momentum needs a memory of outputs, not of weights",
)


def check_heavy_ball(answer: Any) -> Result:
    """Judge `answer(k, f0, y, lr, momentum, steps)`: f_lin at the training points by heavy ball, squared loss."""
    return judge(answer, HEAVY_BALL)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "classifier" moves."""
    return Predict(
        "Cross-entropy, step 512, width 64: the networks are about 1.6 from their linearizations. What if they "
        "are eight times as wide, and what if 256 times?",
        {
            "At both widths the distance has fallen as one over the root of the width.": (
                "It has at step 8, as the right plot shows. By step 512 the outputs of the narrower networks have "
                "grown out of the tangent plane. The panel shows width 512; the section below goes on to 16 384."
            ),
            "It hardly changes at either: with the cross-entropy outputs grow for ever.": (
                "They grow, but by step 512 only as far as log 512 allows, and a network that is wide enough can still "
                "follow. The panel shows width 512; the section below goes on to 16 384."
            ),
            "At eight times the width it hardly changes; at 256 times it has fallen.": (
                "For a fixed step there is a width from which the theorem's order holds; at step 512 it lies beyond "
                "512. The panel shows width 512, the section below goes on. Untick cross-entropy to see what width "
                "does there."
            ),
        },
        answer="At eight times the width it hardly changes; at 256 times it has fallen.",
        panel=panel,
        look={"t": 512, "width": 512, "cross_entropy": 1, "momentum": 0.0, "batch": 6},
    )


# ---------------------------------------------------------------- the mission

TARGET = 0.3


def mission(panel: Panel) -> Mission:
    """Classify all points with cross-entropy while both distances are below 0.3, on the panel "classifier"."""
    return Mission(
        panel,
        "With cross-entropy and full batches: find a setting at which the network has all six points right, and both "
        "distances are below 0.3.",
        _is_classified_and_near,
        hint="Wide is not enough, and early is not enough. When are all six points right for the first time?",
        hint_after=6,
    )


def _is_classified_and_near(data: dict[str, Any], state: dict[str, float]) -> bool:
    if not state["cross_entropy"] or state["batch"] != BATCHES[-1]:
        return False
    return bool(data["right"] == X_TRAIN.size and (data["gap"] < TARGET).all())


EXERCISES = {
    "softmax_pull": (check_softmax_pull, SOFTMAX_PULL),
    "classifier_step": (check_classifier_step, STEP),
    "heavy_ball": (check_heavy_ball, HEAVY_BALL),
}
