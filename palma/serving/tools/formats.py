"""How each family of models writes its calls of tools: a table of the marks around their parts."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PairMarks:
    """How arguments are written that are no JSON object but a pair for each property.

    A property that is a plain string is written as it is, any other value as JSON.

    Attributes:
        before_key: Before each property's name.
        after_key: Between name and value; no white space may be added here.
        before_text: Before a plain string.
        after_text: After a plain string.
        after_value: After any value.
        separator: Between two pairs.
    """

    before_key: str
    after_key: str
    before_text: str = ""
    after_text: str = ""
    after_value: str = ""
    separator: str = ""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How one family writes calls.

    An answer's calls are `opening`, the calls with `separator` between them, and `closing`; a call
    is `before_name`, the name, `after_name`, the arguments, `after_arguments`.

    Attributes:
        family: Its name here.
        template_marks: What the family's chat templates contain, all of them.
        trigger: The beginning of `opening` and `before_name` with which a call has begun.
        begins_answer: Whether calls stand at the answer's beginning only, unless `tag` is there.
        tag: Stands before a call instead of `opening`, anywhere.
        pairs: How arguments are written where it is not as JSON.
        one_call_a_turn: Whether its templates refuse a turn with several calls.
        call_id_length: So many letters and digits are a call's id; None for no rule.
    """

    family: str
    template_marks: tuple[str, ...]
    before_name: str
    after_name: str
    after_arguments: str
    opening: str = ""
    separator: str = ""
    closing: str = ""
    trigger: str = ""
    begins_answer: bool = False
    tag: str = ""
    pairs: PairMarks | None = None
    one_call_a_turn: bool = False
    call_id_length: int | None = None

    @property
    def literals(self) -> str:
        """All marks, one after the other: what a control token must be in to be part of one."""
        marks = (self.tag, self.opening, self.before_name, self.after_name, self.after_arguments)
        pairs = dataclasses.astuple(self.pairs) if self.pairs is not None else ()
        return "\0".join((*marks, self.separator, self.closing, *pairs))


GENERAL = ToolFormat(
    family="general",
    template_marks=(),
    before_name='<tool_call>\n{"name": "',
    after_name='", "arguments": ',
    after_arguments="}\n</tool_call>",
    separator="\n",
    trigger="<tool_call>",
)
"""For models whose chat template knows no tools, or not how it would have them called."""

HERMES = dataclasses.replace(GENERAL, family="hermes", template_marks=("<tool_call>",))
"""Hermes, Qwen2.5, Qwen3, and many that learned from them."""

QWEN_XML = ToolFormat(
    family="qwen-xml",
    template_marks=("<tool_call>", "<function=", "<parameter="),
    before_name="<tool_call>\n<function=",
    after_name=">",
    after_arguments="\n</function>\n</tool_call>",
    separator="\n",
    trigger="<tool_call>",
    pairs=PairMarks("\n<parameter=", ">\n", after_value="\n</parameter>"),
)
"""Qwen3-Coder and Qwen3.5."""

GLM = ToolFormat(
    family="glm",
    template_marks=("<tool_call>", "<arg_key>", "<arg_value>"),
    before_name="<tool_call>",
    after_name="",
    after_arguments="\n</tool_call>",
    separator="\n",
    trigger="<tool_call>",
    pairs=PairMarks("\n<arg_key>", "</arg_key>\n<arg_value>", after_value="</arg_value>"),
)
"""GLM-4.5 and 4.6."""

GLM_ONE_LINE = dataclasses.replace(
    GLM,
    family="glm-one-line",
    template_marks=("<tool_call>", "</arg_key><arg_value>"),
    after_arguments="</tool_call>",
    separator="",
    pairs=PairMarks("<arg_key>", "</arg_key><arg_value>", after_value="</arg_value>"),
)
"""GLM-4.7 and 5."""

LLAMA = ToolFormat(
    family="llama",
    template_marks=("<|start_header_id|>", '"parameters"'),
    before_name='{"name": "',
    after_name='", "parameters": ',
    after_arguments="}",
    trigger='{"name": "',
    begins_answer=True,
    tag="<|python_tag|>",
    one_call_a_turn=True,
)
"""Llama 3.1, 3.2 and 3.3."""

