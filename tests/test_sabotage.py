"""Chapters broken on purpose: the edits fit the chapters, the page is up to date, and the tool sees a break."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import sabotage  # noqa: E402

CELLS = [
    "import numpy as np\nfrom ntkbook.claims import *\nrng = np.random.default_rng(0)",
    "def theory(t):\n    return rate * t",
    "rate, steps = 2.0, []\nfor t in (1, 2):\n    steps.append(t)",
    "runs = np.array([theory(t) for t in steps]) + 0.01 * rng.standard_normal(2)\nassert abs(runs[0] - 2) < 0.1",
    "print('no claim needs this cell', 1 / 0)",
    "law = np.array([theory(t) for t in steps])\nunused = 1",
    """off = abs(runs - law).max()
table([
    Claim('follows', 'here', off, between(0, 0.1), reason='noise', rival=Rival('none', 2.0)),
    Claim('counts', 'here', len(steps), equal(2), reason='a count', rival=Rival('one', 1)),
])""",
]


@pytest.fixture(scope="module")
def chapter():
    return sabotage.Chapter(CELLS)


def test_only_cells_that_the_claims_need_are_run(chapter):
    assert chapter.live == [0, 1, 2, 3, 5, 6] and chapter.verdicts == ["PASS", "PASS"]


@pytest.mark.parametrize(
    "edits, caught",
    [
        ([["law = np.array([theory(t)", "law = np.array([1.2 * theory(t)"]], [1]),
        ([["for t in (1, 2)", "for t in (1,)"], ["standard_normal(2)", "standard_normal(1)"]], [2]),
        (
            [["rate, steps = 2.0", "rate, steps = 3.0"]],
            [],
        ),  # law and runs alike: no claim sees it
        ([["0.01 * rng", "0.02 * rng"]], []),
    ],
)
def test_a_break_is_seen_by_the_claims_that_depend_on_it(chapter, edits, caught):
    assert chapter.broken_by(edits) == caught
    assert chapter.broken_by([["law = np.array([theory(t)", "law = np.array([1.2 * theory(t)"]]) == [
        1
    ]  # nothing sticks


def test_random_numbers_are_those_of_the_first_run(chapter):
    first = chapter.after[3]["runs"]
    chapter.broken_by([["0.01 * rng", "0.010 * rng"]])
    assert (chapter.namespace["runs"] == first).all()


def test_an_edit_that_fits_nothing_is_refused(chapter):
    with pytest.raises(ValueError, match="Has the chapter changed"):
        chapter.broken_by([["no such line", ""]])
    with pytest.raises(ValueError, match="that the claims depend on"):
        chapter.broken_by([["1 / 0", "1 / 1"]])


@pytest.mark.parametrize("number", sorted(sabotage.plans()))
def test_the_page_has_ten_sabotages_of_each_chapter_each_caught_and_its_edits_fit(number):
    planned, sources = sabotage.plans()[number], sabotage.code_cells(number)
    assert len(planned) >= 10
    for plan in planned:
        assert sabotage.edited(sources, plan["edits"]) != sources, plan["name"]
    rows = sabotage.written()[number]
    assert list(rows) == [plan["name"] for plan in planned]
    assert [name for name, told in rows.items() if not told[0].isdigit()] == []


def test_the_page_is_read_as_it_is_written(monkeypatch, tmp_path):
    pages = {
        "00": {"time × 1.2": "1, 2 (of 3)", "nothing | at all": "none (of 3)"},
        "07": {"b_std dropped": "3 (of 3)"},
    }
    monkeypatch.setattr(sabotage, "PAGE", tmp_path / "page.md")
    assert sabotage.written() == {}
    sabotage.PAGE.write_text(sabotage.HEAD + "".join(sabotage.section(*page) for page in pages.items()))
    assert sabotage.written() == pages
