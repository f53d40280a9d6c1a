"""Numbers of layers: each is declared with its range and whether it may be tuned, and checked where a layer is made."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checks import nb  # as users have it

tunable, with_tunable = nb.pytrees.tunable, nb.pytrees.with_tunable

LAYERS = [
    nb.Dense(8),
    nb.Conv(8, (3, 3)),
    nb.SelfAttention(8),
    nb.Repeat(nb.Dense(8), 2),
    nb.LayerNorm(),
    nb.LeakyRelu(),
    nb.Sin(),
    nb.Cos(),
    nb.Rbf(),
    nb.Exp(),
    nb.Polynomial((0.0, 1.0)),
    nb.Hermite(2),
]
NUMBERS = [
    (layer, field)
    for layer in LAYERS
    for field in dataclasses.fields(layer)
    if "limits" in field.metadata or field.metadata.get("least") is not None
]
BAD = {
    "text": "1",
    "dict": {},
    "complex": 1j,
    "truth": True,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "array of NaN": jnp.array([1.0, np.nan]),
    "complex array": np.array(1 + 1j),
    "array of text": np.array(["a"]),
    "a list in place of a number": [[1.0]],
    "a key": jax.random.key(0),
    "too large for any type": 10**400,
    "function": jnp.tanh,
    "object": object(),
}


def test_every_leaf_and_width_of_every_layer_is_declared():
    """A new layer whose number has no range is seen here."""
    classes = [value for value in vars(nb).values() if isinstance(value, type) and issubclass(value, nb.Layer)]
    has_leaves = {cls for cls in classes if dataclasses.is_dataclass(cls) and dataclasses.fields(cls)}
    free = {"layers", "layer", "paths", "function", "dual_function", "nodes", "zeta", "padding", "scaling"}
    free |= {
        "parameterization",
        "filter_shape",
        "strides",
        "window_shape",
        "is_sum",
        "normalize_edges",
    }  # words, shapes and layers
    for cls in has_leaves:
        for field in dataclasses.fields(cls):
            is_declared = "limits" in field.metadata or field.metadata.get("least") is not None
            assert is_declared or field.name in free, f"{cls.__name__}.{field.name}"


@pytest.mark.parametrize("layer, field", NUMBERS, ids=lambda value: getattr(value, "name", type(value).__name__))
def test_bad_numbers_get_a_sentence_that_names_class_and_field(layer, field):
    wrap = (lambda value: (1.0, value)) if field.metadata.get("is_many") else lambda value: value
    bad = dict(BAD)
    if not field.metadata.get("is_optional"):
        bad["None"] = None
    if field.metadata.get("limits", {"low": 0})["low"] >= 0:
        bad["negative"] = -1
    for name, value in bad.items():
        with pytest.raises((TypeError, ValueError)) as error:
            dataclasses.replace(layer, **{field.name: wrap(value)})
        message = str(error.value)
        assert message.startswith(f"Expected {type(layer).__name__}'s {field.name} to be "), f"{name}: {message}"
        assert ", got " in message and "0x" not in message and len(message) < 200, f"{name}: {message}"


def test_good_numbers_of_other_kinds_and_tracers_pass():
    for value in (2, 1.5, -1.5, np.float32(1.5), np.array(1.5), jnp.asarray(1.5), jnp.bfloat16(1.5), np.int8(3)):
        assert nb.Dense(8, value).W_std is value
    assert nb.Dense(8, 1.0, None).b_std is None
    assert jax.jit(lambda W: nb.Dense(8, W).W_std)(np.nan) is not None
    assert jax.jit(lambda n: nb.Repeat(nb.Dense(8), n).times)(2) == 2
    nets = jax.vmap(nb.LayerNorm)(jnp.array([1e-3, 1e-5]))
    assert nets.eps.shape == (2,)
    for coefficients in ([1.0, 2.0], np.array([1.0, 2.0]), jnp.array([1.0, 2.0]), (1, 2)):
        assert len(nb.Polynomial(coefficients).coefficients) == 2


def test_rebuilding_a_tree_runs_no_checks():
    net = nb.serial(nb.Dense(8), nb.LayerNorm())
    for placeholder in (None, "name", object(), float("nan")):
        jax.tree.unflatten(jax.tree.structure(net), [placeholder] * 3)


def test_the_tunable_numbers_of_a_network():
    block = nb.serial(nb.LayerNorm(1e-3), nb.LeakyRelu(0.2), nb.Dense(8, 2, None))
    net = nb.serial(nb.Dense(8, 1.5, 0.1), nb.Residual(nb.Repeat(block, 3)), nb.Rbf(0.5), nb.Dense(1))
    found = tunable(net)
    assert [(number.path, number.value) for number in found] == [
        ("layers[0].W_std", 1.5),
        ("layers[0].b_std", 0.1),
        ("layers[1].layers[0].layer.layers[1].slope", 0.2),
        ("layers[1].layers[0].layer.layers[2].W_std", 2),
        ("layers[2].gamma", 0.5),
        ("layers[3].W_std", 1.0),
        ("layers[3].b_std", 0.0),
    ]
    assert found[4].low == 0 and found[0].low == -np.inf
    other = with_tunable(net, range(10, 17))
    assert [number.value for number in tunable(other)] == list(range(10, 17))
    assert other.layers[1].layers[0].times == 3 and other.layers[1].layers[0].layer.layers[0].eps == 1e-3
    assert with_tunable(net, [number.value for number in found]) == net


def test_a_result_is_one_line_also_with_arrays_in_a_dict():
    @nb.pytrees.pytree
    class Path:
        path: object

    assert repr(Path({"W_std": jnp.ones(30), "depth": 2})) == "Path(path={'W_std': float64[30], 'depth': 2})"
