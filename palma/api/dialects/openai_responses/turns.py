"""What a response continues, and what is kept of it for the turns that follow."""

from __future__ import annotations

import logging
from typing import Any, cast

from palma.api.dialects.openai_responses.background import BackgroundResponses
from palma.api.dialects.openai_responses.bodies import ResponseBody
from palma.api.dialects.openai_responses.context import require_calls
from palma.api.dialects.openai_responses.draft import Draft
from palma.api.dialects.openai_responses.events import Keep
from palma.api.dialects.openai_responses.item_shapes import Item
from palma.api.dialects.openai_responses.shapes import ResponseAnswer
from palma.core.errors import InvalidRequest, ResourceNotFound, StoreFailure, StoreUnavailable
from palma.serving.response_store import ResponseStore, StoredResponse
from palma.serving.response_tables import not_found

logger = logging.getLogger(__name__)

UNFINISHED = ("queued", "in_progress")


class PreviousResponseNotFound(InvalidRequest):
    """There is nothing to continue; OpenAI has a code of its own for it, and status 400."""

    code = "previous_response_not_found"


async def begin(body: ResponseBody, store: ResponseStore, background: BackgroundResponses) -> Draft:
    """Put the items that came before in front of the new ones.

    Raises:
        PreviousResponseNotFound: No response has this id.
        ResourceNotFound: No conversation has this id.
        InvalidRequest: The previous response is still being made, or an output answers no call.
    """
    earlier: list[dict[str, Any]] = []
    if body.previous_response_id is not None:
        earlier = await _previous_items(body.previous_response_id, store, background)
    elif body.conversation is not None:
        earlier = await store.conversation_items(body.conversation)
    new_items = [sent.item() for sent in body.input]
    context = [*cast("list[Item]", earlier), *new_items]
    require_calls(context, len(new_items))
    return Draft(body, context, num_new=len(new_items))


async def _previous_items(
    response_id: str, store: ResponseStore, background: BackgroundResponses
) -> list[dict[str, Any]]:
    run = background.find(response_id)
    if run is not None and not run.is_over:
        raise InvalidRequest(
            f"previous_response_id: the response is still {run.answer['status']}",
            param="previous_response_id",
        )
    try:
        if run is not None and not run.answer["store"]:
            raise not_found(
                "Response", response_id
            )  # what the database has of it is not the whole of it
        return await store.items_after(response_id)
    except ResourceNotFound as error:
        raise PreviousResponseNotFound(
            f"Previous r{error.message[1:]}", param="previous_response_id"
        ) from None


def keeper(draft: Draft, store: ResponseStore) -> Keep:
    """Return what stores the draft's response when it has ended.

    An answer that cannot be stored is answered all the same: it then says `store: false`, and
    names no conversation, because that does not have it either.
    """

    async def keep(answer: ResponseAnswer) -> ResponseAnswer:
        try:
            await _keep(draft, store, answer)
        except (StoreUnavailable, StoreFailure, ResourceNotFound) as error:
            logger.error("%s: answered, but not stored: %s", draft.response_id, error.message)
            return {**answer, "store": False, "conversation": None}
        return answer

    return keep


async def _keep(draft: Draft, store: ResponseStore, answer: ResponseAnswer) -> None:
    is_turn = answer["status"] in ("completed", "incomplete")
    if draft.is_stored:
        await store.put(record(draft, answer, joins_conversation=is_turn))
    elif draft.body.conversation is not None and is_turn:
        turn = [*draft.new_items, *answer["output"]]
        await store.add_turn(draft.body.conversation, cast("list[dict[str, Any]]", turn))


def record(draft: Draft, answer: ResponseAnswer, *, joins_conversation: bool) -> StoredResponse:
    """Return a response as the store takes it."""
    context = cast("list[dict[str, Any]]", draft.context)
    output = cast("list[dict[str, Any]]", answer["output"])
    return StoredResponse(
        cast("dict[str, Any]", answer),
        context,
        output,
        conversation_id=draft.body.conversation if joins_conversation else None,
        new_items=[*context[len(context) - draft.num_new :], *output],
    )


async def find(
    response_id: str, store: ResponseStore, background: BackgroundResponses
) -> ResponseAnswer:
    """Return a response in its latest state.

    Raises:
        ResourceNotFound: No response has this id.
    """
    if run := background.find(response_id):
        return run.answer
    answer = cast("ResponseAnswer", await store.response(response_id))
    return _interrupted(answer) if answer["status"] in UNFINISHED else answer


def _interrupted(answer: ResponseAnswer) -> ResponseAnswer:
    """Say the truth about a response that was being made when its server ended."""
    message = "the server ended before the response was complete"
    return {**answer, "status": "failed", "error": {"code": "server_error", "message": message}}
