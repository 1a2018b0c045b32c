"""Who may come in: who brings the API key or a signed token; anybody where neither is set."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palma.core.config import MIN_SECRET_BYTES, Settings
from palma.core.errors import SettingsError

BARE_KEY_HEADERS = ("palmapy-server-api-key", "x-api-key")
"""Where a key stands by itself: Palma's own header, and Anthropic's."""

ALGORITHM = "HS256"
LEEWAY_S = 30
"""Clocks may differ by so much."""

MAX_TOKEN_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Door:
    """Checks what a request brings: the key, or a JSON Web Token signed with the secret.

    Where both are set either opens; where neither is set all is open.

    Attributes:
        api_key: The key.
        jwt_secret: What tokens are signed with.
        requires_exp: Whether a token must say when it expires.
    """

    api_key: bytes | None = None
    jwt_secret: bytes | None = None
    requires_exp: bool = True

    @classmethod
    def of(cls, settings: Settings) -> Door:
        """Return the door that the settings describe."""
        key, secret = settings.api_key, settings.jwt_secret
        return cls(
            key.get_secret_value().encode() if key else None,
            secret.get_secret_value().encode() if secret else None,
            settings.jwt_require_exp,
        )

    @property
    def is_open(self) -> bool:
        """Whether anybody may come in."""
        return self.api_key is None and self.jwt_secret is None

    def refusal(self, credentials: bytes | None) -> str | None:
        """Return why these credentials do not open the door; None when they do."""
        if self.is_open:
            return None
        if not credentials:
            return f"{self._wanted()} is needed: send it as Authorization: Bearer ..."
        if self.api_key is not None and hmac.compare_digest(credentials, self.api_key):
            return None
        if self.jwt_secret is None:
            return "The API key is wrong."
        try:
            read_token(credentials, self.jwt_secret, requires_exp=self.requires_exp)
        except BadToken as error:
            return str(error)
        return None

    def _wanted(self) -> str:
        if self.jwt_secret is None:
            return "An API key"
        return "A token" if self.api_key is None else "An API key or a token"


class BadToken(Exception):
    """A token that was not signed with the secret, or not for this moment."""


def credentials_of(headers: Mapping[str, str]) -> bytes | None:
    """Return what a request brings to open the door, as the bytes that came.

    Args:
        headers: By lower-case names, decoded as Latin-1.
    """
    sent = next((headers[name] for name in BARE_KEY_HEADERS if name in headers), None)
    if sent is None:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        sent = credentials.strip() if scheme.lower() == "bearer" else None
    return None if sent is None else sent.encode("latin-1")


def read_token(token: bytes, secret: bytes, *, requires_exp: bool) -> dict[str, Any]:
    """Return the claims of a token.

    Raises:
        BadToken: It is forged, expired, not valid yet, or no such token at all.
    """
    import jwt

    if len(token) > MAX_TOKEN_BYTES:
        raise BadToken(f"The token has {len(token)} bytes; {MAX_TOKEN_BYTES} are allowed.")
    options: Any = {"require": ["exp"] if requires_exp else []}
    try:
        return jwt.decode(token, secret, [ALGORITHM], options, leeway=LEEWAY_S)
    except jwt.ExpiredSignatureError:
        raise BadToken("The token has expired.") from None
    except jwt.MissingRequiredClaimError:
        raise BadToken("The token has no exp: it must say when it expires.") from None
    except (jwt.PyJWTError, ArithmeticError, RecursionError, TypeError, ValueError):
        raise BadToken("The token is not valid here.") from None


def sign_token(claims: Mapping[str, Any], secret: bytes, expires_in_s: int | None) -> str:
    """Return a token with these claims.

    Args:
        claims: What it says.
        secret: At least `MIN_SECRET_BYTES` long.
        expires_in_s: Sets `exp`, unless the claims have one; None sets nothing.

    Raises:
        SettingsError: The secret is too short, or a claim has a type that it cannot have.
    """
    import jwt

    if len(secret) < MIN_SECRET_BYTES:
        raise SettingsError(f"the secret has {len(secret)} bytes; {MIN_SECRET_BYTES} are the least")
    expiry = {} if expires_in_s is None else {"exp": int(time.time()) + expires_in_s}
    try:
        return jwt.encode({**expiry, **claims}, secret, ALGORITHM)
    except TypeError as error:
        raise SettingsError(str(error)) from None
