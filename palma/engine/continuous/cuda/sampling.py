"""Choosing the next tokens of a batch on the device, so that no step waits for the host."""

from __future__ import annotations

import math
import secrets
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from palma.core.types import SamplingParams
from palma.engine.continuous.cuda.kernels import sample as kernels
from palma.engine.sampler import MIN_TEMPERATURE

SCAN_GROUPS = 32
"""Groups of tokens that a program of `scan` reads; see the kernels."""

SCAN_WARPS = 4
SETTLE_GROUPS = 32
"""Groups of tokens that `settle` reads together."""

SETTLE_WARPS = 16

MAX_VOCAB_SIZE = 2**20 - 2**12
"""Beyond it the kernels' counts, 20 bits each, could overflow."""

MAX_TOP_K = 2**31 - 1
LEAST_TOP_P = 1e-30
"""Any less would vanish in float32; the likeliest tokens alone are kept long before."""

KEY_STEPS = {torch.bfloat16: 8, torch.float16: 10, torch.float32: 16}
"""Pairs of bits that tell one logit from another, once it is float32."""

_PARAMS = struct.Struct("<qfffiq")
"""A slot's NUM_PARAM_WORDS of int32, as the kernels read them, and the slot itself."""


class DeviceSampler:
    """Draws a token for each row of logits by the parameters of the row's slot.

    They mean what they mean to `palma.engine.sampler.candidates`, but that a nucleus holds all
    tokens as likely as its least likely one. A seed gives other tokens than it gives `Sampler`;
    with the same logits and position it gives the same token again, whatever the row and whatever
    is beside it.

    For one thread and one CUDA stream. `sample` may be captured in a CUDA graph once it has run
    with logits of that dtype and vocabulary, which compiles it.

    Args:
        num_slots: Slots 0 to num_slots - 1; each is greedy until it is set.
        device: Where the logits are.
    """

    def __init__(self, num_slots: int, device: torch.device) -> None:
        num_words = kernels.NUM_PARAM_WORDS.value
        self._params = torch.zeros(num_slots, num_words // 2, dtype=torch.int64, device=device)

    @staticmethod
    def takes(params: SamplingParams) -> bool:
        """Return whether all that the parameters ask for can be done here."""
        return (
            (params.is_greedy or (params.typical_p == 1 and params.mirostat == 0))
            and params.min_tokens == 0
            and params.repetition_penalty == 1
            and params.presence_penalty == params.frequency_penalty == 0
            and not params.logit_bias
            and not params.text_bias
            and params.num_logprobs is None
        )

    def set(self, slots: Sequence[int], params: Sequence[SamplingParams]) -> None:
        """Give slots the parameters of the sequences that begin there, without synchronizing.

        Args:
            slots: All different.
            params: By slot; `takes` says yes to each.
        """
        if not slots:
            return
        packed = bytearray().join(_pack(*pair) for pair in zip(slots, params, strict=True))
        rows = torch.frombuffer(packed, dtype=torch.int64).view(len(slots), -1)
        if self._params.is_cuda:  # torch does not reuse pinned memory before the copy is done
            rows = rows.pin_memory().to(self._params.device, non_blocking=True)
        self._params.index_copy_(0, rows[:, -1], rows)

    def sample(self, logits: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        """Choose a token for each row, without a wait for the device.

        Args:
            logits: (num_rows, vocab_size), bfloat16, float16 or float32; each row contiguous.
            slots: (num_rows,), int32 or int64, on the device.
            positions: (num_rows,), int32 or int64, on the device: where in its sequence the token
                will stand. Randomness is new only at a new position.

        Returns:
            (num_rows,), int64: token ids; -1 for a row with NaN or plus infinity, or without any
            finite logit.
        """
        num_rows, vocab_size = logits.shape
        assert logits.stride(1) == 1
        assert vocab_size <= MAX_VOCAB_SIZE
        chosen = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
        if num_rows == 0:
            return chosen
        num_groups = math.ceil(vocab_size / kernels.GROUP.value)
        max_groups = max(SCAN_GROUPS, _power_of_2(num_groups))
        # Of this call alone: what a captured graph uses must neither move nor be freed.
        work = torch.empty(3, num_rows, max_groups, dtype=torch.float32, device=logits.device)
        tops, weights, listed = work[0], work[1], work[2].view(torch.int32)
        params = self._params.view(torch.int32)
        kernels.scan[(num_rows, math.ceil(num_groups / SCAN_GROUPS))](
            logits,
            logits.stride(0),
            slots,
            params,
            tops,
            weights,
            max_groups,
            vocab_size,
            GROUPS=SCAN_GROUPS,
            num_warps=SCAN_WARPS,
        )
        kernels.settle[(num_rows,)](
            logits,
            logits.stride(0),
            slots,
            positions,
            params,
            tops,
            weights,
            listed,
            chosen,
            max_groups,
            vocab_size,
            num_groups,
            MAX_GROUPS=max_groups,
            AT_ONCE=SETTLE_GROUPS,
            KEY_STEPS=KEY_STEPS[logits.dtype],
            num_warps=SETTLE_WARPS,
        )
        return chosen


def _power_of_2(number: int) -> int:
    """Return the least power of 2 that is no less than a number above 0."""
    return 1 << (number - 1).bit_length()


def _pack(slot: int, params: SamplingParams) -> bytes:
    seed = params.seed
    if seed is None:
        seed = int.from_bytes(secrets.token_bytes(8), "little", signed=True)
    temperature = 0.0 if params.is_greedy else max(params.temperature, MIN_TEMPERATURE)
    return _PARAMS.pack(
        seed,
        temperature,
        max(params.top_p, LEAST_TOP_P),
        math.log(params.min_p) if params.min_p > 0 else -math.inf,
        min(params.top_k, MAX_TOP_K),
        slot,
    )
