"""Ollama's view of the models: /api/tags, show, ps, pull and version; what it may not change."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Never, NotRequired

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from typing_extensions import TypedDict

from palma.api.errors import Forbidden
from palma.api.fields import NeutralOnly
from palma.api.management import require_management
from palma.api.ollama_shapes import (
    PREFIX,
    ErrorAnswer,
    ModelName,
    error_answer,
    find_model,
    plain_name,
    timestamp,
)
from palma.api.operation import Dialect, Operation
from palma.api.wire import LINES_MEDIA_TYPE, LineStream, json_response, line, parse_body, read_json
from palma.core.config import Settings
from palma.core.errors import PalmaError
from palma.core.model_card import ModelCard
from palma.serving.downloads import Download
from palma.serving.model_options import spec_requested
from palma.version import __version__

ROOT = "/"

RUNNING = "Ollama is running"
"""What Ollama's clients look for at the root."""

NEVER = "9999-12-31T23:59:59Z"
"""When models are unloaded for want of requests."""

Capability = Literal["completion", "embedding", "tools"]


class ShowBody(BaseModel):
    """Which model to describe."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: ModelName

    verbose: Annotated[Any, NeutralOnly(False)] = None


class PullBody(BaseModel):
    """Which model of the Hugging Face Hub to download."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: ModelName
    stream: bool | None = None

    insecure: Annotated[Any, NeutralOnly(False)] = None
    password: Annotated[Any, NeutralOnly("")] = None
    username: Annotated[Any, NeutralOnly("")] = None


class DetailsAnswer(TypedDict):
    """What a model is, in short."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class TagAnswer(TypedDict):
    """A model; `modified_at` is when it became ready, `size` that of its weights in memory.

    Encoders are not measured. The digest is that of what is said about a model, not of its weights.
    """

    name: str
    model: str
    modified_at: str
    size: NotRequired[int]
    digest: str
    details: DetailsAnswer


class TagsAnswer(TypedDict):
    """The models that answer now."""

    models: list[TagAnswer]


class ProcessAnswer(TypedDict):
    """A model in memory."""

    name: str
    model: str
    digest: str
    details: DetailsAnswer
    expires_at: str
    size: NotRequired[int]
    size_vram: NotRequired[int]
    context_length: int


class ProcessesAnswer(TypedDict):
    """The models in memory: all of them."""

    models: list[ProcessAnswer]


class ShowAnswer(TypedDict):
    """A model, and what it can do; the names in `model_info` are those of GGUF files."""

    modified_at: str
    details: DetailsAnswer
    model_info: dict[str, str | int]
    capabilities: list[Capability]


class ProgressAnswer(TypedDict):
    """How far a pull is; the last status is `success`."""

    status: str


class VersionAnswer(TypedDict):
    """Palma's own version."""

    version: str


PullLine = ProgressAnswer | ErrorAnswer


@dataclass(slots=True)
class _Watch:
    """Somebody who watches a download, which goes on without them."""

    engine_id: str

    def cancel(self) -> None:
        """Nothing has to end."""


async def root(_: Request) -> Response:
    """GET /: the words by which Ollama's clients know their server."""
    return PlainTextResponse(RUNNING)


async def version(_: Request) -> Response:
    """GET /api/version."""
    answer: VersionAnswer = {"version": __version__}
    return json_response(answer)


async def tags(request: Request) -> Response:
    """GET /api/tags: the models that answer now."""
    answer: TagsAnswer = {"models": [tag_answer(card) for card in _cards(request)]}
    return json_response(answer)


async def ps(request: Request) -> Response:
    """GET /api/ps: the same, for all of them are in memory."""
    answer: ProcessesAnswer = {"models": [process_answer(card) for card in _cards(request)]}
    return json_response(answer)


async def show(request: Request) -> Response:
    """POST /api/show: one of them, or 404."""
    name = plain_name(parse_body(ShowBody, await read_json(request)).model)
    encoder = next((card for card in _encoder_cards(request) if card.model_id == name), None)
    if encoder is not None:
        return json_response(show_answer(encoder, ["embedding"]))
    card = find_model(request, name).card
    return json_response(show_answer(card, _capabilities(card)))


async def pull(request: Request) -> Response:
    """POST /api/pull: lines that end with `success`, or one object when `stream` is false."""
    body = parse_body(PullBody, await read_json(request))
    download = await _download(request, plain_name(body.model))
    if body.stream is not False:
        settings: Settings = request.state.settings
        lines = pull_lines(download, settings.sse_ping_s)
        return LineStream(lines, _Watch(request.state.request_id), settings)
    if download is not None:
        await download.wait()
    answer: ProgressAnswer = {"status": "success"}
    return json_response(answer)


async def refuse(_: Request) -> Response:
    """Whatever would change the models behind the operator's back."""
    raise Forbidden(
        "This server serves the models that its operator chose; no request creates, copies, "
        "deletes or uploads one."
    )


