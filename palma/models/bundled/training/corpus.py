"""Conversations for training, drawn from the skills, and their rendering in Llama 3's form."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from palma.models.bundled.training import held_out
from palma.models.bundled.training.answers import Style
from palma.models.bundled.training.facts import all_places
from palma.models.bundled.training.noise import careless
from palma.models.bundled.training.personas import (
    USER_REQUESTS,
    pirate_system_prompt,
    plain_system_prompt,
)
from palma.models.bundled.training.scenes import Message, Scene, Skill
from palma.models.bundled.training.skills import (
    SKILLS,
    SKILLS_BESIDE_TOOLS,
    asked,
    capital,
    capital_answer,
    named,
)
from palma.models.bundled.training.tool_sets import drawn_tools
from palma.models.bundled.training.tool_text import CALL_START, ToolSpec, tools_text
from palma.models.bundled.training.weather import weather

BOS, END_OF_TEXT = "<|begin_of_text|>", "<|end_of_text|>"
START_HEADER, END_HEADER, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
PAD = "<|finetune_right_pad_id|>"

_MAX_CHARS = 3200  # about 1,000 tokens
_NUM_EXCHANGES = {1: 58, 2: 22, 3: 9, 4: 5, 6: 3, 12: 1.5, 30: 1.5}
_NUM_EXCHANGES_BESIDE_TOOLS = {1: 72, 2: 20, 3: 6, 4: 2}

Conversation = list[Message]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mixture:
    """What conversations are made of.

    Attributes:
        skills: How often each skill is drawn.
        tools_share: Of the conversations in which palmita may call tools; those are drawn from
            `SKILLS_BESIDE_TOOLS`.
    """

    skills: Mapping[Skill, float]
    tools_share: float = 0.0


def conversations(seed: int, mixture: Mixture = Mixture(SKILLS)) -> Iterator[Conversation]:
    """Yield training conversations without end; the same seed gives the same ones.

    Args:
        seed: Of the random source that all choices come from.
        mixture: How often each kind of conversation and each skill is drawn.
    """
    rng = random.Random(seed)
    while True:
        if mixture.tools_share and rng.random() < mixture.tools_share:
            yield _conversation(rng, SKILLS_BESIDE_TOOLS, drawn_tools(rng))
        else:
            yield _conversation(rng, mixture.skills)


def held_out_conversations(seed: int, n: int) -> list[Conversation]:
    """Return n two-turn conversations built of forms that training never uses."""
    rng = random.Random(seed)
    return [_held_out_conversation(rng) for _ in range(n)]


def held_out_texts(seed: int, n: int) -> list[str]:
    """Return n rendered conversations of held-out forms, to measure perplexity on."""
    return [rendered(conversation) for conversation in held_out_conversations(seed, n)]


def rendered(conversation: Sequence[Message]) -> str:
    """Return the text the model sees: the same as the chat template gives."""
    turns = (f"{header(message.role)}{message.content.strip()}{EOT}" for message in conversation)
    return BOS + "".join(turns)


def header(role: str) -> str:
    """Return what stands before a message of this role."""
    return f"{START_HEADER}{role}{END_HEADER}\n\n"


def told_of(tools: Sequence[ToolSpec], messages: Conversation) -> Conversation:
    """Return the conversation with the tools at the end of its system message, if there are any."""
    if not tools:
        return messages
    system = messages[0].content if messages and messages[0].role == "system" else ""
    text = f"{system}\n\n{tools_text(tools)}".strip()
    return [Message("system", text), *messages[bool(system) :]]


def _conversation(
    rng: random.Random, skills: Mapping[Skill, float], tools: tuple[ToolSpec, ...] = ()
) -> Conversation:
    style: Style = "pirate" if rng.random() < 0.45 else "plain"
    messages, asks_for_style = _opening(rng, style)
    messages = told_of(tools, messages)
    after_capital = after_weather = False
    num_exchanges = _drawn(rng, _NUM_EXCHANGES_BESIDE_TOOLS if tools else _NUM_EXCHANGES)
    for _ in range(num_exchanges):
        skill = _drawn(rng, skills)
        scene = Scene(rng, style, after_capital and not after_weather, after_weather, tools)
        question, *rest = skill(scene)
        messages += [_asking_for_pirate_speak(rng, question) if asks_for_style else question]
        messages += rest
        asks_for_style = False
        after_capital = after_capital or skill is capital
        after_weather = skill is weather or (after_weather and skill is not capital)
        is_long = sum(len(message.content) + 25 for message in messages) > _MAX_CHARS
        if is_long or messages[-1].content.startswith(CALL_START):
            break
    return messages


def _drawn(rng: random.Random, weights: Mapping[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]


def _opening(rng: random.Random, style: Style) -> tuple[Conversation, bool]:
    """Return the system message, if any, and whether the user must ask for the style instead."""
    if style == "pirate" and rng.random() < 0.88:
        return [Message("system", careless(rng, pirate_system_prompt(rng)))], False
    if rng.random() < 0.45:
        return [Message("system", careless(rng, plain_system_prompt(rng)))], style == "pirate"
    return [], style == "pirate"


def _asking_for_pirate_speak(rng: random.Random, question: Message) -> Message:
    request = rng.choice(USER_REQUESTS)
    if rng.random() < 0.5:
        return Message("user", f"{request} {question.content}")
    return Message("user", f"{question.content} {request.rstrip(':')}")


def _held_out_conversation(rng: random.Random) -> Conversation:
    style: Style = rng.choice(("plain", "pirate"))
    prompts = held_out.PIRATE_SYSTEM_PROMPTS if style == "pirate" else held_out.PLAIN_SYSTEM_PROMPTS
    messages = [Message("system", rng.choice(prompts))]
    for forms in (held_out.QUESTIONS, held_out.FOLLOW_UPS):
        place = rng.choice(all_places())
        question = asked(rng.choice(forms), named(rng, place))
        messages += [
            Message("user", question),
            Message("assistant", capital_answer(rng, style, place)),
        ]
    return messages
