"""Request fields about thinking, parts of answers and other models' help, and what they mean."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from palma.core.errors import InvalidRequest
from palma.core.types import GenerationRequest, Thinking
from palma.serving.agents import Agent
from palma.serving.artifacts import ArtifactMode, ask_for_parts, parts_constraint
from palma.serving.thinking.template import MAX_CHARS

MAX_AGENTS = 8

Template = Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]


class TemplateSwitches(BaseModel):
    """The one variable of chat templates that a request may set."""

    model_config = ConfigDict(strict=True, extra="forbid")

    enable_thinking: bool | None = None


class AgentBody(BaseModel):
    """A model that is asked first, and a template that it fills before it answers."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: Annotated[str, Field(min_length=1)]
    thinking_template: Template | None = None

    @property
    def agent(self) -> Agent:
        """What it means."""
        return Agent(self.model, self.thinking_template or "")


class MixtureBody(BaseModel):
    """gallama's mixture of agents: these models answer, then the asked one concludes."""

    model_config = ConfigDict(strict=True, extra="forbid")

    agent_list: Annotated[
        list[Annotated[str, Field(min_length=1)] | AgentBody],
        Field(min_length=1, max_length=MAX_AGENTS, fail_fast=True),
    ]

    @property
    def agents(self) -> tuple[Agent, ...]:
        """What it means."""
        return tuple(
            Agent(each) if isinstance(each, str) else each.agent for each in self.agent_list
        )


class ThinkingBody(BaseModel):
    """How the model thinks before it answers.

    `reasoning_effort` and `chat_template_kwargs` turn it on and off where the model's template
    can; `thinking_template` is gallama's; `thinking_budget` bounds all of it, in tokens.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    thinking_template: Template | None = None
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    chat_template_kwargs: TemplateSwitches | None = None

    @property
    def thinking(self) -> Thinking:
        """What was asked for.

        Raises:
            InvalidRequest: Two fields turn it on and off.
        """
        effort, kwargs = self.reasoning_effort, self.chat_template_kwargs
        by_effort = None if effort is None else effort != "none"
        by_switch = None if kwargs is None else kwargs.enable_thinking
        if by_effort is not None and by_switch not in (None, by_effort):
            raise InvalidRequest(
                "reasoning_effort and chat_template_kwargs contradict each other; send one",
                param="chat_template_kwargs",
            )
        has_switch = by_switch is not None
        return Thinking(
            enabled=by_switch if has_switch else by_effort,
            budget=self.thinking_budget,
            template=self.thinking_template or "",
            param="thinking_template" if self.thinking_budget is None else "thinking_budget",
            switch_param=(
                "chat_template_kwargs.enable_thinking" if has_switch else "reasoning_effort"
            ),
        )


class PartsBody(BaseModel):
    """gallama's word for answers in parts, text and code apart.

    `Fast` takes code blocks from the Markdown that the model writes; `Slow` holds it to tags
    around every part.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    artifact: Literal["No", "Fast", "Slow"] | None = None

    @property
    def artifact_mode(self) -> ArtifactMode | None:
        """What was asked for; None for an answer in one piece."""
        return self.artifact if self.artifact in ("Fast", "Slow") else None


def in_parts(request: GenerationRequest, mode: ArtifactMode | None) -> GenerationRequest:
    """Return the request of an answer in parts; the same one where that needs nothing more."""
    if mode != "Slow":
        return request
    return dataclasses.replace(
        request,
        messages=ask_for_parts(request.messages),
        constraints=(*request.constraints, parts_constraint("artifact")),
    )
