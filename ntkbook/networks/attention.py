"""Self-attention with infinitely many heads, for sequences (n, s, channels); images are sequences of their pixels.

Which positions look at which is itself made by random weights. With 1/d scaling and shared query and key weights
the attention matrix becomes deterministic as the key width grows; with 1/sqrt(d) its entries stay Gaussian, and
averages of their zeta are duals of activations again. Hron et al. 2020 (arXiv:2006.10540); the
NTK for 1/sqrt(d) scaling and any elementwise zeta follows from the same limit and is held against finite networks.
"""

# pyright: reportGeneralTypeIssues=false

from functools import reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import checks
from ..pytrees import number, pytree, static
from .activations import Activation, Identity, Relu
from .kernel import Layer
from .layers import plus_bias, standard_normals
from .positions import as_images, as_sequence, diagonal, exact_einsum
from .signals import Signals, distance_of_covariances, like, own_variances

ZETAS = {"identity": Identity(), "relu": Relu()}


@pytree
class SelfAttention(Layer):
    """concat over heads of zeta(G) V, times W_O, plus a bias; G = scale * Q K^T, with Q, K, V linear in the inputs.

    - scaling="linear": scale 1/key_width, and the keys use the query weights (apart, G would vanish)
    - scaling="sqrt": scale 1/sqrt(key_width), independent query and key weights
    - zeta: "softmax" (over the attended positions; linear scaling only), "identity", "relu", or an activation layer

    All weights are N(0, 1), with the standard deviations of the arguments over the square root of the fan-in.
    `position_std` adds to the inputs of queries and keys, not of values, an untrained Gaussian encoding with covariance
    position_std^2 R, R_ij = exp(-position_decay |i - j|), or R = 1 for `position_decay=None`: the latter alone for
    images. In kernels it is uncorrelated with the inputs, as over many channels: put Dense before if they have few.
    """

    width: int = static(least=1)
    heads: int = static(default=8, least=1)
    key_width: int = static(default=64, least=1)
    value_width: int = static(default=64, least=1)
    scaling: str = static(default="linear", kw_only=True)
    zeta: str | Activation = static(default="softmax", kw_only=True)
    W_query_std: Any = number(default=1.0)
    W_key_std: Any = number(default=1.0)
    W_value_std: Any = number(default=1.0)
    W_out_std: Any = number(default=1.0)
    b_std: Any = number(default=0.0)
    position_std: Any = number(default=0.0)
    position_decay: Any = number(default=None, low=0.0, is_optional=True)

    def __post_init__(self):
        checks.one_of(self.scaling, "scaling", ("linear", "sqrt"))
        if not isinstance(self.zeta, Activation):
            checks.one_of(self.zeta, "zeta", ("softmax", *ZETAS))
        if self.scaling == "sqrt" and self.zeta == "softmax":
            raise ValueError(
                "Expected an elementwise zeta with scaling='sqrt', got softmax, whose Gaussian average has no closed "
                "form. Use scaling='linear', or zeta='relu' or 'identity'."
            )

    def init(self, key, input_shape):
        input_shape = checks.init_arguments(key, input_shape)
        s, channels = self._positions(input_shape), input_shape[-1]
        shapes = {
            "query": (self.heads, channels, self.key_width),
            "key": (self.heads, channels, self.key_width),
            "value": (self.heads, channels, self.value_width),
            "out": (self.heads, self.value_width, self.width),
            "bias": (self.width,),
            "position": (s, channels),
        }
        return (*input_shape[:-1], self.width), dict(zip(shapes, standard_normals(key, tuple(shapes.values()))))

    def apply(self, params, x):
        checks.layer_inputs(x, "SelfAttention")
        s, shape, channels = self._positions(x.shape), x.shape, x.shape[-1]
        x = x.reshape(len(x), s, channels)
        root = like(self.position_std, x) * jnp.linalg.cholesky(self._correlation(s, x))
        encoded = x + (root @ jax.lax.stop_gradient(params["position"]))[None]

        def project(std: Any, z: Array, name: str) -> Array:
            return like(std, x) / channels**0.5 * jnp.einsum("nsc,hck->nhsk", z, params[name])

        Q = project(self.W_query_std, encoded, "query")
        K = project(self.W_key_std, encoded, "query" if self.scaling == "linear" else "key")
        V = project(self.W_value_std, x, "value")
        scale = 1 / self.key_width if self.scaling == "linear" else self.key_width**-0.5
        A = self._zeta(scale * jnp.einsum("nhsk,nhtk->nhst", Q, K), axis=-1)
        out = jnp.einsum("nhst,nhtv,hvo->nso", A, V, params["out"])
        out_scale = like(self.W_out_std, x) / (self.heads * self.value_width) ** 0.5
        return plus_bias(out_scale * out, like(self.b_std, x) * params["bias"]).reshape(*shape[:-1], self.width)

    def kernel(self, k):
        if k.keep not in ("all", "inside"):
            raise ValueError("Expected sequences or images before SelfAttention, got flat data. Reshape to sequences.")
        n = len(k.axes)
        if n > 1:
            sizes = k.nngp.shape[: 2 * n : 2]
            self._positions((len(k.nngp), *sizes, k.width))
            made = self.kernel(jax.tree.map(lambda array: as_sequence(array, n), k))
            return jax.tree.map(lambda array: as_images(array, sizes), made)
        b2 = like(self.b_std, k.nngp) ** 2
        average = self._linear if self.scaling == "linear" else self._sqrt
        attend, trained = average(k)
        nngp = attend(k.nngp) + b2
        # values and outputs, the bias, the layers before through the values, and through queries and keys
        ntk = 2 * (nngp - b2) + b2 + attend(k.ntk) + trained
        var1, var2 = own_variances(k, nngp, lambda inside: self.kernel(inside).nngp)
        out = k.replace(
            nngp=nngp, ntk=ntk, var1=var1, var2=var2, distance=None, width=self.width, is_gaussian=True, fresh=k.level
        )
        if var1 is None or k.distance is None:
            return out
        are_copies = (diagonal(k.distance, 1) == 0).all(0)[None, None]
        are_copies = are_copies & jnp.eye(len(nngp), dtype=bool)[:, :, None, None]
        return out.replace(distance=jnp.where(are_copies, 0, distance_of_covariances(out)))

    def requires(self, needs):
        own = {"all", "inside"} if self.scaling == "linear" else {"all", "variances"}
        return needs | own | ({"inside"} if "variances" in needs else set())

    def _zeta(self, G: Array, axis: int) -> Array:
        return jax.nn.softmax(G, axis) if self.zeta == "softmax" else self._elementwise.phi(G)

    @property
    def _elementwise(self) -> Activation:
        return self.zeta if isinstance(self.zeta, Activation) else ZETAS[self.zeta]

    def _linear(self, k: Signals):
        """Z(x) K Z(x')^T, with the deterministic attention Z(x) = zeta(W_query_std W_key_std K(x, x))."""
        W_ov2 = self._squared(k, "W_value_std", "W_out_std")
        inside = (k, k) if k.keep == "inside" else (k.inside1, k.inside2)
        Z1, Z2 = map(self._attention, inside)
        return lambda array: W_ov2 * exact_einsum("ac...,cd...,bd...->ab...", Z1, array, Z2), 0

    def _attention(self, inside: Signals | None) -> Array:
        """Z(x) of each example, (s, s, n, 1) or (s, s, 1, n): row a holds how much position a attends to each other."""
        assert inside is not None and inside.keep == "inside"  # `requires` asked for it
        W_qk = like(self.W_query_std, inside.nngp) * like(self.W_key_std, inside.nngp)
        return self._zeta(W_qk * self._encoded(inside.nngp), axis=1)

    def _sqrt(self, k: Signals):
        """Averages over Gaussian attention logits, Cov(G_ac(x), G_bd(x')) = (W_query_std W_key_std)^2 K_ab K_cd."""
        W_qk2, W_ov2 = self._squared(k, "W_query_std", "W_key_std"), self._squared(k, "W_value_std", "W_out_std")
        K, encoding_variance = self._encoded(k.nngp), like(self.position_std, k.nngp) ** 2
        var1, var2 = k.var1 + encoding_variance, k.var2 + encoding_variance
        distance = k.distance + 2 * encoding_variance * (1 - self._correlation(len(K), K))[:, :, None, None]

        def ab_cd(array: Array) -> Array:  # [a, b, c, d, n1, n2]
            return array[:, :, None, None] * array[None, None]

        logits = Signals(
            W_qk2 * ab_cd(K),
            jnp.ones((), K.dtype),
            W_qk2 * ab_cd(var1),
            W_qk2 * ab_cd(var2),
            W_qk2 * _distance_of_products(var1, var2, distance),
            width=self.key_width,
            is_gaussian=True,
        )
        weights = self._elementwise.kernel(logits)  # .nngp: E[zeta zeta], .ntk: E[zeta' zeta']

        def attend(array: Array) -> Array:
            return W_ov2 * (weights.nngp * array[None, None]).sum((2, 3))

        slopes = weights.ntk * k.nngp[None, None]
        of_K, of_ntk = (slopes * K[None, None]).sum((2, 3)), (slopes * k.ntk[None, None]).sum((2, 3))
        return attend, W_ov2 * W_qk2 * ((2 * K + k.ntk) * of_K + K * of_ntk)

    def _squared(self, k: Signals, *names: str) -> Array:
        return reduce(jnp.multiply, [like(jnp.square(getattr(self, name)), k.nngp) for name in names])

    def _encoded(self, K: Array) -> Array:
        """The kernel of the inputs of queries and keys: positions are added to it."""
        return K + like(self.position_std, K) ** 2 * self._correlation(K.shape[0], K)[:, :, None, None]

    def _positions(self, shape: tuple[int, ...]) -> int:
        """How many there are in inputs of this shape."""
        if len(shape) < 3:
            raise ValueError(f"Expected sequences (n, s, channels) or images for SelfAttention, got shape {shape}.")
        if len(shape) > 3 and self.position_decay is not None:
            raise ValueError("Expected sequences for position_decay, got images. Leave it out, or reshape them.")
        return prod(shape[1:-1])

    def _correlation(self, s: int, array: Array) -> Array:
        if self.position_decay is None:
            return jnp.eye(s, dtype=array.dtype)
        distance = jnp.abs(jnp.arange(s)[:, None] - jnp.arange(s)[None]).astype(array.dtype)
        return jnp.exp(-like(self.position_decay, array) * distance)


def _distance_of_products(var1: Array, var2: Array, distance: Array) -> Array:
    """A1 B1 + A2 B2 - 2 A12 B12 for the variances A at positions (a, b) and B at (c, d), without its cancellation."""
    ab, cd = (lambda array: array[:, :, None, None]), (lambda array: array[None, None])
    total, difference = var1 + var2, var1 - var2
    mixed = ab(total) * cd(distance) + cd(total) * ab(distance) - ab(distance) * cd(distance)
    return (ab(difference) * cd(difference) + mixed) / 2
