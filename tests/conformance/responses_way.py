"""Ways of asking: OpenAI's responses, and the conversations that they may belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from tests.conformance.demonstrations import (
    CAPITALS,
    SAMPLING,
    bounds_tokens,
    changes_the_answer,
    changes_the_prompt,
    cuts_at_strings,
)
from tests.conformance.llama_cpp_fields import LLAMA_CPP
from tests.conformance.response_items_demonstrations import AROUND as AROUND_TOOLS
from tests.conformance.response_items_demonstrations import TOOLS, around, demonstrations_of
from tests.conformance.structured_demonstrations import (
    ENOUGH,
    ZEBRA,
    chooses_the_format,
    is_a_zebra,
)
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.conformance.thinking_demonstrations import matters_to_thinkers
from tests.live_server import LiveServer, parse_event, user

LOGPROBS = "message.output_text.logprobs"

PIRATE = "You are a pirate chatbot who always responds in pirate speak!"

BODY = {"model": "palmita", "input": user("Who are you?"), "max_output_tokens": 16}

ITEMS = {"items": user("Who are you?")}


def read(response: httpx.Response) -> Heard:
    """Read a response, whole or in events."""
    if response.headers["content-type"].startswith("text/event-stream"):
        lines = [line for line in response.iter_lines() if line.startswith("data:")]
        events = [parse_event(line) for line in lines]
        assert events.pop() == "[DONE]"
        return _heard(events[-1]["response"], events)
    return _heard(response.json(), response.json())


def _heard(answer: dict[str, Any], raw: Any) -> Heard:
    text = "".join(map(_text_of, answer["output"]))
    num_tokens = (answer["usage"] or {}).get("output_tokens")
    return Heard((text,), num_tokens, answer["status"] == "incomplete", raw)


def _text_of(item: dict[str, Any]) -> str:
    """Return the text, or name and arguments of a call."""
    if item["type"] == "function_call":
        return f"{item['name']}{item['arguments']}"
    return "".join(part["text"] for part in item["content"])


def read_conversation(response: httpx.Response) -> Heard:
    """Read a conversation, or items of one."""
    return Heard((response.text,), raw=response.json())


def remembers(subject: Subject, name: str) -> None:
    """What was said before is a part of the prompt."""
    first = subject.likeliest().raw
    conversation = subject.server.post("/v1/conversations", ITEMS).json()
    before = first["id"] if name == "previous_response_id" else conversation["id"]

    heard = subject.likeliest({name: before})

    assert heard.raw["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def reports_logprobs(subject: Subject, name: str) -> None:
    """The tokens, and how likely they were."""
    assert not _scored(subject.likeliest())
    heard = subject.likeliest({name: [LOGPROBS]})

    assert "".join(token["token"] for token in _scored(heard)).startswith(heard.text)
    assert all(token["logprob"] <= 0 for token in _scored(heard))


def reports_rivals(subject: Subject, name: str) -> None:
    """So many tokens beside each one."""
    for number in (1, 4):
        scored = _scored(subject.likeliest({"include": [LOGPROBS], name: number}))
        assert {len(token["top_logprobs"]) for token in scored} == {number}


def _scored(heard: Heard) -> Any:
    return heard.raw["output"][0]["content"][0]["logprobs"]


def leaves_out_the_oldest(subject: Subject, name: str) -> None:
    """A conversation that does not fit is refused, or loses its beginning."""
    long = {"input": user("Hello " * 100) * 200}

    assert subject.send({**long, name: "disabled"}).status_code == 400
    assert subject.send({**long, name: "auto"}).status_code == 200


def keeps_it(subject: Subject, name: str) -> None:
    """It can be fetched later, or not."""
    for is_stored, status in ((True, 200), (False, 404)):
        answer = subject.likeliest({name: is_stored}).raw
        assert subject.server.get(f"/v1/responses/{answer['id']}").status_code == status


def answers_at_once(subject: Subject, name: str) -> None:
    """With something that is not done."""
    assert subject.likeliest({name: True}).raw["status"] in ("queued", "in_progress")
    assert subject.likeliest().raw["status"] in ("completed", "incomplete")


def streams(subject: Subject, name: str) -> None:
    """Events, with the same text as the whole answer."""
    streamed = subject.likeliest({name: True})

    assert isinstance(streamed.raw, list)
    assert streamed.text == subject.likeliest().text


def is_repeated(subject: Subject, name: str) -> None:
    """What is stored is shown again."""
    assert subject.hear({name: {"a": "b"}}).raw["metadata"] == {"a": "b"}
    assert subject.hear({name: {}}).raw["metadata"] == {}


def only_assistants_put_out(subject: Subject, name: str) -> None:
    """`output_text` is what an assistant said, and nobody else."""
    outermost = name.partition(".")[0]
    part = {"type": "input_text", "text": "Hello"}

    def status(role: str, kind: str) -> int:
        turn = {"role": role, "content": [part]}
        return subject.send({outermost: [turn], name: kind}).status_code

    assert status("assistant", "output_text") == 200
    assert status("user", "output_text") == 400
    assert status("user", "input_text") == 200


def marks_the_item(subject: Subject, name: str) -> None:
    """The stored item has it."""
    for word in ("completed", "incomplete"):
        assert _stored(subject, name, word)["status"] == word


def says(*values: Any) -> Demonstration:
    """Return the demonstration of a part of an item that is stored: each value, another item."""

    def demonstrate(subject: Subject, name: str) -> None:
        items = [_stored(subject, name, value) for value in values]

        assert len({str((item["role"], item["content"])) for item in items}) == len(values)

    return demonstrate


def _stored(subject: Subject, name: str, value: Any) -> Any:
    """Send an item with a field and return it as the server shows it."""
    fields = {name: value}
    if ".content.*." in name:
        fields = {name.partition(".*.")[0] + ".*.content": [PART], **fields}
    answer = subject.hear(fields).raw
    if answer["object"] == "list":  # the items that were just added
        return answer["data"][0]
    path = "responses" if answer["object"] == "response" else "conversations"
    items = "input_items" if path == "responses" else "items"
    return subject.server.get(f"/v1/{path}/{answer['id']}/{items}").json()["data"][0]


FORMAT = {"type": "json_schema", "name": "zebra", "schema": dict(ZEBRA)}

PART = {"type": "input_text", "text": "Hello"}

DEMONSTRATIONS: dict[str, Demonstration] = {
    **SAMPLING,
    **LLAMA_CPP,
    **TOOLS,
    **demonstrations_of("input"),
    "reasoning": matters_to_thinkers({"effort": "none"}, {"effort": "high"}),
    "reasoning.effort": matters_to_thinkers("none", "high"),
    "stop_words": cuts_at_strings,
    "input": changes_the_answer("Hello", CAPITALS),
    "input.*.role": changes_the_prompt("user", "assistant"),
    "input.*.content": changes_the_answer("Hello", CAPITALS),
    "input.*.content.*.type": only_assistants_put_out,
    "input.*.content.*.text": says("Hello", CAPITALS),
    "input.*.status": marks_the_item,
    "text": is_a_zebra({"format": FORMAT}, beside=ENOUGH),
    "text.format": is_a_zebra(FORMAT, beside=ENOUGH),
    "text.format.type": chooses_the_format,
    "text.format.schema": is_a_zebra(dict(ZEBRA), beside={"text.format": FORMAT, **ENOUGH}),
    "instructions": changes_the_answer("Be brief.", PIRATE),
    "previous_response_id": remembers,
    "conversation": remembers,
    "max_output_tokens": bounds_tokens(),
    "truncation": leaves_out_the_oldest,
    "include": reports_logprobs,
    "top_logprobs": reports_rivals,
    "store": keeps_it,
    "background": answers_at_once,
    "stream": streams,
    "metadata": is_repeated,
}

STORED: dict[str, Demonstration] = {
    **demonstrations_of("items"),
    "items": says(user("Hello"), user(CAPITALS)),
    "items.*.role": says("user", "system"),
    "items.*.content": says("Hello", CAPITALS),
    "items.*.content.*.type": only_assistants_put_out,
    "items.*.content.*.text": says("Hello", CAPITALS),
    "items.*.status": marks_the_item,
}


def new_conversation(server: LiveServer) -> str:
    """Make a conversation and return its path."""
    return f"/v1/conversations/{server.post('/v1/conversations', {}).json()['id']}"


PARTS: dict[str, Mapping[str, Any]] = {"items": {"items.*.content": [PART]}, **around("items")}

WAYS = {
    "/v1/responses": Way(
        BODY,
        read,
        DEMONSTRATIONS,
        asks="input.*.content",
        around={
            "stream_options": {"stream": True},
            "input": {"input.*.content": [PART]},
            **around("input"),
            **AROUND_TOOLS,
            "text": {"text": {"format": FORMAT}, **ENOUGH},
        },
        names={"max_tokens": "max_output_tokens"},
    ),
    "/v1/conversations": Way(
        ITEMS, read_conversation, {**STORED, "metadata": is_repeated}, around=PARTS
    ),
    "/v1/conversations/{conversation_id}": Way(
        {"metadata": {}}, read_conversation, {"metadata": is_repeated}, url=new_conversation
    ),
    "/v1/conversations/{conversation_id}/items": Way(
        ITEMS,
        read_conversation,
        STORED,
        around=PARTS,
        url=lambda server: f"{new_conversation(server)}/items",
    ),
}
