"""How well a kernel generalizes: learning curves from its spectrum, and the peaks of double descent.

Averages over data sets have closed forms in the limit of many dimensions: for kernel regression from eigenvalues and
the target's power in the modes, for random features from two ratios. The finite-width NTK has its own peak, where the
network has as many parameters as there are examples.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .. import checks
from ..networks.activations import Activation
from ..networks.layers import standard_normals
from .modes import eigenmodes, one_precision


def _root(f, low, high, args):
    """The root of a scalar function f(x, args) between two numbers; differentiable in args."""
    import optimistix

    bounds = {"lower": low, "upper": high}
    solver = optimistix.Bisection(rtol=2 * float(jnp.finfo(high.dtype).eps), atol=0.0)
    return optimistix.root_find(f, solver, (low + high) / 2, args, bounds, throw=False, max_steps=300).value


def learning_curve(
    eigenvalues: ArrayLike,
    target_power: ArrayLike,
    n: ArrayLike,
    *,
    ridge: ArrayLike = 0.0,
    noise: ArrayLike = 0.0,
    multiplicity: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """Expected test error of kernel regression on n examples (a number or an array), against clean targets.

    z = ridge + z sum_i lambda_i/(n lambda_i + z),  gamma = n sum_i lambda_i^2/(n lambda_i + z)^2
    E = [sum_i a_i^2 z^2/(n lambda_i + z)^2 + noise * gamma] / (1 - gamma)

    `eigenvalues` (M,) are those of the kernel as an operator under the distribution of inputs, for orthonormal
    eigenfunctions; `target_power` (M,) holds a_i^2, the target's squared coefficients; `ridge` is added to the diagonal
    of the kernel matrix; `noise` is the variance of label noise. Where eigenvalues repeat, as on spheres, give each
    once with its `multiplicity` (M,), and the total power of its eigenspace. What is cut off from a spectrum acts as
    ridge: add its sum. With no ridge and n equal to the number of modes the error is infinite: the peak.

    Exact for Gaussian features and many modes; on the circle wrong by factors of 2 to 4 (too few dimensions).

    Raises:
        TypeError, ValueError: for arrays of different lengths, and negative numbers.

    Bordelon et al. 2020; Simon et al. 2021.
    """
    lam, count = _modes(eigenvalues, multiplicity)
    power = checks.as_array(target_power, "target_power", ndim=1)
    checks.same_length(len(lam), power, "target_power")
    checks.non_negative(power, "target_power")
    lam, power, count = one_precision(lam, power, count)
    return _learning_curve(lam, power, count, *_numbers(lam.dtype, n=n, ridge=ridge, noise=noise))


@jax.jit
def _learning_curve(lam, power, count, n, ridge, noise):
    def one(n, ridge, noise):
        z = _effective_ridge(lam, count, n, ridge)
        shrinkage = z / jnp.where(z > 0, n * lam + z, 1)  # what is not learned of each mode
        is_zero = (z == 0) & (lam == 0)
        bias = (power * jnp.where(is_zero, 1, shrinkage) ** 2).sum()
        gamma = (count * _learned(lam, n, z) ** 2).sum() / jnp.where(n > 0, n, 1)
        return (bias + noise * gamma) / (1 - gamma)

    return jnp.vectorize(one)(n, ridge, noise)


def _learned(lam, n, z):
    """What n examples teach of each mode."""
    return n * lam / jnp.where(lam > 0, n * lam + z, 1)


def _modes(eigenvalues, multiplicity):
    """(eigenvalues, how often each stands), both (M,) and checked."""
    lam = checks.as_array(eigenvalues, "eigenvalues", ndim=1)
    count = jnp.ones_like(lam) if multiplicity is None else checks.as_array(multiplicity, "multiplicity", ndim=1)
    checks.same_length(len(lam), count, "multiplicity")
    for value, name in ((lam, "eigenvalues"), (count, "multiplicity")):
        checks.non_negative(value, name)
    return lam, count


def _numbers(dtype, **values):
    """Numbers or arrays from zero upwards that broadcast against each other, checked, in this precision."""
    for name, value in values.items():
        checks.many_numbers(value, name, low=0.0)
    values = {name: jnp.asarray(value).astype(dtype) for name, value in values.items()}
    checks.broadcasting(**values)
    return values.values()


def _effective_ridge(lam, count, n, ridge):
    """The z > 0 with ridge/z + sum lambda/(n lambda + z) = 1, or 0 where n exceeds the modes without ridge."""
    total = ridge + (count * lam).sum()
    low = jnp.log(total) - 60

    def excess(log_z, args):
        ridge, n = args
        z = jnp.exp(log_z)
        return ridge / z + (count * lam / (n * lam + z)).sum() - 1

    has_root = excess(low, (ridge, n)) > 0
    safe = (jnp.where(has_root, ridge, total), n)  # with this ridge there is one always
    return jnp.where(has_root, jnp.exp(_root(excess, low, low + 61, safe)), 0)


def random_features_error(
    activation: Activation,
    features_per_dimension: ArrayLike,
    examples_per_dimension: ArrayLike,
    *,
    ridge: ArrayLike,
    noise: ArrayLike = 0.0,
    linear_power: ArrayLike = 1.0,
    nonlinear_power: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """Test error of ridge regression on N random features, n examples, d dimensions, all large: double descent.

    Features phi(<theta, x>/sqrt d) with |x|^2 = |theta|^2 = d; the objective is (1/n) sum (y - a . features)^2 plus
    (N ridge/d) |a|^2. psi_1 = N/d and psi_2 = n/d may be arrays that broadcast; at small ridge the peak is at N = n.
    The target has `linear_power` in linear functions and `nonlinear_power` in higher ones; `noise` is the variance of
    the label noise, and the error is against clean targets.

    Raises:
        TypeError, ValueError: for what is no activation, and numbers that are not positive where they must be.

    Mei and Montanari 2019. There the resolvents solve two complex equations along the imaginary axis, where
    both are imaginary: their product -p is the root of one real equation, which is bisected here.
    """
    if not isinstance(activation, Activation):
        raise TypeError(f"Expected an activation such as Relu(), got {activation!r}.")
    psi_1, psi_2, *rest = _numbers(
        jnp.result_type(float),
        features_per_dimension=features_per_dimension,
        examples_per_dimension=examples_per_dimension,
        ridge=ridge,
        noise=noise,
        linear_power=linear_power,
        nonlinear_power=nonlinear_power,
    )
    return _random_features_error(activation, *jnp.broadcast_arrays(psi_1, psi_2), *rest)


@jax.jit
def _random_features_error(activation, psi_1, psi_2, ridge, noise, linear, nonlinear):
    one = jnp.ones((), psi_1.dtype)
    mu0_2, mu1_2 = activation.dual(one, one, 0 * one)  # squares of E[phi] and E[phi']
    mu_star_2 = activation.variance(one)[0] - mu0_2 - mu1_2
    zeta2, s2 = mu1_2 / mu_star_2, psi_1 * psi_2 * ridge / mu_star_2
    u = lambda p: p + zeta2 * p / (1 + zeta2 * p)

    def gap(p, args):
        """Falls with p; beyond u(p) = min(psi_1, psi_2), where the product would turn, by what u exceeds it."""
        psi_1, psi_2, s2 = args
        room = jnp.minimum(psi_1, psi_2) - u(p)
        return jnp.where(room > 0, (psi_1 - u(p)) * (psi_2 - u(p)), room) - p * s2

    solve = lambda psi_1, psi_2, s2: _root(gap, 0 * psi_1, jnp.minimum(psi_1, psi_2), (psi_1, psi_2, s2))
    x, z = -jnp.vectorize(solve)(psi_1, psi_2, s2), zeta2  # chi = nu_1 nu_2 < 0
    w = x * z
    E2 = x**2 * (w - 1) ** 3 + x * w * ((w - 1) * (psi_1 * z + 2) - z * (w + 1))
    E1 = psi_2 * (w - 1) * (x * w + psi_1)
    E0 = psi_2 * (w - 1) * (psi_1 * (w - 1) ** 2 - w**2) - E2
    return linear * E1 / E0 + (noise + nonlinear) * E2 / E0 + nonlinear


def finite_ntk_error(
    key: Array,
    activation: Activation,
    width: int,
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    *,
    n_networks: int = 20,
    ridge: ArrayLike = 0.0,
) -> Float[Array, "n_networks"]:
    """Test errors of regression with the NTKs of random networks of one hidden layer, (n_networks,).

    f(x) = a . phi(W x/sqrt d)/sqrt(width), trained linearized and to the end from an output that is taken off, so that
    f(x) = K(x, X) K(X, X)^{-1} y; without inverse, the pseudo-inverse. The error peaks where the parameters,
    width * (d + 1), are as many as the examples.

    Raises:
        TypeError, ValueError: for what is no activation or no array, and targets of another length.

    Adlam and Pennington 2020, who solve the limit of it.
    """
    if not isinstance(activation, Activation):
        raise TypeError(f"Expected an activation such as Erf(), got {activation!r}.")
    checks.positive_int(width, "width")
    checks.positive_int(n_networks, "n_networks")
    checks.one_key(key)
    checks.number(ridge, "ridge", low=0.0)
    x_train, x_test = checks.as_array(x_train, "x_train", ndim=2), checks.as_array(x_test, "x_test", ndim=2)
    checks.same_features(x_train, x_test)
    y_train, y_test = checks.as_array(y_train, "y_train", ndim=1), checks.as_array(y_test, "y_test", ndim=1)
    checks.same_length(x_train.shape[0], y_train, "y_train")
    checks.same_length(x_test.shape[0], y_test, "y_test")
    data = tuple(a.astype(x_train.dtype) for a in (x_train, y_train, x_test, y_test))
    return _finite_ntk_errors(jax.random.split(key, n_networks), activation, width, data, ridge)


@partial(jax.jit, static_argnames="width")
def _finite_ntk_errors(keys, activation, width, data, ridge):
    x_train, y_train, x_test, y_test = data
    ridge = jnp.asarray(ridge).astype(x_train.dtype)

    def error(key):
        d = x_train.shape[1]
        theta = standard_normals(key, ((width, d), (width,)), x_train.dtype)

        f = lambda theta, x: activation.phi(theta[0] @ x / d**0.5) @ theta[1] / width**0.5

        def slopes(x):
            """df/dtheta at each point, (n, width * (d + 1)): the kernel is a product of two."""
            dW, da = jax.vmap(jax.grad(f), (None, 0))(theta, x)
            return jnp.concatenate([dW.reshape(len(x), -1), da], axis=1)

        train, test = slopes(x_train), slopes(x_test)
        eigenvalues, modes = eigenmodes(train @ train.T)
        inverse = jnp.where(eigenvalues > 0, 1 / jnp.where(eigenvalues > 0, eigenvalues + ridge, 1), 0)
        outputs = test @ (train.T @ (modes @ (inverse * (modes.T @ y_train))))
        return jnp.square(outputs - y_test).mean()

    return jax.lax.map(error, keys)


def learnability(
    eigenvalues: Any, n: ArrayLike, *, ridge: ArrayLike = 0.0, multiplicity: ArrayLike | None = None
) -> Float[Array, "... M"]:
    """The share of each mode that n examples teach, lambda n/(lambda n + z), (M,), or (..., M) for an array n.

    Without ridge the shares of all modes sum to n. Where eigenvalues repeat, give each once with its `multiplicity`
    (M,): the share is that of one mode, and counts as often.

    Simon et al. 2021.
    """
    lam, count = one_precision(*_modes(eigenvalues, multiplicity))
    share = lambda n, ridge: _learned(lam, n, _effective_ridge(lam, count, n, ridge))
    return jnp.vectorize(share, signature="(),()->(m)")(*_numbers(lam.dtype, n=n, ridge=ridge))
