"""OpenAI's list of models: GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.openai_shapes import ErrorAnswer
from palma.api.operation import Dialect, Operation
from palma.api.wire import json_response
from palma.core.errors import InvalidRequest, ModelNotFound
from palma.core.model_card import ModelCard


class ModelAnswer(TypedDict):
    """OpenAI's fields, and beside them what runs the model, where, and why there."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    engine: str
    engine_reason: str
    device: str
    dtype: str
    device_reason: str
    embeddings: str


class ModelList(TypedDict):
    """All models that answer."""

    object: Literal["list"]
    data: list[ModelAnswer]


async def list_models(request: Request) -> Response:
    """GET /v1/models: the models that answer now."""
    cards = request.state.service.registry.cards() + request.state.embeddings.cards()
    answer: ModelList = {"object": "list", "data": [model_answer(card) for card in cards]}
    return json_response(answer)


async def retrieve_model(request: Request) -> Response:
    """GET /v1/models/{id}: one of them, or 404."""
    model_id = request.path_params["model_id"]
    card = next((c for c in request.state.embeddings.cards() if c.model_id == model_id), None)
    try:
        card = card or request.state.service.registry.get(model_id).card
    except InvalidRequest as error:  # in a path, a name that nothing can have is nothing found
        raise ModelNotFound(error.message, param="model") from None
    return json_response(model_answer(card))


def model_answer(card: ModelCard) -> ModelAnswer:
    """Return a model's card in OpenAI's words."""
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
        "embeddings": card.embeddings,
    }


DIALECT = Dialect(
    name="OpenAI models",
    operations=(
        Operation("GET", "/v1/models", list_models, "List the models.", answer=ModelList),
        Operation(
            "GET",
            "/v1/models/{model_id:path}",
            retrieve_model,
            "Describe a model.",
            answer=ModelAnswer,
        ),
    ),
    error=ErrorAnswer,
)
