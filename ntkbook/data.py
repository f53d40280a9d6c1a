"""Data for the book: a sine with noise, the circle, and pictures of digits and things.

Everything here returns a `Data` of arrays with the example axis first, or the points of a circle. The
digits come with scikit-learn and need no network; they are the real data of nearly every chapter.
`mnist` and `cifar10` download from OpenML once (see `openml.py`) for those who want the papers' own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt32

from . import checks, openml

TARGETS = ("auto", "sign", "parity", "one_hot", "centered")
SCALES = ("standard", "unit", "none")


class Data(NamedTuple):
    """Training and test points; unpacks as `x_train, y_train, x_test, y_test = data`."""

    x_train: Float[Array, "n_train *features"]
    y_train: Float[Array, "n_train outputs"]
    x_test: Float[Array, "n_test *features"]
    y_test: Float[Array, "n_test outputs"]


class Circle(NamedTuple):
    """Points on the unit circle; unpacks as `angle, x = circle(n)`."""

    angle: Float[Array, " n"]
    x: Float[Array, "n 2"]


def circle(n: int, *, endpoint: bool = False) -> Circle:
    """n points x = (cos a, sin a), evenly spaced: a from -pi (included) to pi (included if `endpoint`).

    Raises:
        ValueError, TypeError: unless n is a positive whole number.

    The inputs of Jacot et al. 2018, Fig. 1 and 2.
    """
    checks.positive_int(n, "n")
    angle = jnp.linspace(-jnp.pi, jnp.pi, n, endpoint=endpoint)
    return Circle(angle, jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1))


def sine(
    n_train: int = 5,
    n_test: int = 100,
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    noise: Any = 0.1,
    low: Any = -np.pi,
    high: Any = np.pi,
) -> Data:
    """y = sin(x) + noise * N(0, 1) on [low, high]; the test points are an even grid without noise.

    One training point is drawn uniformly in each of n_train equal cells, so that none coincide by chance.
    Shapes: x (n, 1), y (n, 1).

    Raises:
        ValueError, TypeError: for counts that are not positive whole numbers, a negative noise, low >= high, infinity.
    """
    checks.positive_int(n_train, "n_train")
    checks.positive_int(n_test, "n_test")
    checks.one_key(key)
    checks.single_number(noise, "noise", low=0.0)
    checks.single_number(low, "low")
    checks.single_number(high, "high")
    if not low < high:
        raise ValueError(f"Expected low < high, got low={low} and high={high}. Swap them?")
    key_x, key_noise = jax.random.split(key)
    cell = (high - low) / n_train
    x_train = low + cell * (jnp.arange(n_train, dtype=float)[:, None] + jax.random.uniform(key_x, (n_train, 1)))
    y_train = jnp.sin(x_train) + noise * jax.random.normal(key_noise, (n_train, 1))
    x_test = jnp.linspace(low, high, n_test)[:, None]
    return Data(x_train, y_train, x_test, jnp.sin(x_test))


def digits(
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    classes: Any = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    images: bool = False,
    scale: str = "standard",
    targets: str = "auto",
) -> Data:
    """The 1797 handwritten digits of scikit-learn, 8x8 pixels. No network.

    Args:
        n_train, n_test: how many of each; by default 1000 to train on and the rest to test on.
        classes: keep only these digits, as in (3, 8).
        key: shuffles before the split; None keeps the order of the file.
        images: x of shape (n, 8, 8, 1) rather than (n, 64).
        scale: "standard" subtracts one mean and divides by one standard deviation, both over all pixels of
            all pictures that were asked for (as Lee et al. 2019; per pixel would divide by zero); "unit"
            divides by 16; "none" leaves 0..16.
        targets: "sign" is -1 for the first of two classes and +1 for the second, shape (n, 1); "parity" is
            +1 for even digits and -1 for odd ones, (n, 1); "one_hot" has a column per class; "centered" is
            one_hot - 1/classes; "auto" is "sign" for two classes, else "one_hot".

    Raises:
        ValueError, TypeError: for unknown words or classes, or more examples than there are.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pictures = bunch.images[..., None]
    return prepare(
        pictures,
        bunch.target,
        n_train=n_train,
        n_test=n_test,
        boundary=1000,
        classes=classes,
        key=key,
        images=images,
        scale=scale,
        largest=16.0,
        targets=targets,
    )


def mnist(
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    classes: Any = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    images: bool = False,
    scale: str = "standard",
    targets: str = "auto",
    progress: bool = True,
) -> Data:
    """The 70000 digits of MNIST, 28x28 pixels, from OpenML: x (n, 784), or (n, 28, 28, 1) with `images`.

    The words mean what they mean in `digits`; `progress` shows the download, which happens once.

    Raises:
        DownloadError: without a network and a cache; the sentence says what to do.
        ValueError, TypeError: as `digits`.
    """
    pictures, labels = openml.fetch(openml.MNIST, progress=progress)
    return prepare(
        pictures,
        labels,
        n_train=n_train,
        n_test=n_test,
        boundary=60_000,
        classes=classes,
        key=key,
        images=images,
        scale=scale,
        largest=255.0,
        targets=targets,
    )


