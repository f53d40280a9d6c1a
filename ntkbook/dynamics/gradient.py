"""Closed-form training in function space: what every output is at time t, from the kernel alone.

A network whose kernel stays put trains as a linear model: its outputs follow f' = -lr K (f - y), and the answer at any
time is a function of the kernel matrix. One eigendecomposition is made at construction; then any t, arrays of t and
t = inf cost a few products. Takes plain matrices: an infinite-width kernel, an empirical one, or your own. Other losses
are in losses.py, large matrices in large.py. Notebooks 05 to 08 use it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from .. import checks
from ..pytrees import pytree, static
from .filters import FlowClock, apply_mode_function
from .modes import eigenmodes, refuse_indefinite, unit_of, warn_of_rank
from .protocol import Training, one_number, rate_of, train_kernel

DENSE_LIMIT = 5000  # rows; the eigendecomposition takes about half a minute there, on two cores


@pytree
class Dynamics(Training):
    """A kernel, its modes and targets: the training of the linear model; its methods are those of `Training`.

    The kernel is kept in units of `scale`, a power of two: then no product of it, of times and of rates can overflow.
    """

    unit_k: Any  # (N, N) with N = n, or n * o for a full kernel: K / scale
    unit_eigenvalues: Any  # (N,) largest first, rounding ones exactly 0
    modes: Any  # (N, N)
    scale: Any
    y: Any  # (n,) or (n, o)
    lr: Any  # in the units of the summed loss
    momentum: Any
    clock: Any = static(default=FlowClock)  # what t counts
    is_full: bool = static(default=False)

    @property
    def k(self) -> Array:
        """The kernel matrix, (N, N)."""
        return self.unit_k * self.scale

    @property
    def eigenvalues(self) -> Array:
        """(N,), largest first; rounding ones are 0."""
        return self.unit_eigenvalues * self.scale

    @property
    def rank(self) -> Array:
        """The number of eigenvalues that are not rounding."""
        return jnp.sum(self.unit_eigenvalues > 0)

    def towards(self, y: Array) -> "Dynamics":
        """The same kernel with other targets, (n,) or (n, o): its eigendecomposition is kept."""
        return dataclasses.replace(self, y=y)

    @jax.jit
    def _residual(self, t, f0):
        return over_times("decay", self, t, f0 - self.y)  # K alpha would cost digits

    @jax.jit
    def _solve(self, t, f0):
        return over_times("gain", self, t, self.y - f0) / self.scale

    def _times(self, t):
        t = super()._times(t)
        if checks.is_concrete(t):
            has_end = np.isinf(np.asarray(t)).any() and checks.is_concrete(self)
            self.clock.check(t, self if has_end else None)
            if has_end:  # there the answer may not be a whole one
                warn_of_rank(int((np.asarray(self.unit_eigenvalues) > 0).sum()), len(self.unit_eigenvalues))
        return t


def gradient_flow(
    k_train_train: ArrayLike, y_train: ArrayLike, *, lr: ArrayLike = 1.0, reduction: str = "sum", method: str = "auto"
) -> Training:
    """Training in continuous time on 1/2 sum |f - y|^2 ("sum"), or that over n ("mean"), with a constant kernel.

    f_t(X) = y + exp(-lr K t) (f_0(X) - y)
    f_t(x) = f_0(x) + k(x, X) K^{-1} (1 - exp(-lr K t)) (y - f_0(X)),  with t/n in place of t for "mean"

    `k_train_train` is (n, n), the same kernel for every output, or (n, n, o, o), the full kernel of one finite network;
    `y_train` is (n,) or (n, o). A singular kernel is used as it is: directions without an eigenvalue do not learn, and
    t = inf is the pseudo-inverse limit, with a warning that says the rank.

    Beyond 5000 rows (`DENSE_LIMIT`) the result is a `KrylovFlow` with the same methods, which takes products with
    the kernel in place of its eigendecomposition; `method` is "auto", "eigh" or "krylov".

    >>> import jax.numpy as jnp
    >>> flow = gradient_flow(jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0]), lr=0.1)
    >>> flow.test(jnp.array([0.0, 10.0, jnp.inf]), jnp.array([[1.0, 0.5]])).round(3)
    Array([[0.   ],
           [0.393],
           [1.   ]], dtype=...)

    Raises:
        TypeError, ValueError: for a kernel that is not square, symmetric, positive semi-definite and finite, targets of
            another length, a negative `lr`, or an unknown `reduction`.

    Jacot et al. 2018, section 5; Lee et al. 2019, section 2.2; derived in notebook 05.
    """
    checks.one_of(method, "method", ("auto", "eigh", "krylov"))
    if method == "krylov" or (method == "auto" and is_large(k_train_train, y_train, lr)):
        from .large import krylov_flow

        return krylov_flow(k_train_train, y_train, lr=lr, reduction=reduction)
    return dynamics_of(k_train_train, y_train, lr, 0.0, reduction, FlowClock)


def is_large(k: Any, *others: Any) -> bool:
    """Is this kernel matrix beyond `DENSE_LIMIT`, and known now?"""
    return getattr(k, "ndim", 0) == 2 and len(k) > DENSE_LIMIT and checks.is_concrete(k, *others)


def dynamics_of(k: Any, y: Any, lr: Any, momentum: Any, reduction: str, clock: Any) -> Dynamics:
    """The training of a kernel matrix, from checked arguments; see `gradient_flow`."""
    k, y, is_full = train_kernel(k, y)
    lr, momentum = rate_of(lr, reduction, y), one_number(momentum, "momentum", y.dtype)
    k, eigenvalues, modes, scale = _scaled_modes(k)
    refuse_indefinite(eigenvalues, "k_train_train")
    return Dynamics(k, eigenvalues, modes, scale, y, lr, momentum, clock, is_full)


@jax.jit
def _scaled_modes(k):
    scale = unit_of(k)
    return k / scale, *eigenmodes(k / scale), scale


# Evaluation: one compilation per shape, whatever t, lr, momentum and kernel are


def clock_at(dynamics: Dynamics, t: Array) -> Any:
    """The clock of one time, in the units of the scaled kernel."""
    largest = jax.lax.stop_gradient(dynamics.unit_eigenvalues[0])
    return dynamics.clock.at(dynamics.lr * dynamics.scale, dynamics.momentum, t, largest)


def over_times(h: str, dynamics: Dynamics, t: Array, v: Array) -> Array:
    """h(K) v, with h "decay" or "gain", v of the shape of y (or (N, m)), and an axis in front if t has one.

    The gain is that of K / scale: in the units of K it is this over `scale`.
    """
    columns = v.reshape(dynamics.unit_k.shape[0], -1)

    def at(t):
        clock = clock_at(dynamics, t)
        out = apply_mode_function(h, dynamics.unit_k, dynamics.unit_eigenvalues, dynamics.modes, clock, columns)
        return out.reshape(v.shape)

    return jax.vmap(at)(t) if t.ndim else at(t)
