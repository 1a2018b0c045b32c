"""Training batches: conversations as token ids, grouped by length so that little is padding."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from palma.models.bundled.training.corpus import EOT, Mixture, conversations, header, rendered
from palma.models.bundled.training.tool_text import CALL_START

_POOL_SIZE = 4096  # conversations drawn at a time, then grouped by length


@dataclass(frozen=True, slots=True)
class Batch:
    """Some conversations side by side.

    Attributes:
        input_ids: (num_conversations, length), padded on the right.
        targets: The next ids of the same shape; IGNORED where the model is not to learn.
        weights: Of the same shape, float32: how much each target counts.
    """

    input_ids: Tensor
    targets: Tensor
    weights: Tensor


IGNORED = -100
_DECISIONS = (CALL_START, "I", "Arrr")  # how an answer begins that calls, or does not know
_VALUE_OPENINGS, _VALUE_ENDS, _HARD_WEIGHT = ('": "',), ('"}}', '", "', '"}'), 5.0


def batches(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    tokens_per_batch: int,
    mixture: Mixture,
) -> Iterator[Batch]:
    """Yield batches of about tokens_per_batch tokens without end."""
    rng = random.Random(seed)
    drawn = conversations(seed, mixture)
    while True:
        pool = [rendered(talk) for talk in itertools.islice(drawn, _POOL_SIZE)]
        ids = sorted(tokenizer(pool, add_special_tokens=False)["input_ids"], key=len)
        groups = list(_grouped(ids, tokens_per_batch))
        rng.shuffle(groups)
        weighs = mixture.tools_share > 0
        yield from (_batch(tokenizer, group, weighs=weighs) for group in groups)


def _grouped(sequences: list[list[int]], tokens_per_batch: int) -> Iterator[list[list[int]]]:
    group: list[list[int]] = []
    for sequence in sequences:  # from short to long
        if group and (len(group) + 1) * len(sequence) > tokens_per_batch:
            yield group
            group = []
        group.append(sequence)
    yield group


def _batch(tokenizer: PreTrainedTokenizerFast, group: list[list[int]], *, weighs: bool) -> Batch:
    length = max(map(len, group))
    input_ids = torch.full((len(group), length), int(tokenizer.pad_token_id or 0))
    targets = torch.full((len(group), length), IGNORED)
    weights = torch.ones(len(group), length)
    for row, ids in enumerate(group):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        if weighs:
            weights[row, : len(ids) - 1] = torch.tensor(target_weights(tokenizer, ids)[1:])
        targets[row, : len(ids) - 1] = torch.tensor(assistant_targets(tokenizer, ids)[1:])
    return Batch(input_ids, targets, weights)


def target_weights(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[float]:
    """Return how much each id counts as a target: what is hard to learn more than the rest.

    That is whether to call or not to know, the values in calls, and what is said of a result: few
    tokens among many that are learned at once.
    """
    id_of = tokenizer.convert_tokens_to_ids
    openings, ends = ({id_of(mark) for mark in marks} for marks in (_VALUE_OPENINGS, _VALUE_ENDS))
    opening, decisions = tokenizer.encode(header("assistant")), {id_of(each) for each in _DECISIONS}
    tool, user = (tokenizer.encode(header(role))[:2] for role in ("tool", "user"))
    weights, is_value, is_told = [], False, False
    for position, token_id in enumerate(ids):
        is_value = is_value and token_id not in ends
        decides = token_id in decisions and ids[position - len(opening) : position] == opening
        weights.append(_HARD_WEIGHT if is_value or is_told or decides else 1.0)
        is_value = is_value or token_id in openings
        role = ids[max(0, position - 1) : position + 1]
        is_told = role == tool or (is_told and role != user)
    return weights


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
