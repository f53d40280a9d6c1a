"""Memory that a long session has used and needs no more: compiled programs."""

import ctypes
import gc

import jax


def drop_programs() -> None:
    """Forgets what JAX has compiled, and gives its memory back to the system where the C library can (Linux).

    Chapters call it between sections: programs of past cells hold some hundred megabytes, and without the second step
    the process keeps them in pieces that nothing else fits into. What is called again compiles again.

    >>> drop_programs()
    """
    gc.collect()
    jax.clear_caches()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another system, another library
        pass
