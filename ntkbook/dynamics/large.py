"""Training in function space without an eigendecomposition, for kernels that are too large for one.

gain(K) (y - f0) is approximated in the Krylov space of products K v, by Lanczos with full reorthogonalization: for
t = inf this is conjugate gradients, for finite t it is exp(-t K) v. Work and memory are those of some hundred products.
The residual is known exactly at each step, shown in the progress bar, and kept with the result. `gradient_flow` comes
here by itself past `DENSE_LIMIT` rows.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from .spectrum import rank_tolerance
from .targets import outputs_at, outputs_elsewhere

DENSE_LIMIT = 5000  # rows; the eigendecomposition takes about half a minute there, on two cores


@dataclass(frozen=True)
class KrylovSolution:
    """Coefficients of the kernel, and how good they are."""

    coefficients: Any  # alpha (n,) or (n, o), after an axis (T,) if there were many times
    residual: float  # largest |r - K alpha - d alpha/ds| / |r| over times and outputs, r = y - f0, s = lr t
    iterations: int


@dataclass(frozen=True)
class KrylovFlow:
    """Gradient flow on a large kernel; t, f0 and shapes are as in `Dynamics`. See `krylov_flow`.

    Each call runs Lanczos once, for all its times together.
    """

    k: Any  # (N, N), or a function v -> K v for v (N, columns)
    y: Any
    lr: Any
    is_full: bool
    tolerance: float
    max_iterations: int
    progress: bool

    def solve(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> KrylovSolution:
        """alpha(t) with f_t(x) = f0(x) + k(x, X) alpha, its residual, and the number of products that it took.

        Warns:
            UserWarning: with the residual, if it is above `tolerance` after `max_iterations`.
        """
        checks.non_negative(t, "t")
        t = np.asarray(t, float)
        if t.ndim > 1:
            raise ValueError(f"Expected t to be a number or an array (T,), got shape {t.shape}.")
        r = self.y - outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")
        lr = float(self.lr)
        s = lr * np.atleast_1d(t) if lr > 0 else np.zeros(t.size)
        columns = jnp.reshape(r, (self._rows(), -1))
        alpha, residual, iterations = _lanczos_gain(self._times_kernel, columns, s, self)
        if residual > self.tolerance:
            warnings.warn(
                f"Lanczos stopped after {iterations} products with a relative residual of {residual:.2g}, above "
                f"{self.tolerance:.2g}. Raise max_iterations, or add noise to the kernel's diagonal.",
                stacklevel=3,
            )
        alpha = alpha.reshape(-1, *self.y.shape)
        return KrylovSolution(alpha if t.ndim else alpha[0], residual, iterations)

    def coefficients(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """`solve(t, f0_train).coefficients`."""
        return self.solve(t, f0_train).coefficients

    def train(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """The outputs at the training points: f0 + K alpha."""
        alpha = self.coefficients(t, f0_train)
        f0 = outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")
        many = alpha.reshape(-1, *self.y.shape)
        return f0 + jnp.stack([self._at_train(a) for a in many]).reshape(alpha.shape)

    def test(
        self, t: ArrayLike, k_test_train: ArrayLike, f0_train: ArrayLike = 0.0, f0_test: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """The outputs at other points: f0(x) + k(x, X) alpha, with `k_test_train` (m, n) or (m, n, o, o)."""
        return outputs_elsewhere(self, t, k_test_train, f0_train, f0_test)

    def _rows(self) -> int:
        return self.y.size if self.is_full else self.y.shape[0]

    def _at_train(self, alpha):
        return self._times_kernel(alpha.reshape(self._rows(), -1)).reshape(self.y.shape)

    def _times_kernel(self, v) -> Any:
        return self.k(v) if callable(self.k) else _product(self.k, v)


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

    Raises:
        TypeError, ValueError: as `gradient_flow`.

    Saad 1992 (the exponential); Hestenes and Stiefel 1952 (t = inf).
    """
    checks.one_of(reduction, "reduction", ("sum", "mean"))
    checks.one_of(progress, "progress", (True, False))
    checks.non_negative(lr, "lr")
    checks.positive_int(max_iterations, "max_iterations")
    if callable(k_train_train):
        k, y = k_train_train, checks.as_array(y_train, "y_train", ndim=(1, 2))
    else:
        k, y = _large_kernel(k_train_train, y_train)
    lr = float(jnp.asarray(lr)) / (y.shape[0] if reduction == "mean" else 1)
    tolerance = tolerance or (1e-8 if y.dtype == jnp.float64 else 1e-4)
    return KrylovFlow(k, y, lr, False, tolerance, max_iterations, progress)


