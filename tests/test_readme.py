"""The README says what is: its code runs, its tables are those that the commands make, its links lead somewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ntkbook as nb

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PEER = (ROOT / "docs" / "coming_from_neural_tangents.md").read_text()


def rows_of_the_peer():
    rows = [line.strip("|").split("|") for line in PEER.splitlines() if line.startswith("| ")][1:]
    return [(left.strip(), right.strip()) for left, right in rows]


@pytest.fixture
def names(key):
    """What the right column calls by a name of the reader's."""
    x, x_test = jax.random.normal(key, (6, 3)), jax.random.normal(jax.random.key(1), (4, 3))
    y = jnp.sin(x[:, :1])
    net = nb.serial(nb.Dense(64), nb.Relu(), nb.Dense(1))
    _, params = net.init(key, x.shape)
    k, k_test_train = nb.ntk(net, x), nb.ntk(net, x_test, x)
    classes = jax.nn.one_hot(jnp.arange(6) % 2, 2)
    known = dict(jnp=jnp, f=net.apply, x1=x_test, x2=x, depth=3, lr=0.1, t=2.0)
    return known | dict(
        x=x, y=y, x_test=x_test, params=params, k=k, k_test_train=k_test_train, classes=classes, net=net
    )


@pytest.mark.slow
def test_the_right_column_runs_row_by_row(names):
    rows = rows_of_the_peer()
    assert len(rows) >= 20
    for _, right in rows:
        code = re.fullmatch(r"`(.*)`", right)
        assert code, f"not code: {right}"
        exec(code[1], names)


def test_the_right_column_means_what_the_left_one_does(names):
    """The rate in the table, against Euler steps on half the mean of squares, the loss of the left column."""
    row = {left: right for left, right in rows_of_the_peer()}
    names["nb"] = nb
    exec(row["`nt.predict.gradient_descent_mse(k, y, lr)`"].strip("`"), names)
    k, y, f = np.asarray(names["k"]), np.asarray(names["y"]), np.zeros((6, 1))
    steps = 20_000
    for _ in range(steps):
        f = f - 2.0 / steps * names["lr"] * k @ (f - y) / y.size
    np.testing.assert_allclose(names["flow"].train(2.0), f, rtol=1e-3, atol=1e-6)
    mean = np.asarray(names["x"])
    peer_rate = 2 / (np.linalg.eigvalsh(k).max() / len(mean))
    np.testing.assert_allclose(nb.max_learning_rate(names["k"], reduction="mean"), peer_rate, rtol=1e-10)


def test_rows_whose_defaults_differ_have_the_peers_values(names):
    """Dense at x = 1 and the places of a window, by hand: what the peer gives for its side of the row."""
    names["nb"] = nb
    ours = {left: eval(right.strip("`"), names) for left, right in rows_of_the_peer() if "default" in left}
    dense, conv = (next(layer for left, layer in ours.items() if word in left) for word in ("standard", "VALID"))
    np.testing.assert_allclose(nb.ntk(nb.serial(dense), jnp.ones((1, 1))), [[1.0]])  # x x' alone: no bias
    np.testing.assert_allclose(nb.ntk(nb.serial(nb.Dense(1, parameterization="standard")), jnp.ones((1, 1))), [[2.0]])
    assert conv.init(jax.random.key(0), (1, 5, 4, 1))[0] == (1, 3, 2, 64)  # a 3x3 window has 3 x 2 places inside


def test_the_readme_is_short():
    assert len(README.split()) < 2000


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.S))
def test_code_blocks_run(block):
    names = {}
    exec(block, names)
    mean, covariance = names["trained"].mean, names["trained"].covariance
    right = (np.asarray(mean).argmax(1) == np.asarray(names["y_test"]).argmax(1)).mean()
    assert right > 0.8 and (np.diagonal(np.asarray(covariance)) > 0).all()


@pytest.mark.slow
def test_tables_are_those_that_the_commands_make():
    command = [sys.executable, str(ROOT / "tools" / "readme.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, "make readme\n" + result.stderr


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert local
    assert not [target for target in local if not (ROOT / target).exists()]


def test_the_moving_picture_moves_and_is_small():
    from PIL import Image

    path = ROOT / "docs" / "ntkbook.gif"
    assert path.stat().st_size < 2_000_000
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) > 5


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"(?:`|^ {4})make ([a-z]+)\b", (ROOT / name).read_text(), re.M):
            assert re.search(rf"^{target}:", makefile, re.M), f"{name}: make {target}"


SYSTEMS = {
    "scikit-learn": "sklearn",
    "GPyTorch": "gpytorch",
    "tinygp": "tinygp",
    "PyTorch": "torch",
    "PINNs": "empirical_ntk",
    "Equinox": "equinox",
    "Flax (linen and NNX)": "flax",
}


def code_of(path):
    """What runs when a chapter or a page is run: code cells, or blocks of Python."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(), re.S))


def test_each_system_runs_where_the_table_says():
    """In the code of the linked chapter ("chapter 16" is one too) and of each linked page that has code."""
    part = README[README.index("## Where other systems run") :].split("\n## ")[0]
    rows = {
        cells[0].strip(): cells[1:] for cells in (row.strip("|").split("|") for row in part.splitlines()[4:] if row)
    }
    assert set(rows) == set(SYSTEMS)
    chapters = {path.name[:2]: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    for name, (book, elsewhere) in rows.items():
        pages = [ROOT / page for page in re.findall(r"\]\((docs/\w+\.md)", elsewhere)]
        places = [chapters[number] for number in re.findall(r"chapter (\d\d)", book)]
        assert places + pages, name
        word = re.compile(rf"\b{SYSTEMS[name]}\b")
        stored = "stored numbers" in book  # then the text of the chapter has the program
        for path in pages + ([] if stored else places):
            if path.name != "coming_from_torch.md":  # a table of calls, run row by row
                assert word.search(code_of(path)), f"{name}: nothing in {path.name}"
        assert not stored or all(word.search(path.read_text()) for path in places)
