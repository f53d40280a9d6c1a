"""Checks at the door: what was expected, what came, and what to do about it.

Every public function calls these first. Static facts (rank, dtype, words) are checked always; facts
about values (NaN, sign, symmetry) only where the values are known, so never on tracers under `jit`.
"""

import numbers
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

MOST = 2**31 - 1  # a larger width or depth is a slip


def is_concrete(*values: Any) -> bool:
    """Are all these values known now, rather than tracers of a transformation?"""
    leaves = values if all(isinstance(value, jax.Array) for value in values) else jax.tree.leaves(values)
    return not any(isinstance(leaf, Tracer) for leaf in leaves)


def as_array(x: Any, name: str, *, ndim: int | Sequence[int] | None = None) -> jax.Array:
    """`x` as a floating array of an allowed rank, non-empty and free of NaN and infinities.

    Integers, such as pixels and labels, become floats of the default precision, if it holds them exactly.

    Raises:
        TypeError: for None, strings, and boolean or complex entries.
        ValueError: for a wrong rank, an empty array, NaN or infinite entries, and integers too large to be exact.
    """
    if x is None or isinstance(x, (str, bytes, dict)):
        raise TypeError(f"Expected {name} to be an array of floats, got {describe(x)}. Pass a numpy or jax array.")
    if isinstance(x, jax.Array) and is_concrete(x) and not x.is_fully_addressable:
        raise ValueError(
            f"Expected {name} whole in each process, got one that is spread over several. "
            "Gather it first: jax.experimental.multihost_utils.process_allgather(x, tiled=True)."
        )
    try:
        array = x if isinstance(x, jax.Array) else np.asarray(x)
        if isinstance(array, np.ndarray) and array.dtype.kind in "OUSMm":
            raise ValueError(f"entries of type {array.dtype}")
        if jnp.issubdtype(array.dtype, jnp.integer):
            array = _exact_floats(array, name)
        array = array if isinstance(array, jax.Array) else jnp.asarray(array)
    except TypeError as error:
        raise TypeError(f"Expected {name} to be an array of floats, got {describe(x)}: {error}.") from error
    except ValueError as error:
        if str(error).startswith("Expected"):
            raise
        raise TypeError(
            f"Expected {name} to be an array of floats, got {describe(x)}: {str(error).rstrip('.')}. "
            "Are all rows of equal length, and all entries numbers?"
        ) from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"Expected {name} to hold floats, got dtype {array.dtype}. Convert it first, as in {name}.astype(float)."
        )
    ranks = None if ndim is None else (ndim,) if isinstance(ndim, int) else tuple(ndim)
    if ranks is not None and array.ndim not in ranks:
        wanted = " or ".join(str(rank) for rank in ranks)
        raise ValueError(
            f"Expected {name} with {wanted} axes, example axis first, got shape {array.shape}. "
            "Reshape it; one example still needs its example axis, as in x[None]."
        )
    if array.size == 0:
        raise ValueError(f"Expected {name} to hold at least one entry, got shape {array.shape}. Is the data empty?")
    if is_concrete(array) and not _number_of(array, _is_finite):
        raise ValueError(f"Expected finite numbers in {name}, got NaN or infinity. Clean or rescale the data first.")
    return array


def _exact_floats(array: Any, name: str) -> Any:
    """Integers as floats of the default precision."""
    dtype = jnp.zeros(()).dtype
    exact = 2 ** (jnp.finfo(dtype).nmant + 1)
    if is_concrete(array) and array.size and not -exact <= int(array.min()) <= int(array.max()) <= exact:
        raise ValueError(
            f"Expected integers in {name} of at most {exact}, which {dtype} holds exactly, got larger ones. "
            f"Convert them, as in {name}.astype(float), if rounding does no harm."
        )
    return array.astype(dtype)


def _number_of(array: Any, reduce: Callable[[Any], Any]) -> float:
    """`reduce(array)`: a large array stays on its device, for a small one a compilation would cost more."""
    return float(_reduced(reduce, array) if array.size > _SMALL else reduce(np.asarray(array)))


def is_finite(array: Any) -> bool:
    """Is a concrete array free of NaN and infinities?"""
    return bool(_number_of(array, _is_finite))


_SMALL = 2**16
_reduced = jax.jit(lambda reduce, array: reduce(array), static_argnums=0)


def _is_finite(array: Any) -> Any:
    return (abs(array) < np.inf).all()  # the maximum would not do: on some processors it leaves NaN out


def _largest(array: Any) -> Any:
    return abs(array).max()


def _asymmetry(k: Any) -> Any:
    return abs(k - k.T).max()


