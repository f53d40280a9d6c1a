"""PyTorch modules, for the finite-width functions that take any f(params, x): results are numpy arrays.

`from_torch` turns a module into such an f and its parameters. f brings its own derivatives, by `torch.func`, as methods
whose names begin with `own_`; no file here imports this one. PyTorch is optional and is imported on first use.
The page "Bring your own model" uses it.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from . import checks

METHODS = ("auto", "jacobian", "vector_product")


def from_torch(module: Any) -> tuple["TorchFunction", dict[str, np.ndarray]]:
    """(f, params) of a PyTorch module in evaluation mode: what `empirical_ntk`, `linearize` and the like take.

    params are those that require gradients, by name, as numpy arrays (bfloat16 as float32, which holds it); everything
    else stays as it is now, for f is a copy. Inputs go in as floats in the precision of the module or as whole numbers;
    a tuple of arrays becomes the arguments of the module, a dict its keywords.

    >>> f, params = from_torch(model.eval())  # doctest: +SKIP
    >>> empirical_ntk(f, params, x)  # doctest: +SKIP

    Raises:
        ImportError: without PyTorch.
        TypeError: for what is no `torch.nn.Module`.
        ValueError: for a module with BatchNorm or dropout in training mode, or without parameters.
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"Expected a torch.nn.Module, got {checks.describe(module)}.")
    joint = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    for name, part in module.named_modules():
        if isinstance(part, joint) and part.training:
            raise ValueError(
                f"Expected BatchNorm and dropout in evaluation mode, got {type(part).__name__} ({name}) in training: "
                "its output depends on the rest of the batch or on chance. Call model.eval() first."
            )
    module = copy.deepcopy(module)
    free = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    if not free:
        raise ValueError("Expected a module with parameters that require gradients, got none.")
    # a parameter may stand in several places; a part that is used twice has one place
    names = {id(p): name for name, p in module.named_parameters()}
    places = {
        f"{path}.{local}".removeprefix("."): names[id(p)]
        for path, part in module.named_modules()
        for local, p in part.named_parameters(recurse=False, remove_duplicate=False)
    }

    def apply(params: dict, x: Any) -> Any:
        chosen = {place: params[name] for place, name in places.items() if name in params}
        args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})
        return torch.func.functional_call(module, chosen, args, kwargs, tie_weights=False)

    first = next((p for p in free.values() if p.is_floating_point()), next(iter(free.values())))
    dtypes = {name: p.dtype for name, p in free.items()}
    f = TorchFunction(apply, dtypes, first.real.dtype, first.device)
    return f, {name: _numpy(p) for name, p in free.items()}


