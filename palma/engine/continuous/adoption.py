"""Moves a model onto the C++ kernel, a part at a time, while it serves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from palma.engine.continuous.cpu_kernel import DecodeKernel
from palma.engine.continuous.cpu_kernel.decoder import StepDecoder, UnknownModel, require_known
from palma.engine.continuous.packed_linear import WeightFormat, pack_linears, unpack_linears
from palma.engine.continuous.runner import Runner
from palma.engine.continuous.self_check import UnsupportedModel, check_step_decoder

logger = logging.getLogger(__name__)


class Adoption(Protocol):
    """Taking something faster into use while requests run; belongs to the engine's thread."""

    @property
    def is_blocked(self) -> bool:
        """Whether the next part must wait for somebody else."""

    def advance(self) -> bool:
        """Do the next part; return whether there are more."""


class KernelAdoption:
    """The work of taking a kernel into use; belongs to the engine's thread.

    Attention goes first, then the linear layers, part by part, so that running requests wait
    for one part at most. A model that is built like Llama then decodes in one call a step, after
    a check that its logits are the same.

    Args:
        model: Its linear layers may be packed for oneDNN already.
        runner: Runs it.
        kernel: What shall compute it.
        weights: The format that was asked for.
    """

    def __init__(
        self, model: Any, runner: Runner, kernel: DecodeKernel, weights: WeightFormat
    ) -> None:
        self._model = model
        self._runner = runner
        self._kernel = kernel
        self._weights = weights
        self._started = time.monotonic()
        self._parts = self._steps()
        self.is_blocked = False

    def advance(self) -> bool:
        """Do the next part; return whether there are more."""
        try:
            next(self._parts)
        except StopIteration:
            return False
        return True

    def finish(self) -> None:
        """Do all parts that are left."""
        while self.advance():
            pass

    def _steps(self) -> Iterator[None]:
        self._runner.use_kernel(self._kernel)
        try:
            require_known(self._model)
        except UnknownModel as error:
            logger.info("decoding with the C++ attention kernel only: %s", error)
            return
        if self._model.dtype not in self._kernel.linear_dtypes:
            logger.info("decoding with the C++ attention kernel only: the processor lacks AVX-512")
            return
        for layer in self._model.model.layers:
            self._repack(layer)
            yield
        self._repack(self._model)
        yield
        self._use_step_decoder()

    def _repack(self, part: torch.nn.Module) -> None:
        unpack_linears(part)
        pack_linears(
            part, self._weights, join_siblings=True, kernel=self._kernel, keeps_small=False
        )

    def _use_step_decoder(self) -> None:
        try:
            rules = check_step_decoder(self._model, self._kernel)
            decoder = StepDecoder(self._model, self._kernel, self._runner.kv_cache, rules)
        except (UnknownModel, UnsupportedModel) as error:
            logger.warning("decoding with the C++ attention and linear kernels only: %s", error)
            return
        finally:
            self._runner.attach()
        self._runner.use_step_decoder(decoder)
        took_s = time.monotonic() - self._started
        logger.info("decoding with the C++ kernel, a step a call (ready in %.1f s)", took_s)
