"""Kernels and solves past memory, row by row: python benchmarks/scale.py [memory] [solve] [peer]

memory  n = 20,000 points in float32 into a store: the largest memory of the process beside a budget in bytes
solve   n = 5,000: conjugate gradients from the store beside a dense solve and scikit-learn's KernelRidge
peer    the peer's `batch`, in its own environment (see peer.py), on tiles of the same side
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import peer

DATA = """
import numpy as np
def inputs(n):
    scales = np.arange(1, 785.0) ** -0.7  # a spectrum like that of images
    return (np.random.default_rng(0).normal(size=(n, 784)) * scales).astype("float32")
"""

MEMORY = """
import resource, sys, time, jax.numpy as jnp, ntkbook as nb
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
net = nb.serial(nb.Dense(8, 2**0.5), nb.Repeat(nb.serial(nb.Relu(), nb.Dense(8, 2**0.5)), 3), nb.Relu(), nb.Dense(1))
begun = time.perf_counter()
k = nb.gram(net, jnp.asarray(inputs(int(sys.argv[2]))), store=sys.argv[1] + "/k", memory=float(sys.argv[3]) / 2)
print({"n": len(k), "bytes": k.nbytes, "peak": peak(), "tile": k.tile, "seconds": time.perf_counter() - begun})
"""

SOLVE = """
import sys, time, jax.numpy as jnp, ntkbook as nb
from sklearn.kernel_ridge import KernelRidge
def timed(f):
    begun = time.perf_counter()
    return f(), round(time.perf_counter() - begun, 2)
n = int(sys.argv[2])
net = nb.serial(nb.Dense(8, 2**0.5), nb.Repeat(nb.serial(nb.Relu(), nb.Dense(8, 2**0.5)), 3), nb.Relu(), nb.Dense(1))
k, fill = timed(lambda: nb.gram(net, jnp.asarray(inputs(n)), store=sys.argv[1] + "/k"))
y, noise = np.random.default_rng(1).normal(size=(n, 10)), 1e-3 * float(k.diagonal().mean())
made, cg = timed(lambda: nb.kernel_regression(k, y, noise=noise, progress=False))
plain, slow = timed(lambda: nb.kernel_regression(k, y, noise=noise, rank=0, max_iterations=100, progress=False))
K = np.asarray(k, float)
dense, exact = timed(lambda: np.linalg.solve(K + noise * np.eye(n), y))
ridge, sklearn = timed(lambda: KernelRidge(alpha=noise, kernel="precomputed").fit(K, y).dual_coef_)
gap = lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b))
print({"n": n, "fill": fill, "cg": cg, "products": made.iterations, "residual": made.residual,
       "plain, 100 products": slow, "its residual": plain.residual, "dense": exact, "KernelRidge": sklearn,
       "gap to dense": gap(made.coefficients, dense), "gap to KernelRidge": gap(made.coefficients, ridge)})
"""

PEER = """
import sys, time, jax.numpy as jnp, neural_tangents as nt
from neural_tangents import stax
n, batch = int(sys.argv[2]), int(sys.argv[3])
hidden = [layer for _ in range(4) for layer in (stax.Dense(8, 2**0.5), stax.Relu())]
_, _, kernel_fn = stax.serial(*hidden, stax.Dense(1))
x = jnp.asarray(inputs(n))
batched = nt.batch(kernel_fn, batch_size=batch)
batched(x[: 2 * batch], None, "ntk")
begun = time.perf_counter()
k = batched(x, None, "ntk").block_until_ready()
print({"n": n, "batch": batch, "seconds": time.perf_counter() - begun})
"""


def main(words):
    words = words or ["memory", "solve"]
    with tempfile.TemporaryDirectory() as folder:
        if "memory" in words:
            budget = 1e9
            print("memory", {"budget": budget}, run([sys.executable], MEMORY, folder, "20000", str(budget)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if "solve" in words:
            print("solve", run([sys.executable], SOLVE, folder, "5000"), flush=True)
        if "peer" in words:
            print("peer", run([str(peer.make())], PEER, folder, "5000", "1000"), flush=True)


def run(python, code, *arguments):
    ran = subprocess.run(
        [*python, "-W", "ignore", "-c", DATA + code, *arguments],
        env={**os.environ, **peer.environment()},
        capture_output=True,
        text=True,
    )
    return ran.stdout.strip() if ran.returncode == 0 else json.dumps(ran.stderr[-300:])


if __name__ == "__main__":
    begun = time.perf_counter()
    main(sys.argv[1:])
    print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr)