def _large_kernel(k, y):
    """Checked like a small kernel, except that symmetry is looked at in 16 rows: a transposed copy may not fit."""
    k, y = checks.as_array(k, "k_train_train", ndim=2), checks.as_array(y, "y_train", ndim=(1, 2))
    if k.shape[0] != k.shape[1]:
        raise ValueError(f"Expected k_train_train to be square, got shape {k.shape}.")
    checks.same_length(k.shape[0], y, "y_train")
    rows = np.linspace(0, k.shape[0] - 1, 16).astype(int)
    across, down = np.asarray(k[rows]), np.asarray(k[:, rows]).T
    if np.abs(across - down).max() > 1e3 * np.finfo(across.dtype).eps * np.abs(across).max():
        raise ValueError("Expected k_train_train to be symmetric, got rows that differ from columns.")
    dtype = jnp.promote_types(k.dtype, y.dtype)
    return k.astype(dtype), y.astype(dtype)


@jax.jit
def _product(k, v):
    return k @ v


@partial(jax.jit, donate_argnums=0)
def _extend(basis, j, product):
    """Lanczos step j: the product without its part in the basis, normalized and appended; (basis, alpha, beta)."""
    alpha = (basis[j] * product).sum(axis=0)
    w = product
    for _ in range(2):  # twice is enough, whatever the rounding of the first time
        w = w - jnp.einsum("jnc,jc->nc", basis, jnp.einsum("jnc,nc->jc", basis, w))
    beta = jnp.linalg.norm(w, axis=0)
    scale = jnp.linalg.norm(product, axis=0)
    is_new = beta > 10 * float(jnp.finfo(w.dtype).eps) * scale  # otherwise the space is complete
    beta = jnp.where(is_new, beta, 0)
    return basis.at[j + 1].set(jnp.where(is_new, w / jnp.where(is_new, beta, 1), 0)), alpha, beta


def _lanczos_gain(times_kernel, r, s, options):
    """(gain_s(K) r for all s, (T, N, columns); the largest relative residual; the number of products)."""
    from tqdm.auto import tqdm

    norms = np.asarray(jnp.linalg.norm(r, axis=0), float)
    limit = min(options.max_iterations, r.shape[0])
    basis = jnp.zeros((min(32, limit) + 1, *r.shape), r.dtype)
    basis = basis.at[0].set(r / jnp.where(norms > 0, norms, 1).astype(r.dtype))
    alphas, betas = [], []
    with tqdm(total=limit, disable=not options.progress, desc="Lanczos") as bar:
        for j in range(limit):
            if j + 1 == len(basis):
                grown = min(2 * len(basis), limit + 1)
                basis = jnp.concatenate([basis, jnp.zeros((grown - len(basis), *r.shape), r.dtype)])
            basis, alpha, beta = _extend(basis, j, times_kernel(basis[j]))
            alphas.append(np.asarray(alpha, float))
            betas.append(np.asarray(beta, float))
            bar.update()
            if j % 5 == 4 or j + 1 == limit or not betas[-1].any():
                weights, residual = _small_gain(np.array(alphas), np.array(betas), s, r.dtype)
                bar.set_postfix(residual=f"{residual:.1e}")
                if residual <= options.tolerance:
                    break
    weights = jnp.asarray(weights * norms).astype(r.dtype)  # (T, j, columns)
    return jnp.einsum("tjc,jnc->tnc", weights, basis[: weights.shape[1]]), float(residual), len(alphas)


def _small_gain(alphas, betas, s, dtype):
    """gain_s(T) e_1 for the tridiagonal T of each column, (T, j, columns), and beta |its last entry|, the residual.

    For r of norm one, alpha = V y with y' = e_1 - T y leaves r - K alpha - alpha' = -beta v (last entry of y). It is
    looked at on the way to s too, as the error at s is made of it.
    """
    size, columns = alphas.shape
    out, worst = np.zeros((len(s), size, columns)), 0.0
    for c in range(columns):
        T = np.diag(alphas[:, c]) + np.diag(betas[:-1, c], 1) + np.diag(betas[:-1, c], -1)
        theta, Q = np.linalg.eigh(T)
        theta = np.where(theta <= float(rank_tolerance(jnp.asarray(theta[-1]).astype(dtype), size)), 0, theta)
        for fraction in (0.1, 0.3, 1.0):
            gain = np.stack([_gain(theta, fraction * one) for one in s])  # (T, j)
            y = np.einsum("ij,tj->ti", Q, gain * Q[0])
            worst = max(worst, float(np.abs(y[:, -1]).max()) * betas[-1, c])
        out[:, :, c] = y
    return out, worst


def _gain(theta, s):
    """The gain of `FlowClock` for a few eigenvalues, at the precision of the host."""
    if np.isinf(s):
        return np.where(theta > 0, 1 / np.where(theta > 0, theta, 1), 0)
    x = s * theta
    return np.where(x > 0, -np.expm1(-x) / np.where(theta > 0, theta, 1), s)
