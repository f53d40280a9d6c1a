"""Gaussian processes over time: the law of infinitely wide networks that are being trained.

At the start, the outputs of random networks are a Gaussian process with the NNGP as covariance. Training is linear, so
they stay one: each network goes from its own start f_0 towards the targets, f_t(x) = f_0(x) + A_t(x) (y - f_0(X)), and
mean and covariance over f_0 follow. Training only the last layer leads to the Bayesian posterior. Networks, any other
kernel function, or matrices: all lead to the same `Ensemble`. Notebooks 00 and 06 use it.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from .. import checks
from ..networks.kernel import Layer, kernel, nngp
from ..numerics import safe_sqrt
from ..pytrees import pytree, static
from .gaussian import (
    Gaussian,
    System,
    cholesky,
    condition,
    covariances,
    eigenroot,
    law_by_products,
    means,
    posterior_law,
)
from .gradient import Dynamics, gradient_flow
from .modes import rank_tolerance, refuse_indefinite
from .protocol import checked_times, kernel_at, one_number, rate_of, train_kernel


def lazy(make: Callable) -> Any:
    """A property computed at its first use, outside of any `jit` that runs then, and kept if its object is concrete."""

    def get(self):
        kept = self.__dict__.setdefault("kept", {})
        if make.__name__ in kept:
            return kept[make.__name__]
        if not checks.is_concrete(self):
            return make(self)
        # only where it is needed: it computes each constant inside a program by a program of its own
        with nullcontext() if checks.is_concrete(jnp.zeros(())) else jax.ensure_compile_time_eval():
            kept[make.__name__] = make(self)
        return kept[make.__name__]

    return property(get, doc=make.__doc__)


@pytree
class Ensemble:
    """Infinitely wide networks in training; see `ensemble` and `ensemble_from_kernels`."""

    net: Any  # None if it was made from matrices
    x_train: Any
    nngp: Any  # (n, n), the covariance of f_0(X)
    k: Any  # (n, n), the training kernel
    y: Any
    lr: Any  # in the units of the summed loss
    noise: Any
    train: str = static(default="all")

    @lazy
    def dynamics(self):
        """Gradient flow with the training kernel plus noise."""
        return gradient_flow(self._noisy_kernel(), self.y, lr=self.lr)

    @lazy
    def start(self):
        """((n, n) B with B B^T = nngp, is it triangular): by Cholesky, ten times faster, or by eigenvectors.

        The last layer's kernel is the NNGP (plus noise), whose eigenvectors are known.
        """
        if self.train == "last_layer":
            return self.dynamics.modes * self._diagonal()[None], False
        root, is_safe = cholesky(self.nngp)
        if checks.is_concrete(is_safe) and is_safe:
            return root, True
        root = eigenroot(self.nngp)
        refuse_indefinite(root, "the NNGP")
        return root, False

    @lazy
    def turned(self):
        """Q^T B, or its diagonal for the last layer, and Q^T y, with Q the eigenvectors of the training kernel."""
        Q, y = self.dynamics.modes, self.y.reshape(len(self.y), -1)
        return self._diagonal() if self.train == "last_layer" else Q.T @ self.start[0], Q.T @ y

    @lazy
    def posterior_root(self):
        """The Cholesky factor of the kernel plus noise, if training ends in the posterior and it is safe; or None."""
        if self.train == "last_layer" and checks.is_concrete(self) and self.lr > 0:
            root, is_safe = cholesky(self._noisy_kernel())
            return root if is_safe else None

    def predict(self, t: ArrayLike, x_test: ArrayLike | None = None, covariance: bool = True) -> Gaussian:
        """Mean and covariance at time t of the outputs at `x_test`, or at the training points without it.

        mean = A y,  covariance = K_xx - A K_Xx - K_xX A^T + A (K_XX + noise) A^T,
        A = k(x, X) gain_t(k(X, X) + noise),  with K the NNGP, and k the NTK (the NNGP for the last layer)

        t is a number or an array (T,), inf included. The products for the points of the last call are remembered.

        Raises:
            TypeError, ValueError: for times that are negative, or inputs with other features.

        Lee et al. 2019, section 2.3.
        """
        checked_times(t)  # before the kernels: predict(x_test) forgets the time
        return self.at(x_test).predict(t, covariance=covariance)

    def at(self, x_test: ArrayLike | None = None) -> "Conditioned":
        """The ensemble at given points: what does not depend on time is computed once, when it is first needed.

        The last points are remembered, if they are no more than those of training; that takes less than the ensemble.
        """
        if x_test is None:
            return Conditioned(self, None, None, None)
        if self.net is None:
            raise ValueError("Expected kernels, got inputs: this ensemble was made from matrices. Use at_kernels(...).")
        given, x_test = x_test, checks.as_array(x_test, "x_test")
        if x_test.shape[1:] != self.x_train.shape[1:]:
            raise ValueError(
                f"Expected x_test with the features of x_train, {self.x_train.shape[1:]}, got shape {x_test.shape}."
            )
        memory = self.__dict__.get("last")
        if memory and checks.is_concrete(x_test) and _is_same(memory[0], x_test):
            found = Conditioned(self, *memory[1])
            found.__dict__["kept"] = memory[2]
            return found
        cross = kernels_of(self.net, x_test, self.x_train, self.train)
        found = self.at_kernels(cross, kernels_of(self.net, x_test, None, "last_layer"))
        if checks.is_concrete(found, x_test) and len(x_test) <= len(self.x_train):
            parts = found.k, found.nngp_test_train, found.nngp_test
            # not `found` itself, which holds this ensemble: a circle of large arrays would wait for the collector
            mine = x_test if x_test is given else jnp.array(x_test, copy=True)  # numpy's memory may change
            self.__dict__["last"] = (mine, parts, found.__dict__.setdefault("kept", {}))
        return found

    def at_kernels(self, k_test_train: Any, k_test_test: Any = None) -> "Conditioned":
        """The ensemble at points given by their kernels with the training points, (m, n), and among themselves, (m, m).

        `k_test_train` has `.nngp` and `.ntk`, or is one matrix that stands for both; `k_test_test` is the NNGP, or has
        it. Without it there is no covariance.
        """
        dtype = self.nngp.dtype
        cross, k = (kernel_at(part, self.y).astype(dtype) for part in _pair(k_test_train, self.train))
        own = None
        if k_test_test is not None:
            own = checks.as_kernel_matrix(getattr(k_test_test, "nngp", k_test_test), "k_test_test").astype(dtype)
            if len(own) != len(k):
                raise ValueError(f"Expected k_test_test for {len(k)} test points, got shape {own.shape}.")
        return Conditioned(self, k, cross, own)

    def _noisy_kernel(self):
        return self.k + self.noise * jnp.eye(len(self.k), dtype=self.k.dtype)

    def _diagonal(self):
        eigenvalues = self.dynamics.eigenvalues
        left = eigenvalues - self.noise
        return safe_sqrt(jnp.where(left > rank_tolerance(eigenvalues[0], len(left)), left, 0))


@pytree
class Conditioned:
    """An ensemble at m points."""

    ensemble: Any
    k: Any  # (m, n), the training kernel with the training points; None, as the next two, at those points themselves
    nngp_test_train: Any  # (m, n)
    nngp_test: Any  # (m, m)

    def predict(self, t: ArrayLike, *, covariance: bool = True) -> Gaussian:
        """Mean and covariance at time t, or at many, (T,); see `Ensemble.predict`."""
        checks.one_of(covariance, "covariance", (True, False))
        if covariance and self.k is not None and self.nngp_test is None:
            raise ValueError("Expected k_test_test for a covariance, got none. Give it, or ask for covariance=False.")
        law = self._law(checked_times(t).astype(self.ensemble.y.dtype), covariance)
        if checks.is_concrete(law) and not all(map(checks.is_finite, jax.tree.leaves(law))):
            raise ValueError("Expected finite predictions, got NaN or infinity. Are the inputs scaled to order one?")
        return law

    def _law(self, t, covariance):
        made, k = self.ensemble, self.k
        is_end = checks.is_concrete(t, self) and t.ndim == 0 and bool(np.isinf(np.asarray(t)))
        if is_end and k is not None and made.posterior_root is not None:
            return Gaussian(*posterior_law(made.posterior_root, made.y, k, self.nngp_test if covariance else None))
        if not isinstance(made.dynamics, Dynamics):
            points = (made.k, made.nngp, made.nngp) if k is None else (k, self.nngp_test_train, self.nngp_test)
            return law_by_products(System(made.dynamics, made.noise, made.nngp, *points), t, covariance)
        made.dynamics._times(t)  # its errors and warnings
        system = System(made.dynamics, made.noise, made.nngp, k, self.nngp_test_train, self.nngp_test)
        turned = (self.turned, *made.turned)
        return Gaussian(
            means(system, turned, t), covariances(system, turned, self.conditional, t) if covariance else None
        )

    @lazy
    def turned(self):
        """k(x, X) Q, or Q itself at the training points."""
        Q = self.ensemble.dynamics.modes
        return Q if self.k is None else self.k @ Q

    @lazy
    def conditional(self):
        """(explained, covariance of the rest): f_0(x) given f_0(X) = B e; nothing at the training points."""
        return None if self.k is None else condition(*self.ensemble.start, self.nngp_test_train, self.nngp_test)


KERNELS = {"all": "ntk", "last_layer": "nngp"}


def ensemble(
    net: Layer | Callable,
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

    `net` is a network, or any function k(x1, x2) whose result has `.nngp` and `.ntk`, or is one matrix for both.
    `noise` is the variance of observation noise. Each network is trained on targets with its own draw of it, and
    is held to its start by noise/2 |theta - theta_0|^2 in the loss: with that, the last layer still ends in the exact
    posterior. `y_train` is (n,) or (n, o), and means have its rank; the loss is 1/2 sum |f - y|^2, over n for "mean".

    >>> import jax.numpy as jnp
    >>> from ntkbook import Dense, Erf, serial
    >>> made = ensemble(serial(Dense(8), Erf(), Dense(1)), jnp.eye(3), jnp.ones(3), lr=0.1)
    >>> made.predict(t=100.0, x_test=jnp.ones((2, 3))).std.shape
    (2,)

    Raises:
        TypeError, ValueError: as `kernel` and `gradient_flow`; for an unknown `train` and a `noise` that is not one
            number, zero or positive.

    Lee et al. 2019, section 2.3; noisy targets: Matthews et al. 2017; derived in notebook 06.
    """
    x_train = checks.as_array(x_train, "x_train")
    checks.one_of(train, "train", tuple(KERNELS))
    both = kernels_of(net, x_train, None, train)
    made = ensemble_from_kernels(both, y_train, lr=lr, reduction=reduction, train=train, noise=noise)
    return replace(made, net=net, x_train=x_train)


