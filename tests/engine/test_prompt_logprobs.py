"""Log-probabilities of prompts against a direct forward pass, and answers without a token."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from palma.core.errors import EngineFailure
from palma.core.types import SamplingParams
from palma.engine import threads
from palma.engine.base import Engine, EngineRequest, TokenDelta, TokenLogprobs
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.continuous.scheduler import Sequence
from palma.engine.threads import ThreadsEngine
from tests.engine.suite import Collected, submit
from tests.engine.test_engines import MAX_RUNNING, PROMPTS, generate, make_engine
from tests.tiny_models import tiny_llama, tiny_loaded_model

TOLERANCE = 1e-4
LONG_PROMPT = [number * 7 % 256 for number in range(150)]


@pytest.fixture(scope="module", params=["threads", "continuous"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with ThreadPoolExecutor(MAX_RUNNING + 1) as executor:
        engine = make_engine(request.param, executor)
        yield engine
        engine.close()


@contextmanager
def continuous_engine(
    *, num_blocks: int = 64, max_prefill_tokens: int = 512
) -> Iterator[ContinuousEngine]:
    with ThreadPoolExecutor(1) as executor:
        engine = ContinuousEngine(
            tiny_loaded_model(),
            executor,
            MAX_RUNNING,
            num_blocks=num_blocks,
            block_size=8,
            max_prefill_tokens=max_prefill_tokens,
        )
        yield engine
        engine.close()


def record_preemptions(engine: ContinuousEngine) -> list[tuple[str, int]]:
    """Return a list that will hold each preempted request and how far it had come."""
    preempted: list[tuple[str, int]] = []
    preempt = engine._scheduler._preempt

    def record(sequence: Sequence) -> None:
        preempted.append((sequence.request.request_id, sequence.num_completion_tokens))
        preempt(sequence)

    engine._scheduler._preempt = record  # type: ignore[method-assign]
    return preempted


def score(engine: Engine, request_id: str, prompt: list[int], max_tokens: int = 1) -> Collected:
    """Submit a greedy sequence that wants to know how likely its prompt is."""
    collected = Collected()
    sampling_params = SamplingParams(temperature=0, max_tokens=max_tokens, num_logprobs=2)
    request = EngineRequest(request_id, prompt, sampling_params, wants_prompt_logprobs=True)
    engine.submit(request, collected)
    return collected


def check_scores(collected: Collected, prompt: list[int], num_top: int = 2) -> None:
    """Compare what was told about a prompt with a direct forward pass of the model."""
    assert len(collected.prompt_logprobs) == 1, "they are told once"
    with torch.inference_mode():
        logprobs = tiny_llama()(torch.tensor([prompt])).logits[0].log_softmax(dim=-1)
    reports = collected.prompt_logprobs[0]
    assert [report.token_id for report in reports] == prompt[1:]
    for row, report in zip(logprobs, reports, strict=False):
        assert report.logprob == pytest.approx(float(row[report.token_id]), abs=TOLERANCE)
        check_top(report, row, num_top)


def check_top(report: TokenLogprobs, row: torch.Tensor, num_top: int) -> None:
    values, token_ids = row.topk(num_top)
    assert [token_id for token_id, _ in report.top] == token_ids.tolist()
    assert [value for _, value in report.top] == pytest.approx(values.tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_prompts_are_scored_as_a_forward_pass_scores_them(engine: Engine, max_tokens: int) -> None:
    prompts = [*PROMPTS, LONG_PROMPT]
    running = [
        score(engine, f"scored-{max_tokens}-{number}", prompt, max_tokens=max_tokens)
        for number, prompt in enumerate(prompts)
    ]

    for prompt, collected in zip(prompts, running, strict=True):
        collected.wait()
        check_scores(collected, prompt)
        assert collected.token_ids == generate(prompt, 5)[:max_tokens]
        assert [report.token_id for report in collected.logprobs] == collected.token_ids


def test_a_prompt_of_one_token_is_told_to_have_no_scores(engine: Engine) -> None:
    collected = score(engine, "one", [7])

    assert collected.wait() == "length"
    assert collected.prompt_logprobs == [()]


def test_nothing_is_told_about_a_prompt_unless_it_is_asked_for(engine: Engine) -> None:
    collected = submit(engine, "unasked", PROMPTS[0], num_logprobs=2)

    collected.wait()

    assert collected.prompt_logprobs == []


@pytest.mark.parametrize("prompt", [[7], LONG_PROMPT])
def test_max_tokens_0_ends_with_length_and_no_token(engine: Engine, prompt: list[int]) -> None:
    collected = submit(engine, "nothing", prompt, max_tokens=0)

    assert collected.wait() == "length"
    assert collected.token_ids == []


def test_a_sink_that_fails_at_the_scores_ends_its_own_sequence(engine: Engine) -> None:
    collected = Collected()

    def broken(delta: TokenDelta) -> None:
        if delta.prompt_logprobs is not None:
            raise RuntimeError("a sink with a bug")
        collected(delta)

    params = SamplingParams(temperature=0, max_tokens=5, num_logprobs=0)
    request = EngineRequest("broken", LONG_PROMPT, params, wants_prompt_logprobs=True)
    engine.submit(request, broken)

    assert collected.wait() == "error"
    assert isinstance(collected.error, EngineFailure)
    after = submit(engine, "after", PROMPTS[1])
    assert after.wait() == "length"
    assert after.token_ids == generate(PROMPTS[1], 20)


def test_the_threads_engine_scores_a_prompt_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_loaded_model()
    monkeypatch.setattr(threads, "MAX_PROMPT_LOGITS", 40 * loaded.vocab_size)
    with ThreadPoolExecutor(1) as executor:
        engine = ThreadsEngine(loaded, executor, 1)

        collected = score(engine, "parts", LONG_PROMPT)

        collected.wait()
        check_scores(collected, LONG_PROMPT)
        engine.close()


@pytest.mark.parametrize("max_prefill_tokens", [1, 7, 149])
@pytest.mark.parametrize("max_tokens", [0, 3])
def test_chunks_of_a_prompt_are_scored_as_one(max_prefill_tokens: int, max_tokens: int) -> None:
    """149 of 150 leave one token, which a decode step computes."""
    with continuous_engine(max_prefill_tokens=max_prefill_tokens) as engine:
        collected = score(engine, "chunks", LONG_PROMPT, max_tokens=max_tokens)

        assert collected.wait() == "length"
        check_scores(collected, LONG_PROMPT)
        assert collected.token_ids == generate(LONG_PROMPT, 3)[:max_tokens]


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_a_prompt_whose_beginning_is_cached_is_scored_from_its_first_token(
    max_tokens: int,
) -> None:
    with continuous_engine() as engine:
        submit(engine, "before", LONG_PROMPT, max_tokens=1).wait()
        hit = submit(engine, "hit", LONG_PROMPT, max_tokens=max_tokens)
        hit.wait()

        scored = score(engine, "scored", LONG_PROMPT, max_tokens=max_tokens)

        scored.wait()
        assert hit.num_cached_tokens == 144
        assert scored.num_cached_tokens == 0
        check_scores(scored, LONG_PROMPT)
        assert scored.token_ids == hit.token_ids


@pytest.mark.parametrize("max_prefill_tokens", [4, 512])
def test_a_preempted_sequence_is_scored_once_and_rightly(max_prefill_tokens: int) -> None:
    """Ten blocks for two sequences that grow to eight each: the later one is sent back."""
    prompts = [LONG_PROMPT[:32], LONG_PROMPT[60:92]]
    with continuous_engine(num_blocks=10, max_prefill_tokens=max_prefill_tokens) as engine:
        preempted = record_preemptions(engine)

        running = [
            score(engine, str(number), prompt, max_tokens=30)
            for number, prompt in enumerate(prompts)
        ]

        for prompt, collected in zip(prompts, running, strict=True):
            collected.wait()
            check_scores(collected, prompt)
            assert collected.token_ids == generate(prompt, 30)
            assert [report.token_id for report in collected.logprobs] == collected.token_ids
        assert preempted


def test_a_sequence_preempted_amid_its_prompt_is_scored_once_and_rightly() -> None:
    """The first decodes into the blocks of the second, whose prompt takes a token a step."""
    with continuous_engine(num_blocks=22, max_prefill_tokens=1) as engine:
        preempted = record_preemptions(engine)
        early = submit(engine, "early", PROMPTS[0], max_tokens=40)
        early.started.wait()

        late = score(engine, "late", LONG_PROMPT, max_tokens=2)

        early.wait()
        late.wait()
        assert early.token_ids == generate(PROMPTS[0], 40)
        check_scores(late, LONG_PROMPT)
        assert late.token_ids == generate(LONG_PROMPT, 2)
        assert preempted[0] == ("late", 0)
