"""Thinking before the answer in chat completions: own tags, templates, budgets, switches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import openai
import pytest

from palma.core.config import Settings
from palma.engine.base import Engine
from tests.live_server import LiveServer, running_server, user
from tests.scripted_agent import call_text
from tests.spy_engine import Spy
from tests.strict_clients import strict_openai_client
from tests.structured_models import random_engine
from tests.thinking_models import OVER, THOUGHT, load_random_thinker

PATH = "/v1/chat/completions"
STEPS = "<plan><goal>{goal}</goal><step>{one}</step><!-- more --></plan>"
FILLED = re.compile(r"<plan>\n  <goal>[^<]+</goal>(\n  <step>[^<]+</step>)+\n</plan>")


@pytest.fixture(scope="module")
def client(thinking_server: LiveServer) -> Iterator[openai.OpenAI]:
    with strict_openai_client(thinking_server) as client:
        yield client


def load_random(settings: Settings, executor: Executor) -> Engine:
    return random_engine("continuous", executor, settings.threads_max_workers)


@pytest.fixture(scope="module")
def random_server() -> Iterator[LiveServer]:
    with running_server(load=load_random) as server:
        yield server


@pytest.fixture(scope="module")
def random_client(random_server: LiveServer) -> Iterator[openai.OpenAI]:
    with strict_openai_client(random_server) as client:
        yield client


def ask(client: openai.OpenAI, content: str, **fields: Any) -> Any:
    """Return the whole answer's choice; what its stream adds up to must be the same."""
    asked: dict[str, Any] = {"model": "m", "messages": user(content), "temperature": 0, **fields}
    asked["model"] = client.models.list().data[0].id
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
    )
    message = whole.choices[0].message
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert reasoning == getattr(message, "reasoning_content", "")
    assert "".join(delta.content or "" for delta in deltas) == (message.content or "")
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    for name in ("prompt_tokens", "completion_tokens", "completion_tokens_details"):
        assert getattr(chunks[-1].usage, name) == getattr(whole.usage, name)
    return whole


def refusal(server: LiveServer, status: int = 400, **fields: Any) -> dict[str, Any]:
    """Return the error of a request that must be refused."""
    model = server.get("/v1/models").json()["data"][0]["id"]
    response = server.post(PATH, {"model": model, "messages": user("hi"), **fields})
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_what_a_model_thinks_is_no_part_of_its_answer(client: openai.OpenAI) -> None:
    completion = ask(client, f"{THOUGHT}Hi.")

    message = completion.choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm, hm.", "Hi.")
    details = completion.usage.completion_tokens_details
    assert details.reasoning_tokens == len("\nHm, hm.")


def test_an_answer_that_is_cut_while_it_thinks_is_empty(client: openai.OpenAI) -> None:
    choice = ask(client, THOUGHT, max_tokens=12).choices[0]

    assert (choice.message.reasoning_content, choice.message.content) == ("Hm,", "")
    assert choice.finish_reason == "length"


def test_thinking_comes_before_calls_and_stop_strings_are_not_for_it(
    client: openai.OpenAI,
) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]

    called = ask(client, THOUGHT + call_text("look", far=True), tools=tools).choices[0]
    stopped = ask(client, f"{THOUGHT}So, hm, hi", stop=["hm"]).choices[0]

    assert called.message.reasoning_content == "Hm, hm."
    assert called.message.tool_calls[0].function.name == "look"
    assert called.finish_reason == "tool_calls"
    assert stopped.message.reasoning_content == "Hm, hm."
    assert stopped.message.content == "So, "


