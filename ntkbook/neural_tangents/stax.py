"""The guest's layers, under its names and with its defaults, made of layers of this library.

Each is a triple (init_fn, apply_fn, kernel_fn). What has no counterpart raises NotImplementedError, which names the
nearest thing there is. Positions of arguments are the guest's, so that calls without names mean the same.
"""

import enum
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from ..networks import activations, attention, convolution, layers
from .activations import ABRelu as ABRelu
from .activations import Abs as Abs
from .activations import Cos as Cos
from .activations import Elementwise as Elementwise
from .activations import ElementwiseNumerical as ElementwiseNumerical
from .activations import Erf as Erf
from .activations import Exp as Exp
from .activations import ExpNormalized as ExpNormalized
from .activations import Gabor as Gabor
from .activations import Gaussian as Gaussian
from .activations import Gelu as Gelu
from .activations import Hermite as Hermite
from .activations import LeakyRelu as LeakyRelu
from .activations import Monomial as Monomial
from .activations import Polynomial as Polynomial
from .activations import Rbf as Rbf
from .activations import RectifiedMonomial as RectifiedMonomial
from .activations import Relu as Relu
from .activations import Sigmoid_like as Sigmoid_like
from .activations import Sign as Sign
from .activations import Sin as Sin
from .wiring import Chain, FanIn, Guest, Parallel, Triple, chain_of, of, refuse, serial_chain, triple
from .wiring import FanOut as _FanOut


class Padding(enum.Enum):
    """What is beyond the edge: nothing, zeros, or the other side."""

    CIRCULAR = "CIRCULAR"
    SAME = "SAME"
    VALID = "VALID"


class AttentionMechanism(enum.Enum):
    """What turns logits into attention."""

    ABS = "ABS"
    IDENTITY = "IDENTITY"
    RELU = "RELU"
    SOFTMAX = "SOFTMAX"


class PositionalEmbedding(enum.Enum):
    """How positions enter attention."""

    CONCAT = "CONCAT"
    NONE = "NONE"
    SUM = "SUM"


def _word(value: Any) -> str:
    return value.name if isinstance(value, enum.Enum) else str(value).upper()


# ---------------------------------------------------------------------------- layers one after another and side by side


def serial(*layers: Triple) -> Triple:
    """Layers one after another."""
    return triple(serial_chain([chain_of(layer) for layer in layers]), "serial")


def parallel(*layers: Triple) -> Triple:
    """Paths side by side: after FanOut, and before FanInSum or the end of the network."""
    chains = [chain_of(layer) for layer in layers]
    axes_in, axes_out = (next((a for a in axes if a is not None), None) for axes in zip(*map(_axes, chains)))
    return triple(Chain((Parallel(tuple(chains)),), axes_in, axes_out), "parallel")


def _axes(chain: Chain) -> tuple[Any, Any]:
    return chain.axes_in, chain.axes_out


def repeat(layer: Triple, n: int) -> Triple:
    """A layer n times over, each time with parameters of its own."""
    chain = chain_of(layer)
    return triple(serial_chain([chain] * n), "repeat")


def FanOut(num: int) -> Triple:
    """`num` copies of what comes in."""
    return triple(Chain((_FanOut(num),)), "FanOut")


def FanInSum() -> Triple:
    """The sum of all paths."""
    return triple(Chain((FanIn("sum"),)), "FanInSum")


def FanInConcat(axis: int = -1) -> Triple:
    """All paths, one after another along an axis."""
    return triple(Chain((FanIn("concatenation", axis),)), "FanInConcat")


def FanInProd() -> Triple:
    """The product of all paths: refused where a kernel is asked for."""
    return triple(Chain((FanIn("product"),)), "FanInProd")


def Identity() -> Triple:
    """What comes in."""
    return of(activations.Identity(), "Identity")


# ------------------------------------------------------------------------------------------------------ linear layers


