"""Thoughts in responses, judged by the official client with strict validation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.api.dialects.responses_client import LOGPROBS, PATH, WHOLE_STREAM, ask, sdk
from tests.live_server import LiveServer, running_server, wait_until
from tests.scripted_agent import call_text
from tests.spy_engine import Spy
from tests.thinking_models import OVER, THOUGHT, load_random_thinker

LOOK = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"far": {"type": "boolean"}}},
}

THINKING = [
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
"""The kinds of events of thoughts; each delta after the first is left out."""


@pytest.fixture(scope="module")
def client(thinking_server: LiveServer) -> Iterator[Any]:
    with sdk(thinking_server) as client:
        yield client


def test_thoughts_are_an_item_before_the_message(client: Any) -> None:
    response = ask(client, f"{THOUGHT}Hi.")

    thoughts, message = response.output
    assert (thoughts.type, thoughts.status, thoughts.summary) == ("reasoning", "completed", [])
    assert [(part.type, part.text.strip()) for part in thoughts.content] == [
        ("reasoning_text", "Hm, hm.")
    ]
    assert (message.content[0].text, response.output_text) == ("Hi.", "Hi.")
    usage = response.usage
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens
    assert ask(client, "say Hi.").usage.output_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("said", ["Hi.", call_text("look", far=True)])
def test_thoughts_stream_before_what_follows(client: Any, said: str) -> None:
    whole = ask(client, THOUGHT + said, tools=[LOOK])

    events = list(ask(client, THOUGHT + said, tools=[LOOK], stream=True))

    first = [event for event in events if getattr(event, "output_index", None) == 0]
    deltas = [event for event in first if event.type == THINKING[2]]
    assert [event.type for event in first if event not in deltas[1:]] == THINKING
    (part,) = whole.output[0].content
    assert "".join(event.delta for event in deltas) == part.text
    assert first[-3].text == first[-2].part.text == first[-1].item.content[0].text == part.text
    assert (first[0].item.content, first[1].part.text) == ([], "")
    assert {event.item_id for event in first[1:-1]} == {first[-1].item.id}
    last = events[-1].response
    assert [item.type for item in last.output] == [item.type for item in whole.output]
    assert last.usage == whole.usage
    second = [event.type for event in events if getattr(event, "output_index", None) == 1]
    assert second[0] == WHOLE_STREAM[2]
    assert events.index(first[-1]) < len(events) - len(second) - 1


def test_the_clients_stream_helper_returns_thoughts(client: Any) -> None:
    with client.responses.stream(model="mock", input=f"{THOUGHT}Hi.") as stream:
        final = stream.get_final_response()

    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert client.responses.retrieve(final.id).output[0] == final.output[0]


def test_thoughts_that_are_cut_off_are_incomplete(client: Any) -> None:
    response = ask(client, f"{THOUGHT}Hi.", max_output_tokens=12)

    (thoughts,) = response.output
    assert (response.status, thoughts.type, thoughts.status) == (
        "incomplete",
        "reasoning",
        "incomplete",
    )
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    again = ask(client, [*response.output, {"role": "user", "content": "say so"}])
    assert again.output_text == "so"


@pytest.mark.parametrize("keeps", ["nothing", "responses", "conversation"])
def test_the_model_sees_what_it_thought(client: Any, thinking_spy: Spy, keeps: str) -> None:
    conversation = client.conversations.create()
    joins = {"conversation": conversation.id} if keeps == "conversation" else {}
    first = ask(client, f"{THOUGHT}Hi.", **joins)
    before = {**joins, **({"previous_response_id": first.id} if keeps == "responses" else {})}
    question = {"role": "user", "content": f"say it {keeps}"}

    second = ask(client, [*([] if before else first.output), question], **before)

    prompt = thinking_spy.submitted[-1].prompt
    assert "assistant: <think>\nHm, hm.\n</think>\n\nHi." in " ".join(prompt.split("\0"))
    items = list(client.responses.input_items.list(second.id, order="asc"))
    thoughts = next(item for item in items if item.type == "reasoning")
    assert thoughts.content == first.output[0].content
    if keeps == "conversation":
        kept = client.conversations.items.list(conversation.id, order="asc").data
        assert kept[1].to_dict() == thoughts.to_dict() == first.output[0].to_dict()


def test_thoughts_in_the_background_are_streamed_again(client: Any) -> None:
    begun = ask(client, f"slowly {THOUGHT}Hi.", background=True, stream=True)
    response_id = next(begun).response.id
    begun.close()
    wait_until(lambda: client.responses.retrieve(response_id).status == "completed", "it ends")

    events = list(client.responses.retrieve(response_id, stream=True))

    deltas = [event.delta for event in events if event.type == THINKING[2]]
    (part,) = client.responses.retrieve(response_id).output[0].content
    assert "".join(deltas) == part.text
    assert part.text.strip() == "Hm, hm."


def test_log_probabilities_are_those_of_the_message(client: Any) -> None:
    response = ask(client, f"{THOUGHT}Hi.", include=LOGPROBS)
    *_, last = ask(client, f"{THOUGHT}Hi.", include=LOGPROBS, stream=True)

    for output in (response.output, last.response.output):
        tokens = output[1].content[0].logprobs
        assert "".join(token.token for token in tokens) == "Hi."


@pytest.mark.parametrize(
    ("effort", "is_over"), [("none", True), (None, False), ("low", False), ("high", False)]
)
def test_effort_says_whether_to_think(
    client: Any, thinking_spy: Spy, effort: str | None, is_over: bool
) -> None:
    response = ask(client, f"say {effort}", reasoning={"effort": effort})

    assert thinking_spy.only(f"say {effort}").prompt.endswith(OVER) == is_over
    assert response.reasoning.effort == effort


def test_effort_is_refused_where_the_model_has_no_switch(mock_server: LiveServer) -> None:
    def answered(effort: str) -> Any:
        body = {"model": "mock", "input": "say x", "reasoning": {"effort": effort}}
        return mock_server.post(PATH, body)

    assert answered("none").status_code == 200  # it does not think anyway
    assert answered("high").status_code == 400
    assert answered("high").json()["error"]["param"] == "reasoning.effort"


def test_a_form_binds_the_answer_and_not_the_thoughts() -> None:
    form = {
        "type": "json_schema",
        "name": "n",
        "schema": {"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"]},
    }
    fields = {"text": {"format": form}, "temperature": 1, "max_output_tokens": 200}
    with running_server(load=load_random_thinker) as server, sdk(server) as client:
        closed = ask(client, "Hi.", reasoning={"effort": "none"}, **fields)
        open_ended = ask(client, "Hi.", **fields)

    assert json.loads(closed.output_text) == {"n": 7}
    assert open_ended.output[0].type == "reasoning"


def test_what_asks_for_more_than_thoughts_is_refused_by_name(client: Any) -> None:
    for name, value in (("summary", "auto"), ("generate_summary", "concise"), ("mode", "pro")):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, "say x", reasoning={name: value})
        assert caught.value.param == f"reasoning.{name}"