def ensemble_from_kernels(
    k_train_train: Any,
    y_train: ArrayLike,
    *,
    lr: ArrayLike = 1.0,
    reduction: str = "sum",
    train: str = "all",
    noise: ArrayLike = 0.0,
) -> Ensemble:
    """`ensemble` from kernel matrices: empirical ones, stored ones, or your own.

    `k_train_train` has `.nngp` and `.ntk`, each (n, n), or is one matrix that stands for both. Test points are given as
    `.at_kernels(k_test_train, k_test_test).predict(t)`.

    >>> import jax.numpy as jnp
    >>> made = ensemble_from_kernels(jnp.eye(2), jnp.ones(2), train="last_layer", noise=1.0)
    >>> law = made.at_kernels(jnp.array([[1.0, 0.0]]), jnp.eye(1)).predict(jnp.inf)
    >>> law.mean.round(6), law.covariance.round(6)
    (Array([0.5], dtype=...), Array([[0.5]], dtype=...))

    Raises:
        TypeError, ValueError: as `ensemble`.
    """
    checks.one_of(train, "train", tuple(KERNELS))
    nngp, k = _pair(k_train_train, train)
    k, y, _ = train_kernel(k, y_train)
    nngp = checks.as_kernel_matrix(nngp, "the NNGP").astype(k.dtype)
    if nngp.shape != k.shape:
        raise ValueError(f"Expected two kernels of the same points, got shapes {nngp.shape} and {k.shape}.")
    return Ensemble(None, None, nngp, k, y, rate_of(lr, reduction, y), one_number(noise, "noise", k.dtype), train)


def kernels_of(net: Any, x1: Array, x2: Array | None = None, train: str = "all") -> Any:
    """Something with `.nngp` and `.ntk` (or one matrix) from a network, or from any function k(x1, x2).

    The last layer needs no NTK, and gets one matrix from a network.
    """
    if isinstance(net, Layer) or not callable(net):
        return nngp(net, x1, x2) if train == "last_layer" else kernel(net, x1, x2)
    return net(x1, x1 if x2 is None else x2)


def _is_same(x1, x2):
    if x1 is x2 or (x1.shape, x1.dtype) != (x2.shape, x2.dtype):
        return x1 is x2
    with jax.ensure_compile_time_eval():
        return bool(jnp.array_equal(x1, x2))


def _pair(kernels, train):
    """(NNGP, training kernel) of an object that has both, or one matrix for both."""
    if not hasattr(kernels, "nngp"):
        return kernels, kernels
    return kernels.nngp, getattr(kernels, KERNELS[train])
