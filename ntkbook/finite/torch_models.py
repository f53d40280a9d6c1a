"""PyTorch modules, for the finite-width functions that take any f(params, x): results are numpy arrays.

`from_torch` turns a module into such an f and its parameters. PyTorch is optional and is imported on first use;
derivatives are taken by `torch.func`. The page "Bring your own model" uses it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks

METHODS = ("auto", "jacobian", "vector_product")


def from_torch(module: Any) -> tuple["TorchFunction", dict[str, np.ndarray]]:
    """(f, params) of a PyTorch module in evaluation mode: what `empirical_ntk`, `linearize` and the like take.

    params are those that require gradients, by name, as numpy arrays; everything else stays as it is now.

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
    free = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not free:
        raise ValueError("Expected a module with parameters that require gradients, got none.")
    fixed = {name: p for name, p in module.named_parameters() if not p.requires_grad} | dict(module.named_buffers())
    first = next(iter(free.values()))
    apply = lambda params, x: torch.func.functional_call(module, (params, fixed), (x,))
    params = {name: p.detach().cpu().numpy() for name, p in free.items()}
    return TorchFunction(apply, first.dtype, first.device), params


@dataclass(frozen=True)
class TorchFunction:
    """f(params, x) in PyTorch: numpy arrays go in and come out, `apply` works on tensors between."""

    apply: Callable
    dtype: Any
    device: Any

    def __call__(self, params: Any, x: Any) -> np.ndarray:
        return self.outputs(self.tensors(params), self.tensor(x)).detach().cpu().numpy()

    def tensor(self, array: Any) -> Any:
        return _torch().tensor(np.asarray(array), dtype=self.dtype, device=self.device)

    def tensors(self, params: Any) -> dict[str, Any]:
        if not isinstance(params, dict):
            raise TypeError(f"Expected the params that from_torch gave, got {checks.describe(params)}.")
        return {name: self.tensor(value) for name, value in params.items()}

    def outputs(self, params: dict[str, Any], x: Any) -> Any:
        """(n, o), as a tensor."""
        out = self.apply(params, x)
        if not _torch().is_tensor(out) or not out.ndim or len(out) != len(x):
            raise TypeError(
                f"Expected the module to return one tensor with a row per example, got {type(out).__name__}."
            )
        return out.reshape(len(x), -1)


def torch_ntk(f: TorchFunction, params: Any, x1: Any, x2: Any, *, method: str, full: bool, memory: int) -> np.ndarray:
    """Theta of (n1, n2), or (n1, n2, o, o) if `full`; see `empirical_ntk`."""
    checks.one_of(method, "method for a PyTorch module", METHODS)
    symmetric, x2 = x2 is None, x1 if x2 is None else x2
    params, x1, x2 = f.tensors(params), f.tensor(x1), f.tensor(x2)
    n_outputs = _check_independent(f, params, x1)
    size = sum(p.numel() * p.element_size() for p in params.values())
    tile = max(1, int(memory / 2 / (n_outputs * size)))
    block = _products if method == "vector_product" else _jacobians
    rows = [[block(f, params, a, b) for b in x2.split(tile)] for a in x1.split(tile)]
    kernel = np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
    if symmetric:
        kernel = (kernel + kernel.transpose(1, 0, 3, 2)) / 2
    return kernel if full else np.einsum("ijaa->ij", kernel) / n_outputs


def torch_product(f: TorchFunction, params: Any, x1: Any, x2: Any) -> Callable:
    """v -> Theta(x1, x2) v; see `ntk_vector_product`."""
    func = _torch().func
    params, x1, x2 = f.tensors(params), f.tensor(x1), f.tensor(x1 if x2 is None else x2)
    _check_independent(f, params, x1)

    def product(v: Any) -> np.ndarray:
        out, pull = func.vjp(lambda p: f.outputs(p, x2), params)
        if tuple(np.shape(v)) != tuple(out.shape):
            raise ValueError(f"Expected v of the shape {tuple(out.shape)} of f(params, x2), got {np.shape(v)}.")
        return func.jvp(lambda p: f.outputs(p, x1), (params,), pull(f.tensor(v)))[1].detach().cpu().numpy()

    return product


def torch_expansion(f: TorchFunction, params_0: Any, order: int) -> TorchFunction:
    """The Taylor expansion of f about `params_0`; see `taylor_expand`."""
    func = _torch().func
    start = f.tensors(params_0)

    def terms(x: Any, step: Any, order: int) -> Callable:
        if order == 0:
            return lambda params: (f.apply(params, x),)
        lower = terms(x, step, order - 1)

        def all_terms(params: Any) -> tuple:
            values, slopes = func.jvp(lower, (params,), (step,))
            return (*values, slopes[-1] / order)  # the k-th term carries 1/k!, one factor for each level

        return all_terms

    def apply(params: Any, x: Any) -> Any:
        step = {name: params[name] - start[name] for name in start}
        return sum(terms(x, step, order)(start))

    return TorchFunction(apply, f.dtype, f.device)


def _jacobians(f, params, x1, x2):
    torch = _torch()
    rows = torch.func.vmap(torch.func.jacrev(lambda p, x: f.outputs(p, x[None])[0]), (None, 0))
    parts = zip(*(j.values() for j in (rows(params, x1), rows(params, x2))))
    kernel = torch.stack([torch.einsum("iap,jbp->ijab", a.flatten(2), b.flatten(2)) for a, b in parts]).sum(0)
    return kernel.detach().cpu().numpy()


def _products(f, params, x1, x2):
    torch = _torch()

    def column(x, unit):
        _, pull = torch.func.vjp(lambda p: f.outputs(p, x[None])[0], params)
        return torch.func.jvp(lambda p: f.outputs(p, x1), (params,), pull(unit))[1]

    units = torch.eye(f.outputs(params, x2[:1]).shape[1], dtype=f.dtype, device=f.device)
    columns = torch.func.vmap(torch.func.vmap(column, (None, 0)), (0, None))(x2, units)  # (n2, o, n1, o)
    return columns.permute(2, 0, 3, 1).detach().cpu().numpy()


def _check_independent(f, params, x) -> int:
    """The number of outputs; raises if the output of an example depends on the rest of the batch."""
    torch = _torch()
    together = torch.cat([x[:1], x[-1:], 2 * x[:1] + 1])
    out, pull = torch.func.vjp(lambda x: f.outputs(params, x), together)
    weights = torch.zeros_like(out)
    weights[0] = torch.sin(1 + torch.arange(out.shape[1], dtype=out.dtype, device=out.device))
    slopes = pull(weights)[0].abs()
    own, eps = slopes[0].max().clamp(min=torch.finfo(out.dtype).tiny), torch.finfo(out.dtype).eps
    checks.independent(float(slopes[1:].max() / own), eps)
    return out.shape[1]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "Expected PyTorch to be installed for models of PyTorch, got none. Install it: pip install torch"
        ) from error
    return torch
