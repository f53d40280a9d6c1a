"""Every test runs with float64 on, silent dtype promotion off, and annotations checked by beartype."""

import gc
import os
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# Most of a test's time is compiling, and each program runs once: without optimizations, in one piece, and by the older
# way of writing loops, it takes two fifths. Flags that a jaxlib does not know stop it; these are known from 0.10.
if jax.__version_info__ >= (0, 10) and "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)
install_import_hook("ntkbook", "beartype.beartype")
# tracing makes millions of small objects that live: looking for garbage among them is a tenth of all
gc.set_threshold(50_000, 20, 100)


@pytest.fixture
def key():
    return jax.random.key(0)


def optimize(is_on):
    jax.config.update("jax_disable_most_optimizations", not is_on)


@pytest.fixture(scope="module", autouse=True)
def optimized_file(request):
    """A file that says `OPTIMIZED = True` runs longer than it compiles: networks in training, many seeds."""
    optimize(getattr(request.module, "OPTIMIZED", False))
    yield
    if memory_maps() > 15_000:  # each program takes some; past the system's 65,530 compiling ends in a crash
        jax.clear_caches()
        gc.collect()


def memory_maps():
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture
def optimized(request):
    """The same for one test."""
    optimize(True)
    yield
    optimize(getattr(request.module, "OPTIMIZED", False))


@pytest.fixture
def checking_leaks():
    """`jax.checking_leaks()`. It searches all of memory for every trace: what earlier tests left is set aside."""

    @contextmanager
    def check():
        gc.collect()
        gc.freeze()
        try:
            with jax.checking_leaks():
                yield
        finally:
            gc.unfreeze()

    return check
