"""Whether a model's weights fit into memory, before a single one is read."""

from __future__ import annotations

from dataclasses import dataclass

from palma.core.errors import ModelLoadError
from palma.models.device import DeviceChoice
from palma.models.resources import available_bytes

_BYTES_PER_PARAMETER = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What weights need, and what there is.

    Attributes:
        needed_bytes: For the weights alone, in their precision.
        free_bytes: What the device could give now.
    """

    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the weights fit."""
        return self.needed_bytes <= self.free_bytes

    @classmethod
    def of(cls, num_parameters: int, choice: DeviceChoice) -> MemoryNeed:
        """Compare a model of this size with the memory of its device."""
        needed_bytes = num_parameters * _BYTES_PER_PARAMETER[choice.dtype]
        return cls(needed_bytes, available_bytes(choice.device))


def require_memory(need: MemoryNeed) -> None:
    """Refuse a model that would take more memory than there is, and the process with it.

    Raises:
        ModelLoadError: Its message has both figures.
    """
    if not need.fits:
        raise ModelLoadError(
            f"its weights need {need.needed_bytes / 1e9:.2f} GB of memory, and "
            f"{need.free_bytes / 1e9:.2f} GB are free (insufficient_memory): unload another "
            "model, or choose a smaller one or a TORCH_DTYPE of fewer bytes"
        )
