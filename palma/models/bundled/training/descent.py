"""How the weights move: Muon and AdamW under one learning rate schedule."""

from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

_WARMUP_STEPS = 100
_MATRIX_LR = 0.02
_OTHER_LR = 0.003
_MAX_GRADIENT_NORM = 1.0


class Descent:
    """The optimizers of a model: Muon for its layers' matrices, AdamW for all else."""

    def __init__(self, model: nn.Module, num_steps: int, peak: float) -> None:
        weights = dict(model.named_parameters())
        matrices = [name for name, p in weights.items() if p.ndim == 2 and "layers" in name]
        others = [weights[name] for name in weights if name not in matrices]
        self._weights = list(weights.values())
        self._optimizers = (
            Muon([weights[name] for name in matrices], lr=_MATRIX_LR, weight_decay=0.01),
            AdamW(others, lr=_OTHER_LR, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self._schedules = [
            LambdaLR(optimizer, lambda step: peak * rate(step, num_steps))
            for optimizer in self._optimizers
        ]

    def step(self) -> None:
        """Move the weights along their gradients, and clear the gradients."""
        nn.utils.clip_grad_norm_(self._weights, _MAX_GRADIENT_NORM)
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def rate(step: int, num_steps: int) -> float:
    """Return the share of the full learning rate: a rise, a plateau, a fall to nothing."""
    rise = min(1.0, (step + 1) / _WARMUP_STEPS)
    fall = min(1.0, 2 * (num_steps - step) / num_steps)
    return max(0.0, min(rise, fall))
