"""Where each dialect streams, where it gives the same answer whole, and how both are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.live_server import user

MODEL = "palmita"
MAX_TOKENS = 24

GREEDY = {"temperature": 0}
DRAWN = {"temperature": 1.5, "top_p": 0.95}

Body = Callable[[str, bool], dict[str, Any]]
"""Takes a prompt and whether the answer is drawn; returns a request's body."""


@dataclass(frozen=True)
class Way:
    """A route that streams, and one that gives the same answer whole.

    Attributes:
        stream_path: Where it is streamed.
        body: What is sent there.
        read_stream: Folds the objects of a stream, or takes its text.
        whole_path: Where it is had whole.
        read_whole: Takes the same from a whole answer as `read_stream` from a stream.
        whole_body: What is sent there; None if it is the same.
        says: What both bodies say about streaming.
        name: What else this way is about.
    """

    stream_path: str
    body: Body
    read_stream: Callable[[Any], Any]
    whole_path: str
    read_whole: Callable[[Any], Any]
    whole_body: Body | None = None
    says: tuple[dict[str, Any], dict[str, Any]] = ({"stream": True}, {"stream": False})
    name: str = ""

    def __str__(self) -> str:
        return f"{self.stream_path} {self.name}".rstrip()


def chat_body(prompt: str, is_drawn: bool, **fields: Any) -> dict[str, Any]:
    """Return what OpenAI's chats take; two choices, which come mixed in a stream."""
    drawing = {**DRAWN, "seed": 7} if is_drawn else GREEDY
    asked = {"model": MODEL, "messages": user(prompt), "max_tokens": MAX_TOKENS, "n": 2}
    return {**asked, **drawing, **fields}


def gallama_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    template = "<plan><goal>{goal}</goal></plan>"
    form = {"thinking_template": template, "regex_prefix_pattern": "(Yes|No), "}
    return chat_body(prompt, is_drawn, max_tokens=80, **form)


def leading_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    return chat_body(prompt, is_drawn, leading_prompt="Well, ", stop_words=["."])


def mirostat_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    drawing = {"mirostat": 2, "mirostat_tau": 6, "top_p": 1} if is_drawn else {}
    return chat_body(prompt, is_drawn, repeat_penalty=1.2, repeat_last_n=16, **drawing)


def palma_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    drawing = {**DRAWN, "seed": 7} if is_drawn else {"do_sample": False}
    return {"messages": user(prompt), "max_new_tokens": MAX_TOKENS, **drawing}


def completion_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    body = chat_body(prompt, is_drawn)
    del body["messages"]
    return {**body, "prompt": [prompt, "One two"]}


def response_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    drawing = {**DRAWN, "seed": 7} if is_drawn else GREEDY
    return {"model": MODEL, "input": prompt, "max_output_tokens": MAX_TOKENS, **drawing}


def message_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    """Return what Anthropic's messages take: no seed, and a temperature of 1 at most."""
    drawing = {"temperature": 1.0, "top_p": 1.0} if is_drawn else GREEDY
    return {"model": MODEL, "messages": user(prompt), "max_tokens": MAX_TOKENS, **drawing}


def ollama_body(**asked: Any) -> Body:
    def body(prompt: str, is_drawn: bool) -> dict[str, Any]:
        drawing = {**DRAWN, "seed": 7} if is_drawn else GREEDY
        content = {"messages": user(prompt)} if "messages" in asked else {"prompt": prompt}
        options = {**drawing, "num_predict": MAX_TOKENS}
        return {"model": MODEL, **asked, **content, "options": options}

    return body


def stack_body(name: str) -> Body:
    def body(prompt: str, is_drawn: bool) -> dict[str, Any]:
        strategy = {"strategy": {"type": "top_p", **DRAWN}, "seed": 7} if is_drawn else {}
        content: Any = user(prompt) if name == "messages" else prompt
        params = {"max_tokens": MAX_TOKENS, **strategy}
        return {"model": MODEL, name: content, "sampling_params": params}

    return body


def falcon_body(prompt: str, is_drawn: bool) -> dict[str, Any]:
    """Return what Falcon takes: no seed; the likeliest token is chosen by `top_k`."""
    drawing = {**DRAWN, "top_k": 50} if is_drawn else {"top_k": 1}
    return {"text": prompt, "max_tokens": MAX_TOKENS, **drawing}


def as_falcon(name: str) -> Body:
    """Return the same question in OpenAI's words: Falcon itself has no whole answers."""

    def body(prompt: str, is_drawn: bool) -> dict[str, Any]:
        content: Any = user(prompt) if name == "messages" else prompt
        asked = {name: content, "model": MODEL, "max_tokens": MAX_TOKENS}
        return {**asked, **({**DRAWN, "top_k": 50} if is_drawn else GREEDY)}

    return body


def fold_choices(events: list[Any]) -> dict[str, Any]:
    """Put OpenAI's events together: each choice's text, thought and reason, and the usage."""
    assert events[-1] == "[DONE]"
    choices: dict[int, dict[str, str]] = {}
    for choice in (choice for event in events[:-1] for choice in event["choices"]):
        known = choices.setdefault(choice["index"], {"text": "", "thought": "", "reason": ""})
        delta = choice.get("delta", {})
        known["text"] += choice.get("text") or delta.get("content") or ""
        known["thought"] += delta.get("reasoning_content") or ""
        known["reason"] += choice["finish_reason"] or ""
    return {"choices": choices, "num_tokens": events[-2]["usage"]["completion_tokens"]}


