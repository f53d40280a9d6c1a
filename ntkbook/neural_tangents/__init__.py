"""A guest room for code that was written for neural-tangents, an archived library that no current JAX can import.

`import ntkbook.neural_tangents as nt`, and most of it runs unchanged: names, arguments, defaults, units and shapes are
those of its release 0.6.5, and everything is computed by this library. Nothing else here imports this room. Random
weights differ for the same key, and stored parameters do not load. docs/coming_from_neural_tangents.md says the rest.
"""

from . import predict as predict
from . import stax as stax
from .batching import batch as batch
from .empirical import NtkImplementation as NtkImplementation
from .empirical import empirical_kernel_fn as empirical_kernel_fn
from .empirical import empirical_nngp_fn as empirical_nngp_fn
from .empirical import empirical_ntk_fn as empirical_ntk_fn
from .empirical import empirical_ntk_vp_fn as empirical_ntk_vp_fn
from .empirical import linearize as linearize
from .empirical import monte_carlo_kernel_fn as monte_carlo_kernel_fn
from .empirical import taylor_expand as taylor_expand
from .kernels import Kernel as Kernel
