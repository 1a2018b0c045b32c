"""A decode step in C++, or the parts of it that a model allows, where there is a compiler."""

from palma.engine.continuous.cpu_kernel.build import (
    KernelBuild,
    KernelUnavailable,
    find_kernel,
    load_kernel,
)
from palma.engine.continuous.cpu_kernel.kernel import DecodeKernel
from palma.engine.continuous.cpu_kernel.panel_linear import PanelLinear

__all__ = [
    "DecodeKernel",
    "KernelBuild",
    "KernelUnavailable",
    "PanelLinear",
    "find_kernel",
    "load_kernel",
]
