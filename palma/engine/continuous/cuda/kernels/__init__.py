"""Triton kernels; imported only where there is a GPU, or Triton's interpreter stands in."""
