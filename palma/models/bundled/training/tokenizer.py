"""palmita's tokenizer: byte-level BPE with Llama 3's split, special tokens and chat template."""

import itertools
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from palma.models.bundled.training.corpus import (
    BOS,
    END_HEADER,
    END_OF_TEXT,
    EOT,
    PAD,
    START_HEADER,
    conversations,
)
from palma.models.bundled.training.facts import all_places

VOCAB_SIZE = 3072
MAX_POSITIONS = 2048
SPECIAL_TOKENS = (BOS, END_OF_TEXT, PAD, START_HEADER, END_HEADER, EOT)  # the last ids, in order

# How Llama 3 splits text before merging: contractions, words, up to three digits, marks, space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- macro kind(schema) %}
{%- if schema is mapping and schema['enum'] %}
{{- schema['enum'] | join('|') }}
{%- elif schema is mapping and schema['type'] is string %}
{{- schema['type'] }}
{%- else %}
{{- 'any' }}
{%- endif %}
{%- endmacro %}
{%- macro tool_line(tool) %}
{%- set schema = tool['parameters'] or {} %}
{{- '{"name": ' + tool['name'] | tojson + ', "arguments": {' }}
{%- for name, parameter in (schema['properties'] or {}) | items %}
{%- set mark = '' if name in (schema['required'] or []) else '?' %}
{{- (name ~ mark) | tojson + ': ' + kind(parameter) | tojson + ('' if loop.last else ', ') }}
{%- endfor %}
{{- ('}} ' ~ (tool['description'] or '')) | replace('\\n', ' ') | trim + '\\n' }}
{%- endmacro %}
{%- macro tools_text() %}
{{- '<tools>\\n' }}
{%- for tool in tools %}
{{- tool_line(tool['function'] or tool) }}
{%- endfor %}
{{- '</tools>' }}
{%- endmacro %}
{%- macro call(function) %}
{%- set arguments = function['arguments'] %}
{{- '<tool_call>\\n{"name": ' + function['name'] | tojson + ', "arguments": ' }}
{{- (arguments if arguments is string else arguments | tojson) + '}\\n</tool_call>' }}
{%- endmacro %}
{%- macro turn(role, content) %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + content | trim + '<|eot_id|>' }}
{%- endmacro %}
{{- bos_token }}
{%- if tools and messages[0]['role'] != 'system' %}
{{- turn('system', tools_text()) }}
{%- endif %}
{%- for message in messages %}
{%- set content = (message['content'] or '') | trim %}
{%- if message['role'] == 'system' and not loop.first %}
{{- raise_exception("palmita takes one system message, and only as the first message; \
message " ~ loop.index0 ~ " is a later one: move its text to the front") }}
{%- elif message['role'] == 'system' and tools %}
{{- turn('system', content + '\\n\\n' + tools_text()) }}
{%- elif message['tool_calls'] %}
{%- set ns = namespace(text=content) %}
{%- for each in message['tool_calls'] %}
{%- set ns.text = ns.text + ('\\n' if ns.text else '') + call(each['function'] or each) %}
{%- endfor %}
{{- turn(message['role'], ns.text) }}
{%- else %}
{{- turn(message['role'], content) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


CALL_TOKENS = (
    "<tool_call>", "</tool_call>", "<tools>", "</tools>", '{"name": "', '", "arguments": ',
    '": "', '?": "', '", "', '"}}', '"}', '{"', "get_", "_weather", "celsius", "fahrenheit",
)  # fmt: skip


def add_call_tokens(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let the parts of a call be tokens of their own: a place is copied over a short distance only.

    Each begins as the mean of the tokens that spelled it so far. They are text like any other.
    """
    known = tokenizer.get_vocab()
    pieces = {
        token: tokenizer.encode(token, add_special_tokens=False)
        for token in CALL_TOKENS
        if token not in known
    }
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in pieces])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = model.get_input_embeddings().weight.data
    for token, ids in pieces.items():
        weight[tokenizer.convert_tokens_to_ids(token)] = weight[ids].mean(0)


def trained_tokenizer(seed: int, num_conversations: int = 20_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the corpus; the same seed gives the same one."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(seed, num_conversations), trainer)
    bpe.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOT,
        pad_token=PAD,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _texts(seed: int, num_conversations: int) -> list[str]:
    """Return what to learn merges from: messages, roles and facts, all emoji left out.

    Without emoji in the text none becomes a token of its own, so an emoji stays several tokens
    and a stream of them shows what happens to characters that end in the middle of a chunk.
    """
    drawn = itertools.islice(conversations(seed), num_conversations)
    texts = [f"{m.role}\n\n{m.content}" for talk in drawn for m in talk]
    facts = [f" {place.name} {place.answer}" for place in all_places() for _ in range(20)]
    return [_without_emoji(text) for text in texts + facts]


def _without_emoji(text: str) -> str:
    joiners = "\u200d\ufe0f"
    return "".join(c for c in text if unicodedata.category(c) != "So" and c not in joiners)
