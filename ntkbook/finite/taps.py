"""Finds the linear layers inside any function, whoever wrote it, and taps them.

A matrix or filter that is used once, in a product or a convolution with a signal, makes a linear layer. `survey`
walks through the program that JAX traced and lists those layers; `run` walks again, adds a probe to the output of each
(to differentiate by) and keeps its input. The layerwise tangent kernel needs nothing else of a network.
"""

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .programs import bind, evaluate

LONGEST_LOOP = 256  # longer loops are not unrolled


class Layer(NamedTuple):
    """A linear layer z[b, s, q] = sum over p of a[b, s, p] W[b, p, q]: its parameter array and its sizes."""

    leaf: int
    part: tuple[int, ...]  # which slice of the array, if a loop goes through it
    shape: tuple[int, ...]  # of its output as the program has it
    sizes: tuple[int, int, int, int]  # b, s, p, q
    dtype: Any  # of its output


class Survey(NamedTuple):
    """The linear layers in the order of the program, and the parameter arrays of the last of them."""

    layers: list[Layer]
    last: set[int]


class _Weight(NamedTuple):
    """A value that is `scale` times one parameter array, with its entries in another order."""

    value: Array
    leaf: int
    dtype: Any  # of the parameter array
    part: tuple[int, ...] = ()
    scale: Any = 1.0
    is_intact: bool = True  # False once it is broadcast


class _Tape:
    """The layers that a walk meets, their inputs, and how to read a gradient; probes are added one by one."""

    def __init__(self, probes: Sequence[Array] = ()):
        self.probes, self.layers, self.taps = iter(probes), [], []
        self.seen = []  # (leaf, was it in a layer), for each use of a parameter array

    def layer(self, weight, z, a, d, sizes):
        self.layers.append(Layer(weight.leaf, weight.part, z.shape, sizes, z.dtype))
        self.taps.append((weight, a, d))
        self.seen.append((weight.leaf, True))
        return z + next(self.probes, 0)

    def plain(self, values: Sequence[Any]) -> list[Any]:
        """The values without their marks: these weights are used outside of layers."""
        self.seen += [(value.leaf, False) for value in values if isinstance(value, _Weight)]
        return _bare(values)


def _bare(values):
    return [value.value if isinstance(value, _Weight) else value for value in values]


def survey(program: Any, n_leaves: int) -> Survey:
    """The linear layers of a traced program, whose first `n_leaves` arguments are the parameter arrays."""
    tape = _Tape()

    def walk(*args):
        marked = [_Weight(a, i, a.dtype) if i < n_leaves else a for i, a in enumerate(args)]
        out = tape.plain(_walk(program.jaxpr, program.consts, marked, tape))
        tape.taps.clear()  # tracers end with their trace
        return out

    jax.eval_shape(walk, *program.in_avals)
    good = set(range(n_leaves)) - {leaf for leaf, is_layer in tape.seen if not is_layer}
    parts = {leaf: [layer.part for layer in tape.layers if layer.leaf == leaf] for leaf in good}
    # once whole, or in slices that do not meet
    once = {leaf for leaf, used in parts.items() if len(set(used)) == len(used) and len({*map(len, used)}) == 1}
    ends = [i for i, (_, is_layer) in enumerate(tape.seen) if is_layer]
    first_seen = {leaf: i for i, (leaf, _) in reversed(list(enumerate(tape.seen)))}
    last = {leaf for leaf, i in first_seen.items() if ends and i >= ends[-1]}
    return Survey([layer for layer in tape.layers if layer.leaf in once], last)


def run(program: Any, leaves: Sequence[Array], rest: Sequence[Any], layers: list[Layer], probes: list[Array]):
    """(outputs, inputs a[b, s, p] of the layers, functions that bring a gradient to d[b, s, q])."""
    tapped = {layer.leaf for layer in layers}
    tape = _Tape(probes)
    marked = [_Weight(leaf, i, leaf.dtype) if i in tapped else leaf for i, leaf in enumerate(leaves)]
    (out,) = _walk(program.jaxpr, program.consts, [*marked, *rest], tape)
    inputs = [weight.scale * a().astype(weight.dtype) for weight, a, _ in tape.taps]
    return out, inputs, [d for _, _, d in tape.taps]


def _walk(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], tape: _Tape) -> list[Any]:
    """Evaluates a program; marked values go through `_RULES`."""

    def step(equation, values):
        is_marked = any(isinstance(value, _Weight) for value in values)
        rule = _RULES.get(equation.primitive.name) if is_marked else None
        out = None if rule is None else rule(equation, values, tape)
        return bind(equation, tape.plain(values)) if out is None else out

    return evaluate(jaxpr, consts, args, step)


# What may happen to a weight: each rule gives the results of an equation, or None if it does not apply.