MISTRAL = ToolFormat(
    family="mistral",
    template_marks=("[TOOL_CALLS]",),
    opening="[TOOL_CALLS] [",
    before_name='{"name": "',
    after_name='", "arguments": ',
    after_arguments="}",
    separator=", ",
    closing="]",
    trigger="[TOOL_CALLS]",
    call_id_length=9,
)
"""Mistral 7B v0.3, Nemo, Small up to 3.1."""

MISTRAL_ARGS = ToolFormat(
    family="mistral-args",
    template_marks=("[TOOL_CALLS]", "[ARGS]"),
    before_name="[TOOL_CALLS]",
    after_name="[ARGS]",
    after_arguments="",
    trigger="[TOOL_CALLS]",
    call_id_length=9,
)
"""Mistral Small 3.2, Magistral, Devstral: tokenizers from version 11 on."""

PHI = ToolFormat(
    family="phi",
    template_marks=("<|tool|>",),
    opening="<|tool_call|>[",
    before_name='{"name": "',
    after_name='", "arguments": ',
    after_arguments="}",
    separator=", ",
    closing="]<|/tool_call|>",
    trigger="<|tool_call|>",
)
"""Phi-4-mini."""

GRANITE = dataclasses.replace(
    PHI, family="granite", template_marks=("<|start_of_role|>", "<|tool_call|>"), closing="]"
)
"""Granite 3; Granite 4 calls like Hermes."""

FUNCTION_GEMMA = ToolFormat(
    family="function-gemma",
    template_marks=("<start_function_call>", "<escape>"),
    before_name="<start_function_call>call:",
    after_name="{",
    after_arguments="}<end_function_call>",
    trigger="<start_function_call>",
    pairs=PairMarks("", ":", before_text="<escape>", after_text="<escape>", separator=","),
)

GEMMA = ToolFormat(
    family="gemma",
    template_marks=("<|tool_call>", '<|"|>'),
    before_name="<|tool_call>call:",
    after_name="{",
    after_arguments="}<tool_call|>",
    trigger="<|tool_call>",
    pairs=PairMarks("", ":", before_text='<|"|>', after_text='<|"|>', separator=","),
)
"""Gemma 4."""

DEEPSEEK = ToolFormat(
    family="deepseek",
    template_marks=("<｜tool▁calls▁begin｜>",),
    opening="<｜tool▁calls▁begin｜>",
    before_name="<｜tool▁call▁begin｜>",
    after_name="<｜tool▁sep｜>",
    after_arguments="<｜tool▁call▁end｜>",
    closing="<｜tool▁calls▁end｜>",
    trigger="<｜tool▁calls▁begin｜>",
)
"""DeepSeek V3.1."""

DEEPSEEK_FENCED = dataclasses.replace(
    DEEPSEEK,
    family="deepseek-fenced",
    template_marks=("<｜tool▁calls▁begin｜>", "```json"),
    before_name="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    after_name="\n```json\n",
    after_arguments="\n```<｜tool▁call▁end｜>",
    separator="\n",
)
"""DeepSeek V3, R1, and the models distilled from it."""

FORMATS = (
    QWEN_XML,
    GLM_ONE_LINE,
    GLM,
    FUNCTION_GEMMA,
    GEMMA,
    MISTRAL_ARGS,
    MISTRAL,
    DEEPSEEK_FENCED,
    DEEPSEEK,
    GRANITE,
    PHI,
    HERMES,
    LLAMA,
)
"""The first one whose marks a template contains is the template's."""

BY_FAMILY = {tool_marks.family: tool_marks for tool_marks in (*FORMATS, GENERAL)}


@functools.lru_cache(maxsize=256)
def tool_format(chat_template: str) -> ToolFormat:
    """Return how a model with this chat template writes calls; GENERAL when it does not say."""
    for tool_marks in FORMATS:
        if all(mark in chat_template for mark in tool_marks.template_marks):
            return tool_marks
    return GENERAL
