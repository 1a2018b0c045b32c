"""`palma token` makes what a server takes, and reads it back."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palma.cli import app
from palma.core.access import BadToken, read_token
from palma.core.errors import InvalidRequest, SettingsError

SECRET = "a secret that has thirty-two bytes."


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in a folder without a `.env`, with a secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JWT_SECRET", SECRET)


def palma(*arguments: str) -> str:
    """Return what the command prints; raise what it raises."""
    result = CliRunner().invoke(app, ["token", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_what_was_encoded_is_decoded() -> None:
    token = palma("encode", '{"team_id": "tenstorrent", "token_id": "debug-test"}')

    claims = json.loads(palma("decode", token))

    assert claims["team_id"] == "tenstorrent"
    assert claims["token_id"] == "debug-test"
    assert time.time() < claims["exp"] < time.time() + 86_401


def test_the_expiry_is_chosen_or_left_out() -> None:
    for options, expected in (
        (["--expires-in", "60"], 60),
        (['{"exp": 4102444800}'], 4102444800 - int(time.time())),
    ):
        claims = json.loads(palma("decode", palma("encode", *options)))
        assert claims["exp"] == pytest.approx(time.time() + expected, abs=30)
    assert palma("decode", palma("encode", "--never-expires")) == "{}"


def test_a_token_of_another_secret_or_of_the_past_is_not_read() -> None:
    token = palma("encode", "--secret", SECRET + "x")
    with pytest.raises(InvalidRequest, match="not valid"):
        palma("decode", token)
    with pytest.raises(InvalidRequest, match="expired"):
        palma("decode", palma("encode", '{"exp": 1}'))


@pytest.mark.parametrize(("arguments", "words"), [
    (["encode", "{]"], "no JSON"),
    (["encode", "[1]"], "JSON object"),
    (["encode", "--secret", "test-secret-123"], "15 bytes; 32"),
])  # fmt: skip
def test_what_cannot_be_signed_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        palma(*arguments)


def test_without_a_secret_it_says_where_one_may_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JWT_SECRET")

    with pytest.raises(SettingsError, match="JWT_SECRET"):
        palma("encode")


def test_reading_checks_the_signature_before_the_claims() -> None:
    with pytest.raises(BadToken, match="not valid"):
        read_token(palma("encode").encode(), b"x" * 32, requires_exp=True)
