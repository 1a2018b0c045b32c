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
from palma.models.bundled.training.corpus import held_out_conversations, rendered
from palma.models.bundled.training.evaluate import Reply, load, replies_to
from palma.models.bundled.training.skills import Message

_MAX_FOLDER_BYTES = 12_000_000


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


def test_the_model_card_holds_the_measured_table() -> None:
    card = Path(bundled_model_path() / "README.md").read_text(encoding="utf-8")

    assert "not an assistant" in card
    assert "| capitals, plain |" in card
    assert "| capitals, pirate |" in card


def test_the_tokenizer_loads_as_a_fast_one() -> None:
    assert AutoTokenizer.from_pretrained(bundled_model_path()).is_fast
