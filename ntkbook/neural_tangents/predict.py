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
from .kernels import named, refuse, relaxed, words_of


class Gaussian(NamedTuple):
    """Mean and covariance."""

    mean: Any
    covariance: Any


@partial(jax.tree_util.register_dataclass, data_fields=["fx_train", "fx_test", "qx_train", "qx_test"], meta_fields=[])
@dataclass(frozen=True)
class ODEState:
    """Outputs, and their velocities where there is momentum."""

    fx_train: Any = None
    fx_test: Any = None
    qx_train: Any = None
    qx_test: Any = None


@dataclass(frozen=True)
class _Axes:
    """Targets of any shape as a matrix: rows are the axes that the kernel has, columns those that share it."""

    shape: tuple[int, ...]
    traced: tuple[int, ...]

    @property
    def inner(self) -> list[int]:
        """The sizes of the row axes after that of the examples."""
        return [size for axis, size in enumerate(self.shape) if axis not in (0, *self.traced)]

    def matrix(self, outputs, count=None) -> Array:
        """Outputs at `count` points (those of the targets), or one number, as rows and columns."""
        shape = (self.shape[0] if count is None else count, *self.shape[1:])
        full = jnp.broadcast_to(1.0 * jnp.asarray(outputs), shape)
        full = jnp.moveaxis(full, self.traced, range(-len(self.traced), 0))
        return full.reshape(-1, prod(self.shape[axis] for axis in self.traced))

    def outputs(self, matrix: Array) -> Array:
        """Back again; a leading axis of times stays."""
        lead = matrix.shape[:-2]
        full = matrix.reshape(*lead, -1, *self.inner, *(self.shape[axis] for axis in self.traced))
        return jnp.moveaxis(full, range(-len(self.traced), 0), [len(lead) + axis for axis in self.traced])

    def kernel(self, k) -> Array:
        """A kernel with two axes for each row axis as a matrix."""
        k = checks.as_array(k, "a kernel")
        rows = jnp.transpose(k, [*range(0, k.ndim, 2), *range(1, k.ndim, 2)])
        return rows.reshape(prod(k.shape[::2]), prod(k.shape[1::2]))

    def covariance(self, matrix: Array) -> Array:
        """A covariance matrix with two axes for each row axis."""
        lead, n = matrix.ndim - 2, 1 + len(self.inner)
        rows = (matrix.shape[-1] // prod(self.inner), *self.inner)
        order = [lead + i + n * side for i in range(n) for side in (0, 1)]
        return jnp.transpose(matrix.reshape(*matrix.shape[:lead], *rows, *rows), [*range(lead), *order])


def _axes_of(y, trace_axes) -> tuple[Array, _Axes]:
    y = checks.as_array(y, "y_train")
    traced = (trace_axes,) if isinstance(trace_axes, int) else tuple(trace_axes)
    return y, _Axes(y.shape, tuple(sorted(axis % y.ndim for axis in traced)))


def _symmetric(k: Array) -> Array:
    return (k + k.T) / 2


def _regularized(k: Array, diag_reg, is_absolute: bool) -> tuple[Array, Any]:
    """The kernel with equal halves, and what is added to its diagonal."""
    k = _symmetric(k)
    return k, diag_reg * (1 if is_absolute else jnp.trace(k) / len(k))


def _add(k: Array, noise) -> Array:
    return k + jnp.asarray(noise, k.dtype) * jnp.eye(len(k), dtype=k.dtype)


def _over_times(t, at: Callable):
    """`at(t)` for times of any shape, None being infinity; their axes come first in what it returns."""
    times = jnp.inf if t is None else t
    if np.ndim(times) < 2:
        return at(times)
    shape = np.shape(times)
    return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), at(jnp.ravel(times)))


