"""Every test runs with float64 on, silent dtype promotion off, and annotations checked by beartype."""

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
install_import_hook("ntkbook", "beartype.beartype")


@pytest.fixture
def key():
    return jax.random.key(0)
