"""Kernels and targets that fit each other: what every closed form checks before it starts.

A kernel is (n, n), shared by all outputs, or full, (n, n, o, o), which becomes a matrix of n * o rows. Targets, initial
outputs and predictions have one shape, (n,) or (n, o). gradient.py, losses.py and large.py use it.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .. import checks


def flat_kernel(k: Any, name: str) -> tuple[Array, bool]:
    """(kernel matrix, was it full): a full (n, n, o, o) becomes (n o, n o), example by example."""
    if jnp.ndim(k) != 4:
        return checks.as_kernel_matrix(k, name), False
    k = checks.as_array(k, name, ndim=4)
    n1, n2, o1, o2 = k.shape
    if o1 != o2:
        raise ValueError(f"Expected a full kernel of shape (n, n, o, o), got {k.shape}.")
    return checks.as_kernel_matrix(k.transpose(0, 2, 1, 3).reshape(n1 * o1, n2 * o2), name), True


def train_kernel(k: Any, y: Any) -> tuple[Array, Array, bool]:
    """Kernel and targets of one precision, checked against each other."""
    k, is_full = flat_kernel(k, "k_train_train")
    y = checks.as_array(y, "y_train", ndim=2 if is_full else (1, 2))
    if is_full and y.size != k.shape[0]:
        raise ValueError(f"Expected y_train with {k.shape[0]} entries for the full kernel, got shape {y.shape}.")
    if not is_full:
        checks.same_length(k.shape[0], y, "y_train")
    dtype = jnp.promote_types(k.dtype, y.dtype)
    return k.astype(dtype), y.astype(dtype), is_full


def kernel_at(k: Any, y: Array, is_full: bool) -> Array:
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


def warn_of_rank(rank: int, n: int) -> None:
    """The one sentence about a singular kernel."""
    warnings.warn(
        f"The kernel has rank {rank} of {n}: t = inf is the pseudo-inverse limit, and what the targets have outside "
        "of the kernel's range is never learned. Equal inputs, or a network without biases?",
        stacklevel=5,
    )


def apply_at(k: Array, alpha: Array, is_full: bool) -> Array:
    """k(x, X) alpha for coefficients of the shape of y: (m, *outputs)."""
    return jnp.einsum("mnpq,nq->mp", k, alpha) if is_full else k @ alpha


def outputs_elsewhere(dynamics: Any, t: Any, k_test_train: Any, f0_train: Any, f0_test: Any) -> Array:
    """f0(x) + k(x, X) alpha_t of dynamics that have `coefficients`, for one time or many; checked first."""
    y, is_full = dynamics.y, dynamics.is_full
    k = kernel_at(k_test_train, y, is_full).astype(y.dtype)
    f0_test = outputs_at(f0_test, (k.shape[0], *y.shape[1:]), y.dtype, "f0_test")
    alpha = dynamics.coefficients(t, f0_train)
    at = lambda alpha: f0_test + apply_at(k, alpha, is_full)
    return jax.vmap(at)(alpha) if alpha.ndim > y.ndim else at(alpha)
