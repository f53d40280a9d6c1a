"""The notebooks as files: what strict comparison, readers without a kernel, and small diffs need of them.

That they run, and print what they printed before, is checked by `make test`.
"""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import demo_panel
import last_digit
import panels_at_rest
import pytest

from ntkbook import claims

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
ALL = sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
CHAPTERS = [path for path in ALL if path.parent == FOLDER]
everywhere = pytest.mark.parametrize("path", ALL, ids=[str(path.relative_to(FOLDER)) for path in ALL])
in_chapters = pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])


def read(path):
    return json.loads(path.read_text())


def code_cells(notebook):
    """The code cells that hold code, as (cell, source)."""
    cells = [(cell, "".join(cell["source"])) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [(cell, source) for cell, source in cells if source.strip()]


def outputs(notebook):
    return [output for cell, _ in code_cells(notebook) for output in cell["outputs"]]


def troubles(notebook):
    """What is wrong with a notebook as a file, as sentences."""
    found = []
    counts = [cell.get("execution_count") for cell, _ in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"execution counts are {counts}: restart, run all, save (an unrun cell is compared with nothing)")
    if "widgets" in notebook["metadata"] or "vnd.jupyter.widget-state" in json.dumps(notebook["metadata"]):
        found.append("widget state is saved: pages without a kernel then show a dead widget")
    for cell, source in code_cells(notebook):
        start = source.strip().splitlines()[0]
        last = [line for line in source.splitlines() if line.strip()][-1].split("#")[0].rstrip()
        if last.endswith(";"):
            found.append(f"{start!r} ends with a semicolon: end with `_ = ...` or an expression")
        for word in (r"\binteract(ive|ive_output|_manual)?\(", r"\bOutput\(", r"^\s*%matplotlib\s+widget"):
            if re.search(word, source, re.M):
                found.append(f"{start!r} uses {word}: use a Panel")
        if {"execution", "ExecuteTime"} & set(cell["metadata"]):
            found.append(f"{start!r} keeps its time of execution: a diff for nothing")
        for output in cell["outputs"]:
            if output["output_type"] == "error" and "raises-exception" not in cell["metadata"].get("tags", []):
                found.append(f"{start!r} stopped with {output['ename']}")
            if output["output_type"] == "stream" and output["name"] == "stderr":
                found.append(f"{start!r} writes to stderr: {''.join(output['text'])[:80]!r}")
            if " at 0x" in "".join(output.get("data", {}).get("text/plain", "")):
                found.append(f"{start!r} shows an object by its address: end with `_ = ...`")
            if "needs_background" in output.get("metadata", {}):
                found.append(f"{start!r} asks for a box behind its picture: call plots.style() first")
    return found


def test_the_book_begins():
    names = [path.stem for path in CHAPTERS]
    assert {"00_start_here", "03_infinite_width_ntk"} <= set(names)
    assert all(re.fullmatch(r"\d\d_[a-z_]+", name) for name in names)


@everywhere
def test_the_file_is_as_the_checks_need_it(path):
    assert troubles(read(path)) == []


@everywhere
def test_the_file_is_small_enough_to_open_anywhere(path):
    assert path.stat().st_size < 2_000_000


@in_chapters
def test_a_chapter_states_claims_and_says_their_verdicts(path):
    rows = claims.claims_in(read(path))
    assert rows, "no claims table among the outputs"
    assert all(row["verdict"] in ("PASS", "FAIL") for row in rows)


@in_chapters
def test_a_chapter_links_to_itself_on_binder(path):
    notebook = read(path)
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert re.search(rf"mybinder\.org/v2/gh/\S+urlpath=lab/tree/notebooks/{path.name}", text)


@in_chapters
def test_a_chapter_shows_its_panel_without_a_kernel(path):
    """Beside each widget view stands a picture, or the page is blank where no kernel runs."""
    views = [o["data"] for o in outputs(read(path)) if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert views, "no panel in this chapter"
    assert any("image/png" in view or "image/svg+xml" in view for view in views)


@in_chapters
def test_the_answer_to_a_prediction_does_not_stand_in_the_notebook(path):
    sources = "\n".join(source for _, source in code_cells(read(path)))
    assert "exercises.predict(" in sources and "answer=" not in sources and "Predict(" not in sources


def is_collapsed(cell):
    """In JupyterLab by its metadata, on the site by its tag."""
    hidden = cell["metadata"].get("jupyter", {}).get("source_hidden", False)
    assert hidden == ("hide-input" in cell["metadata"].get("tags", [])), "collapsed in one place only"
    return hidden


@in_chapters
def test_cells_of_plumbing_are_collapsed(path):
    """The claims, and whatever is longer than 40 lines; never an exercise."""
    for cell, source in code_cells(read(path)):
        length = len([line for line in source.splitlines() if line.strip()])
        if "Claim(" in source or length > 40:
            assert is_collapsed(cell), source.splitlines()[0]
        if "exercise" in cell["metadata"].get("tags", []):
            assert not is_collapsed(cell)


def moved_after_it_was_shown(sources):
    """Names of panels that are shown by a cell and moved by code: `name.set(...)`, `name.reset()`."""
    trees = [ast.parse(source) for source in sources]
    shown = {
        tree.body[-1].value.id
        for tree in trees
        if tree.body and isinstance(tree.body[-1], ast.Expr) and isinstance(tree.body[-1].value, ast.Name)
    }
    called = [n.func for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    moves = [f for f in called if isinstance(f, ast.Attribute) and f.attr in ("set", "reset", "choose")]
    return sorted({f.value.id for f in moves if isinstance(f.value, ast.Name) and f.value.id in shown})


@in_chapters
def test_no_cell_moves_a_panel_that_is_shown(path):
    """That none has moved when all cells have run, whoever moved it, is seen by tests/panels_at_rest.py."""
    assert moved_after_it_was_shown([source for _, source in code_cells(read(path))]) == []


def test_a_panel_that_is_moved_is_seen():
    assert moved_after_it_was_shown(["panel = make()\npanel", "if True:\n    panel.set(t=1)"]) == ["panel"]
    assert moved_after_it_was_shown(["panel = make()\npanel", "other = copy(panel)\nother.set(t=1)"]) == []


def test_the_run_of_the_notebooks_sees_a_moved_panel(capsys):
    """What `panels_at_rest` runs in a notebook's kernel, run here."""
    still, moved, unseen = (demo_panel.demo() for _ in range(3))
    for panel in (still, moved):
        panel._repr_mimebundle_()
    for panel in (moved, unseen):
        panel.set(**{name: control.range[1] for name, control in panel.definitions.items()})
    here = {"still": still, "moved": moved, "unseen": unseen, "_3": moved, "x": 1}
    exec(panels_at_rest.MOVED, {"get_ipython": lambda: SimpleNamespace(user_ns=here)})
    assert capsys.readouterr().out.startswith("moved: ['moved = Panel(")
    moved.reset()
    exec(panels_at_rest.MOVED, {"get_ipython": lambda: SimpleNamespace(user_ns=here)})
    assert capsys.readouterr().out == "moved: []\n"


@pytest.mark.parametrize(
    "one, other",
    [
        ("error 0.05 of 16", "error 0.04 of 16"),
        ("changed by 64%", "changed by 63%"),
        ("a share of 100 %", "a share of 99 %"),
        ("|  99.9 |", "| 100 |"),  # three digits: 99.95 and its neighbour
        ("1.00e-05", "9.99e-06"),
        ("−0.00", "0.00"),
        ("slope -0.50", "slope −0.51"),
        ({"claims": [{"measured": "0.50", "verdict": "PASS"}]}, {"claims": [{"measured": "0.51", "verdict": "PASS"}]}),
    ],
)
def test_the_run_of_the_notebooks_lets_the_last_digit_differ(one, other):
    assert last_digit.printed(one) == last_digit.printed(other)
    assert not last_digit.printed(other) != last_digit.printed(one)


@pytest.mark.parametrize(
    "one, other",
    [
        ("error 0.05", "error 0.03"),
        ("changed by 64%", "changed by 62%"),
        ("16 of 16", "15 of 16"),
        ("100 pairs", "99 pairs"),
        ("1.00e-05", "1.00e-06"),
        ("1.2 PASS", "1.2 FAIL"),
        ("0.5 0.5", "0.5"),
        ("0.05", "-0.05"),
        ("0.05", "nan"),
        ("0.5", "0.46"),  # one unit of the coarser number
        ("0.5\n0.5", "0.5 0.5"),
        ({"claims": [{"criterion": "at most 0.2"}]}, {"claims": [{"criterion": "at most 0.3"}]}),
        ("shape (3, 5)", "shape (3, 6)"),
        ({"claims": [{"measured": "0.50", "verdict": "PASS"}]}, {"claims": [{"measured": "0.50", "verdict": "FAIL"}]}),
    ],
)
def test_the_run_of_the_notebooks_sees_everything_else(one, other):
    assert last_digit.printed(one) != last_digit.printed(other)
    assert not last_digit.printed(other) == last_digit.printed(one)


def test_nbval_compares_to_the_last_digit(monkeypatch):
    from nbval.plugin import IPyNbCell

    monkeypatch.setattr(IPyNbCell, "sanitize", lambda cell, output: output)
    last_digit.pytest_configure(None)
    assert IPyNbCell.sanitize(None, "0.05") == IPyNbCell.sanitize(None, "0.06") != IPyNbCell.sanitize(None, "0.08")


POINTER = re.compile(
    r"\b(?:chapters?|notebooks?|Notebooks?|Chapters?)\s+((?:\d\d(?:,\s+|\s+(?:and|to|or)\s+)?)+)|\b(\d\d)_[a-z][a-z_]+\.ipynb"
)


def dead_pointers(text):
    """Numbers of chapters that a text sends its reader to, and that do not exist."""
    named = [number for m in POINTER.finditer(text) for number in re.findall(r"\d\d", m[1] or m[2])]
    return sorted(set(named) - {path.stem[:2] for path in CHAPTERS})


def test_no_text_points_to_a_chapter_that_does_not_exist():
    root = FOLDER.parent
    texts = {path: "".join("".join(cell["source"]) for cell in read(path)["cells"]) for path in ALL}
    texts |= {
        p: p.read_text() for part in ("ntkbook", "docs") for p in (root / part).rglob("*") if p.suffix in (".py", ".md")
    }
    texts[root / "README.md"] = (root / "README.md").read_text()
    assert {str(path.relative_to(root)): dead for path, text in texts.items() if (dead := dead_pointers(text))} == {}


def test_a_dead_pointer_is_seen():
    assert dead_pointers("(chapter 98), chapters 00 and 97; notebook 03; 96_nothing.ipynb; 20 of 95") == [
        "96",
        "97",
        "98",
    ]


@in_chapters
def test_the_five_questions_are_answered_in_the_solutions(path):
    """One paragraph for each question, in its order."""
    asked = numbered(read(path), "**Five questions")
    answers = numbered(read(FOLDER / "solutions" / path.name), "## Five answers")
    assert len(asked) == len(answers) == 5
    assert all(len(answer.split()) >= 20 for answer in answers)


def numbered(notebook, head):
    """The numbered paragraphs that follow `head` in its cell."""
    (text,) = [t for c in notebook["cells"] if c["cell_type"] == "markdown" and head in (t := "".join(c["source"]))]
    return re.findall(r"^\d\. (.+?)(?=^\d\. |\n\n|\Z)", text.split(head)[1], re.M | re.S)


@in_chapters
def test_every_claim_excludes_a_rival(path):
    for row in claims.claims_in(read(path)):
        assert row.get("rival", "").endswith("(excluded)"), f"{row['sentence']}: {row.get('rival') or 'no rival'}"


GOOD = {
    "metadata": {},
    "cells": [{"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [], "source": ["x = 1\n", "x"]}],
}


def altered(**changes):
    notebook = json.loads(json.dumps(GOOD))
    notebook["cells"][0] |= changes
    return notebook


@pytest.mark.parametrize(
    "notebook, word",
    [
        (altered(execution_count=None), "execution counts"),
        (altered(execution_count=3), "execution counts"),
        ({**GOOD, "metadata": {"widgets": {}}}, "widget state"),
        (altered(source=["plot(x);"]), "semicolon"),
        (altered(source=["plot(x);  # done\n", "\n"]), "semicolon"),
        (altered(source=["interact(f, x=1)"]), "Panel"),
        (altered(source=["out = widgets.Output()"]), "Panel"),
        (altered(metadata={"execution": {}}), "time of execution"),
        (altered(outputs=[{"output_type": "error", "ename": "ValueError"}]), "stopped with ValueError"),
        (altered(outputs=[{"output_type": "stream", "name": "stderr", "text": ["oh"]}]), "stderr"),
        (altered(outputs=[{"output_type": "execute_result", "data": {"text/plain": "<A at 0x7f>"}}]), "address"),
        (altered(outputs=[{"output_type": "display_data", "metadata": {"needs_background": "light"}}]), "a box"),
    ],
)
def test_each_trouble_is_seen(notebook, word):
    assert troubles(GOOD) == []
    assert word in " ".join(troubles(notebook))
