"""What every check of the book shares: cases, the usual mistakes, and a result that says which one it met.

An exercise is a reference, cases to compare it on, and a list of mistakes: each a wrong answer written out, with the
sentence that its author needs to read. `judge` runs the reader's answer, never raises, and finds the mistake whose
numbers it gave.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One comparison: a name in words, and the arguments that the answer is called with."""

    name: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer, as code (or as a value), and what to tell the reader who gave it."""

    message: str
    wrong: Any


@dataclass(frozen=True)
class Exercise:
    """`name` of the check, the right answer, the cases, and the mistakes that it recognises."""

    name: str
    reference: Any
    cases: tuple[Case, ...]
    mistakes: tuple[Mistake, ...] = ()
    praise: str = "all right"


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


def judge(answer: Any, exercise: Exercise, *, rtol: float = 1e-4) -> Result:
    """Compare `answer`, a function or a value, with the reference on every case; recognise the usual mistakes.

    `rtol` is relative to the largest entry of the right answer: loose enough for float32, far below any mistake.
    """
    cases, names = exercise.cases, [case.name for case in exercise.cases]
    given: list[Any] = []
    for case in cases:
        try:
            value = _call(answer, case)
        except NotImplementedError:
            value = None
        except Exception as error:
            told = f"your code raised {type(error).__name__} for {case.name}: {' '.join(str(error).split())[:200]}"
            return Result(exercise.name, tuple((name, False) for name in names), told)
        given.append(value)
    if all(value is None or value is Ellipsis for value in given):
        return Result(exercise.name, tuple((name, False) for name in names), "not attempted", attempted=False)
    right = [_call(exercise.reference, case) for case in cases]
    passed = tuple((name, _equal(g, r, rtol)) for name, g, r in zip(names, given, right))
    if all(ok for _, ok in passed):
        return Result(exercise.name, passed, exercise.praise)
    return Result(exercise.name, passed, _diagnosis(exercise, given, right, rtol))


def _call(answer: Any, case: Case) -> Any:
    return answer(*case.arguments) if callable(answer) else answer


def _diagnosis(exercise: Exercise, given: Sequence[Any], right: Sequence[Any], rtol: float) -> str:
    """The sentence of the first mistake that gives these numbers, or else the first difference in figures."""
    for mistake in exercise.mistakes:
        wrong = [_call(mistake.wrong, case) for case in exercise.cases]
        if all(_equal(g, w, rtol) for g, w in zip(given, wrong)):
            return mistake.message
    for case, g, r in zip(exercise.cases, given, right):
        if _equal(g, r, rtol):
            continue
        array, expected = _array(g), np.asarray(r, dtype=float)
        if array is None:
            return f"for {case.name} your answer is {type(g).__name__}, not numbers"
        if array.shape != expected.shape:
            return f"for {case.name} your answer has shape {array.shape}, expected {expected.shape}"
        if not np.isfinite(array).all():
            return f"for {case.name} your answer has entries that are not finite"
        at = np.unravel_index(np.argmax(np.abs(array - expected)), expected.shape)
        where = f" at {tuple(int(i) for i in at)}" if expected.shape else ""
        return f"for {case.name}{where} your answer is {array[at]:.4g}, expected {expected[at]:.4g}"
    return "not yet"


def _array(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return None


def _equal(value: Any, expected: Any, rtol: float) -> bool:
    array, right = _array(value), _array(expected)
    if array is None or right is None or array.shape != right.shape:
        return False
    return bool(np.allclose(array, right, rtol=0, atol=rtol * max(float(np.abs(right).max(initial=0.0)), 1e-12)))
