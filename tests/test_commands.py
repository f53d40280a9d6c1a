"""`ntkbook gram` and `ntkbook solve`: a file of settings, and a sentence for what is wrong in it."""

import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook import cli, commands

NETWORK = "serial(Dense(8, 1.4, b_std=0.1), Repeat(serial(Relu(), Dense(8)), 2), Dense(1))"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.arange(40) % 2
    x = np.random.default_rng(0).normal(size=(40, 3)) + 3 * labels[:, None]
    np.savez("train.npz", x=x[:30], y=labels[:30])
    np.save("test.npy", x[30:])
    np.save("labels.npy", labels[30:])
    file = tmp_path / "config.toml"
    file.write_text(
        f'network = "{NETWORK}"\nx = "train.npz:x"\ny = "train.npz:y"\nstore = "kernel"\nnoise = 0.1\ntile = 16\n'
        'precision = "float64"\n'
    )
    return file


@pytest.mark.slow
def test_a_kernel_and_a_solve(config, capsys):
    assert cli.main(["gram", "config.toml", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert (
        told.startswith("3 tiles of 16: ")
        and "0 GB" not in told.split(",")[0]
        and not (config.parent / "kernel").exists()
    )
    assert cli.main(["gram", "config.toml"]) == 0
    assert "kernel: float64[30, 30]" in capsys.readouterr().out
    net = nb.serial(nb.Dense(8, 1.4, 0.1), nb.Repeat(nb.serial(nb.Relu(), nb.Dense(8)), 2), nb.Dense(1))
    x, y = (np.load("train.npz")[name] for name in ("x", "y"))
    np.testing.assert_array_equal(nb.open_store("kernel"), nb.gram(net, jnp.asarray(x), tile=16))
    assert cli.main(["solve", "config.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("One product: 3.6e+03 flops, ")
    test = ["--x-test", "test.npy", "--y-test", "labels.npy", "--out", "out.npz"]
    assert cli.main(["solve", "config.toml", *test]) == 0
    assert "Residual" in (told := capsys.readouterr().out) and "Accuracy 1.0000 on 10 test points." in told
    K, targets = np.asarray(nb.ntk(net, jnp.asarray(x))), np.where(np.arange(2) == y[:, None], 0.5, -0.5)
    dense = np.linalg.solve(K + 0.1 * np.eye(30), targets)
    np.testing.assert_allclose(np.load("out.npz")["coefficients"], dense, atol=1e-4)
    across = np.asarray(nb.ntk(net, jnp.asarray(np.load("test.npy")), jnp.asarray(x)))
    np.testing.assert_allclose(np.load("out.npz")["outputs"], across @ dense, atol=1e-4)


def test_a_zarr_folder_is_read(config):
    k = nb.gram(nb.Dense(1), jnp.ones((3, 2)), store="made.zarr")
    np.testing.assert_array_equal(commands._array("made.zarr/ntk"), k)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["gram"], "Expected network, the network, as in Python: in the TOML file, or as --network."),
        (["gram", "config.toml", "--network", "Dense(__import__('os'))"], "Expected layers of ntkbook in network, got"),
        (["gram", "config.toml", "--network", "serial(Dense(1)"], "Expected network as in Python"),
        (["gram", "config.toml", "--network", "Dense(0)"], "Expected Dense's width to be a positive whole number"),
        (["gram", "config.toml", "--network", "3"], "Expected a network, got '3'."),
        (["gram", "config.toml", "--devices", "99"], "Expected at most 1 devices, got 99."),
        (["gram", "config.toml", "--x", "train.npz:z"], "Expected an array z in train.npz, which has x, y."),
        (["gram", "config.toml", "--x", "none.npy"], "Could not go on: "),
        (["gram", "config.toml", "--precision", "int8"], "Expected precision float32 or float64, got 'int8'."),
        (["solve", "config.toml"], "Expected a store in kernel, found none."),
        (["gram", "bad.toml"], "Expected settings in TOML in bad.toml: "),
        (["gram", "odd.toml"], "Expected settings of network, x, "),
        (["gram", "kind.toml"], "Expected tile to be int, got 'big' in kind.toml."),
    ],
)
def test_what_is_wrong_is_one_sentence(config, capsys, words, sentence):
    for name, text in (("bad", "x ="), ("odd", "colour = 1"), ("kind", 'tile = "big"')):
        config.with_name(f"{name}.toml").write_text(text)
    assert cli.main(words) == 1
    assert capsys.readouterr().err.startswith(sentence)
