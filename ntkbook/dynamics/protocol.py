"""What all solvers of training in function space share: their methods, and the checks of kernels, targets and times.

A kernel is (n, n), shared by all outputs, or full, (n, n, o, o), which becomes a matrix of n * o rows. Targets, initial
outputs and predictions have one shape, (n,) or (n, o). gradient.py, large.py and losses.py each solve for the
coefficients of the kernel; everything else follows from those here.
"""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from .. import checks
from .modes import eigenvalues_of, one_precision


class Training:
    """Outputs over time of a linear model in training: what every solver offers.

    Everywhere, t is a number or an array (T,); an array puts a leading axis T in front of the result. Targets of shape
    (n,) give predictions (m,), targets (n, o) give (m, o). f0 is the function at t = 0: a number or an array of the
    shape of the predictions. All methods raise TypeError or ValueError for shapes that do not fit, and for times that
    are negative or have no answer.
    """

    k: Any  # (N, N) with N = n, or n * o for a full kernel; or a function v -> K v
    y: Any  # (n,) or (n, o)
    is_full: bool

    def _times(self, t: Any) -> Any:
        return checked_times(t).astype(self.y.dtype)

    def _solve(self, t: Any, f0: Array) -> Array:
        """The coefficients at checked times, from the initial outputs (n,) or (n, o)."""
        raise NotImplementedError

    def _residual(self, t: Any, f0: Array) -> Array:
        """outputs - targets at the training points."""
        return f0 - self.y + self._pull(self.k, self._solve(t, f0))

    def _pull(self, k: Any, alpha: Array) -> Array:
        """k alpha, for the rows of the kernel at any points, and coefficients (n,), (n, o), or (T, ...) of them."""
        rows = self.y.size if self.is_full else self.y.shape[0]
        if not callable(k):
            return _product(k, alpha, rows, self.y.ndim)
        moved: Any = [k(v) for v in alpha.reshape(-1, rows, self.y.size // rows)]
        return jnp.stack(moved).reshape(alpha.shape)

    @property
    def rank(self) -> Array:
        """The number of the kernel's eigenvalues that are not rounding."""
        if callable(self.k):
            raise ValueError("Expected a kernel matrix for its rank, got a function. The rank needs all entries.")
        return jnp.sum(eigenvalues_of(self.k) > 0)

    def train(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """The outputs at the training points."""
        residual = self.residual(t, f0_train)
        return jnp.broadcast_to(self.y, residual.shape) + residual

    def residual(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """outputs - targets at the training points; in closed form to full relative precision however small."""
        t = self._times(t)
        return _finite(self._residual(t, outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")), t)

    def coefficients(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """alpha(t) of the shape of y, with f_t(x) = f0(x) + sum_j k(x, x_j) alpha_j: each example's pull."""
        t = self._times(t)
        return _finite(self._solve(t, outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")), t)

    def test(
        self, t: ArrayLike, k_test_train: ArrayLike, f0_train: ArrayLike = 0.0, f0_test: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """The outputs at other points, f0(x) + k(x, X) alpha(t), with `k_test_train` (m, n), or (m, n, o, o) if full.

        Lee et al. 2019, section 2.2.
        """
        k, f0_test = self._points(k_test_train, f0_test)
        moved = self._pull(k, self.coefficients(t, f0_train))
        return _finite(jnp.broadcast_to(f0_test, moved.shape) + moved, t)

    def _points(self, k_test_train: Any, *outputs: Any) -> list[Array]:
        """The kernel of other points as rows for `_pull`, and outputs there, all checked."""
        k = kernel_at(k_test_train, self.y, self.is_full).astype(self.y.dtype)
        shape = (k.shape[0], *self.y.shape[1:])
        names = ("f0_test", "velocity_test")
        return [_as_matrix(k), *(outputs_at(f, shape, self.y.dtype, name) for f, name in zip(outputs, names))]

    def omega(self, t: ArrayLike, jacobian: Any, f0_train: ArrayLike = 0.0) -> Any:
        """theta(t) - theta(0) of the linear model, in the tree of its parameters: J^T alpha(t).

        `jacobian` is d f(x_train)/d theta at t = 0: each leaf has the shape of y, then that of its parameter, as
        `jax.jacobian(f)(params, x_train)` gives it. The kernel must be J J^T. Lee et al. 2019, section 2.2.
        """
        alpha = self.coefficients(t, f0_train)
        axes = self.y.ndim

        def leaf(J):
            J = checks.as_array(J, "jacobian").astype(alpha.dtype)
            if J.shape[:axes] != self.y.shape:
                raise ValueError(f"Expected leaves of jacobian to start with {self.y.shape}, got shape {J.shape}.")
            return jnp.tensordot(alpha, J, axes=axes)

        return jax.tree.map(leaf, jacobian)


@partial(jax.jit, static_argnames=("rows", "ndim"))
def _product(k, alpha, rows, ndim):
    """k (m, rows) times coefficients of targets with `ndim` axes, or of (T, ...) of them, in one program."""
    times, outputs = alpha.shape[: alpha.ndim - ndim], alpha.shape[alpha.ndim - ndim + 1 :]
    columns = alpha.reshape(prod(times), rows, -1)
    return jnp.einsum("mn,tnc->tmc", k, columns).reshape(*times, -1, *outputs)


def _finite(outputs, t):
    if checks.is_concrete(outputs) and not jnp.isfinite(outputs).all():
        raise ValueError(
            f"Expected finite outputs in {outputs.dtype}, got an overflow at t up to {np.max(t):.4g}. "
            "Steps diverge for lr * lambda_max above 2 (1 + momentum): lower lr, see max_learning_rate."
        )
    return outputs


def checked_times(t: Any) -> Array:
    """Times as a number or an array (T,), zero or positive; inf is allowed.

    Raises:
        TypeError, ValueError: for anything else.
    """
    if isinstance(t, (list, tuple)):
        checks.non_negative(t, "t")  # rows of one length, of numbers
        t = jnp.asarray(t)
    if np.ndim(t) > 1 or np.size(t) == 0:
        raise ValueError(
            f"Expected t to be a number or an array (T,), got shape {np.shape(t)}. Time comes first, inputs second."
        )
    checks.non_negative(t, "t")
    return jnp.asarray(t)


def one_number(value: Any, name: str, dtype: Any) -> Array:
    """A learning rate, a momentum or a noise: zero or positive, and one for all examples."""
    if isinstance(value, (list, tuple)) or np.ndim(value):
        raise ValueError(f"Expected one number as {name}, got {checks.describe(value)}. For many, use vmap.")
    checks.non_negative(value, name)
    if checks.is_concrete(value) and np.isinf(value):
        raise ValueError(f"Expected a finite {name}, got {value}.")
    return jnp.asarray(value).astype(dtype)


def rate_of(lr: Any, reduction: str, y: Array) -> Array:
    """The learning rate in the units of the summed loss: lr, or lr/n for "mean"."""
    checks.one_of(reduction, "reduction", ("sum", "mean"))
    return one_number(lr, "lr", y.dtype) / (y.shape[0] if reduction == "mean" else 1)


def tolerance_of(tolerance: Any, dtype: Any) -> float:
    """The relative tolerance of a solver, 1e-8 or 1e-5 in float32, checked to be one that it can reach."""
    if tolerance is None:
        return 1e-8 if dtype == jnp.float64 else 1e-5
    checks.non_negative(tolerance, "tolerance")
    least = 10 * float(jnp.finfo(dtype).eps)
    if np.ndim(tolerance) or not least <= float(tolerance) <= 1e-2:
        raise ValueError(f"Expected a relative tolerance from {least:.1g} to 0.01 in {dtype}, got {tolerance}.")
    return float(tolerance)


def flat_kernel(k: Any, name: str) -> tuple[Array, bool]:
    """(kernel matrix, was it full): a full (n, n, o, o) becomes (n o, n o), example by example."""
    k = checks.as_array(k, name, ndim=(2, 4))
    if k.ndim == 2:
        return checks.as_kernel_matrix(k, name), False
    if k.shape[2] != k.shape[3]:
        raise ValueError(f"Expected a full kernel of shape (n, n, o, o), got {k.shape}.")
    return checks.as_kernel_matrix(_as_matrix(k), name), True


def _as_matrix(k: Array) -> Array:
    """A full kernel (m, n, o, o) as (m o, n o); a matrix stays as it is."""
    m, *_, o = k.shape
    return k if k.ndim == 2 else k.transpose(0, 2, 1, 3).reshape(m * o, -1)


def train_kernel(k: Any, y: Any) -> tuple[Array, Array, bool]:
    """Kernel and targets of one precision, checked against each other."""
    k, is_full = flat_kernel(k, "k_train_train")
    y = checks.as_array(y, "y_train", ndim=2 if is_full else (1, 2))
    if is_full and y.size != k.shape[0]:
        raise ValueError(f"Expected y_train with {k.shape[0]} entries for the full kernel, got shape {y.shape}.")
    if not is_full:
        checks.same_length(k.shape[0], y, "y_train")
    k, y = one_precision(k, y)
    return k, y, is_full


def kernel_at(k: Any, y: Array, is_full: bool = False) -> Array:
    """The kernel of other points with the training points, checked: (m, n) or (m, n, o, o)."""
    k = checks.as_array(k, "k_test_train", ndim=4 if is_full else 2)
    wanted = (y.shape[0], y.shape[1], y.shape[1]) if is_full else y.shape[:1]
    if k.shape[1:] != wanted:
        shape = ", ".join(map(str, ("m", *wanted)))
        raise ValueError(f"Expected k_test_train of shape ({shape}), got {k.shape}. Test points come first: transpose?")
    return k


def outputs_at(f0: Any, shape: tuple[int, ...], dtype: Any, name: str) -> Array:
    """Initial outputs as an array of `shape`: a number, or an array that has this shape already."""
    if isinstance(f0, (int, float)) and not isinstance(f0, bool):
        f0 = float(f0)
    f0 = checks.as_array(f0, name)
    if f0.ndim and f0.shape != shape:
        raise ValueError(f"Expected {name} to be a number or of shape {shape}, got shape {f0.shape}.")
    return jnp.broadcast_to(f0.astype(dtype), shape)