def cifar10(
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    classes: Any = None,
    key: Key[Array, ""] | UInt32[Array, "2"] | None = None,
    images: bool = False,
    scale: str = "standard",
    targets: str = "auto",
    progress: bool = True,
) -> Data:
    """The 60000 pictures of CIFAR-10, 32x32 pixels in colour, from OpenML: x (n, 3072), or (n, 32, 32, 3).

    The words mean what they mean in `digits`. Ask for few: all of them fill more than a gigabyte.

    Raises:
        DownloadError: without a network and a cache; the sentence says what to do.
        ValueError, TypeError: as `digits`.
    """
    pictures, labels = openml.fetch(openml.CIFAR10, progress=progress)
    return prepare(
        pictures,
        labels,
        n_train=n_train,
        n_test=n_test,
        boundary=50_000,
        classes=classes,
        key=key,
        images=images,
        scale=scale,
        largest=255.0,
        targets=targets,
    )


def prepare(
    pictures: np.ndarray,
    labels: np.ndarray,
    *,
    n_train: int | None,
    n_test: int | None,
    boundary: int,
    classes: Any,
    key: Any,
    images: bool,
    scale: str,
    largest: float,
    targets: str,
) -> Data:
    """Choose, shuffle, scale and split pictures (n, height, width, channels) with whole-number labels (n,).

    By default the pictures before `boundary` are as many as the training set, and the rest are the test set.
    """
    checks.one_of(scale, "scale", SCALES)
    checks.one_of(targets, "targets", TARGETS)
    classes = _known_classes(classes, labels)
    chosen = np.flatnonzero(np.isin(labels, classes))
    default_n_train = int((chosen < boundary).sum())
    if key is not None:
        checks.one_key(key)
        chosen = chosen[np.asarray(jax.random.permutation(key, len(chosen)))]
    n_train, n_test = _split_sizes(n_train, n_test, len(chosen), default_n_train)
    chosen = chosen[: n_train + n_test]
    x = _scaled(np.asarray(pictures[chosen], dtype=np.float64), scale, largest)
    x = jnp.asarray(x if images else x.reshape(len(x), -1), dtype=float)
    y = jnp.asarray(_targets(labels[chosen], classes, targets), dtype=float)
    return Data(x[:n_train], y[:n_train], x[n_train:], y[n_train:])


def _known_classes(classes: Any, labels: np.ndarray) -> list[int]:
    present = sorted(set(labels.tolist()))
    if classes is None:
        return present
    plain = classes.tolist() if getattr(classes, "ndim", 0) == 1 else classes
    wanted = list(plain) if isinstance(plain, (tuple, list, range)) else None
    if wanted is None:
        raise TypeError(f"Expected classes to be several digits, as in (3, 8), got {checks.describe(classes)}.")
    for label in wanted:
        checks.whole_number(label, "each of classes")
    if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(present):
        raise ValueError(f"Expected classes to be different ones of {present}, got {wanted}.")
    return wanted


def _split_sizes(n_train: int | None, n_test: int | None, available: int, default: int) -> tuple[int, int]:
    for n, name in ((n_train, "n_train"), (n_test, "n_test")):
        if n is not None:
            checks.positive_int(n, name)
    if n_train is None:
        n_train = default if n_test is None else min(default, available - n_test)
    n_test = available - n_train if n_test is None else n_test
    if n_train < 1 or n_test < 1 or n_train + n_test > available:
        raise ValueError(
            f"Expected n_train + n_test to be at most the {available} pictures of these classes, with one of each "
            f"at least, got n_train={n_train} and n_test={n_test}. Ask for fewer, or for more classes."
        )
    return n_train, n_test


def _scaled(x: np.ndarray, scale: str, largest: float) -> np.ndarray:
    if scale == "standard":
        return (x - x.mean()) / x.std()
    return x / largest if scale == "unit" else x


def _targets(labels: np.ndarray, classes: list[int], targets: str) -> np.ndarray:
    if targets == "auto":
        targets = "sign" if len(classes) == 2 else "one_hot"
    if targets == "parity":
        return np.where(labels % 2 == 0, 1.0, -1.0)[:, None]
    if targets == "sign":
        if len(classes) != 2:
            raise ValueError(
                f'Expected two classes for targets="sign", got {len(classes)}. '
                'Pass classes=(3, 8), or targets="parity" or "one_hot".'
            )
        return np.where(labels == classes[1], 1.0, -1.0)[:, None]
    one_hot = (labels[:, None] == np.asarray(classes)).astype(float)
    return one_hot - 1 / len(classes) if targets == "centered" else one_hot
