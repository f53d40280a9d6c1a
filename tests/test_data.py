"""Data: shapes, scales, targets, and what is said when too much is asked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits as _load_digits

from ntkbook import data


def load_digits() -> Any:
    return _load_digits()


def test_circle_is_even_and_of_radius_one():
    angle, x = data.circle(8)
    assert x.shape == (8, 2) and angle.shape == (8,)
    np.testing.assert_allclose(np.hypot(*np.asarray(x).T), 1.0, rtol=1e-12)
    gram = np.asarray(x @ x.T)
    np.testing.assert_allclose(np.diag(gram, 1), np.cos(2 * np.pi / 8), rtol=1e-12)
    np.testing.assert_allclose(gram[0, -1], np.cos(2 * np.pi / 8), rtol=1e-12)  # it closes: no double point
    assert float(data.circle(5, endpoint=True).angle[-1]) == pytest.approx(np.pi)


def test_sine_has_one_point_in_each_cell_and_the_noise_asked_for(key):
    x_train, y_train, x_test, y_test = data.sine(400, 7, key=key, noise=0.2)
    assert x_train.shape == y_train.shape == (400, 1) and x_test.shape == y_test.shape == (7, 1)
    cells = np.floor((np.asarray(x_train[:, 0]) + np.pi) / (2 * np.pi / 400)).astype(int)
    assert cells.tolist() == list(range(400))
    residual = np.asarray(y_train) - np.sin(np.asarray(x_train))
    assert abs(residual.std() - 0.2) < 4 * 0.2 / np.sqrt(2 * 400)
    np.testing.assert_allclose(np.asarray(y_test), np.sin(np.linspace(-np.pi, np.pi, 7))[:, None], atol=1e-12)
    again = data.sine(400, 7, key=key, noise=0.2)
    assert (again.x_train == x_train).all() and (again.y_train == y_train).all()
    assert not (data.sine(400, 7, key=jax.random.key(1)).x_train == x_train).any()


def test_digits_by_default_are_all_digits_standardised_globally():
    digits = data.digits()
    assert digits.x_train.shape == (1000, 64) and digits.x_test.shape == (797, 64)
    assert digits.y_train.shape == (1000, 10) and (digits.y_train.sum(1) == 1).all()
    x = np.concatenate([digits.x_train, digits.x_test])
    assert abs(x.mean()) < 1e-12 and abs(x.std() - 1) < 1e-12
    assert x.dtype == np.float64


def test_digits_keep_picture_and_label_together_when_shuffled(key):
    """Oracle: look each scaled picture up among the raw ones, and compare its label."""
    raw = load_digits()
    shuffled = data.digits(30, 20, key=key, scale="unit")
    for x, y in zip(np.asarray(shuffled.x_train), np.asarray(shuffled.y_train)):
        matches = np.flatnonzero((raw.data == np.round(x * 16)).all(1))
        assert len(matches) >= 1 and int(y.argmax()) in raw.target[matches]
    assert shuffled.x_test.shape == (20, 64)
    assert not (shuffled.x_train[:5] == data.digits(30, 20, scale="unit").x_train[:5]).all()


def test_digits_as_images_hold_the_same_numbers():
    flat, images = data.digits(12, 3), data.digits(12, 3, images=True)
    assert images.x_train.shape == (12, 8, 8, 1)
    np.testing.assert_array_equal(np.asarray(images.x_train).reshape(12, 64), np.asarray(flat.x_train))
    assert float(data.digits(12, 3, scale="none").x_train.max()) == 16.0


def test_targets_say_what_their_word_says():
    labels = load_digits().target
    parity = np.asarray(data.digits(50, 5, targets="parity").y_train)[:, 0]
    assert parity.tolist() == [1.0 if label in (0, 2, 4, 6, 8) else -1.0 for label in labels[:50]]
    pair = np.asarray(data.digits(40, 5, classes=(8, 3)).y_train)[:, 0]
    assert pair.tolist() == [1.0 if label == 3 else -1.0 for label in labels[np.isin(labels, (3, 8))][:40]]
    centered = np.asarray(data.digits(9, 1, targets="centered").y_train)
    np.testing.assert_allclose(centered.sum(1), 0.0, atol=1e-12)
    np.testing.assert_allclose(centered.max(1), 0.9)
    three = data.digits(9, 1, classes=np.array([1, 5, 7])).y_train
    assert three.shape == (9, 3)


def test_a_pair_of_classes_has_a_sensible_default_split():
    pair = data.digits(classes=(3, 8))
    total = int(np.isin(load_digits().target, (3, 8)).sum())
    assert len(pair.x_train) + len(pair.x_test) == total and len(pair.x_test) > 100


def test_float32_follows_the_switch_of_jax():
    jax.config.update("jax_enable_x64", False)
    try:
        assert data.digits(4, 2).x_train.dtype == jnp.float32
        assert data.sine(key=jax.random.key(0)).y_train.dtype == jnp.float32
        assert data.circle(4).x.dtype == jnp.float32
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: data.digits(1797, 1), "at most the 1797 pictures"),
        (lambda: data.digits(0), "positive whole number"),
        (lambda: data.digits(classes=(3, 12)), "different ones of"),
        (lambda: data.digits(classes=(3, 3)), "different ones of"),
        (lambda: data.digits(classes=()), "different ones of"),
        (lambda: data.digits(classes=(3.7, 8)), "each of classes to be a whole number"),
        (lambda: data.digits(classes=(True, 8)), "each of classes to be a whole number"),
        (lambda: data.digits(classes=("3", "8")), "each of classes to be a whole number"),
        (lambda: data.digits(classes="38"), "several digits, as in"),
        (lambda: data.digits(classes=3), "several digits, as in"),
        (lambda: data.digits(scale="pixel"), "scale to be one of"),
        (lambda: data.digits(targets="onehot"), "targets to be one of"),
        (lambda: data.digits(targets="sign"), "two classes"),
        (lambda: data.circle(0), "positive whole number"),
        (lambda: data.sine(key=jax.random.key(0), noise=-1.0), "zero or positive"),
        (lambda: data.sine(key=jax.random.key(0), low=1.0, high=1.0), "low < high"),
        (lambda: data.sine(key=jax.random.key(0), high=np.inf), "high to be a finite number"),
        (lambda: data.sine(key=jax.random.key(0), low=-np.inf), "low to be a finite number"),
        (lambda: data.sine(key=jax.random.key(0), low=np.nan), "low to be a finite number"),
        (lambda: data.sine(key=jax.random.key(0), high="1"), "high to be a real number"),
        (lambda: data.sine(key=jax.random.key(0), noise=np.inf), "noise to be a finite number"),
    ],
)
def test_what_cannot_be_given_is_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
