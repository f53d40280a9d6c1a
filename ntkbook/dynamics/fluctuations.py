"""How far one finite network is from the average one: empirical kernels over seeds, and the variance theory predicts.

At width n the tangent kernel at initialization is random, with a relative variance of order depth/n. Notebook 03 takes
the mean over seeds beside the infinite-width kernel.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..finite.empirical import empirical_ntk
from ..finite.functions import Examples, as_function, init_and_apply, initial_params
from ..pytrees import pytree


@pytree
class KernelStatistics:
    """Over seeds: the mean kernel, the standard error of that mean, and the variance of one network's kernel."""

    mean: Any  # (n1, n2)
    standard_error: Any
    variance: Any
    n_networks: Any


def empirical_ntk_statistics(
    net: Any, key: Array, n_networks: int, x1: Examples, x2: Examples | None = None, *, memory: int = 2**29
) -> KernelStatistics:
    """Mean, standard error and variance of the empirical NTK of `net` over `n_networks` initializations.

    variance = sum over seeds of (Theta_s - mean)^2 / (n_networks - 1),  standard_error = sqrt(variance / n_networks)

    net: a network of this library or an (init_fn, apply_fn) pair; kernels are averages over the outputs.

    Raises:
        TypeError, ValueError: as `empirical_ntk`; ValueError for fewer than two networks.

    Lee et al. 2019, section 3, on Monte Carlo estimates of the kernels.
    """
    checks.positive_int(n_networks, "n_networks")
    if n_networks < 2:
        raise ValueError("Expected at least two networks for a standard error, got 1.")
    init, apply = map(as_function, init_and_apply(net))
    x1 = checks.as_array(x1, "x1")
    x2 = x2 if x2 is None else checks.as_array(x2, "x2")
    keys = jax.random.split(key, n_networks)
    draw = lambda keys: initial_params(init, keys, x1)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(draw, keys[:1])))
    count = max(1, -(-8 * size * len(x1) * n_networks // memory))
    chunk = -(-n_networks // min(count, n_networks))
    kernels = []
    for start in range(0, n_networks, chunk):
        start = min(start, n_networks - chunk)  # equal chunks compile once; what overlaps is the same
        kernels.append(_kernels(apply, draw(keys[start : start + chunk]), x1, x2))
    missing = n_networks - chunk * (len(kernels) - 1)
    kernels = jnp.concatenate([*kernels[:-1], kernels[-1][-missing:]])
    variance = kernels.var(0, ddof=1)
    return KernelStatistics(kernels.mean(0), jnp.sqrt(variance / n_networks), variance, n_networks)


def relu_ntk_variance(width: ArrayLike, depth: ArrayLike) -> Float[Array, "..."]:
    """Var Theta(x, x) / E[Theta(x, x)]^2 of a ReLU network at initialization, to first order in 1/width.

    (5 (L - 1) - 4 (L^2 - 1) / (3 L)) / width, with L = depth + 1 affine layers, `depth` equal hidden widths,
    W_std^2 = 2, no biases and one output. It grows as 11/3 depth/width; the bound of Hanin and Nica is
    exp(5 depth/width) up to constants, and should be read with them.

    Hanin and Nica 2019, Theorem 1, for the order.
    """
    checks.positive_count(depth, "depth")
    checks.positive_count(width, "width")
    depth, width = (jnp.asarray(a).astype(jnp.result_type(float)) for a in (depth, width))
    L = depth + 1
    return (5 * (L - 1) - 4 * (L**2 - 1) / (3 * L)) / width


@jax.jit
def _kernels(apply, params, x1, x2):
    return jax.vmap(lambda params: empirical_ntk(apply, params, x1, x2))(params)
