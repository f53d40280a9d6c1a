"""The kernel of an infinitely wide network as one of tinygp's, which is made of JAX like this library."""

from typing import Any

try:
    import equinox as eqx
    from tinygp.kernels import Kernel
except ImportError as error:
    raise ImportError(
        f"Expected tinygp to be installed for ntkbook.interop.tinygp, got none ({error}). "
        "Install it: pip install tinygp"
    ) from error

from ..networks.kernel import Layer
from ..scale.gram import gram


class NTKKernel(Kernel):
    """The NNGP or NTK (`get`) of `net` as a `tinygp.kernels.Kernel`.

    The numbers of the network are leaves of the kernel, for `jax.grad`.
    Inputs are (n,), (n, d) or images (n, h, w, c). Raises as `gram`.
    """

    net: Layer
    get: str = eqx.field(static=True, default="nngp")

    def evaluate(self, X1: Any, X2: Any) -> Any:
        """k of two single inputs."""
        return self(X1[None], X2[None])[0, 0]

    def evaluate_diag(self, X: Any) -> Any:
        """k of a single input with itself."""
        return gram(self.net, self._rows(X[None]), get=(self.get,))[0][0, 0]

    def __call__(self, X1: Any, X2: Any = None) -> Any:
        """(n, m), or the diagonal (n,) without X2."""
        if X2 is None:
            return super().__call__(X1)
        return gram(self.net, self._rows(X1), None if X2 is X1 else self._rows(X2), get=(self.get,))[0]

    def _rows(self, X):
        return X[:, None] if X.ndim == 1 else X
