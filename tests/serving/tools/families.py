"""A tiny chat template for each family, in its manner and with its marks, and calls to write."""

from __future__ import annotations

import json
from typing import Any

from palma.core.types import ChatPrompt, Message, Tool, ToolCall, ToolCallDelta
from palma.serving.reading import AnswerReader, Pieces

HERMES = """\
{% if tools %}SYSTEM {% for tool in tools %}{{ tool | tojson }} {% endfor %}
{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}"""

QWEN_XML = """\
{% for tool in tools or [] %}{{ tool | tojson }} {% endfor %}
{%- for m in messages %}{{ m.role }}: {{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
<function={{ call.function.name }}>
{%- for key, value in call.function.arguments.items() %}
{{- '\\n<parameter=' + key + '>\\n' }}
{{- (value if value is string else value | tojson) + '\\n</parameter>' }}{% endfor %}
{{- '\\n</function>\\n</tool_call>' }}{% endfor %}
{% endfor %}"""

GLM = """\
{% for tool in tools or [] %}{{ tool | tojson }} {% endfor %}
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>{{ call.function.name }}
{%- for key, value in call.function.arguments.items() %}
{{- '\\n<arg_key>' + key + '</arg_key>\\n<arg_value>' }}
{{- (value if value is string else value | tojson) + '</arg_value>' }}{% endfor %}
{{- '\\n</tool_call>' }}{% endfor %}
{% endfor %}"""

GLM_ONE_LINE = (
    GLM.replace("'\\n<arg_key>'", "'<arg_key>'")
    .replace("</arg_key>\\n<arg_value>", "</arg_key><arg_value>")
    .replace("'\\n</tool_call>'", "'</tool_call>'")
)

LLAMA = """\
{% if tools %}Respond in the format {"name": function name, "parameters": arguments}.
{% for tool in tools %}{{ tool | tojson }} {% endfor %}{% endif %}
{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>
{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}
{{- raise_exception("one call at a time") }}{% endif %}
{%- set call = m.tool_calls[0].function %}
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}
{%- else %}{{ m.content }}{% endif %}
{% endfor %}"""

MISTRAL = """\
{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}{% if m.role == "user" %}[INST] {{ m.content }}[/INST]
{%- elif m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have nine characters") }}{% endif %}
{{- {"name": call.function.name, "arguments": call.function.arguments, "id": call.id} | tojson }}
{%- if not loop.last %}, {% endif %}{% endfor %}]
{%- elif m.role == "tool" %}[TOOL_RESULTS] {{ m.tool_call_id }} {{ m.content }}[/TOOL_RESULTS]
{%- else %}{{ m.content }}{% endif %}{% endfor %}"""

MISTRAL_ARGS = """\
{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}
{%- for call in m.tool_calls or [] %}[TOOL_CALLS]{{ call.function.name }}[ARGS]
{{- call.function.arguments | tojson }}{% endfor %}{% endfor %}"""

PHI = """\
{% for message in messages %}<|{{ message.role }}|>{{ message.content }}
{%- if message['tools'] %}<|tool|>{{ message['tools'] }}<|/tool|>{% endif %}
{%- for call in message.tool_calls or [] %}<|tool_call|>[{{ call.function | tojson }}]<|/tool_call|>
{%- endfor %}<|end|>{% endfor %}"""

GRANITE = """\
{% if tools %}<|start_of_role|>tools<|end_of_role|>{{ tools | tojson }}{% endif %}
{%- for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}
{%- if m.tool_calls %}<|tool_call|>{{ m.tool_calls | map(attribute="function") | list | tojson }}
{%- endif %}{% endfor %}"""

FUNCTION_GEMMA = """\
{% for tool in tools or [] %}<start_function_declaration>{{ tool.function.name }}{% endfor %}
{%- for m in messages %}<start_of_turn>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}<start_function_call>call:
{{- call.function.name }}{ {%- for key, value in call.function.arguments.items() %}{{ key }}:
{{- ("<escape>" + value + "<escape>") if value is string else value | tojson }}
{%- if not loop.last %},{% endif %}{% endfor %}}<end_function_call>{% endfor %}
{% endfor %}"""