def read_choices(answer: Any) -> dict[str, Any]:
    choices = {
        choice["index"]: {
            "text": choice["text"] if "text" in choice else choice["message"]["content"],
            "thought": choice.get("message", {}).get("reasoning_content") or "",
            "reason": choice["finish_reason"],
        }
        for choice in answer["choices"]
    }
    return {"choices": choices, "num_tokens": answer["usage"]["completion_tokens"]}


def read_text(answer: Any) -> str:
    """Return the text of OpenAI's only choice."""
    return str(read_choices(answer)["choices"][0]["text"])


def fold_response(events: list[Any]) -> dict[str, Any]:
    text = "".join(e["delta"] for e in events[:-1] if e["type"] == "response.output_text.delta")
    last = events[-2]["response"]
    return {"text": text, "status": last["status"], "num_tokens": last["usage"]["output_tokens"]}


def read_response(answer: Any) -> dict[str, Any]:
    text = answer["output"][0]["content"][0]["text"]
    num_tokens = answer["usage"]["output_tokens"]
    return {"text": text, "status": answer["status"], "num_tokens": num_tokens}


def fold_message(events: list[Any]) -> dict[str, Any]:
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    (last,) = [event for event in events if event["type"] == "message_delta"]
    return {
        "text": "".join(delta["text"] for delta in deltas),
        "reason": last["delta"]["stop_reason"],
        "num_tokens": last["usage"]["output_tokens"],
    }


def read_message(answer: Any) -> dict[str, Any]:
    (block,) = answer["content"]
    num_tokens = answer["usage"]["output_tokens"]
    return {"text": block["text"], "reason": answer["stop_reason"], "num_tokens": num_tokens}


def fold_ollama(lines: list[Any]) -> dict[str, Any]:
    return {**read_ollama(lines[-1]), "text": "".join(read_ollama(line)["text"] for line in lines)}


def read_ollama(answer: Any) -> dict[str, Any]:
    text = answer["message"]["content"] if "message" in answer else answer["response"]
    reason, num_tokens = answer.get("done_reason"), answer.get("eval_count")
    return {"text": text, "reason": reason, "num_tokens": num_tokens}


def fold_stack(parts: list[Any]) -> dict[str, Any]:
    parts = [part.get("event", part) | {"metrics": part["metrics"]} for part in parts]
    texts = [p["delta"]["text"] if isinstance(p["delta"], dict) else p["delta"] for p in parts]
    last = parts[-1]
    return {
        "text": "".join(texts),
        "reason": last["stop_reason"],
        "metrics": last["metrics"],
    }


def read_stack(answer: Any) -> dict[str, Any]:
    message = answer["completion_message"]
    metrics = answer["metrics"]
    return {"text": message["content"], "reason": message["stop_reason"], "metrics": metrics}


def fold_falcon(events: list[Any]) -> str:
    """Return the text of the last answer; a farewell follows it."""
    return str(events[-2]["message"])


WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
UNSAID: tuple[dict[str, Any], dict[str, Any]] = ({}, {})


def openai(path: str, body: Body = chat_body, name: str = "") -> Way:
    """Return the way of a path that streams where the body says so."""
    says = (WITH_USAGE, {"stream": False})
    return Way(path, body, fold_choices, path, read_choices, says=says, name=name)


def cria(path: str, body: Body) -> Way:
    """Return the way of two paths that do not need to be told."""
    usage = {"stream_options": {"include_usage": True}}
    paths = f"{path}_stream", f"{path}_full"
    return Way(paths[0], body, fold_choices, paths[1], read_choices, says=(usage, {}))


def llama_stack(path: str, name: str) -> Way:
    """Return the way of a path whose content has this name."""
    return Way(path, stack_body(name), fold_stack, path, read_stack)


def ollama(path: str, name: str = "", **asked: Any) -> Way:
    """Return the way of a path, with more fields of its body."""
    return Way(path, ollama_body(**asked), fold_ollama, path, read_ollama, name=name)


def falcon(path: str, read_stream: Callable[[Any], Any], name: str = "messages") -> Way:
    """Return the way of a path; OpenAI's dialect gives the whole answer."""
    whole_path = "/v1/chat/completions" if name == "messages" else "/v1/completions"
    body = as_falcon(name)
    return Way(path, falcon_body, read_stream, whole_path, read_text, whole_body=body, says=UNSAID)


WAYS = (
    Way(
        "/v0.1.0/stream",
        palma_body,
        lambda events: "".join(events).removesuffix("<|eot_id|>"),
        "/v0.1.0/inference",
        lambda answer: answer["data"],
        says=UNSAID,
    ),
    openai("/v1/chat/completions"),
    openai("/v1/chat/completions", gallama_body, name="with gallama's thinking and form"),
    openai("/v1/chat/completions", leading_body, name="with gallama's leading prompt"),
    openai("/v1/completions", completion_body),
    openai("/v1/chat/generate", completion_body),
    cria("/v1/chat/completions", mirostat_body),
    cria("/v1/completions", completion_body),
    Way("/v1/responses", response_body, fold_response, "/v1/responses", read_response),
    Way("/v1/messages", message_body, fold_message, "/v1/messages", read_message),
    ollama("/api/chat", messages=True),
    ollama("/api/generate"),
    ollama("/api/generate", "raw", raw=True),
    llama_stack("/inference/completion", "content"),
    llama_stack("/inference/chat_completion", "messages"),
    llama_stack("/v1/inference/completion", "content"),
    llama_stack("/v1/inference/chat-completion", "messages"),
    falcon("/inference/palmita", lambda text: text.removesuffix("<|endoftext|>"), "prompt"),
    falcon("/predictions/palmita", lambda text: text.removesuffix("<|endoftext|>")),
    falcon("/chat/palmita", fold_falcon),
)
