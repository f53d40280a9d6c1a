"""Real gradient descent on finite networks: one run, or many seeds at once.

This is the experiment that the theory predicts, so it is recorded in the theory's terms, at steps that are even on
a logarithmic axis. A run is one compiled scan; a new learning rate, seed or network of the same shape compiles
nothing, which lets it live under a slider. Used by most notebooks from 04 on.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import checks
from . import history
from .descent import NEVER, Task, advance, start
from .empirical import product_of
from .functions import (
    Examples,
    as_examples,
    count,
    init_and_apply,
    initial_params,
    outputs_now,
    outputs_of,
    prepare,
    prepare_many,
    same_features,
)
from .history import History
from .linearize import moves
from .programs import trace


class Diverged(RuntimeWarning):
    """Training left the range of numbers; the curves end before."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to descend and what to keep: the keywords of `train` and `train_ensemble`."""

    steps: int
    lr: Any = None  # one rate, or a tree of rates like params
    momentum: Any = 0.0
    optimizer: Any = None  # of optax; in place of lr and momentum
    loss: str | Callable = "squared"
    reduction: str = "sum"
    batch_size: int | None = None
    key: Array | None = None  # draws the batches
    x_test: Examples | None = None
    y_test: Examples | None = None
    record: Sequence[str] = ("outputs", "loss")
    times: Sequence[int] | None = None
    progress: bool = False

    def __post_init__(self):
        checks.whole_number(self.steps, "steps")
        checks.momentum(self.momentum)
        if not callable(self.loss):
            checks.one_of(self.loss, "loss", tuple(history.LOSSES))
        checks.one_of(self.reduction, "reduction", ("sum", "mean"))
        if self.batch_size is not None:
            checks.positive_int(self.batch_size, "batch_size")
        for word in self.words:
            checks.one_of(word, "record", history.RECORDS)
        if self.optimizer is None:
            if self.lr is None:
                raise ValueError("Expected lr or optimizer, got neither. Pass lr=0.1, or optimizer=optax.adam(1e-3).")
            for rate in jax.tree.leaves(self.lr):
                checks.non_negative(rate, "lr")
        elif self.lr is not None or self.has_momentum:
            raise ValueError("Expected lr (and momentum) or optimizer, got both. The optimizer has rates of its own.")
        elif not (hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")):
            raise TypeError(f"Expected optimizer to be one of optax, got {checks.describe(self.optimizer)}.")

    @property
    def has_momentum(self) -> bool:
        return not checks.is_concrete(self.momentum) or float(self.momentum) != 0.0

    @property
    def words(self) -> tuple[str, ...]:
        """What to record; "kernels" stands for ntk and nngp."""
        words = (self.record,) if isinstance(self.record, str) else tuple(self.record)
        return tuple(word for w in words for word in (("ntk", "nngp") if w == "kernels" else (w,)))


def train(f: Callable, params: Any, x: Examples, y: Examples, **settings: Any) -> History:
    """Gradient descent on f from `params`: params' = params - lr d loss/d params, `steps` times.

    loss = sum over examples and outputs of (f - y)^2 / 2 (`"squared"`) or -y log softmax(f) (`"cross_entropy"`, y of
    probabilities, or of whole numbers for classes), or any `loss(outputs, y)` whose entries are summed.
    `reduction="mean"` divides it by the number of examples. x is (n, ...) or a tree of such arrays, y is (n, o) or
    (n,), and recorded outputs have the rank of y.

    The keywords, with their defaults (`Settings`): steps; lr=None, momentum=0.0; optimizer=None; loss="squared";
    reduction="sum"; batch_size=None, key=None; x_test=None, y_test=None; record=("outputs", "loss"), times=None;
    progress=False.

    lr goes with heavy-ball `momentum`, and may be a tree like params: one rate for each array. Any optax `optimizer`
    takes the place of both. A batch of `batch_size` examples, drawn without replacement from `key`, stands for the
    whole set: its gradient is scaled by n / batch_size under "sum", so that lr keeps its meaning.

    `record` names what is kept, of outputs, loss, accuracy, distances, ntk, nngp ("kernels": both), linearized (see
    `History`), at `times`: steps, from 0 to `steps` and even on a logarithmic axis unless given.

    Divergence stops the curves before it, and is reported by a `Diverged` warning with the step and
    lr * lambda_max, in `message` and in `diverged_at`.

    >>> f = lambda w, x: x * w
    >>> run = train(f, jnp.array(0.0), jnp.array([1.0]), jnp.array([2.0]), lr=0.5, steps=2, times=[0, 1, 2])
    >>> run.outputs[:, 0].tolist()
    [0.0, 1.0, 1.5]

    Raises:
        TypeError, ValueError: for unknown words, negative rates or steps, targets of another length, or a function
            that treats examples jointly (BatchNorm or dropout in training mode).

    Lee et al. 2019, sections 2.1 and 3; notebook 04.
    """
    chosen = _settings(settings)
    x = as_examples(x, "x")
    row, theta, rebuild = prepare(f, params, x)
    task = _task(row, theta, params, x, y, chosen)
    state = start(theta, jax.random.key(0) if chosen.key is None else chosen.key, task)
    state, records = _run(functools.partial(advance, row, task=task), state, chosen)
    return _finished(state, records, row, theta, params, rebuild, task, chosen)


def train_ensemble(
    net: Any, key: Array, n_networks: int, x: Examples, y: Examples, *, memory: int = 2**29, **settings: Any
) -> History:
    """`train` for `n_networks` seeds of `net` at once; every array of the history has the network axis first.

    net: a network of this library, or an (init_fn, apply_fn) pair in the style of JAX's stax. The keywords are those of
    `train`, and `memory`: seeds run side by side as far as so many bytes allow, then in batches. A network that
    diverged keeps its last finite record, and `diverged_at` says which did.

    >>> init = lambda key, shape: (shape, jax.random.normal(key, (1, 1)))
    >>> x, y = jnp.ones((1, 1)), jnp.ones((1, 1))
    >>> run = train_ensemble((init, lambda w, x: x @ w), jax.random.key(0), 3, x, y, lr=1.0, steps=1)
    >>> run.outputs[:, -1, 0, 0].round(6).tolist()
    [1.0, 1.0, 1.0]

    Raises:
        TypeError, ValueError: as `train`; for a net that is neither, or a number of networks that is no positive
            whole number.
    """
    checks.positive_int(n_networks, "n_networks")
    init, apply = init_and_apply(net)
    chosen = _settings(settings)
    x = as_examples(x, "x")
    keys = jax.random.split(key, n_networks)
    params = initial_params(init, keys, x)
    row, thetas, rebuild = prepare_many(apply, params, x)
    one, theta = jax.tree.map(lambda a: a[0], (params, thetas))
    task = _task(row, theta, one, x, y, chosen)
    size = max(1, int(memory / _bytes_per_network(row, theta, x)))
    batches = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    state = jax.vmap(start, (0, 0, None))(thetas, batches, task)
    go_on = functools.partial(advance, row, task=task, size=min(size, n_networks))
    state, records = _run(go_on, state, chosen)
    return _finished(state, records, row, theta, one, rebuild, task, chosen)


def _settings(settings: dict[str, Any]) -> Settings:
    names = [field.name for field in fields(Settings)]
    for name in settings:
        checks.one_of(name, "every keyword", names)
    if "steps" not in settings:
        raise TypeError("Expected the number of steps, got none. Pass steps=1000.")
    return Settings(**settings)


def _task(row: Callable, theta: Any, params: Any, x: Examples, y: Any, chosen: Settings) -> Task:
    """What was asked for as arguments of the compiled loop, with targets in the shape of the outputs."""
    n, x_test, y_test = count(x), chosen.x_test, chosen.y_test
    y = history.as_targets(y, "y", n, chosen.loss)
    if chosen.batch_size is not None and chosen.batch_size > n:
        raise ValueError(f"Expected batch_size of at most the {n} examples, got {chosen.batch_size}.")
    if x_test is not None:
        x_test = as_examples(x_test, "x_test")
        same_features(x, x_test)
    elif y_test is not None:
        raise ValueError("Expected x_test with y_test, got y_test alone.")
    outputs = lambda x: outputs_now.eval_shape(row, theta, x)
    is_flat = y.ndim == 1 and jnp.issubdtype(y.dtype, jnp.floating)
    y = history.aligned(y, outputs(x))
    sizes = {n, chosen.batch_size or n}
    if y_test is not None:
        y_test = history.aligned(history.as_targets(y_test, "y_test", count(x_test), chosen.loss), outputs(x_test))
        sizes.add(len(y_test))
    optimizer = None
    if chosen.optimizer is not None:
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in whole numbers and multiplies by them
            init = trace(chosen.optimizer.init, theta)
            optimizer = init, trace(chosen.optimizer.update, theta, jax.eval_shape(init, theta), theta)
    return Task(
        x,
        y,
        x_test,
        y_test,
        losses={size: _loss(chosen.loss, jax.ShapeDtypeStruct((size, y.shape[1]), y.dtype)) for size in sizes},
        lr=chosen.lr,
        momentum=chosen.momentum if chosen.has_momentum else None,
        optimizer=optimizer,
        reduction=chosen.reduction,
        batch_size=chosen.batch_size,
        record=chosen.words,
        is_flat=is_flat,
        weights=tuple(_is_weight(leaf) for leaf in jax.tree.leaves(params) if moves(leaf)),
    )


def _loss(loss: str | Callable, shape: Any) -> Callable:
    if isinstance(loss, str):
        return jax.tree_util.Partial(history.LOSSES[loss])
    return trace(lambda outputs, y: jnp.sum(loss(outputs, y)), shape, shape)


def _is_weight(leaf: Any) -> bool:
    """Is this the weight of a layer, rather than an offset?"""
    return jnp.ndim(leaf) >= 2


def _times(chosen: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(steps to record at, was each asked for): the one at 0 is taken always."""
    steps, times = chosen.steps, chosen.times
    if times is None:
        times = [0, *np.round(np.geomspace(1, max(steps, 1), 40)).astype(int).clip(max=steps).tolist()]
    for time in times:
        checks.whole_number(time, "times")
        if time > steps:
            raise ValueError(f"Expected times of at most {steps} steps, got {time}. Raise steps?")
    recorded = np.unique([0, *times, steps])
    return recorded, np.isin(recorded, [*times, steps])


def _bytes_per_network(row: Callable, theta: Any, x: Examples) -> int:
    """Upper estimate of what one network needs in training: parameters, gradients, and all intermediate values."""
    program = jax.make_jaxpr(lambda theta: outputs_of(row, theta, x))(theta)
    values = [v.aval for equation in program.eqns for v in equation.outvars] + 6 * [
        v.aval for v in program.jaxpr.invars
    ]
    return sum(value.size * value.dtype.itemsize for value in values)


def _run(go_on: Callable, state: Any, chosen: Settings) -> tuple[Any, dict]:
    """From record to record, the first one at step 0: in one call, or one by one for the progress bar."""
    lengths = np.diff(_times(chosen)[0], prepend=0).astype(np.int32)
    if not chosen.progress:
        return go_on(state, jnp.asarray(lengths))
    from tqdm.auto import tqdm

    records = []
    with tqdm(total=int(lengths.sum()), unit="step") as bar:
        for length in lengths:
            state, record = go_on(state, jnp.asarray([length]))
            bar.update(int(length))
            records.append(record)
    axis = jnp.ndim(state.step)  # the time axis comes after that of the networks
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis), *records)


def _finished(state, records, row, theta, params, rebuild, task, chosen) -> History:
    (times, kept), leaves = _times(chosen), jax.tree_util.tree_leaves_with_path(params)
    layers = tuple(jax.tree_util.keystr(path) for path, leaf in leaves if moves(leaf) and _is_weight(leaf))
    diverged_at, message = state.models[0].diverged_at, ""
    if checks.is_concrete(diverged_at) and (np.asarray(diverged_at) != NEVER).any():
        step = int(np.min(diverged_at))
        message = _explanation(step, row, theta, task)
        warnings.warn(message, Diverged, stacklevel=3)
        if diverged_at.ndim == 0:
            kept = kept & (times < step)
    if not kept.all():
        records = jax.tree.map(lambda a: a[(slice(None),) * diverged_at.ndim + (kept,)], records)
    ends = [_step_or_minus_one(model.diverged_at) for model in state.models]
    end = dict(zip(("diverged_at", "linearized_diverged_at"), ends))
    theta = rebuild(state.models[0].theta)
    return History(times=times[kept], params=theta, layers=layers, message=message, **records, **end)


def _step_or_minus_one(step: Any) -> Any:
    step = np.asarray(step) if checks.is_concrete(step) else step
    return (np if checks.is_concrete(step) else jnp).where(step == NEVER, -1, step)


def _explanation(step: int, row: Callable, theta: Any, task: Task) -> str:
    top = float(largest_eigenvalue(row, theta, task.x)) / (count(task.x) if task.reduction == "mean" else 1)
    text = f"Training diverged at step {step}. The tangent kernel at the start has lambda_max = {top:.4g}"
    if task.reduction == "mean":
        text += " (divided by the number of examples, for reduction='mean')"
    if task.lr is None or not jax.tree_util.all_leaves([task.lr]) or np.ndim(task.lr):
        return f"{text}. Choose smaller rates."
    lr, bound = float(task.lr), 2 * (1 + float(task.momentum or 0.0))
    return (
        f"{text}, so lr * lambda_max = {lr * top:.4g}, and gradient descent on the squared error of "
        f"the linearized model is stable below {bound:.3g}: choose lr below {bound / top:.4g}."
    )


def largest_eigenvalue(row: Callable, theta: Any, x: Examples, *, iterations: int = 50) -> Array:
    """lambda_max of the (n o, n o) tangent kernel, by power iteration on products with vectors."""
    out = jax.eval_shape(outputs_of, row, theta, x)
    v = jnp.sin(1 + jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
    size = jnp.linalg.norm(v)
    for _ in range(iterations):
        v = product_of(row, theta, x, None, v / size)
        size = jnp.linalg.norm(v)
    return size
