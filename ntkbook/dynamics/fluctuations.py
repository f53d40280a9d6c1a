"""How far one finite network is from the average one: empirical kernels over seeds, and the variance theory predicts.

At width n the kernels at initialization are random, with a relative variance of order depth/n. Notebook 03 takes the
mean over seeds beside the infinite-width kernel.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..finite.empirical import kernel_of, nngp_of
from ..finite.functions import Examples, count, init_and_apply, initial_params, prepare_many, two_examples
from ..pytrees import pytree


@pytree
class KernelStatistics:
    """Over seeds: the mean kernel, the standard error of that mean, and the variance of one network's kernel."""

    mean: Any  # (n1, n2)
    standard_error: Any
    variance: Any
    n_networks: Any

    def __repr__(self) -> str:
        return f"KernelStatistics(a mean of shape {jnp.shape(self.mean)} over {self.n_networks} networks)"


def monte_carlo_kernel(
    net: Any,
    key: Array,
    n_networks: int,
    x1: Examples,
    x2: Examples | None = None,
    *,
    get: str = "ntk",
    memory: int = 2**29,
) -> KernelStatistics:
    """Estimate of the infinite-width kernel of any network: empirical kernels averaged over initializations.

    variance = sum over seeds of (K_s - mean)^2 / (n_networks - 1),  standard_error = sqrt(variance / n_networks)

    net: a network of this library or an (init_fn, apply_fn) pair, of whatever layers. `get="nngp"` averages
    f(x1) f(x2)^T / o, whose mean is unbiased at any width if the last layer is; `get="ntk"` the tangent kernel averaged
    over the outputs. The same `key` draws the same networks for both.

    >>> init = lambda key, shape: (shape, jax.random.normal(key, (2, 1)))
    >>> found = monte_carlo_kernel((init, lambda w, x: x @ w), jax.random.key(0), 3, jnp.eye(2))
    >>> found
    KernelStatistics(a mean of shape (2, 2) over 3 networks)
    >>> found.mean.tolist(), found.standard_error.tolist()  # the same NTK for all seeds
    ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])

    Raises:
        TypeError, ValueError: as `empirical_ntk`; ValueError for fewer than two networks.

    Lee et al. 2019, section 3, on Monte Carlo estimates of the kernels.
    """
    checks.positive_int(n_networks, "n_networks")
    checks.one_of(get, "get", ("nngp", "ntk"))
    checks.one_key(key)
    checks.single_number(memory, "memory", low=0.0)
    if n_networks < 2:
        raise ValueError("Expected at least two networks for a standard error, got 1.")
    init, apply = init_and_apply(net)
    x1, x2 = two_examples(x1, x2)
    params = initial_params(init, jax.random.split(key, n_networks), x1)
    row, thetas, _ = prepare_many(apply, params, x1)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(thetas))  # of all networks
    batch = max(1, min(n_networks, int(memory * n_networks / (8 * size * count(x1)))))
    kernels = _kernels(row, thetas, x1, x2, get=get, batch=batch)
    variance = kernels.var(0, ddof=1)
    return KernelStatistics(kernels.mean(0), jnp.sqrt(variance / n_networks), variance, n_networks)


def empirical_ntk_statistics(
    net: Any, key: Array, n_networks: int, x1: Examples, x2: Examples | None = None, *, memory: int = 2**29
) -> KernelStatistics:
    """`monte_carlo_kernel` of the NTK.

    Raises:
        TypeError, ValueError: as `monte_carlo_kernel`.
    """
    return monte_carlo_kernel(net, key, n_networks, x1, x2, get="ntk", memory=memory)


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


def _kernels(row, thetas, x1, x2, *, get, batch):
    """The kernel of each network, `batch` networks in one call of one program.

    A `lax.map` over such batches gives wrong kernels of attention layers on CPU (XLA of jaxlib 0.10.2).
    """
    cut = lambda start: jax.tree.map(lambda leaf: leaf[start : start + batch], thetas)
    n = len(jax.tree.leaves(thetas)[0])
    return jnp.concatenate([_batch(row, cut(start), x1, x2, get=get) for start in range(0, n, batch)])


@functools.partial(jax.jit, static_argnames="get")
def _batch(row, thetas, x1, x2, *, get):
    ntk = functools.partial(kernel_of, row, x1=x1, x2=x2, method="auto", full=False, memory=2**29)
    return jax.vmap((lambda theta: nngp_of(row, theta, x1, x2)) if get == "nngp" else ntk)(thetas)
