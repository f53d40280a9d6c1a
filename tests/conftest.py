"""Every test runs with float64 on, silent dtype promotion off, and annotations checked by beartype."""

import ctypes
import gc
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from check import compiling_quickly  # noqa: E402

SINGLE = os.environ.get("NTKBOOK_X64") == "0"  # `make single`: the tests that also hold in float32

# Most of a test's time is compiling, and each program runs once: so, and without optimizations, it takes two fifths.
os.environ.update(compiling_quickly() | os.environ)
jax.config.update("jax_enable_x64", not SINGLE)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)
install_import_hook("ntkbook", "beartype.beartype")
# tracing makes millions of small objects that live: looking for garbage among them is a tenth of all
gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked `slow_after_first`, all cases but the first are slow."""
    seen = set()
    for item in items:
        if item.get_closest_marker("slow_after_first"):
            test = (item.path, item.originalname)
            if test in seen:
                item.add_marker("slow")
            seen.add(test)


@pytest.fixture
def key():
    return jax.random.key(0)


# `make quick` reads again what it compiled the last time. In a whole run only optimized programs, those of panels, have
# a reader, another worker or a process that a test starts: to look for the others and write them takes 3 % of all.
KEEPS_ALL = float(os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 1)) < 0.1


def optimize(is_on):
    jax.config.update("jax_disable_most_optimizations", not is_on)
    if not KEEPS_ALL:
        jax.config.update("jax_enable_compilation_cache", is_on)
        compilation_cache.reset_cache()  # JAX looks at this setting once


@pytest.fixture(scope="module", autouse=True)
def optimized_file(request):
    """A file that says `OPTIMIZED = True` runs longer than it compiles: networks in training, many seeds."""
    optimize(getattr(request.module, "OPTIMIZED", False))
    yield
    # each program takes some maps; past the system's 65,530 compiling ends in a crash. And two workers fit in 8 GB.
    # To look through all of memory takes a second or two: a process that stays large does so once in 0.3 GB.
    is_full = memory_maps() > 15_000 or resident_bytes() > max(2.5e9, _left + 0.3e9)
    if is_full:
        gc.unfreeze()
        jax.clear_caches()
    gc.collect()
    gc.freeze()  # what is left lives on: no later collection looks through it again
    if is_full:
        give_memory_back()


_left = 0.0  # bytes, when memory was given back for the last time


def give_memory_back():
    global _left
    if hasattr(system := ctypes.CDLL(None), "malloc_trim"):
        system.malloc_trim(0)
    _left = resident_bytes()


def memory_maps():
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def resident_bytes():
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


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
        with jax.checking_leaks():
            yield

    return check
