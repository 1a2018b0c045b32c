"""The form of an answer: what it must look like, and who takes it apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from palma.core.types import Constraint, GenerationRequest, Tokenizer
from palma.engine.base import Engine
from palma.serving.reading import AnswerReader, PlainReader, ReaderChain
from palma.serving.thinking.plan import ThinkingPlan, thinking_plan
from palma.serving.tools.formats import ToolFormat, tool_format
from palma.serving.tools.grammar import tools_constraint
from palma.serving.tools.reader import ToolReader


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What the answer to one request must look like, and how it is read.

    Attributes:
        constraints: What the grammar holds it to: the request's own, and what its tools add.
        marks: Control tokens that are text to the reader.
        reader: Makes a reader of the answer that follows a prompt of these token ids.
        thinking: What comes before the answer; None for nothing.
    """

    constraints: tuple[Constraint, ...]
    marks: frozenset[int]
    reader: Callable[[list[int]], AnswerReader]
    thinking: ThinkingPlan | None = None


def answer_form(request: GenerationRequest, engine: Engine) -> AnswerForm:
    """Return the form of a request's answer from this engine's model.

    Raises:
        InvalidRequest: A tool's parameters are no schema, or cannot be written in the model's way;
            or see `thinking_plan`.
    """
    form = _tools_form(request, engine)
    plan = thinking_plan(request, engine.tokenizer.chat_template)
    if plan is None:
        return form
    tokenizer = engine.tokenizer

    def reader(prompt_token_ids: list[int]) -> AnswerReader:
        answer = form.reader(prompt_token_ids)
        thinking = plan.reader(prompt_token_ids, tokenizer)
        return answer if thinking is None else ReaderChain(thinking, answer)

    return AnswerForm(form.constraints, form.marks | plan.marks(tokenizer), reader, plan)


def _tools_form(request: GenerationRequest, engine: Engine) -> AnswerForm:
    use = request.tool_use
    if use is None or use.choice == "none":
        return AnswerForm(request.constraints, frozenset(), lambda _: PlainReader())
    tokenizer = engine.tokenizer
    tool_marks = tool_format(tokenizer.chat_template)
    return AnswerForm(
        (*request.constraints, tools_constraint(use, tool_marks)),
        mark_ids(tool_marks, tokenizer),
        lambda _: ToolReader(tool_marks, use.tools, only_calls=use.choice == "required"),
    )


def mark_ids(tool_marks: ToolFormat, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the control tokens of this vocabulary that the format's marks consist of."""
    spelled = [token for token in tokenizer.special_tokens if token in tool_marks.literals]
    return frozenset(
        token_id
        for token in spelled
        for token_id in tokenizer.encode(token, parse_special=True)
        if tokenizer.token_bytes(token_id) == token.encode()
    )
