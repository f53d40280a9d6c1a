"""Gaussians over functions, and the linear algebra of a Gaussian process in training.

Training is linear, f_t(x) = f_0(x) + A_t(x) (y - f_0(X)): mean and covariance of f_t are products of matrices. In the
eigenvectors Q of the training kernel A_t is diagonal but for products that do not depend on time; they are made once.
ensemble.py uses it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from .. import checks
from ..numerics import reciprocal, safe_sqrt
from ..pytrees import pytree
from .filters import dense_tangent, is_zero
from .gradient import clock_at, over_times
from .modes import eigenmodes, rank_tolerance


@pytree
class Gaussian:
    """A Gaussian over functions at m points: mean (m,) or (m, o), covariance (m, m), the same for every output.

    With a leading axis T where there were T times. The covariance is symmetric and positive semi-definite to rounding;
    no jitter is added anywhere.
    """

    mean: Any
    covariance: Any = None

    @property
    def std(self) -> Float[Array, "..."]:
        """The standard deviation at each point, (m,) or (T, m)."""
        return safe_sqrt(jnp.diagonal(self._known(), axis1=-2, axis2=-1))

    def sample(self, key: Array, n_samples: int = 1) -> Float[Array, "n_samples ..."]:
        """Functions drawn from it, (n_samples, *mean.shape); outputs are independent, and so are times.

        Drawn through the eigenvectors of the covariance, which may be singular.

        Raises:
            ValueError: without a covariance, or with one that is not psd.
        """
        checks.positive_int(n_samples, "n_samples")
        covariance = self._known()
        roots = jnp.vectorize(eigenroot, signature="(m,m)->(m,m)")(covariance)
        if checks.is_concrete(roots) and jnp.isnan(roots).any():
            raise ValueError("Expected a psd covariance, got one with a negative eigenvalue.")
        noise = jax.random.normal(key, (n_samples, *self.mean.shape), covariance.dtype)
        has_outputs = self.mean.ndim > covariance.ndim - 1
        return self.mean + jnp.einsum("...mn,s...no->s...mo" if has_outputs else "...mn,s...n->s...m", roots, noise)

    def _known(self):
        if self.covariance is None:
            raise ValueError("Expected a covariance, got a prediction made with covariance=False.")
        return self.covariance


@pytree
class System:
    """A trained Gaussian process and m points: all that mean and covariance are made of."""

    dynamics: Any  # with the training kernel plus noise, and the targets y
    noise: Any
    nngp: Any  # (n, n), the covariance of f_0(X)
    k: Any  # (m, n), the training kernel with the training points; None, as the next two, at those points themselves
    cross: Any  # (m, n), the NNGP
    own: Any  # (m, m), the NNGP

    @property
    def unit_noise(self) -> Array:
        """The noise in the units of the scaled kernel."""
        return self.noise / self.dynamics.scale


@jax.jit
def cholesky(k: Array) -> tuple[Array, Array]:
    """(the triangular root, is it safe): not where a pivot is rounding; the root is zero then."""
    root = jax.lax.linalg.cholesky(k, symmetrize_input=False)
    pivots = jnp.square(jnp.diagonal(root))
    is_safe = pivots.min() > 1e3 * rank_tolerance(pivots.max(), len(k))  # False for NaN
    return jnp.where(is_safe, root, 0), is_safe


@jax.jit
def eigenroot(k: Array, size: Any = None) -> Array:
    """B with B B^T = K and orthogonal columns; NaN for an indefinite K. `size` is that of the parts of a difference."""
    eigenvalues, modes = eigenmodes(k, size)
    return modes * jnp.sqrt(eigenvalues)[None]


def _square(root):
    product = root @ root.T
    return (product + product.T) / 2  # not every product routine gives B B^T equal halves, to the last bit


def _times_root(A, R):
    """A R, with R a matrix, or the diagonal of one: that of the last layer, whose kernel is the NNGP itself."""
    return A * R[None] if R.ndim == 1 else A @ R


def _psd(difference, own):
    """A difference of covariances without the negative eigenvalues that rounding gave it."""
    return _square(eigenroot(difference, jnp.diagonal(own).max() * len(own)))


@partial(jax.jit, static_argnums=1)
def condition(root: Array, is_triangular: bool, cross: Array, own: Array) -> tuple[Array, Array]:
    """f_0(x) = explained e + rest, given f_0(X) = root e: (m, n) explained, and the covariance of the rest."""
    if is_triangular:
        explained = solve_triangular(root, cross.T, lower=True).T
    else:  # the columns of the root are orthogonal, with the eigenvalues as squared lengths
        explained = cross @ root * reciprocal(jnp.square(root).sum(axis=0))[None]
    return explained, _psd(own - explained @ explained.T, own)


@jax.jit
def posterior_law(root: Array, y: Array, k: Array, own: Any) -> tuple[Array, Any]:
    """Mean and covariance of the posterior, from the Cholesky factor of the kernel plus noise."""
    mean = k @ cho_solve((root, True), y)
    return mean, None if own is None else own - _square(solve_triangular(root, k.T, lower=True).T)


def law_by_products(system: System, t: Any, with_covariance: bool) -> Gaussian:
    """For kernels too large for an eigendecomposition: A of each test point by products, then differences."""
    flow, own = system.dynamics, system.own
    mean = flow.test(t, system.k)
    if not with_covariance:
        return Gaussian(mean)
    columns = [system.k[i : i + 32].T for i in range(0, len(system.k), 32)]  # bounds the memory of the solver
    pulls = jnp.concatenate([flow.towards(block).coefficients(t) for block in columns], axis=-1)
    pulls = jnp.swapaxes(pulls, -1, -2).reshape(-1, *system.k.shape)
    system = replace(system, dynamics=None)
    return Gaussian(mean, jnp.stack([_difference(system, A) for A in pulls]).reshape(*mean.shape[: t.ndim], *own.shape))


@jax.jit
def _difference(system, A):
    return _psd(_expanded(system, A), system.own)


def _expanded(system, A):
    """K_xx - A K_Xx - K_xX A^T + A (K_XX + noise) A^T."""
    shared = A @ system.cross.T
    return system.own - shared - shared.T + A @ system.nngp @ A.T + system.noise * A @ A.T


def derivative_by(slow: Callable) -> Callable:
    """For f(system, products, t): values from the products, which were made once; derivatives in t from them too.

    Derivatives in the kernels are those of slow(system, t), which has no eigenvectors or roots on its way: these have
    no derivative where eigenvalues coincide.
    """

    def decorate(fast):
        function = jax.custom_jvp(fast)

        def rule(primals, tangents):
            system, products, t = primals
            d_system, _, dt = tangents
            if all(map(is_zero, jax.tree.leaves(d_system, is_leaf=is_zero))):
                return jax.jvp(lambda t: fast(system, products, t), (t,), (dense_tangent(dt),))
            slopes = dense_tangent(d_system), dense_tangent(dt)
            return function(*primals), jax.jvp(slow, (system, t), slopes)[1]

        function.defjvp(rule, symbolic_zeros=True)
        return function

    return decorate


def _filters(system, t):
    """In the eigenvectors: the gain, and the diagonal of 1 - A at the training points."""
    clock, eigenvalues = clock_at(system.dynamics, t), system.dynamics.unit_eigenvalues
    g = clock.gain(eigenvalues)
    return g, clock.decay(eigenvalues) + system.unit_noise * g


def _slow_mean(system, t):
    dynamics, y = system.dynamics, system.dynamics.y
    g = over_times("gain", dynamics, t, y)
    if system.k is None:  # A = 1 - decay - noise gain, without the rounding of k gain
        return y - over_times("decay", dynamics, t, y) - system.unit_noise * g
    return (system.k / dynamics.scale) @ g


@derivative_by(_slow_mean)
def _mean(system, turned, t):
    kQ, _, q = turned
    g, keep = _filters(system, t)
    y = system.dynamics.y
    if system.k is None:
        mean = y.reshape(len(y), -1) - kQ @ (keep[:, None] * q)
    else:
        mean = (kQ * (g / system.dynamics.scale)[None]) @ q
    return mean.reshape(-1, *y.shape[1:])


def _slow_covariance(system, t):
    dynamics = system.dynamics
    if system.k is not None:
        return _expanded(system, over_times("gain", dynamics, t, system.k.T).T / dynamics.scale)
    eye = jnp.eye(len(system.nngp), dtype=system.nngp.dtype)
    keep = over_times("decay", dynamics, t, eye) + system.unit_noise * over_times("gain", dynamics, t, eye)
    return keep @ system.nngp @ keep.T + system.noise * (eye - keep) @ (eye - keep).T


@derivative_by(_slow_covariance)
def _covariance(system, products, t):
    """A sum of B B^T: what f_t(x) takes from f_0(X), from the rest of f_0(x), and from the noise of the targets."""
    (kQ, R, _), conditional = products
    g, keep = _filters(system, t)
    if system.k is None:
        root, A, rest = _times_root(kQ * keep[None], R), kQ * (1 - keep)[None], 0
    else:
        (explained, rest), A = conditional, kQ * (g / system.dynamics.scale)[None]
        root = explained - _times_root(A, R)
    of_noise = lambda: system.noise * _square(A)
    none = lambda: jnp.zeros((len(A), len(A)), A.dtype)
    return _square(root) + rest + jax.lax.cond(system.noise > 0, of_noise, none)


@jax.jit
def means(system: System, turned: Any, t: Array) -> Array:
    """(m,) or (m, o), with an axis T in front for many times; `turned` is (k(x, X) Q, Q^T B, Q^T y), B B^T the NNGP."""
    return jax.vmap(lambda t: _mean(system, turned, t))(t) if t.ndim else _mean(system, turned, t)


@jax.jit
def covariances(system: System, turned: Any, conditional: Any, t: Array) -> Array:
    """(m, m), with an axis T in front for many times; `conditional` is what `condition` gives."""
    at = lambda t: _covariance(system, (turned, conditional), t)
    return jax.lax.map(at, t) if t.ndim else at(t)  # one after another, in the memory of one
