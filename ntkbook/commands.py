"""`ntkbook gram` and `ntkbook solve`: kernels and regressions past memory, from a file of settings.

    network = "serial(Dense(512, 1.4, 0.1), Repeat(serial(Relu(), Dense(512, 1.4, 0.1)), 3), Relu(), Dense(1))"
    x = "train.npz:x"            # .npy, .npz with the name of an array, or a Zarr folder
    store = "kernel"
    y = "train.npz:y"            # what `solve` needs: targets, or labels as whole numbers
    noise = 1e-3

All settings are options too: `ntkbook gram config.toml --store other`.
"""

import argparse
import ast
import time
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .networks import activations, attention, convolution, layers, paths, quadrature, smooth_activations
from .networks.kernel import Layer, layers_by_offset, program, tile_side
from .scale.blocks import Recomputed, blocks_at
from .scale.gram import gram
from .scale.regression import accuracy, kernel_regression, one_hot
from .scale.store import open_store, stored_side

# name -> (how it is read, what it means)
SETTINGS: dict[str, tuple[Any, str]] = {
    "network": (str, "the network, as in Python"),
    "x": (str, "inputs (n, ...): .npy, data.npz:name, or a Zarr folder"),
    "x_test": (str, "inputs of test points"),
    "y": (str, "targets (n,) or (n, outputs), or labels as whole numbers"),
    "y_test": (str, "those of the test points"),
    "store": (str, "the folder of the kernel; solve computes it again and again without one"),
    "get": (str, "ntk or nngp"),
    "precision": (str, "float32 or float64"),
    "devices": (int, "how many of this machine's devices, 0 for all"),
    "tile": (int, "the side of a stored tile"),
    "memory": (float, "bytes that tiles in work may take"),
    "noise": (float, "what is added to the diagonal"),
    "t": (float, "time of training, inf for its end"),
    "rank": (int, "of the preconditioner"),
    "tolerance": (float, "of the residual"),
    "out": (str, "a .npz for coefficients and test outputs"),
}
DEFAULTS = {"get": "ntk", "precision": "float32", "devices": 1, "noise": 0.0, "t": float("inf"), "tolerance": 1e-6}
_ROOMS = (activations, attention, convolution, layers, paths, quadrature, smooth_activations)


def add_parsers(commands: Any, decorate: Any) -> None:
    """The two commands, with an option for each setting."""
    for name, run, text in (
        ("gram", run_gram, "compute a kernel into a store on disk, or go on with one"),
        ("solve", run_solve, "kernel regression from a store, or without one"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("config", nargs="?", help="a TOML file with settings of these names")
        parser.add_argument("--dry-run", action="store_true", help="measure one tile, and say what all of it takes")
        for setting, (kind, meaning) in SETTINGS.items():
            parser.add_argument(f"--{setting.replace('_', '-')}", type=kind, help=meaning)
        parser.set_defaults(run=decorate(run))


def run_gram(options: argparse.Namespace) -> int:
    """Fills a store, or says what that would take."""
    wanted = _settings(options, "network", "x")
    net, x = _network(wanted["network"]), _inputs(wanted, "x")
    if options.dry_run:
        print(_estimate(net, x, wanted))
        return 0
    made = gram(
        net,
        x,
        None if "x_test" not in wanted else _inputs(wanted, "x_test"),
        get=wanted["get"],
        tile=wanted.get("tile"),
        memory=wanted.get("memory"),
        store=_need(wanted, "store"),
        mesh=_mesh(wanted),
        progress=True,
    )
    print(f"{wanted['store']}: {made.dtype}{list(made.shape)}, {made.nbytes / 1e9:.3g} GB.")
    return 0


def run_solve(options: argparse.Namespace) -> int:
    """Solves for the coefficients of a regression, and tells the residual, and how it does on test points."""
    wanted = _settings(options, "y")
    k = open_store(wanted["store"], wanted["get"]) if "store" in wanted else None
    net = _network(wanted["network"]) if "network" in wanted else None
    if k is None:
        k = Recomputed(_network(_need(wanted, "network")), _inputs(wanted, "x"), get=wanted["get"], mesh=_mesh(wanted))
    y, labels = _targets(wanted, "y")
    if options.dry_run:
        begun = time.perf_counter()
        block = k.block(0, 0)
        _ = block.astype(float) @ y.reshape(len(y), -1)[: block.shape[1]]
        seconds = (time.perf_counter() - begun) * len(k.corners())
        flops = 2 * len(k) ** 2 * y.reshape(len(y), -1).shape[1]
        print(f"One product: {flops:.2g} flops, {seconds:.3g} s by one worker; a solve takes some tens of them.")
        return 0
    made = kernel_regression(
        k, y, noise=wanted["noise"], t=wanted["t"], rank=wanted.get("rank"), tolerance=wanted["tolerance"]
    )
    print(f"Residual {made.residual:.2g} after {made.iterations} products.")
    results = {"coefficients": made.coefficients}
    if "x_test" in wanted:
        net = net or _network(_need(wanted, "network"))
        across = Recomputed(net, _inputs(wanted, "x_test"), _inputs(wanted, "x"), get=wanted["get"])
        results["outputs"] = made.predict(across)
        if "y_test" in wanted:
            y_test, test_labels = _targets(wanted, "y_test", None if labels is None else y.shape[1])
            if labels is not None:
                print(f"Accuracy {accuracy(results['outputs'], test_labels):.4f} on {len(y_test)} test points.")
            else:
                print(f"Mean squared error {np.square(results['outputs'] - y_test).mean():.4g} on test points.")
    if "out" in wanted:
        np.savez(wanted["out"], **results)
    return 0


def _settings(options, *needed):
    found = {}
    if options.config:
        try:
            found = tomllib.loads(Path(options.config).read_text())
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"Expected settings in TOML in {options.config}: {error}.") from error
    if unknown := sorted(set(found) - set(SETTINGS)):
        raise ValueError(f"Expected settings of {', '.join(SETTINGS)}, got {unknown[0]!r} in {options.config}.")
    for name, value in found.items():
        kind = SETTINGS[name][0]
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"Expected {name} to be {kind.__name__}, got {value!r} in {options.config}.")
    given = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    wanted = {**DEFAULTS, **found, **given}
    for name in needed:
        _need(wanted, name)
    if wanted["precision"] not in ("float32", "float64"):
        raise ValueError(f"Expected precision float32 or float64, got {wanted['precision']!r}.")
    if wanted["precision"] == "float64":
        jax.config.update("jax_enable_x64", True)
    return wanted


