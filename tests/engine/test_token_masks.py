"""Every engine with a model keeps to a token mask: what may come, what was taken, when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

from palma.core.errors import EngineFailure, InvalidRequest
from palma.core.types import SamplingParams
from palma.engine.base import Engine, EngineRequest
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.likeliest import allowed_ids, likeliest, of_all_rows
from palma.engine.mock import END_ID
from tests.engine.suite import Collected, submit
from tests.engine.test_engines import MAX_RUNNING, PROMPTS, make_engine
from tests.tiny_models import VOCAB_SIZE, tiny_loaded_model

Likeliest = Callable[[torch.Tensor, list[bytes | None]], list[tuple[int, float]]]


@pytest.fixture(scope="module", params=["threads", "continuous"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with ThreadPoolExecutor(MAX_RUNNING + 1) as executor:
        engine = make_engine(request.param, executor)
        yield engine
        engine.close()


def mask_of(token_ids: set[int]) -> bytes:
    """Return a mask with these tokens' bits."""
    return sum(1 << token_id for token_id in token_ids).to_bytes(VOCAB_SIZE // 8 + 1, "little")


@dataclass
class Script:
    """A mask that allows one set of tokens after another."""

    steps: list[set[int]]
    free_after: int | None = None
    taken: list[int] = field(default_factory=list)
    is_complete: bool = False
    is_free: bool = False

    def allowed(self) -> bytes:
        if len(self.taken) == len(self.steps):
            raise InvalidRequest("the script has ended")
        return mask_of(self.steps[len(self.taken)])

    def prepare(self) -> None:
        pass

    def commit(self, token_id: int) -> None:
        self.taken.append(token_id)
        self.is_complete = len(self.taken) == len(self.steps) and self.free_after is None
        self.is_free = len(self.taken) == self.free_after


def run(engine: Engine, name: str, mask: Script, **params: object) -> Collected:
    """Submit a sequence with a mask, greedy unless `params` say otherwise."""
    collected = Collected()
    sampling_params = SamplingParams(**{"temperature": 0, "max_tokens": 20, **params})  # type: ignore[arg-type]
    request = EngineRequest(name, PROMPTS[0], sampling_params, token_mask=mask)
    engine.submit(request, collected)
    return collected


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 1.0, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9},
        {"temperature": 1.0, "mirostat": 2},
        {"frequency_penalty": 2.0, "repetition_penalty": 1.5, "logit_bias": {40: 100.0}},
    ],
)
def test_only_allowed_tokens_come_and_the_mask_is_told_each(
    engine: Engine, params: dict[str, object]
) -> None:
    mask = Script([{65, 66}, {67, 299}, {68}, {69, 70, 71}])

    collected = run(engine, "allowed", mask, **params)

    assert collected.wait() == "stop"
    assert mask.taken == collected.token_ids
    pairs = zip(collected.token_ids, mask.steps, strict=True)
    assert all(token_id in allowed for token_id, allowed in pairs)


def test_a_complete_mask_ends_the_sequence_without_an_end_token(engine: Engine) -> None:
    collected = run(engine, "complete", Script([{65}, {66}]))

    assert collected.wait() == "stop"
    assert collected.token_ids == [65, 66]


def test_complete_with_the_last_token_that_fits_is_a_stop(engine: Engine) -> None:
    assert run(engine, "fits", Script([{65}, {66}]), max_tokens=2).wait() == "stop"
    assert run(engine, "cut", Script([{65}, {66}, {67}]), max_tokens=2).wait() == "length"


def test_the_end_token_is_not_told_to_the_mask(engine: Engine) -> None:
    mask = Script([{65}, {END_ID}, {66}])

    collected = run(engine, "ends", mask)

    assert collected.wait() == "stop"
    assert collected.token_ids == [65, END_ID]
    assert mask.taken == [65]


def test_a_free_mask_bounds_nothing_more(engine: Engine) -> None:
    collected = run(engine, "free", Script([{65}, {66}], free_after=2), max_tokens=10)

    collected.wait()
    alone = submit(engine, "as-a-prompt", [*PROMPTS[0], 65, 66], max_tokens=8)
    alone.wait()
    assert collected.token_ids == [65, 66, *alone.token_ids]


