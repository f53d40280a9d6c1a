"""The tangent kernel layer by layer, without a Jacobian.

For a linear layer z = W a the gradient of the output by W is the outer product of what came in, a, and what comes back,
d = df/dz. The product of two such gradients is a product of two small numbers, <a, a'> <d, d'>: n^2 (p + q) work
in place of n^2 p q. What is no linear layer (offsets, gains, shared arrays) is differentiated in the usual way.

Sum over layers of <d, d'> (W_std^2 <a, a'>/n + b_std^2) for a dense network; derived in notebook 03. With positions s
(convolution, attention) <a_s, a'_t> <d_s, d'_t> is summed over pairs of positions, or a and d are contracted first,
whichever costs less.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from . import taps

Features = list[Any]  # a pair (a, d), or the outer product, for each layer; then plain gradients, (n, o, ...)


class Layerwise(NamedTuple):
    """`features(x)`, and the kernel of two sets of features; estimates in multiplications and bytes."""

    features: Callable[[Any], Features]
    contract: Callable[..., Array]
    last: set[int]  # the parameter arrays of the last layer
    bytes_per_example: int
    bytes_per_pair: int
    cost_per_pair: int
    cost_of_forward: int  # of one example


def layerwise(f: Callable, theta: list[Array], x: Any, n: int, full: bool) -> Layerwise:
    """The method for f(theta, x) -> (o,); x is an example or its shape, n how many there will be."""
    program = jax.make_jaxpr(f)(theta, x)
    (result,) = program.out_avals
    o, dtype = result.size, result.dtype
    layers, last = taps.survey(program, len(theta))
    tapped = {layer.leaf for layer in layers}
    rest = [i for i in range(len(theta)) if i not in tapped]
    is_outer = [_prefers_outer(layer, o, n, full) for layer in layers]

    def features(xs: Any) -> Features:
        inputs, signals, gradients = jax.vmap(example)(xs)
        outer = lambda a, d: jnp.einsum("nbsp,nobsq->nobpq", a, d)  # gradients by W
        return [outer(a, d) if o else (a, d) for o, a, d in zip(is_outer, inputs, signals)] + gradients

    def example(x: Any):
        read = []

        def tapped_run(probes, free):
            leaves = list(theta)
            for i, leaf in zip(rest, free):
                leaves[i] = leaf
            out, inputs, read[:] = taps.run(program, leaves, jax.tree.leaves(x), layers, probes)
            return out, inputs

        probes = [jnp.zeros(layer.shape, layer.dtype) for layer in layers]
        out, pull, inputs = jax.vjp(tapped_run, probes, [theta[i] for i in rest], has_aux=True)
        back, gradients = jax.vmap(pull)(jnp.eye(o, dtype=dtype))
        signals = [jax.vmap(to_d)(d) for to_d, d in zip(read, back)]
        return jax.tree.map(lambda a: a.astype(dtype), (inputs, signals, gradients))

    def contract(f1: Features, f2: Features, only: set[int] | None = None) -> Array:
        leaves = [*(layer.leaf for layer in layers), *rest]
        parts = [_part(u, v, full) for leaf, u, v in zip(leaves, f1, f2) if only is None or leaf in only]
        n1, n2 = (len(jax.tree.leaves(f)[0]) for f in (f1, f2))
        nothing = jnp.zeros((n1, n2, o, o) if full else (n1, n2), dtype)
        return sum(parts, nothing) / (1 if full else o)

    free = sum(theta[i].size for i in rest)
    sizes = [layer.sizes for layer in layers]
    pair_costs = [_pair_cost(s, o, full, outer) for s, outer in zip(sizes, is_outer)]
    kept = [o * B * p * q if outer else B * S * (p + o * q) for (B, S, p, q), outer in zip(sizes, is_outer)]
    work = [B * S * S * (1 + (o * o if full else 1)) for (B, S, _, _), outer in zip(sizes, is_outer) if not outer]
    return Layerwise(
        features,
        contract,
        last,
        bytes_per_example=dtype.itemsize * (sum(kept) + o * free + 2 * o * sum(B * S * q for B, S, _, q in sizes)),
        bytes_per_pair=dtype.itemsize * max(work, default=1),
        cost_per_pair=sum(pair_costs) + (o * o if full else o) * free,
        cost_of_forward=sum(B * S * p * q for B, S, p, q in sizes) + free,
    )


def _pair_cost(sizes: tuple[int, int, int, int], o: int, full: bool, outer: bool) -> int:
    B, S, p, q = sizes
    outputs = o * o if full else o
    # sums over pairs of positions move much memory for little arithmetic
    return outputs * B * p * q if outer else B * S * S * (p + outputs * q + (8 * (1 + outputs // o) if S > 1 else 1))


def _prefers_outer(layer: taps.Layer, o: int, n: int, full: bool) -> bool:
    B, S, p, q = layer.sizes
    forming = o * B * S * p * q / n
    return forming + _pair_cost(layer.sizes, o, full, True) < _pair_cost(layer.sizes, o, full, False)


def _rows(g1: Array, g2: Array, full: bool) -> Array:
    """Products of gradients, (n, o, ...): those of all pairs of outputs, or their sum over equal ones."""
    if not full:
        return g1.reshape(len(g1), -1) @ g2.reshape(len(g2), -1).T
    flat = lambda g: g.reshape(*g.shape[:2], -1)
    return jnp.einsum("iap,jcp->ijac", flat(g1), flat(g2))


def _part(u: Any, v: Any, full: bool) -> Array:
    """What one layer, or one parameter array, adds to the kernel."""
    if not isinstance(u, tuple):
        return _rows(u, v, full)
    (a1, d1), (a2, d2) = u, v
    if a1.shape[1] == a1.shape[2] == 1:
        inputs = _rows(a1, a2, False)
        return (inputs[:, :, None, None] if full else inputs) * _rows(d1, d2, full)
    inputs = jnp.einsum("ibsp,jbtp->bisjt", a1, a2)
    if full:
        return jnp.einsum("bisjt,biasjct->ijac", inputs, jnp.einsum("iabsq,jcbtq->biasjct", d1, d2))
    return (inputs * jnp.einsum("iobsq,jobtq->bisjt", d1, d2)).sum((0, 2, 4))