def _need(wanted, name):
    if name not in wanted:
        raise ValueError(f"Expected {name}, {SETTINGS[name][1]}: in the TOML file, or as --{name.replace('_', '-')}.")
    return wanted[name]


def _network(text: str) -> Layer:
    """A network from its text: calls of layers with numbers, words and layers, and nothing else."""
    names = {name: thing for room in _ROOMS for name, thing in vars(room).items() if not name.startswith("_")}
    is_layer = lambda thing: thing is layers.serial or (isinstance(thing, type) and issubclass(thing, Layer))

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and is_layer(names.get(node.func.id)):
            return names[node.func.id](
                *map(value, node.args), **{k.arg: value(k.value) for k in node.keywords if k.arg}
            )
        try:
            return ast.literal_eval(node)  # pyright: ignore
        except (ValueError, TypeError) as error:
            raise ValueError(f"Expected layers of ntkbook in network, got {ast.unparse(node)}.") from error

    try:
        net = value(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(
            f"Expected network as in Python, serial(Dense(512), Relu(), Dense(1)), got {text!r}."
        ) from error
    if not isinstance(net, Layer):
        raise ValueError(f"Expected a network, got {text!r}.")
    return net


def _array(text: str) -> np.ndarray:
    """An array of a file: .npy, .npz:name, or a Zarr folder, version 3 or 2."""
    file, _, name = text.partition(".npz:")
    if name:
        with np.load(f"{file}.npz") as arrays:
            if name not in arrays:
                raise ValueError(f"Expected an array {name} in {file}.npz, which has {', '.join(arrays)}.")
            return arrays[name]
    if not Path(text).is_dir():
        return np.load(text, mmap_mode="r")
    try:
        import tensorstore
    except ImportError as error:
        raise ValueError('Expected tensorstore for a Zarr folder. Run: pip install "ntkbook[store]".') from error
    driver = "zarr3" if (Path(text) / "zarr.json").exists() else "zarr"
    return tensorstore.open({"driver": driver, "kvstore": {"driver": "file", "path": text}}).result().read().result()


def _inputs(wanted, name):
    return jax.numpy.asarray(np.asarray(_array(_need(wanted, name)), wanted["precision"]))


def _targets(wanted, name, n_classes=None):
    """(targets, labels or None): whole numbers are classes."""
    y = _array(_need(wanted, name))
    if np.issubdtype(y.dtype, np.integer) and y.ndim == 1:
        return one_hot(y, n_classes), np.asarray(y)
    return np.asarray(y, float), None


def _mesh(wanted):
    count = wanted["devices"] or len(jax.local_devices())
    if count > len(jax.local_devices()):
        raise ValueError(f"Expected at most {len(jax.local_devices())} devices, got {count}.")
    return None if count == 1 else jax.sharding.Mesh(np.array(jax.local_devices()[:count]), ("rows",))


def _estimate(net, x, wanted):
    """Flops, bytes and hours of a whole kernel, from one tile that is compiled, and then timed."""
    host, words = np.asarray(x), (wanted["get"],)
    side = min(wanted.get("tile") or stored_side(net, host, 1, wanted.get("memory")), len(x))
    inner = min(side, tile_side(net, host))
    rows, columns = host[:inner], host[-inner:]
    cost: Any = program.lower(net, rows, columns, words=words).compile().cost_analysis() or {}
    flops = float(cost.get("flops", 0)) / (len(rows) * len(columns)) * len(x) * (len(x) + 1) / 2
    flops *= host.shape[1] if layers_by_offset(net, host) else 1  # what a loop does is counted once
    timed = []
    two = np.concatenate([host[:side], host[-side:]])
    for _ in range(2):  # the first one compiles
        begun = time.perf_counter()
        blocks_at(net, two, None, words, 0, side, side)
        timed.append(time.perf_counter() - begun)
    n_blocks = -(-len(x) // side) * (-(-len(x) // side) + 1) // 2
    size, hours = len(x) ** 2 * host.itemsize, timed[-1] * n_blocks / 3600
    return (
        f"{n_blocks} tiles of {side}: {flops:.2g} flops (a loop over equal layers counted once), "
        f"{size / 1e9:.3g} GB in the store, {hours:.3g} hours by one worker ({timed[-1]:.3g} s for one tile, measured)."
    )
