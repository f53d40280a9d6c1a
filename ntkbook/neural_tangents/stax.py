"""The guest's layers, under its names and with its defaults, made of layers of this library.

Each is a triple (init_fn, apply_fn, kernel_fn). Positions of arguments are the guest's, so that calls without names
mean the same. What has no counterpart raises NotImplementedError, which names the nearest thing there is.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp

from ..networks import activations, attention, convolution, layers, quadrature
from ..networks import smooth_activations as smooth
from ..networks.paths import Concat, Sum
from ..pytrees import pytree
from .kernels import refuse, refuse_arguments
from .wiring import FanIn, Guest, KernelFn, Parallel, Triple, joined, over_channels, triple
from .wiring import FanOut as _FanOut

Padding = StrEnum("Padding", ["CIRCULAR", "SAME", "VALID"])
AttentionMechanism = StrEnum("AttentionMechanism", ["ABS", "IDENTITY", "RELU", "SOFTMAX"])
PositionalEmbedding = StrEnum("PositionalEmbedding", ["CONCAT", "NONE", "SUM"])


def _door(make: Callable, name: str = "", formula: str = "") -> Callable[..., Triple]:
    """`make` gives a layer of ours or a fan, and perhaps the axes of batch and channels before it and after it.

    Where these are not given, they are its arguments `batch_axis` and `channel_axis`, if it has them.
    """
    signature = inspect.signature(make)

    @wraps(make)
    def layer(*arguments, **options) -> Triple:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        given = bound.arguments
        refuse_arguments(given)
        made = make(*arguments, **options)
        if not isinstance(made, tuple):
            axes = (given["batch_axis"], given["channel_axis"]) if "channel_axis" in given else None
            made = made, axes, axes
        made, axes_in, axes_out = made
        return triple(KernelFn((made,), axes_in, axes_out, layer.__name__))

    if name:
        layer.__name__ = layer.__qualname__ = name
        layer.__doc__ = f"{formula}."
    return layer


# ---------------------------------------------------------------------------- layers one after another and side by side


def serial(*layers: Triple) -> Triple:
    """Layers one after another."""
    return triple(joined(layers, "serial"))


def repeat(layer: Triple, n: int) -> Triple:
    """A layer n times over, each time with parameters of its own."""
    return triple(joined([layer] * n, "repeat"))


def parallel(*layers: Triple) -> Triple:
    """Paths side by side: after FanOut, and before FanInSum or the end of the network."""
    paths = Parallel(tuple(joined([layer], "path").parts for layer in layers))
    ends = joined(layers, "parallel")
    return triple(KernelFn((paths,), ends.axes_in, ends.axes_out, "parallel"))


FanOut = _door(lambda num: _FanOut(num), "FanOut", "`num` copies of what comes in")
FanInSum = _door(lambda: FanIn(Sum), "FanInSum", "The sum of all paths")


@_door
def FanInConcat(axis=-1):
    """The channels of all paths, one after another."""
    return FanIn(Concat, axis)


# ------------------------------------------------------------------------------------------------------ linear layers


def _checked(parameterization, s):
    refuse(parameterization == "standard" and tuple(s) != (1, 1), f"s={s}", "s=(1, 1), the width that is given")
    return parameterization


@_door
def Dense(out_dim, W_std=1.0, b_std=None, batch_axis=0, channel_axis=-1, parameterization="ntk", s=(1, 1)):
    """A dense layer; without `b_std` it has no bias."""
    return layers.Dense(int(out_dim), W_std, b_std, parameterization=_checked(parameterization, s))


@_door
def Conv(
    out_chan,
    filter_shape,
    strides=None,
    padding="VALID",
    W_std=1.0,
    b_std=None,
    dimension_numbers=None,
    parameterization="ntk",
    s=(1, 1),
):
    """A convolution; `dimension_numbers` say where batch, channels and directions are, as ("NCHW", "OIHW", "NCHW")."""
    (window, strides), axes = _window(filter_shape, strides), ((0, -1), (0, -1))
    if dimension_numbers is not None:
        data, weights, out = dimension_numbers
        directions = [c for c in data if c not in "NC"]
        refuse(directions != [c for c in out if c not in "NC"], f"{dimension_numbers}", "directions in one order")
        order = [[c for c in weights if c not in "IO"].index(c) for c in directions]
        window, strides = (tuple(sizes[i] for i in order) for sizes in (window, strides))
        axes = [(spec.index("N"), spec.index("C")) for spec in (data, out)]
    kind = _checked(parameterization, s)
    return convolution.Conv(int(out_chan), window, strides, _word(padding), W_std, b_std, parameterization=kind), *axes


def _window(shape, strides):
    """Both as the guest means them: windows overlap unless strides say otherwise."""
    return tuple(map(int, shape)), (1,) * len(shape) if strides is None else tuple(map(int, strides))


def _word(value) -> str:
    return str(value).upper()


@_door
def AvgPool(window_shape, strides=None, padding="VALID", normalize_edges=False, batch_axis=0, channel_axis=-1):
    """The mean over windows, which overlap unless `strides` say otherwise."""
    return convolution.AvgPool(*_window(window_shape, strides), _word(padding), normalize_edges=normalize_edges)


@_door
def SumPool(window_shape, strides=None, padding="VALID", batch_axis=0, channel_axis=-1):
    """The sum over windows."""
    return convolution.AvgPool(*_window(window_shape, strides), _word(padding), is_sum=True)


_mean = lambda batch_axis=0, channel_axis=-1: convolution.GlobalAvgPool()
_sum = lambda batch_axis=0, channel_axis=-1: convolution.GlobalAvgPool(is_sum=True)
GlobalAvgPool = _door(_mean, "GlobalAvgPool", "The mean over all positions")
GlobalSumPool = _door(_sum, "GlobalSumPool", "The sum over all positions")


@_door
def Flatten(batch_axis=0, batch_axis_out=0):
    """All positions and channels as channels."""
    return convolution.Flatten(), (batch_axis, 0 if batch_axis == -1 else -1), (batch_axis_out, 1 - batch_axis_out)


@_door
def Dropout(rate, mode="train"):
    """Nothing, as in testing."""
    refuse(mode == "train" and rate != 1, "Dropout in training", "none, or mode='test'")
    return activations.Identity()


@_door
def LayerNorm(axis=-1, eps=1e-12, batch_axis=0, channel_axis=-1):
    """Normalization over the channels."""
    return over_channels(layers.LayerNorm(eps), axis, channel_axis, f"LayerNorm(axis={axis})")


@_door
def GlobalSelfAttention(
    n_chan_out,
    n_chan_key,
    n_chan_val,
    n_heads,
    linear_scaling=True,
    W_key_std=1.0,
    W_value_std=1.0,
    W_query_std=1.0,
    W_out_std=1.0,
    b_std=None,
    attention_mechanism="SOFTMAX",
    pos_emb_type="NONE",
    pos_emb_p_norm=2,
    pos_emb_decay_fn=None,
    n_chan_pos_emb=None,
    W_pos_emb_std=1.0,
    val_pos_emb=False,
    batch_axis=0,
    channel_axis=-1,
):
    """Self-attention on sequences and images."""
    mechanism, positions = _word(attention_mechanism), _word(pos_emb_type)
    refuse(positions == "CONCAT", "Positions beside channels", "pos_emb_type='SUM'")
    return attention.SelfAttention(
        int(n_chan_out),
        int(n_heads),
        int(n_chan_key),
        int(n_chan_val),
        scaling="linear" if linear_scaling else "sqrt",
        zeta=activations.Abs() if mechanism == "ABS" else mechanism.lower(),
        W_query_std=W_query_std,
        W_key_std=W_key_std,
        W_value_std=W_value_std,
        W_out_std=W_out_std,
        b_std=0.0 if b_std is None else b_std,
        position_std=W_pos_emb_std if positions == "SUM" else 0.0,
        position_decay=None,
    )


# -------------------------------------------------------------------------------------------------------- activations


_elements, _polynomial, _SIGMOID = quadrature.Elementwise, smooth.Polynomial, (0.5, 1 / 2.4020563531719796, 0.5)


@pytree
class _GeluByTanh(activations.Gelu):
    """An approximation in the finite network; the kernel is the exact one's."""

    def phi(self, x):
        return jax.nn.gelu(x, approximate=True)


