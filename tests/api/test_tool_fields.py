"""The fields about tools: what is taken, what is refused by name, and what they mean."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from palma.api.tool_fields import (
    MAX_DESCRIPTION_CHARS,
    MAX_PARAMETERS_CHARS,
    MAX_TOOLS,
    NO_PARAMETERS,
    Offer,
    ToolChoice,
    ToolChoiceBody,
    tool_use,
)
from palma.api.wire import parse_body
from palma.core.errors import InvalidRequest, UnsupportedParameter
from palma.core.types import Tool


class Body(BaseModel):
    """A body with nothing but tools."""

    model_config = ConfigDict(strict=True, extra="forbid")

    tools: Offer | None = None
    tool_choice: ToolChoiceBody | None = None


def function(**fields: Any) -> dict[str, Any]:
    """Return a tool's body."""
    return {"type": "function", "function": {"name": "f", **fields}}


def choice_of(value: Any) -> ToolChoice:
    """Return what a `tool_choice` means."""
    body = parse_body(Body, {"tool_choice": value}).tool_choice
    assert body is not None
    return body.choice


def test_a_function_is_a_tool() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = parse_body(Body, {"tools": [function(description="Adds.", parameters=schema)]})

    assert body.tools is not None
    assert body.tools[0].function.tool == Tool(
        "f", "Adds.", '{"type":"object","properties":{"a":{"type":"integer"}}}'
    )


def test_a_schema_without_a_type_is_an_objects_and_none_at_all_takes_no_arguments() -> None:
    body = parse_body(Body, {"tools": [function(parameters={}), function(), function(strict=True)]})

    assert body.tools is not None
    parameters = [tool.function.tool.parameters for tool in body.tools]
    assert parameters == ['{"type":"object"}', NO_PARAMETERS, NO_PARAMETERS]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([function(name="a b")], "tools.0.function.name"),
        ([function(name="a" * 65)], "tools.0.function.name"),
        ([function(name="")], "tools.0.function.name"),
        ([function(name="f\n")], "tools.0.function.name"),
        ([{"type": "function", "function": {}}], "tools.0.function.name"),
        ([{"type": "function"}], "tools.0.function"),
        ([{"function": {"name": "f"}}], "tools.0.type"),
        ([function(description="a" * (MAX_DESCRIPTION_CHARS + 1))], "tools.0.function.description"),
        ([function(parameters={"type": "array"})], "tools.0.function.parameters"),
        ([function(parameters=["a"])], "tools.0.function.parameters"),
        ([function(parameters=nested(300))], "tools.0.function.parameters"),
        (
            [function(), function(parameters={"title": "a" * MAX_PARAMETERS_CHARS})],
            "tools.1.function.parameters",
        ),
        ([function()] * (MAX_TOOLS + 1), "tools"),
        ({"f": function()}, "tools"),
    ],
)
def test_a_wrong_tool_is_refused_by_the_name_of_its_field(tools: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(Body, {"tools": tools})

    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize("kind", ["custom", "web_search", "x{y}%s"])
def test_tools_that_are_no_functions_are_refused_by_their_type(kind: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        parse_body(Body, {"tools": [{"type": kind, kind: {"name": "f"}}]})

    assert caught.value.param == "tools.0.type"
    assert kind in caught.value.message


def test_a_named_function_needs_no_type() -> None:
    named = {"function": {"name": "f"}}

    assert choice_of(named) == choice_of({"type": "function", **named})


def test_every_form_of_a_choice_means_something_else() -> None:
    named = {"type": "function", "function": {"name": "f"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}

    assert [choice_of(word) for word in ("none", "auto", "required")] == [
        ToolChoice("none"),
        ToolChoice("auto"),
        ToolChoice("required"),
    ]
    assert choice_of(named) == ToolChoice("required", name="f")
    assert choice_of(allowed) == ToolChoice("required", allowed=("f",))


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        ({"type": "auto"}, "tool_choice"),
        (["auto"], "tool_choice"),
        ({"type": "custom", "custom": {"name": "f"}}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice"),
        ({}, "tool_choice"),
        ({"type": "function", "function": {"name": 7}}, "tool_choice.function.name"),
        ({"type": "allowed_tools", "function": {"name": "f"}}, "tool_choice"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            "tool_choice.allowed_tools.tools",
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": []}},
            "tool_choice.allowed_tools.mode",
        ),
    ],
)
def test_a_wrong_choice_is_refused_by_name(choice: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        choice_of(choice)

    assert caught.value.param == param


TOOLS = (Tool("f"), Tool("g"))


def test_no_tools_ask_for_nothing() -> None:
    assert tool_use([]) is None
    assert tool_use([], ToolChoice("auto")) is None
    assert tool_use([], ToolChoice("none")) is None


def test_a_named_tool_stands_among_the_others_and_allowed_ones_alone() -> None:
    named = tool_use(TOOLS, ToolChoice("required", name="g"), parallel=False)
    allowed = tool_use(TOOLS, ToolChoice("auto", allowed=("g",)))

    assert named is not None
    assert (named.tools, named.choice, named.name, named.parallel) == (
        TOOLS,
        "required",
        "g",
        False,
    )
    assert allowed is not None
    assert (allowed.tools, allowed.choice, allowed.name) == ((Tool("g"),), "auto", None)


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ((), ToolChoice("required"), "tool_choice"),
        ((), ToolChoice("auto", allowed=("f",)), "tool_choice"),
        (TOOLS, ToolChoice("required", name="h"), "tool_choice"),
        (TOOLS, ToolChoice("auto", allowed=("f", "h")), "tool_choice"),
        ((*TOOLS, Tool("f")), ToolChoice(), "tools.2"),
    ],
)
def test_tools_and_a_choice_that_do_not_fit_are_refused(
    tools: tuple[Tool, ...], choice: ToolChoice, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tool_use(tools, choice)

    assert caught.value.param == param
