"""Finite networks against their kernels: Monte Carlo over seeds with a standard error, on every row of networks.py.

NNGP: the average of f(x) f(x') over outputs and seeds. NTK: that of the Jacobians' products, by `jax.jacrev` here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

import ntkbook as nb

pytestmark = pytest.mark.slow

OUTPUTS = 64
BATCH = 16  # seeds at a time, to bound memory


@partial(jax.jit, static_argnames="net")
def samples(net, x, params):
    """Per seed: f f^T / outputs, and the tangent kernel of one output, each (seeds, n, n)."""

    def one(params):
        f = net.value.apply(params, x)
        f = f.reshape(len(x), -1, OUTPUTS)  # positions that are left come before the outputs
        rows = jax.jacrev(lambda params: net.value.apply(params, x).reshape(len(x), -1, OUTPUTS)[:, 0, 0])(params)
        rows = jnp.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(rows)], axis=1)
        return f[:, 0] @ f[:, 0].T / OUTPUTS, rows @ rows.T

    return jax.lax.map(one, params, batch_size=BATCH)


def drawn(row, net):
    """Parameters of all seeds: in NTK parameterization all are N(0, 1), and numpy draws them without compiling."""
    init = lambda key: net.init(key, (-1, *row.shape))[1]
    if row.drawn_by_init:
        return jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), row.seeds))
    shapes, rng = jax.eval_shape(init, jax.random.key(0)), np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal((row.seeds, *leaf.shape)), shapes)


class Static:
    """A network as a static argument: its numbers are compiled in."""

    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize("row", [row for row in networks.NETWORKS if row.sampled], ids=repr)
def test_average_over_seeds_is_the_kernel(row, request):
    if len(row.shape) > 1:  # layers with positions run much longer without optimizations; dense ones mostly compile
        request.getfixturevalue("optimized")
    x = jnp.asarray(row.inputs(3))
    net = row.network(row.width, OUTPUTS)
    k = nb.kernel(net, x)
    exact = np.stack([k.nngp, k.ntk])
    exact = exact.reshape(2, 3, 3, -1)[..., 0]  # the first position, where positions are left
    found = np.stack(samples(Static(net), x, drawn(row, net)), 1)
    mean, standard_error = found.mean(0), found.std(0, ddof=1) / np.sqrt(row.seeds)
    size = np.abs(exact).max((1, 2), keepdims=True)
    excess = np.abs(mean - exact) - 4 * standard_error - row.bias * size
    assert (excess <= 0).all(), f"off by {excess.max():.3g} beyond 4 standard errors and the bias of this width"
