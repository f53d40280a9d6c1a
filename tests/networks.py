"""Small networks that between them use every layer, each with its kernel as an oracle of explicit loops.

A new layer is a new row of NETWORKS: the generic tests of kernels (test_layers.py) and of finite networks against
kernels (test_finite_networks.py) run on every row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracles
import pytest

import ntkbook as nb
from ntkbook import AvgPool, Conv, Dense, Erf, Flatten, GlobalAvgPool, LayerNorm, Relu, Repeat, Residual, serial


@dataclass
class Row:
    """`network(w, o)` has hidden width w and o outputs; `oracle(pair, w)` is its kernel for one pair of inputs."""

    name: str
    shape: tuple[int, ...]  # of one input
    network: Callable[[int, int], Any]
    oracle: Callable[[oracles.Pair, int], oracles.Pair]
    kinked: bool = True  # some activation has a kink: then rounding at coincident inputs moves the angle
    forward_only: bool = False  # a loop of traced length: gradients in forward mode
    sampled: bool = True  # the finite network has all its widths in w, so that it tends to the kernel
    width: int = 128  # of the sampled networks
    seeds: int = 64
    drawn_by_init: bool = False  # parameters by `init`; those of the others, all N(0, 1), by numpy, which is quicker
    slow: bool = False  # to compile
    bias: float = 0.03  # allowed systematic error at that width, relative to the largest entry

    def __repr__(self):
        return self.name

    def inputs(self, n: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(n, *self.shape))


def marked(row):
    """The row as a parameter of a test."""
    return pytest.param(row, marks=pytest.mark.slow) if row.slow else row


def relu(pair):
    return oracles.activation(pair, oracles.relu_dual)


def erf(pair):
    return oracles.activation(pair, oracles.erf_dual)


def layer_norm(pair):
    return oracles.layer_norm(pair)


def dense(W_std=1.0, b_std=0.0, parameterization="ntk"):
    return lambda pair, w: oracles.dense(pair, w, W_std, b_std, parameterization)


def conv(filter_shape, strides=None, padding="SAME", W_std=1.0, b_std=0.0, parameterization="ntk"):
    return lambda pair, w: oracles.conv(pair, w, filter_shape, strides, padding, W_std, b_std, parameterization)


def chain(*steps):
    """One step after another; a step takes a pair, or a pair and the hidden width."""

    def run(pair, w):
        for step in steps:
            pair = step(pair, w) if step.__code__.co_argcount == 2 else step(pair)
        return pair

    return run


def residual(*steps):
    return lambda pair, w: oracles.residual(pair, lambda pair: chain(*steps)(pair, w))


def pool(window, strides=None):
    return lambda pair: oracles.avg_pool(pair, window, strides)


def attention(zeta, QK, OV, b_std=0.0, position_std=0.0, decay=None):
    def encoded(nngp):
        places = np.arange(len(nngp))
        distance = np.abs(places[:, None] - places)
        return nngp + position_std**2 * (np.eye(len(nngp)) if decay is None else np.exp(-decay * distance))

    return lambda pair, w: oracles.attention_linear(pair, zeta, QK, OV, b_std, encoded)


def identity_dual(q1, q2, k):
    return k, 1.0


def heads(w, width, **options):
    return nb.SelfAttention(width, w // 4, w, w // 4, **options)


gap, flat = oracles.global_avg_pool, oracles.flatten
image, tall, sequence = (3, 3, 3), (5, 4, 3), (4, 3)
standard = {"parameterization": "standard"}

NETWORKS = [
    Row(
        "relu, one hidden layer",
        (3,),
        lambda w, o: serial(Dense(w, 1.5, 0.3), Relu(), Dense(o, 1.2, 0.1)),
        chain(dense(1.5, 0.3), relu, dense(1.2, 0.1)),
        drawn_by_init=True,
    ),
    Row(
        "erf, three hidden layers",
        (3,),
        lambda w, o: serial(
            Dense(w, 1.3, 0.2), Erf(), Dense(w, 1.3, 0.2), Erf(), Dense(w, 1.3, 0.2), Erf(), Dense(o, 1.3, 0.2)
        ),
        chain(dense(1.3, 0.2), erf, dense(1.3, 0.2), erf, dense(1.3, 0.2), erf, dense(1.3, 0.2)),
        kinked=False,
    ),
    Row(
        "linear",
        (3,),
        lambda w, o: serial(Dense(w, 0.9, 0.5), Dense(w), Dense(o)),
        chain(dense(0.9, 0.5), dense(), dense()),
        kinked=False,
    ),
    Row(
        "standard parameterization",
        (3,),
        lambda w, o: serial(
            Dense(w, 1.4, 0.3, **standard),
            Relu(),
            Dense(w, 1.4, 0.3, **standard),
            Relu(),
            Dense(o, 1.1, 0.2, **standard),
        ),
        chain(dense(1.4, 0.3, "standard"), relu, dense(1.4, 0.3, "standard"), relu, dense(1.1, 0.2, "standard")),
        drawn_by_init=True,
    ),
    Row(
        "standard parameterization without biases, between others",
        (3,),
        lambda w, o: serial(
            Dense(w, 1.4, None, **standard), Erf(), Dense(w, 1.2, 0.1), Relu(), Dense(o, 1.1, None, **standard)
        ),
        chain(dense(1.4, None, "standard"), erf, dense(1.2, 0.1), relu, dense(1.1, None, "standard")),
        drawn_by_init=True,
    ),
    Row(
        "residual",
        (3,),
        lambda w, o: serial(Dense(w, 1.2, 0.2), Residual(Relu(), Dense(w, 1.1, 0.3)), Relu(), Dense(o, 1.3)),
        chain(dense(1.2, 0.2), residual(relu, dense(1.1, 0.3)), relu, dense(1.3)),
    ),
    Row(
        "residual on inputs",
        (3,),
        lambda w, o: serial(Residual(Dense(3, 0.8, 0.2)), Dense(w), Relu(), Dense(o)),
        chain(residual(dense(0.8, 0.2)), dense(), relu, dense()),
        sampled=False,
    ),
    Row(
        "repeat",
        (3,),
        lambda w, o: serial(Dense(w, 1.4, 0.2), Repeat(serial(Relu(), Dense(w, 1.4, 0.2)), 3), Erf(), Dense(o)),
        chain(dense(1.4, 0.2), *(relu, dense(1.4, 0.2)) * 3, erf, dense()),
        forward_only=True,
        bias=0.05,
    ),
    Row(
        "repeat that begins with the raw inputs",
        (3,),
        lambda w, o: serial(Repeat(serial(Dense(3, 1.4, 0.2), Relu()), 2), Dense(o)),
        chain(*(dense(1.4, 0.2), relu) * 2, dense()),
        forward_only=True,
        sampled=False,
    ),
    Row(
        "repeated residual with layer norm",
        (3,),
        lambda w, o: serial(
            Dense(w), Repeat(Residual(LayerNorm(), Relu(), Dense(w, 0.7, 0.2)), 2), LayerNorm(), Dense(o)
        ),
        chain(dense(), *(residual(layer_norm, relu, dense(0.7, 0.2)),) * 2, layer_norm, dense()),
        forward_only=True,
    ),
    Row(
        "convolution, flatten",
        image,
        lambda w, o: serial(
            Conv(w, (3, 3), W_std=1.4, b_std=0.2), Relu(), Conv(w, (3, 2)), Relu(), Flatten(), Dense(o)
        ),
        chain(conv((3, 3), W_std=1.4, b_std=0.2), relu, conv((3, 2)), relu, flat, dense()),
        width=48,
        bias=0.06,
    ),
    Row(
        "convolution, global pooling",
        image,
        lambda w, o: serial(
            Conv(w, (3, 3), W_std=1.4, b_std=0.2), Relu(), Conv(w, (3, 3), W_std=1.2), Relu(), GlobalAvgPool(), Dense(o)
        ),
        chain(conv((3, 3), W_std=1.4, b_std=0.2), relu, conv((3, 3), W_std=1.2), relu, gap, dense()),
        width=48,
        bias=0.06,
    ),
    Row(
        "valid convolution with strides",
        tall,
        lambda w, o: serial(Conv(w, (2, 3), (2, 1), "VALID", 1.3, 0.1), Erf(), Flatten(), Dense(o)),
        chain(conv((2, 3), (2, 1), "VALID", 1.3, 0.1), erf, flat, dense()),
        kinked=False,
    ),
    Row(
        "circular convolution with strides and an even filter",
        tall,
        lambda w, o: serial(Conv(w, (2, 3), (1, 2), "CIRCULAR", 1.3, 0.1), Relu(), GlobalAvgPool(), Dense(o)),
        chain(conv((2, 3), (1, 2), "CIRCULAR", 1.3, 0.1), relu, gap, dense()),
    ),
    Row(
        "same convolution with strides",
        tall,
        lambda w, o: serial(Conv(w, (3, 2), (2, 3), "SAME", 1.3, 0.1), Relu(), GlobalAvgPool(), Dense(o)),
        chain(conv((3, 2), (2, 3), "SAME", 1.3, 0.1), relu, gap, dense()),
    ),
    Row(
        "pooling in the middle",
        image,
        lambda w, o: serial(
            Conv(w, (3, 3), W_std=1.4, b_std=0.2), Relu(), AvgPool((2, 2)), Conv(w, (2, 2)), Relu(), Flatten(), Dense(o)
        ),
        chain(conv((3, 3), W_std=1.4, b_std=0.2), relu, pool((2, 2)), conv((2, 2)), relu, flat, dense()),
        width=48,
        bias=0.06,
        slow=True,
    ),
    Row(
        "overlapping pooling, then dense layers",
        (4, 3, 3),
        lambda w, o: serial(
            Conv(w, (1, 1), b_std=0.3), Relu(), AvgPool((2, 2), (2, 1)), GlobalAvgPool(), Dense(w), Relu(), Dense(o)
        ),
        chain(conv((1, 1), b_std=0.3), relu, pool((2, 2), (2, 1)), gap, dense(), relu, dense()),
        slow=True,
    ),
    Row(
        "convolution in standard parameterization",
        image,
        lambda w, o: serial(
            Conv(w, (3, 3), W_std=1.4, b_std=0.2, **standard), Relu(), Flatten(), Dense(o, 1.1, None, **standard)
        ),
        chain(
            conv((3, 3), W_std=1.4, b_std=0.2, parameterization="standard"), relu, flat, dense(1.1, None, "standard")
        ),
        drawn_by_init=True,
    ),
    Row(
        "residual convolution with layer norm",
        image,
        lambda w, o: serial(
            Conv(w, (1, 1)), Residual(LayerNorm(), Relu(), Conv(w, (3, 3), b_std=0.2)), GlobalAvgPool(), Dense(o)
        ),
        chain(conv((1, 1)), residual(layer_norm, relu, conv((3, 3), b_std=0.2)), gap, dense()),
        width=64,
    ),
    Row(
        "sequence: convolution, dense, flatten",
        sequence,
        lambda w, o: serial(Conv(w, (3,), (2,), b_std=0.1), Relu(), Dense(w, 1.2), Relu(), Flatten(), Dense(o)),
        chain(conv((3,), (2,), b_std=0.1), relu, dense(1.2), relu, flat, dense()),
    ),
    Row(
        "positions kept to the end",
        sequence,
        lambda w, o: serial(Conv(w, (2,), b_std=0.1), Relu(), Dense(o)),
        chain(conv((2,), b_std=0.1), relu, dense()),
    ),
    Row(
        "attention: softmax",
        sequence,
        lambda w, o: serial(
            heads(w, w, W_query_std=1.2, W_key_std=0.9, W_value_std=1.1, W_out_std=0.8, b_std=0.2),
            GlobalAvgPool(),
            Dense(o),
        ),
        chain(attention(oracles.softmax, 1.2 * 0.9, 1.1 * 0.8, 0.2), gap, dense()),
        kinked=False,
        width=96,
        bias=0.06,
    ),
    Row(
        "attention: softmax with positions, then an activation",
        sequence,
        lambda w, o: serial(
            Dense(w, 1.1),
            heads(w, w, b_std=0.2, position_std=0.7, position_decay=0.5),
            Relu(),
            Flatten(),
            Dense(o),
        ),
        chain(dense(1.1), attention(oracles.softmax, 1.0, 1.0, 0.2, 0.7, 0.5), relu, flat, dense()),
        width=96,
        bias=0.06,
    ),
    Row(
        "attention: linear scaling, identity, no decay",
        sequence,
        lambda w, o: serial(
            Dense(w), heads(w, w, zeta="identity", position_std=0.4), GlobalAvgPool(), Dense(w), Erf(), Dense(o)
        ),
        chain(dense(), attention(lambda G: G, 1.0, 1.0, 0.0, 0.4), gap, dense(), erf, dense()),
        kinked=False,
        width=96,
        bias=0.1,
    ),
    Row(
        "attention: linear scaling, relu",
        sequence,
        lambda w, o: serial(heads(w, w, zeta="relu", b_std=0.1), Flatten(), Dense(o)),
        chain(attention(lambda G: np.maximum(G, 0), 1.0, 1.0, 0.1), flat, dense()),
        width=96,
        bias=0.1,
    ),
    Row(
        "attention: sqrt scaling, identity",
        sequence,
        lambda w, o: serial(
            heads(w, w, scaling="sqrt", zeta="identity", W_query_std=0.8, W_out_std=0.9, b_std=0.1), Flatten(), Dense(o)
        ),
        chain(lambda pair: oracles.attention_sqrt(pair, identity_dual, 0.8, 0.9, 0.1), flat, dense()),
        kinked=False,
        width=96,
        bias=0.1,
    ),
    Row(
        "attention: sqrt scaling, relu",
        (3, 3),
        lambda w, o: serial(
            Dense(w, 1.2, 0.1), heads(w, w, scaling="sqrt", zeta="relu", W_value_std=0.9), GlobalAvgPool(), Dense(o)
        ),
        chain(
            dense(1.2, 0.1), lambda pair: oracles.attention_sqrt(pair, oracles.relu_dual, 1.0, 0.9, 0.0), gap, dense()
        ),
        width=96,
        bias=0.1,
    ),
]
