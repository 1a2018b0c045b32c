"""OpenAI's conversations: items that outlive the responses made from them."""

from __future__ import annotations

import time
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from palma.api.dialects.openai_responses.bodies import (
    ConversationBody,
    ConversationUpdate,
    IncludeQuery,
    NewItemsBody,
    PageQuery,
    parse_query,
)
from palma.api.dialects.openai_responses.context import require_calls
from palma.api.dialects.openai_responses.item_bodies import AnyItemBody
from palma.api.dialects.openai_responses.item_shapes import Item, new_id
from palma.api.dialects.openai_responses.routes import item_list, page_of
from palma.api.dialects.openai_responses.shapes import (
    ConversationAnswer,
    DeletedConversation,
    ItemList,
)
from palma.api.operation import Operation
from palma.api.wire import json_response, parse_body, read_json
from palma.serving.response_store import ResponseStore
from palma.serving.response_tables import ItemPage


async def create_conversation(request: Request) -> Response:
    """POST /v1/conversations: begin one, empty or with items."""
    body = parse_body(ConversationBody, await read_json(request))
    first_items = _items(body.items or [])
    require_calls(first_items, len(first_items), "items")
    answer: ConversationAnswer = {
        "id": new_id("conv"),
        "object": "conversation",
        "created_at": int(time.time()),
        "metadata": body.metadata or {},
    }
    store: ResponseStore = request.state.response_store
    await store.create_conversation(cast("dict[str, Any]", answer), _stored(first_items))
    return json_response(answer)


async def retrieve_conversation(request: Request) -> Response:
    """GET /v1/conversations/{id}."""
    return json_response(await _conversation(request))


async def update_conversation(request: Request) -> Response:
    """POST /v1/conversations/{id}: replace its metadata."""
    body = parse_body(ConversationUpdate, await read_json(request))
    changed = {**await _conversation(request), "metadata": body.metadata or {}}
    await request.state.response_store.update_conversation(changed)
    return json_response(changed)


async def delete_conversation(request: Request) -> Response:
    """DELETE /v1/conversations/{id}: responses made from it keep what they have."""
    conversation_id = request.path_params["conversation_id"]
    await request.state.response_store.delete_conversation(conversation_id)
    answer: DeletedConversation = {
        "id": conversation_id,
        "object": "conversation.deleted",
        "deleted": True,
    }
    return json_response(answer)


async def list_items(request: Request) -> Response:
    """GET /v1/conversations/{id}/items: a part of what was said."""
    page = page_of(parse_query(PageQuery, request.query_params))
    store: ResponseStore = request.state.response_store
    found = await store.conversation_page(request.path_params["conversation_id"], page)
    return json_response(item_list(found))


async def add_items(request: Request) -> Response:
    """POST /v1/conversations/{id}/items: add items at the end."""
    parse_query(IncludeQuery, request.query_params)
    added = _items(parse_body(NewItemsBody, await read_json(request)).items)
    store: ResponseStore = request.state.response_store
    conversation_id = request.path_params["conversation_id"]
    if any(item["type"] == "function_call_output" for item in added):
        earlier = cast("list[Item]", await store.conversation_items(conversation_id))
        require_calls([*earlier, *added], len(added), "items")
    await store.add_turn(conversation_id, _stored(added))
    return json_response(item_list(ItemPage(_stored(added))))


async def retrieve_item(request: Request) -> Response:
    """GET /v1/conversations/{id}/items/{item_id}."""
    parse_query(IncludeQuery, request.query_params)
    store: ResponseStore = request.state.response_store
    conversation_id, item_id = _both_ids(request)
    return json_response(await store.conversation_item(conversation_id, item_id))


async def delete_item(request: Request) -> Response:
    """DELETE /v1/conversations/{id}/items/{item_id}: answers with the conversation."""
    store: ResponseStore = request.state.response_store
    conversation_id, item_id = _both_ids(request)
    return json_response(await store.delete_item(conversation_id, item_id))


async def _conversation(request: Request) -> dict[str, Any]:
    store: ResponseStore = request.state.response_store
    return await store.conversation(request.path_params["conversation_id"])


def _both_ids(request: Request) -> tuple[str, str]:
    return request.path_params["conversation_id"], request.path_params["item_id"]


def _items(bodies: list[AnyItemBody]) -> list[Item]:
    return [body.item() for body in bodies]


def _stored(items: list[Item]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", items)


OPERATIONS = (
    Operation(
        "POST",
        "/v1/conversations",
        create_conversation,
        "Begin a conversation.",
        body=ConversationBody,
        answer=ConversationAnswer,
    ),
    Operation(
        "GET",
        "/v1/conversations/{conversation_id}",
        retrieve_conversation,
        "Return a conversation.",
        answer=ConversationAnswer,
    ),
    Operation(
        "POST",
        "/v1/conversations/{conversation_id}",
        update_conversation,
        "Replace a conversation's metadata.",
        body=ConversationUpdate,
        answer=ConversationAnswer,
    ),
    Operation(
        "DELETE",
        "/v1/conversations/{conversation_id}",
        delete_conversation,
        "Forget a conversation.",
        answer=DeletedConversation,
    ),
    Operation(
        "GET",
        "/v1/conversations/{conversation_id}/items",
        list_items,
        "List what was said in a conversation.",
        answer=ItemList,
        query=PageQuery,
    ),
    Operation(
        "POST",
        "/v1/conversations/{conversation_id}/items",
        add_items,
        "Add items to a conversation.",
        body=NewItemsBody,
        answer=ItemList,
        query=IncludeQuery,
    ),
    Operation(
        "GET",
        "/v1/conversations/{conversation_id}/items/{item_id}",
        retrieve_item,
        "Return one item of a conversation.",
        answer=Item,
        query=IncludeQuery,
    ),
    Operation(
        "DELETE",
        "/v1/conversations/{conversation_id}/items/{item_id}",
        delete_item,
        "Take an item out of a conversation.",
        answer=ConversationAnswer,
    ),
)
