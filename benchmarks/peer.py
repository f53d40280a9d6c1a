"""The peer, neural-tangents, in an environment of its own: it needs a JAX that is years older than ours.

`python benchmarks/peer.py SCRIPT [ARGUMENTS]` makes the environment in `.peer/` if it is not there yet, and runs the
script in it. The benchmarks and `tests/reference/make_neural_tangents.py` use it; the library and its tests never do.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".peer"
PYTHON = FOLDER / "venv" / "bin" / "python"
PINS = ["jax==0.4.23", "jaxlib==0.4.23", "numpy==1.26.4", "scipy==1.12.0", "frozendict"]
PEER = "neural-tangents==0.6.5"
# Its bridge to TensorFlow is imported with the package, is used by nothing here, and pulls in half a gigabyte.
WITHOUT_TENSORFLOW = (
    "import sys, types; "
    "sys.modules.setdefault('neural_tangents.experimental', types.ModuleType('neural_tangents.experimental'))\n"
)


def make() -> Path:
    """The Python of the peer's environment, made on first use; a half-made one is made anew."""
    done = FOLDER / "pins.json"
    pins = [*PINS, PEER]
    if done.exists() and json.loads(done.read_text()) == pins:
        return PYTHON
    shutil.rmtree(FOLDER, ignore_errors=True)
    print(f"Making an environment for {PEER} in {FOLDER.name}/, once ...", file=sys.stderr, flush=True)
    subprocess.run([_python_that_fits(), "-m", "venv", FOLDER / "venv"], check=True)
    (FOLDER / ".gitignore").write_text("*\n")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PINS], check=True)
    subprocess.run([*pip, "--no-deps", PEER], check=True)
    (next((FOLDER / "venv" / "lib").glob("python3.*")) / "site-packages" / "without_tensorflow.pth").write_text(
        WITHOUT_TENSORFLOW
    )
    subprocess.run([PYTHON, "-c", "import neural_tangents"], check=True)
    done.write_text(json.dumps(pins))
    return PYTHON


def command(script: str | Path, *arguments: str) -> list[str]:
    """What to run for `script` in the peer's environment."""
    return [str(make()), str(script), *map(str, arguments)]


def environment(*, float64: bool = False) -> dict[str, str]:
    """Environment variables for either side: precision as asked, on the CPU, no program from an earlier run."""
    without = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return {**without, "JAX_ENABLE_X64": "1" if float64 else "0", "JAX_PLATFORMS": "cpu"}


def _python_that_fits() -> str:
    """The peer's jaxlib has wheels for Python 3.11 and 3.12 (and older)."""
    if sys.version_info[:2] in [(3, 11), (3, 12)]:
        return sys.executable
    for name in ("python3.11", "python3.12"):
        if found := shutil.which(name):
            return found
    raise RuntimeError(
        f"Expected Python 3.11 or 3.12 for {PEER}, got {sys.version.split()[0]} and no other on the path. Install one."
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.exit(subprocess.run(command(*sys.argv[1:]), env=environment(float64=True)).returncode)
