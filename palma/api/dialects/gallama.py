"""gallama's manager: add, remove and download models while the server runs, and see how it is.

What changes something is for the operator alone; see `palma.api.management`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import NeutralOnly
from palma.api.management import require_management
from palma.api.operation import Dialect, Operation
from palma.api.wire import json_response, parse_body, read_json, read_json_value
from palma.core.errors import InvalidRequest, PalmaError, ResourceNotFound
from palma.serving.downloads import Download, Downloads
from palma.serving.health import Status
from palma.serving.instance import Instance
from palma.serving.model_options import ModelOptions, plan_requested, spec_requested
from palma.serving.registry import ModelRegistry

PATHS = (
    "/health",
    "/add_model",
    "/remove_model",
    "/download_model",
    "/list_models",
    "/loading_status",
    "/task_status",
    "/status",
)
"""What speaks this dialect; nothing else lies at these roots."""

MAX_MODELS = 64
LOAD_TASK, DOWNLOAD_TASK = "load", "download"


class RemoveBody(BaseModel):
    """Which model to unload, and whether its running requests may end first."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    model_id: Annotated[str, Field(min_length=1)]
    force: bool = False


class DownloadBody(BaseModel):
    """Which model's files to fetch."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    model_name: Annotated[str, Field(min_length=1)]
    quant: Annotated[Any, NeutralOnly()] = None
    backend: Annotated[Any, NeutralOnly("transformers")] = None


class ErrorAnswer(TypedDict):
    """The envelope of every error."""

    detail: str


class HealthAnswer(TypedDict):
    """Whether a request sent now would be taken; the reason is there unless it would."""

    status: Literal["healthy"] | Status
    reason: NotRequired[str]


class QueuedAnswer(TypedDict):
    """What happens now; /task_status tells how it went."""

    message: str
    task_id: str


class MessageAnswer(TypedDict):
    """What happens now."""

    message: str


class TaskAnswer(TypedDict):
    """How far a task is: queued, loading or downloading, completed, or failed and why."""

    task_id: str
    status: str


class InstanceAnswer(TypedDict):
    """A copy of a model; all of them answer at the server's own port."""

    port: int
    status: Literal["queued", "loading", "running", "failed", "unloading"]
    error: NotRequired[str]


class ModelAnswer(TypedDict):
    """A model and its copies."""

    instances: list[InstanceAnswer]


Models = dict[str, ModelAnswer]


class LoadingAnswer(TypedDict):
    """The queue of models to be loaded."""

    queue_size: int
    currently_loading: bool
    models: Models


class DownloadAnswer(TypedDict):
    """How far a download is."""

    status: Literal["downloading", "done", "failed"]
    error: NotRequired[str]


class StatusAnswer(LoadingAnswer):
    """All there is to see."""

    status: Literal["healthy"] | Status
    reason: NotRequired[str]
    requests_running: int
    requests_waiting: int
    downloads: dict[str, DownloadAnswer]


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    return {"detail": error.message}


def parse_models(body: Any) -> list[ModelOptions]:
    """Read one model or a list of them.

    Raises:
        UnsupportedParameter: A key that this server cannot honour.
        InvalidRequest: A key is missing or wrong.
    """
    models = body if isinstance(body, list) else [body]
    if not 0 < len(models) <= MAX_MODELS:
        raise InvalidRequest(f"the list must have 1 to {MAX_MODELS} models, found {len(models)}")
    if not all(isinstance(model, dict) for model in models):
        raise InvalidRequest("the body must be a JSON object, or a list of objects")
    return [parse_body(ModelOptions, model) for model in models]


async def health(request: Request) -> Response:
    """GET /health: whether a request sent now would be taken."""
    found = _health(request)
    return json_response(found, 200 if found["status"] == "healthy" else 503)


async def add_model(request: Request) -> Response:
    """POST /add_model: queue models to be loaded, all of the list or none."""
    require_management(request)
    models = parse_models(await read_json_value(request))
    request.state.service.require_open()
    plans = await asyncio.to_thread(plan_requested, models, request.state.settings)
    instances = [_registry(request).add(plan) for plan in plans]
    names = ", ".join(instance.model_id for instance in instances)
    numbers = ".".join(str(instance.number) for instance in instances)
    return json_response(_queued(f"{names} will be loaded", f"{LOAD_TASK}-{numbers}"))


async def remove_model(request: Request) -> Response:
    """POST /remove_model: unload all instances of a model, after their running requests."""
    require_management(request)
    body = parse_body(RemoveBody, await read_json(request))
    instances = _registry(request).remove(body.model_id, force=body.force)
    when = "now" if body.force else "when its running requests have ended"
    answer: MessageAnswer = {"message": f"{instances[0].model_id} will be unloaded {when}"}
    return json_response(answer)


async def download_model(request: Request) -> Response:
    """POST /download_model: fetch a model's files in the background."""
    require_management(request)
    body = parse_body(DownloadBody, await read_json(request))
    request.state.service.require_open()
    spec = await asyncio.to_thread(spec_requested, body.model_name, request.state.settings)
    download = _downloads(request).start(spec)
    return json_response(
        _queued(f"{spec.model_id} will be downloaded", f"{DOWNLOAD_TASK}-{download.number}")
    )


