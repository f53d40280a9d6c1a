"""What the tangent kernel of one model says before it is trained: how fast, how evenly, towards which labels.

`report` measures the kernel of any f(params, x) at one set of parameters: its modes, its condition with the scatter
over subsets of the inputs and over seeds, how well it fits the labels, what each layer contributes, and how far it has
turned at later parameters. `figures.draw_report` draws it.
"""

import html
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from . import checks
from .dynamics.extremes import max_learning_rate
from .dynamics.spectrum import condition_number, effective_rank, kernel_distance, label_alignment, spectrum
from .finite.empirical import empirical_ntk
from .finite.functions import Examples, prepare
from .finite.linearize import moves
from .pytrees import pytree, static


@pytree
class Report:
    """The tangent kernel of one model in numbers; see `report`."""

    k: Any  # (n, n)
    spectrum: Any  # with the target in its modes, where there is one
    condition: Any  # lambda_max / lambda_min
    condition_of_subsets: Any  # (n_subsets,), of random halves of the inputs
    condition_of_seeds: Any  # (n_networks,), of other initializations; None without `init`
    effective_rank: Any
    max_learning_rate: Any  # of the loss 1/2 sum |f - y|^2
    alignment: Any  # with y y^T; None without y
    turn: Any  # kernel_distance to the kernel at later parameters; None without them
    change: Any  # |K_later - K| / |K|; None without them
    shares: Any  # (layers,), of the trace
    layers: tuple[str, ...] = static()

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) of each number, in words."""
        n = len(self.k)
        rows = [
            ("eigenvalues", f"{_short(self.spectrum.eigenvalues[0])} to {_short(self.spectrum.eigenvalues[-1])}"),
            ("condition number", _short(self.condition)),
            ("condition number of random halves", _scatter(self.condition_of_subsets)),
        ]
        if self.condition_of_seeds is not None:
            rows.append(("condition number of other seeds", _scatter(self.condition_of_seeds)))
        rows += [
            ("effective rank", f"{_short(self.effective_rank)} of {n}"),
            ("largest stable learning rate, summed loss", _short(self.max_learning_rate)),
        ]
        if self.alignment is not None:
            rows.append(("alignment with the labels", _short(self.alignment)))
        if self.turn is not None:
            rows += [("later: turned by", _short(self.turn)), ("later: changed by", f"{float(self.change):.1%}")]
        return rows + [(f"share of {name}", f"{float(share):.1%}") for name, share in zip(self.layers, self.shares)]

    def __repr__(self) -> str:
        words = [f"condition {_short(self.condition)} (halves {_scatter(self.condition_of_subsets)})"]
        words.append(f"effective rank {_short(self.effective_rank)}")
        if self.alignment is not None:
            words.append(f"alignment {_short(self.alignment)}")
        if self.turn is not None:
            words.append(f"turned by {_short(self.turn)}")
        return f"Report({len(self.k)} inputs: {', '.join(words)})"

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:left">'
        lines = (
            f"<tr>{cell}{html.escape(what)}</td>{cell}{html.escape(value)}</td></tr>" for what, value in self.rows()
        )
        return (
            f"<table><caption>Tangent kernel on {len(self.k)} inputs</caption><tbody>{''.join(lines)}</tbody></table>"
        )


def _short(value):
    return f"{float(value):.3g}"


def _scatter(values):
    return f"{_short(np.min(values))} to {_short(np.max(values))}"


def report(
    f: Callable,
    params: Any,
    x: Examples,
    y: Examples | None = None,
    *,
    later: Any = None,
    init: Callable | None = None,
    key: Array | None = None,
    n_networks: int = 8,
    n_subsets: int = 8,
) -> Report:
    """The empirical NTK of f(params, x) in numbers, averaged over the outputs; a line, a table, or a picture.

    `y`, (n,) or (n, o), is what the kernel is aligned with. `later` are other parameters, trained ones say, whose
    kernel is compared. `init(key)` draws parameters, for the scatter over `n_networks` seeds. The `n_subsets` random
    halves of the inputs say how far the condition number hangs on single inputs; they are drawn by `key`, or a fixed
    one. The share of a layer is that of its parameters in the trace. f may be one of `from_torch`.

    >>> import jax
    >>> net = nb.serial(nb.Dense(64), nb.Relu(), nb.Dense(1))
    >>> x = jax.random.normal(jax.random.key(0), (6, 3))
    >>> init = lambda key: net.init(key, x.shape)[1]
    >>> found = report(net.apply, init(jax.random.key(1)), x, x[:, 0], init=init, n_networks=3)
    >>> found.layers, found.condition_of_seeds.shape, found
    (('layer 0', 'layer 2'), (3,), Report(6 inputs: condition ...))

    Raises:
        TypeError, ValueError: as `empirical_ntk` and `spectrum`; ValueError for fewer than four inputs, whose halves
            have no condition.
    """
    for count, name in ((n_networks, "n_networks"), (n_subsets, "n_subsets")):
        checks.positive_int(count, name)
    if init is not None and not callable(init):
        raise TypeError(f"Expected init to be a function of a random key, got {checks.describe(init)}.")
    if key is not None:
        checks.one_key(key)
    x = checks.as_array(x, "x", ndim=tuple(range(1, 9)))
    if len(x) < 4:
        raise ValueError(f"Expected at least four inputs, got {len(x)}: the scatter is that over halves of them.")
    of = lambda params: jnp.asarray(empirical_ntk(f, params, x))
    k, half = of(params), len(x) // 2
    key_subsets, key_networks = jax.random.split(jax.random.key(0) if key is None else key)
    subsets = [jax.random.permutation(one, len(x))[:half] for one in jax.random.split(key_subsets, n_subsets)]
    seeds = None
    if init is not None:
        kernels = (of(init(one)) for one in jax.random.split(key_networks, n_networks))
        seeds = jnp.stack([condition_number(one) for one in kernels])
    layers, shares = _shares(f, params, x)
    found = Report(
        k=k,
        spectrum=spectrum(k, y),
        condition=condition_number(k),
        condition_of_subsets=jnp.stack([condition_number(k[jnp.ix_(index, index)]) for index in subsets]),
        condition_of_seeds=seeds,
        effective_rank=effective_rank(k),
        max_learning_rate=max_learning_rate(k),
        alignment=None if y is None else label_alignment(k, y),
        turn=None,
        change=None,
        shares=shares,
        layers=layers,
    )
    if later is None:
        return found
    moved = of(later)
    return replace(found, turn=kernel_distance(k, moved), change=jnp.linalg.norm(moved - k) / jnp.linalg.norm(k))


def _shares(f, params, x):
    """(names, shares) of the layers: parameters that stand together in the tree, or under one prefix of a module."""
    names = [_layer_of(path) for path, leaf in jax.tree_util.tree_leaves_with_path(params) if moves(leaf)]
    layers = tuple(dict.fromkeys(names))
    if hasattr(f, "own_part"):  # a model that JAX cannot differentiate
        sizes = [_trace_of_part(f, params, {n for n in params if _layer_of((n,)) == layer}, x) for layer in layers]
    else:
        row, theta, _ = prepare(f, params, x)
        squares = _squares(row, theta, x)
        sizes = [sum(float(square) for name, square in zip(names, squares) if name == layer) for layer in layers]
    return layers, np.array(sizes) / (sum(sizes) or 1.0)


def _layer_of(path):
    if len(path) > 1:
        name = jax.tree_util.keystr(path[:-1], simple=True, separator="/")
    else:
        name = path[0] if isinstance(path[0], str) else jax.tree_util.keystr(path, simple=True)
        name = name.rpartition(".")[0] or name
    return f"layer {name}" if name.replace("/", "").replace(".", "").isdigit() else name


@jax.jit
def _squares(row, theta, x):
    """The sum of squared derivatives of all outputs in each array of the parameters: its part of the trace."""
    of_one = lambda one: [jnp.square(slope).sum() for slope in jax.tree.leaves(jax.jacrev(row)(theta, one))]
    return [squares.sum() for squares in jax.lax.map(of_one, x)]


def _trace_of_part(f, params, names, x):
    part = {name: params[name] for name in names}
    return float(np.trace(empirical_ntk(f.own_part(params, names), part, x)))