def test_an_error_in_a_mask_ends_its_own_sequence_alone(engine: Engine) -> None:
    neighbour = submit(engine, "neighbour", PROMPTS[1])
    collected = run(engine, "broken", Script([{65}, {66}], free_after=9))

    assert collected.wait() == "error"
    assert isinstance(collected.error, InvalidRequest)
    assert collected.token_ids == [65, 66]
    assert neighbour.wait() == "length"


def test_a_mask_that_allows_nothing_is_a_failure_and_not_a_token(engine: Engine) -> None:
    collected = run(engine, "nothing", Script([{65}, set(), {65}]))

    assert collected.wait() == "error"
    assert isinstance(collected.error, EngineFailure)
    assert collected.token_ids == [65]


def test_masked_and_free_sequences_do_not_disturb_each_other(engine: Engine) -> None:
    alone = [submit(engine, f"alone-{n}", prompt) for n, prompt in enumerate(PROMPTS)]
    expected = [(one.wait(), one.token_ids) for one in alone]

    masked = [run(engine, f"masked-{n}", Script([{65 + n}] * 12)) for n in range(3)]
    company = [submit(engine, f"beside-{n}", prompt) for n, prompt in enumerate(PROMPTS)]

    assert [(one.wait(), one.token_ids) for one in company] == expected
    for number, one in enumerate(masked):
        assert one.wait() == "stop"
        assert one.token_ids == [65 + number] * 12


def test_a_preempted_sequence_goes_on_in_its_mask() -> None:
    steps = [{65 + number % 7} for number in range(60)]
    with ThreadPoolExecutor(1) as executor:
        small = ContinuousEngine(
            tiny_loaded_model(), executor, MAX_RUNNING, num_blocks=12, block_size=8
        )
        masked = [run(small, f"tight-{n}", Script(steps), max_tokens=60) for n in range(3)]
        reasons = [one.wait() for one in masked]
        small.close()

    assert reasons == ["stop"] * 3
    assert [one.token_ids for one in masked] == [[65 + number % 7 for number in range(60)]] * 3


def test_log_probabilities_are_those_without_the_mask(engine: Engine) -> None:
    plain = submit(engine, "plain", PROMPTS[0], num_logprobs=2, max_tokens=1)
    plain.wait()
    (report,) = plain.logprobs

    masked = run(engine, "scored", Script([{65}]), num_logprobs=2)
    masked.wait()

    (masked_report,) = masked.logprobs
    assert masked_report.token_id == 65
    assert masked_report.logprob < report.logprob
    assert [token_id for token_id, _ in masked_report.top] == [t for t, _ in report.top]


@pytest.mark.parametrize("likeliest", [likeliest, of_all_rows])
def test_the_likeliest_token_is_one_that_the_mask_allows(likeliest: Likeliest) -> None:
    logits = torch.arange(40, dtype=torch.float32).view(2, 20)
    few, many, longer = (bits.to_bytes(4, "little") for bits in (0b1000_0001, 2**20 - 2, 2**32 - 1))

    assert likeliest(logits, [None, few[:1]]) == [(19, 19.0), (7, 27.0)]
    assert likeliest(logits, [many[:3], longer]) == [(19, 19.0), (19, 39.0)]


@pytest.mark.parametrize("likeliest", [likeliest, of_all_rows])
def test_no_token_is_chosen_where_none_is_allowed_or_one_is_not_a_number(
    likeliest: Likeliest,
) -> None:
    logits = torch.zeros(2, 9)
    logits[1, 8] = torch.nan

    chosen = likeliest(logits, [b"", b"\x01"])

    assert not any(math.isfinite(logit) for _, logit in chosen)


def test_ids_beyond_the_mask_are_not_allowed_and_it_may_be_longer_than_the_vocabulary() -> None:
    assert allowed_ids((0b1000_0001).to_bytes(1, "little"), 20).tolist() == [0, 7]
    assert allowed_ids(b"\xff" * 4, 5).tolist() == [0, 1, 2, 3, 4]
