"""The eigenmodes of a kernel: what a network learns, in which order, and how fast.

Training with squared loss is diagonal in the eigenvectors of the kernel: mode i decays at the rate lr * lambda_i. This
room turns kernels into modes, time constants, principal components and measures of similarity; it takes plain matrices
and knows no networks. Notebooks 05 and 07 use it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from .. import checks
from ..numerics import reciprocal
from ..pytrees import pytree


def rank_tolerance(largest: Array, n: int) -> Array:
    """Eigenvalues up to here are rounding: max(n, 20) * eps * lambda_max, as in numpy's `matrix_rank`."""
    return max(n, 20) * float(jnp.finfo(largest.dtype).eps) * largest


def eigenmodes(k: Float[Array, "n n"]) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    """(lambda, Q) with K = Q diag(lambda) Q^T, ascending; what is rounding, negative or not, is exactly 0."""
    eigenvalues, modes = jnp.linalg.eigh((k + k.T) / 2, symmetrize_input=False)
    is_rounding = eigenvalues <= rank_tolerance(eigenvalues[-1], len(eigenvalues))
    return jnp.where(is_rounding, 0, eigenvalues), modes


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
        checks.non_negative(lr, "lr")
        n = 1 if reduction == "sum" else len(self.eigenvalues)
        return n / (jnp.asarray(lr).astype(self.eigenvalues.dtype) * self.eigenvalues)


def spectrum(k: ArrayLike, y: ArrayLike | None = None) -> Spectrum:
    """Eigenvalues and modes of a kernel matrix, and the target in them.

    K = Q diag(lambda) Q^T,  coefficients = Q^T y

    `k` is (n, n); `y` is (n,) or (n, o). Eigenvalues that are rounding (see `rank_tolerance`) are 0.

    Raises:
        TypeError, ValueError: for a kernel that is not square, symmetric and finite, or a target of another length.

    Jacot et al. 2018, section 5.
    """
    k = checks.as_kernel_matrix(k, "k")
    if y is None:
        return _spectrum(k, None)
    y = checks.as_array(y, "y", ndim=(1, 2))
    checks.same_length(k.shape[0], y, "y")
    dtype = jnp.promote_types(k.dtype, y.dtype)
    return _spectrum(k.astype(dtype), y.astype(dtype))


@jax.jit
def _spectrum(k, y):
    eigenvalues, modes = eigenmodes(k)
    eigenvalues, modes = eigenvalues[::-1], modes[:, ::-1]
    return Spectrum(eigenvalues, modes, None if y is None else modes.T @ y)


def eigenvalues_of(k: ArrayLike) -> Float[Array, "n"]:
    """The eigenvalues alone, largest first, rounding ones 0."""
    return _eigenvalues(checks.as_kernel_matrix(k, "k"))


@jax.jit
def _eigenvalues(k):
    eigenvalues = jnp.linalg.eigvalsh((k + k.T) / 2, symmetrize_input=False)[::-1]
    return jnp.where(eigenvalues <= rank_tolerance(eigenvalues[0], len(eigenvalues)), 0, eigenvalues)


def effective_rank(k: ArrayLike, *, kind: str = "entropy") -> Float[Array, ""]:
    """How many modes matter, a number between 1 and n, from the shares p = lambda / trace.

    "entropy": exp(-sum p log p) (Roy and Vetterli 2007); "participation": 1 / sum p^2. Both are n for the identity.

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
    """lambda_max / lambda_min, the ratio of the slowest to the fastest time constant; inf for a singular kernel."""
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
    eigenvalues, modes = eigenmodes(center(k) if centered else k)
    functions = modes[:, ::-1][:, :n_components] * n**0.5
    peaks = jnp.take_along_axis(functions, jnp.abs(functions).argmax(axis=0)[None], axis=0)
    return KernelPCA(eigenvalues[::-1][:n_components] / n, functions * jnp.sign(peaks), k, centered)


def center(k: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """H K H with H = I - 1/n: the kernel of features whose mean is taken off."""
    return k - k.mean(axis=0) - k.mean(axis=1, keepdims=True) + k.mean()


def alignment(k1: ArrayLike, k2: ArrayLike, *, centered: bool = True) -> Float[Array, ""]:
    """The cosine between two kernels on the same points: 1 if one is a multiple of the other.

    <K1, K2> / (|K1| |K2|) in the Frobenius product, after centring both (CKA).

    Raises:
        TypeError, ValueError: as `spectrum`; ValueError for another size, or a kernel that is zero (after centring).

    Cortes et al. 2012; Kornblith et al. 2019.
    """
    k1, k2 = checks.as_kernel_matrix(k1, "k1"), checks.as_kernel_matrix(k2, "k2")
    if k1.shape != k2.shape:
        raise ValueError(f"Expected two kernels on the same points, got shapes {k1.shape} and {k2.shape}.")
    dtype = jnp.promote_types(k1.dtype, k2.dtype)
    k1, k2 = k1.astype(dtype), k2.astype(dtype)
    checks.one_of(centered, "centered", (True, False))
    if centered:
        k1, k2 = _centered(k1, "k1"), _centered(k2, "k2")
    norm1, norm2 = jnp.linalg.norm(k1), jnp.linalg.norm(k2)
    _not_zero(norm1, "k1")
    _not_zero(norm2, "k2")
    return ((k1 / norm1) * (k2 / norm2)).sum()


def label_alignment(k: ArrayLike, y: ArrayLike, *, centered: bool = False) -> Float[Array, ""]:
    """The alignment of a kernel with the ideal kernel of its labels, y y^T; (n,) or (n, o) labels.

    y^T K y / (|K| |y y^T|). Cristianini et al. 2001.
    """
    y = checks.as_array(y, "y", ndim=(1, 2))
    y = y.reshape(len(y), -1)
    return alignment(k, y @ y.T, centered=centered)


def kernel_distance(k1: ArrayLike, k2: ArrayLike) -> Float[Array, ""]:
    """1 - <K1, K2> / (|K1| |K2|): how far a kernel has turned, 0 if it was only rescaled. Fort et al. 2020, eq. 3.

    Computed as half the squared distance of the normalized kernels, which keeps its digits for small turns.
    """
    alignment(k1, k2, centered=False)  # its checks
    k1, k2 = jnp.asarray(k1), jnp.asarray(k2)
    dtype = jnp.promote_types(k1.dtype, k2.dtype)
    k1, k2 = k1.astype(dtype), k2.astype(dtype)
    return jnp.square(k1 / jnp.linalg.norm(k1) - k2 / jnp.linalg.norm(k2)).sum() / 2


def _centered(k, name):
    rounding = k.shape[0] * float(jnp.finfo(k.dtype).eps) * jnp.linalg.norm(k)
    k = center(k)
    if checks.is_concrete(k) and float(jnp.linalg.norm(k)) <= float(rounding):
        raise ValueError(f"Expected {name} to differ between points, got one that is zero after centring.")
    return k


def _not_zero(size, name):
    if checks.is_concrete(size) and float(size) == 0:
        raise ValueError(f"Expected {name} to be different from zero, got a kernel of zeros.")
