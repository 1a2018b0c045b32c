"""How many prompt tokens a step may compute, where steps come in few sizes with known costs."""

from __future__ import annotations

from palma.engine.continuous.cuda.step_graphs import StepGraphs
from palma.engine.continuous.pacer import PrefillPacer

MAX_STRETCH = 2.2
"""A step with prompts may take so many times as long as one without."""


class StepPacer:
    """Chooses the largest step that those who decode can bear.

    Args:
        graphs: They know what each size took in its trial.
        fallback: Learns from each step, and serves where there are no graphs.
    """

    def __init__(self, graphs: StepGraphs, fallback: PrefillPacer) -> None:
        self._graphs = graphs
        self.fallback = fallback

    def budget(self, num_decoding: int) -> int:
        """Return the prompt tokens that the next step may compute, at least 1.

        Args:
            num_decoding: Sequences whose next tokens it computes beside.
        """
        decode_s = self._graphs.decode_s(num_decoding) if num_decoding else None
        if decode_s is None or not self._graphs.prompt_sizes:
            return self.fallback.budget(anybody_decodes=num_decoding > 0)
        bearable = [
            size
            for size in self._graphs.prompt_sizes
            if (self._graphs.step_s(num_decoding, size) or 0.0) <= MAX_STRETCH * decode_s
        ]
        return max(bearable, default=self._graphs.prompt_sizes[0])
