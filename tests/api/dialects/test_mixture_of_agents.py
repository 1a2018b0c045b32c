"""Several models answer, and the asked one concludes: gallama's mixture of agents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.live_server import LiveServer, running_server, unharmed_neighbour, user, wait_until
from tests.strict_clients import strict_openai_client

PATH = "/v1/chat/completions"
MODELS = "; ".join(f"model_id=palmita model_name={name}" for name in ("chief", "one", "two"))


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running_server(models=MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with strict_openai_client(server) as client:
        yield client


def body(content: str, agents: list[Any], **fields: Any) -> dict[str, Any]:
    mixture = {"agent_list": agents}
    return {"model": "chief", "messages": user(content), "mixture_of_agents": mixture, **fields}


def refusal(server: LiveServer, agents: Any, content: str = "hi", status: int = 400) -> Any:
    response = server.post(PATH, body(content, agents))
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_the_asked_model_reads_the_answers_and_all_usage_is_added_up(
    server: LiveServer, client: openai.OpenAI
) -> None:
    question = "say say so"  # the agents answer `say so`, and the chief obeys what they answered
    alone = server.post(PATH, {"model": "one", "messages": user(question)}).json()["usage"]

    whole = client.chat.completions.create(
        model="chief",
        messages=[{"role": "user", "content": "count to 4, or: " + question}],
        extra_body={"mixture_of_agents": {"agent_list": ["one", "two"]}},
    )

    assert whole.model == "chief"
    answer = whole.choices[0].message.content
    assert answer is not None
    assert "Answer 1:\nsay so" in answer
    assert "Answer 2:\nsay so" in answer
    assert whole.usage is not None
    agents = 2 * alone["completion_tokens"]
    assert whole.usage.completion_tokens == agents + len(answer) + 1
    assert whole.usage.prompt_tokens > 2 * alone["prompt_tokens"] + len(answer)


def test_the_stream_is_the_conclusion_with_the_same_usage(server: LiveServer) -> None:
    asked = body("say say so", ["one", {"model": "two", "thinking_template": "<a>{b}</a>"}])
    whole = server.post(PATH, asked).json()

    events = server.events(
        PATH, {**asked, "stream": True, "stream_options": {"include_usage": True}}
    )

    deltas = [event["choices"][0]["delta"] for event in events[:-1] if event["choices"]]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-2]["usage"] == whole["usage"]
    assert events[-1] == "[DONE]"


def test_one_model_may_be_asked_more_than_once_and_conclude_itself(server: LiveServer) -> None:
    choices = server.post(PATH, body("say say hm", ["chief", "chief"], n=2)).json()["choices"]

    assert len(choices) == 2
    assert choices[0]["message"]["content"].count("Answer") == 2


@pytest.mark.parametrize(
    ("agents", "status"),
    [
        (["nobody"], 404),
        (["one", {"model": "nobody"}], 404),
        ([], 400),
        (["one"] * 9, 400),
        ([{"model": "one", "temperature": 1}], 400),
        ([7], 400),
        ("one", 400),
    ],
)
def test_agents_that_cannot_be_asked_are_refused(
    server: LiveServer, agents: Any, status: int
) -> None:
    error = refusal(server, agents, status=status)

    assert error["param"].startswith("mixture_of_agents")
    if status == 404:
        assert "nobody" in error["message"]
    server.wait_until_idle()


def test_an_unknown_chief_is_not_found_before_anybody_is_asked(server: LiveServer) -> None:
    asked = {**body("slowly count to 100", ["one"]), "model": "nobody"}

    assert server.post(PATH, asked).status_code == 404
    assert server.counts() == (0, 0)


def test_an_agent_that_fails_fails_the_request_by_its_name(server: LiveServer) -> None:
    with unharmed_neighbour(server):
        error = refusal(server, ["one", "two"], "fail after 2", status=500)

    assert error["message"].startswith("mixture_of_agents: one:") or error["message"].startswith(
        "mixture_of_agents: two:"
    )
    assert error["param"] == "mixture_of_agents"
    server.wait_until_idle()


def test_a_template_that_an_agent_cannot_fill_is_refused_by_its_name(server: LiveServer) -> None:
    error = refusal(server, ["one", {"model": "two", "thinking_template": "<a>"}])

    assert "two" in error["message"]
    assert "no XML" in error["message"]
    server.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_all_agents(server: LiveServer, stream: bool) -> None:
    asked = body("slowly count to 1000", ["one", "two"], stream=stream)
    request = server.client.build_request("POST", PATH, json=asked)
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with server.connect() as connection:
        connection.sendall(
            f"{head}content-length: {len(request.content)}\r\n\r\n".encode() + request.content
        )
        wait_until(lambda: server.counts()[0] == 2, "both agents run")

    server.wait_until_idle()
