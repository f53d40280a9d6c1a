"""The eigenmodes of a kernel: what a network learns, in which order, and how fast.

Training with squared loss is diagonal in the eigenvectors of the kernel: mode i decays at the rate lr * lambda_i. This
room turns kernels into modes, time constants, principal components and measures of similarity; it takes plain matrices
and knows no networks. Notebooks 05 and 07 use it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from .. import checks
from ..checks import warn
from ..numerics import reciprocal
from ..pytrees import pytree


def rank_tolerance(largest: Array, n: int) -> Array:
    """Eigenvalues up to here are rounding: max(n, 20) * eps * lambda_max, as in numpy's `matrix_rank`."""
    return max(n, 20) * float(jnp.finfo(largest.dtype).eps) * largest


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


@pytree
class Spectrum:
    """The modes of a kernel matrix, largest eigenvalue first; see `spectrum`."""

    eigenvalues: Any  # (n,)
    modes: Any  # (n, n), one orthonormal column per mode
    coefficients: Any = None  # (n,) or (n, o): the target in the modes, Q^T y

    @property
    def rank(self) -> Int[Array, ""]:
        """The number of eigenvalues that are not rounding."""
        return jnp.sum(self.eigenvalues > 0)

    @property
    def power(self) -> Float[Array, "n"]:
        """The share of |y|^2 in each mode."""
        if self.coefficients is None:
            raise ValueError("Expected a spectrum with a target, got one without. Use spectrum(k, y).")
        squares = jnp.square(self.coefficients.reshape(len(self.coefficients), -1)).sum(axis=1)
        return squares * reciprocal(squares.sum())

    def time_constants(self, lr: ArrayLike = 1.0, *, reduction: str = "sum") -> Float[Array, "n"]:
        """The time in which each mode decays by a factor e: 1/(lr lambda), or n/(lr lambda) for the mean loss.

        A mode with eigenvalue 0 never decays: inf.
        """
        checks.one_of(reduction, "reduction", ("sum", "mean"))
        checks.many_numbers(lr, "lr", low=0.0)
        checks.broadcasting(lr=lr, eigenvalues=self.eigenvalues)
        n = 1 if reduction == "sum" else len(self.eigenvalues)
        return n / (jnp.asarray(lr).astype(self.eigenvalues.dtype) * self.eigenvalues)


def spectrum(k: ArrayLike, y: ArrayLike | None = None) -> Spectrum:
    """Eigenvalues and modes of a kernel matrix, and the target in them.

    K = Q diag(lambda) Q^T,  coefficients = Q^T y

    `k` is (n, n); `y` is (n,) or (n, o). Eigenvalues that are rounding (see `rank_tolerance`) are 0.

    >>> spectrum(jnp.diag(jnp.array([1.0, 4.0])), jnp.array([1.0, 1.0])).power
    Array([0.5, 0.5], dtype=...)

    Raises:
        TypeError, ValueError: for a kernel that is not square, symmetric and finite, or a target of another length.

    Jacot et al. 2018, section 5.
    """
    k = checks.as_kernel_matrix(k, "k")
    if y is not None:
        y = checks.as_array(y, "y", ndim=(1, 2))
        checks.same_length(k.shape[0], y, "y")
        dtype = jnp.promote_types(k.dtype, y.dtype)
        k, y = k.astype(dtype), y.astype(dtype)
    found = _spectrum(k, y)
    refuse_indefinite(found.eigenvalues, "k")
    return found


@jax.jit
def _spectrum(k, y):
    eigenvalues, modes = eigenmodes(k)
    return Spectrum(eigenvalues, modes, None if y is None else modes.T @ y)


def eigenvalues_of(k: ArrayLike, name: str = "k") -> Float[Array, "n"]:
    """The eigenvalues alone, largest first, rounding ones 0. Raises as `spectrum`."""
    eigenvalues = _eigenvalues(checks.as_kernel_matrix(k, name))
    refuse_indefinite(eigenvalues, name)
    return eigenvalues


@jax.jit
def _eigenvalues(k):
    return _without_rounding(jnp.linalg.eigvalsh((k + k.T) / 2, symmetrize_input=False)[::-1])


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
    n, by_all = len(k), lambda: _eigenvalues(k)[0]
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
    return _largest(*primals), jax.jvp(_eigenvalues, primals, tangents)[1][0]


