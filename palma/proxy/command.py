"""The flags of `palma proxy`."""

from __future__ import annotations

from typing import Annotated

import typer

from palma.core.config import load_settings
from palma.core.logs import configure_logging


def proxy(
    to: Annotated[
        list[str], typer.Option(help="Base URL of a server, as http://127.0.0.1:8001; repeatable.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on. [HOST]")] = None,
    port: Annotated[str | None, typer.Option(help="Port to listen on. [PORT]")] = None,
    health_path: Annotated[
        str, typer.Option(help="Answers 200 where a server is well.")
    ] = "/readyz",
) -> None:
    """Stand in front of servers: check key or token, ask the least busy one that is well.

    The key and the secret are API_KEY and JWT_SECRET, as for `palma serve`.
    """
    from palma.proxy.server import serve

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load_settings(**given)
    configure_logging(debug=settings.debug)
    serve(settings, to, health_path)
