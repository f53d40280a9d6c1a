"""Gradient descent in steps, with momentum, in closed form: the clock that counts steps, and the door to it.

`gradient_flow` is the limit of small steps; for steps that are large, or that diverge, only this is right. Notebook 05
derives the clock.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .. import checks
from ..pytrees import pytree
from .filters import finite_part, pseudo_inverse, silenced
from .gradient import Dynamics, dynamics_of

_BITS = 48  # a whole number of steps up to 2^48


def gradient_descent(
    k_train_train: ArrayLike,
    y_train: ArrayLike,
    *,
    lr: ArrayLike,
    momentum: ArrayLike = 0.0,
    reduction: str = "sum",
) -> Dynamics:
    """Training in steps, t = 0, 1, 2, ...: exact for the linear model, also where flow and steps differ.

    f_{t+1} = f_t - lr K (f_t - y) + momentum (f_t - f_{t-1}),  f_{-1} = f_0   (heavy ball, as in optax and PyTorch)

    Otherwise as `gradient_flow`. Steps converge for lr * lambda_max < 2 (1 + momentum): see `max_learning_rate`.
    Derivatives with respect to t are 0.

    >>> import jax.numpy as jnp
    >>> float(gradient_descent(2 * jnp.eye(1), jnp.ones(1), lr=0.25).train(3)[0])
    0.875

    Raises:
        TypeError, ValueError: as `gradient_flow`; ValueError for a momentum outside [0, 1).

    Lee et al. 2019, section 2; Polyak 1964.
    """
    checks.momentum(momentum)
    return dynamics_of(k_train_train, y_train, lr, momentum, reduction, StepClock)


@pytree
class StepClock:
    """`steps` steps f <- f - lr K (f - y) + momentum * (last step), per eigenvalue.

    The coefficients follow g <- g + d with d <- momentum d + lr (1 - lambda g), from g = d = 0. Powers of this map
    are taken by squaring it, in its deviation from the identity: exact for double roots, for lambda = 0, and
    for slow modes, where the closed form with the roots of the recursion loses its digits.
    """

    lr: Any
    momentum: Any
    steps: Any
    largest: Any  # eigenvalue

    @staticmethod
    def at(lr, momentum, t, largest):
        """The clock at one time."""
        return StepClock(lr, momentum, t, largest)

    @staticmethod
    def check(t, dynamics):
        """Raises ValueError for fractions of a step, and where t = inf of these dynamics, if any, has no limit."""
        host = np.asarray(t)
        if (np.isfinite(host) & (host != np.floor(host))).any():
            raise ValueError(f"Expected t to count whole steps, got {t}. gradient_flow takes any t.")
        if dynamics is None:
            return
        largest, most = float(dynamics.unit_eigenvalues[0]), 2 * (1 + float(dynamics.momentum))
        top = float(dynamics.lr) * float(dynamics.scale) * largest
        if top >= most:
            raise ValueError(
                f"Expected a learning rate with a limit for t = inf, got lr * lambda_max = {top:.4g}, where steps "
                f"diverge from {most:.4g} on. Lower lr: see max_learning_rate."
            )

    def decay(self, eigenvalues):
        return self._both(eigenvalues)[0]

    def gain(self, eigenvalues):
        return self._both(eigenvalues)[1]

    def is_close(self, a, b):
        steps, is_over = finite_part(self.steps)
        memory = jnp.minimum(steps, 1 / (1 - self.momentum))
        rate = self.lr * steps * memory
        return jnp.where(is_over, jnp.abs(a - b) <= 0.5 * jnp.minimum(a, b), jnp.abs(a - b) * rate <= 0.5)

    def _both(self, eigenvalues):
        steps, is_over = finite_part(self.steps)
        lr = jnp.broadcast_to(self.lr, eigenvalues.shape)
        momentum = jnp.broadcast_to(self.momentum, eigenvalues.shape)
        # One step sends (g, d, 1) to (g + v-row): gain g, residual r = 1 - lambda g, and how d enters (b, c).
        one = (lr, lr, momentum, momentum, 1 - lr * eigenvalues)
        none = (jnp.zeros_like(lr), jnp.zeros_like(lr), jnp.zeros_like(lr), jnp.ones_like(lr), jnp.ones_like(lr))

        def square(i, carry):
            total, power, left = carry
            is_odd, rest = jnp.mod(left, 2) == 1, jnp.floor(left / 2)
            total = jax.tree.map(partial(jnp.where, is_odd), _compose(power, total, eigenvalues), total)
            # once nothing is left, squaring further would only overflow
            power = jax.tree.map(partial(jnp.where, rest > 0), power, none)
            return total, _compose(power, power, eigenvalues), rest

        (gain, _, _, _, residual), _, _ = jax.lax.fori_loop(0, _BITS, square, (none, one, steps))
        fraction = eigenvalues * gain
        decay = jnp.where(jnp.abs(fraction) < 0.5, 1 - fraction, residual)
        decay = jnp.where(is_over, jnp.where(eigenvalues * self.lr > 0, 0, 1), decay)
        over = jnp.where(self.lr > 0, pseudo_inverse(eigenvalues), 0)
        return decay, jnp.where(is_over, over, silenced(eigenvalues, gain, self.largest))


def _compose(second, first, eigenvalues):
    """Two stretches of steps; each is (g, v, b, c, r) for the map [[r, b, g], [-lambda v, c, v], [0, 0, 1]]."""
    g1, v1, b1, c1, r1 = first
    g2, v2, b2, c2, r2 = second
    return (
        g1 + g2 - eigenvalues * g2 * g1 + b2 * v1,
        v2 - eigenvalues * v2 * g1 + c2 * v1,
        r2 * b1 + b2 * c1,
        c2 * c1 - eigenvalues * v2 * b1,
        r2 * r1 - eigenvalues * b2 * v1,
    )
