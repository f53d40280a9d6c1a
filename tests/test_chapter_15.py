"""Chapter 15: its panels against the library, whose rules know no offsets; missions; handmade answers."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb
from ntkbook import openml
from ntkbook.exercises import chapter_15
from ntkbook.panels import PANELS, key_token
from ntkbook.panels import architectures as chapter

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


@pytest.fixture(scope="module")
def panel():
    return PANELS["shifted_digit"]()


@pytest.fixture(scope="module")
def attention():
    return PANELS["key_token"]()


def at(panel, **values):
    panel.reset()
    panel.set(**values)
    assert not panel.failed
    return panel.data()


def networks():
    """Those of the panel, from the library."""
    W, b = chapter.W2**0.5, chapter.B2**0.5
    dense = nb.Dense(1, W, b)
    layer = [nb.Conv(1, (3, 3), padding="CIRCULAR", W_std=W, b_std=b), nb.Relu()]
    return (
        nb.serial(nb.Flatten(), dense, nb.Relu(), dense, nb.Relu(), dense),
        nb.serial(*layer * 2, nb.Flatten(), dense),
        nb.serial(*[*layer, nb.AvgPool((2, 2))] * 3, nb.Flatten(), dense),
        nb.serial(*layer * 2, nb.GlobalAvgPool(), dense),
    )


@pytest.mark.slow
@pytest.mark.parametrize("i", range(4), ids=chapter.NETWORKS)
def test_the_kernels_are_those_of_the_library_shifted_or_not(i):
    x, _, x_new = chapter.pictures()
    train, new, itself = chapter.kernels()
    moved = np.roll(x_new[3], (5, 2), (0, 1))
    rows = jnp.asarray(np.stack([x[1], moved]), float)[..., None]
    columns = jnp.asarray(np.stack([x[0], x[2], x_new[3]]), float)[..., None]
    found = np.asarray(nb.ntk(networks()[i], rows, columns))
    assert np.allclose(found[0, :2], train[i, 1, [0, 2]], rtol=1e-4)
    assert np.allclose(found[1], [*new[i, 3, 5, 2, [0, 2]], itself[i, 3, 5, 2]], rtol=1e-4)


@pytest.mark.slow
def test_pooling_stays_where_the_others_fall(panel):
    here = at(panel, dx=0, dy=0)
    assert np.allclose(here["here"], 1) and (here["right"] >= 8).all()
    moved = at(panel, dx=2, dy=0)
    assert np.allclose(moved["scores"][3], here["scores"][3], atol=1e-12)
    assert (moved["here"][:2] < 0.5).all() and moved["here"][2] < 0.99
    assert moved["right"][3] == here["right"][3] > moved["right"][2] > moved["right"][:2].max()
    far = at(panel, dx=4, dy=-4)
    assert np.allclose(far["scores"][2:], here["scores"][2:], atol=1e-12)  # a multiple of what it pools by


@pytest.mark.slow
@pytest.mark.parametrize("scaling", [0, 1])
def test_attention_is_that_of_the_library(scaling):
    x = jnp.asarray(key_token.sequences(4))
    words = ({"scaling": "linear", "zeta": "softmax"}, {"scaling": "sqrt", "zeta": "relu"})[scaling]
    layer = nb.SelfAttention(1, 5, 5, 5, W_query_std=2.0, **words)
    net = nb.serial(layer, nb.GlobalAvgPool())
    in_closed_form = (key_token.softmax_kernel, key_token.relu_kernel)[scaling](np.asarray(x), 2.0)
    assert np.allclose(nb.ntk(net, x), in_closed_form, rtol=1e-9, atol=1e-12)
    by_hand, _ = key_token.finite_kernels(np.asarray(x), 5, scaling, seed=1)
    rng = np.random.default_rng(1)
    query, key, value = (jnp.asarray(rng.standard_normal((5, x.shape[-1], 5))) for _ in range(3))
    own = {"query": query, "key": key, "value": value, "out": jnp.asarray(rng.standard_normal((5, 5)))[..., None]}
    params = list(net.init(jax.random.key(0), x.shape)[1])
    params[0] = {**params[0], **own}
    assert np.allclose(nb.empirical_ntk(net.apply, tuple(params), x), by_hand[2].sum(0), rtol=1e-9)


@pytest.mark.slow
def test_the_key_token_wins_with_softmax_only(attention):
    soft, sharp = at(attention, sharpness=0.0), at(attention, sharpness=key_token.SHARPEST)
    assert soft["here"][0] < 0.6 and soft["here"][1] > 0.4
    assert sharp["here"][0] > 0.98 and sharp["here"][1] < 0.02
    assert np.allclose(np.asarray(sharp["matrix"]).sum(1), 1)
    relu = at(attention, scaling=1, sharpness=key_token.SHARPEST)
    assert np.ptp(relu["limit"], axis=0).max() < 1e-12
    wide, narrow = (at(attention, scaling=1, heads=heads)["apart"] for heads in (36, 4))
    assert wide < narrow / 2


@pytest.mark.slow
def test_the_mission_is_met_by_one_sharpness_only():
    fresh = PANELS["key_token"]()
    mission = chapter_15.mission(fresh)
    fresh.set(tokens=4, sharpness=3.0)
    fresh.set(tokens=8, sharpness=0.0)
    met = []
    for sharpness in key_token.SHARPNESS[::-1]:
        fresh.set(sharpness=float(sharpness))
        met.append(mission.done)
    first = list(key_token.SHARPNESS[::-1])[met.index(True)]
    at_first, before = (
        fresh.spec.computed({**fresh.state(), "sharpness": s})[0]["to_key"] for s in (first, first - 0.25)
    )
    assert at_first > 0.5 >= before


@pytest.mark.slow
def test_the_questions_send_the_panels_to_their_answers(panel, attention):
    panel.reset()
    question = chapter_15.predict(panel)
    question.choose("The two that pool.")
    assert not question.is_right and panel.data()["here"][2] < 0.99 and panel.data()["here"][3] == 1
    attention.reset()
    question = chapter_15.predict_attention(attention)
    question.choose("The one with the same long token becomes like x, the other one unlike.")
    assert question.is_right and attention.data()["here"][0] > 0.95


def test_answers_as_readers_write_them():
    def by_loops(k):
        n = len(k)
        return [[sum(k[(i + a) % n][(j + a) % n] for a in (-1, 0, 1)) / 3 for j in range(n)] for i in range(n)]

    def by_layers(k, is_pooled):
        layer = (nb.GlobalAvgPool if is_pooled else nb.Flatten)()
        x1, x2 = jnp.asarray(np.eye(len(k)))[None], jnp.asarray(k.T)[None]  # x1 x2^T = k
        return nb.nngp(nb.serial(layer, nb.Dense(1)), x1, x2)[0, 0] * len(k)

    def by_library(x1, x2, sharpness):
        return nb.nngp(nb.SelfAttention(1, W_query_std=sharpness), jnp.asarray(x1)[None], jnp.asarray(x2)[None])[0, 0]

    assert chapter_15.check_convolve(by_loops)
    assert chapter_15.check_read_out(by_layers)
    assert chapter_15.check_attend(by_library)
    assert "own sequence" in chapter_15.check_attend(partial_cross).feedback
    assert "small branches" in chapter_15.check_worth(lambda sizes: (sizes**2).sum()).feedback
    assert "root" in chapter_15.check_normalized(lambda k, t, a, b: (k / (a * b), t / (a * b))).feedback


def partial_cross(x1, x2, sharpness):
    k = x1 @ x2.T / x1.shape[1]
    look = lambda logits: np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return look(sharpness * k) @ k @ look(sharpness * k.T).T


@pytest.mark.slow
def test_the_cell_for_cifar10_runs_where_the_data_are(tmp_path, monkeypatch, capsys, optimized):
    """Made-up pictures in the reader's cache: stripes of one direction per class, shifted, with noise.

    Shifted stripes are the same picture to a pooled kernel, so it names all of them; noise in place of stripes has no
    classes to find.
    """
    rng, count = np.random.default_rng(0), 40
    place = np.arange(32)
    stripes = [np.sin(2 * np.pi * (a * place[:, None] + b * place) / 32) for a, b in ((4, 0), (0, 4))]
    labels = np.arange(count) % 2
    pictures = np.stack([np.roll(stripes[label], rng.integers(0, 32, 2), (0, 1)) for label in labels])
    pictures = np.repeat((127 + 90 * pictures)[..., None], 3, -1)
    pictures = (pictures + rng.uniform(-30, 30, pictures.shape)).astype(np.uint8)
    noise = rng.integers(0, 256, pictures.shape, np.uint8)
    original = openml.CIFAR10
    small = openml.Source(original.name, original.number, original.stored_shape, count)
    monkeypatch.setattr(openml, "CIFAR10", small)
    cells = json.loads((FOLDER / "15_architectures.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (cell,) = [source for source in sources if "def on_cifar10" in source]
    _, flatten, _, pooling = networks()
    names = {"nb": nb, "np": np, "jnp": jnp, "jax": jax, "nets": {"Flatten": flatten, "pools at the end": pooling}}
    shares = {}
    for kind, of_kind in (("stripes", pictures), ("noise", noise)):
        monkeypatch.setenv("NTKBOOK_DATA", str(tmp_path / kind))
        exec(cell, names)
        assert "is not in your cache" in capsys.readouterr().out
        (tmp_path / kind).mkdir()
        np.savez(tmp_path / kind / f"{small.name}.npz", pictures=of_kind, labels=labels.astype(np.int64))
        exec(cell, names)
        assert "is in your cache" in capsys.readouterr().out
        names["on_cifar10"](12)
        shares[kind] = re.findall(r"(.+): (\d+) %", capsys.readouterr().out)
    assert [name for name, _ in shares["stripes"]] == ["Flatten", "pools at the end"]
    assert int(shares["stripes"][1][1]) == 100 and int(shares["noise"][1][1]) < 90
