"""How one request's answer is preceded by thinking: what is checked, read and masked."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from dataclasses import dataclass

from palma.core.errors import InvalidRequest, UnsupportedParameter
from palma.core.types import ChatPrompt, GenerationRequest, SamplingParams, Thinking, Tokenizer
from palma.engine.base import Engine, TokenMask, stop_token_ids
from palma.serving.thinking.formats import (
    ThinkingFormat,
    ThinkingState,
    has_switch,
    thinking_format,
    thinking_state,
)
from palma.serving.thinking.mask import (
    PreludeMask,
    SpelledFormat,
    ThinkingPrelude,
    spell_format,
)
from palma.serving.thinking.reader import ThinkingReader
from palma.serving.thinking.slots import SpelledTemplate, TemplatePrelude, spell_template
from palma.serving.thinking.template import ThinkingTemplate, parse_template, template_prompt
from palma.serving.thinking.vocabulary import Vocabulary, token_set
from palma.serving.tools.prompt import with_instructions

TEMPLATE_PARAM = "thinking_template"

SEPARATOR = "\n\n"
"""Between a filled template and the answer, where the model has no tags for thinking."""

NUM_END_TOKENS = 32
"""Of a prompt, in which the marks are looked for."""

TEMPLATE_SHARE = 0.75
"""Of max_tokens: what a template without a budget may have, so that an answer follows."""


@dataclass(frozen=True, slots=True)
class ThinkingPlan:
    """Thinking before one answer: in the model's own tags, by a template, or both.

    With both, the template is filled between the tags: that is where the model thinks. Where the
    prompt has closed them already, the answer begins with the template.

    Attributes:
        request: What was asked for.
        fmt: The model's tags; None where it has none.
        template: To be filled; None for free thinking.
        has_form: Whether the answer behind the thinking is held to a form.
    """

    request: GenerationRequest
    fmt: ThinkingFormat | None
    template: ThinkingTemplate | None
    has_form: bool

    def marks(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Return the control tokens that the model's tags consist of."""
        tags = "" if self.fmt is None else self.fmt.opening + self.fmt.closing
        spelled = (token for token in tokenizer.special_tokens if token in tags)
        return frozenset(tokenizer.encode(token, parse_special=True)[0] for token in spelled)

    def reader(self, prompt_token_ids: list[int], tokenizer: Tokenizer) -> ThinkingReader | None:
        """Return who takes the thinking from an answer; None where there is none."""
        state = self._state(prompt_token_ids, tokenizer)
        if self.fmt is not None and state != "over":
            return ThinkingReader(self.fmt, is_open=state == "open", has_form=self.has_form)
        if self.template is None:
            return None
        fmt = ThinkingFormat("", self.template.closing, SEPARATOR)
        return ThinkingReader(fmt, is_open=True, keeps_closing=True, has_form=self.has_form)

    def mask(
        self,
        answer: TokenMask | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        engine: Engine,
        vocabularies: Vocabularies,
    ) -> TokenMask | None:
        """Return the mask of thinking and answer; None where anything may come.

        Args:
            answer: The answer's own mask.
            prompt_token_ids: What the answer follows.
            params: With `max_tokens` settled.
            engine: The model's.
            vocabularies: Knows the tokens of each.

        Raises:
            InvalidRequest: The budget is too small for the template.
            UnsupportedParameter: This engine or tokenizer cannot.
        """
        asked = self.request.thinking
        state = self._state(prompt_token_ids, engine.tokenizer)
        is_bound = answer is not None or asked.budget is not None
        if self.template is None and (state == "over" or not is_bound):
            return answer
        if engine.info.engine == "mock":  # it follows no masks
            if asked.budget is not None:
                message = f"the mock engine cannot honour {asked.param}"
                raise UnsupportedParameter(message, param=asked.param)
            return answer
        if self.template is not None:
            filling = self._template_prelude(engine, vocabularies, state, params)
            return PreludeMask(filling, answer)
        assert self.fmt is not None  # else the state is "over"
        thinking = self._thinking_prelude(
            self.fmt, answer, engine, vocabularies, params, state=state
        )
        return PreludeMask(thinking, answer)

    def _state(self, prompt_token_ids: list[int], tokenizer: Tokenizer) -> ThinkingState:
        """Return where the answer begins; "over" for a model without tags."""
        if self.fmt is None:
            return "over"
        if self.request.continue_final_message:
            begun = self.request.messages[-1].content.lstrip()
            is_open = begun.startswith(self.fmt.opening) and self.fmt.closing not in begun
            return "open" if is_open else "over"
        end = tokenizer.decode_prompt(prompt_token_ids[-NUM_END_TOKENS:])
        return thinking_state(self.fmt, end)

    def _thinking_prelude(
        self,
        fmt: ThinkingFormat,
        answer: TokenMask | None,
        engine: Engine,
        vocabularies: Vocabularies,
        params: SamplingParams,
        *,
        state: ThinkingState,
    ) -> ThinkingPrelude:
        asked = self.request.thinking
        ends = stop_token_ids(params, engine.info) | engine.info.stop_token_ids
        return ThinkingPrelude(
            vocabularies.of(engine),
            vocabularies.tags(engine, fmt, asked.param),
            answer,
            is_open=state == "open",
            budget=asked.budget,
            end_tokens=token_set(ends),
        )

    def _template_prelude(
        self,
        engine: Engine,
        vocabularies: Vocabularies,
        state: ThinkingState,
        params: SamplingParams,
    ) -> TemplatePrelude:
        assert self.template is not None
        vocabulary = vocabularies.of(engine)
        spelled = spell_template(self.template, vocabulary, TEMPLATE_PARAM)
        budget = _template_budget(self.request.thinking, spelled, params.max_tokens or 0)
        if self.fmt is None or state == "over":
            after = tuple(vocabulary.spell(SEPARATOR, TEMPLATE_PARAM))
            return TemplatePrelude(vocabulary, spelled, budget=budget, after=after)
        tags = vocabularies.tags(engine, self.fmt, TEMPLATE_PARAM)
        return TemplatePrelude(
            vocabulary,
            spelled,
            budget=budget,
            before=() if state == "open" else tags.opening,
            after=tags.closing + tags.separator,
            stops=self.fmt.closing[0].encode(),
        )


