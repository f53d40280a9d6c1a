"""Closed-form training in function space: what every output is at time t, from the kernel alone.

A network whose kernel stays put trains as a linear model: its outputs follow f' = -lr K (f - y), and the answer at any
time is a function of the kernel matrix. One eigendecomposition is made at construction; then any t, arrays of t and
t = inf cost a few products. Takes plain matrices: an infinite-width kernel, an empirical one, or your own. Other losses
are in losses.py, large matrices in large.py. Notebooks 05 to 08 use it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..pytrees import pytree, static
from .filters import FlowClock, StepClock, apply_mode_function
from .large import DENSE_LIMIT, KrylovFlow, krylov_flow
from .spectrum import eigenmodes
from .targets import apply_at, flat_kernel, kernel_at, outputs_at, train_kernel, warn_of_rank


@pytree
class Dynamics:
    """A kernel, its modes and targets: the training of the linear model. See `gradient_flow`.

    Everywhere, t is a number or an array (T,); an array puts a leading axis T in front of the result. Targets of shape
    (n,) give predictions (m,), targets (n, o) give (m, o). f0 is the function at t = 0: a number or an array of the
    shape of the predictions.
    """

    k: Any  # (N, N) with N = n, or n * o for a full kernel
    eigenvalues: Any  # (N,) ascending, rounding ones exactly 0
    modes: Any  # (N, N)
    y: Any  # (n,) or (n, o)
    lr: Any  # in the units of the summed loss
    momentum: Any
    kind: str = static(default="flow")
    is_full: bool = static(default=False)

    @property
    def rank(self) -> Array:
        """The number of eigenvalues that are not rounding."""
        return jnp.sum(self.eigenvalues > 0)

    def train(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """The outputs at the training points: y + decay(K) (f0 - y). Lee et al. 2019, section 2.2."""
        return self.y + self.residual(t, f0_train)

    def residual(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """outputs - targets at the training points, to full relative precision however small."""
        t = self._times(t)
        return self._finite(_residual(self, t, outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")), t)

    def test(
        self, t: ArrayLike, k_test_train: ArrayLike, f0_train: ArrayLike = 0.0, f0_test: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """The outputs at other points: f0(x) + k(x, X) gain(K) (y - f0(X)).

        `k_test_train` is (m, n), or (m, n, o, o) for a full kernel.

        Raises:
            TypeError, ValueError: for shapes that do not fit, times that are negative, or outputs that have overflowed.

        Lee et al. 2019, section 2.2.
        """
        k = kernel_at(k_test_train, self.y, self.is_full)
        t, dtype = self._times(t), self.y.dtype
        f0_test = outputs_at(f0_test, (k.shape[0], *self.y.shape[1:]), dtype, "f0_test")
        f0_train = outputs_at(f0_train, self.y.shape, dtype, "f0_train")
        return self._finite(_test(self, t, k.astype(dtype), f0_train, f0_test), t)

    def coefficients(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """alpha(t) of the shape of y, with f_t(x) = f0(x) + sum_j k(x, x_j) alpha_j: each example's pull."""
        t = self._times(t)
        return self._finite(_coefficients(self, t, outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")), t)

    def omega(self, t: ArrayLike, jacobian: Any, f0_train: ArrayLike = 0.0) -> Any:
        """theta(t) - theta(0) of the linear model, in the tree of its parameters: J^T gain(K) (y - f0).

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

    def _times(self, t):
        checks.non_negative(t, "t")
        t = jnp.asarray(t).astype(self.y.dtype)
        if t.ndim > 1:
            raise ValueError(f"Expected t to be a number or an array (T,), got shape {t.shape}.")
        if checks.is_concrete(t):
            host = np.asarray(t)
            if self.kind == "steps" and (np.isfinite(host) & (host != np.floor(host))).any():
                raise ValueError(f"Expected t to count whole steps, got {t}. gradient_flow takes any t.")
            if np.isinf(host).any():
                self._check_limit()
        return t

    def _check_limit(self):
        """At t = inf: an error where there is no limit, one warning where it is not the whole answer."""
        if not checks.is_concrete(self):
            return
        eigenvalues, lr, momentum = (np.asarray(a) for a in (self.eigenvalues, self.lr, self.momentum))
        if self.kind == "steps" and lr * eigenvalues[-1] >= 2 * (1 + momentum):
            raise ValueError(
                f"Expected a learning rate with a limit for t = inf, got lr * lambda_max = {lr * eigenvalues[-1]:.4g}, "
                f"where steps diverge from {2 * (1 + momentum):.4g} on. Lower lr: see max_learning_rate."
            )
        rank = int((eigenvalues > 0).sum())
        if rank < len(eigenvalues):
            warn_of_rank(rank, len(eigenvalues))

    def _finite(self, outputs, t):
        if checks.is_concrete(outputs) and not np.isfinite(np.asarray(outputs)).all():
            top = float(np.asarray(self.lr) * np.asarray(self.eigenvalues)[-1]) if checks.is_concrete(self) else np.nan
            raise ValueError(
                f"Expected finite outputs in {outputs.dtype}, got an overflow at t up to {np.max(np.asarray(t)):.4g}, "
                f"with lr * lambda_max = {top:.4g}. Steps diverge above 2 (1 + momentum): lower lr."
            )
        return outputs


def gradient_flow(
    k_train_train: ArrayLike, y_train: ArrayLike, *, lr: ArrayLike = 1.0, reduction: str = "sum", method: str = "auto"
) -> Dynamics | KrylovFlow:
    """Training in continuous time on 1/2 sum |f - y|^2 ("sum"), or that over n ("mean"), with a constant kernel.

    f_t(X) = y + exp(-lr K t) (f_0(X) - y)
    f_t(x) = f_0(x) + k(x, X) K^{-1} (1 - exp(-lr K t)) (y - f_0(X)),  with t/n in place of t for "mean"

    `k_train_train` is (n, n), the same kernel for every output, or (n, n, o, o), the full kernel of one finite network;
    `y_train` is (n,) or (n, o). A singular kernel is used as it is: directions without an eigenvalue do not learn, and
    t = inf is the pseudo-inverse limit, with a warning that says the rank.

    Beyond 5000 rows (`large.DENSE_LIMIT`) the result is a `KrylovFlow` with the same `train` and `test`, which takes
    products with the kernel in place of its eigendecomposition; `method` is "auto", "eigh" or "krylov".

    >>> flow = gradient_flow(k_train_train, y_train, lr=0.1)
    >>> flow.test(jnp.array([0.0, 10.0, jnp.inf]), k_test_train)

    Raises:
        TypeError, ValueError: for a kernel that is not square, symmetric and finite, targets of another length,
            a negative `lr`, or an unknown `reduction`.

    Jacot et al. 2018, section 5; Lee et al. 2019, section 2.2; derived in notebook 05.
    """
    checks.one_of(method, "method", ("auto", "eigh", "krylov"))
    is_large = checks.is_concrete(k_train_train, y_train, lr) and np.ndim(k_train_train) == 2
    if method == "krylov" or (method == "auto" and is_large and np.shape(k_train_train)[0] > DENSE_LIMIT):
        return krylov_flow(k_train_train, y_train, lr=lr, reduction=reduction)
    return _dynamics(k_train_train, y_train, lr, 0.0, reduction, "flow")


def gradient_descent(
    k_train_train: ArrayLike,
    y_train: ArrayLike,
    *,
    lr: ArrayLike,
    momentum: ArrayLike = 0.0,
    reduction: str = "sum",
) -> Dynamics:
    """Training in steps, t = 0, 1, 2, ...: exact for the linear model, also where flow and steps differ.

    f_{t+1} = f_t - lr K (f_t - y) + momentum (f_t - f_{t-1}),  f_{-1} = f_0   (heavy ball, as in optax and PyTorch)

    Otherwise as `gradient_flow`. Steps converge for lr * lambda_max < 2 (1 + momentum): see `max_learning_rate`.
    Derivatives with respect to t are 0.

    Raises:
        TypeError, ValueError: as `gradient_flow`; ValueError for a momentum outside [0, 1).

    Lee et al. 2019, section 2; Polyak 1964.
    """
    checks.momentum(momentum)
    return _dynamics(k_train_train, y_train, lr, momentum, reduction, "steps")


def _dynamics(k, y, lr, momentum, reduction, kind):
    checks.one_of(reduction, "reduction", ("sum", "mean"))
    checks.non_negative(lr, "lr")
    k, y, is_full = train_kernel(k, y)
    lr, momentum = (jnp.asarray(number).astype(y.dtype) for number in (lr, momentum))
    if lr.ndim or momentum.ndim:
        raise ValueError(f"Expected one lr and one momentum, got shapes {lr.shape} and {momentum.shape}. Use vmap?")
    lr = lr / y.shape[0] if reduction == "mean" else lr
    eigenvalues, modes = _eigenmodes(k)
    return Dynamics(k, eigenvalues, modes, y, lr, momentum, kind, is_full)


_eigenmodes = jax.jit(eigenmodes)


def max_learning_rate(k: ArrayLike, *, momentum: ArrayLike = 0.0, reduction: str = "sum") -> Float[Array, ""]:
    """The learning rate at which steps stop converging: 2 (1 + momentum)/lambda_max, times n for the mean loss.

    `k` is (n, n), or the full (n, n, o, o). Lee et al. 2019, section 2; with momentum, Polyak 1964.

    Raises:
        TypeError, ValueError: for a kernel that is not square, symmetric and finite, or words and numbers out of range.
    """
    checks.momentum(momentum)
    eigenvalues, n = _extremes(k, reduction)
    return 2 * (1 + jnp.asarray(momentum).astype(eigenvalues.dtype)) * n / eigenvalues[-1]


def critical_learning_rate(k: ArrayLike, *, reduction: str = "sum") -> Float[Array, ""]:
    """2/(lambda_min + lambda_max), times n for the mean loss: below it Theorem 2.1 of Lee et al. 2019 holds.

    It is also the step with the best worst rate over all modes. `k` is (n, n), or the full (n, n, o, o).
    """
    eigenvalues, n = _extremes(k, reduction)
    return 2 * n / (eigenvalues[0] + eigenvalues[-1])


def _extremes(k, reduction):
    checks.one_of(reduction, "reduction", ("sum", "mean"))
    n = jnp.shape(k)[0] if reduction == "mean" and jnp.ndim(k) else 1
    k, _ = flat_kernel(k, "k")
    return _eigenmodes(k)[0], n


# Evaluation: one compilation per shape, whatever t, lr, momentum and kernel are


def _clock(dynamics: Dynamics, t: Array) -> FlowClock | StepClock:
    lr, largest = dynamics.lr, jax.lax.stop_gradient(dynamics.eigenvalues[-1])
    if dynamics.kind == "steps":
        return StepClock(lr, dynamics.momentum, t, largest)
    return FlowClock(jnp.where(lr > 0, lr * jnp.where(lr > 0, t, 0), 0), largest)  # lr = 0 at t = inf: nothing moves


def over_times(which: str, dynamics: Dynamics, t: Array, v: Array) -> Array:
    """decay(K) v or gain(K) v for v of the shape of y (or (N, m)), with a leading axis if t has one."""
    columns = v.reshape(dynamics.k.shape[0], -1)

    def at(t):
        clock = _clock(dynamics, t)
        out = apply_mode_function(which, dynamics.k, dynamics.eigenvalues, dynamics.modes, clock, columns)
        return out.reshape(v.shape)

    return jax.vmap(at)(t) if t.ndim else at(t)


@jax.jit
def _residual(dynamics, t, f0):
    return over_times("decay", dynamics, t, f0 - dynamics.y)


@jax.jit
def _coefficients(dynamics, t, f0):
    return over_times("gain", dynamics, t, dynamics.y - f0)


@jax.jit
def _test(dynamics, t, k, f0, f0_test):
    alpha = _coefficients(dynamics, t, f0)
    at = lambda alpha: f0_test + apply_at(k, alpha, dynamics.is_full)
    return jax.vmap(at)(alpha) if t.ndim else at(alpha)