def _only_one(parameterization: str, s: tuple[int, int]) -> str:
    if parameterization == "standard" and tuple(s) != (1, 1):
        raise NotImplementedError(
            f"s={s} is not known here: Dense and Conv in standard parameterization have the width that they are given."
        )
    return parameterization


def Dense(
    out_dim: int,
    W_std: float = 1.0,
    b_std: float | None = None,
    batch_axis: int = 0,
    channel_axis: int = -1,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
) -> Triple:
    """A dense layer; without `b_std` it has no bias."""
    made = layers.Dense(int(out_dim), W_std, b_std, parameterization=_only_one(parameterization, s))
    return of(made, "Dense", (batch_axis, channel_axis))


def Conv(
    out_chan: int,
    filter_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    W_std: float = 1.0,
    b_std: float | None = None,
    dimension_numbers: tuple[str, str, str] | None = None,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
) -> Triple:
    """A convolution; `dimension_numbers` say where batch, channels and directions are, as ("NCHW", "OIHW", "NCHW")."""
    filter_shape = tuple(map(int, filter_shape))
    strides = (1,) * len(filter_shape) if strides is None else tuple(map(int, strides))
    axes_in = axes_out = (0, -1)
    if dimension_numbers is not None:
        data, weights, out = dimension_numbers
        directions = [c for c in data if c not in "NC"]
        if directions != [c for c in out if c not in "NC"]:
            raise NotImplementedError(f"dimension_numbers={dimension_numbers}: the order of directions has to stay.")
        order = [[c for c in weights if c not in "IO"].index(c) for c in directions]
        filter_shape, strides = (tuple(sizes[i] for i in order) for sizes in (filter_shape, strides))
        axes_in, axes_out = ((spec.index("N"), spec.index("C")) for spec in (data, out))
    made = convolution.Conv(
        int(out_chan),
        filter_shape,
        strides,
        _word(padding),
        W_std,
        b_std,
        parameterization=_only_one(parameterization, s),
    )
    return of(made, "Conv", axes_in, axes_out)


