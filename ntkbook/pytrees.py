"""Values that JAX can take apart: frozen dataclasses whose numbers are leaves, and whose structure is static.

Each number is declared once, with its range and whether it may be tuned: `W_std: Any = number(default=1.0)`. The
constructor checks it, and `tunable` lists those of a whole network.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp

from . import checks

_INF = float("inf")


def static(
    *, default: Any = dataclasses.MISSING, kw_only: bool = False, least: int | None = None, most: int = 2**31 - 1
) -> Any:
    """A field that decides shapes or structure: part of a pytree's type, not one of its leaves.

    With `least` it is a whole number from `least` to `most`, a width say.
    """
    return field(default=default, kw_only=kw_only, metadata={"static": True, "least": least, "most": most})


def number(
    *,
    default: Any = dataclasses.MISSING,  # type checkers know a default by this word alone
    low: float = -_INF,
    high: float = _INF,
    is_whole: bool = False,
    is_optional: bool = False,
    is_many: bool = False,
    is_tunable: bool = True,
) -> Any:
    """A field that is a leaf: a finite real number (or an array of them, to be mapped over) from `low` to `high`.

    `is_optional` lets None pass; `is_many` is a tuple of such numbers. What learns hyperparameters leaves alone what is
    not `is_tunable`.
    """
    limits = {"low": low, "high": high, "is_whole": is_whole}
    kind = {"is_optional": is_optional, "is_many": is_many, "is_tunable": is_tunable}
    return field(default=default, metadata={"limits": limits, **kind})


def one_line(node: Any) -> str:
    """A dataclass in one line: numbers as they are, arrays by precision and shape."""

    def show(value):
        if isinstance(value, dict):
            return f"{{{', '.join(f'{name!r}: {show(one)}' for name, one in value.items())}}}"
        return f"{value.dtype}{list(value.shape)}" if getattr(value, "ndim", 0) else repr(value)

    is_absent = lambda f: getattr(node, f.name) is None and not f.metadata.get("is_tunable", True)
    shown = [f for f in dataclasses.fields(node) if f.repr and not is_absent(f)]
    parts = [f"{f.name}={show(getattr(node, f.name))}" for f in shown]
    return f"{type(node).__name__}({', '.join(parts)})"


@dataclass_transform(frozen_default=True, field_specifiers=(static, number, field))
def pytree(cls: type) -> type:
    """A frozen dataclass that is a pytree: its fields are leaves, save those declared `static()`.

    `jax.tree_util.register_dataclass` is not used: trees of two of its classes with equal fields compare equal (seen in
    jax 0.10.2), so that one compiled function could serve `Tanh` with what was compiled for `Elu`. Here the class is
    part of the structure. Rebuilding a tree runs no checks: JAX puts tracers and placeholders into it.
    """
    prepare = getattr(cls, "__post_init__", None)

    def __post_init__(self):
        if prepare is not None:
            prepare(self)
        for f in dataclasses.fields(self):
            _check_field(self, f)

    cls.__post_init__ = __post_init__
    if cls.__repr__ is object.__repr__:
        cls.__repr__ = one_line  # pyright: ignore
    cls = dataclass(frozen=True, repr=False)(cls)
    leaves = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("static")]
    statics = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]
    keys = [_FieldKey(f) for f in dataclasses.fields(cls) if not f.metadata.get("static")]

    def flatten(node):
        return [getattr(node, name) for name in leaves], (cls, *(getattr(node, name) for name in statics))

    def flatten_with_keys(node):
        children, structure = flatten(node)
        return list(zip(keys, children)), structure

    def unflatten(structure, children):
        node = object.__new__(cls)
        for name, value in zip([*leaves, *statics], [*children, *structure[1:]]):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _check_field(node: Any, f: dataclasses.Field) -> None:
    value = getattr(node, f.name)
    name = f"{type(node).__name__}'s {f.name}"
    if f.metadata.get("least") is not None:
        checks.whole_number(value, name, f.metadata["least"], f.metadata["most"])
    elif "limits" in f.metadata and not (value is None and f.metadata["is_optional"]):
        values: Any = value if f.metadata["is_many"] else [value]
        for one in values:
            checks.number(one, name, **f.metadata["limits"])


@dataclass(frozen=True)
class _FieldKey:
    """Where a leaf stands: with the field's own words on it."""

    field: dataclasses.Field

    @property
    def name(self) -> str:
        return self.field.name

    def __str__(self):
        return f".{self.name}"


class Tunable(NamedTuple):
    """A number of a network that may be tuned: where it stands, its value, and its range."""

    path: str
    value: Any
    low: float
    high: float


def tunable(tree: Any) -> list[Tunable]:
    """The real numbers in `tree`, a network say, that may be tuned, in the order of its leaves.

    >>> from ntkbook import Dense, LayerNorm, Relu, Repeat, serial
    >>> net = serial(Dense(8, 1.5), Repeat(serial(LayerNorm(), Relu(), Dense(8)), 3))
    >>> [(number.path, number.value) for number in tunable(net)][:2]
    [('layers[0].W_std', 1.5), ('layers[0].b_std', 0.0)]
    """
    found = [_tunable(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    return [number for number in found if number is not None]


def with_tunable(tree: Any, values: Any) -> Any:
    """`tree` with other `values` in place of those that `tunable` lists, in that order; they may be tracers."""
    values = iter(values)
    replace = lambda path, leaf: leaf if _tunable(path, leaf) is None else next(values)
    return jax.tree_util.tree_map_with_path(replace, tree)


def _tunable(path: Any, leaf: Any) -> Tunable | None:
    """None if the field that holds the leaf says no, or if it is no single real number."""
    metadata = next((key.field.metadata for key in path[::-1] if isinstance(key, _FieldKey)), {})
    limits = metadata.get("limits", {})
    is_real = jnp.ndim(leaf) == 0 and (limits or jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
    if not metadata.get("is_tunable", True) or not is_real:
        return None
    return Tunable(jax.tree_util.keystr(path).lstrip("."), leaf, limits.get("low", -_INF), limits.get("high", _INF))
