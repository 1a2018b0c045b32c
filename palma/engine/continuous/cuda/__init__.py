"""The continuous engine on an NVIDIA GPU: Triton kernels, CUDA graphs, one step in flight."""
