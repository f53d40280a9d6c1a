"""What a training run leaves behind: the losses it can minimize, and the quantities recorded on its way.

`train` fills a `History`; every notebook that trains a network draws from one. The quantities are those that the
theory speaks about: outputs, loss, how far the weights and the kernels have moved, and the linearized twin.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import checks
from ..pytrees import pytree, static

RECORDS = ("outputs", "loss", "accuracy", "distances", "ntk", "nngp", "linearized")


@pytree
class History:
    """What was recorded at `times` (steps): arrays with the time axis first, None for what was not asked for.

    For an ensemble every array but `times` has one more axis in front, the network. Outputs have the rank of the
    targets: (times, n) if those were (n,).
    """

    times: Any
    params: Any  # at the last recorded time
    outputs: Any = None  # (times, n, o) on the training inputs
    outputs_test: Any = None  # (times, n_test, o)
    loss: Any = None  # (times,), in the units of `reduction`
    loss_test: Any = None
    accuracy: Any = None  # (times,), share of right signs (one output) or right largest outputs
    accuracy_test: Any = None
    distances: Any = None  # (times, layers): |W_t - W_0| / |W_0| of every weight array, Frobenius
    ntk_change: Any = None  # (times,): |Theta_t - Theta_0| / |Theta_0|, Frobenius, on the training inputs
    nngp_change: Any = None  # (times,): the same for the tangent kernel of the last layer alone
    linearized_outputs: Any = None  # (times, n, o) of the linearized model, trained beside the network
    linearized_outputs_test: Any = None
    linearized_loss: Any = None  # on the training set
    linearized_distance: Any = None  # (times,): root mean square of f - f_lin, on the test inputs if there are any
    diverged_at: Any = None  # step of divergence, -1 if there was none
    linearized_diverged_at: Any = None
    layers: tuple[str, ...] = static(default=())  # the names of the weight arrays in `distances`
    message: str = static(default="")  # what there is to say about divergence

    def __repr__(self) -> str:
        shape = lambda value: "x".join(map(str, np.shape(value))) or f"{value}"
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("times", "params", "layers", "message")]
        arrays = [f"{name} {shape(getattr(self, name))}" for name in names if getattr(self, name) is not None]
        return f"History({len(self.times)} times to {self.times[-1] if len(self.times) else 0}: {', '.join(arrays)})"

    def replace(self, **changes: Any) -> "History":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def squared(outputs: Array, y: Array) -> Array:
    """Half the sum of squares over examples and outputs."""
    return ((outputs - y) ** 2).sum() / 2


def cross_entropy(outputs: Array, y: Array) -> Array:
    """-y log softmax(outputs), summed over examples and outputs; y holds probabilities, (n, o), or is one-hot."""
    return -(y * jax.nn.log_softmax(outputs)).sum()


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def as_targets(y: Any, name: str, n: int, loss: str | Callable) -> Array:
    """Targets with the example axis first: whole numbers are classes, and only cross-entropy knows classes.

    Raises:
        TypeError, ValueError: for what is no array of n floats, or of n whole numbers for cross-entropy.
    """
    if loss == "cross_entropy" and hasattr(y, "dtype") and jnp.issubdtype(y.dtype, jnp.integer):
        y = jnp.asarray(y)
        if y.ndim != 1:
            raise ValueError(f"Expected {name} as classes (n,) or as probabilities (n, o), got shape {y.shape}.")
    else:
        y = checks.as_array(y, name, ndim=(1, 2))
    if y.shape[0] != n:
        raise ValueError(f"Expected {name} with one target for each of the {n} examples, got shape {y.shape}.")
    return y


def aligned(y: Array, outputs: Any) -> Array:
    """Targets in the shape and precision of the outputs (n, o), or of their shape alone.

    Raises:
        ValueError: if the shapes differ, or classes meet a single output.
    """
    if jnp.issubdtype(y.dtype, jnp.integer):
        if outputs.shape[1] < 2:
            raise ValueError("Expected at least two outputs for cross-entropy over classes, got one.")
        return jax.nn.one_hot(y, outputs.shape[1], dtype=outputs.dtype)
    y = y[:, None] if y.ndim == 1 else y
    if y.shape != outputs.shape:
        raise ValueError(f"Expected targets of the shape {outputs.shape} of f(params, x), got {y.shape}.")
    return y.astype(outputs.dtype)


def accuracy(outputs: Array, y: Array) -> Array:
    """Share of examples whose sign (one output) or largest output is that of the target."""
    if outputs.shape[1] == 1:
        return (jnp.sign(outputs) == jnp.sign(y)).mean(dtype=outputs.dtype)
    return (outputs.argmax(1) == y.argmax(1)).mean(dtype=outputs.dtype)


def relative_change(now: Array, start: Array) -> Array:
    """|now - start| / |start| in the Frobenius norm, 0 where nothing moved."""
    moved = jnp.sqrt(((now - start) ** 2).sum())
    size = jnp.sqrt((start**2).sum())
    return jnp.where(moved == 0, 0.0, moved / size)
