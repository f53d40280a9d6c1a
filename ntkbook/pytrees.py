"""Values that JAX can take apart: frozen dataclasses whose numbers are leaves, and whose structure is static."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, dataclass_transform

import jax


def static(*, default: Any = dataclasses.MISSING, kw_only: bool = False) -> Any:
    """A field that decides shapes or structure: part of a pytree's type, not one of its leaves."""
    return field(default=default, kw_only=kw_only, metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(static, field))
def pytree(cls: type) -> type:
    """A frozen dataclass that is a pytree: its fields are leaves, save those declared `static()`.

    `jax.tree_util.register_dataclass` is not used: trees of two of its classes with equal fields compare equal (seen in
    jax 0.10.2), so that one compiled function could serve `Tanh` with what was compiled for `Elu`. Here the class is
    part of the structure. Rebuilding a tree runs no checks: JAX puts tracers and placeholders into it.
    """
    cls = dataclass(frozen=True, repr="__repr__" not in cls.__dict__)(cls)
    leaves = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("static")]
    statics = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

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
