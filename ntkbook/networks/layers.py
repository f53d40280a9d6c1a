"""Layers of flat data: Dense, LayerNorm, and the ways to put layers together.

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
from ..numerics import chord, safe_sqrt
from ..pytrees import number, pytree, static
from .in_turn import in_turn, through
from .kernel import Layer
from .signals import Signals, like


@pytree
class Dense(Layer):
    """z = W_std/sqrt(n_in) x W + b_std b, with W (n_in, width) and b (width,) drawn from N(0, 1).

    nngp' = W_std^2 nngp + b_std^2,  ntk' = nngp' + W_std^2 ntk

    With parameterization="standard": z = x W + b, W ~ N(0, W_std^2/n_in), b ~ N(0, b_std^2), and
    ntk' = n_in nngp + 1 + W_std^2 ntk, in which n_in is the width that the network has, kept as it goes to infinity
    (Sohl-Dickstein et al. 2020, section 3). There `b_std=None` leaves the bias out, and the 1 with it.

    Acts on the last axis; positions before it are kept.
    """

    is_by_offset = True

    width: int = static(least=1)
    W_std: Any = number(default=1.0)
    b_std: Any = number(default=0.0, is_optional=True)
    parameterization: str = static(default="ntk", kw_only=True)

    def __post_init__(self):
        check_parameterization(self)

    def init(self, key, input_shape):
        input_shape = checks.init_arguments(key, input_shape)
        return (*input_shape[:-1], self.width), affine_params(self, key, (input_shape[-1], self.width))

    def apply(self, params, x):
        W, b = affine_weights(self, params, x)
        return plus_bias(x @ W, b)

    def kernel(self, k):
        return affine_kernel(self, k, fan_in=k.width)

    def requires(self, needs):
        return needs


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


def affine_params(layer: Any, key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """(W of this shape, b), drawn from N(0, 1): the standard parameterization scales them at the start."""
    W, b = standard_normals(key, (shape, shape[-1:]))
    return _scaled(layer, W, b) if layer.parameterization == "standard" else (W, b)


def _scaled(layer: Any, W: Array, b: Array) -> tuple[Array, Array]:
    W_std, b_std = like(layer.W_std, W), like(layer.b_std, W, 0.0)
    return W_std / prod(W.shape[:-1]) ** 0.5 * W, b_std * b


def affine_weights(layer: Any, params: Any, x: Any) -> tuple[Array, Array]:
    """The matrix and the offset of the linear map of `x`: the NTK parameterization scales them at each use.

    Raises:
        TypeError, ValueError: for inputs that are no array, or do not fit the parameters.
    """
    name = type(layer).__name__
    checks.layer_inputs(x, name)
    if not isinstance(params, (tuple, list)) or len(params) != 2 or not all(hasattr(p, "shape") for p in params):
        raise ValueError(f"Expected the parameters (W, b) of {name}, got {checks.describe(params)}. See its init.")
    W, b = params
    if not W.ndim or x.shape[-1] != W.shape[-2]:
        raise ValueError(
            f"Expected inputs of {name} with {W.shape[-2]} features on the last axis, for which its parameters were "
            f"made, got shape {x.shape}. Call init with the shape of these inputs."
        )
    if layer.parameterization == "standard":
        return W, b if layer.b_std is not None else jnp.zeros_like(b)
    return _scaled(layer, W, b)


def plus_bias(z: Array, b: Array) -> Array:
    """z (..., width) + b (width,): ranks are made equal by hand, for those who ask JAX to be strict."""
    return z + b.reshape(*[1] * (z.ndim - 1), -1)


def affine_kernel(layer: Any, k: Signals, fan_in: int) -> Signals:
    """The signals after a random linear map of `fan_in` numbers with the covariance k."""
    # Squared before they are rounded to the precision of the data: at depth 100 the difference shows.
    W2 = like(jnp.square(layer.W_std), k.nngp)
    b2 = like(jnp.square(0.0 if layer.b_std is None else layer.b_std), k.nngp)
    nngp, var1, var2 = jax.tree.map(lambda covariance: W2 * covariance + b2, (k.nngp, k.var1, k.var2))
    own = nngp if layer.parameterization == "ntk" else fan_in * k.nngp + (0 if layer.b_std is None else 1)
    return k.replace(
        nngp=nngp,
        ntk=own + W2 * k.ntk,
        var1=var1,
        var2=var2,
        distance=None if k.distance is None else W2 * k.distance,
        is_gaussian=True,
        fresh=k.level,
        width=layer.width,
    )


class Compound(Layer):
    """A layer made of layers."""

    @property
    def inner(self) -> tuple[Layer, ...]:
        """The layers that its fields hold."""
        is_layer = lambda value: isinstance(value, Layer)
        return tuple(filter(is_layer, jax.tree.leaves(vars(self), is_leaf=is_layer)))

    @property
    def is_by_offset(self):
        return all(layer.is_by_offset for layer in self.inner)


@pytree
class Sequential(Compound):
    """Layers one after another; see `serial`."""

    layers: tuple[Layer, ...]

    @property
    def parts(self):
        return tuple(part for layer in self.layers for part in layer.parts)

    def init(self, key, input_shape):
        input_shape = checks.init_arguments(key, input_shape)
        params = []
        for layer, key_layer in zip(self.layers, jax.random.split(key, max(len(self.layers), 1))):
            input_shape, layer_params = layer.init(key_layer, input_shape)
            params.append(layer_params)
        return input_shape, tuple(params)

    def apply(self, params, x):
        same_number(params, self.layers, "serial")
        for layer, layer_params in zip(self.layers, params):
            x = layer.apply(layer_params, x)
        return x

    def kernel(self, k):
        return in_turn(self.layers, k)

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
    return Sequential(checked_layers(layers))


def same_number(params: Any, layers: Sequence[Layer], name: str) -> None:
    """Raises ValueError unless there are parameters for each of the layers."""
    if not isinstance(params, (tuple, list)) or len(params) != len(layers):
        got = f"{len(params)} of them" if isinstance(params, (tuple, list)) else checks.describe(params)
        raise ValueError(
            f"Expected parameters for each of the {len(layers)} layers of {name}, got {got}. "
            "Take those that this network's init returns: _, params = net.init(key, x.shape)."
        )


def names_of(layers: Any) -> str:
    """The kinds of `layers`, without their numbers, which are tracers while a kernel is compiled."""
    name = lambda layer: f"({names_of(layer.layers)})" if isinstance(layer, Sequential) else type(layer).__name__
    return ", ".join(map(name, layers)) or "no layers"


def checked_layers(layers: Sequence[Any]) -> tuple[Layer, ...]:
    """The layers; raises TypeError for what is none."""
    for layer in layers:
        if isinstance(layer, (list, tuple)):
            raise TypeError(f"Expected layers, got a {type(layer).__name__} of them. Unpack it: serial(*layers).")
        if not isinstance(layer, Layer):
            hint = f"Write {layer.__name__}()." if isinstance(layer, type) else "Layers are objects such as Dense(64)."
            raise TypeError(f"Expected layers, got {layer!r}. {hint}")
    return tuple(layers)


@pytree
class Repeat(Compound):
    """`layer`, `times` times over, each time with parameters of its own.

    The kernel runs in one loop whatever `times` is: depth can be a slider, and nothing is compiled again. Because of
    the loop, gradients of the kernel are taken in forward mode (`jax.jacfwd`). The finite network stacks the
    parameters of its repetitions on a leading axis.
    """

    layer: Layer
    times: Any = number(low=1.0, high=float(checks.MOST), is_whole=True, is_tunable=False)

    def __post_init__(self):
        checked_layers([self.layer])

    def init(self, key, input_shape):
        input_shape = checks.init_arguments(key, input_shape)
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
        done, once = 0, through(self.layer, k)
        if jax.tree.structure(once) != jax.tree.structure(k):
            # The first repetition changes what kind of signal flows (raw inputs become Gaussian, say), others may not.
            done, k, twice = 1, once, jax.eval_shape(partial(through, self.layer), once)
            if jax.tree.structure(twice) != jax.tree.structure(once):
                raise ValueError(
                    "Expected the layer in Repeat to give the kind of signal that it takes, got "
                    f"{names_of([self.layer])}. Begin it with an activation and end it in Dense, or the reverse."
                )
        return jax.lax.fori_loop(done, times, lambda _, k: through(self.layer, k), k)

    def requires(self, needs):
        return needs | self.layer.requires(needs)


@pytree
class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + eps), mean and variance over the channels of one example (and position).

    Both kernels are divided by the two standard deviations: over infinitely many channels these are constants, and
    the mean is zero. Ba et al. 2016; as a kernel in Hron et al. 2020, appendix E.
    """

    is_by_offset = True

    eps: Any = number(default=1e-12, low=0.0, is_tunable=False)

    def init(self, key, input_shape):
        return input_shape, ()

    def apply(self, params, x):
        checks.layer_inputs(x, "LayerNorm")
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
        scale = k.on_twins(inverse1 * inverse2, 1 / (k.var1 + eps))
        lengths = safe_sqrt(k.var1) * inverse1 - safe_sqrt(k.var2) * inverse2
        return k.replace(
            nngp=k.nngp * scale,
            ntk=k.ntk * scale,
            var1=k.var1 * inverse1**2,
            var2=k.var2 * inverse2**2,
            distance=None if k.distance is None else scale * chord(k.var1, k.var2, k.distance) + lengths * lengths,
        )

    def requires(self, needs):
        return needs | {"variances"}
