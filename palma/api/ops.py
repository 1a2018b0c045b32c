"""For operators and load balancers: probes that never wait on the engine, and metrics."""

from __future__ import annotations

from typing import Any, NotRequired

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.openai_shapes import ErrorAnswer
from palma.api.operation import Dialect, Operation
from palma.api.wire import json_response
from palma.serving.health import Health, Status


class ProbeAnswer(TypedDict):
    """What a probe says; the reason is there unless all is well."""

    status: Status
    reason: NotRequired[str]


async def livez(request: Request) -> Response:
    """GET /livez: the process runs and its engine's heart beats; 503 asks for a restart."""
    return _probe(request.state.health.live())


async def readyz(request: Request) -> Response:
    """GET /readyz: a request sent now would be taken."""
    return _probe(request.state.health.ready())


async def startupz(request: Request) -> Response:
    """GET /startupz: the model has been loaded."""
    return _probe(request.state.health.started())


async def metrics(request: Request) -> Response:
    """GET /metrics: counts and times in Prometheus' text format."""
    body = request.state.telemetry.render()
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def _probe(health: Health) -> Response:
    if health.is_ok:
        return json_response({"status": "ok"})
    return json_response({"status": health.status, "reason": health.reason}, 503)


PROBE: dict[str, Any] = {
    "answer": ProbeAnswer,
    "other_answers": ((503, ProbeAnswer),),
    "is_public": True,
}

DIALECT = Dialect(
    name="Operation",
    operations=(
        Operation("GET", "/livez", livez, "Whether the process lives.", **PROBE),
        Operation("GET", "/readyz", readyz, "Whether a request sent now is taken.", **PROBE),
        Operation("GET", "/v1/health", readyz, "The same, by cria's name.", **PROBE),
        Operation("GET", "/startupz", startupz, "Whether the model is loaded.", **PROBE),
        Operation(
            "GET", "/metrics", metrics, "Counts and times for Prometheus.", media_type="text/plain"
        ),
    ),
    error=ErrorAnswer,
)
