"""The notebooks as files: what strict comparison, readers without a kernel, and small diffs need of them.

That they run, and print what they printed before, is checked by `make test`.
"""

import json
import re
from pathlib import Path

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
    ],
)
def test_each_trouble_is_seen(notebook, word):
    assert troubles(GOOD) == []
    assert word in " ".join(troubles(notebook))
