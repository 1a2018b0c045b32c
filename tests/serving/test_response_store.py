"""Stored responses: what is kept, for how long, and what happens when the database does not."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from palma.core.config import Settings
from palma.core.errors import (
    InvalidRequest,
    ResourceNotFound,
    SettingsError,
    StoreFailure,
    StoreUnavailable,
)
from palma.serving import database
from palma.serving.response_store import ResponseStore, StoredResponse
from palma.serving.response_tables import Item, Page

OLDEST_FIRST = Page(limit=100, order="asc")


def items(*names: str) -> list[Item]:
    return [{"id": name, "text": f"text of {name}"} for name in names]


def stored(response_id: str, created_at: float | None = None, **fields: Any) -> StoredResponse:
    created_at = time.time() if created_at is None else created_at
    body = {"id": response_id, "created_at": created_at, **fields.pop("body", {})}
    return StoredResponse(body, **fields)


def conversation(conversation_id: str) -> dict[str, Any]:
    return {"id": conversation_id, "created_at": time.time()}


def settings(url: str = "sqlite://", **kwargs: Any) -> Settings:
    return Settings(responses_database_url=url, **kwargs)


def with_store(work: Callable[[ResponseStore], Awaitable[None]], settings: Settings) -> None:
    """Open a store, do some work, close it."""

    async def run() -> None:
        store = ResponseStore(settings)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(run())


async def names(store: ResponseStore, response_id: str) -> list[str]:
    return [item["id"] for item in await store.items_after(response_id)]


def test_a_response_comes_back_with_its_items_in_their_order() -> None:
    async def work(store: ResponseStore) -> None:
        await store.put(
            stored("r", body={"text": "añb🏴"}, context=items("b", "a"), output=items("c"))
        )

        assert (await store.response("r"))["text"] == "añb🏴"
        assert await names(store, "r") == ["b", "a", "c"]
        inputs = await store.input_items("r", OLDEST_FIRST)
        assert inputs.items == items("b", "a")  # its output is no input

    with_store(work, settings())


def test_a_newer_state_replaces_the_older_one() -> None:
    async def work(store: ResponseStore) -> None:
        await store.put(stored("r", body={"status": "queued"}, context=items("a")))
        await store.put(stored("r", body={"status": "done"}, context=items("a"), output=items("b")))

        assert (await store.response("r"))["status"] == "done"
        assert await names(store, "r") == ["a", "b"]

    with_store(work, settings())


def test_deleting_an_earlier_response_changes_nothing_for_a_later_one() -> None:
    async def work(store: ResponseStore) -> None:
        await store.put(stored("first", context=items("a"), output=items("b")))
        await store.put(stored("second", context=items("a", "b", "c"), output=items("d")))

        await store.delete_response("first")

        with pytest.raises(ResourceNotFound, match="first"):
            await store.response("first")
        assert await names(store, "second") == ["a", "b", "c", "d"]

    with_store(work, settings())


def test_a_turn_that_was_begun_before_its_parent_was_deleted_is_stored_whole() -> None:
    async def work(store: ResponseStore) -> None:
        await store.put(stored("first", context=items("a"), output=items("b")))
        await store.delete_response("first")

        await store.put(stored("second", context=items("a", "b", "c"), output=items("d")))

        assert await names(store, "second") == ["a", "b", "c", "d"]

    with_store(work, settings())


def test_what_nobody_owns_any_more_is_gone_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "responses.db"

    async def work(store: ResponseStore) -> None:
        await store.create_conversation(conversation("conv"), [])
        turn: dict[str, Any] = {"context": items("a"), "output": items("b")}
        await store.put(stored("r", **turn, conversation_id="conv", new_items=items("a", "b")))
        await store.delete_response("r")
        assert (await store.conversation_items("conv")) == items("a", "b")
        await store.delete_item("conv", "a")
        assert (await store.conversation_items("conv")) == items("b")
        await store.delete_conversation("conv")

    with_store(work, settings(f"sqlite:///{file}"))

    with sqlite3.connect(file) as connection:
        for table in ("owners", "items", "places"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    connection.close()


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_join_to_the_whole_list(order: Any) -> None:
    everything = items(*(f"item{n}" for n in range(1100)))  # more than one statement takes

    async def work(store: ResponseStore) -> None:
        await store.put(stored("r", context=everything, output=items("out")))
        found: list[Item] = []
        after = None
        while True:
            page = await store.input_items("r", Page(limit=100, after=after, order=order))
            found += page.items
            after = found[-1]["id"]
            if not page.has_more:
                break
        assert found == (everything if order == "asc" else everything[::-1])

    with_store(work, settings())


def test_a_page_behind_an_unknown_item_is_refused() -> None:
    async def work(store: ResponseStore) -> None:
        await store.put(stored("r", context=items("a")))
        await store.put(stored("other", context=items("b")))
        for after in ("nothing", "b"):
            with pytest.raises(InvalidRequest, match="after"):
                await store.input_items("r", Page(after=after))

    with_store(work, settings())


def test_ids_that_are_not_there_are_not_found() -> None:
    async def work(store: ResponseStore) -> None:
        for asked in (
            store.response("x"),
            store.items_after("x"),
            store.input_items("x", Page()),
            store.delete_response("x"),
            store.conversation("x"),
            store.update_conversation({"id": "x"}),
            store.delete_conversation("x"),
            store.conversation_items("x"),
            store.conversation_page("x", Page()),
            store.conversation_item("x", "y"),
            store.delete_item("x", "y"),
            store.add_turn("x", items("a")),
        ):
            with pytest.raises(ResourceNotFound, match=r"'[xy]'"):
                await asked

    with_store(work, settings())


def test_turns_that_end_at_the_same_time_are_all_in_the_conversation() -> None:
    async def work(store: ResponseStore) -> None:
        await store.create_conversation(conversation("conv"), items("first"))
        turns = [items(f"{n}a", f"{n}b") for n in range(20)]

        await asyncio.gather(*(store.add_turn("conv", turn) for turn in turns))

        said = [item["id"] for item in await store.conversation_items("conv")]
        assert said[0] == "first"
        assert sorted(zip(said[1::2], said[2::2], strict=True)) == sorted(
            (first["id"], second["id"]) for first, second in turns
        )

    with_store(work, settings())


def test_the_oldest_responses_make_place_for_new_ones() -> None:
    async def work(store: ResponseStore) -> None:
        for n in range(5):
            await store.put(stored(f"r{n}", context=items(f"i{n}")))

        for n in (0, 1, 2):
            with pytest.raises(ResourceNotFound):
                await store.response(f"r{n}")
        assert await names(store, "r3") == ["i3"]
        assert await names(store, "r4") == ["i4"]

    with_store(work, settings(responses_max_stored=2))


def test_responses_go_when_their_days_are_over() -> None:
    async def work(store: ResponseStore) -> None:
        now = time.time()
        await store.put(stored("old", created_at=now - 2 * 86_400 - 1))
        await store.put(stored("young", created_at=now - 2 * 86_400 + 3600))
        await store.put(stored("new"))

        with pytest.raises(ResourceNotFound):
            await store.response("old")
        assert await store.response("young")

    with_store(work, settings(responses_keep_days=2))


def test_a_file_is_read_again_after_a_restart_and_by_a_second_server(tmp_path: Path) -> None:
    chosen = settings(f"sqlite:///{tmp_path}/responses.db")

    async def write(store: ResponseStore) -> None:
        await store.put(stored("r", context=items("a")))

        async def read(second: ResponseStore) -> None:
            assert await names(second, "r") == ["a"]

        second = ResponseStore(chosen)
        await read(second)
        await second.close()

    async def read(store: ResponseStore) -> None:
        assert await names(store, "r") == ["a"]

    with_store(write, chosen)
    with_store(read, chosen)


def test_a_locked_file_is_read_but_refuses_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "responses.db"
    monkeypatch.setattr(database, "MAX_LOCK_S", 0.05)

    async def work(store: ResponseStore) -> None:
        await store.put(stored("r"))
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")

        with pytest.raises(StoreUnavailable) as caught:
            await store.put(stored("second"))
        assert caught.value.retry_after_s
        assert await store.response("r")

        other.execute("ROLLBACK")
        other.close()
        await store.put(stored("second"))  # it recovers by itself
        assert await store.response("second")

    with_store(work, settings(f"sqlite:///{file}"))


def test_work_that_waits_too_long_is_given_up_and_never_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "responses.db"
    monkeypatch.setattr(database, "MAX_LOCK_S", 20)
    monkeypatch.setattr(database, "MAX_WAIT_S", 0.5)

    async def work(store: ResponseStore) -> None:
        await store.put(stored("r"))
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        running = asyncio.create_task(store.put(stored("first")))
        await asyncio.sleep(0)

        with pytest.raises(StoreUnavailable, match="busy"):
            await store.put(stored("second"))

        other.execute("ROLLBACK")
        other.close()
        await running  # it had begun, and says how it ended
        assert await store.response("first")
        with pytest.raises(ResourceNotFound):
            await store.response("second")

    with_store(work, settings(f"sqlite:///{file}"))


def test_a_broken_file_is_a_failure_that_the_log_explains(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "responses.db"
    file.write_bytes(b"this is no database " * 100)

    async def work(store: ResponseStore) -> None:
        with pytest.raises(StoreFailure):
            await store.put(stored("r"))

    with_store(work, settings(f"sqlite:///{file}"))

    assert "not a database" in caplog.text


def test_a_folder_that_appears_later_is_found_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "later"

    async def work(store: ResponseStore) -> None:
        with pytest.raises(StoreUnavailable):
            await store.put(stored("r"))
        folder.mkdir()
        await store.put(stored("r"))
        assert await store.response("r")

    with_store(work, settings(f"sqlite:///{folder}/responses.db"))


def test_the_default_file_is_in_the_home_folder_and_only_its_owner_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESPONSES_DATABASE_URL")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    async def work(store: ResponseStore) -> None:
        await store.put(stored("r"))
        file = tmp_path / ".palma" / "responses.db"
        assert file.is_file()
        if os.name == "posix":
            for path in (file, *file.parent.glob("responses.db-*")):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    with_store(work, Settings())


def test_without_a_folder_to_write_to_responses_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("a file, not a folder")
    monkeypatch.delenv("RESPONSES_DATABASE_URL")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))

    async def work(store: ResponseStore) -> None:
        await store.put(stored("r", context=items("a")))
        assert await names(store, "r") == ["a"]

    with_store(work, Settings())

    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "memory" in warning.message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "no database URL"),
        ("postgresql://host:port/x", "no database URL"),
        ("nosuchkind://x", "not installed"),
        ("postgresql+nosuchdriver://me:secret@host/x", "not installed"),
        ("sqlite+aiosqlite://", "RESPONSES_DATABASE_URL"),
    ],
)
def test_a_url_that_no_database_can_have_stops_the_start(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        ResponseStore(settings(url))

    assert "RESPONSES_DATABASE_URL" in caught.value.message
    assert "secret" not in caught.value.message
