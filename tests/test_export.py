"""`ntkbook export`: one page that needs nothing else, from what a notebook holds."""

import json
import sys

import pytest

from ntkbook import cli, export

PNG = "iVBORw0KGgo="


def notebook(*cells):
    return json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def code(source, *outputs, **metadata):
    return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": list(outputs)}


def prose(source):
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def shown(**data):
    return {"output_type": "display_data", "metadata": {}, "data": {k.replace("_", "/"): v for k, v in data.items()}}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "07_a_chapter.ipynb"
    widget = {"output_type": "display_data", "metadata": {}, "data": {export.WIDGET: {"model_id": "0"}}}
    path.write_text(
        notebook(
            prose("# Title\n\nSee [chapter 01](01_kernel_gradient.ipynb), where $a_1 * b_2 * c_3$ is `$5`.\n"),
            prose("$$\n\\big\\| x \\big\\| = \\frac{a}{b}\n$$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"),
            code('panel = PANELS["mode_filter"]()\npanel', widget),
            code("print(1 < 2)", {"output_type": "stream", "name": "stdout", "text": ["1 <", " 2\n"]}),
            code("fig", shown(image_png=PNG), jupyter={"source_hidden": True}),
            prose("*A caption of $k$.*"),
            code("table", shown(text_html="<table><tr><td>3</td></tr></table>", text_plain="3")),
        )
    )
    return export.to_html(path, lambda name: f"<div>baked {name}</div>")


def test_formulas_are_markup_and_code_is_left_alone(page):
    assert page.count("<math") == 3 and "\\frac" not in page and "$a_1" not in page
    assert "<em>" not in page.split("</head>")[1].split("chapter 01")[1].split("</p>")[0]  # a star is no emphasis there
    assert "<code>$5</code>" in page


def test_links_lead_to_pages_and_nothing_is_asked_of_a_host(page):
    assert 'href="01_kernel_gradient.html"' in page
    assert "<script src" not in page and "<link" not in page and "url(" not in page


def test_outputs_are_there(page):
    assert page.count("baked mode_filter") == 1
    assert "1 &lt; 2" in page
    assert f"data:image/png;base64,{PNG}" in page and "A caption of k." in page
    assert "<table><tr><td>3</td></tr></table>" in page


def test_plumbing_is_folded(page):
    folded = page.split("<details>")
    assert len(folded) == 2 and "fig" in folded[1].split("</details>")[0]


def test_the_command_writes_a_page(tmp_path, capsys):
    assert cli.main(["export", "05", "--folder", str(tmp_path / "new"), "--frames", "4"]) == 0
    (made,) = (tmp_path / "new").iterdir()
    text = made.read_text()
    assert made.name == "05_closed_form_dynamics.html" and str(made) in capsys.readouterr().out
    assert (
        text.count('class="ntkbook-baked"') >= 2
        and "mybinder" not in text
        and "$" not in text.split("</head>")[1][:3000]
    )


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["export", "99"], "Expected notebooks with 99"),
        (["export", "05", "--frames", "1"], "Expected from 4 to 400 frames"),
        (["export", "05", "--to", "pdf"], "Expected a Chromium or Chrome, found none"),
    ],
)
def test_what_cannot_be_done_is_said(words, sentence, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert cli.main([*words, "--folder", str(tmp_path)]) == 1
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_is_missing_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    assert cli.main(["export", "05", "--folder", str(tmp_path), "--frames", "4"]) == 1
    assert 'pip install "ntkbook[export]"' in capsys.readouterr().err
