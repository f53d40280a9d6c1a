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
from jaxtyping import Array

from .. import checks
from ..finite.history import LOSSES
from ..pytrees import pytree, static
from .modes import refuse_indefinite, unit_of
from .protocol import Training, outputs_at, rate_of, tolerance_of, train_kernel


@pytree
class FunctionFlow(Training):
    """Training with a loss of your choice; its methods are those of `Training`. See `function_flow`."""

    k: Any  # (n, n) or (n o, n o)
    y: Any
    lr: Any
    momentum: Any  # None without
    tolerance: Any
    loss: Any = static(default="squared")
    is_full: bool = static(default=False)
    max_steps: int = static(default=100_000)

    def _times(self, t):
        t = super()._times(t)
        if checks.is_concrete(t) and np.isinf(np.asarray(t)).any():
            raise ValueError("Expected finite times, got t = inf. gradient_flow has the limit for the squared loss.")
        return t

    def _solve(self, t, f0):
        return self._moving(t, f0, jnp.zeros_like(f0))[0]

    def motion(self, t: ArrayLike, f0_train: ArrayLike = 0.0, velocity_train: ArrayLike = 0.0) -> Callable:
        """Momentum b from outputs that move: at(k_test_train, f0_test, velocity_test) -> (outputs, velocities).

        f_t(x) = f0(x) + v(x) (1 - exp(-(1 - b) t))/(1 - b) + k(x, X) alpha(t)

        A velocity v is the change of outputs in one step, of their shape, or a number. Results are (m, ...), or
        (T, m, ...) for times (T,). `at(k_train_train, f0_train, velocity_train)` is where training goes on from.

        Raises:
            TypeError, ValueError: as `test`; ValueError without momentum.

        Lee et al. 2019, supplement on momentum; there training starts at rest.
        """
        if self.momentum is None:
            raise ValueError("Expected momentum for outputs with velocities, got None. Pass momentum=0.9.")
        times, y = self._times(t), self.y
        f0 = outputs_at(f0_train, y.shape, y.dtype, "f0_train")
        velocity = outputs_at(velocity_train, y.shape, y.dtype, "velocity_train")
        alpha, change = self._moving(times, f0, velocity)
        way, speed = (a.reshape(*times.shape, *(1 for _ in y.shape)) for a in _coasting(self.momentum, times))

        def at(k_test_train, f0_test=0.0, velocity_test=0.0):
            k, f0, velocity = self._points(k_test_train, f0_test, velocity_test)
            return f0 + way * velocity + self._pull(k, alpha), speed * velocity + self._pull(k, change)

        return at

    def _moving(self, t, f0, velocity):
        """The coefficients and their change per step."""
        alpha, change, is_done = _integrate(self, jnp.atleast_1d(t), f0, velocity)
        if checks.is_concrete(alpha) and not (is_done and jnp.isfinite(alpha).all()):
            raise ValueError(
                f"Expected an end at t = {float(t.max()):.4g} in {self.max_steps} solver steps, got stuck or overflow. "
                "Its steps shrink as 1/(lr * lambda_max): ask for a smaller t, or raise max_steps."
            )
        return alpha.reshape(*t.shape, *self.y.shape), change.reshape(*t.shape, *self.y.shape)


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
    in `gradient_flow`. The solver is an adaptive Runge-Kutta of order 5; its `tolerance` on each step is relative to
    the outputs and to the slope of the loss at the start: by default 1e-8, or 1e-5 in float32. Differentiable in
    reverse mode. Under `jit`, a solver that does not arrive gives NaN, never a wrong number.

    >>> import jax.numpy as jnp
    >>> flow = function_flow("cross_entropy", jnp.eye(2), jnp.eye(2))
    >>> flow.train(1.0).round(1)
    Array([[ 0.4, -0.4],
           [-0.4,  0.4]], dtype=...)

    Raises:
        TypeError, ValueError: as `gradient_flow`; ValueError for an unknown loss, a momentum outside [0, 1), or a
            tolerance out of reach.

    Lee et al. 2019, section 2.2 and its supplement on momentum.
    """
    if not callable(loss):
        checks.one_of(loss, "loss", tuple(LOSSES))
    checks.positive_int(max_steps, "max_steps")
    if momentum is not None:
        checks.momentum(momentum)
    k, y, is_full = train_kernel(k_train_train, y_train)
    if loss == "cross_entropy" and y.ndim != 2:
        raise ValueError(
            f"Expected one-hot targets (n, o) for the cross-entropy, got shape {y.shape}. See jax.nn.one_hot."
        )
    lr = rate_of(lr, reduction, y)
    refuse_indefinite(_proof(k), "k_train_train")
    momentum = None if momentum is None else jnp.asarray(momentum).astype(y.dtype)
    tolerance = jnp.asarray(tolerance_of(tolerance, y.dtype)).astype(y.dtype)
    return FunctionFlow(k, y, lr, momentum, tolerance, loss, is_full, max_steps)


@jax.jit
def _proof(k):
    """NaN for a kernel with a negative eigenvalue beyond rounding: its Cholesky factor fails then."""
    unit, shift = unit_of(k), float(jnp.finfo(k.dtype).eps) ** 0.5
    return jnp.linalg.cholesky(k / unit + shift * jnp.eye(len(k), dtype=k.dtype))[-1, -1]


def _coasting(momentum, t):
    """How far a velocity of one carries without a force, and what is left of it."""
    return -jnp.expm1((momentum - 1) * t) / (1 - momentum), jnp.exp((momentum - 1) * t)


@jax.jit
def _integrate(flow: FunctionFlow, times: Array, f0: Array, velocity: Array) -> tuple[Array, Array, Array]:
    """(alpha at all times, in their order; its change per step; did the solver get there).

    In units of the kernel, beta = scale * alpha with K / scale of norm about one, and of the time in which it moves
    the outputs: then an error of beta is one of the outputs, whatever the kernel's size.
    """
    import diffrax

    scale = unit_of(flow.k)
    k = flow.k / scale + 0 * _proof(flow.k)
    has_momentum = flow.momentum is not None
    rate = jnp.sqrt(flow.lr * scale) if has_momentum else flow.lr * scale
    steps = 1 / jnp.where(rate > 0, rate, 1)  # in one unit of time
    times = times * rate
    down = jax.grad(flow.loss if callable(flow.loss) else LOSSES[flow.loss])

    def slope(t, state, args):
        beta, change = state
        coasting = f0 + velocity * _coasting(flow.momentum, steps * t)[0] if has_momentum else f0
        force = -down(coasting + (k @ beta.reshape(len(k), -1)).reshape(beta.shape), flow.y)
        return (change, force - (1 - flow.momentum) * steps * change) if has_momentum else (force, change)

    start = jax.lax.stop_gradient(jnp.abs(down(f0, flow.y)).max())
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
        stepsize_controller=diffrax.PIDController(
            rtol=flow.tolerance, atol=flow.tolerance * jnp.where(start > 0, start, 1)
        ),
        max_steps=flow.max_steps,
        throw=False,
    )
    is_done = diffrax.is_successful(solution.result)
    beta, change = solution.ys  # pyright: ignore[reportGeneralTypeIssues]
    in_order = lambda a: jnp.zeros_like(a).at[order].set(jnp.where(is_done, a, jnp.nan) / scale)
    return in_order(beta), in_order(rate * change), is_done
