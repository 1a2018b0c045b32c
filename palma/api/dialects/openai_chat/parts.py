"""gallama's answers in parts: a choice for each of a whole answer, labelled deltas of a stream."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from palma.serving.artifacts import Part


class TextMeta(TypedDict):
    """The part is prose."""

    tag_type: Literal["text"]


class CodeMeta(TypedDict):
    """The part is a piece of code; title and language are what the model says of it."""

    tag_type: Literal["artifact"]
    artifact_type: Literal["code"]
    identifier: str
    title: str
    language: str | None


def artifact_meta(part: Part) -> TextMeta | CodeMeta:
    """Return what a part of an answer is."""
    if part.code is None:
        return {"tag_type": "text"}
    return {
        "tag_type": "artifact",
        "artifact_type": "code",
        "identifier": part.code.identifier,
        "title": part.code.title,
        "language": part.code.language,
    }
