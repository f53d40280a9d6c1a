"""The eigenvectors of a kernel matrix, and what of its eigenvalues is rounding: what all of training is diagonal in."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..checks import warn


def rank_tolerance(largest: Array, n: int) -> Array:
    """Eigenvalues up to here are rounding: max(n, 20) * eps * lambda_max, as in numpy's `matrix_rank`."""
    return max(n, 20) * float(jnp.finfo(largest.dtype).eps) * largest


@jax.jit
def eigenmodes(k: Float[Array, "n n"], size: Any = None) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    """(lambda, Q) with K = Q diag(lambda) Q^T, largest first; what is rounding, negative or not, is exactly 0.

    All eigenvalues are NaN if one of them is more negative than rounding can make it, which is sqrt(eps) of `size`, by
    default of the largest: a kink of an activation turns an error e of an angle into sqrt(e).
    """
    eigenvalues, modes = jnp.linalg.eigh((k + k.T) / 2, symmetrize_input=False)
    return _without_rounding(eigenvalues[::-1], size), modes[:, ::-1]


def _without_rounding(eigenvalues, size=None):
    size = jnp.abs(eigenvalues).max() if size is None else size
    is_rounding = eigenvalues <= rank_tolerance(eigenvalues[0], len(eigenvalues))
    is_indefinite = eigenvalues[-1] < -(float(jnp.finfo(eigenvalues.dtype).eps) ** 0.5) * size
    return jnp.where(is_indefinite, jnp.nan, jnp.where(is_rounding, 0, eigenvalues))


def one_precision(*arrays: Array) -> list[Array]:
    """The arrays in the one precision that holds them all."""
    dtype = functools.reduce(jnp.promote_types, [array.dtype for array in arrays])
    return [array.astype(dtype) for array in arrays]


def refuse_indefinite(eigenvalues: Array, name: str) -> None:
    """Raises ValueError for the NaN that `eigenmodes` makes of a kernel with negative eigenvalues."""
    if checks.is_concrete(eigenvalues) and np.isnan(np.asarray(eigenvalues)).any():
        raise ValueError(
            f"Expected {name} to be positive semi-definite, as every kernel is, got a negative eigenvalue. "
            "A difference of kernels, or a matrix of similarities? Training on it would diverge."
        )


def warn_of_rank(rank: int, n: int) -> None:
    """The one sentence about a kernel of `n` rows that is singular, if it is."""
    if rank < n:
        warn(
            f"The kernel has rank {rank} of {n}: t = inf is the pseudo-inverse limit, and what the targets have "
            "outside of the kernel's range is never learned. Equal inputs, or a network without biases?"
        )


def unit_of(k: Array) -> Array:
    """A power of two at the size of the kernel, its largest sum over a row: from 1/2 of lambda_max upwards.

    Dividing by it rounds nothing, and then squares of entries neither overflow nor vanish.
    """
    size = jax.lax.stop_gradient(jnp.abs(k).sum(axis=1).max())
    size = jnp.where(size > 0, size, 1)
    return size / jnp.frexp(size)[0]


def eigenvalues_of(k: ArrayLike, name: str = "k") -> Float[Array, "n"]:
    """The eigenvalues alone, largest first, rounding ones 0. Raises as `spectrum`."""
    found = eigenvalues(checks.as_kernel_matrix(k, name))
    refuse_indefinite(found, name)
    return found


@jax.jit
def eigenvalues(k: Float[Array, "n n"]) -> Float[Array, "n"]:
    """Those of `eigenmodes`, without the modes."""
    return _without_rounding(jnp.linalg.eigvalsh((k + k.T) / 2, symmetrize_input=False)[::-1])
