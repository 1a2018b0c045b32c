"""A mixture of agents: several models answer the same, and one concludes over their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from palma.core.errors import ModelNotFound, PalmaError
from palma.core.types import GenerationRequest, Message, Thinking, Usage
from palma.serving.generation import Completion
from palma.serving.group import GenerationGroup
from palma.serving.service import GenerationService

PARAM = "mixture_of_agents"

CONCLUDE = (
    "Several assistants have answered this already, independently of each other. Weigh their "
    "answers below: keep what is right, correct what is wrong, and then answer yourself without "
    "speaking of them."
)


@dataclass(frozen=True, slots=True)
class Agent:
    """A model that is asked first.

    Attributes:
        model: Its name.
        thinking_template: What it fills before it answers; empty for nothing.
    """

    model: str
    thinking_template: str = ""


class Agents:
    """The agents of one request while they answer. Lives on the event loop.

    They get the conversation and its sampling parameters. What the answer must look like, and the
    tools, are for the one that concludes.

    Args:
        service: Runs them.
        request: What was asked for.
        agents: At least one.

    Raises:
        ModelNotFound: One of them, or the model that concludes, is not served here.
        PalmaError: What else `GenerationService.start_all` raises. None runs then.
    """

    def __init__(
        self, service: GenerationService, request: GenerationRequest, agents: Sequence[Agent]
    ) -> None:
        self._agents = agents
        service.registry.get(request.model)
        requests = [_agent_request(request, agent) for agent in agents]
        try:
            self._group = GenerationGroup(service.start_all(requests))
        except ModelNotFound as error:
            error.param = PARAM
            raise
        self.engine_id = self._group.engine_id

    def cancel(self) -> None:
        """End every answer that has not ended."""
        self._group.cancel()

    async def completions(self) -> list[Completion]:
        """Wait for all answers; one that fails ends the others, and its error names the agent."""
        try:
            return await self._group.completions()
        except PalmaError as error:
            raise self._named(error) from None

    def _named(self, error: PalmaError) -> PalmaError:
        """Return an error of an agent's with its name in the message."""
        for agent, generation in zip(self._agents, self._group.generations, strict=True):
            if generation.error is error:
                error.message = f"{PARAM}: {agent.model}: {error.message}"
                error.param = PARAM
        return error


def conclusion(request: GenerationRequest, answers: list[Completion]) -> GenerationRequest:
    """Return the request of the model that concludes over the agents' answers."""
    told = "\n\n".join([CONCLUDE, *_numbered(answers)])
    *before, last = request.messages
    if last.role == "user":  # templates want turns to alternate
        last = dataclasses.replace(last, content=f"{last.content}\n\n{told}")
        return dataclasses.replace(request, messages=(*before, last))
    return dataclasses.replace(request, messages=(*request.messages, Message("user", told)))


def added_usage(usage: Usage, agents: Sequence[Completion]) -> Usage:
    """Return the usage of a conclusion and the answers before it, all together."""
    usages = [usage, *(answer.usage for answer in agents)]
    return Usage(
        num_prompt_tokens=sum(each.num_prompt_tokens for each in usages),
        num_completion_tokens=sum(each.num_completion_tokens for each in usages),
        num_cached_tokens=sum(each.num_cached_tokens for each in usages),
        num_reasoning_tokens=sum(each.num_reasoning_tokens for each in usages),
    )


def _agent_request(request: GenerationRequest, agent: Agent) -> GenerationRequest:
    params = dataclasses.replace(request.sampling_params, num_logprobs=None)
    return dataclasses.replace(
        request,
        model=agent.model,
        sampling_params=params,
        constraints=(),
        tool_use=None,
        thinking=Thinking(template=agent.thinking_template, param=PARAM),
    )


def _numbered(answers: list[Completion]) -> Iterator[str]:
    for number, answer in enumerate(answers, start=1):
        yield f"Answer {number}:\n{answer.text.strip()}"
