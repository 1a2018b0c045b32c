"""How much memory a device has left, and giving some back."""

from __future__ import annotations

import gc
import sys


def available_bytes(device: str) -> int:
    """Return the bytes that a device could still give; imports torch for a GPU.

    Args:
        device: Torch's name of the device. Metal shares the memory of the CPU.
    """
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free
    import psutil

    available: int = psutil.virtual_memory().available
    return available


def release_memory() -> None:
    """Give the memory of models that nobody holds any more back to the device."""
    gc.collect()
    torch = sys.modules.get("torch")  # a process without torch has nothing on a GPU
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
