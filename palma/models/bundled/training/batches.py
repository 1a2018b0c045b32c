"""Training batches: conversations as token ids, grouped by length so that little is padding."""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from palma.models.bundled.training.corpus import EOT, conversations, header, rendered
from palma.models.bundled.training.skills import Skill

_POOL_SIZE = 4096  # conversations drawn at a time, then grouped by length


@dataclass(frozen=True, slots=True)
class Batch:
    """Some conversations side by side.

    Attributes:
        input_ids: (num_conversations, length), padded on the right.
        targets: The next ids of the same shape; IGNORED where the model is not to learn.
    """

    input_ids: Tensor
    targets: Tensor


IGNORED = -100


def batches(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    tokens_per_batch: int,
    skills: Mapping[Skill, float],
) -> Iterator[Batch]:
    """Yield batches of about tokens_per_batch tokens without end."""
    rng = random.Random(seed)
    drawn = conversations(seed, skills)
    while True:
        pool = [rendered(talk) for talk in itertools.islice(drawn, _POOL_SIZE)]
        ids = sorted(tokenizer(pool, add_special_tokens=False)["input_ids"], key=len)
        groups = list(_grouped(ids, tokens_per_batch))
        rng.shuffle(groups)
        yield from (_batch(tokenizer, group) for group in groups)


def _grouped(sequences: list[list[int]], tokens_per_batch: int) -> Iterator[list[list[int]]]:
    group: list[list[int]] = []
    for sequence in sequences:  # from short to long
        if group and (len(group) + 1) * len(sequence) > tokens_per_batch:
            yield group
            group = []
        group.append(sequence)
    yield group


def _batch(tokenizer: PreTrainedTokenizerFast, group: list[list[int]]) -> Batch:
    length = max(map(len, group))
    input_ids = torch.full((len(group), length), int(tokenizer.pad_token_id or 0))
    targets = torch.full((len(group), length), IGNORED)
    for row, ids in enumerate(group):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        targets[row, : len(ids) - 1] = torch.tensor(assistant_targets(tokenizer, ids)[1:])
    return Batch(input_ids, targets)


def assistant_targets(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[int]:
    """Return the ids of the assistant's answers, their `<|eot_id|>` too, and IGNORED elsewhere."""
    opening = tokenizer.encode(header("assistant"), add_special_tokens=False)
    eot = tokenizer.convert_tokens_to_ids(EOT)
    targets, learning = [], False
    for position, token_id in enumerate(ids):
        targets.append(token_id if learning else IGNORED)
        if token_id == eot:
            learning = False
        elif ids[max(0, position + 1 - len(opening)) : position + 1] == opening:
            learning = True
    return targets
