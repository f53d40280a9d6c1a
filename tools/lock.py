"""Writes constraints.txt and binder/requirements.txt: the newest versions that work together, third-party only.

python tools/lock.py              install the newest into a new environment, and freeze it
python tools/lock.py --binder     only derive binder/requirements.txt from constraints.txt again
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
BINDER = ROOT / "binder" / "requirements.txt"
# Binder's base environment brings its own Jupyter; to pin it again is slow and can clash
BROUGHT_BY_BINDER = {"jupyterlab", "ipywidgets"}


def main(words):
    if "--binder" not in words:
        CONSTRAINTS.write_text(header() + freeze())
    BINDER.parent.mkdir(exist_ok=True)
    BINDER.write_text(binder())
    return 0


def header():
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return f"# Written by `make lock` with Python {version}: versions that are known to work together.\n"


def freeze():
    """The versions that pip chooses today for everything that pyproject.toml names, one per line."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "-q"]
        subprocess.run([*pip, "install", f"{ROOT}[notebook,site,test,models]"], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    return pins(frozen)


def pins(frozen):
    """The lines `name==version` of a freeze, without the book itself and without places."""
    # a local build such as 2.13.0+cpu satisfies ==2.13.0, and elsewhere does not exist
    lines = [line.strip().split("+")[0] for line in frozen.splitlines()]
    kept = [line for line in lines if re.fullmatch(r"[A-Za-z0-9._-]+==[^\s@/]+", line)]
    return "".join(f"{line}\n" for line in sorted(kept, key=str.lower) if not line.lower().startswith("ntkbook=="))


def wanted():
    """The distributions that a reader of the book needs, by pyproject.toml: names in one spelling."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = project["dependencies"] + project["optional-dependencies"]["notebook"]
    return {same(re.split(r"[\s\[(<>=!~;]", need)[0]) for need in needs}


def closure(names, without=frozenset()):
    """These distributions and all that they need in turn, as installed here; `without` and its needs left out."""
    found, waiting = set(), [same(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name in without:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            need, _, marker = line.partition(";")
            # extras, and what other systems need, are not installed here
            if "extra" not in marker and installed(need := same(re.split(r"[\s\[(<>=!~;]", need)[0])):
                waiting.append(need)
    return found


def installed(name):
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def same(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def binder():
    """The pins of those and of what they need, less Jupyter, which Binder brings."""
    lines = CONSTRAINTS.read_text().splitlines()
    pinned = {same(line.split("==")[0]): line for line in lines if "==" in line}
    chosen = [pinned[name] for name in sorted(closure(wanted(), BROUGHT_BY_BINDER))]  # pyright: ignore
    return "# Written by `make lock`. Third-party only, so that the layer stays cached.\n" + "\n".join(chosen) + "\n"


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    sys.exit(main(sys.argv[1:]))
