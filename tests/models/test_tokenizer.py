from __future__ import annotations

import copy
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from palma.core.errors import ChatTemplateRejected
from palma.core.types import ChatPrompt, Message
from palma.models.tokenizer import HFTokenizer

TEXT = "say the word <|eos|> and <|eot_id|> twice: the the 😀"


def with_template(tokenizer: Any, template: str | dict[str, str] | None) -> HFTokenizer:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return HFTokenizer(changed)


def test_special_tokens_in_a_text_are_text_unless_they_are_to_be_parsed(tokenizer: Any) -> None:
    wrapped = HFTokenizer(tokenizer)

    assert wrapped.encode("<|eos|>", parse_special=True) == [260]
    assert len(wrapped.encode("<|eos|>", parse_special=False)) == len("<|eos|>")


@pytest.mark.parametrize("parse_special", [True, False])
def test_encoding_agrees_with_transformers(tokenizer: Any, parse_special: bool) -> None:
    expected = tokenizer.encode(
        TEXT, add_special_tokens=False, split_special_tokens=not parse_special
    )

    assert HFTokenizer(tokenizer).encode(TEXT, parse_special=parse_special) == expected


def test_eight_threads_that_encode_in_both_ways_never_mix_them_up(tokenizer: Any) -> None:
    wrapped = HFTokenizer(tokenizer)
    expected = {flag: wrapped.encode(TEXT, parse_special=flag) for flag in (True, False)}
    texts = {flag: wrapped.decode(ids) for flag, ids in expected.items()}
    barrier = threading.Barrier(8)

    def work(number: int) -> int:
        barrier.wait()
        wrong = 0
        for turn in range(300):
            flag = (turn + number) % 2 == 0
            ids = wrapped.encode(TEXT, parse_special=flag)
            wrong += ids != expected[flag] or wrapped.decode(ids) != texts[flag]
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 0


def test_a_truncation_written_into_the_tokenizer_file_cuts_nothing(tokenizer: Any) -> None:
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(4)
    cutting.backend_tokenizer.enable_padding(length=500)

    ids = HFTokenizer(cutting).encode("x" * 100, parse_special=True)

    assert len(ids) == 100


def test_decoding_leaves_control_tokens_out_and_spaces_as_they_are(tokenizer: Any) -> None:
    wrapped = HFTokenizer(tokenizer)
    ids = wrapped.encode(" the  end . <|eos|> <tool>", parse_special=True)

    assert wrapped.decode(ids) == " the  end .  <tool>"


def test_a_decoded_prompt_spells_its_control_tokens_as_it_was_written(tokenizer: Any) -> None:
    text = "<|bos|>  Hé <|eot_id|>."
    for is_fast in (True, False):
        wrapped = HFTokenizer(tokenizer)
        if not is_fast:
            wrapped._backends = None

        assert wrapped.decode_prompt(wrapped.encode(text, parse_special=True)) == text


def test_half_a_character_decodes_to_the_replacement_character(tokenizer: Any) -> None:
    wrapped = HFTokenizer(tokenizer)
    ids = wrapped.encode("😀", parse_special=False)

    assert wrapped.decode(ids[:2]) == "\ufffd"


def test_only_control_tokens_are_named_as_special(tokenizer: Any) -> None:
    assert HFTokenizer(tokenizer).special_tokens == ("<|bos|>", "<|eos|>", "<|eot_id|>")


def test_a_chat_is_rendered_by_the_models_template(tokenizer: Any) -> None:
    rendered = HFTokenizer(tokenizer).render_chat(ChatPrompt((Message("user", "Hi"),)))

    assert rendered == "<|bos|>user: Hi<|eos|><|bos|>assistant:"


def test_a_template_that_raises_rejects_the_messages_in_its_own_words(tokenizer: Any) -> None:
    with pytest.raises(ChatTemplateRejected) as caught:
        HFTokenizer(tokenizer).render_chat(ChatPrompt((Message("system", "Be brief."),)))

    assert caught.value.message == "The model's chat template refused: no system turn here"
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages.nothing.at_all }}", "has no attribute"),
        ("{{ messages[7].content + 1 }}", "has no element 7"),
        ("{{ 'a' + 1 }}", "can only concatenate str"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for %}", "xpected"),
        ("{{ range(10000000) | list }}", "Range too big"),
        ("{{ ().__class__.__base__ }}", "unsafe"),
    ],
)
def test_every_error_of_a_template_rejects_the_messages_in_one_line(
    tokenizer: Any, template: str, words: str
) -> None:
    wrapped = with_template(tokenizer, template)

    with pytest.raises(ChatTemplateRejected) as caught:
        wrapped.render_chat(ChatPrompt((Message("user", "Hi"),)))

    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message


@pytest.mark.parametrize("template", [None, {"rag": "{{ messages }}"}])
def test_a_model_without_a_default_template_gets_the_plain_one(
    tokenizer: Any, template: dict[str, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = with_template(tokenizer, template)
    turns = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes?"))

    rendered = wrapped.render_chat(ChatPrompt((*turns, Message("user", "Why?"))))

    assert rendered == "System: Be brief.\nUser: Hi\nAssistant: Yes?\nUser: Why?\nAssistant:"
    assert caplog.text.count("no chat template") == 1


def test_the_last_message_can_be_left_open_for_the_answer_to_continue(tokenizer: Any) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Why, "))
    trimming = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<|eos|>{% endfor %}"

    def render(wrapped: HFTokenizer) -> str:
        return wrapped.render_chat(ChatPrompt(turns, continue_final_message=True))

    own = render(HFTokenizer(tokenizer))
    assert own == "<|bos|>user: Hi<|eos|><|bos|>assistant: Why, "
    assert render(with_template(tokenizer, trimming)) == "[user]Hi<|eos|>[assistant]Why,"
    assert render(with_template(tokenizer, None)) == "User: Hi\nAssistant: Why, "


def test_a_template_that_cannot_leave_the_last_message_open_says_so(tokenizer: Any) -> None:
    deaf = with_template(tokenizer, "{{ messages[0].content }}")

    with pytest.raises(ChatTemplateRejected, match="cannot leave the last message open"):
        deaf.render_chat(
            ChatPrompt(
                (Message("user", "Hi"), Message("assistant", "secret")),
                continue_final_message=True,
            )
        )


def test_no_token_stands_for_more_characters_than_the_bound_says(tokenizer: Any) -> None:
    wrapped = HFTokenizer(tokenizer)
    pieces = ["the", " the", "<|eot_id|>", "<tool>", "é", "😀", "\n", " ", "ab"]
    generator = random.Random(0)

    for _ in range(200):
        text = "".join(generator.choices(pieces, k=generator.randint(1, 20)))
        num_tokens = len(wrapped.encode(text, parse_special=True))
        assert len(text) <= num_tokens * wrapped.max_token_chars

    assert wrapped.max_token_chars == len("<|eot_id|>")
