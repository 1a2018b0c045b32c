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
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response

from palma.api import ollama_shapes, ops
from palma.api.auth import AuthMiddleware
from palma.api.dialects import (
    anthropic,
    falcon,
    gallama,
    llama_stack,
    ollama,
    ollama_embeddings,
    ollama_models,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    openai_responses,
    palma,
    rerank,
    tokenize,
)
from palma.api.docs import routes as docs
from palma.api.docs.routes import Documentation
from palma.api.drain import DrainOnSignal
from palma.api.errors import Envelope, ErrorResponses, MethodNotAllowed, RouteNotFound
from palma.api.middleware import (
    CorsMiddleware,
    ErrorMiddleware,
    OptionsMiddleware,
    RequestIdMiddleware,
)
from palma.api.openai_shapes import error_answer
from palma.api.wire import LINES_MEDIA_TYPE
from palma.core.access import Door
from palma.core.config import Settings
from palma.core.errors import PalmaError
from palma.core.telemetry import Telemetry
from palma.serving.database import check_url
from palma.serving.downloads import Downloads
from palma.serving.embeddings import EmbeddingService
from palma.serving.encoders import EncoderPlan, plan_encoders
from palma.serving.health import HealthMonitor
from palma.serving.instance import LoadEngine, LoadPlan
from palma.serving.model_options import startup_plans
from palma.serving.registry import ModelRegistry, load_engine
from palma.serving.response_store import ResponseStore
from palma.serving.service import GenerationService

logger = logging.getLogger(__name__)

GZIP_MINIMUM_BYTES = 1000

DIALECTS = (
    ops.DIALECT,
    docs.DIALECT,
    palma.DIALECT,
    openai_chat.DIALECT,
    openai_completions.DIALECT,
    openai_models.DIALECT,
    openai_responses.DIALECT,
    openai_embeddings.DIALECT,
    rerank.DIALECT,
    tokenize.DIALECT,
    anthropic.DIALECT,
    ollama.DIALECT,
    ollama_models.DIALECT,
    ollama_embeddings.DIALECT,
    llama_stack.DIALECT,
    gallama.DIALECT,
    falcon.DIALECT,  # last: its paths take any name, the literal ones of others included
)

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
    anthropic.PREFIX: anthropic.error_answer,
    ollama_models.ROOT: ollama_shapes.error_answer,
    ollama_shapes.PREFIX: ollama_shapes.error_answer,
    llama_stack.COMPLETION: llama_stack.error_answer,
    llama_stack.CHAT_COMPLETION: llama_stack.error_answer,
    llama_stack.V1_PREFIX: llama_stack.error_answer,
    **dict.fromkeys(gallama.PATHS, gallama.error_answer),
    falcon.INFERENCE: falcon.error_answer,
    falcon.PREDICTIONS: falcon.error_answer,
    falcon.CHAT: falcon.error_answer,
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
        SettingsError: MODEL_ID, MODELS or the like names nothing that could be a model, or
            RESPONSES_DATABASE_URL no database.
    """
    check_url(settings)
    plans = startup_plans(settings)
    encoder_plans = plan_encoders(settings)
    error_responses = ErrorResponses(ENVELOPES, default=error_answer)
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(RequestIdMiddleware),
            Middleware(CorsMiddleware, settings.allowed_origins),
            Middleware(ErrorMiddleware, settings, error_responses),
            Middleware(OptionsMiddleware, settings.default_access_control_max_age, ROUTES),
            Middleware(
                GZipMiddleware,
                minimum_size=GZIP_MINIMUM_BYTES,
                exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, LINES_MEDIA_TYPE),
            ),
            Middleware(AuthMiddleware, Door.of(settings), PUBLIC_PATHS),
        ],
        exception_handlers={HTTPException: _raise_own_error},
        lifespan=_lifespan(settings, plans, encoder_plans, load, on_load_failure),
    )
    app.router.redirect_slashes = False
    return app


def _lifespan(
    settings: Settings,
    plans: list[LoadPlan],
    encoder_plans: list[EncoderPlan],
    load: LoadEngine,
    on_load_failure: Callable[[PalmaError], None] | None,
) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        # One thread more than may generate, for prompts, and one for encoders: so neither waits.
        executor = ThreadPoolExecutor(settings.threads_max_workers + 2, "palma")
        registry = ModelRegistry(plans, load, executor)
        telemetry = Telemetry()
        service = GenerationService(settings, registry, executor, telemetry)
        embeddings = EmbeddingService(settings, encoder_plans, service, executor, telemetry)
        response_store = ResponseStore(settings)
        background_responses = openai_responses.BackgroundResponses()
        health = HealthMonitor(service, settings.stall_timeout_s)
        telemetry.watch("palma_requests_running", "Being computed.", lambda: service.num_running)
        telemetry.watch("palma_requests_waiting", "Taken, waiting.", lambda: service.num_waiting)
        drain = DrainOnSignal(
            service.refuse_new_requests,
            lambda: service.drain(settings.shutdown_grace_s),
            last_bytes_s=max(settings.send_timeout_s, settings.body_timeout_s),
        )
        drain.install()
        loading = asyncio.create_task(_load(registry, embeddings, on_load_failure))
        try:
            yield {
                "settings": settings,
                "service": service,
                "embeddings": embeddings,
                "response_store": response_store,
                "background_responses": background_responses,
                "health": health,
                "telemetry": telemetry,
                "downloads": Downloads(settings),
                "documentation": Documentation(DIALECTS, needs_key=not Door.of(settings).is_open),
            }
        finally:
            loading.cancel()
            await service.drain(grace_s=0)
            await background_responses.close()
            await response_store.close()
            await asyncio.to_thread(service.close)
            await registry.close()
            await asyncio.to_thread(executor.shutdown)
            embeddings.close()
            drain.uninstall()

    return lifespan


async def _load(
    registry: ModelRegistry,
    embeddings: EmbeddingService,
    on_load_failure: Callable[[PalmaError], None] | None,
) -> None:
    await registry.load()
    if registry.failure is not None:
        if on_load_failure is not None:
            on_load_failure(registry.failure)
        else:
            logger.error("cannot serve: %s", registry.failure.message)
    await embeddings.load()


def _raise_own_error(request: Request, error: Exception) -> Response:
    """Turn Starlette's errors into ours, which ErrorMiddleware answers in the right envelope."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        raise MethodNotAllowed(request.method, allowed)
    raise RouteNotFound(f"There is nothing at {request.scope['path'][:200]!r}.")
