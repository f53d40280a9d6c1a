"""Several devices: the numbers of one, to the last bit, and no device alone with all of the rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import ntkbook as nb

HERE = Path(__file__).parent
FLAGS = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
EIGHT = {"XLA_FLAGS": FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What tests/eight_devices.py saw, in a process of its own: the number of devices is fixed at the start of one."""
    command = [sys.executable, HERE / "eight_devices.py", tmp_path_factory.mktemp("eight")]
    ran = subprocess.run(command, env={**os.environ, **EIGHT}, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.slow
def test_a_mesh_shares_the_rows_and_changes_no_bit(facts):
    assert facts["mesh"] == ["(('rows', 'more'),)", 8, [6, 48]]
    assert facts["mesh is one device"] and facts["across"]
    assert facts["odd"] == ["()", 8, [45, 45]] and facts["odd gap"] < 1e-5


@pytest.mark.slow
def test_a_store_that_eight_devices_filled(facts):
    assert facts["store"] == [True, True, ["(('rows', 'more'),)", 8, [6, 48]]]


@pytest.mark.slow
def test_a_regression_on_rows_that_eight_devices_hold(facts):
    assert facts["regression"] < 1e-3


@pytest.mark.slow
def test_inputs_that_lie_on_several_devices_are_not_gathered_onto_one(facts):
    assert facts["spread"] == ["('rows',)", 8, [6, 48]] and facts["spread is one device"]
    assert facts["few points"] < 1e-6


@pytest.mark.slow
def test_points_that_meet_their_copies_on_another_device_keep_an_exact_diagonal(facts):
    """A shard of x against all of x: which rows are the same is seen by their distance, not by their place."""
    assert facts["shard_map"] < 1e-6


def test_what_is_no_mesh_is_said():
    with pytest.raises(TypeError, match="Expected a jax.sharding.Mesh, got"):
        nb.gram(nb.Dense(1), jnp.ones((2, 3)), mesh=jax.devices())
