"""How much memory a device has left."""

from __future__ import annotations


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
