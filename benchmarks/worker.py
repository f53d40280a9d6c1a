"""One side of a pair: runs the cases of one benchmark in a process of its own, on orders read from standard input.

It starts in our environment or in the peer's, so it imports neither; a case's own function does. Orders and answers are
lines of JSON: start a case (timed: it compiles), run it once more (timed), save its last result, say where it runs and
how long the machine takes for a product of matrices and for bytes through its memory.
"""

import importlib
import json
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

COMPILATIONS = []
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "ntkbook", "neural-tangents")


def main(module: str, side: str):
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not look like an answer
    jax.monitoring.register_event_duration_secs_listener(_note)
    benchmark, run, result = importlib.import_module(module), None, None
    for line in sys.stdin:
        order = json.loads(line)
        answer = {}
        if order["do"] == "start":
            begin = time.perf_counter()
            run = getattr(benchmark, side)(order["case"])
            result = None if order["case"].get("once") else jax.block_until_ready(run(0))
            answer = {"seconds": time.perf_counter() - begin}
            COMPILATIONS.clear()
        elif order["do"] == "run":
            begin, cpu = time.perf_counter(), time.process_time()
            result = jax.block_until_ready(run(order["step"]))
            answer = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        elif order["do"] == "save":
            np.savez(order["path"], *[np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(result)])
        elif order["do"] == "bound":
            answer = {"seconds": _product(*order.get("product", (0, 0, 0))) + _stream(order.get("bytes", 0))}
        elif order["do"] == "describe":
            answer = {"versions": _versions(), "peak_mb": _peak_mb(), "compilations": len(COMPILATIONS)}
        print(json.dumps(answer), file=answers, flush=True)


def _note(event: str, duration: float, **_):
    if event.endswith("backend_compile_duration"):
        COMPILATIONS.append(duration)


def _least(run, repeats: int = 5) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return min(times)


def _product(rows: int, inner: int, columns: int) -> float:
    """Seconds of one product of matrices of these sizes, in the precision of this process."""
    if not rows * inner * columns:
        return 0.0
    a, b = jax.numpy.ones((rows, inner)), jax.numpy.ones((inner, columns))
    product = jax.jit(jax.numpy.matmul)
    return _least(lambda: product(a, b))


def _stream(size: int) -> float:
    """Seconds for this many bytes, read and written, at the speed of a copy that fits in no cache."""
    if not size:
        return 0.0
    x = jax.numpy.ones(2**26, jax.numpy.float32)  # 256 MiB
    copy = jax.jit(lambda x: x + 1)
    return _least(lambda: copy(x)) * size / (2 * x.nbytes)


def _peak_mb() -> int | None:
    """The largest memory of this process alone: `ru_maxrss` begins at that of the process which started it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), None)


def _versions() -> dict:
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    versions = {name: metadata.version(name) for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **versions}


if __name__ == "__main__":
    main(*sys.argv[1:])