@dataclass(frozen=True)
class TorchFunction:
    """f(params, x) in PyTorch: numpy arrays go in and come out, `apply` works on tensors between."""

    apply: Callable
    dtypes: dict[str, Any]  # of the parameters
    dtype: Any  # of inputs
    device: Any

    def __call__(self, params: Any, x: Any) -> np.ndarray:
        if not checks.is_concrete(params, x):
            raise TypeError("Expected a function that JAX differentiates, got a PyTorch module. Train it in PyTorch.")
        return _numpy(self.outputs(self.theta(params), self.inputs(x)))

    def inputs(self, x: Any) -> Any:
        """Tensors: floats in the precision of the module, whole numbers as they are."""
        if isinstance(x, (tuple, dict)):
            return jax.tree.map(self.inputs, x)
        tensor = _torch().tensor(np.asarray(x), device=self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def theta(self, params: Any) -> dict[str, Any]:
        """The parameters as real tensors; complex ones by their real and imaginary parts."""
        torch = _torch()
        if not isinstance(params, dict) or set(params) != set(self.dtypes):
            raise TypeError(f"Expected the params that from_torch gave, got {checks.describe(params)}.")
        tensor = lambda name, dtype: torch.tensor(np.asarray(params[name]), dtype=dtype, device=self.device)
        real = lambda p: torch.view_as_real(p) if p.is_complex() else p
        return {name: real(tensor(name, dtype)) for name, dtype in self.dtypes.items()}

    def as_params(self, theta: dict[str, Any]) -> dict[str, Any]:
        """The way back from `theta`."""
        as_complex = _torch().view_as_complex
        return {name: as_complex(p) if self.dtypes[name].is_complex else p for name, p in theta.items()}

    def own_part(self, params: Any, names: set[str]) -> "TorchFunction":
        """The function of the parameters of these names alone; the others stay as they are in `params`."""
        fixed = {name: p for name, p in self.as_params(self.theta(params)).items() if name not in names}
        dtypes = {name: dtype for name, dtype in self.dtypes.items() if name in names}
        return replace(self, apply=lambda free, x: self.apply({**fixed, **free}, x), dtypes=dtypes)

    def outputs(self, theta: dict[str, Any], x: Any) -> Any:
        """(n, o), as a tensor of at least float32."""
        torch, n = _torch(), _count(x)
        try:
            with _plain_attention():
                out = self.apply(self.as_params(theta), x)
        except RuntimeError as error:
            if "dtype" not in str(error):
                raise
            raise TypeError(
                f"Expected a module that takes {self.dtype}, the precision of its first parameter, got: {error}. "
                "Convert inside its forward, or make the module one precision: model.float()."
            ) from error
        if not torch.is_tensor(out) or not out.ndim or len(out) != n or not out.is_floating_point():
            got = out.dtype if torch.is_tensor(out) and out.is_complex() else type(out).__name__
            raise TypeError(
                f"Expected the module to return one tensor of real numbers with a row per example, got {got}. "
                "Wrap it in a module that does, as for the states of an RNN, or both parts of complex outputs."
            )
        return out.reshape(n, -1).to(torch.promote_types(out.dtype, torch.float32))

    def own_empirical_ntk(self, params: Any, x1: Any, x2: Any, *, method: str, full: bool, memory: int) -> np.ndarray:
        """Theta of (n1, n2), or (n1, n2, o, o) if `full`; see `empirical_ntk`."""
        checks.one_of(method, "method for a PyTorch module", METHODS)
        symmetric, x2 = x2 is None, x1 if x2 is None else x2
        theta, x1, x2 = self.theta(params), self.inputs(x1), self.inputs(x2)
        n_outputs = self.check_independent(theta, x1)
        size = sum(p.numel() * p.element_size() for p in theta.values())
        tile = max(1, int(memory / 2 / (n_outputs * size)))
        block = _products if method == "vector_product" else _contracted_jacobians
        left = _tiles(x1, tile)
        right = left if symmetric else _tiles(x2, tile)
        rows: list[list[np.ndarray]] = []
        for i, a in enumerate(left):
            mirrored = [row[i].transpose(1, 0, 3, 2) for row in rows] if symmetric else []
            rows.append(mirrored + [block(self, theta, a, b) for b in right[len(mirrored) :]])
        kernel = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
        if symmetric:
            kernel = (kernel + kernel.transpose(1, 0, 3, 2)) / 2
        return kernel if full else np.einsum("ijaa->ij", kernel) / n_outputs

    def own_empirical_nngp(self, params: Any, x1: Any, x2: Any) -> np.ndarray:
        """f(x1) f(x2)^T / o; see `empirical_nngp`."""
        theta, x1, x2 = self.theta(params), self.inputs(x1), self.inputs(x1 if x2 is None else x2)
        self.check_independent(theta, x1)
        out1, out2 = self.outputs(theta, x1), self.outputs(theta, x2)
        return _numpy(out1 @ out2.T) / out1.shape[1]

    def own_ntk_vector_product(self, params: Any, x1: Any, x2: Any) -> Callable:
        """v -> Theta(x1, x2) v; see `ntk_vector_product`."""
        theta, x1, x2 = self.theta(params), self.inputs(x1), self.inputs(x1 if x2 is None else x2)
        self.check_independent(theta, x1)

        def product(v: Any) -> np.ndarray:
            out, pull = _torch().func.vjp(lambda p: self.outputs(p, x2), theta)
            if tuple(np.shape(v)) != tuple(out.shape):
                raise ValueError(f"Expected v of the shape {tuple(out.shape)} of f(params, x2), got {np.shape(v)}.")
            (back,) = pull(_torch().tensor(np.asarray(v), dtype=out.dtype, device=self.device))
            return _numpy(_jvp(lambda p: self.outputs(p, x1), theta, back)[1])

        return product

    def own_taylor_expand(self, params_0: Any, order: int) -> "TorchFunction":
        """The Taylor expansion about `params_0`; see `taylor_expand`."""
        start = self.theta(params_0)

        def terms(x: Any, step: Any, order: int) -> Callable:
            if order == 0:
                return lambda theta: (self.outputs(theta, x),)
            lower = terms(x, step, order - 1)

            def all_terms(theta: Any) -> tuple:
                values, slopes = _jvp(lower, theta, step)
                return (*values, slopes[-1] / order)  # the k-th term carries 1/k!, one factor for each level

            return all_terms

        def apply(params: Any, x: Any) -> Any:
            real = lambda p: _torch().view_as_real(p) if p.is_complex() else p
            step = {name: real(params[name]) - start[name] for name in start}
            return sum(terms(x, step, order)(start))

        return replace(self, apply=apply)

    def check_independent(self, theta: dict[str, Any], x: Any) -> int:
        """The number of outputs; raises if the output of an example depends on the rest of the batch, or on chance."""
        torch = _torch()
        wave = lambda p: 0.1 * torch.sin(1 + torch.arange(p.numel(), device=p.device)).reshape(p.shape).to(p.dtype)
        theta = {name: p * (1 + wave(p)) if p.any() else wave(p) for name, p in theta.items()}
        is_token = lambda a: not a.is_floating_point() or bool((a == a.round()).all())  # whole numbers may be tokens
        altered = lambda a: (a[..., :1].expand(a.shape) if a.ndim > 1 else a) if is_token(a) else 2 * a + 1
        three = jax.tree.map(lambda a: torch.cat([a[:1], a[-1:], altered(a[:1])]), x)
        together = self.outputs(theta, jax.tree.map(lambda a: torch.cat([a] * 8), three))  # chance must hit one of them
        alone = torch.cat([self.outputs(theta, a) for a in _tiles(three, 1)])
        gap = (together - alone.repeat(8, 1)).abs().nan_to_num(0.0)
        size = together.abs().nan_to_num(0.0, posinf=0.0).max().clamp(min=torch.finfo(gap.dtype).tiny)
        checks.independent(float(gap.max() / size), max(torch.finfo(dtype).eps for dtype in self.dtypes.values()))
        return alone.shape[1]


def _contracted_jacobians(f, theta, x1, x2):
    torch = _torch()
    first = _jacobian(f, theta, x1)
    second = first if x2 is x1 else _jacobian(f, theta, x2)
    return _numpy(torch.stack([torch.einsum("iap,jbp->ijab", a, b) for a, b in zip(first, second)]).sum(0))


def _jacobian(f: TorchFunction, theta: dict[str, Any], x: Any) -> list[Any]:
    """(n, o, size) for each parameter, side by side where PyTorch can, as it cannot for most recurrent networks."""
    func = _torch().func
    one = lambda theta, x: f.outputs(theta, jax.tree.map(lambda a: a[None], x))[0]
    try:
        with warnings.catch_warnings(action="ignore"):
            found = func.vmap(func.jacrev(one), (None, 0))(theta, x)
    except (RuntimeError, NotImplementedError):
        found = [_gradients(f, theta, example) for example in _tiles(x, 1)]
        found = {name: _torch().stack([row[name] for row in found]) for name in theta}
    precise = lambda j: j.flatten(2).to(_torch().promote_types(j.dtype, _torch().float32))
    parts = [precise(j) for j in found.values()]
    top = max((j.dtype for j in parts), key=lambda dtype: dtype.itemsize)
    return [j.to(top) for j in parts]


def _gradients(f, theta, x):
    theta = {name: p.clone().requires_grad_() for name, p in theta.items()}
    options = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
    rows = [_torch().autograd.grad(out, [*theta.values()], **options) for out in f.outputs(theta, x)[0]]
    return {name: _torch().stack(column) for name, column in zip(theta, zip(*rows))}


def _products(f, theta, x1, x2):
    torch = _torch()

    def column(x, unit):
        _, pull = torch.func.vjp(lambda p: f.outputs(p, x), theta)
        return _jvp(lambda p: f.outputs(p, x1), theta, pull(unit[None])[0])[1]

    units = torch.eye(f.outputs(theta, x2).shape[1], dtype=f.outputs(theta, x2).dtype, device=f.device)
    columns = torch.stack([torch.stack([column(x, unit) for unit in units]) for x in _tiles(x2, 1)])  # (n2, o, n1, o)
    return _numpy(columns.permute(2, 0, 3, 1))


def _jvp(f: Callable, theta: Any, step: Any) -> tuple[Any, Any]:
    """(f, Df[step]); where PyTorch has no forward mode, by the transpose of the transpose."""
    torch = _torch()
    try:
        return torch.func.jvp(f, (theta,), (step,))
    except NotImplementedError:
        out, pull = torch.func.vjp(f, theta)
        zeros = jax.tree.map(torch.zeros_like, out)
        return out, torch.func.vjp(lambda u: pull(u)[0], zeros)[1](step)[0]


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by operations that have all derivatives."""
    torch = _torch()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _count(x: Any) -> int:
    return len(jax.tree.leaves(x)[0])


def _tiles(x: Any, size: int) -> list[Any]:
    return [jax.tree.map(lambda a, i=i: a[i : i + size], x) for i in range(0, _count(x), size)]


def _numpy(tensor: Any) -> np.ndarray:
    """A copy; numpy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return np.array(tensor.float() if tensor.dtype == _torch().bfloat16 else tensor)


def _torch() -> Any:
    try:
        import torch
        import torch.nn.attention
    except ImportError as error:
        raise ImportError(
            "Expected PyTorch to be installed for models of PyTorch, got none. Install it: pip install torch"
        ) from error
    return torch
