"""The evidence of a network's kernel, and the hyperparameters that maximize it.

log p(y | X) of the Gaussian process with the network's kernel is differentiable in every number of the network: W_std,
b_std, slopes and noise can be learned from the training set alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..networks.kernel import Layer, kernel
from ..pytrees import pytree


def log_marginal_likelihood(
    net: Layer, x: ArrayLike, y: ArrayLike, *, noise: ArrayLike, get: str = "nngp"
) -> Float[Array, ""]:
    """log p(y | x) under a Gaussian process with the network's kernel and observation noise of variance `noise`.

    -1/2 y^T (K + noise)^{-1} y - 1/2 log |K + noise| - n/2 log 2 pi,  summed over the outputs of y, (n,) or (n, o)

    Differentiable in the leaves of `net` and in `noise`: in forward mode for every network (`jax.jacfwd`), in reverse
    mode for those without a traced depth. With get="ntk" it is the evidence of the process whose covariance is the NTK.

    Raises:
        TypeError, ValueError: as `kernel`; for a negative `noise` and targets of another length; ValueError if
            K + noise is not positive definite.

    Rasmussen and Williams 2006, eq. 2.30.
    """
    checks.one_of(get, "get", ("nngp", "ntk"))
    checks.non_negative(noise, "noise")
    x, y = checks.as_array(x, "x"), checks.as_array(y, "y", ndim=(1, 2))
    checks.same_length(x.shape[0], y, "y")
    evidence = _evidence(getattr(kernel(net, x), get), y, noise)
    if checks.is_concrete(evidence) and not np.isfinite(np.asarray(evidence)):
        raise ValueError(
            f"Expected a kernel plus noise that is positive definite, got a singular one with noise={noise}. "
            "Equal inputs? Raise noise, or use float64."
        )
    return evidence


@jax.jit
def _evidence(k, y, noise):
    dtype = jnp.promote_types(k.dtype, y.dtype)
    y = y.astype(dtype).reshape(len(y), -1)
    root = jnp.linalg.cholesky(k.astype(dtype) + jnp.asarray(noise).astype(dtype) * jnp.eye(len(y), dtype=dtype))
    whitened = solve_triangular(root, y, lower=True)
    log_det = 2 * jnp.log(jnp.diagonal(root)).sum()
    return -jnp.square(whitened).sum() / 2 - y.shape[1] * (log_det + len(y) * np.log(2 * np.pi)) / 2


@pytree
class Fit:
    """The best network found by `fit`, and how it was found."""

    net: Any
    noise: Any
    evidence: Any  # (steps + 1,), log marginal likelihood after each step
    path: dict[str, Any]  # name of a hyperparameter -> its value after each step

    def plot(self, axes: Any = None) -> Any:
        """The path on two axes, evidence and hyperparameters; returns the axes."""
        if axes is None:
            import matplotlib.pyplot as plt

            _, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
        axes[0].plot(self.evidence, color="#CC79A7")
        axes[0].set(xlabel="step", ylabel="log marginal likelihood (nats)")
        for (name, values), style in zip(self.path.items(), ("-", "--", "-.", ":") * len(self.path)):
            axes[1].plot(values, style)
            axes[1].annotate(name, (len(values) - 1, values[-1]))
        axes[1].set(xlabel="step", ylabel="hyperparameter")
        return axes


def fit(
    net: Layer,
    x: ArrayLike,
    y: ArrayLike,
    *,
    noise: float = 0.1,
    get: str = "nngp",
    steps: int = 100,
    optimizer: Any = None,
    progress: bool = False,
) -> Fit:
    """Learn every real number of `net`, and the noise, by maximizing the evidence.

    By default L-BFGS-B of scipy, which stops when it has converged; or any optax `optimizer`, for `steps` steps. The
    noise moves on a log scale. Whole numbers (the times of `Repeat`) stay. A bias scale that starts at
    exactly 0 stays there, as only its square matters.

    Raises:
        TypeError, ValueError: as `log_marginal_likelihood`; ValueError for a noise that is not positive.
    """
    checks.positive_int(steps, "steps")
    start = float(log_marginal_likelihood(net, x, y, noise=noise, get=get))  # all checks of the arguments
    if not noise > 0:
        raise ValueError(f"Expected a positive noise to start from, got {noise}.")
    x, y = checks.as_array(x, "x"), checks.as_array(y, "y")
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(net)]
    tuned = [(name, float(leaf)) for name, leaf in leaves if _is_tuned(leaf)]
    names, values = [name.lstrip(".") for name, _ in tuned] + ["noise"], [value for _, value in tuned]
    theta = np.array([*values, np.log(noise)])
    floor = np.log(1e4 * float(jnp.finfo(y.dtype).eps) * float(jnp.diagonal(getattr(kernel(net, x), get)).mean()))

    def value_and_slope(theta):
        slope, value = _slope_and_value(jnp.asarray(theta).astype(y.dtype), net, x, y, get)
        if not np.isfinite(np.asarray(slope)).all():
            raise ValueError(f"Expected a finite evidence on the way, got {value} at {dict(zip(names, theta))}.")
        return float(value), np.asarray(slope, float)

    trail = [(theta, start)]
    search = _by_scipy if optimizer is None else _by_optax
    search(value_and_slope, theta, floor, steps, optimizer, trail, progress)
    path = np.array([theta for theta, _ in trail])
    path[:, -1] = np.exp(path[:, -1])
    scales = [name.endswith("_std") for name in names]
    path[:, scales] = np.abs(path[:, scales])  # only their squares matter
    evidence = np.array([value for _, value in trail])
    best = path[evidence.argmax()]
    return Fit(
        _with_numbers(net, [float(number) for number in best[:-1]]), float(best[-1]), evidence, dict(zip(names, path.T))
    )


def _by_scipy(value_and_slope, theta, floor, steps, _, trail, progress):
    from scipy.optimize import minimize

    bar = _bar(steps, progress)
    bounds = [(None, None)] * (len(theta) - 1) + [(floor, None)]

    def record(theta):
        trail.append((theta.copy(), value_and_slope(theta)[0]))
        bar.update()

    negative = lambda theta: tuple(-part for part in value_and_slope(theta))
    minimize(negative, theta, jac=True, method="L-BFGS-B", bounds=bounds, callback=record, options={"maxiter": steps})
    bar.close()


def _by_optax(value_and_slope, theta, floor, steps, optimizer, trail, progress):
    import optax

    bar = _bar(steps, progress)
    state = optimizer.init(jnp.asarray(theta))
    for _ in range(steps):
        _, slope = value_and_slope(theta)
        with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in whole numbers
            change, state = optimizer.update(jnp.asarray(-slope), state, jnp.asarray(theta))
        theta = np.array(optax.apply_updates(jnp.asarray(theta), change), float)
        theta[-1] = max(theta[-1], floor)
        trail.append((theta, value_and_slope(theta)[0]))
        bar.update()
    bar.close()


def _bar(steps, progress):
    from tqdm.auto import tqdm

    return tqdm(total=steps, disable=not progress, desc="evidence")


def _is_tuned(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.ndim(leaf) == 0


def _with_numbers(net, numbers):
    leaves, tree = jax.tree.flatten(net)
    numbers = iter(numbers)
    return jax.tree.unflatten(tree, [next(numbers) if _is_tuned(leaf) else leaf for leaf in leaves])


def _evidence_at(theta, net, x, y, get):
    net = _with_numbers(net, [theta[i] for i in range(len(theta) - 1)])
    value = _evidence(getattr(kernel(net, x), get), y, jnp.exp(theta[-1]))
    return value, value


# Few numbers and possibly a depth that is traced: forward mode
_slope_and_value = jax.jit(jax.jacfwd(_evidence_at, has_aux=True), static_argnames="get")
