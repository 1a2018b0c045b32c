"""OpenAI's list of models: GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from palma.api.wire import json_response
from palma.core.errors import InvalidRequest, ModelNotFound
from palma.core.types import ModelCard


async def list_models(request: Request) -> Response:
    """GET /v1/models: the models that answer now."""
    cards = request.state.service.registry.cards()
    return json_response({"object": "list", "data": [model_body(card) for card in cards]})


async def retrieve_model(request: Request) -> Response:
    """GET /v1/models/{id}: one of them, or 404."""
    try:
        served = request.state.service.registry.get(request.path_params["model_id"])
    except InvalidRequest as error:  # in a path, a name that nothing can have is nothing found
        raise ModelNotFound(error.message, param="model") from None
    return json_response(model_body(served.card))


def model_body(card: ModelCard) -> dict[str, Any]:
    """Return OpenAI's fields, and beside them what runs the model, where, and why there."""
    return {
        "id": card.model_id,
        "object": "model",
        "created": card.created,
        "owned_by": "palma",
        "max_model_len": card.max_model_len,
        "engine": card.engine,
        "engine_reason": card.engine_reason,
        "device": card.device,
        "dtype": card.dtype,
        "device_reason": card.device_reason,
    }


routes = [
    Route("/v1/models", list_models),
    Route("/v1/models/{model_id:path}", retrieve_model),
]
