"""The ends of a kernel's spectrum, and the learning rates that they allow.

The largest eigenvalue alone is found by Lanczos, in a fraction of the time that all take. large.py uses the same step.
Notebooks 05 and 08 use the rates.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from .modes import eigenvalues, eigenvalues_of, rank_tolerance, refuse_indefinite, unit_of
from .protocol import flat_kernel, one_number


def max_learning_rate(k: ArrayLike, *, momentum: ArrayLike = 0.0, reduction: str = "sum") -> Float[Array, ""]:
    """The learning rate at which steps stop converging: 2 (1 + momentum)/lambda_max, times n for the mean loss.

    `k` is (n, n), or the full (n, n, o, o). Lee et al. 2019, section 2; with momentum, Polyak 1964.

    >>> import jax.numpy as jnp
    >>> float(max_learning_rate(4 * jnp.eye(3)))
    0.5

    Raises:
        TypeError, ValueError: as `gradient_flow`, or for words and numbers out of range.
    """
    checks.momentum(momentum)
    k, n = _kernel_and_count(k, reduction)
    return 2 * (1 + one_number(momentum, "momentum", k.dtype)) * n / largest_eigenvalue(k)


def critical_learning_rate(k: ArrayLike, *, reduction: str = "sum") -> Float[Array, ""]:
    """2/(lambda_min + lambda_max), times n for the mean loss: below it Theorem 2.1 of Lee et al. 2019 holds.

    It is also the step with the best worst rate over all modes. `k` is (n, n), or the full (n, n, o, o).

    >>> import jax.numpy as jnp
    >>> float(critical_learning_rate(jnp.diag(jnp.array([1.0, 3.0]))))
    0.5
    """
    k, n = _kernel_and_count(k, reduction)
    found = eigenvalues_of(k)
    return 2 * n / (found[0] + found[-1])


def _kernel_and_count(k, reduction):
    checks.one_of(reduction, "reduction", ("sum", "mean"))
    n = jnp.shape(k)[0] if reduction == "mean" and jnp.ndim(k) else 1
    return flat_kernel(k, "k")[0], n


def largest_eigenvalue(k: Float[Array, "n n"]) -> Float[Array, ""]:
    """The largest eigenvalue of a kernel matrix, without the others. Raises ValueError for an indefinite one."""
    largest = _largest(k)
    refuse_indefinite(largest, "k")
    return largest


_DIRECT, _CHUNK, _CHUNKS = 256, 8, 24  # rows up to which all eigenvalues are as fast; steps between looks, looks


@jax.custom_jvp
@jax.jit
def _largest(k):
    """By Lanczos, and by all eigenvalues where what it found is not proved to be the largest, or none negative.

    The proofs are Cholesky factors, of K and of lambda - K, shifted by rounding: only positive ones have them. The
    second is spared where one eigenvalue stands out. One is within the residual r of what was found; as the squares of
    all are the sum of squares of the entries, c bounds the others, and then it is off by r^2 / (lambda - c) at most.
    """
    n, by_all = len(k), lambda: eigenvalues(k)[0]
    if n <= _DIRECT:
        return by_all()
    unit = unit_of(k)
    scaled, eye = k / unit, jnp.eye(n, dtype=k.dtype)
    largest, residual = _lanczos(scaled)
    tolerance = rank_tolerance(largest, n)
    others = jnp.sqrt(jnp.maximum(jnp.square(scaled).sum() - jnp.square(largest - residual), 0))
    stands_out = (others < largest - residual) & (jnp.square(residual) < tolerance * (largest - others))
    is_positive = lambda m: jnp.isfinite(jax.lax.linalg.cholesky(m, symmetrize_input=False)[-1, -1])
    by_factor = lambda: is_positive((largest + tolerance) * eye - scaled)
    is_bound = lambda: jax.lax.cond(stands_out, lambda: True, by_factor)
    is_psd = is_positive(scaled + float(jnp.finfo(k.dtype).eps) ** 0.5 * eye)
    return jax.lax.cond(jax.lax.cond(is_psd, is_bound, lambda: False), lambda: largest * unit, by_all)


@_largest.defjvp
def _(primals, tangents):
    return _largest(*primals), jax.jvp(eigenvalues, primals, tangents)[1][0]


def _lanczos(k):
    """(largest eigenvalue in a Krylov space that grows until it stands still, residual): Lanczos 1950."""
    n, steps, eps = len(k), _CHUNK * _CHUNKS, float(jnp.finfo(k.dtype).eps)

    def step(i, carry):
        basis, diagonal, beside = carry
        basis, alpha, beta = lanczos_step(basis, i, k @ basis[i])
        return basis, diagonal.at[i].set(alpha), beside.at[i].set(beta)

    def chunk(state):
        i, carry, largest, _ = state
        carry = jax.lax.fori_loop(i, i + _CHUNK, step, carry)
        return i + _CHUNK, carry, jnp.linalg.eigvalsh(tridiagonal(carry))[-1], largest

    def tridiagonal(carry):
        beside = carry[2][:-1]
        return jnp.diag(carry[1]) + jnp.diag(beside, 1) + jnp.diag(beside, -1)

    start = jax.random.normal(jax.random.key(0), (n,), k.dtype)
    zeros = jnp.zeros(steps, k.dtype)
    carry = jnp.zeros((steps + 1, n), k.dtype).at[0].set(start / jnp.linalg.norm(start)), zeros, zeros
    goes_on = lambda state: (state[0] < steps) & (state[2] - state[3] > n * eps * state[2] / 10)
    _, carry, largest, _ = jax.lax.while_loop(goes_on, chunk, chunk((0, carry, zeros[0], zeros[0])))
    v = jnp.linalg.eigh(tridiagonal(carry))[1][:, -1] @ carry[0][:-1]
    return largest, jnp.linalg.norm(k @ v - largest * v) / jnp.linalg.norm(v)


def lanczos_step(basis: Array, j: Any, product: Array) -> tuple[Array, Array, Array]:
    """(basis with a row j + 1, and the entries of the tridiagonal K in it: alpha on its diagonal, beta beside).

    `basis` is (steps + 1, n), orthonormal up to row j and 0 beyond; `product` is K times row j. What the product has
    besides its part in the basis is the new row; once there is nothing, beta is 0: the space is complete.
    """
    alpha, w = basis[j] @ product, product
    for _ in range(2):  # orthogonal to all before it, and once more for what cancelled
        w = w - (basis @ w) @ basis
    beta = jnp.linalg.norm(w)
    is_new = beta > 10 * float(jnp.finfo(w.dtype).eps) * jnp.linalg.norm(product)
    beta = jnp.where(is_new, beta, 0)
    return basis.at[j + 1].set(jnp.where(is_new, w / jnp.where(is_new, beta, 1), 0)), alpha, beta
