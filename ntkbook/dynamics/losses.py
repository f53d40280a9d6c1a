"""Training in function space for any differentiable loss, by integrating the coefficients of the kernel.

For a loss other than the squared one there is no closed form, but the whole state is one number per example and output:
f_t(x) = f_0(x) + k(x, X) alpha_t, whatever x is. diffrax integrates alpha. Notebook 08 uses it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..pytrees import pytree, static
from .targets import outputs_at, outputs_elsewhere, train_kernel


def squared(outputs: Array, targets: Array) -> Array:
    """1/2 sum (f - y)^2, over examples and outputs."""
    return jnp.square(outputs - targets).sum() / 2


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """-sum over examples of y . log softmax(f), with y one-hot or probabilities, (n, o)."""
    return -(targets * jax.nn.log_softmax(outputs, axis=-1)).sum()


LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


@pytree
class FunctionFlow:
    """Training with a loss of your choice; see `function_flow`. t, f0 and shapes are as in `Dynamics`."""

    k: Any  # (n, n) or (n o, n o)
    y: Any
    lr: Any
    momentum: Any  # None without
    tolerance: Any
    loss: Any = static(default="squared")
    is_full: bool = static(default=False)
    max_steps: int = static(default=100_000)

    def train(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """The outputs at the training points."""
        alpha = self.coefficients(t, f0_train)
        f0 = outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")
        return f0 + _kernel_times(self.k, alpha.reshape(-1, *self.y.shape)).reshape(alpha.shape)

    def test(
        self, t: ArrayLike, k_test_train: ArrayLike, f0_train: ArrayLike = 0.0, f0_test: ArrayLike = 0.0
    ) -> Float[Array, "..."]:
        """The outputs at other points, with `k_test_train` (m, n), or (m, n, o, o) for a full kernel."""
        return outputs_elsewhere(self, t, k_test_train, f0_train, f0_test)

    def coefficients(self, t: ArrayLike, f0_train: ArrayLike = 0.0) -> Float[Array, "..."]:
        """alpha(t) of the shape of y, with f_t(x) = f0(x) + sum_j k(x, x_j) alpha_j.

        Raises:
            ValueError: for t = inf (a classifier's outputs grow for ever), or beyond `max_steps` of the solver.
        """
        checks.non_negative(t, "t")
        t = jnp.asarray(t).astype(self.y.dtype)
        if t.ndim > 1:
            raise ValueError(f"Expected t to be a number or an array (T,), got shape {t.shape}.")
        if checks.is_concrete(t) and np.isinf(np.asarray(t)).any():
            raise ValueError("Expected finite times, got t = inf. gradient_flow has the limit for the squared loss.")
        f0 = outputs_at(f0_train, self.y.shape, self.y.dtype, "f0_train")
        alpha, is_done = _integrate(self, jnp.atleast_1d(t), f0)
        if checks.is_concrete(alpha) and not (np.asarray(is_done) and np.isfinite(np.asarray(alpha)).all()):
            raise ValueError(
                f"Expected an end at t = {float(t.max()):.4g} in {self.max_steps} solver steps, got stuck or overflow. "
                "Its steps shrink as 1/(lr * lambda_max): ask for a smaller t, or raise max_steps."
            )
        return alpha if t.ndim else alpha[0]


def function_flow(
    loss: str | Callable,
    k_train_train: ArrayLike,
    y_train: ArrayLike,
    *,
    lr: ArrayLike = 1.0,
    momentum: ArrayLike | None = None,
    reduction: str = "sum",
    tolerance: ArrayLike | None = None,
    max_steps: int = 100_000,
) -> FunctionFlow:
    """Training in continuous time on any differentiable loss, with a constant kernel.

    f' = -lr K dL/df;  with momentum b:  f'' = -(1 - b) f' - lr K dL/df, starting at rest

    `loss` is "squared", "cross_entropy" (targets one-hot or probabilities, (n, o)), or a function of (outputs, targets)
    that sums over the examples; "mean" divides it by n. t counts steps of size lr: with momentum this is the continuous
    limit of heavy ball, theta'' = -(1 - b)/sqrt(lr) theta' - grad L at the time t sqrt(lr). Kernel and targets are as
    in `gradient_flow`. The solver is an adaptive Runge-Kutta of order 5 with the stated relative and absolute
    `tolerance`: by default 1e-8, or 1e-5 in float32. Differentiable in reverse mode. Under `jit`, a
    solver that does not arrive gives NaN, never a wrong number.

    Raises:
        TypeError, ValueError: as `gradient_flow`; ValueError for an unknown loss or a momentum outside [0, 1).

    Lee et al. 2019, section 2.2 and its supplement on momentum.
    """
    if not callable(loss):
        checks.one_of(loss, "loss", tuple(LOSSES))
    checks.one_of(reduction, "reduction", ("sum", "mean"))
    checks.non_negative(lr, "lr")
    checks.positive_int(max_steps, "max_steps")
    if momentum is not None:
        checks.momentum(momentum)
    k, y, is_full = train_kernel(k_train_train, y_train)
    if loss == "cross_entropy" and y.ndim != 2:
        raise ValueError(
            f"Expected one-hot targets (n, o) for the cross-entropy, got shape {y.shape}. See jax.nn.one_hot."
        )
    lr = jnp.asarray(lr).astype(y.dtype) / (y.shape[0] if reduction == "mean" else 1)
    momentum = None if momentum is None else jnp.asarray(momentum).astype(y.dtype)
    if tolerance is None:
        tolerance = 1e-8 if y.dtype == jnp.float64 else 1e-5
    return FunctionFlow(k, y, lr, momentum, jnp.asarray(tolerance).astype(y.dtype), loss, is_full, max_steps)


def _kernel_times(k, alpha):
    """K alpha for alpha (T, n, o), with the columns of a full kernel in the order of its rows."""
    return jax.vmap(lambda a: (k @ a.reshape(k.shape[0], -1)).reshape(a.shape))(alpha)


@jax.jit
def _integrate(flow: FunctionFlow, times: Array, f0: Array) -> tuple[Array, Array]:
    """(alpha at all times, in their order; did the solver get there)."""
    import diffrax

    loss = flow.loss if callable(flow.loss) else LOSSES[flow.loss]
    has_momentum = flow.momentum is not None

    def slope(t, state, args):
        alpha, velocity = state
        outputs = f0 + _kernel_times(flow.k, alpha[None])[0]
        force = -flow.lr * jax.grad(loss)(outputs, flow.y)
        return (velocity, force - (1 - flow.momentum) * velocity) if has_momentum else (force, velocity)

    order = jnp.argsort(times)
    zeros = jnp.zeros_like(flow.y)
    end = times.max()
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        t0=jnp.zeros_like(end),
        t1=jnp.where(end > 0, end, 1),
        dt0=None,
        y0=(zeros, zeros),
        saveat=diffrax.SaveAt(ts=times[order]),
        stepsize_controller=diffrax.PIDController(rtol=flow.tolerance, atol=flow.tolerance),
        max_steps=flow.max_steps,
        throw=False,
    )
    is_done = diffrax.is_successful(solution.result)
    alpha, _ = solution.ys  # pyright: ignore[reportGeneralTypeIssues]
    alpha = jnp.where(is_done, alpha, jnp.nan)
    return jnp.zeros_like(alpha).at[order].set(alpha), is_done
