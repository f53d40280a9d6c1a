"""Kernel regression past memory: from a kernel on a disk, or one that is computed again for each product.

(K + noise) alpha = y by conjugate gradients, preconditioned by a randomly pivoted Cholesky factor: what the largest
eigenvalues make slow is solved in the factor, and some tens of products are left. Finite times are by Lanczos
(`large.py`). Written as a loop on the host: an iteration reads a whole disk, and the compiled ones of JAX cannot.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import checks
from ..checks import warn
from ..dynamics.large import krylov_flow
from ..dynamics.protocol import one_number
from ..pytrees import one_line
from .blocks import Blocks


@dataclass(frozen=True)
class Regression:
    """Coefficients alpha of a kernel regression, f(x) = k(x, X) alpha, and how good they are; see `kernel_regression`.

    It is the mean of the infinitely wide networks that `ensemble` trains on the same kernel, from starts of mean zero.
    """

    k: Any
    y: np.ndarray
    noise: float
    t: float
    lr: float
    factor: Any  # of the preconditioner
    tolerance: float
    max_iterations: int
    progress: bool
    coefficients: Any = None  # (n,) or (n, o), double precision
    residual: float = np.inf  # the largest |y - (K + noise) alpha| / |y| over outputs; at finite t see `krylov_flow`
    iterations: int = 0

    __repr__ = one_line  # pyright: ignore

    def predict(self, k_test_train: Any) -> np.ndarray:
        """The outputs at other points, (m,) or (m, o), from an array (m, n), a store, or `Recomputed`."""
        return self._at(k_test_train, "k_test_train") @ self.coefficients

    def variance(self, k_test_train: Any, variances: Any, nngp: Any = None, nngp_test_train: Any = None) -> np.ndarray:
        """The variance of the trained networks at m points, (m,), by one solve for each, 64 at a time.

        v - 2 A c + A (K + noise) A^T on the diagonal, with A = k(x, X) gain_t. `variances` (m,) are those before the
        training. K and c are the training kernel and `k_test_train` themselves, as for a posterior; networks of which
        all layers are trained, by their NTK, need `nngp`, of the training points, and `nngp_test_train` too.

        Lee et al. 2019, eq. 16; Rasmussen and Williams 2006, eq. 2.26.
        """
        k = np.asarray(self._at(k_test_train, "k_test_train"), float)
        cross = k if nngp_test_train is None else np.asarray(self._at(nngp_test_train, "nngp_test_train"), float)
        variances = checks.as_array(variances, "variances", ndim=1)
        if cross.shape != k.shape or len(variances) != len(k):
            raise ValueError(
                f"Expected kernels and variances of the same {len(k)} points, got {len(cross)} and {len(variances)}."
            )
        K, parts = self.k if nngp is None else _operator(nngp, "nngp"), []
        for i in range(0, len(k), 64):
            A = self.towards(k[i : i + 64].T).coefficients
            product = K @ A + self.noise * A
            parts.append((A * (product - 2 * cross[i : i + 64].T)).sum(axis=0))
        return np.maximum(np.asarray(variances, float) + np.concatenate(parts), 0)

    def towards(self, y: Any, start: Any = None) -> "Regression":
        """The same kernel and preconditioner, solved for other targets, (n,) or (n, o); from coefficients `start`."""
        y = _targets(y, len(self.y))
        start = None if start is None else checks.as_array(start, "start")
        if start is not None and start.shape != y.shape:
            raise ValueError(f"Expected start with the shape of the targets, {y.shape}, got {start.shape}.")
        made = replace(self, y=y)
        columns = y.reshape(len(y), -1)
        if np.isinf(self.t):
            x = np.zeros_like(columns) if start is None else np.array(start, float).reshape(columns.shape)
            alpha, residual, iterations = _conjugate_gradients(made, columns, x)
            if residual > self.tolerance:
                warn(
                    f"Conjugate gradients stopped after {iterations} products with a relative residual of "
                    f"{residual:.2g}, above {self.tolerance:.2g}. Raise rank, max_iterations or noise."
                )
        else:
            product = lambda v: jnp.asarray(_noisy(made, np.asarray(v, float)), v.dtype)
            flow = krylov_flow(product, y, lr=self.lr, max_iterations=self.max_iterations, progress=self.progress)
            solution = flow.solve(self.t)
            alpha, residual, iterations = solution.coefficients, solution.residual, solution.iterations
        return replace(
            made, coefficients=np.asarray(alpha, float).reshape(y.shape), residual=residual, iterations=iterations
        )

    def _at(self, k, name):
        if getattr(k, "shape", ())[1:] != (len(self.y),):
            raise ValueError(f"Expected {name} of shape (m, {len(self.y)}), got {getattr(k, 'shape', type(k))}.")
        return k if isinstance(k, Blocks) else np.asarray(k, float)


def kernel_regression(
    k_train_train: Any,
    y_train: Any,
    *,
    noise: float = 0.0,
    t: float = np.inf,
    lr: float = 1.0,
    rank: int | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    start: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> Regression:
    """alpha = (K + noise)^{-1} y, or what gradient flow has made of it at time t, for kernels larger than memory.

    `k_train_train` is what `gram(..., store=)` and `open_store` give, `scale.blocks.Recomputed(net, x)` for no disk
    at all, or an array (n, n). Products are sums in double precision, whatever the kernel's. `rank` is that of the
    preconditioner, which takes n * rank * 8 bytes; 4 sqrt(n) by default, 0 for none. Targets are (n,) or (n, o), and
    all columns share each product; `result.towards(y)` solves for others with the same preconditioner, `start` are
    coefficients to begin with. `one_hot` makes targets of classes.

    >>> import numpy as np
    >>> from ntkbook import kernel_regression
    >>> kernel_regression(2 * np.eye(3), np.ones(3), noise=0.5, progress=False).coefficients
    array([0.4, 0.4, 0.4])

    Warns:
        UserWarning: with the residual, if it is above `tolerance` after `max_iterations`.
    Raises:
        TypeError, ValueError: for shapes that do not fit, and a noise or a time that is negative.

    Hestenes and Stiefel 1952; Frangella, Tropp and Udell 2021 (preconditioning by a low rank); Chen, Epperly, Tropp and
    Webber 2022 (its pivots); Adlam et al. 2023 (infinitely wide networks on millions of examples by this path).
    """
    k, y = _operator(k_train_train, "k_train_train"), _targets(y_train, None)
    if k.shape != (len(y), len(y)):
        raise ValueError(f"Expected a kernel of shape ({len(y)}, {len(y)}) for these targets, got {k.shape}.")
    for value, name in ((noise, "noise"), (lr, "lr"), (tolerance, "tolerance")):
        one_number(value, name, jnp.float32)  # checked, and kept in double precision
    if isinstance(t, (list, tuple)) or np.ndim(t):
        raise ValueError(f"Expected one time, got {checks.describe(t)}. For others, call again with this result's k.")
    checks.non_negative(t, "t")
    checks.positive_int(max_iterations, "max_iterations")
    checks.whole_number(seed, "seed")
    rank = min(int(4 * len(y) ** 0.5), len(y) // 4) if rank is None else rank
    checks.whole_number(rank, "rank")
    is_end = np.isinf(t)
    factor = pivoted_cholesky(k, min(rank, len(y)), seed) if rank and is_end else None
    made = Regression(k, y, float(noise), float(t), float(lr), factor, float(tolerance), max_iterations, progress)
    return made.towards(y, start)


def one_hot(labels: Any, n_classes: int | None = None) -> np.ndarray:
    """Targets (n, classes) of whole numbers: 1 - 1/classes in the column of the label, -1/classes elsewhere.

    >>> one_hot([0, 1])
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(f"Expected labels 0, 1, ... as whole numbers (n,), got {labels.dtype}{list(labels.shape)}.")
    classes = int(labels.max()) + 1 if n_classes is None else n_classes
    return np.eye(classes)[labels] - 1 / classes