@pytest.mark.parametrize(
    ("fields", "is_over"),
    [
        ({"reasoning_effort": "none"}, True),
        ({"reasoning_effort": "high"}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, True),
        ({"chat_template_kwargs": {"enable_thinking": True}}, False),
        ({"chat_template_kwargs": {}}, False),
        ({}, False),
    ],
)
def test_thinking_is_turned_on_and_off(
    client: openai.OpenAI, thinking_spy: Spy, fields: dict[str, Any], is_over: bool
) -> None:
    ask(client, "say hi", extra_body=fields)

    assert thinking_spy.submitted[-1].prompt.endswith(OVER) == is_over


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}},
            "chat_template_kwargs.enable_thinking",
        ),
        ({"thinking_budget": 10}, "thinking_budget"),
    ],
)
def test_a_model_that_does_not_think_says_so_by_name(
    mock_server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    error = refusal(mock_server, **fields)

    assert error["param"] == param
    assert "think" in error["message"]


def test_not_to_think_is_nothing_to_ask_of_a_model_that_does_not(mock_server: LiveServer) -> None:
    for fields in (
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        body = {"model": "mock", "messages": user("say hi"), **fields}
        assert mock_server.post(PATH, body).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": 1.5}, "thinking_budget"),
        ({"thinking_template": ""}, "thinking_template"),
        ({"thinking_template": "<a>" + "x" * 20_000 + "</a>"}, "thinking_template"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        (
            {
                "chat_template_kwargs": {"enable_thinking": True},
                "reasoning_effort": "none",
            },
            "chat_template_kwargs",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    thinking_server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    assert refusal(thinking_server, **fields)["param"] == param


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("not xml", "no XML"),
        ("<a>{x}", "no XML"),
        ("<a>{x}</a><b/>", "no XML"),
        ("<a><a>{x}</a></a>", "twice"),
        ("<a>text <b>{x}</b></a>", "beside elements"),
        ("".join(f"<e{n}>" for n in range(40)), "deep"),
        ("<a>" + "<b/>" * 300 + "</a>", "256 elements"),
        ("<?run me?><a/>", "instructions"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>', "DTD"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "DTD"),
        ("<a>&b;</a>", "undefined entity"),
    ],
)
def test_a_template_that_is_none_is_refused_with_the_reason(
    mock_server: LiveServer, template: str, reason: str
) -> None:
    error = refusal(mock_server, thinking_template=template)

    assert error["param"] == "thinking_template"
    assert reason in error["message"]


def test_a_template_in_the_tags_of_the_model_is_refused(thinking_server: LiveServer) -> None:
    error = refusal(thinking_server, thinking_template="<think>{what}</think>")

    assert "</think> ends" in error["message"]


def test_a_filled_template_is_the_reasoning_and_not_the_content(
    mock_server: LiveServer, strict_openai: openai.OpenAI
) -> None:
    filled = "<plan>\n  <goal>a</goal>\n  <step>b</step>\n</plan>"

    completion = ask(strict_openai, f"say {filled}\n\nSo.", extra_body={"thinking_template": STEPS})

    message = completion.choices[0].message
    assert (message.reasoning_content, message.content) == (filled, "So.")


def test_the_model_is_shown_the_template(client: openai.OpenAI, thinking_spy: Spy) -> None:
    template = {"thinking_template": "<a>{b}</a>"}

    ask(client, "say <think><a>b</a></think>\n\nSo.", extra_body=template)

    assert "<a>{b}</a>" in thinking_spy.submitted[-1].prompt


@pytest.mark.parametrize("seed", range(3))
def test_a_random_model_fills_the_template_and_then_keeps_to_the_form(
    random_client: openai.OpenAI, seed: int
) -> None:
    completion = ask(
        random_client,
        "What now?",
        seed=seed,
        temperature=1,
        max_tokens=150,
        extra_body={"thinking_template": STEPS, "choice": ["yes", "no"]},
    )

    message = completion.choices[0].message
    assert FILLED.fullmatch(message.reasoning_content)
    assert message.content in ("yes", "no")
    assert completion.choices[0].finish_reason == "stop"


def test_calls_follow_a_template(
    strict_openai: openai.OpenAI, random_client: openai.OpenAI
) -> None:
    seven = {"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"]}
    tools = [{"type": "function", "function": {"name": "look", "parameters": seven}}]
    short = {"thinking_template": "<p>{x}</p>", "thinking_budget": 16}
    said = "say <p>b</p>\n\n" + call_text("look", n=7)

    told = ask(strict_openai, said, tools=tools, extra_body={"thinking_template": "<p>{x}</p>"})
    held = ask(
        random_client,
        "What now?",
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=120,
        extra_body=short,
    )

    for completion in (told, held):
        message = completion.choices[0].message
        assert re.fullmatch(r"<p>[^<]+</p>", message.reasoning_content)
        assert message.content is None
        (call,) = message.tool_calls
        assert call.function.name == "look"
        assert json.loads(call.function.arguments)["n"] == 7


@pytest.mark.parametrize("budget", [50, 80])
def test_a_budget_bounds_a_template_in_tokens(random_client: openai.OpenAI, budget: int) -> None:
    fields = {"thinking_template": STEPS, "thinking_budget": budget, "choice": ["yes", "no"]}

    completion = ask(random_client, "What now?", max_tokens=200, extra_body=fields)

    assert FILLED.fullmatch(completion.choices[0].message.reasoning_content)
    details = completion.usage.completion_tokens_details
    assert budget / 2 < details.reasoning_tokens <= budget


def test_a_budget_too_small_for_the_tags_is_refused_with_both_figures(
    random_server: LiveServer,
) -> None:
    error = refusal(random_server, thinking_template=STEPS, thinking_budget=9)

    assert error["param"] == "thinking_budget"
    assert re.search(r"is 9, .* take \d+", error["message"])


def test_a_budget_ends_thinking_in_tags_and_the_form_follows() -> None:
    with running_server(load=load_random_thinker) as server, strict_openai_client(server) as client:
        for budget in (5, 20):
            fields = {"thinking_budget": budget, "choice": ["yes", "no"]}
            completion = ask(client, "hi", max_tokens=100, extra_body=fields)

            assert completion.choices[0].message.content in ("yes", "no")
            details = completion.usage.completion_tokens_details
            assert 0 < details.reasoning_tokens <= budget

        template = {"thinking_template": STEPS, "thinking_budget": 70, "choice": ["yes"]}
        completion = ask(client, "hi", max_tokens=120, extra_body=template)
        assert FILLED.fullmatch(completion.choices[0].message.reasoning_content)
        assert completion.choices[0].message.content == "yes"


def test_the_mock_engine_refuses_a_budget_as_it_follows_none(thinking_server: LiveServer) -> None:
    assert refusal(thinking_server, thinking_budget=5)["param"] == "thinking_budget"
