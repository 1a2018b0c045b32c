"""Makes a chat one that the model's template can render: tools, calls and results it knows not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator

from palma.core.errors import InvalidRequest
from palma.core.types import ChatPrompt, Message, Tool, ToolCall
from palma.serving.tools.formats import GENERAL, ToolFormat, tool_format
from palma.serving.tools.writer import write_calls

NAMES_TOOLS = re.compile(r"\btools\b")
REFUSES_SYSTEM = re.compile(r"system role (is )?not supported", re.IGNORECASE)

EXAMPLE = ToolCall("", "FUNCTION", '{"PARAMETER": "VALUE"}')

ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def check_history(messages: Iterable[Message], param: str = "messages") -> None:
    """Refuse results of calls that nobody made, and calls whose arguments are no JSON object.

    Raises:
        InvalidRequest: It says which.
    """
    made: set[str] = set()
    for message in messages:
        for call in message.tool_calls:
            made.add(call.call_id)
            if not _is_object(call.arguments):
                raise InvalidRequest(
                    f"the arguments of the call {call.call_id!r} are no JSON object", param=param
                )
        if message.role == "tool" and message.tool_call_id not in made:
            raise InvalidRequest(
                f"a result is of the call {message.tool_call_id!r}, which no message before it "
                "makes",
                param=param,
            )


def fit_chat(chat: ChatPrompt, chat_template: str) -> ChatPrompt:
    """Return what this template can render of a chat; all of it, where it knows tools.

    A template that knows no tools gets their descriptions in the system's text, or in the user's
    first turn if it refuses a system. One that knows no calls gets them as the assistant's text,
    in the model's format or in the GENERAL one, and results as a user's turn. Reasoning is left
    out where the template does not look for it.
    """
    tool_marks = tool_format(chat_template)
    messages = chat.messages
    if "reasoning_content" not in chat_template:
        messages = tuple(dataclasses.replace(message, reasoning="") for message in messages)
    if tool_marks is GENERAL or "tool_calls" not in chat_template:
        messages = tuple(_as_text(messages, tool_marks))
    elif tool_marks.one_call_a_turn:
        messages = tuple(_one_call_a_turn(messages))
    if tool_marks.call_id_length is not None:
        messages = tuple(_with_short_ids(messages, tool_marks.call_id_length))
    tools = chat.tools
    if tools and (tool_marks is GENERAL or not NAMES_TOOLS.search(chat_template)):
        text = describe(tools, tool_marks)
        messages, tools = with_instructions(messages, text, chat_template), ()
    return dataclasses.replace(chat, messages=messages, tools=tools)


def describe(tools: Iterable[Tool], tool_marks: ToolFormat) -> str:
    """Return what a model is told about tools that its template does not tell it."""
    lines = "\n".join(map(_description, tools))
    example = write_calls([EXAMPLE], tool_marks)
    return (
        "You may call the functions below, each described by a line of JSON.\n"
        f"<tools>\n{lines}\n</tools>\n"
        "If one of them helps with what the user asks, answer with its call, in this form and with "
        f"nothing after it:\n{example}\n"
        "Its result is then given to you. If none of them helps, answer without a call."
    )


def _description(tool: Tool) -> str:
    about = {"description": tool.description} if tool.description else {}
    fields = {"name": tool.name, **about, "parameters": json.loads(tool.parameters)}
    return json.dumps(fields, ensure_ascii=False)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _as_text(messages: Iterable[Message], tool_marks: ToolFormat) -> Iterator[Message]:
    """Yield turns of text alone: calls in the model's format, results as the user's."""
    results: list[str] = []
    for message in messages:
        if _is_result(message):
            results.append(f"<tool_response>\n{message.content}\n</tool_response>")
            continue
        told, results = "\n".join(results), []
        if told and message.role == "user":
            yield _prefixed(message, told, message.content)
            continue
        if told:
            yield Message("user", told)
        yield _call_as_text(message, tool_marks)
    if results:
        yield Message("user", "\n".join(results))


def _is_result(message: Message) -> bool:
    return message.role == "tool"


def _call_as_text(message: Message, tool_marks: ToolFormat) -> Message:
    if not message.tool_calls:
        return message
    parts = filter(None, (message.content, write_calls(message.tool_calls, tool_marks)))
    return dataclasses.replace(message, content="\n".join(parts), tool_calls=())


def _one_call_a_turn(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield a turn for each call of a turn, each with its result right after it."""
    turns = list(messages)
    results = {turn.tool_call_id: turn for turn in turns if _is_result(turn)}
    split = {call.call_id for turn in turns if len(turn.tool_calls) > 1 for call in turn.tool_calls}
    for turn in turns:
        if len(turn.tool_calls) < 2:
            if not _is_result(turn) or turn.tool_call_id not in split:
                yield turn
            continue
        for call in turn.tool_calls:
            yield dataclasses.replace(turn, tool_calls=(call,))
            if call.call_id in results:
                yield results[call.call_id]


def _with_short_ids(messages: Iterable[Message], length: int) -> Iterator[Message]:
    for message in messages:
        call_id = message.tool_call_id
        yield dataclasses.replace(
            message,
            tool_calls=tuple(
                dataclasses.replace(call, call_id=short_id(call.call_id, length))
                for call in message.tool_calls
            ),
            tool_call_id=None if call_id is None else short_id(call_id, length),
        )


def short_id(call_id: str, length: int) -> str:
    """Return an id of so many letters and digits: the same one, or always the same for it."""
    if len(call_id) == length and call_id.isascii() and call_id.isalnum():
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest(), "big")
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ID_ALPHABET))
        digits.append(ID_ALPHABET[digit])
    return "".join(digits)


def with_instructions(
    messages: tuple[Message, ...], text: str, chat_template: str
) -> tuple[Message, ...]:
    """Return the messages with a text in the system's turn, or in the first user's turn.

    The latter where the template refuses a system.
    """
    first = messages[0]
    if first.role == "system":
        return (_prefixed(first, first.content, text), *messages[1:])
    if not _refuses_system(chat_template):
        return (Message("system", text), *messages)
    at = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    return (
        *messages[:at],
        _prefixed(messages[at], text, messages[at].content),
        *messages[at + 1 :],
    )


def _prefixed(message: Message, first: str, second: str) -> Message:
    return dataclasses.replace(message, content="\n\n".join(filter(None, (first, second))))


def _refuses_system(chat_template: str) -> bool:
    """Return whether a template names only the roles of user and assistant, or says so."""
    strict = "raise_exception" in chat_template and "system" not in chat_template
    return strict or REFUSES_SYSTEM.search(chat_template) is not None
