"""Convolutional kernels with global pooling, where every pair of positions of every pair of images counts."""

import numpy as np

TITLE = "3x3 ReLU convolutions, global average pooling, float32"
CASES = [
    {"label": "8x8x3 images, n = 50", "side": 8, "n": 50, "repeats": 3, "agree_to": 1e-5},
    {"label": "16x16x3 images, n = 40", "side": 16, "n": 40, "once": True, "agree_to": 1e-5},
    {"label": "8x8x3 images, n = 200", "side": 8, "n": 200, "once": True, "agree_to": 1e-5},
]
LAYERS = 3
W_STD, B_STD = 2**0.5, 0.1


def inputs(case: dict) -> np.ndarray:
    shape = (case["n"], case["side"], case["side"], 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def ours(case: dict):
    import jax.numpy as jnp

    import ntkbook as nb

    x = jnp.asarray(inputs(case))
    layers = [nb.Conv(64, (3, 3), W_std=W_STD, b_std=B_STD), nb.Relu()] * case.get("layers", LAYERS)
    net = nb.serial(*layers, nb.GlobalAvgPool(), nb.Dense(1, W_STD, B_STD))
    if case.get("once"):  # as for the peer, compiled before
        nb.ntk(net, x)
    return lambda step: nb.ntk(net, x)


def peer(case: dict):
    import jax
    from neural_tangents import stax

    x = jax.numpy.asarray(inputs(case))
    layers = [stax.Conv(64, (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD), stax.Relu()]
    net = stax.serial(*layers * case.get("layers", LAYERS), stax.GlobalAvgPool(), stax.Dense(1, W_STD, B_STD))
    kernel_fn = jax.jit(lambda x: net[2](x, None, get="ntk"))
    if case.get("once"):  # a run takes minutes: it is compiled, and not run, before the one that is timed
        kernel_fn = kernel_fn.lower(x).compile()
    return lambda step: kernel_fn(x)


if __name__ == "__main__":
    import pairing

    pairing.main()
