"""For operators and load balancers: probes that never wait on the engine, and metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from palma.api.wire import json_response
from palma.serving.health import Health

PROBE_PATHS = frozenset({"/livez", "/readyz", "/startupz"})


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


routes = [
    Route("/livez", livez),
    Route("/readyz", readyz),
    Route("/startupz", startupz),
    Route("/metrics", metrics),
]
