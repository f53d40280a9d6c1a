"""Functions as JAX traced them: values that compiled code takes as arguments, arrays and all.

A function may read what changes between two calls: a dictionary, its owner's attributes, running averages. So it is
traced at each call. The arrays that it closes over become leaves, nobody keeps them alive, and what is left, the list
of operations, is compared by content: the same operations compile once, whoever wrote them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..pytrees import pytree, static


class Code:
    """The operations of a traced program, equal to any other of the same content; `eps` of its coarsest numbers."""

    def __init__(self, jaxpr: Any, out: Any):
        self.jaxpr, self.out, self.dtypes = jaxpr, out, set()
        self.content = (out, self._content(jaxpr))
        self.hash = hash(self.content)
        self.eps = max((float(jnp.finfo(d).eps) for d in self.dtypes if jnp.issubdtype(d, jnp.inexact)), default=0.0)

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, Code) and self.hash == other.hash and self.content == other.content

    def __hash__(self) -> int:
        return self.hash

    def _content(self, jaxpr: Any, with_rules: bool = True) -> tuple:
        names = {}

        def name(v):
            if hasattr(v, "val"):
                return np.asarray(v.val).tobytes(), v.aval
            self.dtypes.add(getattr(v.aval, "dtype", None))
            return names.setdefault(v, len(names)), v.aval

        row = lambda variables: tuple(map(name, variables))
        inputs = row([*jaxpr.constvars, *jaxpr.invars])
        equations = [
            (e.primitive, row(e.invars), row(e.outvars), *(self._parameter(e, k, with_rules) for k in e.params))
            for e in jaxpr.eqns
        ]
        return inputs, tuple(equations), row(jaxpr.outvars)

    def _parameter(self, equation: Any, key: str, with_rules: bool) -> Any:
        value = equation.params[key]
        if key in ("jvp_jaxpr_fun", "fwd_jaxpr_thunk"):  # a rule for derivatives is a new object in every trace
            if not with_rules:
                return key  # most rules call their own function again
            n_inputs = len(equation.invars) - equation.params.get("num_consts", 0)
            return self._content(value.call_wrapped(*[False] * n_inputs)[0], with_rules=False)
        if hasattr(value, "call_wrapped") or key == "out_trees":
            return getattr(value, "f", key)
        parts = value if isinstance(value, (tuple, list)) else (value,)
        return tuple(self._hashable(part, with_rules) for part in parts)

    def _hashable(self, value: Any, with_rules: bool) -> Any:
        if hasattr(value, "eqns"):
            inner = getattr(value, "jaxpr", value)
            return self._content(inner, with_rules), tuple(map(id, getattr(value, "consts", ())))
        return value.tobytes() if isinstance(value, np.ndarray) else value


@pytree
class Program:
    """A traced function: called with arrays, it repeats what was traced."""

    first: tuple  # arguments that are fixed, before those of the call
    consts: tuple
    code: Any = static()

    def __call__(self, *args: Any) -> Any:
        out = evaluate(self.code.jaxpr, self.consts, [*self.first, *jax.tree.leaves(args)])
        return jax.tree.unflatten(self.code.out, out)


def trace(f: Callable, *args: Any, first: Any = ()) -> Program:
    """f(*first, *args) as a program of `args`, which may be arrays or only their shapes."""
    fresh = lambda *args: f(*args)  # JAX keeps what it traced of a function that it has seen
    closed, out = jax.make_jaxpr(fresh, return_shape=True)(*first, *args)
    if any(map(_keeps_arrays, closed.eqns)):
        closed = jax.make_jaxpr(lambda *leaves: evaluate(closed.jaxpr, closed.consts, leaves))(*closed.in_avals)
    code = Code(closed.jaxpr, jax.tree.structure(out))
    return Program(tuple(jax.tree.leaves(first)), tuple(closed.consts), code)


def _keeps_arrays(equation: Any) -> bool:
    """Is this a call of a jitted function, which keeps the arrays that it closes over to itself?"""
    inner = equation.params.get("jaxpr")
    return equation.primitive.name in ("jit", "pjit") and bool(inner.consts or any(map(_keeps_arrays, inner.eqns)))


def evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], rule: Callable | None = None) -> list[Any]:
    """The results of a traced program, equation by equation, by rule(equation, values) or as they were traced."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda v: v.val if hasattr(v, "val") else env[v]
    for equation in jaxpr.eqns:
        env.update(zip(equation.outvars, (rule or _inlined)(equation, [read(v) for v in equation.invars])))
    return [read(v) for v in jaxpr.outvars]


def _inlined(equation: Any, values: Sequence[Any]) -> Sequence[Any]:
    """The results of one equation; a call that keeps arrays is replaced by what it calls."""
    if not _keeps_arrays(equation):
        return bind(equation, values)
    return evaluate(equation.params["jaxpr"].jaxpr, equation.params["jaxpr"].consts, values)


def bind(equation: Any, values: Sequence[Any]) -> Sequence[Any]:
    """The results of one equation of a traced program."""
    params = equation.primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # a pair before JAX 0.10
    out = equation.primitive.bind(*functions, *values, **params)
    return out if equation.primitive.multiple_results else [out]