def as_kernel_matrix(k: Any, name: str) -> jax.Array:
    """`k` as a square, symmetric matrix of floats.

    Raises:
        TypeError, ValueError: as `as_array`; ValueError also if not square or not symmetric.
    """
    k = as_array(k, name, ndim=2)
    if k.shape[0] != k.shape[1]:
        raise ValueError(
            f"Expected {name} to be square, got shape {k.shape}. "
            "This is the kernel of the training points with themselves, as in ntk(net, x_train)."
        )
    if is_concrete(k):
        gap, noise = _number_of(k, _asymmetry), 1e3 * float(jnp.finfo(k.dtype).eps) * _number_of(k, _largest)
        if gap > noise:
            raise ValueError(
                f"Expected {name} to be symmetric, got a largest |K - K^T| of {gap:.3g}. "
                "Is it a test-by-train block? For rounding noise, pass (K + K.T) / 2."
            )
    return k


def finite_kernel(k: Any, cause: str) -> Any:
    """k; raises ValueError if it is known to hold NaN or infinities."""
    if isinstance(k, (jax.Array, np.ndarray)) and is_concrete(k) and not _number_of(k, _is_finite):
        raise ValueError(f"Expected a kernel of finite numbers, got NaN or infinity: {cause}")
    return k


def same_features(x1: jax.Array, x2: jax.Array) -> None:
    """Raises ValueError unless both have the same shape after the example axis."""
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"Expected x1 and x2 with the same features, got shapes {x1.shape} and {x2.shape}. Transpose one?"
        )


def same_length(n: int, array: jax.Array, name: str) -> None:
    """Raises ValueError unless `array` has `n` examples."""
    if array.shape[0] != n:
        raise ValueError(
            f"Expected {name} with {n} examples to match the kernel, got shape {array.shape}. "
            "One target per training point?"
        )


def broadcasting(**arrays: Any) -> None:
    """Raises ValueError unless these broadcast, and hold at least one number each."""
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    try:
        if 0 in np.broadcast_shapes(*shapes.values()):
            raise ValueError
    except ValueError as error:
        got = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
        raise ValueError(f"Expected numbers, or arrays that broadcast against each other, got {got}.") from error


def one_of(value: Any, name: str, words: Sequence[Any]) -> None:
    """Raises ValueError unless `value` is one of the allowed words."""
    if not any(value is word or (type(value) is type(word) and value == word) for word in words):
        raise ValueError(f"Expected {name} to be one of {', '.join(map(repr, words))}, got {value!r}.")


def number(
    value: Any, name: str, *, low: float = -np.inf, high: float = np.inf, is_whole: bool = False, is_finite: bool = True
) -> None:
    """Raises unless `value` is a real number from `low` to `high`, or an array of them. Of tracers: only the type.

    Raises:
        TypeError: for what is no number: text, None, truth values, complex numbers, trees.
        ValueError: for NaN, infinity if `is_finite`, a fraction if `is_whole`, and what is out of range.
    """
    if type(value) is float and low <= value <= high:  # nearly always: new numbers in layers are what a slider sends
        if (abs(value) < np.inf or not is_finite) and (value.is_integer() or not is_whole):
            return
    is_readable = isinstance(value, numbers.Real) or hasattr(value, "__array__")
    array = value if isinstance(value, jax.Array) else np.asarray(value if is_readable else None)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"Expected {name} to be a real number, got {describe(value)}.")
    if not is_concrete(value):
        return
    host = np.asarray(array, dtype=float)
    is_right = (host >= low) & (host <= high) & (np.isfinite(host) | (not is_finite))
    if not (is_right & ((host == np.floor(host)) | (not is_whole))).all():
        kind = "a whole number" if is_whole else "a finite number" if is_finite else ""
        least = "zero or positive" if low == 0 else f"at least {low:g}" if low > -np.inf else ""
        wanted = ", ".join(filter(None, [kind, least, f"at most {high:.10g}" if high < np.inf else ""]))
        raise ValueError(f"Expected {name} to be {wanted}, got {str(value)[:60]}.")


def non_negative(value: Any, name: str) -> None:
    """Raises TypeError for what is no number or list of them, ValueError for NaN and below zero; infinity passes."""
    many_numbers(value, name, low=0.0, is_finite=False)


def many_numbers(value: Any, name: str, **limits: Any) -> None:
    """`number`, also of lists of them. Raises TypeError for what is neither, ValueError for what is out of range."""
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value) if is_concrete(value) else jnp.asarray(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"Expected {name} to be a number or a list of them, got {describe(value)}.") from error
    number(value, name, **limits)


