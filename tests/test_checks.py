"""Bad input gets a sentence: what was expected, what came, what to do. One list for the analytic core.

These run on a copy of the package without the checking of annotations that the other tests have: as users have it.
"""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def import_as_users_do():
    """A second copy of ntkbook whose annotations nobody checks, so that its own sentences are seen."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "ntkbook"}
    hooks = [finder for finder in sys.meta_path if "jaxtyping" in type(finder).__module__]
    for name in ours:
        del sys.modules[name]
    for hook in hooks:
        sys.meta_path.remove(hook)
    try:
        importlib.import_module("ntkbook.data")
        return importlib.import_module("ntkbook")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "ntkbook"]:
            del sys.modules[name]
        sys.modules.update(ours)
        sys.meta_path[:0] = hooks


nb = import_as_users_do()

x = np.random.default_rng(0).normal(size=(4, 3))
images, sequences = np.ones((2, 4, 4, 3)), np.ones((2, 5, 3))
net = nb.serial(nb.Dense(8), nb.Relu(), nb.Dense(1))
convolutional = nb.serial(nb.Conv(8, (3, 3)), nb.Relu(), nb.Flatten(), nb.Dense(1))


def kernel_of(*layers, x=x):
    return lambda: nb.kernel(nb.serial(*layers), x)


def key():
    return jax.random.key(0)


BAD_INPUTS = {
    # arrays
    "None": lambda: nb.ntk(net, None),
    "text": lambda: nb.ntk(net, "digits"),
    "a dict": lambda: nb.ntk(net, {"x": x}),
    "ragged rows": lambda: nb.ntk(net, [[1.0, 2.0], [3.0]]),
    "integers that are not exact": lambda: nb.ntk(net, np.full((4, 3), 2**53 + 1)),
    "integers below the exact ones": lambda: nb.ntk(net, jnp.full((4, 3), -(2**54))),
    "integers beyond all types": lambda: nb.ntk(net, [[10**30, 1]]),
    "complex numbers": lambda: nb.ntk(net, x + 1j),
    "booleans": lambda: nb.ntk(net, x > 0),
    "one example without its axis": lambda: nb.ntk(net, x[0]),
    "a single number": lambda: nb.ntk(net, 1.0),
    "too many axes": lambda: nb.ntk(net, np.ones((1,) * 6)),
    "empty batch": lambda: nb.ntk(net, x[:0]),
    "no features": lambda: nb.ntk(net, x[:, :0]),
    "empty second batch": lambda: nb.ntk(net, x, x[:0]),
    "NaN": lambda: nb.ntk(net, np.where(x > 0, x, np.nan)),
    "infinity": lambda: nb.ntk(net, x, np.where(x > 0, x, np.inf)),
    "features that differ": lambda: nb.ntk(net, x, x[:, :2]),
    "axes that differ": lambda: nb.ntk(convolutional, images, images[:, :3]),
    "text as second input": lambda: nb.kernel(net, x, "x"),
    "inputs before the network": lambda: nb.ntk(x, net),
    "a function for a network": lambda: nb.kernel(lambda params, x: x, x),
    "a class for a network": lambda: nb.nngp(nb.Relu, x),
    # tiles
    "tiles: unknown word": lambda: nb.gram(net, x, get="NTK"),
    "tiles: unknown word in a tuple": lambda: nb.gram(net, x, get=("ntk", "k")),
    "tiles: no word": lambda: nb.gram(net, x, get=None),
    "tiles: zero": lambda: nb.gram(net, x, tile=0),
    "tiles: a fraction": lambda: nb.gram(net, x, tile=2.5),
    "tiles: NaN": lambda: nb.gram(net, x * np.nan, tile=2),
    "tiles: positions at the end": lambda: nb.gram(nb.serial(nb.Conv(8, (3, 3))), images, tile=1),
    "kernel_fn: unknown word": lambda: net.kernel_fn(x, None, "cov"),
    # construction
    "a class for a layer": lambda: nb.serial(nb.Dense(8), nb.Relu),
    "a number for a layer": lambda: nb.serial(nb.Dense(8), 3),
    "a list of layers": lambda: nb.serial([nb.Dense(8), nb.Relu()]),
    "Residual of a class": lambda: nb.Residual(nb.Relu, nb.Dense(8)),
    "Repeat of a class": lambda: nb.Repeat(nb.Relu, 2),
    "width zero": lambda: nb.Dense(0),
    "width negative": lambda: nb.Dense(-3),
    "width a float": lambda: nb.Dense(8.0),
    "width a truth": lambda: nb.Dense(True),
    "width None": lambda: nb.Dense(None),
    "W_std text": lambda: nb.Dense(8, "1.5"),
    "W_std None": lambda: nb.Dense(8, None),
    "W_std NaN": lambda: nb.Dense(8, float("nan")),
    "b_std text": lambda: nb.Dense(8, 1.0, "0.1"),
    "b_std infinite": lambda: nb.Dense(8, 1.0, float("inf")),
    "parameterization": lambda: nb.Dense(8, parameterization="NTK"),
    "channels zero": lambda: nb.Conv(0, (3, 3)),
    "filter zero": lambda: nb.Conv(8, (3, 0)),
    "filter a fraction": lambda: nb.Conv(8, (3, 1.5)),
    "filter None": lambda: nb.Conv(8, None),
    "strides of another length": lambda: nb.Conv(8, (3, 3), (2,)),
    "stride zero": lambda: nb.Conv(8, (3, 3), (0, 1)),
    "padding in small letters": lambda: nb.Conv(8, (3, 3), padding="same"),
    "padding unknown": lambda: nb.Conv(8, (3, 3), padding="REFLECT"),
    "convolution W_std text": lambda: nb.Conv(8, (3, 3), W_std="1"),
    "convolution parameterization": lambda: nb.Conv(8, (3, 3), parameterization="mup"),
    "window zero": lambda: nb.AvgPool((0, 2)),
    "window strides of another length": lambda: nb.AvgPool((2, 2), (2,)),
    "times zero": lambda: nb.Repeat(net, 0),
    "times negative": lambda: nb.Repeat(net, -2.0),
    "times a fraction": lambda: nb.Repeat(net, 2.5),
    "times NaN": lambda: nb.Repeat(net, float("nan")),
    "times text": lambda: nb.Repeat(net, "3"),
    "times None": lambda: nb.Repeat(net, None),
    "attention width": lambda: nb.SelfAttention(0),
    "attention heads": lambda: nb.SelfAttention(8, heads=2.0),
    "attention scaling": lambda: nb.SelfAttention(8, scaling="d"),
    "attention zeta": lambda: nb.SelfAttention(8, zeta="tanh"),
    "attention softmax with sqrt scaling": lambda: nb.SelfAttention(8, scaling="sqrt", zeta="softmax"),
    "coefficients one number": lambda: nb.Polynomial(1.0),
    "coefficients none": lambda: nb.Polynomial(()),
    "degree negative": lambda: nb.Hermite(-1),
    "degree a fraction": lambda: nb.Hermite(1.5),
    "no function": lambda: nb.Elementwise("tanh"),
    "a function that sorts": lambda: nb.Elementwise(jnp.sort),
    "a function that centres": lambda: nb.Elementwise(lambda z: z - z.mean()),
    "a function of rows": lambda: nb.Elementwise(jax.nn.softmax),
    "input shape in words": lambda: net.init(key(), ("n", 3)),
    "objects": lambda: nb.ntk(net, np.array([[1.0, None, 2.0]], object)),
    "a random key": lambda: nb.ntk(net, jax.random.split(key(), 6).reshape(2, 3)),
    "dates": lambda: nb.ntk(net, np.array([["2020-01-01"]], "datetime64[D]")),
    # orders of layers that have no kernel
    "two activations in a row": kernel_of(nb.Dense(8), nb.Relu(), nb.Erf(), nb.Dense(1)),
    "an activation on raw inputs": kernel_of(nb.Relu(), nb.Dense(1)),
    "a numeric activation on raw inputs": kernel_of(nb.Tanh(), nb.Dense(1)),
    "an activation after pooled activations": kernel_of(
        nb.Conv(8, (3, 3)), nb.Relu(), nb.GlobalAvgPool(), nb.Relu(), nb.Dense(1), x=images
    ),
    "layer norm on raw inputs": kernel_of(nb.LayerNorm(), nb.Dense(1)),
    "layer norm after an activation": kernel_of(nb.Dense(8), nb.Relu(), nb.LayerNorm(), nb.Dense(1)),
    "residual that ends in an activation": kernel_of(nb.Dense(8), nb.Residual(nb.Dense(8), nb.Relu()), nb.Dense(1)),
    "residual of nothing": kernel_of(nb.Dense(8), nb.Residual(), nb.Dense(1)),
    "residual of a residual": kernel_of(nb.Dense(8), nb.Residual(nb.Residual(nb.Dense(8))), nb.Dense(1)),
    "a repeated activation": kernel_of(nb.Dense(8), nb.Repeat(nb.Relu(), 3), nb.Dense(1)),
    "a convolution on flat data": kernel_of(nb.Conv(8, (3, 3)), nb.Flatten(), nb.Dense(1)),
    "a convolution on sequences": kernel_of(nb.Conv(8, (3, 3)), x=sequences),
    "a convolution after Flatten": kernel_of(nb.Flatten(), nb.Conv(8, (3, 3)), x=images),
    "a convolution after pooling": kernel_of(nb.Conv(8, (3, 3)), nb.GlobalAvgPool(), nb.Conv(8, (3, 3)), x=images),
    "a filter larger than the image": kernel_of(nb.Conv(8, (5, 5), padding="VALID"), x=images),
    "pooling of flat data": kernel_of(nb.AvgPool((2, 2)), x=x),
    "a window larger than the image": kernel_of(nb.Conv(8, (1, 1)), nb.AvgPool((5, 5)), x=images),
    "attention on flat data": kernel_of(nb.SelfAttention(8), nb.Dense(1)),
    "attention that decays on images": kernel_of(nb.SelfAttention(8, position_decay=0.5), nb.Dense(1), x=images),
    # finite networks
    "finite: residual of another width": lambda: nb.Residual(nb.Dense(8)).init(key(), (4, 3)),
    "finite: repeat of another width": lambda: nb.Repeat(nb.Dense(8), 2).init(key(), (4, 3)),
    "finite: a convolution on flat data": lambda: nb.Conv(8, (3, 3)).init(key(), (4, 3)),
    "finite: attention on flat data": lambda: nb.SelfAttention(8).init(key(), (4, 3)),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_gets_a_sentence(name):
    with pytest.raises((ValueError, TypeError), match=r"^Expected [\s\S]*, got ") as error:
        BAD_INPUTS[name]()
    assert "JAX value" not in str(error.value), "words of another library"
    assert len(str(error.value)) < 400
    assert "0x" not in str(error.value)


def test_good_input_of_other_kinds_passes():
    """Lists, numpy arrays and float32, as users have them."""
    for good in (x, x.tolist(), x.astype(np.float32), jnp.asarray(x)):
        assert nb.ntk(net, good).shape == (4, 4)
    assert nb.ntk(net, x, x.astype(np.float32)[:2]).shape == (4, 2)
    pixels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    for good in (pixels, pixels.tolist(), pixels.astype(np.int64), jnp.asarray(pixels)):
        np.testing.assert_array_equal(nb.ntk(net, good), nb.ntk(net, pixels.astype(float)))
    assert checks.as_array(np.array([2**53, -(2**53)]), "y").tolist() == [2.0**53, -(2.0**53)]
    for number in (np.float32(1.5), np.array(1.5), 2, jnp.asarray(1.5), -1.5):
        assert np.isfinite(nb.ntk(nb.serial(nb.Dense(8, number), nb.Relu(), nb.Dense(1)), x)).all()
    for times in (2, 2.0, np.int64(2), np.float64(2), jnp.asarray(2)):
        assert nb.Repeat(net, times).times == 2


def test_under_jit_unknown_values_are_left_to_the_mathematics():
    """A NaN that is only known at run time comes out as NaN, never as a number."""
    at_run_time = jax.jit(lambda x: nb.ntk(net, x))(np.where(x > 0, x, np.nan))
    assert np.isnan(at_run_time).any()
    with pytest.raises(ValueError, match="Expected x1 with"):
        jax.jit(lambda x: nb.ntk(net, x))(x[0])


# Checks that rooms further down the house use, each with what it lets through

checks = importlib.import_module("ntkbook.checks")
symmetric = x @ x.T

BAD_VALUES = {
    "kernel not square": lambda: checks.as_kernel_matrix(symmetric[:, :2], "k"),
    "kernel not symmetric": lambda: checks.as_kernel_matrix(symmetric + np.triu(np.ones((4, 4)), 1), "k"),
    "kernel with NaN": lambda: checks.as_kernel_matrix(symmetric * np.nan, "k"),
    "another length": lambda: checks.same_length(4, jnp.ones(3), "y"),
    "a word like 1": lambda: checks.one_of(True, "mode", (1, "sum")),
    "a number below zero": lambda: checks.non_negative(-1e-9, "lr"),
    "a number that is none": lambda: checks.non_negative("1", "lr"),
    "NaN for a number": lambda: checks.non_negative(float("nan"), "t"),
    "an array with one below zero": lambda: checks.non_negative(np.array([1.0, -1.0]), "t"),
    "a list of text": lambda: checks.non_negative(["a"], "t"),
    "momentum one": lambda: checks.momentum(1.0),
    "momentum below zero": lambda: checks.momentum(-0.1),
    "whole number below zero": lambda: checks.whole_number(-1, "steps"),
    "whole number a float": lambda: checks.whole_number(1.0, "steps"),
    "infinity for a finite number": lambda: checks.number(float("-inf"), "W_std"),
    "a number above its range": lambda: checks.number(2.0, "q", high=1.0),
    "a fraction for a whole number": lambda: checks.number(1.5, "n", is_whole=True),
    "a list with text": lambda: checks.non_negative([1.0, "a"], "t"),
    "complex for a number": lambda: checks.non_negative(np.array([1j]), "t"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values_get_a_sentence(name):
    with pytest.raises((ValueError, TypeError), match=r"^Expected [\s\S]*got "):
        BAD_VALUES[name]()


@pytest.mark.parametrize("n", [4, 300], ids=["small", "large"])
def test_large_arrays_are_checked_as_small_ones(n):
    """The large ones by a compiled reduction."""
    k = np.eye(n, dtype=np.float32)
    assert checks.as_kernel_matrix(k, "k").dtype == jnp.float32
    for entry, word in ((np.nan, "finite"), (np.inf, "finite"), (-np.inf, "finite"), (0.001, "symmetric")):
        k[1, 2] = entry
        with pytest.raises(ValueError, match=word):
            checks.as_kernel_matrix(jnp.asarray(k), "k")


def test_a_large_kernel_is_not_copied_to_the_host(monkeypatch):
    k = jnp.eye(300)
    checks.as_kernel_matrix(k, "k")
    small = np.asarray

    def copy(array, *args, **options):
        assert np.size(array) < 10
        return small(array, *args, **options)

    monkeypatch.setattr(checks.np, "asarray", copy)
    checks.as_kernel_matrix(k, "k")


def test_good_values_pass():
    noisy = symmetric + 1e-15 * np.triu(np.ones((4, 4)), 1)
    assert checks.as_kernel_matrix(noisy, "k").shape == (4, 4)
    checks.same_length(4, jnp.ones((4, 2)), "y")
    checks.one_of("sum", "reduction", ("sum", "mean"))
    checks.one_of(None, "record", (None, "loss"))
    for value in (0, 0.0, 1.5, np.float32(2), np.array([0.0, 1.0]), jnp.ones(2)):
        checks.non_negative(value, "t")
    checks.momentum(0.9)
    checks.positive_int(np.int64(3), "n")
    checks.positive_count(3.0, "times")
    assert checks.is_concrete(1.0, x, jnp.ones(2)) and not jax.jit(lambda t: jnp.asarray(checks.is_concrete(t)))(1.0)
    jax.jit(lambda t: (checks.non_negative(t, "t"), checks.momentum(t), checks.positive_count(t, "n")) and t)(-1.0)
