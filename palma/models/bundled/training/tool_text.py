"""How tools, calls and their results stand in a conversation: the same as the template has it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
TOOLS_START, TOOLS_END = "<tools>", "</tools>"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a tool.

    Attributes:
        name: As the client calls it.
        kind: Its JSON type, or the values that it may have: "celsius|fahrenheit".
        is_required: Whether every call must give it.
    """

    name: str
    kind: str = "string"
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as palmita is told of it."""

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()

    def as_function(self) -> dict[str, Any]:
        """Return the tool as clients and chat templates know it: OpenAI's form."""
        schema = {
            "type": "object",
            "properties": {each.name: _schema(each) for each in self.parameters},
            "required": [each.name for each in self.parameters if each.is_required],
        }
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}


def tools_text(tools: Sequence[ToolSpec]) -> str:
    """Return what the system message says of the tools: a line each, in the form of a call."""
    return "\n".join([TOOLS_START, *map(_line, tools), TOOLS_END])


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a call as palmita writes it."""
    call = {"name": name, "arguments": dict(arguments)}
    return f"{CALL_START}\n{json.dumps(call, ensure_ascii=False)}\n{CALL_END}"


def call_in(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return the name and arguments of the call that is the whole text; None if it is not one."""
    if not (text.startswith(CALL_START) and text.endswith(CALL_END)):
        return None
    try:
        call = json.loads(text[len(CALL_START) : -len(CALL_END)])
        return str(call["name"]), dict(call["arguments"])
    except (ValueError, TypeError, KeyError):
        return None


def _line(tool: ToolSpec) -> str:
    arguments = {f"{p.name}{'' if p.is_required else '?'}": p.kind for p in tool.parameters}
    form = json.dumps({"name": tool.name, "arguments": arguments}, ensure_ascii=False)
    return f"{form} {tool.description}".strip()


def _schema(parameter: Parameter) -> dict[str, Any]:
    if "|" in parameter.kind:
        return {"type": "string", "enum": parameter.kind.split("|")}
    return {"type": parameter.kind}
