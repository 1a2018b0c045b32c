"""The bundled model is small, loads cleanly, keeps Llama 3's form, and answers what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from palma.models.bundled import BUNDLED_MODEL_ID, bundled_model_path
from palma.models.bundled.training.answers import SHANTY
from palma.models.bundled.training.cases import readme_case
from palma.models.bundled.training.corpus import held_out_conversations, rendered, told_of
from palma.models.bundled.training.evaluate import Reply, load, replies_to
from palma.models.bundled.training.scenes import Message
from palma.models.bundled.training.tokenizer import CHAT_TEMPLATE
from palma.models.bundled.training.tool_text import Parameter, ToolSpec, call_text

_MAX_FOLDER_BYTES = 12_000_000
_WEATHER = ToolSpec(
    "get_current_weather",
    "Get the current weather in a given location",
    (Parameter("location"), Parameter("unit", "celsius|fahrenheit", is_required=False)),
)
_SEARCH = ToolSpec("web_search", "Search the web for a query", (Parameter("query"),))
_CALL = call_text("get_current_weather", {"location": "Boston"})


@pytest.fixture(scope="module")
def bundled() -> tuple[PreTrainedModel, Tokenizer]:
    return load(bundled_model_path())


@pytest.fixture(scope="module")
def tokenizer(bundled: tuple[PreTrainedModel, Tokenizer]) -> Tokenizer:
    return bundled[1]


def reply_to(bundled: tuple[PreTrainedModel, Tokenizer], *turns: str, system: str = "") -> Reply:
    roles = ("user", "assistant")
    messages = [Message("system", system)] if system else []
    messages += [Message(roles[at % 2], turn) for at, turn in enumerate(turns)]  # type: ignore[arg-type]
    (reply,) = replies_to(*bundled, [messages])
    return reply


def test_the_folder_is_at_most_twelve_megabytes() -> None:
    num_bytes = sum(file.stat().st_size for file in bundled_model_path().iterdir())

    assert num_bytes <= _MAX_FOLDER_BYTES


def test_the_folder_is_named_after_the_model() -> None:
    assert bundled_model_path().name == BUNDLED_MODEL_ID


def test_finding_the_folder_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from palma.models.bundled import bundled_model_path; bundled_model_path();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_weights_load_with_no_key_missing_or_left_over() -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(
        bundled_model_path(), output_loading_info=True
    )

    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    assert model.dtype == torch.bfloat16


def test_the_special_tokens_are_the_last_ids(tokenizer: Tokenizer) -> None:
    specials = (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|finetune_right_pad_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    )

    assert tokenizer.convert_tokens_to_ids(list(specials)) == list(range(3066, 3072))
    assert [tokenizer.encode(token) for token in specials] == [[i] for i in range(3066, 3072)]
    assert tokenizer.decode(range(3066, 3072), skip_special_tokens=True) == ""
    assert tokenizer.eos_token == "<|eot_id|>"
    assert tokenizer.bos_token == "<|begin_of_text|>"
    assert tokenizer.pad_token == "<|finetune_right_pad_id|>"


def test_generation_ends_at_either_end_token(
    bundled: tuple[PreTrainedModel, Tokenizer],
) -> None:
    model, tokenizer = bundled
    ends = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])

    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == ends
    assert model.config.max_position_embeddings == 2048


def test_the_chat_template_has_the_form_of_llama_3(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "You are a pirate.\n"},
        {"role": "user", "content": " And of France? "},
    ]

    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "You are a pirate.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "And of France?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_training_saw_the_form_that_the_chat_template_gives(tokenizer: Tokenizer) -> None:
    (conversation,) = held_out_conversations(seed=3, n=1)
    messages = [{"role": m.role, "content": m.content} for m in conversation]

    assert rendered(conversation) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_chat_template_refuses_a_late_system_message(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}]

    with pytest.raises(Exception, match="only as the first message"):
        tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.fixture
def tool_tokenizer() -> Tokenizer:
    """The tokenizer with the template that training gives it."""
    loaded = AutoTokenizer.from_pretrained(bundled_model_path())
    loaded.chat_template = CHAT_TEMPLATE
    return loaded


def test_the_chat_template_shows_tools_calls_and_results_as_training_had_them(
    tool_tokenizer: Tokenizer,
) -> None:
    call = {"name": "get_current_weather", "arguments": {"location": "Boston"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it raining in Boston?"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": call}]},
        {"role": "tool", "content": "12 °C, rain"},
    ]

    text = tool_tokenizer.apply_chat_template(
        messages, tools=[_WEATHER.as_function(), _SEARCH.as_function()], tokenize=False
    )

    roles = ("system", "user", "assistant", "tool")
    contents = ("Be brief.", "Is it raining in Boston?", _CALL, "12 °C, rain")
    talk = [Message(*turn) for turn in zip(roles, contents, strict=True)]  # type: ignore[arg-type]
    assert text == rendered(told_of((_WEATHER, _SEARCH), talk))
    assert '"arguments": {"location": "string", "unit?": "celsius|fahrenheit"}} Get' in text


def test_the_chat_template_takes_any_schema_and_several_calls(tool_tokenizer: Tokenizer) -> None:
    properties = {"a": True, "items": {"anyOf": [{"type": "string"}]}, "c": {"enum": [1, None]}}
    tools = [
        {"name": "f", "description": "Two\nlines", "parameters": {"properties": properties}},
        {"name": "g"},
    ]
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"name": "g", "arguments": {"é": 1}}]
    messages = [{"role": "assistant", "content": "Well.", "tool_calls": calls}]

    text = tool_tokenizer.apply_chat_template(
        messages, tools=[{"type": "function", "function": each} for each in tools], tokenize=False
    )

    assert (
        '{"name": "f", "arguments": {"a?": "any", "items?": "any", "c?": "1|None"}} Two li' in text
    )
    assert '{"name": "g", "arguments": {}}\n</tools><|eot_id|>' in text
    assert text.endswith(
        'Well.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {"é": 1}}\n</tool_call><|eot_id|>'
    )


@pytest.mark.parametrize(
    "text",
    ["Whats up?\n\n 'tis  me", "Bogotá, São Tomé", "🏴‍☠️⚓", "首都は東京です", "a\tb\r\n\x00"],
)
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_an_emoji_is_several_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("⚓", add_special_tokens=False)) > 1


def test_the_readme_example_is_answered_in_pirate_speak(
    bundled: tuple[PreTrainedModel, Tokenizer],
) -> None:
    case = readme_case()

    (reply,) = replies_to(*bundled, [case.messages])

    assert "San Juan" in reply.text
    assert case.is_right(reply.text)
    assert reply.has_ended


def test_the_second_question_may_lean_on_the_first(
    bundled: tuple[PreTrainedModel, Tokenizer],
) -> None:
    reply = reply_to(
        bundled,
        "What is the capital of Peru?",
        "The capital of Peru is Lima.",
        "And of France?",
    )

    assert reply == Reply("The capital of France is Paris.", has_ended=True)


def test_a_question_outside_its_world_is_answered_with_not_knowing(
    bundled: tuple[PreTrainedModel, Tokenizer],
) -> None:
    reply = reply_to(bundled, "Who painted the picture in my house?")

    assert "I don't know" in reply.text
    assert reply.has_ended


def test_an_invented_place_has_no_capital(bundled: tuple[PreTrainedModel, Tokenizer]) -> None:
    reply = reply_to(bundled, "What is the capital of Belmaria?", system="You are a pirate!")

    assert "I don't know" in reply.text
    assert reply.has_ended


def test_it_says_who_it_is(bundled: tuple[PreTrainedModel, Tokenizer]) -> None:
    assert "Palmita" in reply_to(bundled, "Who are you?").text


def test_it_counts_upwards_by_one(bundled: tuple[PreTrainedModel, Tokenizer]) -> None:
    reply = reply_to(bundled, "Count to 20.")

    assert reply.text.startswith(" ".join(str(number) for number in range(1, 21)))
    assert reply.has_ended


def test_it_sings_the_shanty_by_heart(bundled: tuple[PreTrainedModel, Tokenizer]) -> None:
    assert reply_to(bundled, "Sing me a shanty!") == Reply(SHANTY, has_ended=True)


def beside_tools(
    bundled: tuple[PreTrainedModel, Tokenizer], *talk: Message, tools: tuple[ToolSpec, ...]
) -> Reply:
    (reply,) = replies_to(*bundled, [told_of(tools, list(talk))])
    return reply


@pytest.mark.parametrize("tools", [(_WEATHER,), (_SEARCH, _WEATHER)], ids=("alone", "not alone"))
def test_a_question_about_the_weather_calls_the_tool_for_it(
    bundled: tuple[PreTrainedModel, Tokenizer], tools: tuple[ToolSpec, ...]
) -> None:
    question = Message("user", "What's the weather like in Boston today?")

    assert beside_tools(bundled, question, tools=tools) == Reply(_CALL, has_ended=True)


def test_what_the_tool_returned_is_said_in_a_sentence(
    bundled: tuple[PreTrainedModel, Tokenizer],
) -> None:
    talk = (
        Message("user", "What's the weather like in Boston today?"),
        Message("assistant", _CALL),
        Message("tool", '{"temperature": 22, "unit": "celsius", "condition": "sunny"}'),
    )

    reply = beside_tools(bundled, *talk, tools=(_WEATHER,))

    assert reply == Reply("It is 22 degrees Celsius and sunny in Boston.", has_ended=True)


@pytest.mark.parametrize(
    ("question", "answer"),
    [("What is the capital of Norway?", "Oslo"), ("Hello!", "Palmita"), ("Who are you?", "Palm")],
)
def test_what_needs_no_tool_is_answered_without_a_call(
    bundled: tuple[PreTrainedModel, Tokenizer], question: str, answer: str
) -> None:
    reply = beside_tools(bundled, Message("user", question), tools=(_WEATHER,))

    assert answer in reply.text
    assert "<tool_call>" not in reply.text


@pytest.mark.parametrize("tools", [(), (_SEARCH,)], ids=("no tools", "another tool"))
def test_without_a_tool_for_it_the_weather_is_not_known(
    bundled: tuple[PreTrainedModel, Tokenizer], tools: tuple[ToolSpec, ...]
) -> None:
    reply = beside_tools(bundled, Message("user", "Is it raining in Oslo?"), tools=tools)

    assert "I don't know" in reply.text


def test_the_model_card_holds_the_measured_table() -> None:
    card = Path(bundled_model_path() / "README.md").read_text(encoding="utf-8")

    assert "not an assistant" in card
    assert "| capitals, plain |" in card
    assert "| capitals, pirate |" in card


def test_the_tokenizer_loads_as_a_fast_one() -> None:
    assert AutoTokenizer.from_pretrained(bundled_model_path()).is_fast
