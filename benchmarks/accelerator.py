"""Kernels on an accelerator, beside the time that its memory alone would take (the peer does not run on such machines).

Two bounds: writing the result once, which any program must, and one read and write of both kernels for each layer,
which a program that does one layer after another must. Run `python benchmarks/accelerator.py` where JAX sees a GPU.
"""

import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import ntkbook as nb

RESULT = Path(__file__).resolve().parent / "results" / "accelerator.json"
W_STD, B_STD = 2**0.5, 0.1


def dense(depth):
    hidden = nb.serial(nb.Relu(), nb.Dense(512, W_STD, B_STD))
    return nb.serial(nb.Dense(512, W_STD, B_STD), nb.Repeat(hidden, depth - 1), nb.Relu(), nb.Dense(1, W_STD, B_STD))


def convolutional(depth):
    layers = [nb.Conv(64, (3, 3), W_std=W_STD, b_std=B_STD), nb.Relu()] * depth
    return nb.serial(*layers, nb.GlobalAvgPool(), nb.Dense(1, W_STD, B_STD))


CASES = [
    *[("dense", dense(depth), (n, 784), depth, n * n) for n in (2000, 8000) for depth in (3, 10)],
    *[("conv 3x3, pooled", convolutional(3), (n, 8, 8, 3), 3, n * n * 64**2) for n in (50, 200)],
    ("conv 3x3, pooled", convolutional(3), (40, 16, 16, 3), 3, 40 * 40 * 256**2),
]


def seconds(function, repeats=15):
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def bandwidth():
    """Bytes per second of a copy of 1 GiB, counting those read and those written."""
    x = jnp.ones(2**28, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / seconds(lambda: copy(x))


def main():
    rate, rows = bandwidth(), []
    print(f"{jax.devices()[0].device_kind}, copy {rate / 1e12:.2f} TB/s")
    for name, net, shape, depth, entries in CASES:
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
        took = seconds(lambda net=net, x=x: nb.gram(net, x))
        host = np.asarray(nb.gram(net, x[:20]))
        with jax.default_device(jax.devices("cpu")[0]):
            right = np.asarray(nb.gram(net, np.asarray(x[:20])))
        error = float(np.abs(host - right).max() / np.abs(right).max())
        result_bound, layer_bound = 4 * shape[0] ** 2 / rate, 16 * entries * depth / rate
        rows.append(
            {"case": name, "shape": shape, "depth": depth, "seconds": took, "error against the processor": error}
            | {"bound, result": result_bound, "bound, layers": layer_bound}
        )
        bounds = f"bounds {1e3 * result_bound:.3f} and {1e3 * layer_bound:.3f} ms"
        print(f"{name:18} {shape!s:18} depth {depth:2}: {1e3 * took:8.2f} ms; {bounds}; error {error:.1e}", flush=True)
    versions = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.devices()[0].device_kind}
    RESULT.write_text(json.dumps({"environment": versions, "copy bytes per second": rate, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
