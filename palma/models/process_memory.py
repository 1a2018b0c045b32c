"""Gives memory that nobody needs any more back to the operating system, where Linux can.

Elsewhere nothing is given back: that comes later, or with the end of the process.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from mmap import PAGESIZE
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MADV_DONTNEED = 4  # Linux's number; the module mmap names it on Linux only
_MAPS = Path("/proc/self/maps")


class MappedFiles:
    """The weights of a checkpoint that are mapped into memory at this moment.

    Args:
        folder: The checkpoint's; its files may be links.
    """

    def __init__(self, folder: Path) -> None:
        files = {str(file.resolve()) for file in folder.rglob("*.safetensors")}
        self._ranges = [span for span, path in _mapped_ranges() if path in files]

    def forget(self, address: int, num_bytes: int) -> None:
        """Let the pages inside go; whoever reads there again gets the file's bytes again.

        Memory that is not mapped from these files is left alone.
        """
        end = address + num_bytes
        if not any(first <= address and end <= last for first, last in self._ranges):
            return
        start = -(-address // PAGESIZE) * PAGESIZE
        length = end // PAGESIZE * PAGESIZE - start
        if length > 0:
            _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED)


def own_memory(tensor: torch.Tensor, mapped: MappedFiles) -> torch.Tensor:
    """Return a copy; what of the tensor was mapped from a file leaves memory."""
    copy = tensor.clone()
    if tensor.is_contiguous():
        mapped.forget(tensor.data_ptr(), tensor.nbytes)
    return copy


def trim_heap() -> None:
    """Return freed memory: glibc keeps blocks below 32 MiB to itself, gigabytes in sum."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    trim: Callable[[int], int] | None = getattr(_libc(), "malloc_trim", None)  # musl has none
    return trim


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _mapped_ranges() -> list[tuple[tuple[int, int], str]]:
    """Return (first address, one past the last) and the path of each mapped file."""
    if not _MAPS.exists():
        return []
    ranges = []
    for line in _MAPS.read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/"):
            first, last = (int(number, 16) for number in fields[0].split("-"))
            ranges.append(((first, last), fields[5]))
    return ranges
