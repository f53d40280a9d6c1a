"""Builds the wheel and tries it as a new user would: a new environment, an empty directory, only Python there.

    make wheel

Installs the wheel with its notebook extra and the pinned versions, copies the book, and runs one chapter's claims.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(words):
    chapter = words[0] if words else "00"
    with tempfile.TemporaryDirectory() as folder:
        empty, venv = Path(folder) / "empty", Path(folder) / "venv"
        empty.mkdir()
        python, command = venv / "bin" / "python", venv / "bin" / "ntkbook"
        build = [sys.executable, "-I", "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(ROOT / "dist"), str(ROOT)]
        step("build the wheel", build, ROOT)
        wheel = max((ROOT / "dist").glob("ntkbook-*.whl"), key=lambda path: path.stat().st_mtime)
        step("make an environment", [sys.executable, "-I", "-m", "venv", str(venv)], empty)
        pinned = ["-c", str(ROOT / "constraints.txt")]
        pip = [str(python), "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check", *pinned]
        step("install it", [*pip, f"{wheel}[notebook]"], empty)
        step("copy the book", [str(command), "lab", "book", "--copy-only"], empty)
        step(f"run chapter {chapter}", [str(command), "claims", "book", "--only", chapter], empty)
    print(f"Wheel: {wheel.name} works from an empty directory.")
    return 0


def step(words, command, folder):
    print(f"{words} ...", end="", flush=True)
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    print(f" {time.perf_counter() - start:.0f} s", flush=True)
    if result.returncode:
        print(result.stdout[-4000:] + result.stderr[-4000:], file=sys.stderr)
        sys.exit(f"Wheel: could not {words}.")
    if words.startswith("run"):
        print(result.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