class Vocabularies:
    """The vocabulary of each engine's model, and its tags in it, kept as long as the engine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_engine: weakref.WeakKeyDictionary[Engine, Vocabulary]
        self._by_engine = weakref.WeakKeyDictionary()
        self._tags: weakref.WeakKeyDictionary[Engine, SpelledFormat] = weakref.WeakKeyDictionary()

    def of(self, engine: Engine) -> Vocabulary:
        """Return an engine's; the first call takes some tenths of a second."""
        with self._lock:
            found = self._by_engine.get(engine)
            if found is None:
                found = Vocabulary(engine.tokenizer, engine.info.vocab_size)
                self._by_engine[engine] = found
            return found

    def tags(self, engine: Engine, fmt: ThinkingFormat, param: str) -> SpelledFormat:
        """Return the tags of an engine's model; raises what `spell_format` does."""
        vocabulary = self.of(engine)
        with self._lock:
            found = self._tags.get(engine)
            if found is None or found.fmt != fmt:
                found = self._tags[engine] = spell_format(fmt, vocabulary, param)
            return found


def thinking_plan(request: GenerationRequest, chat_template: str) -> ThinkingPlan | None:
    """Return the plan of a request's thinking; None for an answer without any.

    Raises:
        InvalidRequest: The template is wrong, or a budget was given to a model that does not
            think.
        UnsupportedParameter: Thinking cannot be turned on or off with this model.
    """
    asked = request.thinking
    is_chat = request.prompt is None and bool(chat_template or request.plain_prompt is None)
    fmt = thinking_format(chat_template) if is_chat else None
    _check_switch(asked, fmt, chat_template)
    if asked.budget is not None and fmt is None and not asked.template:
        raise InvalidRequest(
            f"{asked.param}: this model does not think before it answers; leave it out, or send "
            f"a {TEMPLATE_PARAM}",
            param=asked.param,
        )
    template = parse_template(asked.template, TEMPLATE_PARAM) if asked.template else None
    if fmt is None and template is None:
        return None
    if fmt is not None and template is not None and fmt.closing in template.literals:
        raise InvalidRequest(
            f"{TEMPLATE_PARAM}: {fmt.closing} ends this model's own thinking; give the element "
            "another name",
            param=TEMPLATE_PARAM,
        )
    has_form = any(constraint.kind != "tools" for constraint in request.constraints)
    return ThinkingPlan(request, fmt, template, has_form)


def with_template(chat: ChatPrompt, request: GenerationRequest, chat_template: str) -> ChatPrompt:
    """Return the chat with a thinking template shown to the model, if there is one."""
    if not request.thinking.template:
        return chat
    text = template_prompt(request.thinking.template)
    messages = with_instructions(chat.messages, text, chat_template)
    return dataclasses.replace(chat, messages=messages)


def _check_switch(asked: Thinking, fmt: ThinkingFormat | None, chat_template: str) -> None:
    if asked.enabled is None or has_switch(chat_template):
        return
    if asked.enabled or fmt is not None:
        raise UnsupportedParameter(
            f"{asked.switch_param} is not supported: this model's chat template cannot turn "
            "thinking on or off",
            param=asked.switch_param,
        )


def _template_budget(asked: Thinking, spelled: SpelledTemplate, max_tokens: int) -> int:
    least = spelled.num_least_tokens
    if asked.budget is None:
        return max(least, int(max_tokens * TEMPLATE_SHARE))
    if asked.budget < least:
        raise InvalidRequest(
            f"{asked.param} is {asked.budget}, and the tags of the {TEMPLATE_PARAM} with a token "
            f"between each take {least}",
            param=asked.param,
        )
    return asked.budget
