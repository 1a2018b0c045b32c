"""Models whose weights are larger than the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from palma.core.config import Settings
from palma.core.errors import ModelLoadError
from palma.models.checkpoint import count_parameters
from palma.models.device import DeviceChoice
from palma.models.loader import load_model
from palma.models.memory_need import MemoryNeed
from palma.models.spec import ModelSpec


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_weights_need_what_their_precision_takes(dtype: str, num_bytes: int) -> None:
    need = MemoryNeed.of(1000, DeviceChoice("cpu", dtype, "a test"))

    assert need.needed_bytes == 1000 * num_bytes
    assert need.free_bytes > 1_000_000
    assert need.fits


def test_a_model_that_does_not_fit_is_refused_with_both_figures(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 109."""
    num_parameters = count_parameters(checkpoint)
    monkeypatch.setattr("palma.models.memory_need.available_bytes", lambda _: 10)

    with pytest.raises(ModelLoadError, match=r"tiny: .*insufficient_memory") as raised:
        load_model(ModelSpec("tiny", checkpoint), Settings(device="cpu"))

    assert f"{num_parameters * 4 / 1e9:.2f} GB" in raised.value.message
    assert "0.00 GB are free" in raised.value.message
