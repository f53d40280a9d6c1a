"""Safe elementary functions: where a naive formula gives NaN or loses digits, these do not.

The kernels of rectified activations are made of the angle between two inputs, read off their cosine. Near
the diagonal `arccos` has an infinite slope, and the library's version is slow; here the angle is a square
root times a polynomial, which vectorizes, and whose derivative at coincident points is the one-sided zero
that every path through the diagonal has. Notebook 03 uses these.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# arccos(a) / sqrt(1 - a) on 0 <= a <= 1 as a polynomial in 2a - 1: interpolation in Chebyshev nodes with 60
# digits. The error is below 5e-9 for the short one and 3e-17 for the long one, relative to pi/2.
_ARCCOS_FLOAT32 = (
    1.480960979,
    -0.07601606467,
    0.01102930568,
    -0.002149487881,
    0.0004821552364,
    -0.0001161666713,
    2.982939718e-5,
    -9.659769042e-6,
    2.673952409e-6,
)
_ARCCOS_FLOAT64 = (
    1.48096097938612208,
    -0.0760160912346654012,
    0.0110293133179785527,
    -0.00214913585898963396,
    0.00048205410057642088,
    -0.000117412504589599801,
    0.0000301871699918483397,
    -8.06353612605566662e-6,
    2.216019758302968e-6,
    -6.22547544675836466e-7,
    1.77973383277601164e-7,
    -5.15706590715422529e-8,
    1.51318047669032065e-8,
    -4.5432268864306381e-9,
    1.35863302592823361e-9,
    -3.55593864820056811e-10,
    1.07446382286590126e-10,
    -5.95055720852941933e-11,
    1.83011666603874838e-11,
)


NEAR = 1e-3  # 1 - cos below which an angle is taken from the distance of its points


def arccos(c: Float[Array, "..."]) -> Float[Array, "..."]:
    """The angle in [0, pi] whose cosine is `c`; a `c` that rounds to outside of [-1, 1] counts as the end point.

    Prevents: NaN beyond the end points, and the infinite derivative at them (zero here, as on any path along
    which the two points stay parallel).
    """
    return angle(c, _one_minus(c))


def sine(c: Float[Array, "..."]) -> Float[Array, "..."]:
    """sqrt(1 - c^2), the sine of the angle whose cosine is `c`. Prevents the same NaN as `arccos`."""
    return sine_of_angle(c, _one_minus(c))


def _one_minus(c):
    return jax.lax.stop_gradient(jnp.maximum(1 - jnp.abs(c), 0))  # a cosine can round to just above 1


@jax.custom_jvp
def angle(c: Float[Array, "..."], gap: Float[Array, "..."]) -> Float[Array, "..."]:
    """`arccos(c)` where gap = 1 - |c| is known with digits that c has lost; its derivative is that in c."""
    coefficients = _ARCCOS_FLOAT64 if c.dtype == jnp.float64 else _ARCCOS_FLOAT32
    u = 1 - 2 * gap
    polynomial = jnp.full_like(u, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        polynomial = polynomial * u + coefficient
    acute = jnp.sqrt(gap) * polynomial
    return jnp.where(c < 0, jnp.pi - acute, acute)


angle.defjvps(lambda dc, _, c, gap: -dc * reciprocal(sine_of_angle(c, gap)), None)


@jax.custom_jvp
def sine_of_angle(c: Float[Array, "..."], gap: Float[Array, "..."]) -> Float[Array, "..."]:
    """`sine(c)` where gap = 1 - |c| is known with digits that c has lost; its derivative is that in c."""
    return jnp.sqrt(gap) * jnp.sqrt(2 - gap)


sine_of_angle.defjvps(lambda dc, sine, c, gap: -c * dc * reciprocal(sine), None)


@jax.custom_jvp
def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """sqrt(max(x, 0)). Prevents: NaN for a variance that rounds below zero, and the infinite slope at zero."""
    return jnp.sqrt(jnp.maximum(x, 0))


safe_sqrt.defjvps(lambda dx, root, x: dx * _reciprocal_of_root(root) / 2)


def reciprocal(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1/x, and 0 where x is 0. Prevents: 0/0 for zero inputs without a bias, in value and in gradient."""
    return _reciprocal_above(x, 0.0)


def _reciprocal_above(x: Array, least: float) -> Array:
    is_zero = jnp.abs(x) <= least
    return jnp.where(is_zero, 0, 1 / jnp.where(is_zero, 1, x))  # two selections: grad sees both branches


def _reciprocal_of_root(root: Array) -> Array:
    """1/root, and 0 where the square of the root nearly underflows: products of its derivatives would be infinite."""
    info = jnp.finfo(root.dtype)
    return _reciprocal_above(root, float(info.tiny / info.eps) ** 0.5)


def cosine(q1: Float[Array, "..."], q2: Float[Array, "..."], k: Float[Array, "..."]) -> Float[Array, "..."]:
    """k / sqrt(q1 q2), and 0 for a zero input.

    The square roots are taken apart: the product of two large or two tiny variances would overflow first. They are
    multiplied first: then exchanging the points changes no bit.
    """
    return k * (_reciprocal_of_root(safe_sqrt(q1)) * _reciprocal_of_root(safe_sqrt(q2)))


def gap_of_cosine(q1: Array, q2: Array, c: Array, distance: Array | None) -> Array:
    """1 - |c| of two points, with all its digits where they are near: there from E[(u - v)^2] = q1 + q2 - 2k.

    Prevents: angles of the size sqrt(eps) between points that coincide or are opposite up to rounding, which kinks
    would turn into errors of that size, and jumps into their roots. Without a distance: what the cosine says.
    """
    if distance is None:
        return _one_minus(c)
    eps = jnp.finfo(c.dtype).eps
    far = jnp.maximum(1 - jnp.abs(c), 0)
    far = jnp.where(far < 8 * eps, 0, far)
    scale = _reciprocal_of_root(safe_sqrt(q1)) * _reciprocal_of_root(safe_sqrt(q2)) / 2
    is_near = (c > 0.5) & (distance * scale < NEAR)
    return jax.lax.stop_gradient(jnp.where(is_near, scale * chord(q1, q2, distance), far))


def chord(q1: Array, q2: Array, distance: Array) -> Array:
    """What the distance leaves of 2 (sqrt(q1 q2) - k) besides the difference of lengths; zero for parallel points."""
    s = safe_sqrt(q1) - safe_sqrt(q2)
    rest = distance - s * s
    return jnp.where(rest <= 8 * jnp.finfo(distance.dtype).eps * jnp.abs(q1 - q2), 0, rest)


@jax.custom_jvp
def with_derivatives_of(formula: Array, value: Array) -> Array:
    """`value`, known to more digits than the `formula` for it, whose derivatives are right."""
    return value


with_derivatives_of.defjvps(lambda d_formula, value, *_: d_formula, None)