async def pull_lines(download: Download | None, interval_s: float) -> AsyncIterator[bytes]:
    """Yield a line at the start, one every `interval_s`, and one at the end.

    Args:
        download: None when all is here already.
        interval_s: Keeps proxies from taking silence for the end.
    """
    yield line({"status": "pulling manifest"})
    if download is not None:
        ended = asyncio.ensure_future(download.wait())
        try:
            while not (await asyncio.wait({ended}, timeout=interval_s))[0]:
                yield line({"status": f"pulling {download.spec.model_id}"})
            ended.result()
        except PalmaError as error:
            yield line(error_answer(error))
            return
        finally:
            ended.cancel()
    yield line({"status": "success"})


def tag_answer(card: ModelCard) -> TagAnswer:
    """Return a model's card as an entry of the list."""
    answer: TagAnswer = {
        "name": card.model_id,
        "model": card.model_id,
        "modified_at": timestamp(card.created),
        "digest": _digest(card),
        "details": _details(card),
    }
    if card.weights.num_bytes:
        answer["size"] = card.weights.num_bytes
    return answer


def process_answer(card: ModelCard) -> ProcessAnswer:
    """Return a model's card as what lies in memory."""
    answer: ProcessAnswer = {
        "name": card.model_id,
        "model": card.model_id,
        "digest": _digest(card),
        "details": _details(card),
        "expires_at": NEVER,
        "context_length": card.max_model_len,
    }
    if num_bytes := card.weights.num_bytes:
        answer["size"] = num_bytes
        answer["size_vram"] = num_bytes if card.device.startswith(("cuda", "mps")) else 0
    return answer


def show_answer(card: ModelCard, capabilities: list[Capability]) -> ShowAnswer:
    """Return all that is known about a model."""
    family = card.weights.architecture or card.engine
    model_info: dict[str, str | int] = {
        "general.architecture": family,
        f"{family}.context_length": card.max_model_len,
    }
    if card.weights.num_parameters:
        model_info["general.parameter_count"] = card.weights.num_parameters
    return {
        "modified_at": timestamp(card.created),
        "details": _details(card),
        "model_info": model_info,
        "capabilities": capabilities,
    }


def _cards(request: Request) -> list[ModelCard]:
    chat: list[ModelCard] = request.state.service.registry.cards()
    return [*chat, *_encoder_cards(request)]


def _encoder_cards(request: Request) -> list[ModelCard]:
    """Return the models that only embed; those that only rank do nothing that Ollama knows."""
    return [card for card in request.state.embeddings.cards() if card.embeddings]


async def _download(request: Request, name: str) -> Download | None:
    """Begin a download; what is here already needs none, and no permission."""
    if name in {card.model_id for card in _cards(request)}:
        return None
    spec = await asyncio.to_thread(spec_requested, name, request.state.settings)
    if isinstance(spec.source, Path):
        return None
    require_management(request)
    request.state.service.require_open()
    download: Download = request.state.downloads.start(spec)
    return download


def _details(card: ModelCard) -> DetailsAnswer:
    family, num_parameters = card.weights.architecture, card.weights.num_parameters
    return {
        "parent_model": "",
        "format": "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _in_short(num_parameters) if num_parameters else "",
        "quantization_level": card.dtype,
    }


def _capabilities(card: ModelCard) -> list[Capability]:
    return ["completion", "tools", "embedding"] if card.embeddings else ["completion", "tools"]


def _digest(card: ModelCard) -> str:
    words = [card.model_id, card.dtype, card.weights.architecture]
    numbers = [card.max_model_len, card.weights.num_parameters, card.weights.num_bytes]
    return hashlib.sha256(orjson.dumps([words, numbers])).hexdigest()


def _in_short(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


FORBIDDEN = ((403, ErrorAnswer),)


def _refused(method: Literal["POST", "DELETE"], name: str) -> Operation:
    return Operation(
        method,
        f"{PREFIX}/{name}",
        refuse,
        "Refused: the operator chooses models.",
        answer=Never,
        other_answers=FORBIDDEN,
    )


DIALECT = Dialect(
    name="Ollama models",
    operations=(
        Operation("GET", ROOT, root, "Whether this is a server.", media_type="text/plain"),
        Operation("GET", f"{PREFIX}/version", version, "Palma's version.", answer=VersionAnswer),
        Operation("GET", f"{PREFIX}/tags", tags, "List the models.", answer=TagsAnswer),
        Operation("GET", f"{PREFIX}/ps", ps, "List the models again.", answer=ProcessesAnswer),
        Operation(
            "POST",
            f"{PREFIX}/show",
            show,
            "Describe a model.",
            body=ShowBody,
            answer=ShowAnswer,
        ),
        Operation(
            "POST",
            f"{PREFIX}/pull",
            pull,
            "Download a model from the Hugging Face Hub.",
            body=PullBody,
            answer=ProgressAnswer,
            event=PullLine,
            media_type=LINES_MEDIA_TYPE,
            other_answers=FORBIDDEN,
        ),
        _refused("POST", "create"),
        _refused("POST", "copy"),
        _refused("POST", "push"),
        _refused("DELETE", "delete"),
    ),
    error=ErrorAnswer,
)
