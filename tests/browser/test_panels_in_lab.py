"""A reader's first minute: open a notebook, run all, press an arrow key; the picture and the reading follow."""

import statistics
from pathlib import Path

import pytest
from lab import notebook

pytestmark = pytest.mark.browser

TESTS = Path(__file__).parents[1]


def test_a_slider_moved_by_keyboard_moves_the_picture_and_the_reading(lab, artifacts):
    lab.open(notebook("from demo_panel import demo\ndemo()"), "demo.ipynb", beside=(TESTS / "demo_panel.py",))
    lab.run_all()
    (panel,) = lab.panels()
    assert panel.reading().startswith("At t = 1,")
    times = [panel.press(0, "ArrowRight") for _ in range(15)]
    panel.wait_for_reading("At t = 3.98,")  # fifteen steps of a hundredth of four powers of ten
    for theme in ("Light", "Dark"):
        lab.theme(f"JupyterLab {theme}")
        panel.screenshot(artifacts / f"demo_{theme.lower()}.png")
    print(f"median {statistics.median(times):.0f} ms from key to picture, of {len(times)} presses")
