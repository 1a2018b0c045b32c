"""A prompt that is too long is refused in every dialect, by the field that it came in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live_server import LiveServer, user

LONG = "hello " * 3000
SHORT = "hello"


def requests(text: str, max_tokens: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the path, the field of the text, and a body for each route with prompts."""
    model, turns = {"model": "palmita"}, user(text)
    bound, sampling = {"max_tokens": max_tokens}, {"sampling_params": {"max_tokens": max_tokens}}
    options = {"options": {"num_predict": max_tokens}}
    return [
        ("/v0.1.0/inference", "messages", {"messages": turns, "max_new_tokens": max_tokens}),
        ("/v1/chat/completions", "messages", {**model, **bound, "messages": turns}),
        ("/v1/completions", "prompt", {**model, **bound, "prompt": text}),
        ("/v1/responses", "input", {**model, "max_output_tokens": max_tokens, "input": text}),
        ("/v1/messages", "messages", {**model, **bound, "messages": turns}),
        ("/api/chat", "messages", {**model, **options, "messages": turns}),
        ("/api/generate", "prompt", {**model, **options, "prompt": text}),
        ("/api/generate", "prompt", {**model, **options, "prompt": text, "raw": True}),
        ("/inference/completion", "content", {**model, **sampling, "content": text}),
        ("/inference/chat_completion", "messages", {**model, **sampling, "messages": turns}),
        ("/inference/palmita", "text", {**bound, "text": text}),
        ("/predictions/palmita", "text", {**bound, "text": text}),
        ("/chat/palmita", "text", {**bound, "text": text}),
    ]


def assert_refused(server: LiveServer, path: str, field: str, body: dict[str, Any]) -> str:
    response = server.post(path, body)

    assert response.status_code == 400, response.text
    error = response.json().get("error", {})
    if isinstance(error, dict) and "param" in error:
        assert (error["param"], error["code"]) == (field, "context_length_exceeded")
    return response.text


@pytest.mark.parametrize(("path", "field", "body"), requests(LONG, 5))
def test_a_prompt_beyond_the_window_is_refused_with_both_counts(
    palmita_server: LiveServer, path: str, field: str, body: dict[str, Any]
) -> None:
    said = assert_refused(palmita_server, path, field, body)

    assert f"window holds 2048 tokens, and the {field} 60" in said


@pytest.mark.parametrize(("path", "field", "body"), requests(SHORT, 2048))
def test_a_prompt_and_a_bound_beyond_the_window_are_refused_with_what_is_left(
    palmita_server: LiveServer, path: str, field: str, body: dict[str, Any]
) -> None:
    said = assert_refused(palmita_server, path, field, body)

    assert f"in the {field}, 2048 in the completion). Ask for at most 20" in said
