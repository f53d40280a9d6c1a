"""`ntkbook course`: what nbgrader finds there gives all points to the solutions and none to the stubs."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ntkbook import cli, course

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebook(path):
    return json.loads(path.read_text())


def assignment(path, term="2027"):
    return course.assignment(notebook(path), notebook(path.parent / "solutions" / path.name), term)


def grades(made):
    """Points reached and points to be had, when the cells run one after another."""
    names, reached, best = {}, 0, 0
    for cell in made["cells"]:
        if cell["cell_type"] != "code":
            continue
        role = cell["metadata"]["nbgrader"]
        *body, last = cell["source"].splitlines() if role["grade"] else [cell["source"], "None"]
        exec("\n".join(body), names)
        if role["grade"]:
            reached, best = reached + eval(last, names), best + role["points"]
    return reached, best


def released(made):
    """The students' copy: nbgrader replaces what stands between the marks."""
    cells = json.loads(json.dumps(made))
    for cell in cells["cells"]:
        marked = r"    ### BEGIN SOLUTION\n.*?    ### END SOLUTION"
        cell["source"] = re.sub(marked, "    raise NotImplementedError()", cell["source"], flags=re.S)
    return cells


@pytest.mark.slow_after_first
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_get_all_points_and_stubs_none(path, monkeypatch):
    monkeypatch.setenv("NTKBOOK_TERM", "")
    made = assignment(path, term="")
    reached, best = grades(made)
    assert reached == best >= 6
    assert "SOLUTION" not in json.dumps(released(made)) and grades(released(made)) == (0, best)


@pytest.mark.slow
def test_cells_are_as_nbgrader_wants_them():
    for path in CHAPTERS:
        cells = assignment(path)["cells"]
        roles = [cell["metadata"]["nbgrader"] for cell in cells if cell["cell_type"] == "code"]
        names = [role["grade_id"] for role in roles]
        assert len(names) == len(set(names)) and all(re.fullmatch(r"[\w-]{1,64}", cell["id"]) for cell in cells)
        assert all(role["schema_version"] == 3 and role["locked"] != role["solution"] for role in roles)
        assert sum(role["solution"] for role in roles) == sum(role["grade"] for role in roles) >= 3
        assert 'os.environ["NTKBOOK_TERM"] = "2027"' in cells[1]["source"]


def test_a_helper_that_the_question_names_is_given():
    path = ROOT / "notebooks" / "02_wide_networks_are_gaussian.ipynb"
    students = "\n".join(cell["source"] for cell in released(assignment(path))["cells"])
    assert "def relu_dual" in students and "def sin_dual" not in students


@pytest.mark.slow
def test_a_term_has_its_own_numbers_and_mistakes_keep_their_words():
    environment = {**os.environ, "NTKBOOK_TERM": "2027-spring"}
    ask = "from ntkbook.exercises import chapter_01 as c; print(c.ONE_EXAMPLE.cases[0].arguments[0][0, 0])"
    drawn = [
        subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=True).stdout
        for env in (environment, environment, {**environment, "NTKBOOK_TERM": "2028"})
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_exercises.py"]
    words = [*tests, "-k", "words and (one_example or errors_after or classifier_step or eigenvalues)"]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-2000:]


def test_the_command_writes_all_of_it_and_nothing_over_a_course(tmp_path, capsys):
    folder = tmp_path / "course"
    assert cli.main(["course", str(folder), "01", "05", "--term", "2027"]) == 0
    assert sorted(path.name for path in (folder / "source").iterdir()) == [
        "01_kernel_gradient",
        "05_closed_form_dynamics",
    ]
    cards = [line.split("\t") for line in (folder / "recall.tsv").read_text().splitlines()]
    assert len(cards) == 10 and all(len(card) == 2 and all(card) and "$" not in card[0] for card in cards)
    assert cards[0][0].startswith("Which three numbers") and cards[0][1].startswith("The learning rate")
    with zipfile.ZipFile(folder / "figures.zip") as packed:
        names = packed.namelist()
        assert len(names) > 5 and all(packed.read(name).startswith(b"\x89PNG") for name in names)
    assert cli.main(["course", str(folder)]) == 1
    assert "Expected a new or an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("term", ["", "a b", '"; import os'])
def test_a_term_is_a_word(term, tmp_path, capsys):
    assert cli.main(["course", str(tmp_path / "new"), "01", "--term", term]) == 1
    assert "Expected a term of letters" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_every_chapter_has_five_cards():
    for path in CHAPTERS:
        assert len(course.recall_cards(notebook(path), notebook(path.parent / "solutions" / path.name))) == 5, path.stem
