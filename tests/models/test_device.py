from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args

import pytest

from palma.core.config import DtypeName
from palma.core.errors import SettingsError
from palma.models.device import (
    Accelerators,
    DeviceName,
    choose_device,
    prepare_environment,
    select_device,
)

BARE = Accelerators()
MAC = Accelerators(has_mps=True)
OLD_GPU = Accelerators(has_cuda=True, cuda_name="Tesla T4")
NEW_GPU = Accelerators(has_cuda=True, cuda_name="H200", cuda_bfloat16=True)
AMD_GPU = Accelerators(has_cuda=True, is_rocm=True, cuda_name="MI300X", cuda_bfloat16=True)
BOTH = Accelerators(has_cuda=True, cuda_name="H200", cuda_bfloat16=True, has_mps=True)


@pytest.mark.parametrize(
    ("found", "device", "expected"),
    [
        (BARE, "auto", ("cpu", "float32")),
        (MAC, "auto", ("mps", "float16")),
        (OLD_GPU, "auto", ("cuda:0", "float16")),
        (NEW_GPU, "auto", ("cuda:0", "bfloat16")),
        (AMD_GPU, "auto", ("cuda:0", "bfloat16")),
        (BOTH, "auto", ("cuda:0", "bfloat16")),
        (BOTH, "mps", ("mps", "float16")),
        (BOTH, "cpu", ("cpu", "float32")),
    ],
)
def test_cuda_comes_before_metal_before_the_cpu_unless_one_is_asked_for(
    found: Accelerators, device: DeviceName, expected: tuple[str, str]
) -> None:
    choice = choose_device(found, device, "auto")

    assert (choice.device, choice.dtype) == expected


@pytest.mark.parametrize("found", [BARE, MAC, OLD_GPU, NEW_GPU, AMD_GPU])
@pytest.mark.parametrize("dtype", [name for name in get_args(DtypeName) if name != "auto"])
def test_a_precision_that_was_asked_for_is_taken_everywhere(
    found: Accelerators, dtype: DtypeName
) -> None:
    choice = choose_device(found, "auto", dtype)

    assert choice.dtype == dtype
    assert "TORCH_DTYPE asks for it" in choice.reason


@pytest.mark.parametrize(
    ("found", "device", "available"),
    [(BARE, "cuda", "cpu"), (MAC, "cuda", "mps, cpu"), (NEW_GPU, "mps", "cuda, cpu")],
)
def test_an_absent_device_that_was_asked_for_is_refused_with_what_is_there(
    found: Accelerators, device: DeviceName, available: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        choose_device(found, device, "auto")

    assert caught.value.message == f"DEVICE={device}: not found here; available: {available}"


@pytest.mark.parametrize(
    ("found", "dtype", "words"),
    [
        (BARE, "auto", "No GPU was found, so the CPU; float32 because"),
        (BARE, "float16", "halves the memory"),
        (MAC, "auto", "operators that it lacks run on the CPU"),
        (MAC, "bfloat16", "macOS 14"),
        (OLD_GPU, "auto", "lacks bfloat16"),
        (OLD_GPU, "bfloat16", "emulates"),
        (NEW_GPU, "auto", "NVIDIA GPU H200"),
        (AMD_GPU, "auto", "ROCm counts as CUDA"),
    ],
)
def test_the_reason_is_one_sentence_that_says_why(
    found: Accelerators, dtype: DtypeName, words: str
) -> None:
    reason = choose_device(found, "auto", dtype).reason

    assert words in reason
    assert reason.endswith(".")
    assert "\n" not in reason


def test_preparing_the_environment_keeps_what_the_operator_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "0")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)

    prepare_environment()

    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "0"
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_the_cpu_can_be_asked_for_on_every_machine() -> None:
    choice = select_device("cpu", "auto")

    assert (choice.device, choice.dtype) == ("cpu", "float32")


@pytest.mark.parametrize("module", ["device", "spec", "download", "loader", "tokenizer"])
def test_importing_a_module_of_this_room_imports_no_heavy_library(module: str) -> None:
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'tokenizers'}"
    code = f"import palma.models.{module}, sys; sys.exit(str({heavy} & set(sys.modules) or ''))"

    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert finished.stderr.strip() == ""


@pytest.mark.gpu
def test_a_gpu_is_chosen_by_itself_and_named_in_the_reason() -> None:
    import torch

    choice = select_device("auto", "auto")

    assert choice.device == "cuda:0"
    assert torch.cuda.get_device_name(0) in choice.reason
