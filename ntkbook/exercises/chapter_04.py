"""Exercises of chapter 04: a tangent plane, the steps of a linearized network, the largest stable learning rate."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..finite.linearize import linearize
from ..networks.layers import Dense, serial
from ..networks.quadrature import Tanh
from ..panel import Mission, Panel, Predict
from ..panels.linearization import arrays
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: the tangent plane


def _normal(seed, *shape):
    return jnp.asarray(generator(seed).standard_normal(shape))


def _plain(params, x):
    """A function whose tangent plane can be done by hand: f = p_0 exp(p_1 x)."""
    return params[0] * jnp.exp(params[1] * x)


_NET = serial(Dense(5, 1.3, 0.2), Tanh(), Dense(1, 1.3, 0.2))


def _params(seed):
    return ((_normal(seed, 3, 5), _normal(seed + 1, 5)), (), (_normal(seed + 2, 5, 1), _normal(seed + 3, 1)))


def _tangent(f, params_0, params, x):
    return linearize(f, params_0)(params, x)


def _expand(f, params_0, params, x, *, at=None, along=None, value=1.0):
    """value * f + df[along], both taken at `at`."""
    start, rebuild = ravel_pytree(params_0)
    end, _ = ravel_pytree(params)
    at = rebuild(start if at is None else end)
    along = rebuild({None: end - start, "end": end, "back": start - end}[along])
    f0, slope = jax.jvp(lambda p: f(p, x), (at,), (along,))
    return value * f0 + slope


def _halfway(f, params_0, params, x, factor):
    return f(params_0, x) + factor * _expand(f, params_0, params, x, value=0.0)


TANGENT = Exercise(
    "check_tangent",
    _tangent,
    (
        Case(
            "f = p0 exp(p1 x)", (_plain, jnp.asarray([1.0, 0.5]), jnp.asarray([1.2, 0.3]), jnp.asarray([[0.5], [-1.0]]))
        ),
        Case("a network", (_NET.apply, _params(0), _params(10), _normal(20, 4, 3))),
        Case("a network at its own start", (_NET.apply, _params(0), _params(0), _normal(21, 2, 3))),
    ),
    (
        Mistake(
            "this is the function itself, f(params, x). The tangent plane takes value and slope at params_0.",
            lambda f, params_0, params, x: f(params, x),
        ),
        Mistake(
            "this is the change alone: add the value at the start, f(params_0, x).",
            partial(_expand, value=0.0),
        ),
        Mistake(
            "the tangent is params itself. The slope multiplies the step, params - params_0.",
            partial(_expand, along="end"),
        ),
        Mistake(
            "your step goes backwards: it is params - params_0, not params_0 - params.",
            partial(_expand, along="back"),
        ),
        Mistake(
            "value and slope are taken at params, where training went. The plane touches the function at params_0.",
            partial(_expand, at="end"),
        ),
        Mistake(
            "the slope is taken at params. The plane keeps the slope of its start: value and slope both at params_0.",
            lambda f, params_0, params, x: f(params_0, x) + _expand(f, params_0, params, x, at="end", value=0.0),
        ),
        Mistake(
            "the value is taken at params, the slope at params_0. Both belong to params_0: at params the step has "
            "already been taken.",
            lambda f, params_0, params, x: f(params, x) + _expand(f, params_0, params, x, value=0.0),
        ),
        Mistake(
            "this is the value at the start alone: add the slope times the step.",
            lambda f, params_0, params, x: f(params_0, x),
        ),
        Mistake(
            "the step is halved or doubled: the first order has no factor in front (1/2 belongs to the second).",
            lambda f, params_0, params, x: _halfway(f, params_0, params, x, 0.5),
            also=(lambda f, params_0, params, x: _halfway(f, params_0, params, x, 2.0),),
        ),
    ),
    praise="all right: one forward pass gives value and slope together",
)


def check_tangent(answer: Any) -> Result:
    """Judge `answer(f, params_0, params, x)`: the first-order expansion of f about params_0."""
    return judge(answer, TANGENT)


# ---------------------------------------------------------------- 2: gradient descent on the linearized network


def _linear_steps(k_test_train, k_train_train, f0_test, f0_train, y, lr, steps, *, n=None, factor=1.0, late=False):
    f_test, f_train = np.asarray(f0_test), np.asarray(f0_train)
    for _ in range(steps):
        error = f_train - y
        f_train = f_train - factor * lr / (n or len(y)) * k_train_train @ error
        f_test = f_test - factor * lr / (n or len(y)) * k_test_train @ ((f_train - y) if late else error)
    return f_test


def _frozen(k, kk, f0_test, f0_train, y, lr, steps):
    return f0_test - steps * lr / len(y) * k @ (f0_train - y)


def _flow(k, kk, f0_test, f0_train, y, lr, steps):
    lam, q = np.linalg.eigh(kk)
    learnt = (1 - np.exp(-lr * steps * lam / len(y))) / lam * (q.T @ (f0_train - y))
    return f0_test - k @ q @ learnt


def _at_the_end(k, kk, f0_test, f0_train, y, lr, steps):
    return f0_test - k @ np.linalg.solve(kk, f0_train - y)


def _steps_case(name, seed, n_train, n_test, lr, steps):
    x = generator(seed).standard_normal((n_train + n_test, 3))
    k = np.exp(-0.2 * ((x[:, None] - x[None]) ** 2).sum(-1))
    values = generator(seed + 1).standard_normal(2 * n_train + n_test)
    f0_test, f0_train, y = np.split(values, [n_test, n_test + n_train])
    return Case(name, (k[n_train:, :n_train], k[:n_train, :n_train], f0_test, f0_train, y, lr, steps))


LINEAR_STEPS = Exercise(
    "check_linear_steps",
    _linear_steps,
    (
        _steps_case("one step", 10, 4, 3, 0.5, 1),
        _steps_case("three steps", 20, 4, 3, 0.5, 3),
        _steps_case("twenty steps, one test point", 30, 6, 1, 1.0, 20),
    ),
    (
        Mistake(
            "the error never changes in your loop: after each step the outputs at the training points are new, and the "
            "next step is pulled by what is left of the error.",
            _frozen,
        ),
        Mistake(
            "the order is wrong: one step moves training and test outputs by the same error, the one before the step.",
            partial(_linear_steps, late=True),
        ),
        Mistake(
            "the factor 1/n is missing: this loss is a mean over the n training points.",
            partial(_linear_steps, n=1),
        ),
        Mistake(
            "your outputs move away from the targets: a step goes against the gradient.",
            partial(_linear_steps, factor=-1.0),
        ),
        Mistake(
            "your steps are twice too long: the loss is 1/2 (f - y)^2, and the 1/2 cancels the 2 of the square.",
            partial(_linear_steps, factor=2.0),
        ),
        Mistake(
            "this is the flow: the learning rate stands in an exponent there. Steps multiply the error by "
            "I - lr K / n, once each.",
            _flow,
        ),
        Mistake(
            "this is the end of training (t = infinity), where the inverse kernel comes in. Here only a few steps are "
            "taken.",
            _at_the_end,
        ),
        Mistake(
            "the outputs at the start are missing: the steps add to f0_test.",
            lambda k, kk, f0_test, *rest: _linear_steps(k, kk, f0_test, *rest) - f0_test,
        ),
        Mistake(
            "these are zero-start outputs: the error of the first step is f0_train - y, not -y.",
            lambda k, kk, f0_test, f0_train, *rest: _linear_steps(k, kk, f0_test, 0 * f0_train, *rest),
        ),
        Mistake(
            "one step is missing: `steps` of them, counted from the start.",
            lambda *arguments: _linear_steps(*arguments[:-1], arguments[-1] - 1),  # pyright: ignore
        ),
        Mistake(
            "there is one step too many: `steps` of them, counted from the start.",
            lambda *arguments: _linear_steps(*arguments[:-1], arguments[-1] + 1),  # pyright: ignore
        ),
        Mistake(
            "the factor 1/n is that of the test points. The loss is a mean over the training points.",
            lambda k, *rest: _linear_steps(k, *rest, n=len(k)),
        ),
        Mistake(
            "the targets are missing: what pulls is the error f - y, not the output f.",
            lambda k, kk, f0_test, f0_train, y, *rest: _linear_steps(k, kk, f0_test, f0_train, 0 * y, *rest),
        ),
    ),
    praise="all right: the linearized network can be trained without its parameters",
)


def check_linear_steps(answer: Any) -> Result:
    """Judge `answer(k_test_train, k_train_train, f0_test, f0_train, y, lr, steps)`: f_lin at the test points."""
    return judge(answer, LINEAR_STEPS)


# ---------------------------------------------------------------- 3: the largest stable learning rate


def _eigenvalues(k):
    return np.linalg.eigvalsh(np.asarray(k))


def _kernel_case(name, seed, n):
    x = generator(seed).standard_normal((n, 3))
    return Case(name, (x @ x.T + np.exp(-((x[:, None] - x[None]) ** 2).sum(-1)),))


LARGEST_RATE = Exercise(
    "check_largest_rate",
    lambda k: 2 * len(k) / _eigenvalues(k)[-1],
    (
        Case("a diagonal kernel", (np.diag([4.0, 1.0, 0.5]),)),
        _kernel_case("five points", 1, 5),
        _kernel_case("twelve points", 2, 12),
    ),
    (
        Mistake(
            "the factor n is missing: the loss is a mean, so one step multiplies the error by I - lr K / n.",
            lambda k: 2 / _eigenvalues(k)[-1],
        ),
        Mistake(
            "this is half of it: at lr lambda_max / n = 1 the fastest direction is learnt in one step, and up to 2 it "
            "overshoots but still shrinks.",
            lambda k: len(k) / _eigenvalues(k)[-1],
        ),
        Mistake(
            "you took the smallest eigenvalue. The direction that diverges first is the one with the largest.",
            lambda k: 2 * len(k) / _eigenvalues(k)[0],
        ),
        Mistake(
            "this is eta_critical = 2/(lambda_min + lambda_max) of Theorem 2.1, with the factor n: a sufficient "
            "condition of the proof. The linear model is stable up to 2/lambda_max.",
            lambda k: 2 * len(k) / (_eigenvalues(k)[0] + _eigenvalues(k)[-1]),
        ),
        Mistake(
            "you took the trace, the sum of all eigenvalues. That is a safe bound, not the largest rate.",
            lambda k: 2 * len(k) / np.trace(k),
        ),
        Mistake(
            "lambda_max stands upstairs in your answer: the larger the eigenvalue, the smaller the rate must be.",
            lambda k: 2 * _eigenvalues(k)[-1] / len(k),
        ),
        Mistake(
            "this is eta_critical = 2/(lambda_min + lambda_max) of Theorem 2.1, and without the factor n of the mean "
            "loss: I - lr K / n has to stay below 1, and the linear model is stable up to 2 n / lambda_max.",
            lambda k: 2 / (_eigenvalues(k)[0] + _eigenvalues(k)[-1]),
        ),
        Mistake(
            "this is half of it, and the factor n is missing: 1/lambda_max is the rate that learns the fastest "
            "direction in one step.",
            lambda k: 1 / _eigenvalues(k)[-1],
        ),
        Mistake(
            "you took the largest entry, or the largest entry on the diagonal. What multiplies an error is an "
            "eigenvalue.",
            lambda k: 2 * len(k) / np.max(k),
            also=(lambda k: 2 * len(k) / np.linalg.norm(k),),
        ),
    ),
    praise="all right: this is the wall that the panel shows at lr lambda_max = 2",
)


def check_largest_rate(answer: Any) -> Result:
    """Judge `answer(k)`: the learning rate up to which descent on the mean squared error of f_lin does not diverge."""
    return judge(answer, LARGEST_RATE)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "linearization" moves."""
    return Predict(
        "The rate is set a little too high: lr λ_max = 2.2. What happens to the network and to its linearization,"
        " at width 256?",
        {
            "Both diverge.": (
                "That holds for the linearization. The panel shows rate 2.2: look at the blue curve, and at the "
                "losses in the line below."
            ),
            "The linearization diverges; the network learns the points all the same.": (
                "A linear model has one kernel for ever. The network's kernel shrinks until the steps are small "
                "enough: it has left its tangent plane. The panel shows it."
            ),
            "Both learn the points: a width of 256 is enough for the theorem.": (
                "The theorem asks for a small rate first, at any width. The panel shows rate 2.2."
            ),
        },
        answer="The linearization diverges; the network learns the points all the same.",
        panel=panel,
        look={"t": 256, "width": 256, "rate": 2.2, "relu": 0},
    )


# ---------------------------------------------------------------- the mission

TARGET = 0.1


def mission(panel: Panel) -> Mission:
    """The smallest width at which three erf networks stay within 0.1 of their linearizations, on "linearization"."""
    return Mission(
        panel,
        "With erf and lr λ_max = 0.5: find the smallest width at which, at their worst moment, the three networks are "
        "off their linearizations by less than 0.1 on average.",
        _is_smallest_width,
        hint="The reading under the picture has the number. Is it below 0.1 here, and above 0.1 at half the width?",
        hint_after=6,
    )


def _is_smallest_width(data: dict[str, Any], state: dict[str, float]) -> bool:
    if not math.isclose(state["rate"], 0.5) or state["relu"] or data["worst"] > TARGET:
        return False
    return float(arrays(**{**state, "width": state["width"] / 2})["worst"]) > TARGET


EXERCISES = {
    "tangent": (check_tangent, TANGENT),
    "linear_steps": (check_linear_steps, LINEAR_STEPS),
    "largest_rate": (check_largest_rate, LARGEST_RATE),
}
