"""What this machine's processor computes well, and what that means for a model's layers."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BFLOAT16_MIN_PARAMETERS = 300_000_000
"""Below this a model is fast enough in float32, and reads little memory anyway."""

ONE_THREAD_MAX_PARAMETERS = 20_000_000
"""Up to this size handing a layer to several threads takes longer than computing it."""

CGROUP_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time for each period, in a container: "200000 100000", or "max 100000"."""


@dataclass(frozen=True, slots=True)
class CpuFeatures:
    """What torch and its kernels find in this processor.

    Attributes:
        vector_set: Torch's name of the vector instructions it uses, such as "AVX512".
        has_bfloat16: It multiplies bfloat16 by itself (AVX512_BF16, AMX, or ARM's BF16).
        has_amx: It has Intel's tile matrix unit.
        has_exact_int8: It sums products of 8-bit integers in 32 bits (AVX512_VNNI); others may
            saturate at 16 bits.
        has_onednn: Torch was built with oneDNN.
        has_onednn_bfloat16: oneDNN's linear layers take bfloat16 here, natively or not.
        has_int8_linears: Torch's x86 int8 linear layers (FBGEMM) run here.
    """

    vector_set: str = "DEFAULT"
    has_bfloat16: bool = False
    has_amx: bool = False
    has_exact_int8: bool = False
    has_onednn: bool = False
    has_onednn_bfloat16: bool = False
    has_int8_linears: bool = False


def detect_cpu_features() -> CpuFeatures:
    """Ask torch what it found; imports torch."""
    import torch

    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    onednn_bfloat16 = has_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    is_arm = platform.machine().lower() in {"aarch64", "arm64"}
    has_amx = torch.cpu._is_amx_tile_supported()
    return CpuFeatures(
        vector_set=torch.backends.cpu.get_cpu_capability(),
        # On x86 oneDNN also takes bfloat16 where it must emulate it; on ARM it does not.
        has_bfloat16=(onednn_bfloat16 and is_arm)
        or has_amx
        or torch.cpu._is_avx512_bf16_supported(),
        has_amx=has_amx,
        has_exact_int8=torch.cpu._is_vnni_supported(),
        has_onednn=has_onednn,
        has_onednn_bfloat16=onednn_bfloat16,
        has_int8_linears="fbgemm" in torch.backends.quantized.supported_engines,
    )


def choose_cpu_dtype(
    found: CpuFeatures, num_parameters: int
) -> tuple[Literal["bfloat16", "float32"], str]:
    """Choose the precision for TORCH_DTYPE=auto on the CPU.

    Returns:
        Torch's name of the precision, and the reason as the end of a sentence: "... because".
    """
    if not found.has_bfloat16:
        return "float32", "this processor does not multiply bfloat16 by itself"
    if not found.has_onednn_bfloat16:
        return "float32", "this build of torch has no fast bfloat16 layers for the processor"
    if num_parameters <= BFLOAT16_MIN_PARAMETERS:
        return "float32", "a model of this size is fast in it too"
    return "bfloat16", "the processor multiplies it natively, and it takes half the memory"


def choose_num_threads(num_parameters: int, num_cpus: int) -> int:
    """Choose how many torch threads compute one model."""
    return 1 if num_parameters <= ONE_THREAD_MAX_PARAMETERS else num_cpus


def count_cpus() -> int:
    """Return the processors that this process may use, and torch would; imports torch.

    OMP_NUM_THREADS and the container's quota count: threads beyond it only take turns.
    """
    import torch

    num_cpus = torch.get_num_threads()
    if hasattr(os, "sched_getaffinity"):
        num_cpus = min(num_cpus, len(os.sched_getaffinity(0)))
    try:
        quota, period = CGROUP_QUOTA_FILE.read_text(encoding="ascii").split()
        num_cpus = min(num_cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no container, or one without a quota
        pass
    return num_cpus