def single_number(value: Any, name: str, **limits: Any) -> None:
    """`number`, and only one. Raises TypeError for what is none, ValueError for one out of range."""
    if isinstance(value, (list, tuple)) or np.ndim(value):
        raise TypeError(f"Expected {name} to be one number, got {describe(value)}.")
    number(value, name, **limits)


def whole_number(value: Any, name: str, least: int = 0, most: int = MOST) -> None:
    """Raises TypeError for what is no integer, ValueError for one out of range."""
    kind = "a positive whole number" if least == 1 else f"a whole number of at least {least}"
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, np.integer)):
        raise TypeError(f"Expected {name} to be {kind}, got {describe(value)}.")
    if not least <= int(value) <= most:
        raise ValueError(f"Expected {name} to be {kind} and at most {most}, got {str(value)[:40]}.")


def positive_int(value: Any, name: str) -> None:
    """Raises TypeError for what is no integer, ValueError unless it is at least 1."""
    whole_number(value, name, 1)


def positive_count(value: Any, name: str) -> None:
    """Raises unless a number that may be traced or a whole float, as sliders send, is at least 1."""
    number(value, name, low=1.0, is_whole=True)


def one_key(key: Any) -> None:
    """Raises TypeError for what is not a single random key."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (is_typed and shape == ()) and not (dtype == np.uint32 and len(shape or ()) == 1):
        got = f"an array of them, of shape {shape}" if is_typed else describe(key)
        raise TypeError(f"Expected one random key, got {got}. jax.random.key(0) makes one; jax.vmap maps over many.")


def layer_inputs(x: Any, name: str) -> None:
    """Raises TypeError for what is no array of numbers with an example axis, ValueError for one number."""
    if not hasattr(x, "shape") or not jnp.issubdtype(getattr(x, "dtype", object), jnp.number):
        raise TypeError(f"Expected an array of inputs for {name}, got {describe(x)}. Pass jnp.asarray(x).")
    if not x.ndim:
        raise ValueError(f"Expected inputs for {name} with the example axis first, got one number. As in x[None].")


def init_arguments(key: Any, shape: Any) -> tuple[int, ...]:
    """The shape of `input_shape`; raises what `one_key` and `input_shape` raise."""
    one_key(key)
    return input_shape(shape)


def input_shape(shape: Any) -> tuple[int, ...]:
    """`shape` as a tuple: the example axis, any number there, then at least one axis of positive length.

    Raises:
        TypeError: for what is no sequence of whole numbers; ValueError for too few axes and for empty ones.
    """
    is_number = lambda size: isinstance(size, (numbers.Integral, np.integer))
    is_shape = isinstance(shape, (tuple, list)) and all(map(is_number, shape[1:]))
    if not is_shape or not all(size is None or is_number(size) for size in shape[:1]):
        raise TypeError(f"Expected the shape of the inputs, such as x.shape, got {describe(shape)}.")
    if len(shape) < 2 or min(shape[1:]) < 1:
        raise ValueError(
            f"Expected the shape of the inputs with the example axis first and no empty axis, as in (1, features), "
            f"got {tuple(shape)}. The number of examples does not matter."
        )
    return (shape[0], *map(int, shape[1:]))


def momentum(value: Any) -> None:
    """Raises ValueError unless 0 <= momentum < 1."""
    non_negative(value, "momentum")
    if is_concrete(value) and not (np.asarray(value) < 1).all():
        raise ValueError(f"Expected momentum in [0, 1), got {value!r}. At 1 nothing ever slows down.")


def independent(gap: float, eps: float) -> None:
    """Raises ValueError if the output of one example moves, by `gap` of its size, with the rest of the batch."""
    if gap > eps**0.4:
        raise ValueError(
            "Expected f(params, x) to treat each example on its own, got an output that changes with the rest of the "
            "batch. BatchNorm or dropout in training mode? A tangent kernel compares one function at two points: "
            "switch to evaluation mode (train=False, use_running_average=True, deterministic=True, model.eval())."
        )


def describe(value: Any) -> str:
    """What came, in a few words for a sentence: its type and how it begins."""
    if value is None:
        return "None"
    text = str(value)[:40]
    return f"{type(value).__name__} {text!r}" if "0x" not in text else f"a {type(value).__name__}"


def warn(sentence: str) -> None:
    """A UserWarning at the line outside of this library, of JAX, and of type checkers that led here."""
    level, frame, within = 1, sys._getframe(), ("ntkbook", "jaxtyping", "beartype", "jax")
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in within:
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, stacklevel=level)
