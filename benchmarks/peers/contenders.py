"""Who is measured, and who is compared with whom. To add a server or a comparison, add a row."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.peers.openvino import OpenVino
from benchmarks.peers.palma_serve import PalmaServe
from benchmarks.peers.peer import Peer, Precision
from benchmarks.peers.transformers_serve import TransformersServe


@dataclass(frozen=True, slots=True)
class Contender:
    """A server with its flags and precision."""

    name: str
    peer: Peer
    precision: Precision


CONTINUOUS = ("--engine", "continuous")

CONTENDERS = (
    Contender("palma bf16", PalmaServe(CONTINUOUS), "bf16"),
    Contender("palma int8", PalmaServe((*CONTINUOUS, "--weights", "int8")), "int8"),
    Contender("generate in threads bf16", PalmaServe(("--engine", "threads")), "bf16"),
    Contender("transformers bf16", TransformersServe(), "bf16"),
    Contender("transformers batching bf16", TransformersServe(continuous_batching=True), "bf16"),
    Contender("llama.cpp bf16", LlamaCpp(), "bf16"),
    Contender("llama.cpp q8_0", LlamaCpp(), "q8_0"),
    Contender("llama.cpp q4_0", LlamaCpp(), "q4_0"),
    Contender("openvino fp16", OpenVino(), "fp16"),
    Contender("openvino int8", OpenVino(), "int8"),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Palma against another server in one workload.

    Attributes:
        workload: "1", "8" or "32" streams, in tokens a second; "prefill": the time to the first
            token of a 1,024-token prompt, where less is better.
        must, stretch: The ratio to reach on the 1.1B model.
        small: The two for the 115M model, where the cost of each operation counts more.
    """

    ours: str
    theirs: str
    workload: str
    must: float | None = None
    stretch: float | None = None
    small: tuple[float, float] | None = None


def _streams(
    ours: str,
    theirs: str,
    goals: dict[str, tuple[float, float]],
    small: tuple[float, float, float] | None = None,
) -> list[Comparison]:
    """Return a comparison a workload; `small`: musts of the 115M model, whose stretch is 1."""
    smalls = dict(zip(("1", "8", "32"), small or (), strict=False))
    return [
        Comparison(
            ours, theirs, workload, must, stretch,
            (smalls[workload], 1.0) if workload in smalls else None,
        )
        for workload, (must, stretch) in goals.items()
    ]  # fmt: skip


OPENVINO_GOALS = {"1": (0.9, 1.1), "8": (1.05, 1.5), "32": (1.15, 1.8)}
OPENVINO_SMALL = (0.7, 0.75, 0.75)

COMPARISONS = (
    *_streams("palma bf16", "generate in threads bf16", {"8": (4, 8), "32": (8, 15)}),
    Comparison("palma bf16", "transformers bf16", "8"),
    *_streams(
        "palma bf16",
        "transformers batching bf16",
        {"1": (1.5, 2), "8": (2, 3.5), "32": (3, 6)},
    ),
    *_streams("palma bf16", "llama.cpp bf16", {"1": (0.75, 1), "8": (1.3, 2), "32": (1.4, 2)}),
    *_streams("palma int8", "llama.cpp q8_0", {"1": (1, 1.3), "8": (2.5, 3.5), "32": (3, 4.5)}),
    *_streams("palma bf16", "openvino fp16", OPENVINO_GOALS, OPENVINO_SMALL),
    *_streams("palma int8", "openvino int8", OPENVINO_GOALS, OPENVINO_SMALL),
    Comparison("palma bf16", "openvino fp16", "prefill"),
    Comparison("palma bf16", "llama.cpp bf16", "prefill"),
    Comparison("palma int8", "openvino int8", "prefill", 1.15, 0.8),
    Comparison("palma int8", "llama.cpp q8_0", "prefill", 0.35, 0.25),
)

BANDWIDTH_GOALS = (0.65, 0.85)
"""Share of the read bandwidth that decoding one stream should use: must and stretch."""
