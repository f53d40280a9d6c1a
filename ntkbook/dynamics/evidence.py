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
from ..pytrees import pytree, tunable, with_tunable
from .modes import one_precision
from .protocol import one_number


def log_marginal_likelihood(
    net: Layer, x: ArrayLike, y: ArrayLike, *, noise: ArrayLike, get: str = "nngp"
) -> Float[Array, ""]:
    """log p(y | x) under a Gaussian process with the network's kernel and observation noise of variance `noise`.

    -1/2 y^T (K + noise)^{-1} y - 1/2 log |K + noise| - n/2 log 2 pi,  summed over the outputs of y, (n,) or (n, o)

    Differentiable in the leaves of `net` and in `noise`: in forward mode for every network (`jax.jacfwd`), in reverse
    mode for those without a traced depth. With get="ntk" it is the evidence of the process whose covariance is the NTK.

    >>> from ntkbook import Dense
    >>> print(f"{log_marginal_likelihood(Dense(1), jnp.zeros((1, 2)), jnp.zeros(1), noise=1.0):.3f}")
    -0.919

    Raises:
        TypeError, ValueError: as `kernel`; for a `noise` that is not one number, zero or positive, and targets of
            another length; ValueError if K + noise is not positive definite.

    Rasmussen and Williams 2006, eq. 2.30.
    """
    checks.one_of(get, "get", ("nngp", "ntk"))
    y, k = checks.as_array(y, "y", ndim=(1, 2)), getattr(kernel(net, checks.as_array(x, "x")), get)
    checks.same_length(len(k), y, "y")
    evidence = _evidence(k, y, one_number(noise, "noise", y.dtype))
    if checks.is_concrete(evidence) and not jnp.isfinite(evidence):
        raise ValueError(
            f"Expected a kernel plus noise that is positive definite, got a singular one with noise={noise}. "
            "Equal inputs? Raise noise, or use float64."
        )
    return evidence


@jax.jit
def _evidence(k, y, noise):
    k, y = one_precision(k, y.reshape(len(y), -1))
    root = jnp.linalg.cholesky(k + jnp.asarray(noise).astype(k.dtype) * jnp.eye(len(y), dtype=k.dtype))
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


def fit(
    net: Layer,
    x: ArrayLike,
    y: ArrayLike,
    noise: ArrayLike = 0.1,
    *,
    get: str = "nngp",
    steps: int = 100,
    optimizer: Any = None,
    progress: bool = False,
) -> Fit:
    """Learn the numbers of `net` that may be tuned, and the noise, by maximizing the evidence.

    By default L-BFGS, until the evidence no longer grows; or any optax `optimizer`, for `steps` steps. The noise moves
    on a log scale above a floor of rounding. What may be tuned says its field (`tunable(net)` lists it): not depths,
    nor the epsilon of a `LayerNorm`. A bias scale that starts at exactly 0 stays there, as only its square matters.

    >>> from ntkbook import Dense
    >>> x = jnp.array([[-1.0], [0.5], [1.0]])
    >>> found = fit(Dense(1), x, 2 * x[:, 0] + 0.1, noise=0.1)
    >>> bool(found.evidence[-1] > found.evidence[0]), sorted(found.path)
    (True, ['W_std', 'b_std', 'noise'])

    Raises:
        TypeError, ValueError: as `log_marginal_likelihood`; ValueError for a noise that is not positive.
    """
    import optax
    from tqdm.auto import tqdm

    checks.positive_int(steps, "steps")
    if optimizer is not None and not (callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")):
        raise TypeError(f"Expected an optimizer of optax, such as optax.adam(0.1), got {checks.describe(optimizer)}.")
    start = float(log_marginal_likelihood(net, x, y, noise=noise, get=get))  # all checks of the arguments
    if not noise > 0:  # pyright: ignore
        raise ValueError(f"Expected a positive noise to start from, got {noise}.")
    x, y = checks.as_array(x, "x"), checks.as_array(y, "y")
    tuned = tunable(net)
    names = [number.path for number in tuned]
    floor = 1e4 * float(jnp.finfo(y.dtype).eps) * float(jnp.diagonal(getattr(kernel(net, x), get)).mean())
    log_noise = np.log(max(float(noise) - floor, floor * 1e-3))  # pyright: ignore
    bounds = np.array([(number.low, number.high) for number in tuned] + [(-np.inf, np.inf)]).T
    theta = jnp.asarray([*(float(number.value) for number in tuned), log_noise], y.dtype)
    loss = lambda theta: -_evidence_at(theta, net, x, y, floor, get)
    search = optax.with_extra_args_support(optax.lbfgs() if optimizer is None else optimizer)

    @jax.jit
    def step(theta, state):
        value, slope = jax.value_and_grad(loss)(theta)
        with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in whole numbers
            change, state = search.update(slope, state, theta, value=value, grad=slope, value_fn=loss)
            theta = jnp.clip(optax.apply_updates(theta, change), *bounds.astype(theta.dtype))  # pyright: ignore
        return theta, state, -loss(theta)

    state, trail, evidence = search.init(theta), [theta], [start]
    for _ in tqdm(range(steps), disable=not progress, desc="evidence"):
        theta, state, value = step(theta, state)
        if not (jnp.isfinite(theta).all() and jnp.isfinite(value)):
            raise ValueError(
                f"Expected a finite evidence on the way, got {value} at {[*names, 'log noise']} = {theta}."
            )
        trail.append(theta)
        evidence.append(float(value))
        if optimizer is None and evidence[-1] - evidence[-2] <= 1e-9 * abs(evidence[-1]):
            break
    path = np.array(trail, float)
    path[:, -1] = floor + np.exp(path[:, -1])
    scales = [name.endswith("_std") for name in names] + [False]
    path[:, scales] = np.abs(path[:, scales])  # only their squares matter
    *best, best_noise = map(float, path[np.argmax(evidence)])
    return Fit(with_tunable(net, best), best_noise, np.array(evidence), dict(zip([*names, "noise"], path.T)))


def _evidence_of(theta, net, x, y, floor, get):
    k = getattr(kernel(with_tunable(net, list(theta[:-1])), x), get)
    return _evidence(k, y, floor + jnp.exp(theta[-1]))


def _with_slope(theta, *others):
    """Few numbers and possibly a depth that is traced: forward mode, also where an optimizer asks for the reverse."""
    value = lambda theta: (_evidence_of(theta, *others),) * 2
    slope, value = jax.jacfwd(value, has_aux=True)(theta)
    return value, slope


_evidence_at = jax.custom_vjp(_evidence_of, nondiff_argnums=(5,))
_evidence_at.defvjp(_with_slope, lambda get, slope, change: (change * slope, None, None, None, None))
