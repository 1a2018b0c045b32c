"""Stored responses and conversations: what was asked, what was said, and for how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from palma.core.config import Settings
from palma.serving.database import Database, check_url
from palma.serving.response_tables import (
    TABLES,
    Item,
    ItemPage,
    Kind,
    Page,
    all_items,
    append,
    claim,
    delete_owner,
    find,
    items,
    items_of,
    not_found,
    owners,
    page_of,
    take_items,
)

SECONDS_A_DAY = 86_400
MAX_PURGED = 20
"""Each new response makes place: so many old ones go at most, so that none waits long."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with everything that it was made from.

    Attributes:
        body: What clients get; its `id` and its `created_at` are in it.
        context: The items that it answers, oldest first, those of earlier turns included.
        output: The items that it said.
        conversation_id: Gets `new_items` at its end, if it still exists.
        new_items: What this turn added, output included.
    """

    body: dict[str, Any]
    context: Sequence[Item] = ()
    output: Sequence[Item] = ()
    conversation_id: str | None = None
    new_items: Sequence[Item] = ()


class ResponseStore:
    """Keeps responses for a time, and conversations until they are deleted.

    A response has all items that it was made from, so that deleting an earlier one changes
    nothing for it. Methods raise `StoreUnavailable` and `StoreFailure` as `Database.run` does,
    and `ResourceNotFound` for ids that are not there.

    Args:
        settings: RESPONSES_DATABASE_URL, RESPONSES_KEEP_DAYS and RESPONSES_MAX_STORED.
    """

    def __init__(self, settings: Settings) -> None:
        self._database = Database(check_url(settings), TABLES)
        self._keep_s = settings.responses_keep_days * SECONDS_A_DAY
        self._max_stored = settings.responses_max_stored

    async def close(self) -> None:
        """Finish what has begun and close the database."""
        await self._database.close()

    async def put(self, response: StoredResponse) -> None:
        """Store a response, or a newer state of one; and add its turn to its conversation."""
        await self._database.run(lambda connection: self._put(connection, response))

    async def response(self, response_id: str) -> dict[str, Any]:
        """Return the body of a response."""
        return await self._body("Response", response_id)

    async def items_after(self, response_id: str) -> list[Item]:
        """Return all items that a next turn continues: a response's own, its output last."""
        return await self._items("Response", response_id)

    async def input_items(self, response_id: str, page: Page) -> ItemPage:
        """Return a part of what a response was made from."""
        return await self._page("Response", response_id, page)

    async def delete_response(self, response_id: str) -> None:
        """Forget a response, and its items where nothing else has them."""
        await self._delete("Response", response_id)

    async def create_conversation(self, body: dict[str, Any], first_items: Sequence[Item]) -> None:
        """Begin a conversation; its id and its time are in its body."""

        def work(connection: Connection) -> None:
            append(connection, _insert(connection, "Conversation", body), first_items)

        await self._database.run(work)

    async def conversation(self, conversation_id: str) -> dict[str, Any]:
        """Return the body of a conversation."""
        return await self._body("Conversation", conversation_id)

    async def update_conversation(self, body: dict[str, Any]) -> None:
        """Replace the body of a conversation."""

        def work(connection: Connection) -> None:
            number = _claim(connection, body["id"])
            connection.execute(update(owners).where(owners.c.number == number).values(body=body))

        await self._database.run(work)

    async def delete_conversation(self, conversation_id: str) -> None:
        """Forget a conversation, and its items where no response has them."""
        await self._delete("Conversation", conversation_id)

    async def conversation_items(self, conversation_id: str) -> list[Item]:
        """Return all that was said in a conversation, oldest first."""
        return await self._items("Conversation", conversation_id)

    async def conversation_page(self, conversation_id: str, page: Page) -> ItemPage:
        """Return a part of what was said in a conversation."""
        return await self._page("Conversation", conversation_id, page)

    async def conversation_item(self, conversation_id: str, item_id: str) -> Item:
        """Return one item of a conversation."""

        def work(connection: Connection) -> Item:
            number, _ = find(connection, "Conversation", conversation_id)
            chosen = items_of(number).where(items.c.id == item_id)
            item: Item | None = connection.execute(chosen).scalar_one_or_none()
            if item is None:
                raise not_found("Item", item_id)
            return item

        return await self._database.run(work)

    async def add_turn(self, conversation_id: str, new_items: Sequence[Item]) -> None:
        """Add items to the end of a conversation."""

        def work(connection: Connection) -> None:
            append(connection, _claim(connection, conversation_id), new_items)

        await self._database.run(work)

    async def delete_item(self, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Take an item out of a conversation; return the conversation."""

        def work(connection: Connection) -> dict[str, Any]:
            if not take_items(connection, _claim(connection, conversation_id), item_id):
                raise not_found("Item", item_id)
            return find(connection, "Conversation", conversation_id)[1]

        return await self._database.run(work)

    async def _body(self, kind: Kind, owner_id: str) -> dict[str, Any]:
        return await self._database.run(lambda connection: find(connection, kind, owner_id)[1])

    async def _items(self, kind: Kind, owner_id: str) -> list[Item]:
        def work(connection: Connection) -> list[Item]:
            return all_items(connection, find(connection, kind, owner_id)[0])

        return await self._database.run(work)

    async def _page(self, kind: Kind, owner_id: str, page: Page) -> ItemPage:
        def work(connection: Connection) -> ItemPage:
            return page_of(connection, find(connection, kind, owner_id)[0], page)

        return await self._database.run(work)

    async def _delete(self, kind: Kind, owner_id: str) -> None:
        def work(connection: Connection) -> None:
            number = claim(connection, kind, owner_id)
            if number is None:
                raise not_found(kind, owner_id)
            delete_owner(connection, number)

        await self._database.run(work)

    def _put(self, connection: Connection, response: StoredResponse) -> None:
        number = claim(connection, "Response", response.body["id"])
        if number is None:
            number = _insert(connection, "Response", response.body)
            self._make_place(connection, number)
        else:
            changed = update(owners).where(owners.c.number == number)
            connection.execute(changed.values(body=response.body))
            take_items(connection, number)
        append(connection, number, response.context)
        append(connection, number, response.output, is_output=True)
        if response.conversation_id is not None:
            conversation = claim(connection, "Conversation", response.conversation_id)
            if conversation is not None:  # else it was deleted meanwhile
                append(connection, conversation, response.new_items)

    def _make_place(self, connection: Connection, newest: int) -> None:
        """Forget responses that are too old or too many."""
        is_old = or_(
            owners.c.created_at < time.time() - self._keep_s,
            owners.c.number <= newest - self._max_stored,
        )
        is_other = owners.c.number != newest
        old = select(owners.c.number).where(is_old, is_other, owners.c.kind == "Response")
        for number in connection.execute(old.limit(MAX_PURGED)).scalars().all():
            delete_owner(connection, number)


def _insert(connection: Connection, kind: Kind, body: dict[str, Any]) -> int:
    values = {"id": body["id"], "kind": kind, "created_at": body["created_at"], "body": body}
    inserted = insert(owners).values(values).returning(owners.c.number)
    number: int = connection.execute(inserted).scalar_one()
    return number


def _claim(connection: Connection, conversation_id: str) -> int:
    number = claim(connection, "Conversation", conversation_id)
    if number is None:
        raise not_found("Conversation", conversation_id)
    return number
