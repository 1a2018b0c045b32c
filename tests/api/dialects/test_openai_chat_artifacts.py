"""Answers in parts: gallama's artifacts, whole and streamed."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.api.dialects.test_openai_chat_thinking import (  # noqa: F401  # fixtures
    random_client,
    random_server,
    refusal,
)
from tests.live_server import LiveServer, user

MARKDOWN = "say Look:\n```python  A loop\nfor x in y:\n    print(x)\n```\nThat is `all`.\n"

LOOP = {
    "tag_type": "artifact",
    "artifact_type": "code",
    "identifier": "code-1",
    "title": "A loop",
    "language": "python",
}
TEXT = {"tag_type": "text"}

Parts = list[tuple[dict[str, Any], str]]


def whole_parts(client: openai.OpenAI, content: str, **fields: Any) -> tuple[Parts, str]:
    """Return the parts of a whole answer and how it ended; streamed they must be the same."""
    asked: dict[str, Any] = {"messages": user(content), "temperature": 0, **fields}
    asked["model"] = client.models.list().data[0].id
    whole = client.chat.completions.create(**asked)
    found = [(choice.message.artifact_meta, choice.message.content) for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == list(range(len(found)))
    assert {choice.finish_reason for choice in whole.choices[:-1]} <= {"stop"}
    end = whole.choices[-1].finish_reason
    assert streamed_parts(client, asked) == ([part for part in found if part[1]], end)
    return found, end


def streamed_parts(client: openai.OpenAI, asked: dict[str, Any]) -> tuple[Parts, str]:
    """Return the same from events; parts of the same kind never follow each other here."""
    parts: Parts = []
    end = None
    for chunk in client.chat.completions.create(stream=True, **asked):
        (choice,) = chunk.choices
        assert choice.index == 0
        end = choice.finish_reason or end
        if not choice.delta.content:
            continue
        meta = choice.delta.artifact_meta
        before = parts.pop()[1] if parts and parts[-1][0] == meta else ""
        parts.append((meta, before + choice.delta.content))
    assert end is not None
    return parts, end


def test_fast_takes_code_blocks_from_what_the_model_wrote(strict_openai: openai.OpenAI) -> None:
    parts, end = whole_parts(strict_openai, MARKDOWN, extra_body={"artifact": "Fast"})

    assert parts == [
        (TEXT, "Look:"),
        (LOOP, "for x in y:\n    print(x)"),
        (TEXT, "That is `all`."),
    ]
    assert end == "stop"


def test_an_answer_that_is_cut_ends_with_the_part_that_was_cut(
    strict_openai: openai.OpenAI,
) -> None:
    fast = {"artifact": "Fast"}

    parts, end = whole_parts(strict_openai, MARKDOWN, max_tokens=40, extra_body=fast)

    assert [text for _, text in parts] == ["Look:", "for x in y:\n    "]
    assert end == "length"


def test_an_answer_without_code_is_one_text(strict_openai: openai.OpenAI) -> None:
    assert whole_parts(strict_openai, "say Hi. ", extra_body={"artifact": "Fast"})[0] == [
        (TEXT, "Hi.")
    ]
    assert whole_parts(strict_openai, "say \n", extra_body={"artifact": "Fast"})[0] == [(TEXT, "")]


def test_no_is_an_answer_in_one_piece(mock_server: LiveServer) -> None:
    body = {"model": "mock", "messages": user(MARKDOWN), "artifact": "No"}

    (choice,) = mock_server.post("/v1/chat/completions", body).json()["choices"]

    assert choice["message"] == {
        "role": "assistant",
        "content": MARKDOWN.removeprefix("say "),
        "refusal": None,
    }


@pytest.mark.parametrize("seed", range(3))
def test_slow_holds_a_random_model_to_tagged_parts(
    random_client: openai.OpenAI,  # noqa: F811
    seed: int,
) -> None:
    slow = {"artifact": "Slow"}

    parts, _ = whole_parts(
        random_client, "Write.", seed=seed, temperature=1, max_tokens=200, extra_body=slow
    )

    assert parts[0][1]
    assert not any(text.startswith(("<text>", "<artifact ")) for _, text in parts)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
@pytest.mark.parametrize("mode", ["Fast", "Slow"])
def test_what_parts_have_no_place_for_is_refused(
    mock_server: LiveServer, mode: str, fields: dict[str, Any], name: str
) -> None:
    error = refusal(mock_server, artifact=mode, **fields)

    assert error["param"] == "artifact"
    assert name in error["message"]


def test_slow_and_another_form_are_refused_by_both_names(random_server: LiveServer) -> None:  # noqa: F811
    error = refusal(random_server, artifact="Slow", choice=["yes"])

    assert "artifact" in error["message"]
    assert "choice" in error["message"]
    assert refusal(random_server, artifact="fast")["param"] == "artifact"