def accuracy(outputs: Any, labels: Any) -> float:
    """The fraction of rows of `outputs` (n, classes) whose largest entry is that of the label.

    >>> accuracy([[1.0, 0.0], [0.2, 0.3]], [0, 0])
    0.5
    """
    return float((np.argmax(outputs, axis=-1) == np.asarray(labels)).mean())


def pivoted_cholesky(k: Blocks, rank: int, seed: int = 0, chunk: int = 64) -> np.ndarray:
    """F (n, at most rank) with F F^T near K: rows are drawn, `chunk` at a time, as the rest of the diagonal is large.

    Chen, Epperly, Tropp and Webber 2022, algorithm 4 (block RPCholesky).
    """
    random, rest = np.random.default_rng(seed), k.diagonal().astype(float)
    F, filled, total, eps = np.zeros((len(k), rank)), 0, rest.sum(), float(jnp.finfo(k.dtype).eps)
    while filled < rank and rest.sum() > 10 * eps * total:
        size = min(chunk, rank - filled, np.count_nonzero(rest))
        pivots = random.choice(len(k), size, replace=False, p=rest / rest.sum())
        G = k.rows(pivots).astype(float).T - F[:, :filled] @ F[pivots, :filled].T
        H = (G[pivots] + G[pivots].T) / 2
        L = np.linalg.cholesky(H + 10 * eps * (np.trace(H) + total / len(k)) * np.eye(len(H)))
        F[:, filled : filled + len(L)] = np.linalg.solve(L, G.T).T
        rest = np.maximum(rest - np.square(F[:, filled : filled + len(L)]).sum(axis=1), 0)
        rest[pivots] = 0
        filled += len(L)
    return F[:, :filled]


