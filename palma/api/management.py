"""Who may load, unload and download models over HTTP: nobody, unless the operator allows it."""

from __future__ import annotations

from starlette.requests import Request

from palma.api.errors import Forbidden
from palma.core.access import Door, credentials_of
from palma.core.config import Settings


def require_management(request: Request) -> None:
    """Let only the operator pass: who has the API key, or anybody where there is no key at all.

    A token opens the door for users, not for this. Without a key a web page in the operator's
    browser could send the request too, even through a name that resolves to this machine; but
    browsers tell, in the header Origin.

    Raises:
        Forbidden: ALLOW_MODEL_MANAGEMENT is off, or this is not the operator.
    """
    settings: Settings = request.state.settings
    if not settings.allow_model_management:
        raise Forbidden(
            "This server does not let requests load, unload or download models. Its operator can "
            "allow it with ALLOW_MODEL_MANAGEMENT=true."
        )
    door = Door.of(settings)
    if door.is_open and "origin" in request.headers:
        raise Forbidden(
            "Without an API_KEY this server takes no requests from web pages to load, unload or "
            "download models."
        )
    has_key = Door(door.api_key).refusal(credentials_of(request.headers)) is None
    if not door.is_open and (door.api_key is None or not has_key):
        raise Forbidden(
            "Tokens are for users: to load, unload or download models takes the API_KEY."
        )
