"""Real gradient descent on finite networks: one run, or many seeds at once.

This is the experiment that the theory predicts, so it is recorded in the theory's terms, at steps that are even on
a logarithmic axis. A run is one compiled scan; a new learning rate, seed or network of the same shape compiles
nothing, which lets it live under a slider. Used by most notebooks from 04 on.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import checks
from . import history
from .descent import NEVER, Plan, advance, advance_many, is_weight, start, start_many
from .empirical import ntk_vector_product
from .functions import (
    Examples,
    Function,
    as_function,
    check_params,
    init_and_apply,
    initial_params,
    outputs_of,
    require_independent,
)
from .history import History
from .torch_models import TorchFunction


class Diverged(RuntimeWarning):
    """Training left the range of numbers; the curves end before."""


def train(
    f: Callable,
    params: Any,
    x: Examples,
    y: Examples,
    *,
    lr: Any = None,
    momentum: Any = 0.0,
    optimizer: Any = None,
    steps: int,
    loss: str | Callable = "squared",
    reduction: str = "sum",
    batch_size: int | None = None,
    key: Array | None = None,
    x_test: Examples | None = None,
    y_test: Examples | None = None,
    record: Sequence[str] = ("outputs", "loss"),
    times: Sequence[int] | None = None,
    progress: bool = False,
) -> History:
    """Gradient descent on f from `params`: params' = params - lr d loss/d params, `steps` times.

    loss = sum over examples and outputs of (f - y)^2 / 2 (`"squared"`) or -y log softmax(f) (`"cross_entropy"`, y of
    probabilities, or of whole numbers for classes), or any `loss(outputs, y)` whose entries are summed.
    `reduction="mean"` divides it by the number of examples. x is (n, ...), y is (n, o) or (n,).

    lr goes with heavy-ball `momentum`, and may be a tree like params: one rate for each array. Any optax `optimizer`
    takes the place of both. A batch of `batch_size` examples, drawn without replacement from `key`, stands for the
    whole set: its gradient is scaled by n / batch_size under "sum", so that lr keeps its meaning.

    `record` names what is kept, of outputs, loss, accuracy, distances, kernels, linearized (see `History`), at
    `times`: steps, from 0 to `steps` and even on a logarithmic axis unless given.

    Divergence stops the curves before it, and is reported by a `Diverged` warning with the step and
    lr * lambda_max, in `message` and in `diverged_at`.

    Raises:
        TypeError, ValueError: for unknown words, negative rates or steps, targets of another length, or a function
            that treats examples jointly (BatchNorm or dropout in training mode).

    Lee et al. 2019, sections 2.1 and 3; notebook 04.
    """
    plan = _plan(lr, momentum, optimizer, loss, reduction, batch_size, record)
    data = _data(x, y, x_test, y_test, loss, batch_size)
    at_steps = _times(steps, times)
    if isinstance(f, TorchFunction):
        raise TypeError("Expected a function that JAX can differentiate, got a PyTorch module. Train it in PyTorch.")
    function, rates = as_function(f), {"lr": lr, "momentum": momentum}
    check_params(params)
    require_independent(function, params, data["x"])
    state = start(params, jax.random.key(0) if key is None else key, data["x"], plan)
    go_on = functools.partial(advance, function, data=data, rates=rates, plan=plan)
    state, records = _run(go_on, state, at_steps, progress)
    return _finished(state, records, at_steps, function, params, data, rates, plan)


def train_ensemble(
    net: Any,
    key: Array,
    n_networks: int,
    x: Examples,
    y: Examples,
    *,
    lr: Any = None,
    momentum: Any = 0.0,
    optimizer: Any = None,
    steps: int,
    loss: str | Callable = "squared",
    reduction: str = "sum",
    batch_size: int | None = None,
    x_test: Examples | None = None,
    y_test: Examples | None = None,
    record: Sequence[str] = ("outputs", "loss"),
    times: Sequence[int] | None = None,
    progress: bool = False,
    memory: int = 2**29,
) -> History:
    """`train` for `n_networks` seeds of `net` at once; every array of the history has the network axis first.

    net: a network of this library, or an (init_fn, apply_fn) pair in the style of JAX's stax. Seeds run side by side
    as far as `memory` bytes allow, then in batches. A network that diverged keeps its last finite record, and
    `diverged_at` says which did.

    Raises:
        TypeError, ValueError: as `train`; for a net that is neither, or a number of networks that is no positive
            whole number.
    """
    checks.positive_int(n_networks, "n_networks")
    init, apply = init_and_apply(net)
    plan = _plan(lr, momentum, optimizer, loss, reduction, batch_size, record)
    data = _data(x, y, x_test, y_test, loss, batch_size)
    at_steps = _times(steps, times)
    function, rates = as_function(apply), {"lr": lr, "momentum": momentum}
    keys = jax.random.split(key, n_networks)
    params = initial_params(as_function(init), keys, data["x"])
    one = jax.tree.map(lambda a: a[0], params)
    require_independent(function, one, data["x"])
    size = max(1, int(memory / _bytes_per_network(function, one, data["x"])))
    state = start_many(params, keys, data["x"], plan=plan)
    go_on = functools.partial(advance_many, function, data=data, rates=rates, plan=plan, size=min(size, n_networks))
    state, records = _run(go_on, state, at_steps, progress)
    return _finished(state, records, at_steps, function, one, data, rates, plan)


# What was asked for, in one place: what decides the compiled program, and what only feeds it.


def _plan(lr, momentum, optimizer, loss, reduction, batch_size, record) -> Plan:
    checks.momentum(momentum)
    if not callable(loss):
        checks.one_of(loss, "loss", history.LOSSES)
    checks.one_of(reduction, "reduction", ("sum", "mean"))
    if batch_size is not None:
        checks.positive_int(batch_size, "batch_size")
    record = (record,) if isinstance(record, str) else tuple(record)
    for word in record:
        checks.one_of(word, "record", history.RECORDS)
    has_momentum = not checks.is_concrete(momentum) or float(momentum) != 0.0
    if optimizer is None:
        if lr is None:
            raise ValueError("Expected lr or optimizer, got neither. Pass lr=0.1, or optimizer=optax.adam(1e-3).")
        for rate in jax.tree.leaves(lr):
            checks.non_negative(rate, "lr")
    elif lr is not None or has_momentum:
        raise ValueError("Expected lr (and momentum) or optimizer, got both. The optimizer has rates of its own.")
    elif not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"Expected optimizer to be one of optax, got {checks.describe(optimizer)}.")
    return Plan(optimizer, has_momentum, loss, reduction, batch_size, record)


def _data(x, y, x_test, y_test, loss, batch_size) -> dict[str, Any]:
    x = checks.as_array(x, "x")
    y = history.as_targets(y, "y", len(x), loss)
    if batch_size is not None and batch_size > len(x):
        raise ValueError(f"Expected batch_size of at most the {len(x)} examples, got {batch_size}.")
    if x_test is not None:
        x_test = checks.as_array(x_test, "x_test")
        checks.same_features(x, x_test)
    if y_test is not None:
        if x_test is None:
            raise ValueError("Expected x_test with y_test, got y_test alone.")
        y_test = history.as_targets(y_test, "y_test", len(x_test), loss)
    return {"x": x, "y": y, "x_test": x_test, "y_test": y_test}


def _times(steps: int, times: Sequence[int] | None) -> np.ndarray:
    checks.whole_number(steps, "steps")
    if times is None:
        return np.unique([0, *np.round(np.geomspace(1, max(steps, 1), 40)).astype(int).clip(max=steps), steps])
    for time in times:
        checks.whole_number(time, "times")
        if time > steps:
            raise ValueError(f"Expected times of at most {steps} steps, got {time}. Raise steps?")
    return np.unique([*times, steps])


def _bytes_per_network(function: Function, params: Any, x: Array) -> int:
    """Upper estimate of what one network needs in training: parameters, gradients, and all intermediate values."""
    program = jax.make_jaxpr(lambda params: outputs_of(function, params, x))(params)
    values = [v.aval for equation in program.eqns for v in equation.outvars] + 6 * [
        v.aval for v in program.jaxpr.invars
    ]
    return sum(value.size * value.dtype.itemsize for value in values)


def _run(go_on: Callable, state: Any, times: np.ndarray, progress: bool) -> tuple[Any, dict]:
    """From record to record, the first one at step 0: in one call, or one by one for the progress bar."""
    asked = len(times)
    times = np.union1d([0], times)
    lengths = np.diff(times, prepend=0).astype(np.int32)
    axis = jnp.ndim(state.step)  # the time axis comes after that of the networks
    last = lambda records: jax.tree.map(lambda a: a[(slice(None),) * axis + (slice(-asked, None),)], records)
    if not progress:
        state, records = go_on(state, jnp.asarray(lengths))
        return state, records if asked == len(times) else last(records)
    from tqdm.auto import tqdm

    records = []
    with tqdm(total=int(times[-1]), unit="step") as bar:
        for length in lengths:
            state, record = go_on(state, jnp.asarray([length]))
            bar.update(int(length))
            records.append(record)
    return state, last(jax.tree.map(lambda *parts: jnp.concatenate(parts, axis), *records))


def _finished(state, records, times, function, params, data, rates, plan) -> History:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    layers = tuple(jax.tree_util.keystr(path) for path, leaf in leaves if is_weight(leaf))
    end = {"diverged_at": _step_or_minus_one(state.diverged_at)}
    if state.twin is not None:
        end["linearized_diverged_at"] = _step_or_minus_one(state.twin_diverged_at)
    done = History(times=times, params=state.params, layers=layers, **records, **end)
    if not checks.is_concrete(state.diverged_at) or (np.asarray(state.diverged_at) == NEVER).all():
        return done
    step = int(np.min(state.diverged_at))
    message = _explanation(step, function, params, data, rates, plan)
    warnings.warn(message, Diverged, stacklevel=3)
    if state.step.ndim == 0:
        kept = times < step
        done = done.replace(times=times[kept], **{name: value[kept] for name, value in records.items()})
    return done.replace(message=message)


def _step_or_minus_one(step: Any) -> Any:
    step = np.asarray(step) if checks.is_concrete(step) else step
    return (np if checks.is_concrete(step) else jnp).where(step == NEVER, -1, step)


def _explanation(step: int, function: Function, params: Any, data: dict, rates: dict, plan: Plan) -> str:
    top = float(largest_eigenvalue(function, params, data["x"])) / (len(data["x"]) if plan.reduction == "mean" else 1)
    text = f"Training diverged at step {step}. The tangent kernel at the start has lambda_max = {top:.4g}"
    if plan.reduction == "mean":
        text += " (divided by the number of examples, for reduction='mean')"
    if np.ndim(rates["lr"]) or rates["lr"] is None:
        return f"{text}. Choose smaller rates."
    bound = 2 * (1 + float(rates["momentum"]))
    return (
        f"{text}, so lr * lambda_max = {float(rates['lr']) * top:.4g}, and gradient descent on the squared error of "
        f"the linearized model is stable below {bound:.3g}: choose lr below {bound / top:.4g}."
    )


def largest_eigenvalue(function: Function, params: Any, x: Array, *, iterations: int = 50) -> Array:
    """lambda_max of the (n o, n o) tangent kernel, by power iteration on products with vectors."""
    product = ntk_vector_product(function, params, x)
    v = jnp.sin(1.0 + jnp.arange(jax.eval_shape(outputs_of, function, params, x).size, dtype=x.dtype))
    v = v.reshape(len(x), -1)
    size = jnp.linalg.norm(v)
    for _ in range(iterations):
        v = product(v / size)
        size = jnp.linalg.norm(v)
    return size
