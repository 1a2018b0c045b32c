"""The tables of stored responses and conversations, and what one transaction asks of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from palma.core.errors import InvalidRequest, ResourceNotFound

Item = dict[str, Any]
"""A message as clients see it; its `id` is ours."""

Kind = Literal["Response", "Conversation"]

BATCH_SIZE = 500
"""Databases limit the values in one statement."""

MAX_ID_CHARS = 80

TABLES = MetaData()

owners = Table(
    "owners",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("id", String(MAX_ID_CHARS), unique=True, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    Column("body", JSON, nullable=False),
)
"""Responses and conversations, numbered as they come."""

items = Table(
    "items",
    TABLES,
    Column("number", Integer, primary_key=True),
    Column("id", String(MAX_ID_CHARS), unique=True, nullable=False),
    Column("body", JSON, nullable=False),
)

places = Table(
    "places",
    TABLES,
    Column("owner", ForeignKey("owners.number"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("item", ForeignKey("items.number"), nullable=False),
    Column("is_output", Boolean, nullable=False),
    Index("places_by_item", "item", "owner"),
    sqlite_with_rowid=False,
)
"""Which items an owner has, in which order; an item goes when nobody has it any more.

A response has those of all turns before it: this table grows with the square of their number,
and so has nothing but numbers.
"""


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for: at most `limit` items behind the one called `after`."""

    limit: int = 20
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A part of a list of items."""

    items: list[Item] = field(default_factory=list)
    has_more: bool = False


def find(connection: Connection, kind: Kind, owner_id: str) -> tuple[int, dict[str, Any]]:
    """Return the number and the body of an owner.

    Raises:
        ResourceNotFound: There is none with this id.
    """
    chosen = select(owners.c.number, owners.c.body)
    chosen = chosen.where(owners.c.id == owner_id, owners.c.kind == kind)
    row = connection.execute(chosen).one_or_none()
    if row is None:
        raise not_found(kind, owner_id)
    return row.number, row.body


def claim(connection: Connection, kind: Kind, owner_id: str) -> int | None:
    """Return the number of an owner that shall be changed; None when there is none.

    A transaction writes to it before it reads anything, so that of two that change the same owner
    one waits for the other and then sees what that has done.
    """
    chosen = update(owners).where(owners.c.id == owner_id, owners.c.kind == kind)
    touched = chosen.values(id=owner_id).returning(owners.c.number)
    number: int | None = connection.execute(touched).scalar_one_or_none()
    return number


def items_of(owner: int) -> Select[Any]:
    """Return the query for the bodies of all items of an owner."""
    joined = select(items.c.body).join(places, places.c.item == items.c.number)
    return joined.where(places.c.owner == owner)


def all_items(connection: Connection, owner: int) -> list[Item]:
    """Return the items of an owner, oldest first."""
    return list(connection.execute(items_of(owner).order_by(places.c.position)).scalars())


def page_of(connection: Connection, owner: int, page: Page) -> ItemPage:
    """Return a part of an owner's items but its output."""
    position = places.c.position
    found = items_of(owner).where(places.c.is_output.is_(False))
    if page.after is not None:
        after = _position(connection, owner, page.after)
        found = found.where(position > after if page.order == "asc" else position < after)
    found = found.order_by(position if page.order == "asc" else position.desc())
    bodies = list(connection.execute(found.limit(page.limit + 1)).scalars())
    return ItemPage(bodies[: page.limit], has_more=len(bodies) > page.limit)


def _position(connection: Connection, owner: int, item_id: str) -> int:
    joined = select(places.c.position).join(items, places.c.item == items.c.number)
    found = joined.where(places.c.owner == owner, items.c.id == item_id)
    position: int | None = connection.execute(found).scalar_one_or_none()
    if position is None:
        raise InvalidRequest("after: there is no such item in this list", param="after")
    return position


def append(
    connection: Connection, owner: int, bodies: Sequence[Item], *, is_output: bool = False
) -> None:
    """Give an owner items behind those that it has."""
    last = select(func.max(places.c.position)).where(places.c.owner == owner)
    position = connection.execute(last).scalar_one_or_none()
    start = 0 if position is None else position + 1
    numbers = _add_items(connection, bodies)
    rows = [
        {"owner": owner, "position": position, "item": number, "is_output": is_output}
        for position, number in enumerate(numbers, start)
    ]
    if rows:
        connection.execute(insert(places), rows)


def _add_items(connection: Connection, bodies: Sequence[Item]) -> list[int]:
    """Return the items' numbers; those that nobody had, or has any more, are inserted."""
    ids = [body["id"] for body in bodies]
    known = _numbers(connection, ids)
    rows = [{"id": body["id"], "body": body} for body in bodies if body["id"] not in known]
    if rows:
        connection.execute(insert(items), rows)
        known |= _numbers(connection, [row["id"] for row in rows])
    return [known[item_id] for item_id in ids]


def _numbers(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for batch in _batches(ids):
        chosen = select(items.c.id, items.c.number).where(items.c.id.in_(batch))
        numbers.update((row.id, row.number) for row in connection.execute(chosen))
    return numbers


def delete_owner(connection: Connection, owner: int) -> None:
    """Forget a response or a conversation, and its items where nobody else has them."""
    take_items(connection, owner)
    connection.execute(delete(owners).where(owners.c.number == owner))


def take_items(connection: Connection, owner: int, item_id: str | None = None) -> int:
    """Take all items, or one, from an owner; return how many these were."""
    chosen = select(places.c.item).where(places.c.owner == owner)
    if item_id is not None:
        chosen = chosen.join(items).where(items.c.id == item_id)
    numbers = connection.execute(chosen).scalars().all()
    for batch in _batches(numbers):
        taken = delete(places).where(places.c.owner == owner, places.c.item.in_(batch))
        connection.execute(taken)
        is_owned = exists().where(places.c.item == items.c.number)
        connection.execute(delete(items).where(items.c.number.in_(batch), ~is_owned))
    return len(numbers)


def _batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + BATCH_SIZE] for start in range(0, len(values), BATCH_SIZE))


def not_found(kind: Kind | Literal["Item"], sent_id: str) -> ResourceNotFound:
    """Return the error about an id that is not there."""
    return ResourceNotFound(f"{kind} with id {sent_id[:MAX_ID_CHARS]!r} not found.")
