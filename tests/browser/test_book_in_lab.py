"""The panels of the book in JupyterLab: each follows the keyboard, alone and in the chapters as they are committed."""

import json
import os
import statistics
from pathlib import Path

import pytest
from lab import notebook

from ntkbook.panels import PANELS

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]


def test_every_panel_follows_the_keyboard(new_lab, artifacts, subtests):
    cells = [
        "import jax\njax.config.update('jax_enable_x64', True)\nfrom ntkbook.panels import PANELS",
        *[f"PANELS[{name!r}]()" for name in PANELS],
    ]
    table = {}
    with new_lab() as lab:
        lab.open(notebook(*cells), "all_panels.ipynb")
        lab.run_all()
        panels = dict(zip(PANELS, lab.panels(), strict=True))
        for name, panel in panels.items():
            with subtests.test(name):
                table[name] = moved_by_keyboard(panel)
        for theme in ("Light", "Dark"):
            lab.theme(f"JupyterLab {theme}")
            for name, panel in panels.items():
                panel.screenshot(artifacts / f"panel_{name}_{theme.lower()}.png")
    (artifacts / "panel_latency.json").write_text(json.dumps(table, indent=2))
    for name, times in table.items():
        print(f"{name:30} median {times['median_ms']:.0f} ms from key to picture")


def moved_by_keyboard(panel, presses: int = 6) -> dict[str, float]:
    """Every handle moves the picture and, taken together, the reading; the times of the presses."""
    times, before = [], panel.reading()
    for handle in range(panel.handles.count()):
        key = "ArrowRight" if not panel.is_at_its_end(handle) else "ArrowLeft"
        times.append(panel.press(handle, key))
    panel.wait_for_another_reading(before)
    for i in range(presses):
        times.append(panel.press(0, "ArrowLeft" if panel.is_at_its_end(0) else ("ArrowRight", "ArrowLeft")[i % 2]))
    return {"median_ms": statistics.median(times), "worst_ms": max(times)}


# ---------------------------------------------------------------- the notebooks

FIRST = ("00_start_here", "03_infinite_width_ntk")


def chapters() -> list:
    """Two chapters, or under NTKBOOK_ALL_NOTEBOOKS=1 all: minutes more, for panels that were moved above."""
    files = sorted((ROOT / "notebooks").glob("*.ipynb"))
    wants_all = os.environ.get("NTKBOOK_ALL_NOTEBOOKS") == "1"
    return [file for file in files if "PANELS[" in file.read_text() and (wants_all or file.stem in FIRST)]


@pytest.mark.parametrize("file", chapters(), ids=lambda file: file.stem)
def test_a_chapter_runs_and_its_panels_move(file, new_lab, artifacts):
    with new_lab() as lab:
        lab.open(file)
        lab.run_all()
        for number, panel in enumerate(lab.panels()):
            times = moved_by_keyboard(panel, presses=4)
            panel.screenshot(artifacts / f"{file.stem}_{number}.png")
            print(f"{file.stem}, panel {number}: median {times['median_ms']:.0f} ms from key to picture")