GEMMA = (
    FUNCTION_GEMMA.replace("<start_function_call>", "<|tool_call>")
    .replace("<end_function_call>", "<tool_call|>")
    .replace('"<escape>"', "'<|\"|>'")
    .replace("<start_of_turn>", "<|turn>")
    .replace("<start_function_declaration>", "<|tool>")
)

DEEPSEEK = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}{% for call in m['tool_calls'] or [] %}
{%- if loop.first %}<｜tool▁calls▁begin｜>{% endif %}
{{- '<｜tool▁call▁begin｜>' + call['function']['name'] + '<｜tool▁sep｜>' }}
{{- call['function']['arguments'] + '<｜tool▁call▁end｜>' }}
{%- if loop.last %}<｜tool▁calls▁end｜>{% endif %}{% endfor %}{% endfor %}"""

DEEPSEEK_FENCED = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}{% for call in m['tool_calls'] or [] %}
{%- if loop.first %}<｜tool▁calls▁begin｜>{% endif %}
{{- '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call['function']['name'] + '\\n```json\\n' }}
{{- call['function']['arguments'] + '\\n```<｜tool▁call▁end｜>' }}
{%- if loop.last %}<｜tool▁calls▁end｜>{% else %}{{ '\\n' }}{% endif %}{% endfor %}{% endfor %}"""

PLAIN = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}"""

TEMPLATES = {
    "hermes": HERMES,
    "qwen-xml": QWEN_XML,
    "glm": GLM,
    "glm-one-line": GLM_ONE_LINE,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral-args": MISTRAL_ARGS,
    "phi": PHI,
    "granite": GRANITE,
    "function-gemma": FUNCTION_GEMMA,
    "gemma": GEMMA,
    "deepseek": DEEPSEEK,
    "deepseek-fenced": DEEPSEEK_FENCED,
    "general": PLAIN,
}

WEATHER = Tool(
    "get_weather",
    "Tells the weather.",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
                "map": {"type": "object"},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["city"],
        }
    ),
)
CLOCK = Tool("clock")
TOOLS = (WEATHER, CLOCK, Tool("clock_set"))


def call(name: str, arguments: dict[str, Any], call_id: str = "call_1") -> ToolCall:
    """Return a call."""
    return ToolCall(call_id, name, json.dumps(arguments, ensure_ascii=False))


RICH_CALL = call(
    "get_weather",
    {
        "city": 'São "P"\\\n<b> }]{ 🗺️',
        "days": -3,
        "unit": "C",
        "map": {"a": [1, {"b": '}]\\"'}]},
        "note": None,
    },
)
CALLS = (RICH_CALL, call("clock", {}, "call_2"), call("get_weather", {"city": ""}, "call_3"))

QUESTION = Message("user", "How is it?")
TURNS = (
    QUESTION,
    Message("assistant", "", tool_calls=CALLS[1:]),
    Message("tool", "noon", tool_call_id="call_2"),
    Message("tool", "rain", tool_call_id="call_3"),
)


def chat(*messages: Message, tools: tuple[Tool, ...] = TOOLS) -> ChatPrompt:
    """Return a chat of these messages."""
    return ChatPrompt(messages, tools)


def read(reader: AnswerReader, *texts: str) -> Pieces:
    """Return all that a reader makes of an answer that comes in these texts."""
    pieces = [*map(reader.push, texts), reader.flush()]
    calls = tuple(delta for piece in pieces for delta in piece.tool_calls)
    return Pieces(text="".join(piece.text for piece in pieces), tool_calls=calls)


def fold(deltas: tuple[ToolCallDelta, ...]) -> list[tuple[str, str]]:
    """Return the name and the arguments of each call; there is an order and one beginning each."""
    calls: list[tuple[str, list[str]]] = []
    for delta in deltas:
        if delta.name is not None:
            assert delta.call_id
            calls.append((delta.name, []))
        assert delta.index == len(calls) - 1
        calls[-1][1].append(delta.arguments)
    return [(name, "".join(arguments)) for name, arguments in calls]


def read_calls(reader: AnswerReader, *texts: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the text and the calls that a reader finds in an answer."""
    pieces = read(reader, *texts)
    return pieces.text, fold(pieces.tool_calls)