def _leaky(a, b) -> layers.Layer:
    return activations.LeakyRelu(a / b, b) if b != 0 else _elements(lambda x: a * jnp.minimum(x, 0))


def _gaussian(a=1, b=-1) -> layers.Layer:
    return smooth.Gaussian(a, -b) if b < 0 else _elements(lambda x: a * jnp.exp(b * x * x))


def _rectified(degree: int) -> layers.Layer:
    first = [activations.Step(), activations.Relu()]
    return first[degree] if degree < 2 else _elements(lambda x: jnp.maximum(x, 0) ** degree)


def _elementwise(fn: Any = None, nngp_fn=None, d_nngp_fn=None) -> layers.Layer:
    return _elements(fn) if nngp_fn is None else smooth.WithDual(fn, nngp_fn, d_nngp_fn)


def _exp_normalized(gamma=1, shift=-1, do_clip=False) -> layers.Layer:
    def nngp_fn(k, q1, q2):
        size = jnp.sqrt(q1 * q2)
        cosine = jnp.clip(k / size, -1, 1) if do_clip else k / size
        return size * jnp.exp(gamma * (cosine + shift))

    return smooth.WithDual(None, nngp_fn)


Identity = _door(lambda: activations.Identity(), "Identity", "What comes in")
Relu = _door(lambda do_stabilize=False: activations.Relu(), "Relu", "max(x, 0)")
LeakyRelu = _door(lambda alpha, do_stabilize=False: _leaky(alpha, 1), "LeakyRelu", "x > 0: x, else alpha x")
ABRelu = _door(lambda a, b, do_stabilize=False: _leaky(a, b), "ABRelu", "x > 0: b x, else a x")
Abs = _door(lambda do_stabilize=False: activations.Abs(), "Abs", "|x|")
Sign = _door(lambda: activations.Sign(), "Sign", "The sign of x")
Erf = _door(lambda a=1.0, b=1.0, c=0.0: activations.Erf(a, b, c), "Erf", "a erf(b x) + c")
Sigmoid_like = _door(lambda: activations.Erf(*_SIGMOID), "Sigmoid_like", "(1 + erf(x / 2.4...)) / 2")
Gelu = _door(lambda approximate=False: (_GeluByTanh if approximate else activations.Gelu)(), "Gelu", "x Phi(x)")
Sin = _door(lambda a=1.0, b=1.0, c=0.0: smooth.Sin(a, b, c), "Sin", "a sin(b x + c)")
Cos = _door(lambda a=1.0, b=1.0, c=0.0: smooth.Cos(a, b, c), "Cos", "a cos(b x + c)")
Rbf = _door(lambda gamma=1.0: smooth.Rbf(gamma), "Rbf", "sqrt(2) sin(sqrt(2 gamma) x + pi/4)")
Exp = _door(lambda a=1, b=1: smooth.Exp(b, a), "Exp", "a exp(b x)")
Gaussian = _door(_gaussian, "Gaussian", "a exp(b x^2)")
Gabor = _door(lambda: _elements(lambda x: jnp.exp(-x * x) * jnp.sin(x)), "Gabor", "exp(-x^2) sin(x)")
Hermite = _door(lambda degree: smooth.Hermite(degree), "Hermite", "The normalized probabilists' polynomial")
Polynomial = _door(lambda coef: _polynomial(tuple(map(float, coef))), "Polynomial", "coef[0] + coef[1] x + ...")
Monomial = _door(lambda degree: _polynomial((0.0,) * degree + (1.0,)), "Monomial", "x^degree")
RectifiedMonomial = _door(_rectified, "RectifiedMonomial", "x^degree for x > 0, else 0")
ElementwiseNumerical = _door(lambda fn, deg, df=None: _elements(fn), "ElementwiseNumerical", "fn(x)")
Elementwise = _door(_elementwise, "Elementwise", "fn(x), and its average nngp_fn(covariance, variance1, variance2)")
ExpNormalized = _door(_exp_normalized, "ExpNormalized", "sqrt(q1 q2) exp(gamma (cosine + shift)), a kernel alone")