def _lanczos(k):
    """(largest eigenvalue in a Krylov space that grows until it stands still, residual): Lanczos 1950."""
    n, steps, eps = len(k), _CHUNK * _CHUNKS, float(jnp.finfo(k.dtype).eps)

    def step(i, carry):
        basis, next_one, diagonal, beside = carry  # (steps, n) rows of the basis; the tridiagonal K in it
        basis = basis.at[i].set(next_one)
        w = k @ next_one
        diagonal = diagonal.at[i].set(next_one @ w)
        for _ in range(2):  # orthogonal to all before it, and once more for what cancelled
            w = w - (basis @ w) @ basis
        length = jnp.linalg.norm(w)
        is_new = length > n * eps * jnp.abs(diagonal).max()  # if not, the space is whole: nothing follows
        next_one = jnp.where(is_new, w / jnp.where(is_new, length, 1), 0)
        return basis, next_one, diagonal, beside.at[i].set(jnp.where(is_new, length, 0))

    def chunk(state):
        i, carry, largest, _ = state
        carry = jax.lax.fori_loop(i, i + _CHUNK, step, carry)
        return i + _CHUNK, carry, jnp.linalg.eigvalsh(tridiagonal(carry))[-1], largest

    def tridiagonal(carry):
        beside = carry[3][:-1]
        return jnp.diag(carry[2]) + jnp.diag(beside, 1) + jnp.diag(beside, -1)

    start = jax.random.normal(jax.random.key(0), (n,), k.dtype)
    zeros = jnp.zeros(steps, k.dtype)
    carry = jnp.zeros((steps, n), k.dtype), start / jnp.linalg.norm(start), zeros, zeros
    goes_on = lambda state: (state[0] < steps) & (state[2] - state[3] > n * eps * state[2] / 10)
    _, carry, largest, _ = jax.lax.while_loop(goes_on, chunk, chunk((0, carry, zeros[0], zeros[0])))
    v = jnp.linalg.eigh(tridiagonal(carry))[1][:, -1] @ carry[0]
    return largest, jnp.linalg.norm(k @ v - largest * v) / jnp.linalg.norm(v)


def effective_rank(k: ArrayLike, *, kind: str = "entropy") -> Float[Array, ""]:
    """How many modes matter, a number between 1 and n, from the shares p = lambda / trace.

    "entropy": exp(-sum p log p) (Roy and Vetterli 2007); "participation": 1 / sum p^2. Both are n for the identity.

    >>> float(effective_rank(jnp.eye(4), kind="participation"))
    4.0

    Raises:
        TypeError, ValueError: as `spectrum`; ValueError for a kernel that is zero, which has no shares.
    """
    checks.one_of(kind, "kind", ("entropy", "participation"))
    eigenvalues = eigenvalues_of(k)
    _not_zero(eigenvalues[0], "k")
    p = eigenvalues / eigenvalues.sum()
    if kind == "participation":
        return 1 / jnp.square(p).sum()
    return jnp.exp(-(p * jnp.log(jnp.where(p > 0, p, 1))).sum())


def condition_number(k: ArrayLike) -> Float[Array, ""]:
    """lambda_max / lambda_min, the ratio of the slowest to the fastest time constant; inf for a singular kernel.

    >>> float(condition_number(jnp.diag(jnp.array([4.0, 2.0]))))
    2.0

    Raises:
        TypeError, ValueError: as `spectrum`; ValueError for a kernel that is zero.
    """
    eigenvalues = eigenvalues_of(k)
    _not_zero(eigenvalues[0], "k")
    return eigenvalues[0] / eigenvalues[-1]


@pytree
class KernelPCA:
    """Principal components of a kernel, largest first; see `kernel_pca`."""

    eigenvalues: Any  # (m,), of K/n
    functions: Any  # (n, m), each with mean square 1 over the points
    k: Any
    centered: bool

    @property
    def scores(self) -> Float[Array, "n m"]:
        """The points in the principal coordinates: sqrt(eigenvalue) times the function."""
        return self.functions * jnp.sqrt(self.eigenvalues)

    def project(self, k_new_train: ArrayLike) -> Float[Array, "n_new m"]:
        """The principal functions at new points, from their kernel with the points of the fit, (n_new, n).

        f(x) = (1/n) sum_j K(x, x_j) f(x_j) / eigenvalue; a component without an eigenvalue is 0 there.
        """
        k_new = checks.as_array(k_new_train, "k_new_train", ndim=2).astype(self.k.dtype)
        if k_new.shape[1] != self.k.shape[0]:
            raise ValueError(
                f"Expected k_new_train with {self.k.shape[0]} columns, got shape {k_new.shape}. "
                "New points come first, as in ntk(net, x_new, x_train)."
            )
        if self.centered:
            k_new = k_new - k_new.mean(axis=1, keepdims=True) - self.k.mean(axis=0) + self.k.mean()
        return k_new @ self.functions * reciprocal(self.eigenvalues) / self.k.shape[0]


