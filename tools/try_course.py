"""Makes a course and lets nbgrader grade it: a student with the solutions, and one who handed in the stubs.

    make course

nbgrader comes into an environment of its own, because it brings extensions to JupyterLab that no reader needs.
"""

import csv
import os
import shutil
import sys
import tempfile
from pathlib import Path

from wheel import ROOT, step

CHAPTER = "02_wide_networks_are_gaussian"


def main(words):
    chapter = words[0] if words else CHAPTER
    with tempfile.TemporaryDirectory() as place:
        folder, venv = Path(place) / "course", Path(place) / "venv"
        step("make an environment", [sys.executable, "-I", "-m", "venv", str(venv)], ROOT)
        python = str(venv / "bin" / "python")
        pip = [python, "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        step(
            "install nbgrader", [*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[notebook]", "nbgrader"], ROOT
        )
        os.environ["PATH"] = f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        nbgrader = [python, "-m", "nbgrader"]
        step("write the course", [python, "-m", "ntkbook", "course", str(folder), chapter, "--term", "trial"], ROOT)
        step("make the students' copy", [*nbgrader, "generate_assignment", chapter], folder)
        for student, copy in (("solved", "source"), ("untouched", "release")):
            shutil.copytree(folder / copy / chapter, folder / "submitted" / student / chapter)
        step("grade", [*nbgrader, "autograde", chapter], folder)
        step("collect", [*nbgrader, "export"], folder)
        with open(folder / "grades.csv", newline="") as file:
            rows = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    for student, (score, best) in sorted(rows.items()):
        print(f"{student}: {score:g} of {best:g} points")
    (solved, best), (untouched, _) = rows["solved"], rows["untouched"]
    return 0 if solved == best > 0 and untouched == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
