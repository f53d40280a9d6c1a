"""Layers of flat data: Dense, and the ways to put layers together.

Each has its three meanings side by side: `init` and `apply` of the finite layer, `kernel` of the infinitely wide one.
Parameters follow the NTK parameterization: all are drawn from N(0, 1), and the scale is in the formula. Notebook 03
derives the rule of Dense.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import checks
from ..pytrees import number, pytree, static
from .kernel import Kernel, Layer, like, through


@pytree
class Dense(Layer):
    """z = W_std/sqrt(n_in) x W + b_std b, with W (n_in, width) and b (width,) drawn from N(0, 1).

    nngp' = W_std^2 nngp + b_std^2,  ntk' = nngp' + W_std^2 ntk

    With parameterization="standard": z = x W + b, W ~ N(0, W_std^2/n_in), b ~ N(0, b_std^2), and
    ntk' = n_in nngp + 1 + W_std^2 ntk, in which n_in is the width that the network has, kept as it goes to infinity
    (Sohl-Dickstein et al. 2020, section 3). There `b_std=None` leaves the bias out, and the 1 with it.

    Acts on the last axis; positions before it are kept.
    """

    width: int = static(least=1)
    W_std: Any = number(1.0)
    b_std: Any = number(0.0, is_optional=True)
    parameterization: str = static(default="ntk", kw_only=True)

    def __post_init__(self):
        check_parameterization(self)

    def init(self, key, input_shape):
        params = standard_normals(key, ((input_shape[-1], self.width), (self.width,)))
        return (*input_shape[:-1], self.width), scale_params(self, params, input_shape[-1])

    def apply(self, params, x):
        W, b = affine_weights(self, params, x.shape[-1])
        return x @ W + b

    def kernel(self, k):
        return affine_kernel(self, k, fan_in=k.width)


@partial(jax.jit, static_argnames=("shapes", "dtype"))
def standard_normals(key: Array, shapes: tuple[tuple[int, ...], ...], dtype: Any = float) -> list[Array]:
    """Independent arrays of `shapes` from N(0, 1), by one draw: a generator is compiled for each, and slowly."""
    ends = [sum(map(prod, shapes[:i])) for i in range(len(shapes) + 1)]
    drawn = jax.random.normal(key, (ends[-1],), dtype)
    return [drawn[start:end].reshape(shape) for start, end, shape in zip(ends, ends[1:], shapes)]


# What Dense and Conv share: a linear map with fan-in n, in one of two parameterizations.


def check_parameterization(layer: Any) -> None:
    """Raises ValueError for an unknown parameterization."""
    checks.one_of(layer.parameterization, "parameterization", ("ntk", "standard"))


def _scales(layer: Any, array: Array) -> tuple[Array, Array]:
    return like(layer.W_std, array), like(0.0 if layer.b_std is None else layer.b_std, array)


def scale_params(layer: Any, params: Sequence[Array], fan_in: int) -> tuple[Array, Array]:
    """Draws from N(0, 1) as the parameters of the layer: the standard parameterization scales them at the start."""
    W, b = params
    if layer.parameterization == "ntk":
        return W, b
    W_std, b_std = _scales(layer, W)
    return W_std / fan_in**0.5 * W, b_std * b


def affine_weights(layer: Any, params: tuple[Array, Array], fan_in: int) -> tuple[Array, Array]:
    """The matrix and the offset of the linear map: the NTK parameterization scales them at each use."""
    W, b = params
    if layer.parameterization == "standard":
        return W, b if layer.b_std is not None else jnp.zeros_like(b)
    W_std, b_std = _scales(layer, W)
    return W_std / fan_in**0.5 * W, b_std * b


def affine_kernel(layer: Any, k: Kernel, fan_in: int) -> Kernel:
    """The kernel after a random linear map of `fan_in` numbers with the covariance k."""
    # Squared before they are rounded to the precision of the data: at depth 100 the difference shows.
    W2 = like(jnp.square(layer.W_std), k.nngp)
    b2 = like(jnp.square(0.0 if layer.b_std is None else layer.b_std), k.nngp)
    nngp = W2 * k.nngp + b2
    if layer.parameterization == "ntk":
        own = nngp
    else:
        own = fan_in * k.nngp + (0 if layer.b_std is None else 1)
    return k.replace(
        nngp=nngp,
        ntk=own + W2 * k.ntk,
        var1=W2 * k.var1 + b2,
        var2=W2 * k.var2 + b2,
        is_gaussian=True,
        is_fresh=True,
        width=layer.width,
    )


@pytree
class Sequential(Layer):
    """Layers one after another; see `serial`."""

    layers: tuple[Layer, ...]

    def init(self, key, input_shape):
        params = []
        for layer, key_layer in zip(self.layers, jax.random.split(key, max(len(self.layers), 1))):
            input_shape, layer_params = layer.init(key_layer, input_shape)
            params.append(layer_params)
        return input_shape, tuple(params)

    def apply(self, params, x):
        for layer, layer_params in zip(self.layers, params, strict=True):
            x = layer.apply(layer_params, x)
        return x

    def kernel(self, k):
        for layer in self.layers:
            k = through(layer, k)
        return k

    def requires(self, needs):
        for layer in reversed(self.layers):
            needs = layer.requires(needs)
        return needs

    def __repr__(self):
        return f"serial({', '.join(map(repr, self.layers))})"


def serial(*layers: Layer) -> Sequential:
    """A network of `layers`, one after another.

    >>> net = serial(Dense(512, W_std=1.5, b_std=0.05), Relu(), Dense(1))

    Raises:
        TypeError: if one of them is not a layer (`Relu` instead of `Relu()`, say).
    """
    for layer in layers:
        _check_layer(layer)
    return Sequential(tuple(layers))


def _names(layers: Any) -> str:
    """The kinds of `layers`, without their numbers, which are tracers while a kernel is compiled."""
    return (
        "no layers"
        if not layers
        else ", ".join(
            f"({_names(layer.layers)})" if isinstance(layer, Sequential) else type(layer).__name__ for layer in layers
        )
    )


def _check_layer(layer: Any) -> None:
    if not isinstance(layer, Layer):
        hint = f"Write {layer.__name__}()." if isinstance(layer, type) else "Layers are objects such as Dense(64)."
        raise TypeError(f"Expected layers, got {layer!r}. {hint}")


@pytree
class Residual(Layer):
    """x + f(x), where f is `layers` one after another and ends in random weights of the same width as x.

    Both kernels add: the weights that end f have mean zero, so the two paths are uncorrelated.
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer):
        for layer in layers:
            _check_layer(layer)
        object.__setattr__(self, "layers", layers)

    def init(self, key, input_shape):
        output_shape, params = Sequential(self.layers).init(key, input_shape)
        if tuple(output_shape) != tuple(input_shape):
            raise ValueError(
                f"Expected the layers of Residual to keep the shape {input_shape}, got {output_shape}. "
                "Give its last layer the width of its input."
            )
        return output_shape, params

    def apply(self, params, x):
        return x + Sequential(self.layers).apply(params, x)

    def kernel(self, k):
        branch = Sequential(self.layers).kernel(k.replace(is_fresh=False))
        if not (branch.is_fresh and branch.is_gaussian):
            raise ValueError(
                f"Expected the layers of Residual to end in random weights, got {_names(self.layers)}, whose end is "
                "correlated with the input that it is added to. End them in Dense or Conv."
            )
        if branch.width != k.width:
            raise ValueError(
                f"Expected the layers of Residual to keep the width {k.width} of their input, got {branch.width}. "
                "Give the last of them that width."
            )
        return k.replace(
            nngp=k.nngp + branch.nngp, ntk=k.ntk + branch.ntk, var1=k.var1 + branch.var1, var2=k.var2 + branch.var2
        )

    def requires(self, needs):
        return needs | Sequential(self.layers).requires(needs)

    def __repr__(self):
        return f"Residual({', '.join(map(repr, self.layers))})"


