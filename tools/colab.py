"""Runs panels and chapters with the versions that Colab has: `make colab`, or `make colab ONLY="00 03"`.

Colab's machine has packages of its own, older than those that the book asks for. The library alone is added there,
without the extra for notebooks. This makes such an environment, adds the library as the first cell of a downloaded
chapter does, and checks that nothing of Colab's was replaced. Every panel builds its widgets and moves, and chapters
run from top to bottom. What it cannot try is Colab's own front end.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# googlecolab/backend-info, August 2026; its Python is 3.13
VERSIONS = {
    "jax": "0.7.2",
    "jaxlib": "0.7.2",
    "numpy": "2.1.3",
    "matplotlib": "3.10.0",
    "scikit-learn": "1.6.1",
    "optax": "0.2.8",
    "ipywidgets": "7.7.1",
    "ipython": "7.34.0",
    "ipykernel": "6.17.1",
    "traitlets": "5.7.1",
}
CHAPTERS = ("00", "03", "05", "08")

PANELS = """
import ipywidgets
from ntkbook.panels import PANELS
for name, make in PANELS.items():
    panel = make()
    panel.widget
    control = next(iter(panel.controls))
    before = panel.state()
    panel.set(**{control: panel.spec.controls[control].value_at(0)})
    assert not panel.failed, name
print(f"{len(PANELS)} panels build their widgets and move, ipywidgets {ipywidgets.__version__}")
"""


def main(words):
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-I", "-m", "venv", str(python.parent.parent)], check=True)
        install(python, *[f"{name}=={version}" for name, version in VERSIONS.items()])
        install(python, *[f"{name}=={VERSIONS[name]}" for name in ("jax", "jaxlib")], "-e", str(ROOT))  # as that cell
        if moved := changed(python):
            print("Installing the library has replaced what Colab brings:", *moved, sep="\n  ")
            return 1
        install(python, "nbclient", "nbformat")  # what runs a chapter here; Colab needs none of it
        return try_out(python, words or CHAPTERS)


def install(python, *needs):
    pip = [str(python), "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *needs], check=True)


def changed(python):
    """The packages that do not have Colab's version, as lines."""
    ask = [str(python), "-I", "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    found = {p["name"]: p["version"] for p in json.loads(subprocess.run(ask, check=True, capture_output=True).stdout)}
    different = {name: found.get(name) for name, version in VERSIONS.items() if found.get(name) != version}
    return [f"{name} {version}, not {VERSIONS[name]}" for name, version in different.items()]


def try_out(python, chapters):
    """Panels, then chapters; returns an exit status."""
    failed = subprocess.run([str(python), "-c", PANELS], cwd=ROOT).returncode != 0
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not path.name.startswith(tuple(chapters)):
            continue
        start = time.perf_counter()
        code = f"from pathlib import Path; from ntkbook.cli import execute; execute(Path({str(path)!r}))"
        result = subprocess.run([str(python), "-c", code], cwd=ROOT, capture_output=True, text=True)
        failed |= result.returncode != 0
        said = "runs" if result.returncode == 0 else f"FAILED: {result.stderr.strip().splitlines()[-1]}"
        print(f"{path.stem}: {said}, {time.perf_counter() - start:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