# -------------------------------------------------------------------------------------------- layers of the guest's own


def layer(layer_fn: Callable[..., Triple]) -> Callable[..., Triple]:
    """A decorator: what makes (init_fn, apply_fn, kernel_fn), the last from `Kernel` to `Kernel`, makes a layer."""
    return _door(wraps(layer_fn)(lambda *arguments, **options: Guest(*layer_fn(*arguments, **options))))


def requires(*arguments, **needs) -> Callable[[Callable], Callable]:
    """A decorator of a kernel function; all variances and pairs of positions are there without it."""
    return lambda function: function


Bool = StrEnum("Bool", ["NO", "MAYBE", "YES"])
Diagonal = dict  # what `requires` is told
supports_masking = requires  # masks are refused where a kernel is asked for


# ------------------------------------------------------------------------------------------------- what there is not

_ABSENT = {
    "none, as networks on graphs have no kernel here": "Aggregate AggregateImplementation",
    "none, as there are no masks here": "MaskedArray unmask_fn",
    "Conv, which shares its weights over positions": "ConvLocal ConvTranspose",
    "Dense and Conv, whose weights are random": "DotGeneral",
    "FanInSum": "FanInProd",
    "AvgPool, or jax.image.resize of the inputs": "ImageResize",
    "GlobalAvgPool or Flatten": "Index Slice",
}
_NEAREST = {name: nearest for nearest, names in _ABSENT.items() for name in names.split()}


@dataclass(frozen=True)
class _Absent:
    """Says that it is not here when it is called, indexed, or asked for a member."""

    name: str

    def __call__(self, *arguments, **options):
        refuse(True, f"stax.{self.name}", _NEAREST[self.name])

    __getitem__ = __call__

    def __getattr__(self, member: str):
        if member.startswith("_"):
            raise AttributeError(member)
        self()


def __getattr__(name: str) -> _Absent:
    if name not in _NEAREST:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _Absent(name)
