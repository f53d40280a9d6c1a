"""The eigenmodes of a kernel: what a network learns, in which order, and how fast.

Training with squared loss is diagonal in the eigenvectors of the kernel: mode i decays at the rate lr * lambda_i. This
room turns kernels into modes, time constants, principal components and measures of similarity; it takes plain matrices
and knows no networks. Notebooks 05 and 07 use it.
"""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from .. import checks
from ..numerics import reciprocal
from ..pytrees import pytree
from .modes import eigenmodes, eigenvalues_of, one_precision, refuse_indefinite, unit_of


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
        k, y = one_precision(k, y)
    eigenvalues, modes = eigenmodes(k)
    refuse_indefinite(eigenvalues, "k")
    return Spectrum(eigenvalues, modes, None if y is None else modes.T @ y)


def effective_rank(k: ArrayLike, *, kind: str = "entropy") -> Float[Array, ""]:
    """How many modes matter, a number between 1 and n, from the shares p = lambda / trace.

    "entropy": exp(-sum p log p) (Roy and Vetterli 2007); "participation": 1 / sum p^2. Both are n for the identity.

    >>> float(effective_rank(jnp.eye(4), kind="participation"))
    4.0

    Raises:
        TypeError, ValueError: as `spectrum`; ValueError for a kernel that is zero, which has no shares.
    """
    checks.one_of(kind, "kind", ("entropy", "participation"))
    eigenvalues = _not_all_zero(k)
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
    eigenvalues = _not_all_zero(k)
    return eigenvalues[0] / eigenvalues[-1]


def _not_all_zero(k):
    eigenvalues = eigenvalues_of(k)
    _not_zero(eigenvalues[0], "k")
    return eigenvalues


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
    eigenvalues, modes = eigenmodes(center(k) if centered else k, jnp.abs(k).sum(axis=1).max())
    refuse_indefinite(eigenvalues, "k")
    functions = modes[:, :n_components] * n**0.5
    peaks = jnp.take_along_axis(functions, jnp.abs(functions).argmax(axis=0)[None], axis=0)
    return KernelPCA(eigenvalues[:n_components] / n, functions * jnp.sign(peaks), k, centered)


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
    checks.one_of(centered, "centered", (True, False))
    u, v = _directions(k1, k2, centered)
    return (u * v).sum()


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
    u, v = _directions(k1, k2, False)
    return jnp.square(u - v).sum() / 2


def _directions(k1, k2, centered):
    """Both checked, in one precision, centred if asked, and with norm 1."""
    k1, k2 = checks.as_kernel_matrix(k1, "k1"), checks.as_kernel_matrix(k2, "k2")
    if k1.shape != k2.shape:
        raise ValueError(f"Expected two kernels on the same points, got shapes {k1.shape} and {k2.shape}.")
    return [_direction(k, name, centered) for k, name in zip(one_precision(k1, k2), ("k1", "k2"))]


def _direction(k, name, centered):
    k = k / unit_of(k)  # squares neither overflow nor vanish
    norm = jnp.linalg.norm(k)
    if centered:
        rounding, k = k.shape[0] * float(jnp.finfo(k.dtype).eps) * norm, center(k)
        norm = jnp.linalg.norm(k)
        if checks.is_concrete(norm) and float(norm) <= float(rounding):
            raise ValueError(f"Expected {name} to differ between points, got one that is zero after centring.")
    _not_zero(norm, name)
    return k / norm


def _not_zero(size, name):
    if checks.is_concrete(size) and float(size) == 0:
        raise ValueError(f"Expected {name} to be different from zero, got a kernel of zeros.")
