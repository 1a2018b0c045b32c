"""A database that one thread talks to, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, Engine, MetaData, StaticPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from palma.core.config import Settings
from palma.core.errors import SettingsError, StoreFailure, StoreUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

IN_MEMORY = "sqlite://"

MAX_WAIT_S = 5.0
"""How long work waits for the thread; then it is given up."""

MAX_LOCK_S = 2.0
"""How long SQLite waits for another process that writes."""

RETRY_AFTER_S = 5


def check_url(settings: Settings) -> URL | None:
    """Parse RESPONSES_DATABASE_URL and look for its driver; nothing is opened.

    Raises:
        SettingsError: It is no URL, or its driver is missing or asynchronous.
    """
    if settings.responses_database_url is None:
        return None
    try:
        parsed = make_url(settings.responses_database_url.get_secret_value())
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
    except (NoSuchModuleError, ImportError) as error:
        problem = f"needs a database driver that is not installed: {error}"
    except (ArgumentError, ValueError):
        problem = "is no database URL; sqlite:////folder/responses.db is one"
    else:
        if not dialect.is_async:
            return parsed
        problem = f"names an asynchronous driver ({parsed.drivername}); take a synchronous one"
    raise SettingsError(f"RESPONSES_DATABASE_URL {problem}")


def default_file() -> Path:
    """Return where stored responses are kept unless the operator says otherwise."""
    return Path.home() / ".palma" / "responses.db"


class Database:
    """Runs work in transactions on a thread of its own, one after another.

    Nothing is opened before the first work, and opening is tried again as long as it fails.

    Args:
        url: Where the data lies; None means `default_file`, or memory where that cannot be
            written.
        tables: Created where they do not exist.
    """

    def __init__(self, url: URL | None, tables: MetaData) -> None:
        self._url = url
        self._tables = tables
        self._engine: Engine | None = None
        self._thread = ThreadPoolExecutor(1, "palma-database")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do some work in a transaction, all of it or nothing.

        Raises:
            StoreUnavailable: The database is locked, full or out of reach, or too much waits.
            StoreFailure: The database is broken.
        """
        future = self._thread.submit(self._transact, work)
        result = asyncio.wrap_future(future)
        result.add_done_callback(_look_at_error)
        await asyncio.wait([result], timeout=MAX_WAIT_S)
        if not result.done() and future.cancel():
            raise StoreUnavailable("the database of responses is busy", retry_after_s=RETRY_AFTER_S)
        return await result

    async def close(self) -> None:
        """Finish what has begun, then close the connections."""
        self._thread.submit(self._dispose)  # SQLite wants to be closed by the thread that opened it
        await asyncio.to_thread(self._thread.shutdown)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._opened().begin() as connection:
                return work(connection)
        except OperationalError as error:
            logger.error("the database of responses is unavailable: %s", error.orig)
            raise StoreUnavailable(
                "the database of responses cannot be used now", retry_after_s=RETRY_AFTER_S
            ) from error
        except SQLAlchemyError as error:
            logger.exception("the database of responses failed")
            raise StoreFailure("the database of responses failed; the log says why") from error

    def _dispose(self) -> None:
        if self._engine is not None:
            self._engine.dispose()

    def _opened(self) -> Engine:
        if self._engine is None:
            url = self._url if self._url is not None else _default_url()
            engine = _new_engine(url)
            self._tables.create_all(engine)
            logger.info("responses are kept in %s", url.render_as_string(hide_password=True))
            self._engine = engine
        return self._engine


def _look_at_error(result: asyncio.Future[Any]) -> None:
    """Mark an error as seen when whoever asked has left."""
    if not result.cancelled():
        result.exception()


def _default_url() -> URL:
    """Make a file that only its owner reads, and return its URL; or else that of memory."""
    try:
        file = default_file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        logger.warning("responses are kept in memory until the server ends: %s", error)
        return make_url(IN_MEMORY)
    return URL.create("sqlite", database=str(file))


def _new_engine(url: URL) -> Engine:
    options: dict[str, Any] = {}
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        options["connect_args"] = {"timeout": MAX_LOCK_S}
        if url.database in (None, "", ":memory:"):
            options["poolclass"] = StaticPool  # a second connection would see an empty database
    engine = create_engine(
        url, json_serializer=_dump, json_deserializer=orjson.loads, pool_pre_ping=True, **options
    )
    if is_sqlite:
        event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Let readers go on while one writes, and write to the disk once a transaction at most."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
