"""Training in function space without an eigendecomposition, for kernels that are too large for one.

gain(K) (y - f0) is approximated in the Krylov space of products K v, by Lanczos with full reorthogonalization: for
t = inf this is conjugate gradients without their loss of orthogonality, for finite t it is exp(-t K) v. Work and memory
are those of some hundred products. `gradient_flow` comes here by itself past `DENSE_LIMIT` rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .. import checks
from ..checks import warn
from ..pytrees import one_line
from .extremes import lanczos_step
from .modes import one_precision, rank_tolerance, refuse_indefinite
from .protocol import Training, checked_times, outputs_at, rate_of, tolerance_of


@dataclass(frozen=True)
class KrylovSolution:
    """Coefficients of the kernel, and how good they are."""

    coefficients: Any  # alpha (n,) or (n, o), after an axis (T,) if there were many times
    residual: float  # largest |r - K alpha - d alpha/ds| / |r| over times and outputs, r = y - f0, s = lr t
    iterations: int

    __repr__ = one_line  # pyright: ignore


@dataclass(frozen=True)
class KrylovFlow(Training):
    """Gradient flow on a large kernel; its methods are those of `Training`. See `krylov_flow`.

    Each call runs Lanczos once, for all its times together.
    """

    k: Any  # (N, N), or a function v -> K v for v (N, columns)
    y: Any
    lr: Any
    tolerance: float
    max_iterations: int
    progress: bool
    is_full = False

    __repr__ = one_line  # pyright: ignore

    def _times(self, t):
        return np.asarray(checked_times(t), float)  # on the host, in full precision

    def _solve(self, t, f0):
        return self.solve(t, f0).coefficients

    def towards(self, y: Any) -> "KrylovFlow":
        """The same flow to other targets, (n,) or (n, o)."""
        return replace(self, y=y)

    def solve(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> KrylovSolution:
        """alpha(t) with f_t(x) = f0(x) + k(x, X) alpha, its residual, and the number of products that it took.

        The residual is that of the answer, by one more product for each time.

        Warns:
            UserWarning: with the residual, if it is above `tolerance` after `max_iterations`.
        """
        t = self._times(t)
        r = self.y - outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")
        s = self.lr * np.where(self.lr > 0, np.atleast_1d(t), 0)
        alpha, residual, iterations = _lanczos_gain(self, r.reshape(len(r), -1), s)
        if residual > self.tolerance:
            warn(
                f"Lanczos stopped after {iterations} products with a relative residual of {residual:.2g}, above "
                f"{self.tolerance:.2g}. Raise max_iterations, or add noise to the kernel's diagonal."
            )
        return KrylovSolution(alpha.reshape(*t.shape, *self.y.shape), residual, iterations)


def krylov_flow(
    k_train_train: ArrayLike | Callable,
    y_train: ArrayLike,
    *,
    lr: ArrayLike = 1.0,
    reduction: str = "sum",
    tolerance: float | None = None,
    max_iterations: int = 500,
    progress: bool = True,
) -> KrylovFlow:
    """`gradient_flow` for large kernels, by Lanczos: the same predictions to a relative residual of `tolerance`.

    `k_train_train` is (n, n), or a function v -> K v of arrays (n, columns), for kernels that fit in no memory. The
    basis takes up to `max_iterations` arrays of the size of y. The tolerance is 1e-8 by default, 1e-4 in float32. On a
    singular kernel t = inf is the pseudo-inverse limit; what y has outside of its range is not counted as a residual.

    Not for use inside `jit`: the number of products depends on the data.

    >>> flow = krylov_flow(lambda v: 2 * v, jnp.ones(3), progress=False)
    >>> flow.train(jnp.inf).round(6)
    Array([1., 1., 1.], dtype=...)

    Raises:
        TypeError, ValueError: as `gradient_flow`; an indefinite kernel is told when a solution meets it.

    Saad 1992 (the exponential); Hestenes and Stiefel 1952 (t = inf).
    """
    checks.one_of(progress, "progress", (True, False))
    checks.positive_int(max_iterations, "max_iterations")
    if callable(k_train_train):
        k, y = k_train_train, checks.as_array(y_train, "y_train", ndim=(1, 2))
    else:
        k, y = checks.as_array(k_train_train, "k_train_train", ndim=2), checks.as_array(y_train, "y_train", ndim=(1, 2))
        _looks_symmetric(k)
        checks.same_length(k.shape[0], y, "y_train")
        k, y = one_precision(k, y)
    if tolerance is None and y.dtype == jnp.float32:
        tolerance = 1e-4
    lr = float(rate_of(lr, reduction, y.astype(float)))
    return KrylovFlow(k, y, lr, tolerance_of(tolerance, y.dtype), max_iterations, progress)


def _looks_symmetric(k):
    """Like the check of a small kernel, but of 16 rows: a transposed copy may not fit."""
    if k.shape[0] != k.shape[1]:
        raise ValueError(f"Expected k_train_train to be square, got shape {k.shape}.")
    rows = np.linspace(0, k.shape[0] - 1, 16).astype(int)
    across, down = np.asarray(k[rows]), np.asarray(k[:, rows]).T
    if np.abs(across - down).max() > 1e3 * np.finfo(across.dtype).eps * np.abs(across).max():
        raise ValueError("Expected k_train_train to be symmetric, got rows that differ from columns.")


@partial(jax.jit, donate_argnums=0)
def _extend(basis, j, product, scale):
    """Lanczos step j for each column: (basis, (columns, steps, N), alpha, beta) from the product (N, columns)."""
    return jax.vmap(lanczos_step, (0, None, 1))(basis, j, product / scale)


def _lanczos_gain(flow, r, s):
    """(gain_s(K) r for all s, (T, N, columns); the largest relative residual; the number of products).

    In units of the kernel's first product and of each column of r, so that no square overflows or vanishes.
    """
    from tqdm.auto import tqdm

    at = flow.k if callable(flow.k) else lambda v: flow.k @ v
    size = jnp.abs(r).max(axis=0)
    lengths = size * jnp.linalg.norm(r / jnp.where(size > 0, size, 1), axis=0)
    r = r / jnp.where(lengths > 0, lengths, 1)
    limit = min(flow.max_iterations, len(r))
    room = lambda rows: jnp.zeros((r.shape[1], rows, r.shape[0]), r.dtype)
    basis = room(min(32, limit) + 1).at[:, 0].set(r.T)
    alphas, betas, scale = [], [], 0.0
    with tqdm(total=limit, disable=not flow.progress, desc="Lanczos") as bar:
        for j in range(limit):
            if j + 1 == basis.shape[1]:
                basis = jnp.concatenate([basis, room(min(j + 1, limit - j))], axis=1)
            product = at(basis[:, j].T)
            scale = scale or float(np.abs(product).max()) or 1.0
            basis, alpha, beta = _extend(basis, j, product, scale)
            alphas.append(np.asarray(alpha, float))
            betas.append(np.asarray(beta, float))
            bar.update()
            if j % 5 == 4 or j + 1 == limit or not betas[-1].any():
                gains, decays, residual = _small_gain(np.array(alphas), np.array(betas), s * scale, r.dtype)
                bar.set_postfix(residual=f"{residual:.1e}")
                if residual <= flow.tolerance:
                    break
    combine = lambda weights: jnp.einsum("tjc,cjn->tnc", jnp.asarray(weights, r.dtype), basis[:, : len(alphas)])
    alpha, rest = combine(gains), combine(decays)
    moved = jnp.stack([at(a) / scale for a in alpha])  # pyright: ignore
    gaps = jnp.linalg.norm(r - moved - rest, axis=1)
    return alpha * (lengths / scale), float(gaps.max()), len(alphas)


def _small_gain(alphas, betas, s, dtype):
    """gain_s(T) e_1 and decay_s(T) e_1 for the tridiagonal T of each column, (T, j, columns), and the residual.

    For r of norm one, alpha = V y with y' = e_1 - T y leaves r - K alpha - alpha' = -beta v (last entry of y). It is
    looked at on the way to s too, as the error at s is made of it.
    """
    T = np.stack([np.diag(a) + np.diag(b[:-1], 1) + np.diag(b[:-1], -1) for a, b in zip(alphas.T, betas.T)])
    theta, Q = np.linalg.eigh(T)  # (columns, j), (columns, j, j)
    if (theta[:, 0] < -(float(jnp.finfo(dtype).eps) ** 0.5) * theta[:, -1]).any():
        refuse_indefinite(jnp.array(jnp.nan), "k_train_train")
    theta = np.where(theta <= np.asarray(rank_tolerance(jnp.asarray(theta[:, -1:], dtype), theta.shape[1])), 0, theta)
    at = lambda s: [np.einsum("cij,tcj->tic", Q, part * Q[:, 0]) for part in _gain_and_decay(theta, s[:, None, None])]
    on_the_way = [at(fraction * s) for fraction in (0.1, 0.3, 1.0)]
    worst = max(float((np.abs(gains[:, -1]) * betas[-1]).max()) for gains, _ in on_the_way)
    return *on_the_way[-1], worst


def _gain_and_decay(theta, s):
    """Those of `FlowClock` for a few eigenvalues, at the precision of the host."""
    is_over = np.isinf(s)
    s = np.where(is_over, 0, s)
    moved = np.where(is_over, 1, -np.expm1(-s * theta))
    gain = np.where(theta > 0, moved / np.where(theta > 0, theta, 1), s)
    return gain, np.where(is_over, theta == 0, np.exp(-s * theta))