@relaxed
def gradient_descent_mse(
    k_train_train, y_train, learning_rate=1.0, diag_reg=0.0, diag_reg_absolute_scale=False, trace_axes=(-1,)
):
    """Training on half the mean of squares in continuous time: predict_fn(t, fx_train_0, fx_test_0, k_test_train).

    It returns the training outputs, the test outputs, or both, for what is not None at the start.
    """
    y, axes = _axes_of(y_train, trace_axes)
    k, noise = _regularized(axes.kernel(k_train_train), diag_reg, diag_reg_absolute_scale)
    flow = gradient.gradient_flow(_add(k, noise), axes.matrix(y), lr=learning_rate / y.size)

    @relaxed
    def predict_fn(t=None, fx_train_0=0.0, fx_test_0=None, k_test_train=None):
        return _predicted(flow, axes, t, fx_train_0, fx_test_0, k_test_train)

    return predict_fn


def _predicted(flow, axes, t, f0_train, f0_test, k_test_train):
    if f0_test is not None and k_test_train is None:
        raise ValueError("Expected k_test_train for predictions on test points, got None.")
    start = axes.matrix(0.0 if f0_train is None else f0_train)

    def at(t):
        results = []
        if f0_train is not None:
            results.append(axes.outputs(flow.train(t, start)))
        if f0_test is not None:
            k = axes.kernel(k_test_train)
            first = axes.matrix(f0_test, np.shape(k_test_train)[0])
            results.append(axes.outputs(flow.test(t, k, start, first)))
        return tuple(results)

    results = _over_times(t, at)
    return results[0] if len(results) == 1 else results


@relaxed
def gradient_descent(loss, k_train_train, y_train, learning_rate=1.0, momentum=None, trace_axes=(-1,)):
    """Training on any loss(outputs, targets) in continuous time; t counts steps of size `learning_rate`.

    The predict function takes outputs, or an `ODEState`, and returns what it took.
    """
    y, axes = _axes_of(y_train, trace_axes)
    k = _symmetric(axes.kernel(k_train_train))
    flat_loss = lambda outputs, targets: loss(axes.outputs(outputs), axes.outputs(targets))
    flow = losses.function_flow(flat_loss, k, axes.matrix(y), lr=learning_rate, momentum=momentum)

    @relaxed
    def predict_fn(t=None, fx_train_or_state_0=0.0, fx_test_0=None, k_test_train=None):
        refuse(t is None, "t=None, as a loss in general has no limit,", "a large time")
        first = fx_train_or_state_0
        if not isinstance(first, ODEState):
            return _predicted(flow, axes, t, first, fx_test_0, k_test_train)
        refuse(momentum is not None, "An ODEState with momentum", "outputs at the start, without their velocities")
        made = _predicted(flow, axes, t, first.fx_train, first.fx_test, k_test_train)
        return ODEState(*(made if isinstance(made, tuple) else (made,)))

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
    y, axes = _axes_of(y_train, trace_axes)
    train = lambda words: kernel_fn(x_train, None, words, **kernel_fn_train_train_kwargs)
    made = _Ensembles(train, y, axes, learning_rate / y.size, diag_reg, diag_reg_absolute_scale)

    @relaxed
    def predict_fn(t=None, x_test=None, get=None, compute_cov=False, **kernel_fn_test_test_kwargs):
        words = words_of(get) or ("nngp", "ntk")
        needed = tuple(sorted({*words, *(("nngp",) if compute_cov else ())}))
        between = own = None
        if x_test is not None:
            options = {**kernel_fn_train_train_kwargs, **kernel_fn_test_test_kwargs}
            between = kernel_fn(x_test, x_train, needed, **options)
            own = kernel_fn(x_test, None, ("nngp",), **options) if compute_cov else None
        return made.laws(get, words, needed, t, between, own, compute_cov)

    return predict_fn


def gp_inference(k_train_train, y_train, diag_reg=0.0, diag_reg_absolute_scale=False, trace_axes=(-1,)):
    """Where training ends: predict_fn(get, k_test_train, k_test_test), get "nngp", "ntk", "ntkgp" or several.

    Kernels are arrays, or have `.nngp` and `.ntk`. With `k_test_test` the result is a `Gaussian`, without it the mean.
    """
    y, axes = _axes_of(y_train, trace_axes)
    made = _Ensembles(lambda words: k_train_train, y, axes, 1.0, diag_reg, diag_reg_absolute_scale)

    @relaxed
    def predict_fn(get=None, k_test_train=None, k_test_test=None):
        words = words_of(get) or ("nngp", "ntk")
        return made.laws(get, words, (), None, k_test_train, k_test_test, k_test_test is not None)

    return predict_fn


