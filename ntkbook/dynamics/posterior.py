"""The Gaussian-process posterior of infinitely wide networks: where training the last layer alone ends.

It is the `ensemble` of the last layer at t = inf, without its time. Notebooks 06 and 16 use it.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from ..networks.kernel import Layer
from ..pytrees import pytree
from .ensemble import ensemble, ensemble_from_kernels
from .gaussian import Gaussian


def posterior(net: Layer | Callable, x: ArrayLike, y: ArrayLike, noise: ArrayLike) -> "Posterior":
    """The Gaussian-process posterior of infinitely wide networks, given targets with noise of variance `noise`.

    mean = K_xX (K_XX + noise)^{-1} y,  covariance = K_xx - K_xX (K_XX + noise)^{-1} K_Xx,  with K the NNGP

    It is where the last layer's `ensemble` ends. `net`, `x` (n, ...) and `y` (n,) or (n, o) are as there.

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, Erf, serial
    >>> posterior(serial(Dense(8), Erf(), Dense(1)), jnp.eye(3), jnp.ones(3), noise=0.1).predict(jnp.eye(3)).mean.shape
    (3,)

    Raises:
        TypeError, ValueError: as `ensemble`.

    Rasmussen and Williams 2006, eqs. 2.25 and 2.26; Lee et al. 2018.
    """
    return Posterior(ensemble(net, x, y, train="last_layer", noise=noise))


def posterior_from_kernels(k_train_train: ArrayLike, y: ArrayLike, noise: ArrayLike) -> "Posterior":
    """`posterior` from the covariance of the training points, (n, n). Test points come as `.predict_kernels(...)`.

    >>> import jax.numpy as jnp
    >>> posterior_from_kernels(jnp.eye(2), jnp.ones(2), 1.0).predict_kernels(jnp.eye(2)[:1], jnp.eye(1)).mean.round(6)
    Array([0.5], dtype=...)
    """
    return Posterior(ensemble_from_kernels(k_train_train, y, train="last_layer", noise=noise))


@pytree
class Posterior:
    """A Gaussian-process posterior; see `posterior`."""

    ensemble: Any

    def predict(self, x_test: ArrayLike | None = None, covariance: bool = True) -> Gaussian:
        """Mean and covariance of the function at `x_test`, or at the training points without it."""
        return self.ensemble.at(x_test).predict(jnp.inf, covariance=covariance)

    def predict_kernels(
        self, k_test_train: ArrayLike, k_test_test: ArrayLike | None = None, covariance: bool = True
    ) -> Gaussian:
        """The same at points given by their covariances with the training points, (m, n), and among them, (m, m)."""
        return self.ensemble.at_kernels(k_test_train, k_test_test).predict(jnp.inf, covariance=covariance)