async def task_status(request: Request) -> Response:
    """GET /task_status/{id}: how far an /add_model or /download_model is."""
    task_id = request.path_params["task_id"]
    kind, _, numbers = task_id.partition("-")
    states: list[str] = []
    if kind == LOAD_TASK:
        wanted = numbers.split(".")
        found = {str(instance.number): instance for instance in _registry(request).instances}
        states = [_load_state(found[number]) for number in wanted if number in found]
    elif kind == DOWNLOAD_TASK:
        downloads = _downloads(request).all
        states = [_download_state(each) for each in downloads if str(each.number) == numbers]
    if not states:
        raise ResourceNotFound(f"There is no task {task_id[:100]!r}; what was removed has none.")
    answer: TaskAnswer = {"task_id": task_id, "status": _overall(states)}
    return json_response(answer)


async def list_models(request: Request) -> Response:
    """GET /list_models: every model with its instances."""
    return json_response(_models(request))


async def loading_status(request: Request) -> Response:
    """GET /loading_status: the queue of models to be loaded."""
    return json_response(_loading(request))


async def status(request: Request) -> Response:
    """GET /status: health, models, queue, requests and downloads."""
    service = request.state.service
    answer: StatusAnswer = {
        **_health(request),
        **_loading(request),
        "requests_running": service.num_running,
        "requests_waiting": service.num_waiting,
        "downloads": {d.spec.model_id: _download(d) for d in _downloads(request).all},
    }
    return json_response(answer)


def _registry(request: Request) -> ModelRegistry:
    registry: ModelRegistry = request.state.service.registry
    return registry


def _downloads(request: Request) -> Downloads:
    downloads: Downloads = request.state.downloads
    return downloads


def _queued(message: str, task_id: str) -> QueuedAnswer:
    return {"message": message, "task_id": task_id}


def _health(request: Request) -> HealthAnswer:
    found = request.state.health.ready()
    if found.is_ok:
        return {"status": "healthy"}
    return {"status": found.status, "reason": found.reason}


def _loading(request: Request) -> LoadingAnswer:
    states = [instance.state for instance in _registry(request).instances]
    return {
        "queue_size": states.count("queued"),
        "currently_loading": "loading" in states,
        "models": _models(request),
    }


def _models(request: Request) -> Models:
    port = request.scope["server"][1]
    models: Models = {}
    for instance in _registry(request).instances:
        of_model = models.setdefault(instance.model_id, {"instances": []})
        of_model["instances"].append(_instance(instance, port))
    return models


def _instance(instance: Instance, port: int) -> InstanceAnswer:
    state = instance.state
    answer: InstanceAnswer = {"port": port, "status": "running" if state == "ready" else state}
    if instance.failure is not None:
        answer["error"] = instance.failure.message
    return answer


def _download(download: Download) -> DownloadAnswer:
    answer: DownloadAnswer = {"status": download.state}
    if download.failure is not None:
        answer["error"] = download.failure.message
    return answer


def _load_state(instance: Instance) -> str:
    if instance.failure is not None:
        return f"failed: {instance.failure.message}"
    return "completed" if instance.state == "ready" else instance.state


def _download_state(download: Download) -> str:
    if download.failure is not None:
        return f"failed: {download.failure.message}"
    return "completed" if download.state == "done" else download.state


def _overall(states: list[str]) -> str:
    """Return the state of a task with several parts: a failure, else what is least far."""
    order = ("failed", "loading", "queued", "downloading", "unloading", "completed")
    return min(states, key=lambda state: order.index(state.partition(":")[0]))


FORBIDDEN = ((403, ErrorAnswer),)

DIALECT = Dialect(
    name="gallama",
    operations=(
        Operation(
            "GET",
            "/health",
            health,
            "Whether a request sent now is taken.",
            answer=HealthAnswer,
            other_answers=((503, HealthAnswer),),
            is_public=True,
        ),
        Operation(
            "POST",
            "/add_model",
            add_model,
            "Load a model, or a list of them.",
            body=ModelOptions,
            answer=QueuedAnswer,
            other_answers=FORBIDDEN,
        ),
        Operation(
            "POST",
            "/remove_model",
            remove_model,
            "Unload a model.",
            body=RemoveBody,
            answer=MessageAnswer,
            other_answers=FORBIDDEN,
        ),
        Operation(
            "POST",
            "/download_model",
            download_model,
            "Download a model.",
            body=DownloadBody,
            answer=QueuedAnswer,
            other_answers=FORBIDDEN,
        ),
        Operation(
            "GET",
            "/task_status/{task_id}",
            task_status,
            "How far a load or a download is.",
            answer=TaskAnswer,
        ),
        Operation("GET", "/list_models", list_models, "List the instances.", answer=Models),
        Operation(
            "GET", "/loading_status", loading_status, "The loading queue.", answer=LoadingAnswer
        ),
        Operation("GET", "/status", status, "All there is to see.", answer=StatusAnswer),
    ),
    error=ErrorAnswer,
)
