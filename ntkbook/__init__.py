"""ntkbook: Neural Tangent Kernels in JAX, and an interactive book about them."""

from .activations import Abs as Abs
from .activations import Erf as Erf
from .activations import Identity as Identity
from .activations import LeakyRelu as LeakyRelu
from .activations import Relu as Relu
from .kernel import Kernel as Kernel
from .kernel import kernel as kernel
from .kernel import nngp as nngp
from .kernel import ntk as ntk
from .layers import Dense as Dense
from .layers import LayerNorm as LayerNorm
from .layers import Repeat as Repeat
from .layers import Residual as Residual
from .layers import serial as serial
