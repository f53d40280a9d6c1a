"""The examples in docstrings run, and print what they say, in the precision that JAX starts with."""

import doctest
import importlib
import pkgutil
import types
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest

import ntkbook as nb

# the names that an example need not import: those of the table of contents
NAMES = {"nb": nb, "jnp": jnp} | {name: value for name, value in vars(nb).items() if not name.startswith("_")}
NO_MODULES = ("ntkbook.__main__", "ntkbook.notebooks")
# doors to libraries that `make test LEVEL=everything` installs
DOORS = tuple(f"ntkbook.interop.{name}" for name in ("gpytorch", "tinygp") if find_spec(name) is None)


@pytest.fixture(autouse=True)
def single_precision():
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


def examples(module):
    """(failed, tried) examples of a module; doctest prints what went wrong."""
    return doctest.testmod(module, extraglobs=NAMES, optionflags=doctest.ELLIPSIS)


MODULES = [found.name for found in pkgutil.walk_packages(nb.__path__, "ntkbook.")]
MODULES = [name for name in MODULES if not name.startswith((*NO_MODULES, *DOORS))]
QUICK = {"ntkbook.networks.kernel", "ntkbook.dynamics.gradient"}
OLD = "ignore::DeprecationWarning:(torch|gpytorch|linear_operator).*"


@pytest.mark.filterwarnings(OLD)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in MODULES])
def test_the_examples_run(name):
    assert examples(importlib.import_module(name)).failed == 0


@pytest.mark.slow
@pytest.mark.filterwarnings(OLD)
def test_there_are_examples():
    found = [test for name in MODULES for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert QUICK < set(MODULES) and sum(len(test.examples) for test in found) > 40


def test_a_wrong_example_is_seen():
    assert examples(types.ModuleType("wrong", ">>> 1 + 1\n3\n")).failed == 1