def _preconditioner(made):
    """v -> (F F^T + mu)^{-1} v; mu is the noise, and the least eigenvalue of F F^T, below which F knows nothing."""
    F = made.factor
    if F is None or not F.shape[1]:
        return lambda v: v
    S, V = np.linalg.eigh(F.T @ F)
    mu = made.noise + max(S[0], S[-1] * np.finfo(float).eps * len(F), np.finfo(float).tiny)
    U = F @ (V / np.sqrt(np.maximum(S, 0) + mu))
    return lambda v: (v - U @ (U.T @ v)) / mu


def _noisy(made, v):
    return made.k @ v + made.noise * v


def _conjugate_gradients(made, y, x):
    """(alpha, the largest relative residual, products), each column by itself, those that are not done together."""
    from tqdm.auto import tqdm

    precondition, products = _preconditioner(made), 0
    norms = np.linalg.norm(y, axis=0)
    norms = np.where(norms > 0, norms, 1)
    residual = lambda r: np.linalg.norm(r, axis=0) / norms
    with tqdm(total=made.max_iterations, disable=not made.progress, desc="conjugate gradients") as bar:
        while True:  # once, and again where rounding has led the recursion away from the residual
            r = y - _noisy(made, x) if x.any() else y.copy()
            products, before = products + int(x.any()), residual(r).max()
            z = precondition(r)
            p, rz = z.copy(), (r * z).sum(axis=0)
            while products < made.max_iterations and (active := residual(r) > made.tolerance).any():
                Ap = _noisy(made, p[:, active])
                products, curvature = products + 1, (p[:, active] * Ap).sum(axis=0)
                if (curvature <= 0).any():  # an indefinite kernel, or one that is rounding along p
                    break
                step = rz[active] / curvature
                x[:, active] += step * p[:, active]
                r[:, active] -= step * Ap
                z = precondition(r[:, active])
                new = (r[:, active] * z).sum(axis=0)
                p[:, active] = z + new / rz[active] * p[:, active]
                rz[active] = new
                bar.update()
                bar.set_postfix(residual=f"{residual(r).max():.1e}")
            true = residual(y - _noisy(made, x)).max() if x.any() else before
            if true <= made.tolerance or products >= made.max_iterations or true > before / 2:
                return x, float(true), products


class Whole(Blocks):
    """An array (n, n) as blocks."""

    tile, is_symmetric = 1024, False

    def __init__(self, k: np.ndarray):
        self.k, self.shape, self.dtype = k, k.shape, k.dtype

    def block(self, i: int, j: int) -> np.ndarray:
        return self.k[i : i + self.tile, j : j + self.tile]

    def rows(self, indices: Any) -> np.ndarray:
        return self.k[indices]


class Shared(Blocks):
    """An array (n, n) that lies on several devices: each multiplies its part, in the precision of the kernel."""

    def __init__(self, k: jax.Array):
        self.shape, self.dtype = (k.shape[0], k.shape[1]), k.dtype
        within = lambda index: tuple(range(*part.indices(n)) for part, n in zip(index, k.shape))
        self._parts = [(*within(one.index), one.data) for one in k.addressable_shards if one.replica_id == 0]

    def rows(self, indices: Any) -> np.ndarray:
        found = np.empty((len(indices), self.shape[1]), self.dtype)
        for rows, columns, part in self._parts:
            here = np.isin(indices, rows)
            found[here, columns.start : columns.stop] = part[np.asarray(indices)[here] - rows.start]
        return found

    def diagonal(self) -> np.ndarray:
        found = np.empty(len(self), self.dtype)
        for rows, columns, part in self._parts:
            both = np.arange(max(rows.start, columns.start), min(rows.stop, columns.stop))
            found[both] = part[both - rows.start, both - columns.start]
        return found

    def __matmul__(self, v: Any) -> np.ndarray:
        product = np.zeros((len(self), *np.shape(v)[1:]))
        at = lambda columns: jnp.asarray(np.asarray(v)[columns.start : columns.stop], self.dtype)
        begun = [(rows, jnp.matmul(part, at(columns), precision="highest")) for rows, columns, part in self._parts]
        for rows, part in begun:
            product[rows.start : rows.stop] += np.asarray(part)
        return product


def _operator(k, name):
    if isinstance(k, Blocks):
        return k
    if isinstance(k, jax.Array) and len(k.sharding.device_set) > 1:
        return Shared(k)
    return Whole(np.asarray(checks.as_array(k, name, ndim=2)))


def _targets(y, n):
    checks.as_array(y, "y_train", ndim=(1, 2))
    y = np.asarray(y, float)
    if n is not None and len(y) != n:
        raise ValueError(f"Expected targets for {n} points, got shape {y.shape}.")
    return y
