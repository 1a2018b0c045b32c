"""palmita's tokenizer: byte-level BPE with Llama 3's split, special tokens and chat template."""

import itertools
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'system' and not loop.first %}
{{- raise_exception("palmita takes one system message, and only as the first message; \
message " ~ loop.index0 ~ " is a later one: move its text to the front") }}
{%- endif %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


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
