"""Exercises of chapter 03: the recursion for erf, the kernel of a finite network, one step of training."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..finite.empirical import empirical_ntk
from ..networks.activations import Erf
from ..networks.kernel import ntk
from ..networks.layers import Dense, serial
from ..networks.quadrature import Tanh
from ..panel import Mission, Panel, Predict
from ..panels.infinite_width_ntk import circle_arrays
from .checking import Case, Exercise, Mistake, Result, generator, judge

# ---------------------------------------------------------------- 1: the tangent kernel of an erf network


def _erf_reference(x1, x2, depth, W_std, b_std):
    block = (Dense(1, W_std, b_std), Erf())
    return ntk(serial(*block * depth, Dense(1, W_std, b_std)), x1, x2)


def _erf_recursion(
    x1,
    x2,
    depth,
    W_std,
    b_std,
    *,
    features=None,
    weight=None,
    dot=True,
    own=True,
    lower=True,
    bias=(1, 1),
    half=False,
    late=False,
    power=2,
):
    """The recursion with one thing changed: each change is a mistake."""
    features = x1.shape[1] if features is None else features
    weight = W_std**2 if weight is None else weight
    first = lambda a, b: W_std**power * a @ b.T / features + bias[0] * b_std**2
    k, ntk = first(x1, x2), first(x1, x2)
    q1, q2 = first(x1, x1).diagonal()[:, None], first(x2, x2).diagonal()[None, :]
    T = lambda q, p, k: 2 / jnp.pi * jnp.arcsin(2 * k / jnp.sqrt((1 + 2 * q) * (1 + 2 * p)))
    for _ in range(depth):
        below = q1, q2, k
        own_T = (q1 / 2, q2 / 2) if half else (T(q1, q1, q1), T(q2, q2, q2))
        k, q1, q2 = (W_std**power * t + bias[1] * b_std**2 for t in (T(q1, q2, k), *own_T))
        p, q, c = (q1, q2, k) if late else below
        Tdot = 4 / jnp.pi / jnp.sqrt((1 + 2 * p) * (1 + 2 * q) - 4 * c**2) if dot else 1.0
        ntk = (k if own else 0.0) + (weight * Tdot * ntk if lower else 0.0)
    return ntk


def _points(seed, n, features):
    return jnp.asarray(generator(seed).standard_normal((n, features)))


ERF_NTK = Exercise(
    "check_erf_ntk",
    _erf_reference,
    (
        Case("one hidden layer, no bias", (_points(0, 3, 3), _points(1, 2, 3), 1, 1.5, 0.0)),
        Case("one hidden layer, with bias", (_points(0, 3, 3), _points(1, 2, 3), 1, 1.5, 0.3)),
        Case("two hidden layers", (_points(2, 2, 5), _points(3, 4, 5), 2, 1.2, 0.1)),
        Case("the same with smaller weights", (_points(2, 2, 5), _points(3, 4, 5), 2, 0.5, 0.4)),
    ),
    (
        Mistake(
            "this is the NNGP, the covariance of the outputs at the start. The tangent kernel carries a second array, "
            "Theta, from layer to layer: Theta <- K + W_std^2 Tdot Theta.",
            partial(_erf_recursion, lower=False),
        ),
        Mistake(
            "the input kernel lacks 1/n: x . x' is divided by the number of input features.",
            partial(_erf_recursion, features=1),
        ),
        Mistake(
            "the sum lacks W_std^2 in front of Tdot Theta: the signal comes back through W_std/sqrt(n) W, twice.",
            partial(_erf_recursion, weight=1.0),
        ),
        Mistake(
            "Tdot is missing: a signal that comes back through a layer is multiplied by phi'(z), so Theta is "
            "multiplied by E[phi'(u) phi'(v)].",
            partial(_erf_recursion, dot=False),
        ),
        Mistake(
            "the last layer's own weights are missing: Theta <- K + W_std^2 Tdot Theta begins with K, the new NNGP.",
            partial(_erf_recursion, own=False),
        ),
        Mistake(
            "your answer is transposed: rows belong to x1, columns to x2.",
            lambda *arguments: _erf_reference(*arguments).T,
        ),
        Mistake(
            "your answer is half of the kernel. The 1/2 belongs to the loss, not to the kernel.",
            lambda *arguments: _erf_reference(*arguments) / 2,
        ),
        Mistake(
            "your answer is twice the kernel. It is one sum over parameters: each parameter counts once.",
            lambda *arguments: 2 * _erf_reference(*arguments),
        ),
        Mistake(
            "there is one hidden layer too few. Depth counts hidden layers in this book; Jacot's L counts affine maps, "
            "and is larger by one.",
            lambda x1, x2, depth, W_std, b_std: _erf_reference(x1, x2, depth - 1, W_std, b_std),
        ),
        Mistake(
            "there is one hidden layer too many: after `depth` activations comes the output, and nothing more.",
            lambda x1, x2, depth, W_std, b_std: _erf_reference(x1, x2, depth + 1, W_std, b_std),
        ),
        Mistake(
            "Tdot is taken after K has been updated. Both averages belong to the layer below: compute T and Tdot "
            "first, and update afterwards.",
            partial(_erf_recursion, late=True),
        ),
        Mistake(
            "the biases are missing: every layer adds b_std^2.",
            partial(_erf_recursion, bias=(0, 0)),
        ),
        Mistake(
            "the first layer has its bias in your answer, the layers above have none: every layer adds b_std^2.",
            partial(_erf_recursion, bias=(1, 0)),
        ),
        Mistake(
            "the first layer's bias is missing: K starts as W_std^2 x . x' / n + b_std^2.",
            partial(_erf_recursion, bias=(0, 1)),
        ),
        Mistake(
            "for erf, T of a point with itself is not q/2 (that is the ReLU): it goes through the formula too, with "
            "q1 = q2 = k = q.",
            partial(_erf_recursion, half=True),
        ),
        Mistake(
            "your weights enter as W_std. Covariances and kernels are quadratic: W_std^2.",
            lambda x1, x2, depth, W_std, b_std: _erf_recursion(x1, x2, depth, W_std, b_std, power=1, weight=W_std),
        ),
    ),
    praise="all right: with the dual of another activation, the recursion is the same",
)


def check_erf_ntk(answer: Any) -> Result:
    """Judge `answer(x1, x2, depth, W_std, b_std)`: the infinite-width NTK of an erf network, (n1, n2)."""
    return judge(answer, ERF_NTK)


# ---------------------------------------------------------------- 2: the tangent kernel of one finite network

_FINITE = serial(Dense(6, 1.3, 0.2), Tanh(), Dense(1, 1.3, 0.2))
_PARAMS = ((_points(40, 3, 6), _points(41, 1, 6)[0]), (), (_points(42, 6, 1), _points(43, 1, 1)[0]))


def _plain(params, x):
    """A function whose parameters are one array, and whose kernel can be done by hand: f = sum_i p_i x_i^2."""
    return (x**2 @ params)[:, None]


def _jacobians(f, params, x1, x2):
    return [jax.tree.leaves(jax.jacobian(f)(params, x)) for x in (x1, x2)]


def _finite_reference(f, params, x1, x2):
    return empirical_ntk(f, params, x1, x2, method="jacobian")


def _finite_sum(f, params, x1, x2, *, keep=slice(None), mean=False):
    J1, J2 = ([j.reshape(j.shape[0], -1) for j in leaves][keep] for leaves in _jacobians(f, params, x1, x2))
    total = sum(a @ b.T for a, b in zip(J1, J2))
    return total / sum(a.shape[1] for a in J1) if mean else total


def _by_inputs(f, params, x):
    """df/dx at each point, (n, features)."""
    return jax.vmap(jax.grad(lambda point: f(params, point[None])[0, 0]))(x)


def _weights_only(f, params, x1, x2):
    J1, J2 = _jacobians(f, params, x1, x2)
    is_weight = [leaf.ndim > 1 or len(J1) == 1 for leaf in jax.tree.leaves(params)]
    flat = lambda j: j.reshape(j.shape[0], -1)
    return sum(flat(a) @ flat(b).T for a, b, keep in zip(J1, J2, is_weight) if keep)


FINITE_NTK = Exercise(
    "check_finite_ntk",
    _finite_reference,
    (
        Case("f = sum of p_i x_i^2", (_plain, jnp.asarray([0.5, -1.0, 2.0]), _points(5, 3, 3), _points(6, 2, 3))),
        Case("a network", (_FINITE.apply, _PARAMS, _points(5, 3, 3), _points(6, 2, 3))),
    ),
    (
        Mistake(
            "this is f(x1) f(x2)^T, a product of outputs. The tangent kernel is a product of derivatives of outputs "
            "with respect to the parameters.",
            lambda f, params, x1, x2: f(params, x1) @ f(params, x2).T,
        ),
        Mistake(
            "only the last layer's parameters are in your sum: that part alone is (in the limit) the NNGP. Sum over "
            "all leaves of the tree.",
            partial(_finite_sum, keep=slice(-2, None)),
        ),
        Mistake(
            "the biases are missing from your sum: they are parameters like the weights.",
            _weights_only,
        ),
        Mistake(
            "your answer is the mean over parameters. The kernel is the sum: in the NTK parameterization every term is "
            "already of order 1/n.",
            partial(_finite_sum, keep=slice(None), mean=True),
        ),
        Mistake(
            "your answer is transposed: rows belong to x1, columns to x2.",
            lambda *arguments: _finite_reference(*arguments).T,
        ),
        Mistake(
            "the derivatives are taken by the inputs. The tangent kernel multiplies derivatives by the parameters: "
            "jax.jacobian(f)(params, x) differentiates by the first argument.",
            lambda f, params, x1, x2: _by_inputs(f, params, x1) @ _by_inputs(f, params, x2).T,
        ),
        Mistake(
            "these are the cosines between the gradients. The kernel is the product itself, with the lengths.",
            lambda f, params, x1, x2: (
                _finite_reference(f, params, x1, x2)
                / jnp.sqrt(jnp.outer(*(jnp.diagonal(_finite_reference(f, params, x, x)) for x in (x1, x2))))
            ),
        ),
    ),
    praise="all right: this function needs no network, only derivatives",
)


def check_finite_ntk(answer: Any) -> Result:
    """Judge `answer(f, params, x1, x2)`: the tangent kernel of a function with one output, (n1, n2)."""
    return judge(answer, FINITE_NTK)


# ---------------------------------------------------------------- 3: what one step of training does elsewhere


def _one_step(k_test_train, k_train_train, f0_train, y, lr):
    return -lr * k_test_train @ (f0_train - y) / len(y)


def _step_case(name, seed, n_train, n_test, lr):
    x = _points(seed, n_train + n_test, 3)
    k = np.exp(-0.2 * ((np.asarray(x)[:, None] - np.asarray(x)[None]) ** 2).sum(-1))
    f0, y = _points(seed + 1, n_train, 1)[:, 0], _points(seed + 2, n_train, 1)[:, 0]
    return Case(name, (jnp.asarray(k[n_train:, :n_train]), jnp.asarray(k[:n_train, :n_train]), f0, y, lr))


ONE_STEP = Exercise(
    "check_one_step",
    _one_step,
    (
        _step_case("four training points, three others", 10, 4, 3, 0.1),
        _step_case("one training point: only its row of the kernel matters", 20, 1, 5, 0.5),
        _step_case("a larger rate", 30, 6, 2, 1.0),
    ),
    (
        Mistake(
            "the sign is turned: a step goes against the gradient, so outputs that are too high come down.",
            lambda *arguments: -_one_step(*arguments),
        ),
        Mistake(
            'the factor 1/n is missing: this loss is a mean over the n training points (`reduction="mean"`).',
            lambda k, kk, f0, y, lr: _one_step(k, kk, f0, y, lr) * len(y),
        ),
        Mistake(
            "your change is twice too large: the loss is 1/2 (f - y)^2, and the 1/2 cancels the 2 of the square.",
            lambda *arguments: 2 * _one_step(*arguments),
        ),
        Mistake(
            "your change is half of it: the 1/2 of the loss has already cancelled the 2 of the square.",
            lambda *arguments: _one_step(*arguments) / 2,
        ),
        Mistake(
            "there is an inverse kernel in your answer. It belongs to the end of training (t = infinity); one step "
            "only multiplies by the kernel.",
            lambda k, kk, f0, y, lr: -lr * k @ jnp.linalg.solve(kk, f0 - y) / len(y),
        ),
        Mistake(
            "the learning rate is missing: without it this is the speed of the flow, not the change in one step.",
            lambda k, kk, f0, y, lr: _one_step(k, kk, f0, y, 1.0),
        ),
        Mistake(
            "the targets are missing: what pulls is the error f - y, not the output f.",
            lambda k, kk, f0, y, lr: _one_step(k, kk, f0, 0 * y, lr),
        ),
        Mistake(
            "the factor 1/n is that of the test points. The loss is a mean over the training points.",
            lambda k, kk, f0, y, lr: _one_step(k, kk, f0, y, lr) * len(y) / len(k),
        ),
        Mistake(
            "the outputs at the start are missing: what pulls is the error f - y, not -y.",
            lambda k, kk, f0, y, lr: _one_step(k, kk, 0 * f0, y, lr),
        ),
    ),
    praise="all right: with the kernel in hand, training needs no parameters",
)


def check_one_step(answer: Any) -> Result:
    """Judge `answer(k_test_train, k_train_train, f0_train, y, lr)`: the change of the test outputs in one step."""
    return judge(answer, ONE_STEP)


# ---------------------------------------------------------------- the question


def predict(panel: Panel) -> Predict:
    """The question to answer before the panel "circle_kernel" moves."""
    return Predict(
        "Four networks of width 64 are trained on a small data set. What do their tangent kernels look like "
        "afterwards?",
        {
            "As before: the kernel is constant in training.": (
                "That is the limit of infinite width. The panel below now shows width 64, trained. Untick trained"
                " to compare."
            ),
            "Grown; at width 512 they would hardly have changed.": (
                "The panel below now shows width 64, trained. Drag the width to 512 and tick trained on and off: "
                "the growth is barely visible."
            ),
            "Closer to the infinite-width curve: training removes the randomness of the start.": (
                "Training knows nothing of the infinite network. The panel below now shows width 64, trained: the"
                " curves left the thick one behind."
            ),
        },
        answer="Grown; at width 512 they would hardly have changed.",
        panel=panel,
        look={"width": 64, "depth": 3, "W_std": 1.0, "b_std": 0.1, "trained": 1},
    )


# ---------------------------------------------------------------- the mission

TARGET = 0.25


def mission(panel: Panel) -> Mission:
    """The smallest width at which four trained networks are within 25 % of the theory, on the panel "circle_kernel"."""
    return Mission(
        panel,
        "With training on, and Jacot's depth 3, σ_w = 1, σ_b = 0.1: find the smallest width at which the four networks "
        "are within 25 % of the infinite-width kernel.",
        _is_smallest_width,
        hint="The reading under the picture has the number. Is it below 25 % here, and above 25 % at half the width?",
        hint_after=6,
    )


def _is_smallest_width(data: dict[str, Any], state: dict[str, float]) -> bool:
    wanted = {"depth": 3, "W_std": 1.0, "b_std": 0.1, "trained": 1}
    if not all(math.isclose(state[name], value) for name, value in wanted.items()) or data["gap"] > TARGET:
        return False
    return float(circle_arrays(**{**state, "width": state["width"] / 2})["gap"]) > TARGET


EXERCISES = {
    "erf_ntk": (check_erf_ntk, ERF_NTK),
    "finite_ntk": (check_finite_ntk, FINITE_NTK),
    "one_step": (check_one_step, ONE_STEP),
}