def _rearrange(equation, values, tape):
    weight, *others = values
    (value,) = bind(equation, _bare(values))
    if not others and jnp.issubdtype(value.dtype, jnp.floating):
        is_intact = weight.is_intact and value.size == weight.value.size
        return [weight._replace(value=value, is_intact=is_intact)]


def _scale(by: Callable) -> Callable:
    def rule(equation, values, tape):
        is_first = isinstance(values[0], _Weight) or equation.primitive.name == "div"
        weight, *others = values if is_first else values[::-1]
        if isinstance(weight, _Weight) and not any(isinstance(o, _Weight) or jnp.ndim(o) for o in others):
            (value,) = bind(equation, _bare(values))
            numbers = [jnp.asarray(o).astype(weight.dtype) for o in others]
            return [weight._replace(value=value, scale=by(weight.scale, *numbers))]

    return rule


def _dot(equation, values, tape):
    lhs, rhs = values
    if isinstance(lhs, _Weight) == isinstance(rhs, _Weight):
        return None
    is_right = isinstance(rhs, _Weight)
    weight, signal = (rhs, lhs) if is_right else (lhs, rhs)
    if not weight.is_intact or jnp.result_type(signal) != weight.value.dtype:
        return None
    contracted, batch = equation.params["dimension_numbers"]
    contracted, batch = (contracted[not is_right], batch[not is_right])
    free = [axis for axis in range(signal.ndim) if axis not in (*contracted, *batch)]
    sizes = [prod(signal.shape[axis] for axis in axes) for axes in (batch, free, contracted)]
    (z,) = bind(equation, [lhs, rhs.value] if is_right else [lhs.value, rhs])
    B, S, p = sizes
    q = z.size // max(B * S, 1)
    a = lambda: signal.transpose(*batch, *free, *contracted).reshape(B, S, p)
    d = (lambda dz: dz.reshape(B, S, q)) if is_right else (lambda dz: dz.reshape(B, q, S).swapaxes(1, 2))
    return [tape.layer(weight, z, a, d, (B, S, p, q))]


def _conv(equation, values, tape):
    signal, weight = values
    params = equation.params
    if isinstance(signal, _Weight) or not weight.is_intact or signal.dtype != weight.value.dtype:
        return None
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    (z,) = bind(equation, [signal, weight.value])
    numbers = params["dimension_numbers"]
    filter_shape = tuple(weight.value.shape[axis] for axis in numbers.rhs_spec[2:])
    channels_last = lambda z: jnp.moveaxis(z, numbers.out_spec[1], -1)
    q = z.shape[numbers.out_spec[1]]
    p = prod(filter_shape) * signal.shape[numbers.lhs_spec[1]]
    S = z.size // q

    def patches():
        found = jax.lax.conv_general_dilated_patches(
            signal,
            filter_shape,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            dimension_numbers=numbers,
            precision=jax.lax.Precision.HIGHEST,
        )
        return channels_last(found).reshape(1, S, p)

    return [tape.layer(weight, z, patches, lambda dz: channels_last(dz).reshape(1, S, q), (1, S, p, q))]


def _inline(equation, values, tape):
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
    return _walk(jaxpr, consts, values, tape)


def _loop(equation, values, tape):
    """A scan, unrolled if it goes through slices of a parameter array: each slice is a layer of its own."""
    params = equation.params
    n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry, sequences = values[:n_consts], values[n_consts : n_consts + n_carry], values[n_consts + n_carry :]
    if length > LONGEST_LOOP or not any(isinstance(s, _Weight) for s in sequences):
        return None
    if any(isinstance(value, _Weight) for value in carry):
        return None
    outputs = []
    steps = range(length)[::-1] if params["reverse"] else range(length)
    for i in steps:
        slices = [_slice(s, i) for s in sequences]
        out = tape.plain(_walk(params["jaxpr"].jaxpr, params["jaxpr"].consts, [*consts, *carry, *slices], tape))
        carry = out[:n_carry]
        outputs.append(out[n_carry:])
    outputs = outputs[::-1] if params["reverse"] else outputs
    return [*carry, *(jnp.stack(column) for column in zip(*outputs))]


def _slice(sequence: Any, i: int) -> Any:
    if isinstance(sequence, _Weight):
        return sequence._replace(value=sequence.value[i], part=(*sequence.part, i))
    return sequence[i]


_RULES: dict[str, Callable] = {
    **dict.fromkeys(["transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim"], _rearrange),
    **dict.fromkeys(["rev", "copy", "convert_element_type"], _rearrange),
    "mul": _scale(operator.mul),
    "div": _scale(operator.truediv),
    "neg": _scale(operator.neg),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    **dict.fromkeys(["jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"], _inline),
    "scan": _loop,
}
