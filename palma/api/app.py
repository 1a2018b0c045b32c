"""The application: routes, middleware, error handling, and what lives as long as it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response

from palma.api import ops
from palma.api.auth import ApiKeyMiddleware
from palma.api.dialects import openai_chat, openai_models, palma
from palma.api.drain import DrainOnSignal
from palma.api.errors import Envelope, ErrorResponses, MethodNotAllowed, RouteNotFound
from palma.api.middleware import (
    CorsMiddleware,
    ErrorMiddleware,
    OptionsMiddleware,
    RequestIdMiddleware,
)
from palma.api.openai_shapes import error_answer
from palma.core.config import Settings
from palma.core.errors import PalmaError
from palma.core.telemetry import Telemetry
from palma.serving.health import HealthMonitor
from palma.serving.registry import LoadEngine, ModelRegistry, load_engine, served_model_id
from palma.serving.service import GenerationService

logger = logging.getLogger(__name__)

GZIP_MINIMUM_BYTES = 1000

DIALECTS = (ops.DIALECT, palma.DIALECT, openai_chat.DIALECT, openai_models.DIALECT)

ROUTES = [route for dialect in DIALECTS for route in dialect.routes]

PUBLIC_PATHS = frozenset(
    operation.path
    for dialect in DIALECTS
    for operation in dialect.operations
    if operation.is_public
)

ENVELOPES: dict[str, Envelope] = {
    palma.PREFIX: palma.error_answer,
    palma.SECOND_HEALTH_PATH: palma.error_answer,
}


def create_app(
    settings: Settings,
    *,
    load: LoadEngine = load_engine,
    on_load_failure: Callable[[PalmaError], None] | None = None,
) -> Starlette:
    """Build the application; nothing is loaded or started before its lifespan begins.

    Args:
        settings: All of the operator's choices.
        load: Makes the engine, on a thread of its own, while the server already answers probes.
        on_load_failure: Called when it cannot; otherwise the server stays up as `unhealthy`.

    Raises:
        SettingsError: MODEL_ID names nothing that could be a model.
    """
    model_id = served_model_id(settings)
    error_responses = ErrorResponses(ENVELOPES, default=error_answer)
    api_key = settings.api_key.get_secret_value() if settings.api_key else None
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(RequestIdMiddleware),
            Middleware(CorsMiddleware, settings.allowed_origins),
            Middleware(ErrorMiddleware, settings, error_responses),
            Middleware(OptionsMiddleware, settings.default_access_control_max_age, ROUTES),
            Middleware(GZipMiddleware, minimum_size=GZIP_MINIMUM_BYTES),
            Middleware(ApiKeyMiddleware, api_key, PUBLIC_PATHS),
        ],
        exception_handlers={HTTPException: _raise_own_error},
        lifespan=_lifespan(settings, model_id, load, on_load_failure),
    )
    app.router.redirect_slashes = False
    return app


def _lifespan(
    settings: Settings,
    model_id: str,
    load: LoadEngine,
    on_load_failure: Callable[[PalmaError], None] | None,
) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        # One thread more than may generate: prompts are tokenized while all others are busy.
        executor = ThreadPoolExecutor(settings.threads_max_workers + 1, "palma")
        registry = ModelRegistry(settings, model_id, executor, load)
        telemetry = Telemetry()
        service = GenerationService(settings, registry, executor, telemetry)
        health = HealthMonitor(service, settings.stall_timeout_s)
        telemetry.watch("palma_requests_running", "Being computed.", lambda: service.num_running)
        telemetry.watch("palma_requests_waiting", "Taken, waiting.", lambda: service.num_waiting)
        drain = DrainOnSignal(
            service.refuse_new_requests,
            lambda: service.drain(settings.shutdown_grace_s),
            last_bytes_s=max(settings.send_timeout_s, settings.body_timeout_s),
        )
        drain.install()
        loading = asyncio.create_task(_load(registry, on_load_failure))
        try:
            yield {
                "settings": settings,
                "service": service,
                "health": health,
                "telemetry": telemetry,
            }
        finally:
            loading.cancel()
            await service.drain(grace_s=0)
            await registry.close()
            await asyncio.to_thread(executor.shutdown)
            drain.uninstall()

    return lifespan


async def _load(
    registry: ModelRegistry, on_load_failure: Callable[[PalmaError], None] | None
) -> None:
    await registry.load()
    if registry.failure is None:
        return
    if on_load_failure is not None:
        on_load_failure(registry.failure)
    else:
        logger.error("cannot serve: %s", registry.failure.message)


def _raise_own_error(request: Request, error: Exception) -> Response:
    """Turn Starlette's errors into ours, which ErrorMiddleware answers in the right envelope."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        raise MethodNotAllowed(request.method, allowed)
    raise RouteNotFound(f"There is nothing at {request.scope['path'][:200]!r}.")
