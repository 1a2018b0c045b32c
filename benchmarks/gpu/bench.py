"""What the parts share: the device and its limits, the model, the engine, the results so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.limits import Limits, measure_limits
from benchmarks.gpu.model import DeviceKind, ModelName, RandomModel, make_model
from benchmarks.gpu.table import Goal, Row
from benchmarks.gpu.workload import Workload
from palma.core.config import Settings
from palma.engine import create_engine
from palma.engine.base import Engine
from palma.models.resources import release_memory

SPARE_THREADS = 4


@dataclass(frozen=True, slots=True)
class EngineStart:
    """What it took from a loaded model to an engine at full speed.

    Attributes:
        created_s: Until `create_engine` returned.
        ready_s: Until its `wait_ready` returned, where it has one.
    """

    created_s: float
    ready_s: float


@dataclass
class Bench:
    """One run. Parts are functions that take it, and add rows and figures.

    Attributes:
        figures: What was measured, by part, for the JSON file and for later parts.
        part: The name of the part that runs.
        part_ends_s: When it must be over, by `time.monotonic`.
    """

    device_kind: DeviceKind
    model_name: ModelName
    workload: Workload
    max_model_len: int
    peers: tuple[str, ...]
    num_clients: int
    rows: list[Row] = field(default_factory=list)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    part: str = ""
    part_ends_s: float = 0.0
    started_s: float = field(default_factory=time.monotonic)
    _limits: Limits | None = None
    _model: RandomModel | None = None
    _engine: Engine | None = None
    _executor: ThreadPoolExecutor | None = None

    def say(self, text: str) -> None:
        """Print a line of progress at once."""
        print(f"[{time.monotonic() - self.started_s:6.1f} s] {self.part}: {text}", flush=True)

    def add(
        self,
        name: str,
        result: str,
        reference: str = "-",
        *,
        ratio: float | None = None,
        value: float | None = None,
        goal: Goal | None = None,
        note: str = "",
    ) -> None:
        """Add a row, and print it."""
        row = Row(name, result, reference, ratio, value, goal, note)
        self.rows.append(row)
        self.say(str(row))

    def note(self, **figures: Any) -> None:
        """Keep figures of the part that runs."""
        self.figures.setdefault(self.part, {}).update(figures)

    @property
    def left_s(self) -> float:
        """The time that this part still has; some is kept for its end."""
        return max(1.0, self.part_ends_s - time.monotonic() - 5)

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return torch.device("cuda:0" if self.device_kind == "cuda" else "cpu")

    @property
    def limits(self) -> Limits:
        """What the device can do; measured when first asked for."""
        if self._limits is None:
            workload = self.workload
            self._limits = measure_limits(self.device, workload.copied_bytes, workload.matmul_size)
            release_memory()
            self.say(f"limits: {self._limits}")
        return self._limits

    @property
    def model(self) -> RandomModel:
        """The model, made when first asked for."""
        if self._model is None:
            started = time.perf_counter()
            self._model = make_model(self.model_name, self.device_kind, self.max_model_len)
            loaded = self._model.loaded
            self.say(
                f"made {loaded.model_id} in {time.perf_counter() - started:.1f} s: "
                f"{loaded.weights.num_parameters / 1e9:.2f}B parameters, a step reads "
                f"{self._model.weight_bytes / 1e9:.2f} GB of weights and "
                f"{self._model.kv_token_bytes / 1e3:.1f} KB a token of context"
            )
        return self._model

    @property
    def engine(self) -> Engine:
        """The engine, started when first asked for."""
        if self._engine is None:
            self.start_engine()
        assert self._engine is not None
        return self._engine

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of the engine and of the server."""
        return Settings(
            **{
                "engine": "continuous",
                "device": self.device_kind,
                "torch_dtype": "bfloat16",
                "cpu_kernel": False,
                "threads_max_workers": self.workload.max_running,
                "max_waiting_requests": 4096,
                "responses_database_url": "sqlite://",
                "port": 0,
                **changes,
            }
        )

    def start_engine(self, **changes: Any) -> EngineStart:
        """Close the engine that runs, and start one.

        Raises:
            RuntimeError: The model would not run on the continuous engine.
        """
        self.close_engine()
        loaded = self.model.loaded
        settings = self.settings(**changes)
        self._executor = ThreadPoolExecutor(settings.threads_max_workers + SPARE_THREADS)
        self._synchronize()
        started = time.perf_counter()
        self._engine = create_engine(settings, loaded, self._executor)
        created_s = time.perf_counter() - started
        info = self._engine.info
        if info.engine != "continuous":
            raise RuntimeError(f"the engine is {info.engine}: {info.engine_reason}")
        wait_ready: Callable[[], object] | None = getattr(self._engine, "wait_ready", None)
        if wait_ready is not None:
            wait_ready()
        begun = EngineStart(created_s, time.perf_counter() - started)
        self.say(
            f"engine created in {created_s:.1f} s, ready after {begun.ready_s:.1f} s"
            f"{'' if wait_ready else ' (it has no wait_ready)'}; {info.engine_reason}"
        )
        return begun

    def close_engine(self) -> None:
        """Close the engine that runs, if there is one, and give its memory back."""
        engine, self._engine = self._engine, None
        executor, self._executor = self._executor, None
        if engine is not None:
            engine.close()
        if executor is not None:
            executor.shutdown()
        del engine, executor
        release_memory()

    def drop_model(self) -> None:
        """Forget the model: the next part that needs one gets it fresh."""
        self.close_engine()
        self._model = None
        release_memory()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
