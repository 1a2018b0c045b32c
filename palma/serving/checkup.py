"""What would run a model here: device, precision, engine and memory, without serving it."""

from __future__ import annotations

from dataclasses import dataclass

from palma.core.config import Settings
from palma.engine import foresee_engine
from palma.models.device import select_device, suit_cpu
from palma.models.memory_need import MemoryNeed
from palma.models.preview import preview_model
from palma.models.spec import resolve_spec
from palma.serving.instance import LoadPlan


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found about a model.

    Attributes:
        model_id: The name that requests would use.
        is_here: Whether its files are on this machine.
        device: Torch's name of the device.
        dtype: Torch's name of the precision.
        device_reason: Why these two.
        engine: Name of the engine.
        engine_reason: Why that one.
        num_parameters: Size of the model.
        memory: What its weights need and what is free.
    """

    model_id: str
    is_here: bool
    device: str
    dtype: str
    device_reason: str
    engine: str
    engine_reason: str
    num_parameters: int
    memory: MemoryNeed


def check_up(plan: LoadPlan) -> Checkup:
    """Look at a model as `palma serve` would load it; imports torch, reads headers only.

    Raises:
        ModelLoadError: It is out of reach, broken or refused.
        SettingsError: The device asked for is not there.
    """
    settings: Settings = plan.settings
    choice = select_device(settings.device, settings.torch_dtype)
    preview = preview_model(resolve_spec(settings), settings)
    if choice.device == "cpu":
        choice = suit_cpu(choice, preview.num_parameters, settings.torch_dtype)
    engine, engine_reason = foresee_engine(settings, preview.folder)
    return Checkup(
        model_id=plan.model_id,
        is_here=preview.is_here,
        device=choice.device,
        dtype=choice.dtype,
        device_reason=choice.reason,
        engine=engine,
        engine_reason=engine_reason,
        num_parameters=preview.num_parameters,
        memory=MemoryNeed.of(preview.num_parameters, choice),
    )
