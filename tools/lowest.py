"""Runs the quick tests with the lowest versions that pyproject.toml allows: `make lowest`.

A lower bound that nobody ever installed is a guess; this installs it, in an environment of its own.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(words):
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        limits = Path(folder) / "lowest.txt"
        limits.write_text("\n".join(lowest()) + "\n")
        print(*lowest(), sep="\n", flush=True)
        subprocess.run([sys.executable, "-I", "-m", "venv", str(python.parent.parent)], check=True)
        pip = [str(python), "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", str(limits), "-e", f"{ROOT}[notebook,test]"], check=True)
        # old packages warn about each other; their warnings are not ours to mend
        quick = ["-m", "not slow and not browser", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
        pytest = [str(python), "-m", "pytest", "-q", *quick, "-n", "2", "--dist", "loadscope"]
        return subprocess.run([*pytest, *(words or ["tests"])], cwd=ROOT).returncode


def lowest():
    """`name==version` for each lower bound of the library and the book; tools for tests may be the newest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = project["dependencies"] + project["optional-dependencies"]["notebook"]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)", need) for need in needs]
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
