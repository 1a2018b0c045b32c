"""OpenAI's responses: made, streamed, read again, cancelled and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from palma.api.dialects.openai_responses import turns
from palma.api.dialects.openai_responses.background import BackgroundResponses, BackgroundRun
from palma.api.dialects.openai_responses.bodies import (
    PageQuery,
    ResponseBody,
    RetrieveQuery,
    parse_query,
    parse_response,
)
from palma.api.dialects.openai_responses.draft import Draft
from palma.api.dialects.openai_responses.event_shapes import ResponseEvent
from palma.api.dialects.openai_responses.events import response_events, whole_response
from palma.api.dialects.openai_responses.shapes import DeletedResponse, ItemList, ResponseAnswer
from palma.api.openai_shapes import DONE, DONE_DATA
from palma.api.operation import Operation
from palma.api.wire import (
    EventStream,
    event,
    json_response,
    queue_timeout_s,
    read_json,
    wait_for,
)
from palma.core.errors import InvalidRequest
from palma.serving.generation import Generation
from palma.serving.response_store import ResponseStore
from palma.serving.response_tables import ItemPage, Page


class Reading:
    """A client that reads what is made without it: when it leaves, the work goes on."""

    def __init__(self, response_id: str) -> None:
        self.engine_id = response_id

    def cancel(self) -> None:
        """End nothing."""


async def create_response(request: Request) -> Response:
    """POST /v1/responses: JSON, or events when the body says `stream`."""
    body = parse_response(await read_json(request))
    store: ResponseStore = request.state.response_store
    draft = await turns.begin(body, store, request.state.background_responses)
    timeout_s = None if body.background else queue_timeout_s(request)
    generation = request.state.service.start(draft.request(request.state.request_id, timeout_s))
    if body.background:
        return await _begin_in_background(request, draft, generation)
    keep = turns.keeper(draft, store)
    if not body.stream:
        answer = await wait_for(request, generation, whole_response(draft, generation))
        return json_response(await keep(answer))
    await wait_for(request, generation, generation.accepted())
    events = encoded(response_events(draft, generation, keep))
    return EventStream(events, generation, request.state.settings)


async def _begin_in_background(request: Request, draft: Draft, generation: Generation) -> Response:
    """Store the response before anything comes of it, then answer with its id, or its events."""
    store: ResponseStore = request.state.response_store
    background: BackgroundResponses = request.state.background_responses
    await wait_for(request, generation, generation.accepted())
    queued = draft.answer(generation, "queued")
    try:
        await store.put(turns.record(draft, queued, joins_conversation=False))
    except BaseException:
        generation.cancel()
        raise
    run = background.start(draft, generation, turns.keeper(draft, store))
    if draft.body.stream:
        return _reading(request, run, after=-1)
    return json_response(queued)


async def retrieve_response(request: Request) -> Response:
    """GET /v1/responses/{id}: as it is now, or what comes of it as events."""
    query = parse_query(RetrieveQuery, request.query_params)
    response_id = request.path_params["response_id"]
    background: BackgroundResponses = request.state.background_responses
    answer = await turns.find(response_id, request.state.response_store, background)
    if query.stream:
        run = background.find(response_id)
        if run is None or not run.has_events:
            raise InvalidRequest(
                "stream: only a response made with background and stream has events to read "
                "again, and only for a while after its end; ask for it without stream",
                param="stream",
            )
        after = query.starting_after if query.starting_after is not None else -1
        return _reading(request, run, after)
    if query.starting_after is not None:
        raise InvalidRequest("starting_after needs stream=true", param="starting_after")
    return json_response(answer)


async def delete_response(request: Request) -> Response:
    """DELETE /v1/responses/{id}: forget it; one that is being made is cancelled first."""
    response_id = request.path_params["response_id"]
    await request.state.background_responses.forget(response_id)
    await request.state.response_store.delete_response(response_id)
    answer: DeletedResponse = {"id": response_id, "object": "response", "deleted": True}
    return json_response(answer)


async def cancel_response(request: Request) -> Response:
    """POST /v1/responses/{id}/cancel: end what is made in the background; harmless afterwards."""
    response_id = request.path_params["response_id"]
    background: BackgroundResponses = request.state.background_responses
    if run := background.find(response_id):
        return json_response(await run.cancel())
    answer = await turns.find(response_id, request.state.response_store, background)
    if not answer["background"]:
        raise InvalidRequest("only a response made with background: true can be cancelled")
    return json_response(answer)


async def list_input_items(request: Request) -> Response:
    """GET /v1/responses/{id}/input_items: all that a response was made from."""
    page = page_of(parse_query(PageQuery, request.query_params))
    store: ResponseStore = request.state.response_store
    return json_response(
        item_list(await store.input_items(request.path_params["response_id"], page))
    )


def page_of(query: PageQuery) -> Page:
    """Return which part of a list is asked for."""
    return Page(query.limit, query.after, query.order)


def item_list(page: ItemPage) -> ItemList:
    """Return a part of a list in OpenAI's words."""
    ids = [item["id"] for item in page.items] or [""]
    return {
        "object": "list",
        "data": page.items,  # type: ignore[typeddict-item]  # they were stored as Item
        "first_id": ids[0],
        "last_id": ids[-1],
        "has_more": page.has_more,
    }


async def encoded(events: AsyncIterator[ResponseEvent]) -> AsyncIterator[bytes]:
    """Yield events as bytes, and `[DONE]` after those of a response that did not fail."""
    last = ""
    async for data in events:
        last = data["type"]
        yield event(data, last)
    if last != "response.failed":
        yield DONE


def _reading(request: Request, run: BackgroundRun, after: int) -> Response:
    reading = Reading(run.answer["id"])
    return EventStream(encoded(run.read(after)), reading, request.state.settings)


OPERATIONS = (
    Operation(
        "POST",
        "/v1/responses",
        create_response,
        "Answer an input, or the next turn of a conversation that is stored here.",
        body=ResponseBody,
        answer=ResponseAnswer,
        event=ResponseEvent,
        last_event=DONE_DATA,
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}",
        retrieve_response,
        "Return a stored response.",
        answer=ResponseAnswer,
        event=ResponseEvent,
        last_event=DONE_DATA,
        query=RetrieveQuery,
    ),
    Operation(
        "DELETE",
        "/v1/responses/{response_id}",
        delete_response,
        "Forget a stored response.",
        answer=DeletedResponse,
    ),
    Operation(
        "POST",
        "/v1/responses/{response_id}/cancel",
        cancel_response,
        "Cancel a response that is made in the background.",
        answer=ResponseAnswer,
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}/input_items",
        list_input_items,
        "List what a stored response was made from.",
        answer=ItemList,
        query=PageQuery,
    ),
)
