"""What leaves memory, and what must not."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from palma.models.process_memory import MappedFiles, own_memory, trim_heap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it does nothing")

NUM_VALUES = 16 * mmap.PAGESIZE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in a cache's way: its file is a link."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    save_file({"weight": torch.arange(NUM_VALUES).float()}, tmp_path / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blobs" / "abc")
    return snapshot


def mapped_weight(folder: Path) -> torch.Tensor:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        weight: torch.Tensor = file.get_tensor("weight")
    return weight


def resident_bytes(tensor: torch.Tensor) -> int:
    """What of the mapping that holds this tensor is in this process's memory."""
    address, is_inside = tensor.data_ptr(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        span = line.split(" ", 1)[0]
        if "-" in span and not span.endswith(":"):
            first, last = (int(number, 16) for number in span.split("-"))
            is_inside = first <= address < last
        elif is_inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the tensor lies in no mapping")


def test_an_owned_tensor_is_a_copy_and_its_file_leaves_memory(folder: Path) -> None:
    weight = mapped_weight(folder)
    expected = torch.arange(NUM_VALUES).float()
    assert torch.equal(weight, expected)  # reads every page
    before = resident_bytes(weight)
    copy = own_memory(weight, MappedFiles(folder))
    assert resident_bytes(weight) <= before - weight.nbytes + 2 * mmap.PAGESIZE
    assert torch.equal(copy, expected)
    assert torch.equal(weight, expected), "whoever reads there again gets the file's bytes"


def test_memory_that_is_no_file_keeps_its_values(folder: Path) -> None:
    mapped = MappedFiles(folder)
    plain = torch.ones(NUM_VALUES)
    own_memory(plain, mapped)
    assert plain.eq(1).all()


def test_the_files_of_another_folder_stay(folder: Path, tmp_path: Path) -> None:
    weight = mapped_weight(folder)
    weight.sum()
    before = resident_bytes(weight)
    (tmp_path / "other").mkdir()
    own_memory(weight, MappedFiles(tmp_path / "other"))
    assert resident_bytes(weight) == before


def test_a_part_of_a_page_stays(folder: Path) -> None:
    """Its other part may belong to the tensor beside it."""
    weight = mapped_weight(folder)
    weight.sum()
    before = resident_bytes(weight)
    own_memory(weight[:8], MappedFiles(folder))
    assert resident_bytes(weight) == before


def test_freed_memory_leaves_the_process() -> None:
    blocks = [torch.ones(2**14) for _ in range(1000)]  # 64 KiB each: glibc keeps such
    kept = blocks.pop()
    full = process_bytes()
    del blocks
    trim_heap()
    assert process_bytes() < full - 40 * 2**20
    assert kept.eq(1).all()


def process_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
