"""The guest's predictions, in its units: the loss is half the mean over all entries of y, and t=None is infinity.

Targets may have any axes: those in `trace_axes` are outputs that share a kernel, the others have two axes in it each,
as (n1, n2, a, a). Kernels may be numpy arrays and slightly asymmetric. `diag_reg` is relative to the mean of the
kernel's diagonal, unless `diag_reg_absolute_scale`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import checks
from ..dynamics import ensemble, extremes, gradient, losses
from ..networks.kernel import Kernel as Pair
from .kernels import chosen, relaxed, words_of


class Gaussian(NamedTuple):
    """Mean and covariance."""

    mean: Any
    covariance: Any


class ODEState(NamedTuple):
    """Outputs, and their velocities where there is momentum."""

    fx_train: Any = None
    fx_test: Any = None
    qx_train: Any = None
    qx_test: Any = None


class _Targets:
    """Targets of any shape as a matrix: rows are the axes that the kernel has, columns those that share it."""

    def __init__(self, y, trace_axes):
        y = checks.as_array(y, "y_train")
        traced = (trace_axes,) if isinstance(trace_axes, int) else trace_axes
        self.shape, self.size = y.shape, y.size
        self.traced = sorted({axis % y.ndim for axis in traced})
        self.rows = [axis for axis in range(y.ndim) if axis not in self.traced]
        self.y = self.matrix(y)

    def sizes(self, axes, total: int) -> list[int]:
        """The lengths of these axes, `total` entries together: there may be more or fewer examples than targets."""
        rest = prod(self.shape[axis] for axis in axes if axis != 0)
        return [total // rest if axis == 0 else self.shape[axis] for axis in axes]

    def matrix(self, outputs, count=None) -> Array:
        """Outputs at `count` points (those of the targets), or one number, as rows and columns."""
        full = jnp.broadcast_to(1.0 * jnp.asarray(outputs), (count or self.shape[0], *self.shape[1:]))
        full = jnp.transpose(full, (*self.rows, *self.traced))
        return full.reshape(prod(full.shape[: len(self.rows)]), -1)

    def outputs(self, matrix: Array) -> Array:
        """Back again; a leading axis of times stays."""
        *lead, rows, columns = matrix.shape
        full = matrix.reshape(*lead, *self.sizes(self.rows, rows), *self.sizes(self.traced, columns))
        places = [len(lead) + axis for axis in (*self.rows, *self.traced)]
        return jnp.moveaxis(full, range(len(lead), full.ndim), places)

    def covariance(self, matrix: Array) -> Array:
        """A covariance matrix with two axes for each row axis."""
        *lead, total, _ = matrix.shape
        rows = self.sizes(self.rows, total)
        order = [len(lead) + i + len(rows) * side for i in range(len(rows)) for side in (0, 1)]
        return jnp.transpose(matrix.reshape(*lead, *rows, *rows), [*range(len(lead)), *order])


def _matrix(k, name: str = "a kernel") -> Array:
    """A kernel with two axes for each row axis as a matrix."""
    k = checks.as_array(k, name)
    rows = jnp.transpose(k, [*range(0, k.ndim, 2), *range(1, k.ndim, 2)])
    return rows.reshape(prod(k.shape[::2]), prod(k.shape[1::2]))


def _symmetric(k: Array) -> Array:
    return (k + k.T) / 2


def _regularized(k: Array, diag_reg, is_absolute: bool) -> tuple[Array, Any, Array]:
    """The kernel with equal halves, what is added to its diagonal, and their sum."""
    k = _symmetric(k)
    noise = jnp.asarray(diag_reg * (1 if is_absolute else jnp.trace(k) / len(k)), k.dtype)
    return k, noise, k + noise * jnp.eye(len(k), dtype=k.dtype)


def _over_times(t, at: Callable):
    """`at(t)` for times of any shape, None being infinity; their axes come first in what it returns."""
    times = jnp.inf if t is None else t
    if np.ndim(times) < 2:
        return at(times)
    return jax.tree.map(lambda a: a.reshape(*np.shape(times), *a.shape[1:]), at(jnp.ravel(times)))


@relaxed
def gradient_descent_mse(
    k_train_train, y_train, learning_rate=1.0, diag_reg=0.0, diag_reg_absolute_scale=False, trace_axes=(-1,)
):
    """Training on half the mean of squares in continuous time: predict_fn(t, fx_train_0, fx_test_0, k_test_train).

    It returns the training outputs, the test outputs, or both, for what is not None at the start.
    """
    targets = _Targets(y_train, trace_axes)
    *_, k = _regularized(_matrix(k_train_train), diag_reg, diag_reg_absolute_scale)
    return _predict_fn(gradient.gradient_flow(k, targets.y, lr=learning_rate / targets.size), targets)


@relaxed
def gradient_descent(loss, k_train_train, y_train, learning_rate=1.0, momentum=None, trace_axes=(-1,)):
    """Training on any loss(outputs, targets) in continuous time; t counts steps of size `learning_rate`.

    The predict function takes outputs, or an `ODEState`, and returns what it took; infinite times are refused.
    Velocities of a state are changes of outputs in a time of 1/sqrt(learning_rate) steps.
    """
    targets = _Targets(y_train, trace_axes)
    k = _symmetric(_matrix(k_train_train))
    flat_loss = lambda outputs, y: loss(targets.outputs(outputs), targets.outputs(y))
    flow = losses.function_flow(flat_loss, k, targets.y, lr=learning_rate, momentum=momentum)
    predict, unit = _predict_fn(flow, targets), learning_rate**0.5

    @relaxed
    def predict_fn(t=None, fx_train_or_state_0=0.0, fx_test_0=None, k_test_train: Any = None):
        first = fx_train_or_state_0
        if not isinstance(first, ODEState):
            return predict(t, first, fx_test_0, k_test_train)
        if momentum is None and (first.qx_train is not None or first.qx_test is not None):
            raise ValueError("Expected a state without velocities where there is no momentum, got qx_train or qx_test.")
        if momentum is None:
            made = predict(t, first.fx_train, first.fx_test, k_test_train)
            return ODEState(*(made if isinstance(made, tuple) else (made,)))
        if first.fx_test is not None and k_test_train is None:
            raise ValueError("Expected k_test_train for predictions on test points, got None.")
        count = len(k_test_train) if first.fx_test is not None and 0 in targets.rows else None
        start = lambda f, q, count=None: (
            targets.matrix(f, count),
            unit * targets.matrix(0.0 if q is None else q, count),
        )

        def at(t):
            train = start(first.fx_train, first.qx_train)
            motion, fx_test, qx_test = flow.motion(t, *train), None, None
            fx_train, qx_train = motion(k, *train)
            if first.fx_test is not None:
                fx_test, qx_test = motion(_matrix(k_test_train), *start(first.fx_test, first.qx_test, count))
            back = lambda f, of=1.0: None if f is None else targets.outputs(f) / of
            return ODEState(back(fx_train), back(fx_test), back(qx_train, unit), back(qx_test, unit))

        return _over_times(t, at)

    return predict_fn


def _predict_fn(flow, targets: _Targets) -> Callable:
    @relaxed
    def predict_fn(t=None, fx_train_0=0.0, fx_test_0=None, k_test_train: Any = None):
        if fx_test_0 is not None and k_test_train is None:
            raise ValueError("Expected k_test_train for predictions on test points, got None.")
        start = targets.matrix(0.0 if fx_train_0 is None else fx_train_0)

        def at(t):
            results = []
            if fx_train_0 is not None:
                results.append(targets.outputs(flow.train(t, start)))
            if fx_test_0 is not None:
                first = targets.matrix(fx_test_0, len(k_test_train) if 0 in targets.rows else None)
                results.append(targets.outputs(flow.test(t, _matrix(k_test_train), start, first)))
            return tuple(results)

        results = _over_times(t, at)
        return results[0] if len(results) == 1 else results

    return predict_fn


@relaxed
def gradient_descent_mse_ensemble(
    kernel_fn,
    x_train,
    y_train,
    learning_rate=1.0,
    diag_reg=0.0,
    diag_reg_absolute_scale=False,
    trace_axes=(-1,),
    **kernel_fn_train_train_kwargs,
):
    """Infinitely many networks in training: predict_fn(t, x_test, get, compute_cov), get "ntk", "nngp" or both.

    At the training points (x_test=None) the regularized kernel sets the pace, and training ends in the targets.
    """
    targets = _Targets(y_train, trace_axes)
    train = lambda words: kernel_fn(x_train, None, words, **kernel_fn_train_train_kwargs)
    made = _Ensembles(train, targets, learning_rate / targets.size, diag_reg, diag_reg_absolute_scale)

    @relaxed
    def predict_fn(t=None, x_test=None, get=None, compute_cov=False, **kernel_fn_test_test_kwargs):
        needed = tuple(sorted({*words_of(get), *(("nngp",) if compute_cov else ())}))
        between = own = None
        if x_test is not None:
            options = {**kernel_fn_train_train_kwargs, **kernel_fn_test_test_kwargs}
            between = kernel_fn(x_test, x_train, needed, **options)
            own = kernel_fn(x_test, None, ("nngp",), **options) if compute_cov else None
        law = lambda word: made.law(word, needed, t, between, own, compute_cov)
        return chosen(get, law, name="Gaussians")

    return predict_fn


def gp_inference(k_train_train, y_train, diag_reg=0.0, diag_reg_absolute_scale=False, trace_axes=(-1,)):
    """Where training ends: predict_fn(get, k_test_train, k_test_test), get "nngp", "ntk", "ntkgp" or several.

    Kernels are arrays, or have `.nngp` and `.ntk`. With `k_test_test` the result is a `Gaussian`, without it the mean.
    """
    targets = _Targets(y_train, trace_axes)
    made = _Ensembles(lambda words: k_train_train, targets, 1.0, diag_reg, diag_reg_absolute_scale)

    @relaxed
    def predict_fn(get=None, k_test_train=None, k_test_test=None):
        law = lambda word: made.law(word, (), None, k_test_train, k_test_test, k_test_test is not None)
        return chosen(get, law, ("nngp", "ntk", "ntkgp"), "Gaussians")

    return predict_fn


@dataclass(frozen=True, eq=False)
class _Ensembles:
    """The ensembles of one set of targets, by the guest's words; "ntkgp" takes the NTK for a covariance."""

    train: Callable  # words -> kernels at the training points
    targets: _Targets
    lr: Any
    diag_reg: Any
    is_absolute: bool
    kept: dict[Any, Any] = field(default_factory=dict)

    def law(self, word, needed, t, k_test_train, k_test_test, with_cov):
        """The mean at time t, or a `Gaussian`."""
        made = self.ensemble(word, needed, k_test_train is None)
        if k_test_train is None:
            points = made.at()
        else:
            k = _part(k_test_train, "nngp" if word == "nngp" else "ntk")
            start = _part(k_test_train, "nngp") if word == "ntk" and with_cov else k
            own = _symmetric(_part(k_test_test, "ntk" if word == "ntkgp" else "nngp")) if with_cov else None
            points = made.at_kernels(Pair(start, k), own)

        def at(t):
            law = points.predict(t, covariance=with_cov)
            mean = self.targets.outputs(law.mean)
            return Gaussian(mean, self.targets.covariance(law.covariance)) if with_cov else mean

        return _over_times(t, at)

    def ensemble(self, word, needed, is_own):
        """The networks in training, at the training points alone if `is_own`."""

        def make():
            kernels = self.keep(needed, lambda: self.train(needed))
            k, noise, sum_ = _regularized(
                _part(kernels, "nngp" if word == "nngp" else "ntk"), self.diag_reg, self.is_absolute
            )
            of = partial(ensemble.ensemble_from_kernels, y_train=self.targets.y, lr=self.lr)
            if word == "ntk":  # the guest adds to the kernel, not to the covariance at the start
                return of(Pair(_symmetric(_part(kernels, "nngp")) if hasattr(kernels, "nngp") else k, sum_))
            if is_own:  # ... and here to both
                return of(sum_, train="last_layer")
            return of(k, train="last_layer", noise=noise)

        return self.keep((word, needed, is_own), make)

    def keep(self, key, make):
        """make(), kept for the next call unless JAX is tracing this one."""
        if key in self.kept:
            return self.kept[key]
        made = make()
        if checks.is_concrete(made, jnp.zeros(())):
            self.kept[key] = made
        return made


def _part(kernels, word: str) -> Array:
    """One of several kernels, or the only one, as a matrix."""
    is_one = not (hasattr(kernels, "nngp") or hasattr(kernels, "ntk"))
    k = kernels if is_one else getattr(kernels, word, None)
    if k is None:
        raise ValueError(f"Expected the {word} among the kernels, got none. Compute them with get=('nngp', 'ntk').")
    return _matrix(k, f"the {word} among the kernels")


@relaxed
def max_learning_rate(ntk_train_train, y_train_size=None, momentum=0.0, eps=1e-12):
    """Where steps on half the mean of squares stop converging; `y_train_size`, y.size, is by default the rows of k."""
    k = _matrix(ntk_train_train)
    size = len(k) if y_train_size is None else y_train_size
    return size * extremes.max_learning_rate(_symmetric(k), momentum=momentum)
