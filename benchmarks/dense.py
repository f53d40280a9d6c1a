"""The dense ReLU kernel: the NTK of the data with itself, in float32."""

import numpy as np

TITLE = "dense ReLU kernel, d = 784 where no other is named, float32"
CASES = [
    {"label": "n = 2000, 3 hidden layers", "n": 2000, "depth": 3},
    {"label": "n = 2000, 10 hidden layers", "n": 2000, "depth": 10},
    {"label": "n = 500, 3 hidden layers", "n": 500, "depth": 3},
    {"label": "n = 2000, d = 3072, 3 hidden layers", "n": 2000, "d": 3072, "depth": 3},
]
CASES = [{**case, "repeats": 9, "agree_to": 1e-5, "diagonal_apart": True} for case in CASES]
W_STD, B_STD = 2**0.5, 0.1


def inputs(case: dict) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(case["n"], case.get("d", 784))).astype(np.float32)


def bound(case: dict) -> dict:
    """Half of the product of the inputs with themselves, which is symmetric, and the result written once."""
    return {"product": (case["n"] // 2, case.get("d", 784), case["n"]), "bytes": 4 * case["n"] ** 2}


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
