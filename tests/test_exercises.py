"""Every exercise of the book: the stub scores nothing, the solution everything, each listed mistake gets its own words.

Chapters are found by their files: `ntkbook/exercises/chapter_NN.py`, and `NN_*.ipynb` in `notebooks` and its solutions.
"""

import copy
import json
from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.slow
@every_exercise
def test_each_mistake_gets_its_own_words(chapter, name):
    check, exercise = exercise_of(chapter, name)
    assert len(exercise.mistakes) >= 3
    for mistake in exercise.mistakes:
        for wrong in (mistake.wrong, *mistake.also):
            result = check(wrong)
            assert not result and result.attempted
            assert result.feedback == mistake.message
    assert len({mistake.message for mistake in exercise.mistakes}) == len(exercise.mistakes)


def spoiling(answer):
    """The answer, which then writes over every array and list that it was given, as code that works in place does."""

    def spoil(given):
        if isinstance(given, np.ndarray):
            given *= 0
            given -= 7
        elif isinstance(given, dict):
            [spoil(item) for item in given.values()]
        elif isinstance(given, (list, tuple)):
            [spoil(item) for item in given]
            if isinstance(given, list):
                given.clear()

    def spoilt(*arguments):
        result = copy.deepcopy(answer(*arguments))
        spoil(arguments)
        return result

    return spoilt


@pytest.mark.slow_after_first
@every_exercise
def test_an_answer_may_work_in_place(chapter, name, solutions):
    """It is right, wrong answers keep their words afterwards, and so does the right one."""
    check, exercise = exercise_of(chapter, name)
    if callable(solutions(chapter)[name]):
        assert check(spoiling(solutions(chapter)[name]))
        for mistake in exercise.mistakes:
            assert check(spoiling(mistake.wrong)).feedback == mistake.message
        assert check(solutions(chapter)[name])


def leaves(answer, change):
    return (lambda *arguments: change(answer(*arguments))) if callable(answer) else change(answer)


@every_exercise
@pytest.mark.parametrize(
    "change",
    [
        np.float32,
        lambda v: np.asarray(v, float).tolist(),
        lambda v: jnp.asarray(np.asarray(v, float)),
        lambda v: np.asarray(v, float)[None],
        lambda v: np.asarray(v, float)[..., None],
        lambda v: np.asarray(v, float) + 0j,
        lambda v: iter(v) if np.ndim(v) else v,
    ],
    ids=["float32", "list", "jax", "row", "column", "complex", "iterator"],
)
def test_a_right_answer_of_another_kind_is_right(chapter, name, change, solutions):
    check, _ = exercise_of(chapter, name)
    assert check(leaves(solutions(chapter)[name], change))


@pytest.mark.slow
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
    assert "shape (2,), expected ()" in judge(lambda x: np.append(x / 2, 0)[:2], HALVES).feedback
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
    assert judge(lambda x: np.float16(x) / 2, HALVES)
    assert not judge(lambda x: x / 2 * 1.001, HALVES)
    assert not judge(lambda x: np.float16(x / 2 * 1.01), HALVES)


SIGNS = Exercise("check_sign", lambda x: x - 1, (Case("one", (1.0,)), Case("three", (3.0,))))
NOTHING = Exercise("check_nothing", lambda x: 0 * x, (Case("one", (1.0,)),))


def test_where_zero_is_right_the_other_cases_say_what_is_small():
    assert judge(lambda x: x - 1 - 1.2e-16, SIGNS)
    assert judge(lambda x: float(np.float32(x - 1 + 3e-8)), SIGNS)
    assert judge(lambda x: x - 1 + 1e-2, SIGNS).score == 0
    assert judge(lambda x: 1e-17, NOTHING) and not judge(lambda x: 0.01, NOTHING)


def test_an_infinite_or_missing_entry_is_not_taken_for_any_number():
    ends = Exercise("check_ends", lambda x: np.array([np.inf, x]), (Case("one", (1.0,)),))
    assert judge(lambda x: [np.inf, x], ends)
    assert not judge(lambda x: [np.inf, x + 1], ends) and not judge(lambda x: [5.0, x], ends)


def test_a_buffer_that_is_used_again_is_read_at_each_call():
    buffer = np.zeros(3)
    rows = Exercise("check_rows", lambda x: x * np.ones(3), (Case("one", (1.0,)), Case("two", (2.0,))))

    def fill(x):
        buffer[:] = x
        return buffer

    assert judge(fill, rows)


def test_references_are_computed_before_the_answer_runs():
    scale = {"by": 2.0}
    doubled = Exercise("check_double", lambda x: scale["by"] * x, (Case("one", (1.0,)),))

    def meddling(x):
        scale["by"] = 5.0
        return 5.0 * x

    assert not judge(meddling, doubled)


def test_other_conventions_are_right_as_a_whole():
    either = Exercise("check_up", lambda x: x, (Case("a", (1.5,)), Case("b", (2.5,))), also=(np.ceil, np.floor))
    assert judge(np.ceil, either) and judge(np.floor, either)
    assert not judge(lambda x: np.ceil(x) if x < 2 else np.floor(x), either)
