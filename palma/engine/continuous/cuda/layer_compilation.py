"""Compiles a model's layers while it serves, and takes them into use part by part."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from palma.engine.continuous.cuda.compiled_layers import CompiledLayers
from palma.engine.continuous.cuda.packed_check import check_packed
from palma.engine.continuous.cuda.runner import CudaRunner
from palma.engine.continuous.cuda.step_graphs import StepGraphs, capture_lock
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.self_check import UnsupportedModel

logger = logging.getLogger(__name__)

WARM_LENGTHS = (128,)

LENIENCY = 2.0
"""Of the check: compiled layers round less often, so they differ from eager ones as much as these
do from the truth. A wrong layer differs tenfold more."""


class LayerCompilation:
    """Compiles on a thread of its own.

    Args:
        model: Its layers stay as they are.
        note: Told when the compiled layers are ready, from that thread.
        give_up: Called in its place when they cannot be compiled.

    Attributes:
        layers: What is compiled.
    """

    def __init__(
        self, model: Any, note: Callable[[CompiledLayers], None], give_up: Callable[[], None]
    ) -> None:
        self.layers = CompiledLayers(model)
        self._note = note
        self._give_up = give_up
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="palma-compile", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Wait for the end: a compiler cannot be interrupted, but one that waits can."""
        self._is_closed = True
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            with capture_lock:
                if self._is_closed:
                    return
                self.layers.compile(WARM_LENGTHS)
        except Exception as error:  # noqa: BLE001  # the border of a thread
            logger.warning("the layers run as they are: %s", error)
            self._give_up()
            return
        took_s = time.monotonic() - started
        logger.info("compiled %d kinds of layer calls in %.1f s", self.layers.num_graphs, took_s)
        self._note(self.layers)


class CompiledAdoption:
    """The work of taking compiled layers into use; belongs to the engine's thread.

    First it compares their logits with the model's own. Then each step size is captured anew, one
    at a time, so that running requests wait for one capture at most.

    Args:
        model: Whose layers they are.
        layers: Compiled.
        runner: Of that model.
        graphs: Of that runner.
        sample: A cache that has seen all layers, for their shapes.
    """

    def __init__(
        self,
        model: Any,
        layers: CompiledLayers,
        runner: CudaRunner,
        graphs: StepGraphs,
        sample: KVCache,
    ) -> None:
        self._model = model
        self._layers = layers
        self._runner = runner
        self._graphs = graphs
        self._sample = sample
        self._parts = self._steps()

    @property
    def is_blocked(self) -> bool:
        """Whether another model is being compiled."""
        return capture_lock.locked()

    def advance(self) -> bool:
        """Do the next part; return whether there are more."""
        try:
            next(self._parts)
        except StopIteration:
            return False
        return True

    @torch.inference_mode()
    def _steps(self) -> Iterator[None]:
        self._runner.detach()
        try:
            check_packed(self._model, self._sample, self._layers.install, leniency=LENIENCY)
        except UnsupportedModel as error:
            self._layers.remove()
            logger.warning("the layers run as they are: compiled, %s", error)
            return
        except BaseException:
            self._layers.remove()  # they are bound to the check's own cache
            raise
        finally:
            self._runner.attach()
        self._layers.install()
        yield
        for _ in self._graphs.capture_parts():
            yield