def kernel_pca(k: ArrayLike, n_components: int = 2, *, centered: bool = True) -> KernelPCA:
    """The first principal components of a kernel, as functions with mean square 1 on the points.

    (1/n) sum_j K(x_i, x_j) f(x_j) = lambda f(x_i)

    Without centring, the first one of a positive kernel is nearly a constant (Jacot et al. 2018, Fig. 3). The sign of a
    component is free; here its largest entry is positive.

    >>> kernel_pca(jnp.eye(4), 2).scores.shape
    (4, 2)

    Raises:
        TypeError, ValueError: as `spectrum`; ValueError for more components than points.

    Schölkopf et al. 1998; Jacot et al. 2018, section 6.3.
    """
    k = checks.as_kernel_matrix(k, "k")
    checks.positive_int(n_components, "n_components")
    checks.one_of(centered, "centered", (True, False))
    n = k.shape[0]
    if n_components > n:
        raise ValueError(f"Expected at most {n} components for {n} points, got n_components={n_components}.")
    eigenvalues, modes = _eigenmodes(center(k) if centered else k, k)
    refuse_indefinite(eigenvalues, "k")
    functions = modes[:, :n_components] * n**0.5
    peaks = jnp.take_along_axis(functions, jnp.abs(functions).argmax(axis=0)[None], axis=0)
    return KernelPCA(eigenvalues[:n_components] / n, functions * jnp.sign(peaks), k, centered)


@jax.jit
def _eigenmodes(k, original):
    return eigenmodes(k, jnp.abs(original).sum(axis=1).max())


def center(k: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """H K H with H = I - 1/n: the kernel of features whose mean is taken off."""
    return k - k.mean(axis=0) - k.mean(axis=1, keepdims=True) + k.mean()


def alignment(k1: ArrayLike, k2: ArrayLike, *, centered: bool = True) -> Float[Array, ""]:
    """The cosine between two kernels on the same points: 1 if one is a multiple of the other.

    <K1, K2> / (|K1| |K2|) in the Frobenius product, after centring both (CKA).

    >>> print(f"{alignment(jnp.diag(jnp.array([3.0, 4.0])), jnp.eye(2), centered=False):.2f}")
    0.99

    Raises:
        TypeError, ValueError: as `spectrum`; ValueError for another size, or a kernel that is zero (after centring).

    Cortes et al. 2012; Kornblith et al. 2019.
    """
    k1, k2 = _two_kernels(k1, k2)
    checks.one_of(centered, "centered", (True, False))
    if centered:
        k1, k2 = _centered(k1, "k1"), _centered(k2, "k2")
    return (_normalized(k1, "k1") * _normalized(k2, "k2")).sum()


def label_alignment(k: ArrayLike, y: ArrayLike, *, centered: bool = False) -> Float[Array, ""]:
    """The alignment of a kernel with the ideal kernel of its labels, y y^T; (n,) or (n, o) labels.

    y^T K y / (|K| |y y^T|). Cristianini et al. 2001.

    >>> float(label_alignment(jnp.ones((3, 3)), jnp.ones(3)).round(3))
    1.0
    """
    y = checks.as_array(y, "y", ndim=(1, 2))
    y = y.reshape(len(y), -1)
    peak = jnp.abs(y).max()
    y = y / jnp.where(peak > 0, peak, 1)
    return alignment(k, y @ y.T, centered=centered)


def kernel_distance(k1: ArrayLike, k2: ArrayLike) -> Float[Array, ""]:
    """1 - <K1, K2> / (|K1| |K2|): how far a kernel has turned, 0 if it was only rescaled. Fort et al. 2020, eq. 3.

    Computed as half the squared distance of the normalized kernels, which keeps its digits for small turns.

    >>> print(f"{kernel_distance(jnp.eye(2), jnp.ones((2, 2))):.3f}")
    0.293
    """
    k1, k2 = _two_kernels(k1, k2)
    return jnp.square(_normalized(k1, "k1") - _normalized(k2, "k2")).sum() / 2


def _two_kernels(k1, k2):
    """Both checked, in one precision, and in units in which squares neither overflow nor vanish."""
    k1, k2 = checks.as_kernel_matrix(k1, "k1"), checks.as_kernel_matrix(k2, "k2")
    if k1.shape != k2.shape:
        raise ValueError(f"Expected two kernels on the same points, got shapes {k1.shape} and {k2.shape}.")
    dtype = jnp.promote_types(k1.dtype, k2.dtype)
    return k1.astype(dtype) / unit_of(k1).astype(dtype), k2.astype(dtype) / unit_of(k2).astype(dtype)


def _normalized(k, name):
    norm = jnp.linalg.norm(k)
    _not_zero(norm, name)
    return k / norm


def _centered(k, name):
    rounding = k.shape[0] * float(jnp.finfo(k.dtype).eps) * jnp.linalg.norm(k)
    k = center(k)
    if checks.is_concrete(k) and float(jnp.linalg.norm(k)) <= float(rounding):
        raise ValueError(f"Expected {name} to differ between points, got one that is zero after centring.")
    return k


def _not_zero(size, name):
    if checks.is_concrete(size) and float(size) == 0:
        raise ValueError(f"Expected {name} to be different from zero, got a kernel of zeros.")