class _Pair(NamedTuple):
    nngp: Any
    ntk: Any


@dataclass(frozen=True, eq=False)
class _Ensembles:
    """The ensembles of one set of targets, by the guest's words; "ntkgp" takes the NTK for a covariance."""

    train: Callable  # words -> kernels at the training points
    y: Array
    axes: _Axes
    lr: Any
    diag_reg: Any
    is_absolute: bool
    kept: dict[Any, Any] = field(default_factory=dict)

    def laws(self, get, words, needed, t, k_test_train, k_test_test, with_cov):
        """The mean, or a `Gaussian`, of each word."""
        laws = [self.law(word, needed, t, k_test_train, k_test_test, with_cov) for word in words]
        return laws[0] if isinstance(get, str) else named(words, laws, "Gaussians")

    def law(self, word, needed, t, k_test_train, k_test_test, with_cov):
        made = self.ensemble(word, needed, k_test_train is None, with_cov)
        if k_test_train is None:
            conditioned = made.at()
        else:
            k = self.part(k_test_train, "nngp" if word == "nngp" else "ntk")
            cross = self.part(k_test_train, "nngp") if word == "ntk" and with_cov else k
            own = _symmetric(self.part(k_test_test, "ntk" if word == "ntkgp" else "nngp")) if with_cov else None
            conditioned = made.at_kernels(_Pair(cross, k), own)

        def at(t):
            law = conditioned.predict(t, covariance=with_cov)
            mean = self.axes.outputs(law.mean)
            return Gaussian(mean, self.axes.covariance(law.covariance)) if with_cov else mean

        return _over_times(t, at)

    def ensemble(self, word, needed, is_own, with_cov):
        """The networks in training, at the training points alone if `is_own`."""

        def make():
            kernels = self.keep(needed, lambda: self.train(needed))
            k, noise = self.part(kernels, "nngp" if word == "nngp" else "ntk"), self.diag_reg
            k, noise = _regularized(k, noise, self.is_absolute)
            nngp, train = k, "last_layer"
            if word == "ntk":  # the guest adds to the kernel, not to the covariance at the start
                is_alone = is_own and hasattr(kernels, "ntk") and not hasattr(kernels, "nngp")
                nngp = self.part(kernels, "nngp") if with_cov and not is_alone else k
                nngp, k, noise, train = _symmetric(nngp), _add(k, noise), 0.0, "all"
            elif is_own:  # ... and here to both
                nngp, k, noise = _add(k, noise), _add(k, noise), 0.0
            y = self.axes.matrix(self.y)
            return ensemble.ensemble_from_kernels(_Pair(nngp, k), y, lr=self.lr, train=train, noise=noise)

        return self.keep((word, needed, is_own, with_cov), make)

    def part(self, kernels, word):
        """One kernel as a matrix."""
        found = getattr(kernels, word, None) if hasattr(kernels, "nngp") or hasattr(kernels, "ntk") else kernels
        if found is None:
            raise ValueError(f"Expected kernels with .{word}, got none. Ask the kernel function for both.")
        return self.axes.kernel(found)

    def keep(self, key, make):
        """make(), kept for the next call unless JAX is tracing this one."""
        if key in self.kept:
            return self.kept[key]
        made = make()
        if checks.is_concrete(made, jnp.zeros(())):
            self.kept[key] = made
        return made


@relaxed
def max_learning_rate(ntk_train_train, y_train_size=None, momentum=0.0, eps=1e-12):
    """Where steps on half the mean of squares stop converging; `y_train_size`, y.size, is by default the rows of k."""
    k = _Axes((), ()).kernel(ntk_train_train)
    size = len(k) if y_train_size is None else y_train_size
    return size * extremes.max_learning_rate(_symmetric(k), momentum=momentum)
