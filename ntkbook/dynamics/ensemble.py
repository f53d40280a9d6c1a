"""Gaussian processes over time: the law of infinitely wide networks that are being trained.

At the start, the outputs of random networks are a Gaussian process with the NNGP as covariance. Training is linear, so
they stay one: each network goes from its own start f_0 towards the targets, f_t(x) = f_0(x) + A_t(x) (y - f_0(X)), and
mean and covariance over f_0 follow. Training only the last layer leads to the Bayesian posterior. Notebooks 00 and
06 use it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..networks.kernel import Layer, kernel
from ..numerics import reciprocal, safe_sqrt
from ..pytrees import pytree, static
from .gradient import Dynamics, gradient_flow, over_times
from .spectrum import eigenmodes, rank_tolerance


@pytree
class Gaussian:
    """A Gaussian over functions at m points: mean (m,) or (m, o), covariance (m, m), the same for every output.

    With a leading axis T where there were T times. The covariance is a sum of products B B^T, so it is symmetric and
    has no negative variance; no jitter is added anywhere.
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
        roots = _roots(covariance)
        gap = jnp.abs(roots @ jnp.swapaxes(roots, -1, -2) - covariance).max()
        if checks.is_concrete(gap) and gap > 1e4 * jnp.finfo(gap.dtype).eps * jnp.abs(covariance).max():
            raise ValueError(f"Expected a psd covariance, got one that is {float(gap):.3g} away from it.")
        has_outputs = self.mean.ndim > covariance.ndim - 1
        noise = jax.random.normal(key, (n_samples, *self.mean.shape), covariance.dtype)
        return self.mean + jnp.einsum("...mn,s...no->s...mo" if has_outputs else "...mn,s...n->s...m", roots, noise)

    def _known(self):
        if self.covariance is None:
            raise ValueError("Expected a covariance, got a prediction made with covariance=False.")
        return self.covariance


@pytree
class Ensemble:
    """Infinitely wide networks in training; see `ensemble`."""

    net: Any
    x_train: Any
    dynamics: Any  # of the training kernel plus noise
    nngp: Any  # (n, n), the covariance of f_0(X)
    root: Any  # (n, n), B with B B^T = nngp
    noise: Any
    train: str = static(default="all")
    is_triangular: bool = static(default=False)  # of the root

    def predict(self, t: ArrayLike, x_test: ArrayLike | None = None, covariance: bool = True) -> Gaussian:
        """Mean and covariance at time t of the outputs at `x_test`, or at the training points without it.

        mean = A y,  covariance = K_xx - A K_Xx - K_xX A^T + A (K_XX + noise) A^T,
        A = k(x, X) gain_t(k(X, X) + noise),  with K the NNGP, and k the NTK (the NNGP for the last layer)

        t is a number or an array (T,), inf included. For many calls at the same points, take `at(x_test)` once.

        Raises:
            TypeError, ValueError: for times that are negative, or inputs with other features.

        Lee et al. 2019, section 2.3.
        """
        return self.at(x_test).predict(t, covariance=covariance)

    def at(self, x_test: ArrayLike | None = None) -> "Conditioned":
        """The ensemble at given points, with all that does not depend on time computed once."""
        if x_test is None:
            return Conditioned(self.dynamics, None, self.nngp, None, None, self.root, None, None, self.noise)
        x_test = checks.as_array(x_test, "x_test")
        checks.same_features(x_test, self.x_train)
        cross, own = kernel(self.net, x_test, self.x_train), kernel(self.net, x_test)
        k, cross, own = (a.astype(self.nngp.dtype) for a in (getattr(cross, KERNELS[self.train]), cross.nngp, own.nngp))
        explained, rest = _condition(self.root, cross, own, self.is_triangular)
        return Conditioned(self.dynamics, k, self.nngp, cross, own, self.root, explained, rest, self.noise)


KERNELS = {"all": "ntk", "last_layer": "nngp"}


@pytree
class Conditioned:
    """An ensemble at m points: f_0(X) = root e and f_0(x) = explained e + rest e', with e and e' standard normal."""

    dynamics: Dynamics
    k_test_train: Any  # (m, n); this and what follows is None at the training points
    nngp_train: Any  # (n, n)
    nngp_test_train: Any  # (m, n)
    nngp_test: Any  # (m, m)
    root: Any  # (n, n)
    explained: Any  # (m, n)
    rest: Any  # (m, m)
    noise: Any

    def predict(self, t: ArrayLike, *, covariance: bool = True) -> Gaussian:
        """Mean and covariance at time t, or at many, (T,); see `Ensemble.predict`."""
        checks.one_of(covariance, "covariance", (True, False))
        t = self.dynamics._times(t)
        mean = _mean(self, t)
        if checks.is_concrete(mean) and not np.isfinite(np.asarray(mean)).all():
            raise ValueError("Expected finite predictions, got NaN or infinity. Are the inputs scaled to order one?")
        return Gaussian(mean, _covariances(self, t) if covariance else None)


