"""The wheel, tried from an empty directory: the library imports, the book is inside, its command works."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-I", "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (built,) = folder.glob("ntkbook-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A new environment with the wheel; its dependencies are lent by this one, less our editable install."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    packages = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    install = [sys.executable, "-I", "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # a plain path: the .pth files behind it, our editable install among them, are not followed
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python, folder, *words):
    return subprocess.run([str(word) for word in (python, *words)], cwd=folder, capture_output=True, text=True)


def test_the_wheel_holds_the_package_and_the_book(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "ntkbook/py.typed" in names and "ntkbook/claims.py" in names
    assert [name for name in names if name.endswith("LICENSE")]
    books = {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").rglob("*.ipynb")}
    books = {name for name in books if ".ipynb_checkpoints" not in name}
    assert books and {f"ntkbook/{name}" for name in books} == {name for name in names if name.endswith(".ipynb")}
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks", "notebooks"))]


def test_the_library_imports_from_an_empty_directory(python, tmp_path):
    result = run(python, tmp_path, "-c", "import ntkbook, ntkbook.panels; print(ntkbook.__file__)")
    assert result.returncode == 0, result.stderr
    assert str(python.parent.parent) in result.stdout


def test_its_command_copies_the_book_and_reads_its_claims(python, tmp_path):
    command = python.parent / "ntkbook"
    result = run(command, tmp_path, "lab", "mine", "--copy-only")
    assert result.returncode == 0, result.stderr
    copied = sorted(path.name for path in (tmp_path / "mine").glob("*.ipynb"))
    assert copied == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    result = run(command, tmp_path, "claims", "--stored")
    assert "The book:" in result.stdout, result.stderr


def test_a_cell_runs_in_the_copy(python, tmp_path):
    """What a reader types first, in the environment of the wheel."""
    code = "from ntkbook.data import digits; print(digits(10, 5).x_train.shape)"
    assert run(python, tmp_path, "-c", code).stdout.strip() == "(10, 64)"