def AvgPool(
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    normalize_edges: bool = False,
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Triple:
    """The mean over windows, which overlap unless `strides` say otherwise."""
    made = _pool(window_shape, strides, padding, normalize_edges=normalize_edges)
    return of(made, "AvgPool", (batch_axis, channel_axis))


def SumPool(
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Triple:
    """The sum over windows."""
    return of(_pool(window_shape, strides, padding, is_sum=True), "SumPool", (batch_axis, channel_axis))


def _pool(window_shape, strides, padding, **options):
    window = tuple(map(int, window_shape))
    strides = (1,) * len(window) if strides is None else tuple(map(int, strides))
    return convolution.AvgPool(window, strides, _word(padding), **options)


def GlobalAvgPool(batch_axis: int = 0, channel_axis: int = -1) -> Triple:
    """The mean over all positions."""
    axes = (batch_axis, channel_axis)
    return of(convolution.GlobalAvgPool(), "GlobalAvgPool", axes, _flat(*axes))


def GlobalSumPool(batch_axis: int = 0, channel_axis: int = -1) -> Triple:
    """The sum over all positions."""
    axes = (batch_axis, channel_axis)
    return of(convolution.GlobalAvgPool(is_sum=True), "GlobalSumPool", axes, _flat(*axes))


def Dropout(rate: float, mode: str = "train") -> Triple:
    """Nothing, as in testing."""
    if mode == "train" and rate != 1:
        raise NotImplementedError("Dropout in training is not known here. The nearest: none, or mode='test'.")
    return of(activations.Identity(), "Dropout")


def Flatten(batch_axis: int = 0, batch_axis_out: int = 0) -> Triple:
    """All positions and channels as channels."""
    channel_axis = -1 if batch_axis % 100 != 99 else 0
    axes_out = (0, 1) if batch_axis_out == 0 else (1, 0)
    return of(convolution.Flatten(), "Flatten", (batch_axis, channel_axis), axes_out)


def _flat(batch_axis: int, channel_axis: int) -> tuple[int, int]:
    return (0, 1) if batch_axis % 100 < channel_axis % 100 else (1, 0)


def LayerNorm(
    axis: int | Sequence[int] = -1, eps: float = 1e-12, batch_axis: int = 0, channel_axis: int = -1
) -> Triple:
    """Normalization over the channels."""
    axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if axes != (channel_axis,):
        raise NotImplementedError(f"LayerNorm(axis={axis}) is not known here: the nearest is over channels alone.")
    return of(layers.LayerNorm(eps), "LayerNorm", (batch_axis, channel_axis))


def GlobalSelfAttention(
    n_chan_out: int,
    n_chan_key: int,
    n_chan_val: int,
    n_heads: int,
    linear_scaling: bool = True,
    W_key_std: float = 1.0,
    W_value_std: float = 1.0,
    W_query_std: float = 1.0,
    W_out_std: float = 1.0,
    b_std: float | None = None,
    attention_mechanism: str = "SOFTMAX",
    pos_emb_type: str = "NONE",
    pos_emb_p_norm: float = 2,
    pos_emb_decay_fn: Callable | None = None,
    n_chan_pos_emb: int | None = None,
    W_pos_emb_std: float = 1.0,
    val_pos_emb: bool = False,
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Triple:
    """Self-attention on sequences."""
    mechanism, positions = _word(attention_mechanism), _word(pos_emb_type)
    refuse("pos_emb_decay_fn", pos_emb_decay_fn, "the nearest is SelfAttention(position_decay=...)")
    refuse("n_chan_pos_emb", n_chan_pos_emb, "positions are added to the channels, as many as there are")
    if positions == "CONCAT" or val_pos_emb:
        raise NotImplementedError("Positions are added to queries and keys here: the nearest is pos_emb_type='SUM'.")
    made = attention.SelfAttention(
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
    return of(made, "GlobalSelfAttention", (batch_axis, channel_axis))


# -------------------------------------------------------------------------------------------- layers of the guest's own


def layer(layer_fn: Callable[..., Triple]) -> Callable[..., Triple]:
    """A decorator: what makes (init_fn, apply_fn, kernel_fn), the last from `Kernel` to `Kernel`, makes a layer."""

    @wraps(layer_fn)
    def make(*arguments: Any, **options: Any) -> Triple:
        init_fn, apply_fn, kernel_fn = layer_fn(*arguments, **options)
        return of(Guest(init_fn, apply_fn, kernel_fn), layer_fn.__name__)

    return make


def requires(**needs: Any) -> Callable[[Callable], Callable]:
    """A decorator of a kernel function; all variances and pairs of positions are there without it."""
    return lambda kernel_fn: kernel_fn


# ------------------------------------------------------------------------------------------------- what there is not

_NEAREST = {
    "Aggregate": "none: networks on graphs have no kernel here",
    "ConvLocal": "Conv, which shares its weights over positions",
    "ConvTranspose": "Conv",
    "DotGeneral": "Dense and Conv, whose weights are random",
    "ImageResize": "AvgPool, or jax.image.resize of the inputs",
    "Index": "GlobalAvgPool or Flatten",
    "Slice": "GlobalAvgPool or Flatten",
    "supports_masking": "none: masks are not known here",
    "unmask_fn": "none: masks are not known here",
    "MaskedArray": "none: masks are not known here",
    "Diagonal": "a subclass of ntkbook.Layer with `requires`",
    "AggregateImplementation": "none: networks on graphs have no kernel here",
}


def __getattr__(name: str) -> Any:
    """What the guest has and this library has not: a function that says so when it is called."""
    if name not in _NEAREST:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def absent(*arguments: Any, **options: Any) -> Any:
        raise NotImplementedError(f"stax.{name} is not known here. The nearest: {_NEAREST[name]}.")

    return absent
