"""The pages of the book, apart from Sphinx: which panels they show, and what is baked again.

`tests/browser/test_site_pages.py` opens each of them in a browser.
"""

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ntkbook.panels import PANELS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import build_site  # noqa: E402
import site_pages  # noqa: E402


def test_a_cell_shows_a_panel_by_its_last_line():
    name, names = build_site.panel_of('panel = PANELS["mode_filter"]()\npanel', {})
    assert name == "mode_filter" and build_site.panel_of("panel", names)[0] == "mode_filter"
    assert build_site.panel_of('PANELS["two_outputs"]()', names)[0] == "two_outputs"
    for other in ("question", "panel.set(t=1)", "", 'x = PANELS["two_outputs"]()'):
        assert build_site.panel_of(other, names)[0] is None


def test_every_panel_of_the_book_is_on_a_page():
    assert build_site.shown_panels() == sorted(PANELS)


def test_a_panel_on_a_page_is_stored_elsewhere_and_once():
    path = next((ROOT / "notebooks").glob("05_*.ipynb"))
    fragment = '<div class="x"><img alt="a"></div><script type="application/json">{}</script></div>'
    notebook = build_site.page(json.loads(path.read_text()), path, {"mode_filter": fragment, "units_of_time": fragment})
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    shown = [output["data"]["text/html"] for output in outputs if "data-panel" in str(output.get("data"))]
    assert len(shown) > 2 and all("<script" not in text and '<img alt="a">' in text for text in shown)
    assert all(re.search(r'data-panel="\.\./_static/panels/(mode_filter|units_of_time)\.html"', text) for text in shown)
    assert not any(build_site.WIDGET in output.get("data", {}) for output in outputs)
    doors = "".join(notebook["cells"][0]["source"])
    assert "mybinder.org" in doors and "colab" in doors and f"notebooks/{path.name}" in doors


def test_what_is_baked_is_kept_until_the_code_that_draws_it_changes(tmp_path, monkeypatch):
    digests = {name: build_site.digest(name, 6) for name in PANELS}
    one_file = {"mode_filter", "units_of_time"}
    assert digests["mode_filter"] == digests["units_of_time"] != digests["sine_ensemble"]
    assert digests["sine_ensemble"] != build_site.digest("sine_ensemble", 7)
    monkeypatch.setattr(build_site, "version", lambda name: "0" if name == "matplotlib" else "1")
    build_site.digest.cache_clear()
    assert build_site.digest("sine_ensemble", 6) != digests["sine_ensemble"]
    monkeypatch.undo()
    build_site.digest.cache_clear()

    read = Path.read_bytes
    edited = lambda path: read(path) + (b"#" if path.name == "closed_form_dynamics.py" else b"")
    monkeypatch.setattr(Path, "read_bytes", edited)
    build_site.digest.cache_clear()
    assert {name for name in PANELS if build_site.digest(name, 6) != digests[name]} == one_file
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path.name == "bake.py" else b""))
    build_site.digest.cache_clear()
    assert {name for name in PANELS if build_site.digest(name, 6) != digests[name]} == set(PANELS)
    build_site.digest.cache_clear()


def test_all_claims_are_in_one_table():
    stored = sum(
        json.dumps(output["data"]["application/vnd.ntkbook.claims+json"]).count('"verdict":')
        for path in site_pages.chapters(ROOT)
        for cell in json.loads(path.read_text())["cells"]
        for output in cell.get("outputs", ())
        if "application/vnd.ntkbook.claims+json" in output.get("data", {})
    )
    assert stored > 100 and site_pages.claims_page(ROOT).count("<tr data-chapter=") == stored


def test_every_public_name_has_its_place_in_the_reference():
    import ntkbook as nb

    pages = "\n".join(site_pages.api_pages(ROOT).values())
    listed = set(re.findall(r"auto(?:class|function):: ntkbook\.[\w.]+\.(\w+)", pages))
    public = {name for name, value in vars(nb).items() if not name.startswith("_") and callable(value)}
    assert len(public) > 50 and public <= listed


@pytest.mark.slow
def test_serving_needs_a_site(tmp_path):
    command = [sys.executable, "tools/build_site.py", "--serve", "--to", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr == "There is no site yet: make site.\n"


@pytest.mark.slow
def test_the_cells_of_the_questions_run():
    text = (ROOT / "docs" / "questions.md").read_text()
    assert len(re.findall(r"^## \d+\. ", text, re.M)) == 15
    cells = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    test = doctest.DocTestParser().get_doctest(cells, {}, "questions", "docs/questions.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with jax.enable_x64(jax.config.jax_enable_x64):  # the cells switch it on for themselves alone
        result = runner.run(test)
    assert result.attempted > 45 and result.failed == 0


@pytest.mark.slow
def test_every_public_name_has_an_example_that_runs():
    text = (ROOT / "docs" / "api_examples.md").read_text()
    common = re.search(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert common
    own, shown = {}, site_pages.examples(ROOT)
    session(common[1], own)
    for lines in shown.values():
        session(lines + "\n", dict(own))
    rest = [(module, name) for module, names in site_pages.DOORS_OF_THE_REST.items() for name in names.split()]
    for module, name in [*site_pages.public_names(ROOT), *rest]:
        documented = getattr(importlib.import_module(f"ntkbook.{module}"), name).__doc__ or ""
        assert ">>>" in documented or name in shown or module == "version", f"{name} needs an example"


def session(lines, names):
    """Runs the lines of a session in these names; fails where it prints something else."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    test = doctest.DocTestParser().get_doctest(lines, names, "example", "example", 0)
    assert runner.run(test, clear_globs=False).failed == 0, lines
    names |= test.globs


def test_the_first_cell_of_a_downloaded_notebook_installs_on_colab_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: calls.append(words))
    exec(site_pages.installing(ROOT), {})
    assert calls == []
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    exec(site_pages.installing(ROOT), {})
    assert len(calls) == 1 and "git+https://github.com/" in calls[0][-1] and calls[0][-1].endswith("/ntkbook")
    # newest releases of what the book needs may ask for a newer JAX, and the extra for newer widgets than Colab's
    assert f"jax=={jax.__version__}" in calls[0] and "[" not in calls[0][-1]


def test_the_minutes_of_a_chapter_are_shared_among_its_sections():
    for path in site_pages.chapters(ROOT):
        cells = json.loads(path.read_text())["cells"]
        shares = dict(site_pages.minutes(cells, 60))
        prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        titles = re.findall(r"^## (?:\d+\. )?(.*)", prose, re.M)
        assert [title for title in titles if title not in ("Exercises", "Claims")] == list(shares)
        assert abs(sum(shares.values()) - 60) <= len(shares) / 2


@pytest.mark.slow
def test_what_a_teacher_can_skip_is_there():
    rows = re.findall(r"^\| (\d\d) \| (.*?) \|", (ROOT / "docs" / "teaching.md").read_text(), re.M)
    assert len(rows) == len(site_pages.chapters(ROOT)) - 1
    for number, words in rows:
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        sections = {title for title, _ in site_pages.minutes(json.loads(path.read_text())["cells"], 60)}
        skipped = set(re.findall(r"\*([^*]+)\*", words))
        assert skipped and skipped <= sections, (number, skipped - sections)
