"""The kernel of an infinitely wide network as one of GPyTorch's: for exact Gaussian processes trained in PyTorch.

The numbers that the layers declare tunable are raw parameters with constraints; values and derivatives are made by JAX
and cross over as arrays. The page "Kernels in GPyTorch" uses it.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

try:
    import torch
    from gpytorch.constraints import GreaterThan, Interval, LessThan, Positive
    from gpytorch.kernels import Kernel
except ImportError as error:
    raise ImportError(
        f"Expected GPyTorch to be installed for ntkbook.interop.gpytorch, got none ({error}). "
        "Install it: pip install gpytorch"
    ) from error

from .. import checks
from ..networks.kernel import Layer
from ..scale.gram import gram
from . import bridge


class NTKKernel(Kernel):
    """The NNGP or NTK of `net` as a `gpytorch.kernels.Kernel`.

    Args:
        net: a network whose kernel is one number for a pair of examples; None is two hidden ReLU layers.
        get: "nngp", the prior of random networks, or "ntk".
        fixed: names of numbers that are not to be trained, as in `raw_names`, or "all".
        input_shape: (height, width, channels), say, if inputs are images that were flattened.
        batch_shape, active_dims: as for every kernel of GPyTorch.

    Each tunable number of the network is a parameter of shape (*batch_shape, 1, 1): `layers[0].W_std` is trained as
    `raw_layers_0_W_std` and read and set as `layers_0_W_std`. A scale (`W_std`, `b_std`) is positive, so one that is
    zero is fixed; other numbers keep to the range that their layer declares. First
    derivatives only; those in the inputs do not pass through `Repeat`, whose depth is a loop.

    Raises:
        TypeError: for what is no network, or inputs that are neither float32 nor float64.
        ValueError: for unknown words or names, or a network whose kernel keeps positions.
    """

    is_stationary = False  # pyright: ignore

    def __init__(
        self,
        net: Layer | None = None,
        get: str = "nngp",
        *,
        fixed: Sequence[str] | str = (),
        input_shape: Any = None,
        batch_shape: Any = None,
        active_dims: Any = None,
    ):
        super().__init__(batch_shape=batch_shape, active_dims=active_dims)
        checks.one_of(get, "get", ("nngp", "ntk"))
        self.net, self.get = bridge.network_of(net), get
        self.input_shape = None if input_shape is None else tuple(input_shape)
        numbers = {re.sub(r"\W+", "_", number.path): number for number in bridge.numbers_of(self.net)}
        for name in numbers if fixed == "all" else fixed:
            checks.one_of(name, "a name in fixed", tuple(numbers))
        free = {
            name: number
            for name, number in numbers.items()
            if fixed != "all" and name not in fixed and not (number.is_scale and number.value == 0)
        }
        self._free = {name: number.index for name, number in free.items()}
        for name, number in free.items():
            raw = torch.nn.Parameter(torch.zeros(*self.batch_shape, 1, 1))
            self.register_parameter(f"raw_{name}", raw)
            constraint = _constraint(number)
            if constraint is not None:
                self.register_constraint(f"raw_{name}", constraint)
            setattr(self, name, number.value)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """The names of the numbers that are trained, without `raw_`."""
        return tuple(self._free)

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_free", ()):
            raw, constraint = getattr(self, f"raw_{name}"), self._constraints.get(f"raw_{name}_constraint")
            return raw if constraint is None else constraint.transform(raw)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__.get("_free", ()):
            super().__setattr__(name, value)
            return
        raw, constraint = getattr(self, f"raw_{name}"), self._constraints.get(f"raw_{name}_constraint")
        value = torch.as_tensor(value, dtype=raw.dtype, device=raw.device).expand(raw.shape)
        self.initialize(**{f"raw_{name}": value if constraint is None else constraint.inverse_transform(value)})

    def network(self) -> Layer:
        """The network with the numbers as they are now, for the rest of this library.

        Raises:
            ValueError: with a batch shape, which is many networks.
        """
        if len(self.batch_shape):
            raise ValueError(
                f"Expected one network, got a batch of shape {tuple(self.batch_shape)}. Index it: kernel[0]."
            )
        values = [getattr(self, name).item() for name in self._free]
        return bridge.with_numbers(self.net, list(self._free.values()), values)

    def forward(self, x1: Any, x2: Any, diag: bool = False, last_dim_is_batch: bool = False, **params: Any) -> Any:
        """(..., n, m), or (..., n) if `diag`."""
        same = x1 is x2 or (not x1.requires_grad and not x2.requires_grad and torch.equal(x1, x2))
        if last_dim_is_batch:
            x1, x2 = (x.transpose(-1, -2).unsqueeze(-1) for x in (x1, x2))
        dtype = torch.promote_types(x1.dtype, x2.dtype)
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"Expected inputs in float32 or float64, got {dtype}.")
        batch = torch.broadcast_shapes(x1.shape[:-2], x2.shape[:-2], self.batch_shape)
        rows = lambda x: x.to(dtype).expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:])
        numbers = [getattr(self, name).to(dtype).expand(*batch, 1, 1).reshape(-1) for name in self._free]
        numbers = torch.stack(numbers, -1) if numbers else x1.new_zeros((batch.numel(), 0), dtype=dtype)
        spec = Spec(tuple(self._free.values()), self.get, diag, self.input_shape)
        flat = _Covariance.apply(self.net, spec, rows(x1), None if same else rows(x2), numbers)
        return flat.reshape(*batch, *flat.shape[1:])  # pyright: ignore


def _constraint(number: bridge.Free) -> Any:
    """That of the range of a number; None where every real number will do."""
    has_low, has_high = np.isfinite(number.low), np.isfinite(number.high)
    if has_low and has_high:
        return Interval(number.low, number.high)
    if number.is_scale or (has_low and number.low == 0):
        return Positive()
    return GreaterThan(number.low) if has_low else LessThan(number.high) if has_high else None


class Spec(NamedTuple):
    """What compiled code depends on."""

    indices: tuple[int, ...]  # the places of the numbers
    get: str
    is_diagonal: bool
    input_shape: Any


class _Covariance(torch.autograd.Function):
    """(b, n, m) or (b, n) from inputs (b, n, d), (b, m, d) or None for the same, and numbers (b, k)."""

    @staticmethod
    def forward(ctx, net, spec, x1, x2, numbers):  # pyright: ignore
        ctx.net, ctx.spec = net, spec
        ctx.save_for_backward(x1, x2, numbers)
        return _crossed(_values, ctx, x1, x2, numbers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, change):  # pyright: ignore
        tensors = (*ctx.saved_tensors, change)
        if any(ctx.needs_input_grad[2:4]):
            try:
                slopes = _crossed(_slopes, ctx, *tensors)
            except ValueError as error:
                if "Reverse-mode" not in str(error):
                    raise
                raise NotImplementedError(
                    "Expected a network without Repeat for derivatives in the inputs, got one whose depth is a loop. "
                    "Write its layers out, as in serial(*[Relu(), Dense(8)] * depth)."
                ) from error
            return None, None, *slopes
        return None, None, None, None, _crossed(_number_slopes, ctx, *tensors)


def _crossed(function, ctx, *tensors):
    """`function` of JAX on tensors, and its results as tensors on the device of the first."""
    arrays = [None if x is None else x.detach().cpu().numpy() for x in tensors]
    with bridge.precision():  # float32 stays what it is
        result = function(ctx.net, ctx.spec, *arrays)
        return jax.tree.map(lambda array: torch.from_numpy(np.array(array)).to(tensors[0].device), result)


def _of_one(net, spec, x1, x2, numbers):
    net = bridge.with_numbers(net, spec.indices, list(numbers))
    if spec.input_shape is not None:
        x1, x2 = (x if x is None else x.reshape(len(x), *spec.input_shape) for x in (x1, x2))
    of = lambda x1, x2: gram(net, x1, x2, get=(spec.get,))[0]
    if not spec.is_diagonal:
        return of(x1, x2)
    if x2 is None:
        return jax.vmap(lambda a: of(a[None], None)[0, 0])(x1)
    return jax.vmap(lambda a, b: of(a[None], b[None])[0, 0])(x1, x2)


@partial(jax.jit, static_argnums=1)
def _values(net, spec, x1, x2, numbers):
    of_one = lambda x1, x2, numbers: _of_one(net, spec, x1, x2, numbers)
    return jax.vmap(of_one, in_axes=(0, None if x2 is None else 0, 0))(x1, x2, numbers)


@partial(jax.jit, static_argnums=1)
def _slopes(net, spec, x1, x2, numbers, change):
    """The derivatives of sum(change * values) in x1, x2 and the numbers."""
    return jax.vjp(lambda x1, x2, numbers: _values(net, spec, x1, x2, numbers), x1, x2, numbers)[1](change)


@partial(jax.jit, static_argnums=1)
def _number_slopes(net, spec, x1, x2, numbers, change):
    """Those in the few numbers alone, one after another in forward mode, which passes through loops too."""

    def along(direction):
        slope = jax.jvp(lambda numbers: _values(net, spec, x1, x2, numbers), (numbers,), (direction,))[1]
        return (change * slope).reshape(len(change), -1).sum(axis=1)

    directions = jnp.eye(numbers.shape[1], dtype=numbers.dtype)[:, None] * jnp.ones_like(numbers)
    return jax.lax.map(along, directions).T if numbers.shape[1] else jnp.zeros_like(numbers)
