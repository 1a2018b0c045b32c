from __future__ import annotations

from pathlib import Path

import pytest
import torch

from palma.models import cpu_features
from palma.models.bundled import bundled_model_path
from palma.models.checkpoint import count_parameters
from palma.models.cpu_features import choose_num_threads, count_cpus
from palma.models.device import DeviceChoice, suit_cpu

CPU = DeviceChoice("cpu", "float32", "The CPU was asked for; float32 because it is exact.")


def test_a_small_model_gets_one_thread_and_a_large_one_all() -> None:
    assert choose_num_threads(4_300_000, num_cpus=8) == 1
    assert choose_num_threads(135_000_000, num_cpus=8) == 8


def test_a_containers_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(cpu_features, "CGROUP_QUOTA_FILE", quota)
    unbounded = count_cpus()
    quota.write_text("100000 100000\n")
    assert count_cpus() == 1
    quota.write_text("50000 100000\n")
    assert count_cpus() == 1
    quota.write_text("max 100000\n")
    assert count_cpus() == unbounded == min(torch.get_num_threads(), unbounded)


def test_the_reason_names_device_precision_and_threads() -> None:
    choice = suit_cpu(CPU, 4_300_000, "auto")

    assert (choice.device, choice.dtype, choice.num_threads) == ("cpu", "float32", 1)
    assert choice.reason.startswith("The CPU was asked for; float32 because ")
    assert choice.reason.endswith("; 1 thread for 4M parameters.")


def test_a_precision_that_was_asked_for_stays() -> None:
    asked = DeviceChoice("cpu", "float16", "The CPU was asked for; float16 because it was asked.")

    assert suit_cpu(asked, 10**10, "float16").dtype == "float16"


def test_parameters_are_counted_from_headers() -> None:
    assert 4_000_000 < count_parameters(bundled_model_path()) < 4_500_000


def test_pickled_parameters_are_guessed_from_the_file_size(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(2000))

    assert count_parameters(tmp_path) == 1000
