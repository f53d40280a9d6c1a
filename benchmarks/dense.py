"""The dense ReLU kernel of 2000 points, 3 and 10 hidden layers: the NTK of the data with itself, in float32."""

import numpy as np

TITLE = "dense ReLU kernel, n = 2000, d = 784, float32"
CASES = [
    {
        "label": f"{depth} hidden layers",
        "n": 2000,
        "depth": depth,
        "repeats": 15,
        "agree_to": 1e-5,
        "diagonal_apart": True,
    }
    for depth in (3, 10)
]
W_STD, B_STD = 2**0.5, 0.1


def inputs(case: dict) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(case["n"], case.get("d", 784))).astype(np.float32)


def ours(case: dict):
    import jax.numpy as jnp

    import ntkbook as nb

    x = jnp.asarray(inputs(case))
    hidden = nb.serial(nb.Relu(), nb.Dense(512, W_STD, B_STD))
    net = nb.serial(nb.Dense(512, W_STD, B_STD), nb.Repeat(hidden, case["depth"]))  # the kernel knows no widths
    return lambda step: nb.ntk(net, x)


def peer(case: dict):
    import jax
    from neural_tangents import stax

    x = jax.numpy.asarray(inputs(case))
    layers = [stax.Dense(512, W_STD, B_STD), stax.Relu()] * case["depth"]
    kernel_fn = jax.jit(stax.serial(*layers, stax.Dense(1, W_STD, B_STD))[2], static_argnames="get")
    return lambda step: kernel_fn(x, None, get="ntk")


if __name__ == "__main__":
    import pairing

    pairing.main()