def ensemble(
    net: Layer,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    lr: ArrayLike = 1.0,
    reduction: str = "sum",
    train: str = "all",
    noise: ArrayLike = 0.0,
) -> Ensemble:
    """The law of infinitely wide networks trained by gradient flow on the squared loss, from random starts.

    Training all layers ("all") follows the NTK; training the last one ("last_layer") follows the NNGP, and ends in the
    exact posterior of the Gaussian process. The NTK ensemble is the posterior of no prior.

    `noise` is the variance of observation noise. Each network is trained on targets with its own draw of it, and
    is held to its start by noise/2 |theta - theta_0|^2 in the loss: with that, the last layer still ends in the exact
    posterior. `y_train` is (n,) or (n, o); the loss is 1/2 sum |f - y|^2, divided by n for "mean".

    >>> ensemble(net, x_train, y_train, lr=0.1).predict(t=100.0, x_test=x_test).std

    Raises:
        TypeError, ValueError: as `kernel` and `gradient_flow`; for an unknown `train` and negative `noise`.

    Lee et al. 2019, section 2.3; noisy targets: Matthews et al. 2017; derived in notebook 06.
    """
    checks.one_of(train, "train", tuple(KERNELS))
    checks.non_negative(noise, "noise")
    x_train = checks.as_array(x_train, "x_train")
    both = kernel(net, x_train)
    k = getattr(both, KERNELS[train])
    noise = jnp.asarray(noise).astype(k.dtype)
    dynamics = gradient_flow(k + noise * jnp.eye(len(k), dtype=k.dtype), y_train, lr=lr, reduction=reduction)
    nngp, noise = both.nngp.astype(dynamics.y.dtype), noise.astype(dynamics.y.dtype)
    root, is_triangular = _factor(nngp)
    return Ensemble(net, x_train, dynamics, nngp, root, noise, train, is_triangular)


def _factor(nngp: Array) -> tuple[Array, bool]:
    """(B, is it triangular) with B B^T = K: by Cholesky, ten times faster, or by eigenvectors if K is near singular."""
    if checks.is_concrete(nngp):
        root, is_safe = _cholesky(nngp)
        if is_safe:
            return root, True
    return _root(nngp), False


@jax.jit
def _cholesky(k):
    root = jnp.linalg.cholesky(k)
    pivots = jnp.square(jnp.diagonal(root))
    return root, pivots.min() > 1e3 * rank_tolerance(pivots.max(), len(k))  # False for NaN


@jax.jit
def _root(k):
    eigenvalues, modes = eigenmodes(k)
    return modes * jnp.sqrt(eigenvalues)


def _roots(covariance):
    return jax.vmap(_root)(covariance) if covariance.ndim == 3 else _root(covariance)


@partial(jax.jit, static_argnums=3)
def _condition(root, cross, own, is_triangular):
    """f_0(x) given f_0(X) = root e: (m, n) what e explains, and a root of the covariance of the rest."""
    if is_triangular:
        explained = solve_triangular(root, cross.T, lower=True).T
    else:  # the columns of the root are orthogonal, with the eigenvalues as squared lengths
        explained = cross @ root * reciprocal(jnp.square(root).sum(axis=0))
    return explained, _root(own - explained @ explained.T)


@jax.jit
def _mean(at: Conditioned, t: Array) -> Array:
    dynamics, y = at.dynamics, at.dynamics.y
    if at.k_test_train is None:  # A = 1 - decay - noise gain, without the rounding of k gain
        return y - over_times("decay", dynamics, t, y) - at.noise * over_times("gain", dynamics, t, y)
    gain = over_times("gain", dynamics, t, y)
    return jnp.einsum("mn,tn...->tm..." if t.ndim else "mn,n...->m...", at.k_test_train, gain)


@jax.jit
def _covariances(at: Conditioned, t: Array) -> Array:
    if not t.ndim:
        return _covariance(at, t)
    return jax.lax.map(lambda t: _covariance(at, t), t)  # one after another, in the memory of one


@jax.custom_jvp
def _covariance(at: Conditioned, t: Array) -> Array:
    """A sum of B B^T: what f_t(x) takes from e, from e', and from the noise of the targets."""
    pull, keep = _pull(at, t)
    if at.k_test_train is None:
        parts = [keep @ at.root]
    else:
        parts = [at.explained - pull @ at.root, at.rest]
    parts.append(jnp.sqrt(at.noise) * pull)
    total = jnp.sum(jnp.stack([part @ part.T for part in parts]), 0)
    return (total + total.T) / 2  # not every product routine gives B B^T equal halves, to the last bit


@_covariance.defjvp
def _(primals, tangents):
    """The derivative of the same covariance without roots: those have none where eigenvalues coincide."""
    return _covariance(*primals), jax.jvp(_covariance_by_differences, primals, tangents)[1]


def _covariance_by_differences(at, t):
    pull, keep = _pull(at, t)
    if at.k_test_train is None:
        assert keep is not None
        return keep @ at.nngp_train @ keep.T + at.noise * pull @ pull.T
    shared = pull @ jnp.asarray(at.nngp_test_train).T
    return at.nngp_test - shared - shared.T + pull @ at.nngp_train @ pull.T + at.noise * pull @ pull.T


def _pull(at, t):
    """(A, 1 - A) with f_t = f_0 + A (y - f_0(X)); the second one at the training points only."""
    if at.k_test_train is not None:
        return over_times("gain", at.dynamics, t, at.k_test_train.T).T, None
    eye = jnp.eye(len(at.root), dtype=at.root.dtype)
    keep = over_times("decay", at.dynamics, t, eye) + at.noise * over_times("gain", at.dynamics, t, eye)
    return eye - keep, keep
