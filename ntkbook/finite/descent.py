"""The loop inside `train`: steps of gradient descent, and what is measured between them, as one compiled scan.

What changes the compiled program is in `Plan`; learning rates, data, seeds and parameters are arguments. The loop
watches its own loss, so that a run which leaves the range of numbers stops at its last good record.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..pytrees import pytree
from .empirical import ntk_and_last_layer
from .functions import map_in_batches, outputs_of
from .history import accuracy, aligned, loss_sum, relative_change
from .linearize import linearize

NEVER = np.iinfo(np.int32).max
EXPLODED = 1e10  # times the loss at the start: a catapult rises by the width at most


@dataclass(frozen=True)
class Plan:
    """What decides the compiled program, beside shapes."""

    optimizer: Any
    has_momentum: bool
    loss: str | Callable
    reduction: str
    batch_size: int | None
    record: tuple[str, ...]


@pytree
class State:
    """Where a run is. The twin is the linearized model that is trained beside the network."""

    params: Any
    memory: Any  # velocity, or what the optimizer keeps
    twin: Any  # (params, memory) or None
    params_0: Any
    kernels_0: Any
    order: Any  # permutation of the examples in this epoch
    key: Any
    step: Any
    ceiling: Any  # a loss above it counts as divergence
    diverged_at: Any
    twin_diverged_at: Any

    def replace(self, **changes: Any) -> "State":
        return dataclasses.replace(self, **changes)


def start(params: Any, key: Array, x: Array, plan: Plan) -> State:
    """The state before the first record, which must be taken before the first step: it fills in the references."""
    params = jax.tree.map(jnp.asarray, params)
    theta, _ = floats(params)
    memory = jax.tree.map(jnp.zeros_like, theta) if plan.has_momentum else ()
    if plan.optimizer is not None:
        memory = plan.optimizer.init(theta)
    kernel = jnp.zeros((len(x), len(x)), jnp.result_type(*jax.tree.leaves(theta), x))
    return State(
        params=params,
        memory=memory,
        twin=(params, memory) if "linearized" in plan.record else None,
        params_0=params,
        kernels_0=(kernel, kernel) if "kernels" in plan.record else (),
        order=jnp.arange(len(x)),
        key=key,
        step=jnp.int32(0),
        ceiling=jnp.asarray(jnp.inf, kernel.dtype),
        diverged_at=jnp.int32(NEVER),
        twin_diverged_at=jnp.int32(NEVER),
    )


@functools.partial(jax.jit, static_argnames="plan")
def start_many(params, keys, x, *, plan):
    """The same for many networks: every leaf has the network axis in front."""
    return jax.vmap(lambda params, key: start(params, jax.random.fold_in(key, 1), x, plan))(params, keys)


@functools.partial(jax.jit, static_argnames="plan")
def advance(function, state, lengths, *, data, rates, plan):
    """The state after so many steps, and a record after each of the `lengths`."""
    return _advance(function, state, lengths, data, rates, plan)


@functools.partial(jax.jit, static_argnames=("plan", "size"))
def advance_many(function, state, lengths, *, data, rates, plan, size):
    """The same for many networks, `size` of them side by side."""
    one = lambda state: _advance(function, state, lengths, data, rates, plan)
    return map_in_batches(one, state, size)


def _advance(function, state, lengths, data, rates, plan):
    def segment(old, length):
        new = jax.lax.fori_loop(0, length, lambda _, state: _step(function, state, data, rates, plan), old)
        new = _keep_finite(_checked(function, new, data, plan), old)
        return _measure(function, new, data, plan)

    return jax.lax.scan(segment, state, lengths)


def floats(params: Any) -> tuple[Any, Callable[[Any], Any]]:
    """`params` with None in place of every leaf that is not trained, and the function that puts those back."""
    leaves, structure = jax.tree.flatten(params)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def merge(theta: Any) -> Any:
        new = iter(jax.tree.leaves(theta))
        return jax.tree.unflatten(structure, [next(new) if f else leaf for f, leaf in zip(is_float, leaves)])

    return jax.tree.unflatten(structure, [leaf if f else None for f, leaf in zip(is_float, leaves)]), merge


def _objective(f, x, y, plan, stands_for=None):
    """params -> loss; a batch `stands_for` so many examples."""
    total = loss_sum(plan.loss)
    scale = 1 / len(x) if plan.reduction == "mean" else (stands_for or len(x)) / len(x)

    def objective(params):
        outputs = outputs_of(f, params, x)
        return scale * total(outputs, aligned(y, outputs))

    return objective


def _step(function, state, data, rates, plan):
    x, y, order = data["x"], data["y"], state.order
    if plan.batch_size is not None:
        order, chosen = _batch(state, len(x), plan.batch_size)
        x, y = x[chosen], y[chosen]
    descend = lambda f, params, memory: _descend(_objective(f, x, y, plan, len(data["x"])), params, memory, rates, plan)
    params, memory, loss = descend(function, state.params, state.memory)
    new = state.replace(params=params, memory=memory, order=order, step=state.step + 1)
    new = new.replace(diverged_at=_first(state.diverged_at, state.step, loss, state.ceiling))
    if state.twin is None:
        return new
    *twin, loss = descend(linearize(function, state.params_0), *state.twin)
    return new.replace(
        twin=tuple(twin), twin_diverged_at=_first(state.twin_diverged_at, state.step, loss, state.ceiling)
    )


def _batch(state, n, batch_size):
    place = state.step % (n // batch_size)  # what is left of an epoch is dropped; the next one is shuffled anew
    shuffled = lambda: jax.random.permutation(jax.random.fold_in(state.key, state.step), n)
    order = jax.lax.cond(place == 0, shuffled, lambda: state.order)
    return order, jax.lax.dynamic_slice(order, (place * batch_size,), (batch_size,))


def _descend(objective, params, memory, rates, plan):
    theta, merge = floats(params)
    loss, slope = jax.value_and_grad(lambda theta: objective(merge(theta)))(theta)
    if plan.optimizer is not None:
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in whole numbers and multiplies by them
            update, memory = plan.optimizer.update(slope, memory, theta)
        return merge(jax.tree.map(jnp.add, theta, update)), memory, loss
    scaled = lambda rate, array: jnp.asarray(rate).astype(array.dtype) * array
    if plan.has_momentum:
        slope = memory = jax.tree.map(lambda m, g: scaled(rates["momentum"], m) + g, memory, slope)
    step = jax.tree.map(lambda rate, part: jax.tree.map(lambda g: scaled(rate, g), part), rates["lr"], slope)
    return merge(jax.tree.map(jnp.subtract, theta, step)), memory, loss


def _first(diverged_at, step, loss, ceiling):
    return jnp.minimum(diverged_at, jnp.where(loss <= ceiling, NEVER, step))  # NaN is not below the ceiling


def _checked(function, state, data, plan):
    """The state, with the loss after its last step looked at too."""
    loss = lambda f, params: _objective(f, data["x"], data["y"], plan)(params)
    first = lambda diverged_at, loss: _first(diverged_at, state.step, loss, state.ceiling)
    loss_now = loss(function, state.params)
    ceiling = jnp.where(state.step == 0, EXPLODED * (1 + loss_now), state.ceiling)
    new = state.replace(diverged_at=first(state.diverged_at, loss_now), ceiling=ceiling.astype(state.ceiling.dtype))
    if state.twin is None:
        return new
    twin_loss = loss(linearize(function, state.params_0), state.twin[0])
    return new.replace(twin_diverged_at=first(state.twin_diverged_at, twin_loss))


def _keep_finite(new, old):
    """`new`, but a model that diverged stays where it was at the record before."""
    pick = lambda diverged_at, a, b: jax.tree.map(lambda a, b: jnp.where(diverged_at == NEVER, a, b), a, b)
    kept = new.replace(params=pick(new.diverged_at, new.params, old.params))
    kept = kept.replace(memory=pick(new.diverged_at, new.memory, old.memory))
    return kept.replace(twin=pick(new.twin_diverged_at, new.twin, old.twin)) if new.twin is not None else kept


def _measure(function, state, data, plan):
    """The state, with references if this is the first record, and the record that `plan` asks for."""
    record = {}
    for suffix, x, y in (("", data["x"], data["y"]), ("_test", data["x_test"], data["y_test"])):
        if x is not None:
            record |= {name + suffix: value for name, value in _fit(function, state, x, y, plan).items()}
    if "distances" in plan.record:
        pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.params_0))
        record["distances"] = jnp.stack([relative_change(a, b) for a, b in pairs if is_weight(a)])
    if "kernels" in plan.record:
        kernels = ntk_and_last_layer(function, state.params, data["x"])
        keep = lambda now, start: jnp.where(state.step == 0, now, start).astype(start.dtype)
        state = state.replace(kernels_0=jax.tree.map(keep, kernels, state.kernels_0))
        record["ntk_change"], record["nngp_change"] = map(relative_change, kernels, state.kernels_0)
    if "linearized" in plan.record:
        gap = record["linearized_distance"] if data["x_test"] is None else record.pop("linearized_distance_test")
        record["linearized_distance"] = gap
        record.pop("linearized_loss_test", None)
    return state, record


def _fit(function, state, x, y, plan):
    outputs = outputs_of(function, state.params, x)
    fit = {"outputs": outputs} if "outputs" in plan.record else {}
    if y is not None:
        loss = lambda out: loss_sum(plan.loss)(out, aligned(y, out)) / (len(x) if plan.reduction == "mean" else 1)
        if "loss" in plan.record:
            fit["loss"] = loss(outputs)
        if "accuracy" in plan.record:
            fit["accuracy"] = accuracy(outputs, aligned(y, outputs))
    if state.twin is not None:
        linear = outputs_of(linearize(function, state.params_0), state.twin[0], x)
        fit["linearized_outputs"] = linear
        fit["linearized_distance"] = jnp.sqrt(((outputs - linear) ** 2).mean())
        if y is not None:
            fit["linearized_loss"] = loss(linear)
    return fit


def is_weight(leaf: Any) -> bool:
    """Is this the weight of a layer, rather than an offset or a count?"""
    return leaf.ndim >= 2 and bool(jnp.issubdtype(leaf.dtype, jnp.floating))
