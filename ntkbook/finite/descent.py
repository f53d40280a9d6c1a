"""The loop inside `train`: steps of gradient descent, and what is measured between them, as one compiled scan.

What changes the compiled program is static in `Task`; learning rates, data, seeds and parameters are arguments. The
loop watches its own loss, so that a run which leaves the range of numbers stops at its last good record.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..pytrees import pytree, static
from .empirical import ntk_and_last_layer
from .functions import count, outputs_of, reverse_mode
from .history import accuracy, relative_change
from .linearize import linearize

NEVER = np.iinfo(np.int32).max
EXPLODED = 1e10  # times the loss at the start: a catapult rises by the width at most


@pytree
class Task:
    """Data, rates and programs of a run; None for what it does without."""

    x: Any
    y: Any  # (n, o), in the precision of the outputs
    x_test: Any
    y_test: Any
    losses: Any  # number of examples -> function of outputs and targets, a sum over both
    lr: Any
    momentum: Any
    optimizer: Any  # the optimizer's init and update
    reduction: str = static()
    batch_size: int | None = static()
    record: tuple[str, ...] = static()
    is_flat: bool = static()  # targets were (n,), so outputs are
    weights: tuple[bool, ...] = static()  # which arrays are the weights of layers

    def loss(self, outputs: Array, y: Array, *, batch: bool = False) -> Array:
        """The loss in the units of `reduction`; a batch stands for all examples."""
        n = len(outputs)
        scale = 1 / n if self.reduction == "mean" else count(self.x) / n if batch else 1
        return scale * self.losses[n](outputs, y)

    @property
    def has_kernels(self) -> bool:
        """Are changes of kernels to be recorded?"""
        return "ntk" in self.record or "nngp" in self.record


@pytree
class Model:
    """A function in training: the network, or its linearization."""

    theta: Any
    memory: Any  # velocity, or what the optimizer keeps
    diverged_at: Any  # step, or NEVER


@pytree
class State:
    """Where a run is."""

    models: Any  # (network,), or with its twin, the linearized model that is trained beside it
    theta_0: Any
    kernels_0: Any
    order: Any  # permutation of the examples in this epoch
    key: Any
    step: Any
    ceiling: Any  # a loss above it counts as divergence

    def replace(self, **changes: Any) -> "State":
        return dataclasses.replace(self, **changes)


@jax.jit
def start(theta: Any, key: Array, task: Task) -> State:
    """The state before the first record, which must be taken before the first step: it fills in the references."""
    n, dtype = count(task.x), task.y.dtype
    memory = () if task.momentum is None else jax.tree.map(jnp.zeros_like, theta)
    if task.optimizer is not None:
        memory = task.optimizer[0](theta)
    kernel = jnp.zeros((n, n), dtype)
    return State(
        models=(Model(theta, memory, jnp.int32(NEVER)),) * (2 if "linearized" in task.record else 1),
        theta_0=theta,
        kernels_0=(kernel, kernel) if task.has_kernels else (),
        order=jnp.arange(n),
        key=key,
        step=jnp.int32(0),
        ceiling=jnp.asarray(jnp.inf, dtype),
    )


@functools.partial(jax.jit, static_argnames="size")
def advance(row, state, lengths, task, size=None):
    """The state after so many steps, and a record after each of the `lengths`.

    With `size` it is that of many networks, every leaf with the network axis in front, so many of them side by side.
    """
    one = lambda state: _advance(row, state, lengths, task)
    return one(state) if size is None else jax.lax.map(one, state, batch_size=size)


def _advance(row, state, lengths, task):
    def segment(old, length):
        new = jax.lax.fori_loop(0, length, lambda _, state: _step(row, state, task), old)
        return _measure(row, _checked(row, new, old, task), task)

    return jax.lax.scan(segment, state, lengths)


def _functions(row, state):
    """What the models of this state compute, (theta, x) -> (n, o)."""
    f = functools.partial(outputs_of, row)
    return (f, linearize(f, state.theta_0))[: len(state.models)]


def _step(row, state, task):
    x, y, order = task.x, task.y, state.order
    if task.batch_size is not None:
        order, chosen = _batch(state, count(x), task.batch_size)
        x, y = jax.tree.map(lambda a: a[chosen], (x, y))
    loss_of = lambda f: lambda theta: task.loss(f(theta, x), y, batch=True)
    models = tuple(_descend(loss_of(f), m, state, task) for f, m in zip(_functions(row, state), state.models))
    return state.replace(models=models, order=order, step=state.step + 1)


def _batch(state, n, batch_size):
    place = state.step % (n // batch_size)  # what is left of an epoch is dropped; the next one is shuffled anew
    shuffled = lambda: jax.random.permutation(jax.random.fold_in(state.key, state.step), n)
    order = jax.lax.cond(place == 0, shuffled, lambda: state.order)
    return order, jax.lax.dynamic_slice(order, (place * batch_size,), (batch_size,))


def _descend(objective, model, state, task):
    theta, memory = model.theta, model.memory
    with reverse_mode():
        loss, slope = jax.value_and_grad(objective)(theta)
    diverged_at = _first(model.diverged_at, state.step, loss, state.ceiling)
    if task.optimizer is not None:
        update, memory = task.optimizer[1](slope, memory, theta)
        return Model(jax.tree.map(jnp.add, theta, update), memory, diverged_at)
    scaled = lambda rate, array: jnp.asarray(rate).astype(array.dtype) * array
    if task.momentum is not None:
        slope = memory = jax.tree.map(lambda m, g: scaled(task.momentum, m) + g, memory, slope)
    step = jax.tree.map(lambda rate, part: jax.tree.map(lambda g: scaled(rate, g), part), task.lr, slope)
    return Model(jax.tree.map(jnp.subtract, theta, step), memory, diverged_at)


def _first(diverged_at, step, loss, ceiling):
    return jnp.minimum(diverged_at, jnp.where(loss <= ceiling, NEVER, step))  # NaN is not below the ceiling


def _checked(row, new, old, task):
    """`new` with the loss after its last step looked at; what diverged stays where it was at the record before."""
    losses = [task.loss(f(m.theta, task.x), task.y) for f, m in zip(_functions(row, new), new.models)]
    ceiling = jnp.where(new.step == 0, EXPLODED * (1 + losses[0]), new.ceiling)

    def kept(model, before, loss):
        diverged_at = _first(model.diverged_at, new.step, loss, new.ceiling)
        model = jax.tree.map(lambda a, b: jnp.where(diverged_at == NEVER, a, b), model, before)
        return dataclasses.replace(model, diverged_at=diverged_at)

    return new.replace(
        models=tuple(map(kept, new.models, old.models, losses)), ceiling=ceiling.astype(new.ceiling.dtype)
    )


def _measure(row, state, task):
    """The state, with references if this is the first record, and the record that `task` asks for."""
    record, theta = _fit(row, state, task.x, task.y, task), state.models[0].theta
    if task.x_test is not None:
        fit = _fit(row, state, task.x_test, task.y_test, task)
        fit.pop("linearized_loss", None)
        record |= {name if name == "linearized_distance" else f"{name}_test": value for name, value in fit.items()}
    if "distances" in task.record:
        pairs = zip(task.weights, jax.tree.leaves(theta), jax.tree.leaves(state.theta_0), strict=True)
        changes = [relative_change(a, b).astype(task.y.dtype) for is_weight, a, b in pairs if is_weight]
        record["distances"] = jnp.stack(changes) if changes else jnp.zeros(0, task.y.dtype)
    if task.has_kernels:
        kernels = ntk_and_last_layer(row, theta, task.x)
        kernels_0 = jax.tree.map(lambda now, start: jnp.where(state.step == 0, now, start), kernels, state.kernels_0)
        state = state.replace(kernels_0=kernels_0)
        changes = zip(("ntk", "nngp"), map(relative_change, kernels, kernels_0))
        record |= {f"{word}_change": change for word, change in changes if word in task.record}
    return state, record


def _fit(row, state, x, y, task):
    shaped = lambda out: out[:, 0] if task.is_flat else out
    outputs, *twin = [f(m.theta, x) for f, m in zip(_functions(row, state), state.models)]
    fit = {"outputs": shaped(outputs)} if "outputs" in task.record else {}
    if y is not None and "loss" in task.record:
        fit["loss"] = task.loss(outputs, y)
    if y is not None and "accuracy" in task.record:
        fit["accuracy"] = accuracy(outputs, y)
    for linear in twin:
        fit["linearized_outputs"] = shaped(linear)
        fit["linearized_distance"] = jnp.sqrt(((outputs - linear) ** 2).mean())
        if y is not None:
            fit["linearized_loss"] = task.loss(linear, y)
    return fit
