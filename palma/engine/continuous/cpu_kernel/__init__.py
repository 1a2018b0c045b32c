"""Attention of the decode step in C++, where this computer has a compiler."""

from palma.engine.continuous.cpu_kernel.build import KernelBuild, KernelUnavailable, load_kernel
from palma.engine.continuous.cpu_kernel.kernel import DecodeKernel

__all__ = ["DecodeKernel", "KernelBuild", "KernelUnavailable", "load_kernel"]
