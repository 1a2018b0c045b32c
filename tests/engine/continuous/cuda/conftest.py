"""Triton kernels run on the GPU where there is one, and in Triton's interpreter elsewhere."""

from __future__ import annotations

import pytest
import torch

HAS_GPU = torch.cuda.is_available()


@pytest.fixture
def device() -> torch.device:
    """Where kernels can run here."""
    return torch.device("cuda" if HAS_GPU else "cpu")
