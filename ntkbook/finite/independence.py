"""Reads off a traced program that it treats each example on its own, which then need not be measured.

The axis of the examples is followed from the input, operation by operation, to the output. Whatever mixes examples, or
is not known here, ends the proof, and `functions.coupling` measures instead: a proof that fails costs a moment, and a
rule may only say yes where each example of its result comes from the same example of its inputs alone.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

Axis = int | None  # of the examples in an array; None for what does not depend on them

ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le lgamma log log1p logistic lt
max min mul ne neg nextafter not or pow real reduce_precision rem round rsqrt select_n sign sin sinh sqrt square
stop_gradient sub tan tanh xor
""".split()
REDUCTIONS = "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin".split()


class _Unproven(Exception):
    """The examples meet, or an operation is not known."""


def stays_apart(program: Any) -> bool:
    """Does every example of the traced program's result come from that example of its only argument alone?"""
    try:
        return _walk(program.jaxpr, [0]) == [0]
    except (_Unproven, KeyError, AttributeError):  # a release of JAX that renames what is read here: measure
        return False


def _walk(jaxpr: Any, axes: Sequence[Axis]) -> list[Axis]:
    env = dict.fromkeys(jaxpr.constvars) | dict(zip(jaxpr.invars, axes, strict=True))
    axis_of = lambda v: None if hasattr(v, "val") else env[v]
    for equation in jaxpr.eqns:
        inputs = [axis_of(v) for v in equation.invars]
        if all(axis is None for axis in inputs):
            env.update(dict.fromkeys(equation.outvars))
            continue
        rule = _RULES.get(equation.primitive.name)
        if rule is None:
            raise _Unproven
        outputs = [None if axis is None else int(axis) for axis in rule(equation, inputs)]
        env.update(zip(equation.outvars, outputs, strict=True))
    return [axis_of(v) for v in jaxpr.outvars]


def _require(condition: Any) -> None:
    if not condition:
        raise _Unproven


def _shape(v: Any) -> tuple[int, ...]:
    return v.aval.shape


def _common(axes: Sequence[Axis]) -> int:
    """The one axis of all inputs that depend on the examples."""
    first, *others = {axis for axis in axes if axis is not None}
    _require(not others)
    return first


# Each rule gives the axes of an equation's results from those of its inputs.


def _elementwise(equation, axes):
    return [_common(axes)]


def _broadcast(equation, axes):
    axis = equation.params["broadcast_dimensions"][axes[0]]
    _require(_shape(equation.outvars[0])[axis] == _shape(equation.invars[0])[axes[0]])
    return [axis]


def _reshape(equation, axes):
    _require(equation.params.get("dimensions") is None)
    old, new, axis = _shape(equation.invars[0]), _shape(equation.outvars[0]), axes[0]
    kept = [i for i in range(len(new)) if prod(new[:i]) == prod(old[:axis]) and new[i] == old[axis]]
    _require(len(kept) == 1)
    return kept


def _transpose(equation, axes):
    return [equation.params["permutation"].index(axes[0])]


def _without(name: str) -> Callable:
    """For operations that remove the axes that the parameter `name` lists."""

    def rule(equation, axes):
        gone = equation.params[name]
        _require(axes[0] not in gone)
        return [axes[0] - sum(axis < axes[0] for axis in gone)]

    return rule


def _along(name: str) -> Callable:
    """For operations along the axis, or the axes, of the parameter `name`, which keep the others as they are."""

    def rule(equation, axes):
        axis, along = _common(axes), equation.params[name]
        _require(axis not in (along if isinstance(along, (tuple, list)) else (along,)))
        return [axis] * len(equation.outvars)

    return rule


def _slice(equation, axes):
    (axis,), params = axes, equation.params
    strides = params["strides"] or [1] * (axis + 1)
    full = params["start_indices"][axis] == 0 and params["limit_indices"][axis] == _shape(equation.invars[0])[axis]
    _require(full and strides[axis] == 1)
    return [axis]


def _pad(equation, axes):
    axis, value = axes
    _require(value is None and tuple(equation.params["padding_config"][axis]) == (0, 0, 0))
    return [axis]


def _window(equation, axes):
    (axis,), params = axes, equation.params
    sizes = [params[name][axis] for name in ("window_dimensions", "window_strides", "base_dilation", "window_dilation")]
    _require(sizes == [1, 1, 1, 1] and tuple(params["padding"][axis]) == (0, 0))
    return [axis]


def _dot(equation, axes):
    contracted, batch = equation.params["dimension_numbers"]
    free = [
        [i for i in range(len(_shape(v))) if i not in (*contracted[side], *batch[side])]
        for side, v in enumerate(equation.invars)
    ]
    order = [[("batch", i) for i in range(len(batch[0]))], [(0, i) for i in free[0]], [(1, i) for i in free[1]]]
    places = [place for part in order for place in part]
    found = set()
    for side, axis in enumerate(axes):
        if axis is not None:
            _require(axis not in contracted[side])
            place = ("batch", tuple(batch[side]).index(axis)) if axis in batch[side] else (side, axis)
            found.add(places.index(place))
    return [_common(list(found))]


def _conv(equation, axes):
    signal, weight = axes
    numbers = equation.params["dimension_numbers"]
    _require(weight is None and signal == numbers.lhs_spec[0] and equation.params["batch_group_count"] == 1)
    return [numbers.out_spec[0]]


def _inline(equation, axes):
    params = equation.params
    inner: Any = next((params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params), None)
    inner = getattr(inner, "jaxpr", inner)  # None ends the proof in the next line
    _require(len(inner.invars) == len(axes))
    return _walk(inner, axes)


def _scan(equation, axes):
    params, body = equation.params, equation.params["jaxpr"].jaxpr
    n_consts, n_carry = params["num_consts"], params["num_carry"]
    consts, carry, sequences = axes[:n_consts], axes[n_consts : n_consts + n_carry], axes[n_consts + n_carry :]
    _require(0 not in sequences)
    slices = [None if axis is None else axis - 1 for axis in sequences]
    for _ in range(n_carry + 1):  # what the loop carries may come to depend on the examples, one after the other
        out = _walk(body, [*consts, *carry, *slices])
        if out[:n_carry] == carry:
            return [*carry, *(None if axis is None else axis + 1 for axis in out[n_carry:])]
        _require(all(old in (None, new) for old, new in zip(carry, out)))
        carry = out[:n_carry]
    raise _Unproven


_RULES: dict[str, Callable] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "optimization_barrier": lambda equation, axes: axes,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _without("dimensions"),
    **dict.fromkeys(
        ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"], _without("axes")
    ),
    **dict.fromkeys(["argmax", "argmin"], _without("axes")),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split"], _along("axis")),
    "concatenate": _along("dimension"),
    "rev": _along("dimensions"),
    "slice": _slice,
    "pad": _pad,
    **dict.fromkeys(["reduce_window_sum", "reduce_window_max", "reduce_window_min"], _window),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    **dict.fromkeys(["jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"], _inline),
    **dict.fromkeys(["custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"], _inline),
    "scan": _scan,
}
