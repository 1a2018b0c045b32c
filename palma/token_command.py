"""`palma token`: makes the tokens that open a server with JWT_SECRET, and reads them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from palma.core.access import BadToken, read_token, sign_token
from palma.core.config import load_settings
from palma.core.errors import InvalidRequest, SettingsError

app = typer.Typer(help="Make and read the tokens that JWT_SECRET signs.", no_args_is_help=True)

Secret = Annotated[
    str | None, typer.Option(help="The secret; unset: JWT_SECRET, of the environment or of .env.")
]


@app.command()
def encode(
    claims: Annotated[str, typer.Argument(help="What the token says: a JSON object.")] = "{}",
    *,
    secret: Secret = None,
    expires_in_s: Annotated[
        int, typer.Option("--expires-in", min=1, help="Seconds, unless the claims have an exp.")
    ] = 86_400,
    never_expires: Annotated[
        bool, typer.Option("--never-expires", help="For servers with JWT_REQUIRE_EXP=false.")
    ] = False,
) -> None:
    """Make a token. Send it as `Authorization: Bearer TOKEN`."""
    lifetime_s = None if never_expires else expires_in_s
    print(sign_token(_parse_claims(claims), _secret(secret), lifetime_s))


@app.command()
def decode(
    token: Annotated[str, typer.Argument(help="The token, without the word Bearer.")],
    *,
    secret: Secret = None,
) -> None:
    """Show what a token says, if it is signed with the secret and has not expired."""
    try:
        claims = read_token(token.encode(), _secret(secret), requires_exp=False)
    except BadToken as error:
        raise InvalidRequest(str(error)) from None
    print(json.dumps(claims))


def _parse_claims(text: str) -> dict[str, Any]:
    try:
        claims = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"the claims are no JSON: {error}") from None
    if not isinstance(claims, dict):
        raise SettingsError('the claims must be a JSON object, as {"team_id": "a"}')
    return claims


def _secret(given: str | None) -> bytes:
    if given is not None:
        return given.encode()
    secret = load_settings().jwt_secret
    if secret is None:
        raise SettingsError("there is no secret: set JWT_SECRET, or say --secret")
    return secret.get_secret_value().encode()
