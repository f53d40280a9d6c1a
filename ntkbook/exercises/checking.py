"""What every check of the book shares: cases, the usual mistakes, and a result that says which one it met.

An exercise is a reference, cases to compare it on, and a list of mistakes: each a wrong answer written out, with the
sentence that its author needs to read. `judge` runs the reader's answer, never raises, and finds the mistake whose
numbers it gave. Every call gets its own copy of the arguments, so that an answer may work in place. What counts are
the numbers: not the container, the dtype, or axes of length 1.
"""

import copy
import html
import os
import zlib
from collections.abc import Iterator, KeysView, Sequence, ValuesView
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Case:
    """One comparison: a name in words, and the arguments that the answer is called with."""

    name: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer, as code (or as a value), and what to tell the reader who gave it.

    `also` holds the same mistake in other conventions, such as a variance that divides by one less.
    """

    message: str
    wrong: Any
    also: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Exercise:
    """`name` of the check, the right answer, the cases, and the mistakes that it recognises.

    `also` holds answers that are right too and differ in numbers, such as a width rounded up.
    """

    name: str
    reference: Any
    cases: tuple[Case, ...]
    mistakes: tuple[Mistake, ...] = ()
    praise: str = "all right"
    also: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Result:
    """The outcome of a check: true if everything passed; one line as text, a list in a notebook."""

    name: str
    passed: tuple[tuple[str, bool], ...]
    feedback: str
    attempted: bool = True

    @property
    def score(self) -> int:
        """How many cases passed."""
        return sum(ok for _, ok in self.passed)

    def __bool__(self) -> bool:
        return self.attempted and self.score == len(self.passed)

    def __repr__(self) -> str:
        return f"{self.name}: {self.score}/{len(self.passed)} - {self.feedback}"

    def _repr_html_(self) -> str:
        head = f"<b>{self.name}: {self.score}/{len(self.passed)}</b> &ndash; {html.escape(self.feedback)}"
        if not self.attempted:
            return f"<div>{head}</div>"
        rows = "".join(f"<li>{'passed' if ok else 'not yet'}: {html.escape(name)}</li>" for name, ok in self.passed)
        return f'<div role="status">{head}<ul>{rows}</ul></div>'


def generator(seed: int) -> np.random.Generator:
    """The random numbers of a case. A course has its own in each term: those that NTKBOOK_TERM, any word, makes."""
    term = os.environ.get("NTKBOOK_TERM", "")
    return np.random.default_rng([seed, zlib.crc32(term.encode())] if term else seed)


def judge(answer: Any, exercise: Exercise, *, rtol: float = 1e-4) -> Result:
    """Compare `answer`, a function or a value, with the reference on every case; recognise the usual mistakes.

    `rtol` is relative to the largest entry of the right answer: loose enough for float32, far below any mistake.
    """
    # first of all: whatever the answer does to what it can reach, it is compared with these numbers
    rights = [_Right(wanted, exercise.cases, rtol) for wanted in (exercise.reference, *exercise.also)]
    cases, names = exercise.cases, [case.name for case in exercise.cases]
    given: list[Any] = []
    for case in cases:
        try:
            value = _numbers(_call(answer, case))
        except NotImplementedError:
            value = None
        except Exception as error:
            told = f"your code raised {type(error).__name__} for {case.name}: {' '.join(str(error).split())[:200]}"
            return Result(exercise.name, tuple((name, False) for name in names), told)
        given.append(value)
    if all(value is None or value is Ellipsis for value in given):
        return Result(exercise.name, tuple((name, False) for name in names), "not attempted", attempted=False)
    best = max(rights, key=lambda right: sum(right.agrees(given)))
    passed = tuple(zip(names, best.agrees(given)))
    if all(ok for _, ok in passed):
        return Result(exercise.name, passed, exercise.praise)
    return Result(exercise.name, passed, _diagnosis(exercise, given, best, rtol))


class _Right:
    """The numbers of one answer on all cases, and how far another may be off in each."""

    def __init__(self, answer: Any, cases: Sequence[Case], rtol: float):
        self.values = [_array(_numbers(_call(answer, case))) for case in cases]
        self.rtol = rtol
        self.sizes = [_size(value) for value in self.values]

    def agrees(self, given: Sequence[Any]) -> list[bool]:
        """Case by case. Where zeros are right, the other cases tell what is small."""
        overall = max(self.sizes) or 1.0
        agreed = []
        for value, expected, size in zip(given, self.values, self.sizes):
            array = _array(value)
            if array is None or expected is None or array.squeeze().shape != expected.squeeze().shape:
                agreed.append(False)
                continue
            unit = _unit(value)
            scale = size if size > 1e-9 * overall else overall
            off = max(self.rtol, 4 * unit) * scale + 4 * unit * overall
            agreed.append(bool(np.allclose(array.squeeze(), expected.squeeze(), rtol=0, atol=off, equal_nan=True)))
        return agreed


def _call(answer: Any, case: Case) -> Any:
    """The answer for a case, on a copy of its arguments."""
    return answer(*copy.deepcopy(case.arguments)) if callable(answer) else answer


def _diagnosis(exercise: Exercise, given: Sequence[Any], right: _Right, rtol: float) -> str:
    """The sentence of the first mistake that gives these numbers, or else the first difference in figures."""
    for mistake in exercise.mistakes:
        for wrong in (mistake.wrong, *mistake.also):
            if all(_Right(wrong, exercise.cases, rtol).agrees(given)):
                return mistake.message
    for case, g, expected, agreed in zip(exercise.cases, given, right.values, right.agrees(given)):
        if agreed or expected is None:
            continue
        array = _array(g)
        if array is None:
            return f"for {case.name} your answer is {type(g).__name__}, not numbers"
        if array.squeeze().shape != expected.squeeze().shape:
            return f"for {case.name} your answer has shape {array.shape}, expected {expected.shape}"
        if not np.isfinite(array).all():
            return f"for {case.name} your answer has entries that are not finite"
        array = array.reshape(expected.shape)
        at = np.unravel_index(np.argmax(np.abs(array - expected)), expected.shape)
        where = f" at {tuple(int(i) for i in at)}" if expected.shape else ""
        return f"for {case.name}{where} your answer is {array[at]:.4g}, expected {expected[at]:.4g}"
    return "not yet"


def _numbers(value: Any) -> Any:
    """An answer as an array of its own, so that a buffer which is used again keeps no answer from being seen."""
    if isinstance(value, (Iterator, KeysView, ValuesView)):
        value = list(value)
    if hasattr(value, "detach"):  # a torch tensor that remembers how it was computed
        value = value.detach()
    if value is None or value is Ellipsis or isinstance(value, (str, bytes)):
        return value
    try:
        array = np.array(value)
        if array.dtype.kind == "V":  # bfloat16
            return jnp.array(value)
        return array if _array(array) is not None else value
    except (TypeError, ValueError):
        return value


def _array(value: Any) -> np.ndarray | None:
    if isinstance(value, (str, bytes)) or value is None:
        return None
    try:
        array = np.asarray(value)
        if np.iscomplexobj(array):  # as the eigenvalues of a matrix that is not known to be symmetric
            array = np.real_if_close(array, 1e6)
        return None if np.iscomplexobj(array) else np.asarray(array, dtype=float)
    except (TypeError, ValueError):
        return None


def _size(array: np.ndarray | None) -> float:
    """The largest finite entry, in absolute value."""
    return 0.0 if array is None else float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _unit(value: Any) -> float:
    """The rounding unit of an answer's dtype: someone may work in half precision."""
    dtype = getattr(value, "dtype", np.dtype(float))
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else float(np.finfo(float).eps)
