"""Every exercise of the book: the stub scores nothing, the solution everything, each listed mistake gets its own words.

Chapters are found by their files: `ntkbook/exercises/chapter_NN.py`, and `NN_*.ipynb` in `notebooks` and its solutions.
"""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from ntkbook.exercises import checking
from ntkbook.exercises.checking import Case, Exercise, Mistake, judge

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(path.stem.removeprefix("chapter_") for path in (ROOT / "ntkbook/exercises").glob("chapter_*.py"))
CHECKS = [
    (chapter, name) for chapter in CHAPTERS for name in import_module(f"ntkbook.exercises.chapter_{chapter}").EXERCISES
]
every_exercise = pytest.mark.parametrize("chapter, name", CHECKS, ids=["-".join(pair) for pair in CHECKS])


def exercise_of(chapter, name):
    return import_module(f"ntkbook.exercises.chapter_{chapter}").EXERCISES[name]


def code_of(folder, chapter):
    """The sources of the code cells of a chapter's notebook, with their tags."""
    (path,) = (ROOT / folder).glob(f"{chapter}_*.ipynb")
    cells = json.loads(path.read_text())["cells"]
    return [("".join(c["source"]), c["metadata"].get("tags", [])) for c in cells if c["cell_type"] == "code"]


@pytest.fixture(scope="module")
def solutions():
    """Chapter -> the names that its solution notebook defines."""
    run = {}

    def of(chapter):
        if chapter not in run:
            run[chapter] = {}
            for source, tags in code_of("notebooks/solutions", chapter):
                if "panel" in tags:  # the mission: judged in tests/test_chapter_NN.py
                    continue
                exec(compile(source, f"solutions {chapter}", "exec"), run[chapter])
        return run[chapter]

    return of


def test_there_are_exercises():
    assert {"00", "03"} <= set(CHAPTERS)


@every_exercise
def test_the_stub_of_the_notebook_is_not_attempted(chapter, name):
    stubs = [
        source for source, tags in code_of("notebooks", chapter) if "exercise" in tags and f"def {name}(" in source
    ]
    (stub,) = stubs
    definition = stub.split(f"exercises.check_{name}")[0]
    assert definition != stub, "the cell does not call its check"
    names = {}
    exec(definition, names)
    check, exercise = exercise_of(chapter, name)
    result = check(names[name])
    assert not result and not result.attempted
    assert repr(result) == f"{exercise.name}: 0/{len(exercise.cases)} - not attempted"


@every_exercise
def test_the_solution_passes_everything(chapter, name, solutions):
    check, exercise = exercise_of(chapter, name)
    result = check(solutions(chapter)[name])
    assert result and result.score == len(exercise.cases)
    assert exercise.praise in repr(result)


@every_exercise
def test_each_mistake_gets_its_own_words(chapter, name):
    check, exercise = exercise_of(chapter, name)
    assert len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        result = check(mistake.wrong)
        assert not result and result.attempted
        assert result.feedback == mistake.message
    assert len({mistake.message for mistake in exercise.mistakes}) == len(exercise.mistakes)


@every_exercise
def test_a_check_never_raises(chapter, name):
    check, exercise = exercise_of(chapter, name)

    def stops(*arguments):
        raise NotImplementedError

    def breaks(*arguments):
        raise ZeroDivisionError("of course")

    assert not check(stops).attempted
    assert "ZeroDivisionError" in check(breaks).feedback
    for odd in ("seven", object(), [], np.nan, {"a": 1}, lambda *arguments: "seven", lambda: 1):
        assert not check(odd)
        assert check(odd).feedback
        assert check(odd)._repr_html_().startswith("<div")


HALVES = Exercise(
    "check_half",
    lambda x: x / 2,
    (Case("four", (4.0,)), Case("a row", (np.arange(3.0),))),
    (Mistake("that is the double", lambda x: 2 * x),),
)


def test_a_mistake_that_nobody_listed_is_told_in_numbers():
    assert judge(lambda x: x / 2 + 1, HALVES).feedback == "for four your answer is 3, expected 2"
    assert "shape (1,), expected ()" in judge(lambda x: np.atleast_1d(x / 2), HALVES).feedback
    assert "not finite" in judge(lambda x: x * np.nan, HALVES).feedback
    partly = judge(lambda x: x / 2 if np.ndim(x) == 0 else x, HALVES)
    assert partly.score == 1 and "at (2,)" in partly.feedback


def test_the_result_is_one_line_and_escapes_what_the_reader_wrote():
    def tag(x):
        raise ValueError("<b>\nbold</b>")

    result = judge(tag, HALVES)
    assert "\n" not in repr(result)
    assert "<b>\nbold" not in result._repr_html_() and "&lt;b&gt;" in result._repr_html_()


def test_rounding_is_no_mistake_and_a_mistake_is_no_rounding():
    assert judge(lambda x: np.float32(x) / 2, HALVES)
    assert not judge(lambda x: x / 2 * 1.001, HALVES)
    assert checking._equal(0.0, 0.0, 1e-4)
