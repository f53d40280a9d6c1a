"""Does on this machine what Binder does, without Docker: `make binder`.

A new environment of the runtime's Python (or of the one at hand, if that is missing) gets the pins of
binder/requirements.txt and the Jupyter of Binder's base environment; postBuild runs in a copy of the
repository; then a chapter passes strict comparison through `binder/start`, on one core and with 2 GB at most.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# the Jupyter that Binder's base environment brings, and what compares the notebook
BASE = ["ipykernel==7.0.1", "ipywidgets==8.1.7", "jupyterlab==4.4.9", "nbval", "pytest"]
MEMORY = 2 * 1024**3


def main(words):
    chapter = words[0] if words else "00_start_here"
    with tempfile.TemporaryDirectory() as folder:
        copy, venv = Path(folder) / "repository", Path(folder) / "venv"
        copy_tracked(copy)
        python = runtime(copy)
        step("make the environment", [python, "-m", "venv", str(venv)], copy)
        environment = clean(venv)
        pip = [str(venv / "bin" / "python"), "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        step("install the pins", [*pip, "-r", "binder/requirements.txt", *BASE], copy, environment)
        step("run postBuild", ["./binder/postBuild"], copy, environment)
        compare = [
            "pytest",
            f"notebooks/{chapter}.ipynb",
            "--nbval",
            "--nbval-current-env",
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        compare += [
            "--nbval-sanitize-with=tests/nbval.cfg",
            "--nbval-cell-timeout=300",
            "-c",
            os.devnull,
            "--rootdir=.",
        ]
        cores = ["taskset", "-c", "0"] if shutil.which("taskset") else []
        step(f"run {chapter} on one core", [*cores, "./binder/start", *compare], copy, environment, limit=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"Binder: passed; the largest process held {peak:.0f} MB.")
    return 0


def copy_tracked(target):
    """A copy of what a push would hold, with changes not committed yet."""
    names = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def runtime(copy):
    """The Python that runtime.txt names, if it starts here, else this one."""
    name = (copy / "binder" / "runtime.txt").read_text().strip().replace("-", "")
    try:
        if subprocess.run([name, "-c", "import venv"], capture_output=True).returncode == 0:
            return name
    except OSError:
        pass
    print(f"{name} is not here: {sys.version.split()[0]} stands in for it.", flush=True)
    return sys.executable


def clean(venv):
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "JAX", "XLA"))}
    return environment | {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(venv)}


def step(words, command, folder, environment=None, limit=False):
    print(f"{words} ...", end="", flush=True)
    start = time.perf_counter()

    def bound():
        # private memory, written or writable; address space alone says nothing about what is used
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        preexec_fn=bound if limit else None,
    )
    print(f" {time.perf_counter() - start:.0f} s", flush=True)
    if result.returncode:
        print(result.stdout[-4000:] + result.stderr[-4000:], file=sys.stderr)
        sys.exit(f"Binder: could not {words}.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
