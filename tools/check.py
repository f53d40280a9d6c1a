"""Runs the named checks one after the other, all of them even if one fails, and ends with a summary.

    python tools/check.py lint types tests notebooks browser

Standard library only; every step is a command that can also be typed by hand, and is printed before it runs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# left in a shell, these would test something else than this folder
DISTURBING = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTEST_ADDOPTS",
    "MPLBACKEND",
    "JAX_ENABLE_X64",
    "NTKBOOK_X64",
    "JAX_DEBUG_NANS",
    "JAX_DISABLE_JIT",
    "XLA_FLAGS",
)
PARALLEL = ["-n", "2", "--dist", "loadscope"]
# the chapters that take longest come first, so that no worker is left alone with one
LONGEST = "08 12 16 15".split()
# the pages that the browser opens, with few positions of each slider; a panel is baked again when its code has changed
SITE = ["tools/build_site.py", "--frames", "6"]
BUILT = ROOT / "build" / "site"
BROWSER = ["-p", "no:cacheprovider", *PARALLEL, "--no-loadscope-reorder"]
COMPILED = ROOT / "build" / "compiled"  # for daily work: what earlier runs compiled is there, for a month
SMALL_TOO = ("quick", "notebooks", "browser")  # what these compile is read again, down to small programs
# the tests whose tolerances are those of the precision: `single` runs them in float32
SINGLE = ["tests/test_single_precision.py", "tests/test_pytrees.py"]
NBVAL = [
    "--nbval",
    "--nbval-current-env",
    "--nbval-sanitize-with=tests/nbval.cfg",
    "--nbval-cell-timeout=120",
    "-p",
    "no:cacheprovider",
    "-p",
    "tests.panels_at_rest",
    "-p",
    "tests.last_digit",
    "-q",
]


def notebooks():
    """All notebooks, solutions included, as paths from the root, those that take longest first."""
    rank = lambda path: (path.parent.name == "solutions", path.name[:2] not in LONGEST, path)
    found = sorted((ROOT / "notebooks").rglob("*.ipynb"), key=rank)
    return [str(path.relative_to(ROOT)) for path in found if ".ipynb_checkpoints" not in path.parts]


def compiling_quickly():
    """Settings under which XLA compiles in less time: in one piece, with loops written the older way, which run
    somewhat longer. A jaxlib that does not know a flag stops; it knows these from 0.10.
    """
    is_known = [int(part) for part in version("jaxlib").split(".")[:2]] >= [0, 10]
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    return {"XLA_FLAGS": flags} if is_known else {}


def command(step):
    """The command of a step, as a list of words."""
    pytest = [sys.executable, "-m", "pytest"]
    return {
        "lint": [
            [sys.executable, "-m", "ruff", "check", "."],
            [sys.executable, "-m", "ruff", "format", "--check", "."],
        ],
        "types": [[sys.executable, "-m", "pyright"]],
        "quick": [[*pytest, "tests", "-m", "not slow and not browser", "-q", *PARALLEL]],
        "tests": [[*pytest, "tests", "-m", "not browser", "-q", *PARALLEL]],
        "single": [[*pytest, *SINGLE, "-q"]],
        "notebooks": [[*pytest, *notebooks(), *NBVAL, *PARALLEL, "--no-loadscope-reorder"]],
        "portable": [[*one_core(), *pytest, *notebooks(), *NBVAL]],
        "browser": [
            [sys.executable, *SITE, "--to", str(BUILT)],  # on all cores, before anything waits for it
            [*pytest, "tests/browser", "-m", "browser", "-q", "-rP", *BROWSER],
        ],
    }[step]


def one_core():
    return ["taskset", "-c", "0"] if shutil.which("taskset") else []


def run(step, environment):
    """Runs the step; returns True or False."""
    if step in ("notebooks", "portable") and not notebooks():
        print("There are no notebooks in notebooks/.", flush=True)
        return False
    if step == "portable":
        environment = {**environment, "XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}
    if step == "single":
        environment = {**environment, "NTKBOOK_X64": "0"}
    if step == "browser":
        environment = {**environment, "NTKBOOK_SITE": str(BUILT / "html")}
        for old in ("html", "doctrees"):  # a page that is no more is not found, a warning of Sphinx is seen again
            shutil.rmtree(BUILT / old, ignore_errors=True)
    good = True
    for words in command(step):
        shown = ["python" if word == sys.executable else word for word in words]
        print(f"\n== {step}: {' '.join(shown)}", flush=True)
        good = subprocess.run(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL).returncode == 0 and good
    return good


def main(steps):
    environment = {name: value for name, value in os.environ.items() if name not in DISTURBING}
    environment.setdefault("JAX_PLATFORMS", "cpu")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    results = []
    with tempfile.TemporaryDirectory() as home:
        # a reader's own Jupyter settings and start-up files stay out of the checks
        environment |= {"JUPYTER_CONFIG_DIR": home, "IPYTHONDIR": home, "JUPYTER_NO_CONFIG": "1"}
        environment |= {"HYPOTHESIS_STORAGE_DIRECTORY": home}  # it names files by their paths on this machine
        # What one process has compiled, the next one reads: the panels that the tests build are those of chapters and
        # pages. A single test compiles its programs once, and would only pay for keeping the small ones.
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(COMPILED)} | compiling_quickly()
        for program in COMPILED.glob("*"):
            if time.time() - program.stat().st_mtime > 30 * 86400:
                program.unlink(missing_ok=True)
        for step in steps:
            start = time.perf_counter()
            cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05" if step in SMALL_TOO else "0.3"}
            good = run(step, environment | cache)
            results.append((step, good, time.perf_counter() - start))
    print("\nSummary")
    for step, good, seconds in results:
        print(f"  {step:<10} {'passed' if good else 'FAILED'}  {seconds:6.1f} s")
    failed = sum(not good for _, good, _ in results)
    print(f"checks: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["tests"]))