@pytree
class Repeat(Layer):
    """`layer`, `times` times over, each time with parameters of its own.

    The kernel runs in one loop whatever `times` is: depth can be a slider, and nothing is compiled again. Because of
    the loop, gradients of the kernel are taken in forward mode (`jax.jacfwd`). The finite network stacks the
    parameters of its repetitions on a leading axis.
    """

    layer: Layer
    times: Any = number(low=1.0, high=float(checks.MOST), is_whole=True, is_tunable=False)

    def __post_init__(self):
        _check_layer(self.layer)

    def init(self, key, input_shape):
        output_shape = self.layer.init(key, input_shape)[0]
        if tuple(output_shape) != tuple(input_shape):
            raise ValueError(
                f"Expected the layer in Repeat to keep the shape {input_shape}, got {output_shape}. "
                "Put a Dense of its width before Repeat."
            )
        keys = jax.random.split(key, int(self.times))
        return output_shape, jax.vmap(lambda key: self.layer.init(key, input_shape)[1])(keys)

    def apply(self, params, x):
        return jax.lax.scan(lambda x, layer_params: (self.layer.apply(layer_params, x), None), x, params)[0]

    def kernel(self, k):
        times = jnp.round(jnp.asarray(self.times)).astype(jnp.int32)
        once = through(self.layer, k)
        if jax.tree.structure(once) == jax.tree.structure(k):
            return jax.lax.fori_loop(0, times, lambda _, k: through(self.layer, k), k)
        # The first repetition changes what kind of signal flows (raw inputs become Gaussian, say), later ones may not.
        twice = jax.eval_shape(lambda k: through(self.layer, k), once)
        if jax.tree.structure(twice) != jax.tree.structure(once):
            raise ValueError(
                f"Expected the layer in Repeat to give the kind of signal that it takes, got {_names([self.layer])}. "
                "Begin it with an activation and end it in Dense, or the reverse."
            )
        return jax.lax.fori_loop(1, times, lambda _, k: through(self.layer, k), once)

    def requires(self, needs):
        return needs | self.layer.requires(needs)


@pytree
class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + eps), mean and variance over the channels of one example (and position).

    Both kernels are divided by the two standard deviations: over infinitely many channels these are constants, and
    the mean is zero. Ba et al. 2016; as a kernel in Hron et al. 2020, appendix E.
    """

    eps: Any = number(1e-12, low=0.0, is_tunable=False)

    def init(self, key, input_shape):
        return input_shape, ()

    def apply(self, params, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + like(self.eps, x))

    def kernel(self, k):
        if not k.is_gaussian:
            raise ValueError(
                "Expected Gaussian signals of mean zero before LayerNorm, got raw inputs or the output of an "
                "activation, whose mean over channels is not zero. Put Dense or Conv before it."
            )
        eps = like(self.eps, k.nngp)
        inverse1, inverse2 = jax.lax.rsqrt(k.var1 + eps), jax.lax.rsqrt(k.var2 + eps)
        scale = inverse1 * inverse2
        scale = k.on_diagonal(scale, 1 / (k.var1 + eps))
        return k.replace(nngp=k.nngp * scale, ntk=k.ntk * scale, var1=k.var1 * inverse1**2, var2=k.var2 * inverse2**2)

    def requires(self, needs):
        return needs | {"variances"}
