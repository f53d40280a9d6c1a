"""Proofs that examples stay apart: the library's networks have one, and what mixes examples never has."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkbook.finite.independence import stays_apart

W = np.random.default_rng(0).normal(size=(6, 6))
N = 3  # examples


def proven(f, *shape):
    return stays_apart(jax.make_jaxpr(f)(jnp.ones((N, *shape))))


@pytest.mark.parametrize("row", networks.NETWORKS, ids=repr)
def test_networks_of_the_library_are_proven(row):
    net = row.network(4, 2)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), (-1, *row.shape))[1])
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    assert proven(lambda x: net.apply(params, x).reshape(N, -1), *row.shape)


APART = {
    "a loop that carries what it has seen": lambda x: jax.lax.scan(
        lambda h, z: (jnp.tanh(h + z), h), jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1)
    )[0],
    "a program inside": lambda x: jax.jit(lambda x: jax.nn.relu(x) @ W)(x),
    "remembered for the gradient": lambda x: jax.checkpoint(lambda x: jnp.sin(x) @ W)(x),
    "logarithms of sums": lambda x: jax.nn.log_softmax(x, axis=-1) + jax.nn.logsumexp(x, axis=1, keepdims=True),
    "layer norm": lambda x: (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 1e-5),
    "one by one": jax.vmap(lambda x: jnp.linalg.norm(x) * W @ x),
    "padding and windows": lambda x: jax.lax.reduce_window(
        jnp.pad(x, ((0, 0), (1, 2))), -jnp.inf, jax.lax.max, (1, 3), (1, 2), "VALID"
    ),
}
MIXED = {
    "mean of the batch": lambda x: x - x.mean(0),
    "batch norm": lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5),
    "softmax over examples": lambda x: jax.nn.softmax(x, axis=0),
    "the largest": lambda x: x / jnp.abs(x).max(),
    "neighbours": lambda x: jnp.roll(x, 1, axis=0),
    "backwards": lambda x: x[::-1],
    "sorted": lambda x: jnp.sort(x, axis=0),
    "so far": lambda x: jnp.cumsum(x, axis=0),
    "attention over the batch": lambda x: jax.nn.softmax(x @ x.T) @ x,
    "shuffled by a reshape": lambda x: x.reshape(6, N).T.reshape(N, 6),
    "moved along": lambda x: jnp.concatenate([x[1:], x[:1]]),
    "padded": lambda x: jnp.pad(x[1:], ((1, 0), (0, 0))),
    "a loop over examples": lambda x: jax.lax.scan(lambda h, z: (h + z, h), jnp.zeros(6), x)[1],
    "a loop that sums them": lambda x: jax.lax.scan(lambda h, _: (h + x.sum(0), None), x, None, length=2)[0],
    "windows over the batch": lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (3, 1), (1, 1), "SAME"),
    "convolution over the batch": lambda x: jax.lax.conv(x.T[None], jnp.ones((6, 6, 3)), (1,), "SAME")[0].T,
    "gathered": lambda x: x[jnp.array([0, 0, 1])],
    "in a program inside": lambda x: jax.jit(lambda x: x + x.sum(0))(x),
}


@pytest.mark.parametrize("f", APART.values(), ids=APART)
def test_what_stays_apart_is_proven(f):
    assert proven(f, 6)


@pytest.mark.parametrize("f", MIXED.values(), ids=MIXED)
def test_what_mixes_is_not(f):
    assert not proven(f, 6)


def test_nor_is_an_output_without_the_axis_of_the_examples():
    for f in (lambda x: jnp.ones((N, 2)), lambda x: x.T @ x, lambda x: x.T):
        assert not proven(f, 6)


axes, maps = st.integers(0, 2), [jnp.tanh, lambda x: x * x, lambda x: jnp.where(x > 0, x, 0.1 * x)]
operations = st.one_of(
    st.sampled_from(maps),
    st.permutations(range(3)).map(lambda order: lambda x: x.transpose(order)),
    axes.map(lambda a: lambda x: x + x.sum(a, keepdims=True)),
    axes.map(lambda a: lambda x: x.max(a, keepdims=True) * x),
    axes.map(lambda a: lambda x: jnp.cumsum(x, a)),
    axes.map(lambda a: lambda x: jnp.flip(x, a)),
    axes.map(lambda a: lambda x: jax.nn.softmax(x, a)),
    axes.map(lambda a: lambda x: jnp.concatenate([x, x * x], a)),
    axes.map(lambda a: lambda x: jax.lax.slice_in_dim(x, 1, None, axis=a) if x.shape[a] > 1 else x),
    axes.map(lambda a: lambda x: jnp.moveaxis(jnp.tensordot(jnp.cos(jnp.ones((3, x.shape[a]))), x, (1, a)), 0, a)),
    st.permutations(range(3)).map(lambda order: lambda x: x.reshape(tuple(x.shape[i] for i in order))),
    st.sampled_from(["aij,akj->aik", "iaj,kaj->iak", "ija,kja->ika", "aij,bij->abi", "iaj,ibj->abi"]).map(
        lambda words: lambda x: jnp.einsum(words, x, x)
    ),
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.lists(operations, min_size=1, max_size=4), st.sampled_from([(N, 2, 4), (N, 3, 3), (N, 1, 2)]))
def test_a_proof_is_never_wrong(chain, shape):
    """Oracle: another second example leaves the other rows of the output as they were."""

    def f(x):
        for operation in chain:
            x = operation(x)
        return x

    x, other = np.random.default_rng(1).normal(size=(2, *shape))
    if stays_apart(jax.make_jaxpr(f)(jnp.asarray(x))):
        with jax.disable_jit():
            before = np.asarray(f(jnp.asarray(x)))
            after = np.asarray(f(jnp.asarray(np.stack([x[0], other[1], x[2]]))))
        assert len(before) == N
        np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
