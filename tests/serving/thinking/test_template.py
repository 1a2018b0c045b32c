"""Templates become texts and slots, in the order in which a model may write them."""

from __future__ import annotations

import dataclasses
import random
import re
from xml.etree import ElementTree

import pytest

from palma.core.types import ChatPrompt, GenerationRequest, Message, Thinking
from palma.serving.thinking.plan import thinking_plan, with_template
from palma.serving.thinking.slots import TemplatePrelude, spell_template
from palma.serving.thinking.template import END, Way, parse_template
from palma.serving.thinking.vocabulary import Vocabulary, begun_character
from tests.structured_models import random_model
from tests.tiny_models import tiny_hf_tokenizer

REFUSES_SYSTEM = "{{ raise_exception('System role not supported') }}"


def test_a_template_is_laid_out_a_line_for_each_slot() -> None:
    template = parse_template('<a><b to="&lt;x&gt;">{b}</b>\n<c/></a>')

    assert template.opening == '<a>\n  <b to="&lt;x&gt;">'
    assert template.ways == (
        (Way("</b>\n  <c>", 1),),
        (Way("</c>\n</a>", END),),
    )
    assert template.closing == "</a>"


def test_a_comment_lets_the_element_before_it_come_again() -> None:
    template = parse_template("<a><!--no--><l><i>{x}</i><!--more--></l><!--more--><e/></a>")

    assert template.ways[0] == (
        Way("</i>\n    <i>", 0, is_repeat=True),
        Way("</i>\n  </l>\n  <l>\n    <i>", 0, is_repeat=True),
        Way("</i>\n  </l>\n  <e>", 1),
    )


def test_the_model_is_shown_the_template_where_its_template_has_a_place() -> None:
    asked = GenerationRequest("r", (Message("user", "hi"),), thinking=Thinking(template="<a/>"))
    chat = ChatPrompt(asked.messages)

    system, user = with_template(chat, asked, "{{ messages }}").messages
    (alone,) = with_template(chat, asked, REFUSES_SYSTEM).messages

    assert (system.role, user) == ("system", Message("user", "hi"))
    assert "<a/>" in system.content
    assert alone.role == "user"
    assert "<a/>" in alone.content
    assert alone.content.endswith("hi")


def test_an_answer_that_goes_on_with_a_turn_thinks_only_where_that_turn_does() -> None:
    tokenizer = tiny_hf_tokenizer("<think>")
    request = GenerationRequest("r", (Message("user", "hi"),), continue_final_message=True)

    def thinks(content: str) -> bool:
        turn = Message("assistant", content)
        asked = dataclasses.replace(request, messages=(*request.messages, turn))
        plan = thinking_plan(asked, tokenizer.chat_template)
        assert plan is not None
        return plan.reader([], tokenizer) is not None

    assert thinks("<think>\nSo")
    assert not thinks("<think>\nSo\n</think>\n\nIt")
    assert not thinks("It is")


TEMPLATES = (
    "<r>{a}</r>",
    "<r><x/><!--more--><x><y/></x></r>",
    "<r><x/><!--more--><x/></r>",
    "<r><l><i/><!--more--></l><!--more--><l><i/></l></r>",
    "<ré é='1'><x/><y/></ré>",
)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("spare", [0, 2, 40])
def test_any_walk_ends_within_the_budget_in_well_formed_text(template: str, spare: int) -> None:
    model = random_model()
    vocabulary = Vocabulary(model.tokenizer, model.vocab_size)
    spelled = spell_template(parse_template(template), vocabulary, "x")
    budget = spelled.num_least_tokens + spare

    for seed in range(8):
        prelude = TemplatePrelude(vocabulary, spelled, budget=budget)
        chance = random.Random(seed)
        token_ids: list[int] = []
        while not prelude.is_over:
            bits = f"{int.from_bytes(prelude.allowed(), 'little'):b}"[::-1]
            token_ids.append(chance.choice([n for n, bit in enumerate(bits) if bit == "1"]))
            prelude.commit(token_ids[-1])
            assert len(token_ids) <= budget
        text = b"".join(map(vocabulary.text, token_ids)).decode()
        assert text.startswith(parse_template(template).opening)
        ElementTree.fromstring(re.sub(r"[^<>/]*(?=</)", "", text))


def test_control_tokens_add_nothing_to_a_text_unless_they_are_marks() -> None:
    model = random_model()
    tokenizer, vocabulary = model.tokenizer, Vocabulary(model.tokenizer, model.vocab_size)
    (eot,) = tokenizer.encode("<|eot_id|>", parse_special=True)

    assert vocabulary.text(eot) == b""
    assert vocabulary.text(eot, vocabulary.marks("a<|eot_id|>")) == b"<|eot_id|>"
    assert vocabulary.spell("a<|eot_id|>", "x", parse_special=True)[-1] == eot
    assert eot not in vocabulary.spell("a<|eot_id|>", "x")
    assert not vocabulary.slot_tokens(b"<").whole >> eot & 1


def test_a_character_that_has_begun_is_known_by_its_bytes() -> None:
    flag = "🏴".encode()

    for length in range(1, 4):
        assert begun_character(b"a" + flag[:length]) == flag[:length]
    assert begun_character(flag) == b""
    assert begun_character(b"") == b""
