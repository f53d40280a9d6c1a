"""ntkbook: Neural Tangent Kernels in JAX, and an interactive book about them."""
