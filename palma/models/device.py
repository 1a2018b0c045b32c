"""Which device and precision a model gets, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from palma.core.config import DtypeName
from palma.core.errors import SettingsError
from palma.models.cpu_features import (
    choose_cpu_dtype,
    choose_num_threads,
    count_cpus,
    detect_cpu_features,
)

DeviceName = Literal["auto", "cuda", "mps", "cpu"]


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """Where a model computes.

    Attributes:
        device: Torch's name of the device: "cuda:0", "mps" or "cpu".
        dtype: Torch's name of the precision, such as "bfloat16".
        reason: One sentence for the operator.
        num_threads: Torch threads that compute a step on the CPU; None leaves that to torch.
    """

    device: str
    dtype: str
    reason: str
    num_threads: int | None = None


@dataclass(frozen=True, slots=True)
class Accelerators:
    """What this machine can compute with, beside its CPU.

    Attributes:
        has_cuda: Torch sees an NVIDIA GPU, or an AMD one through ROCm.
        is_rocm: This torch was built for ROCm.
        cuda_name: The vendor's name of the first GPU.
        cuda_bfloat16: That GPU computes in bfloat16 by itself, without emulation.
        has_mps: Torch sees Metal.
    """

    has_cuda: bool = False
    is_rocm: bool = False
    cuda_name: str = ""
    cuda_bfloat16: bool = False
    has_mps: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The DEVICE values that work here, best first."""
        found = {"cuda": self.has_cuda, "mps": self.has_mps, "cpu": True}
        return tuple(name for name, is_there in found.items() if is_there)


def prepare_environment() -> None:
    """Set what torch reads from the environment while it is imported; the operator's values win.

    Call it before torch is first imported. Operators that Metal lacks then run on the CPU, and
    OpenMP's threads sleep between two operators instead of burning a core each. Tokenizers start
    no threads of their own: texts come to them one by one.
    """
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def select_device(device: DeviceName, dtype: DtypeName) -> DeviceChoice:
    """Choose among the devices of this machine; imports torch.

    Raises:
        SettingsError: The device asked for is not there.
    """
    return choose_device(detect_accelerators(), device, dtype)


def detect_accelerators() -> Accelerators:
    """Ask torch what this machine has; imports torch."""
    prepare_environment()
    import torch

    has_cuda = torch.cuda.is_available()
    return Accelerators(
        has_cuda=has_cuda,
        is_rocm=torch.version.hip is not None,
        cuda_name=torch.cuda.get_device_name(0) if has_cuda else "",
        cuda_bfloat16=has_cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        has_mps=torch.backends.mps.is_available(),
    )


def choose_device(found: Accelerators, device: DeviceName, dtype: DtypeName) -> DeviceChoice:
    """Choose CUDA before Metal before the CPU, and the precision that suits it.

    Raises:
        SettingsError: The device asked for is not there.
    """
    if device != "auto" and device not in found.names:
        available = ", ".join(found.names)
        raise SettingsError(f"DEVICE={device}: not found here; available: {available}")
    name = found.names[0] if device == "auto" else device
    how = "was found" if device == "auto" else "was asked for"
    precision, why = _choose_dtype(found, name, dtype)
    return DeviceChoice(
        device="cuda:0" if name == "cuda" else name,
        dtype=precision,
        reason=f"{_describe(found, name, how)}; {precision} because {why}.",
    )


def suit_cpu(choice: DeviceChoice, num_parameters: int, dtype: DtypeName) -> DeviceChoice:
    """Refine the choice of the CPU for a model of this size; imports torch.

    Args:
        choice: As `select_device` made it.
        num_parameters: Of the model.
        dtype: As the operator asked for it.
    """
    where, _, why_dtype = choice.reason.rstrip(".").partition("; ")
    precision = choice.dtype
    if dtype == "auto":
        precision, why = choose_cpu_dtype(detect_cpu_features(), num_parameters)
        why_dtype = f"{precision} because {why}"
    num_threads = choose_num_threads(num_parameters, count_cpus())
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    reason = f"{where}; {why_dtype}; {threads} for {num_parameters / 1e6:,.0f}M parameters."
    return DeviceChoice(choice.device, precision, reason, num_threads)


def _describe(found: Accelerators, name: str, how: str) -> str:
    if name == "cuda" and found.is_rocm:
        return f"The AMD GPU {found.cuda_name} {how} (ROCm counts as CUDA)"
    if name == "cuda":
        return f"The NVIDIA GPU {found.cuda_name} {how}"
    if name == "mps":
        return f"Apple's Metal {how} (operators that it lacks run on the CPU)"
    return "The CPU was asked for" if how == "was asked for" else "No GPU was found, so the CPU"


def _choose_dtype(found: Accelerators, name: str, dtype: DtypeName) -> tuple[str, str]:
    if dtype != "auto":
        return dtype, f"TORCH_DTYPE asks for it{_caveat(found, name, dtype)}"
    if name == "cpu":
        return "float32", "every CPU computes it exactly and fast"
    if name == "mps":
        return "float16", "every Metal version computes it"
    if found.cuda_bfloat16:
        return "bfloat16", "the GPU supports it"
    return "float16", "the GPU lacks bfloat16"


def _caveat(found: Accelerators, name: str, dtype: DtypeName) -> str:
    if name == "cpu" and dtype != "float32":
        return " (it halves the memory; many CPUs compute it more slowly than float32)"
    if name == "mps" and dtype == "bfloat16":
        return " (it needs macOS 14 or later)"
    if name == "cuda" and dtype == "bfloat16" and not found.cuda_bfloat16:
        return " (this GPU only emulates it, slowly)"
    return ""
