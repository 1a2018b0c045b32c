"""What is counted and timed, in Prometheus' terms; one registry for each app, none global."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Telemetry:
    """The metrics of one server. Labels never hold what clients wrote."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "palma_requests_total",
            "Requests that ended, by how.",
            ["outcome"],
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "palma_prompt_tokens_total", "Prompt tokens taken.", registry=self.registry
        )
        self.completion_tokens = Counter(
            "palma_completion_tokens_total", "Completion tokens made.", registry=self.registry
        )
        self.ttft_s = Histogram(
            "palma_time_to_first_token_seconds",
            "From the request's arrival to its first text.",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.duration_s = Histogram(
            "palma_request_duration_seconds",
            "From the request's arrival to its end.",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read at the moment of each scrape."""
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
