"""The house: data flows one way, the table of contents is light, public names are explained."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ntkbook"

# A file imports only from files above it; packages stand in this order too. A new file takes its place here; panels and
# exercises are one floor each.
ORDER = """
version numerics checks pytrees openml memory data torch_models
networks
networks/tiles networks/positions networks/signals networks/in_turn networks/offsets networks/kernel
networks/activations networks/smooth_activations networks/averages networks/mehler networks/quadrature
networks/layers networks/paths networks/convolution networks/attention networks/moments networks/propagation
finite
finite/linearize finite/programs finite/functions finite/taps finite/layerwise finite/empirical finite/contractions
finite/history finite/descent finite/train
dynamics
dynamics/filters dynamics/modes dynamics/spectrum dynamics/protocol dynamics/extremes dynamics/large
dynamics/gradient dynamics/steps dynamics/losses
dynamics/gaussian dynamics/ensemble dynamics/posterior dynamics/evidence dynamics/fluctuations dynamics/learning_curves
kernel_report
scale
scale/blocks scale/disk_arrays scale/store scale/gram scale/regression
interop/bridge interop/estimators interop/sklearn interop/gpytorch interop/tinygp interop
neural_tangents/kernels neural_tangents/wiring neural_tangents/stax
neural_tangents/batching neural_tangents/empirical neural_tangents/predict
neural_tangents
claims
plots figures
panel/controls panel/accessible panel/stamps panel/spec panel/picture panel/bake panel/dragging
panel/widgets panel/panel panel/guides
panel panels
exercises export course commands cli lab_server __main__
""".split()
FLOORS = {"panels", "exercises"}
LONGEST = 400

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """ntkbook/panel/widgets.py -> panel/widgets, ntkbook/panel/__init__.py -> panel, panels/x.py -> panels."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
    floor = name.split("/")[0]
    return floor if floor in FLOORS else name


def imports_of(path):
    """The modules of this package that a file imports, as names of ORDER; what only the type checker reads too."""
    folder = path.parent
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = folder
                for _ in range(node.level - 1):
                    base = base.parent
            elif (node.module or "").split(".")[0] == "ntkbook":
                base = ROOT
            else:
                continue
            base = base.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                yield from filter(None, [module_at(base / alias.name) or module_at(base)])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ntkbook":
                    yield from filter(None, [module_at(ROOT.joinpath(*alias.name.split(".")))])


def module_at(path):
    if path == PACKAGE:
        return "__init__"
    if path.with_suffix(".py").exists():
        return name_of(path.with_suffix(".py"))
    return name_of(path / "__init__.py") if (path / "__init__.py").exists() else None


def wrong_imports(path):
    """A sentence for each import of a file that goes against ORDER."""
    name = name_of(path)
    if path == PACKAGE / "__init__.py":
        return
    if name not in ORDER:
        yield f"{name} has no place in ORDER: after which files does it come?"
        return
    for imported in imports_of(path):
        if imported == "__init__":
            yield f"{name} imports the table of contents: import the module itself"
        elif not (imported == name and name in FLOORS) and imported not in ORDER[: ORDER.index(name)]:
            yield f"{name} imports {imported}, which comes after it"


def test_imports_go_one_way():
    assert [sentence for path in MODULES for sentence in wrong_imports(path)] == []


def test_the_reader_of_imports_sees_them(tmp_path, monkeypatch):
    """The check above is only as good as its eyes: show it each form of an import."""
    package = tmp_path / "ntkbook"
    (package / "panel").mkdir(parents=True)
    for name in ("__init__", "kernel", "layers", "cli", "panel/__init__", "panel/widgets"):
        (package / f"{name}.py").touch()
    source = package / "panel" / "widgets.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nfrom .. import kernel\nfrom ..layers import Dense\nimport ntkbook.kernel\n"
        "from ntkbook import layers\nimport ntkbook\nfrom . import widgets\n"
        "if TYPE_CHECKING:\n    from ..cli import main\ndef f():\n    from ..kernel import ntk\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    seen = sorted(imports_of(source))
    assert seen == sorted(["kernel", "layers", "kernel", "layers", "__init__", "panel/widgets", "cli", "kernel"])


def private_names_from_elsewhere(tree):
    """Names with one underscore that a file takes from another: imported, or asked of what is not its own."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    stored = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    fields = {n.target.id for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    private = lambda name: name.startswith("_") and not name.startswith("__")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own | stored | fields:
            yield node.attr


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name in ("panel", "panels")], ids=str)
def test_no_private_name_crosses_a_file(path):
    assert not list(private_names_from_elsewhere(ast.parse(path.read_text())))


def test_private_names_are_seen():
    code = "from .x import _a, b\nclass C:\n    def _own(self):\n        self._own(), panel._moved, panel.moved"
    assert list(private_names_from_elsewhere(ast.parse(code))) == ["_a", "_moved"]


def test_importing_the_package_loads_neither_plots_nor_widgets():
    heavy = (
        "matplotlib ipywidgets IPython sklearn optax diffrax optimistix lineax equinox pooch tqdm PIL scipy.stats "
        "jupyterlab torch"
    )
    code = f"import sys, ntkbook; print(*[name for name in {heavy.split()!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_importing_the_package_leaves_the_precision_alone():
    code = "import jax, ntkbook; print(jax.config.jax_enable_x64)"
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]


def test_the_table_of_contents_holds_only_names():
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        one_name = isinstance(node, ast.ImportFrom) and node.level == 1 and node.names[0].name != "*"
        version = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
        assert docstring or one_name or version, ast.unparse(node)


def test_files_and_public_names_are_explained():
    silent = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        public = (ast.FunctionDef, ast.ClassDef)
        named = [node for node in tree.body if isinstance(node, public) and not node.name.startswith("_")]
        silent += [f"{path}: {getattr(node, 'name', '')}" for node in (tree, *named) if not ast.get_docstring(node)]
    assert silent == []


def test_a_file_holds_one_idea():
    long = [f"{path}: {lines} lines" for path in MODULES if (lines := lines_of(path)) > LONGEST]
    assert long == [], "which second idea could move out?"


def lines_of(path):
    return len(path.read_text().splitlines())


def tracked_texts():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 5_000_000:
            try:
                yield name, path.read_text()
            except UnicodeDecodeError:
                continue


def test_no_file_names_a_machine_or_a_registry():
    machine = re.compile(r"(?<![\w.>])/(?:work|root|home|tmp|farm|Users|opt)/" + r"[A-Za-z0-9_.]")
    registry = re.compile("|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "npmjs" + r"\.(org|com)"]))
    found = []
    for name, text in tracked_texts():
        for pattern in (machine, registry):
            found += [f"{name}: {match.group()}" for match in pattern.finditer(text)]
    assert not found


def test_files_of_tests_have_names_of_their_own():
    """Two of one name, in two folders, stop the run: pytest imports them by it."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
