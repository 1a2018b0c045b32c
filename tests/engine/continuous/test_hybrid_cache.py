"""Models whose layers keep states: slots change hands, passes fail, prompts come in pieces."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from palma.core.config import Settings
from palma.core.errors import EngineFailure
from palma.core.types import SamplingParams
from palma.engine.base import EngineRequest
from palma.engine.continuous import create_continuous_engine
from palma.engine.continuous.engine import ContinuousEngine
from palma.engine.continuous.hybrid_cache import StatePool
from palma.engine.continuous.self_check import UnsupportedModel, check_model
from tests.engine.continuous.test_architectures import (
    MAX_TOKENS,
    PROMPTS,
    SHAPE,
    generate,
    make_loaded,
    make_model,
)
from tests.engine.suite import Collected, submit

pytestmark = pytest.mark.filterwarnings("ignore")  # Transformers' own, about tiny configs

HYBRIDS = ["lfm2", "falcon_h1", "jamba", "qwen3_5_text"]
"""Short convolutions; Mamba 2 beside attention; Mamba; a gated delta rule."""


@contextmanager
def running_engine(model: Any, max_running: int = 3, **options: Any) -> Iterator[ContinuousEngine]:
    splits_prompts = check_model(model).splits_prompts
    sizes = {"num_blocks": 24, "block_size": 4, "max_prefill_tokens": 5, **options}
    with ThreadPoolExecutor(1) as executor:
        engine = ContinuousEngine(
            make_loaded(model), executor, max_running, splits_prompts=splits_prompts, **sizes
        )
        yield engine
        engine.close()


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_sequences_that_leave_pass_clean_slots_on(model_type: str) -> None:
    model, chooser = make_model(model_type), random.Random(2)
    expected = [generate(model, prompt) for prompt in PROMPTS]
    staying: list[tuple[int, Collected]] = []
    leaving: list[Collected] = []

    with running_engine(model) as engine:
        for number in range(24):
            which = chooser.randrange(len(PROMPTS))
            if chooser.random() < 0.5:
                staying.append(
                    (which, submit(engine, str(number), PROMPTS[which], max_tokens=MAX_TOKENS))
                )
                continue
            last = chooser.randrange(MAX_TOKENS)

            def leave(
                logits: torch.Tensor,
                completion: Sequence[int],
                number: int = number,
                last: int = last,
            ) -> torch.Tensor:
                if len(completion) == last:
                    engine.cancel(str(number))
                return logits

            leaving.append(
                submit(engine, str(number), PROMPTS[which], leave, max_tokens=MAX_TOKENS + 9)
            )
        for collected in leaving:
            assert collected.wait() == "cancelled"
        for which, collected in staying:
            assert collected.wait() == "length"
            assert collected.token_ids == expected[which]
        engine._scheduler.pool.check([])


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_a_pass_that_fails_at_its_end_leaves_the_neighbours_states(model_type: str) -> None:
    model = make_model(model_type)
    expected = [generate(model, prompt) for prompt in PROMPTS]
    poison = min(set(range(SHAPE["vocab_size"])) - set(itertools.chain(*expected)))

    def fail_on_poison(_: Any, __: Any, given: dict[str, Any], output: Any) -> None:
        if given["input_ids"].shape[1] == 1 and poison in given["input_ids"]:
            raise RuntimeError("a pass that fails when all states are computed")

    def choose_poison(logits: torch.Tensor, completion: Sequence[int]) -> torch.Tensor:
        if len(completion) < 4:
            return logits
        return torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor([poison]), 0.0)

    with running_engine(model, 6, num_blocks=80) as engine:
        model.register_forward_hook(fail_on_poison, with_kwargs=True)
        poisoned = submit(engine, "poisoned", PROMPTS[0], choose_poison)
        neighbours = [
            submit(engine, str(number), prompt, max_tokens=MAX_TOKENS)
            for number, prompt in enumerate(PROMPTS)
        ]

        assert poisoned.wait() == "error"
        assert isinstance(poisoned.error, EngineFailure)
        for tokens, collected in zip(expected, neighbours, strict=True):
            assert collected.wait() == "length"
            assert collected.token_ids == tokens


def test_a_repeated_prompt_is_computed_again() -> None:
    with running_engine(make_model("lfm2")) as engine:
        first, second = (submit(engine, name, PROMPTS[1]) for name in ("first", "second"))

        assert first.wait() == second.wait() == "length"
        assert first.num_cached_tokens == second.num_cached_tokens == 0
        assert first.token_ids == second.token_ids


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_a_text_that_is_read_in_pieces_gives_the_embedding_of_the_whole(model_type: str) -> None:
    model = make_model(model_type)

    embeddings = []
    for max_prefill_tokens in (4, 64):
        with running_engine(model, max_prefill_tokens=max_prefill_tokens) as engine:
            params, collected = SamplingParams(max_tokens=0), Collected()
            engine.submit(
                EngineRequest("text", PROMPTS[1], params, wants_embedding=True), collected
            )
            collected.wait()
            embeddings.append(collected.ends[0].embedding)

    assert embeddings[0] is not None
    assert embeddings[1] is not None
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_type", "splits_prompts"),
    [("lfm2", True), ("falcon_h1", True), ("qwen3_5_text", True), ("jamba", False)],
)
def test_prompts_are_split_where_a_pass_goes_on_from_the_states(
    model_type: str, splits_prompts: bool, dtype: torch.dtype
) -> None:
    checked = check_model(make_model(model_type).to(dtype))

    assert checked.splits_prompts is splits_prompts
    assert checked.bytes_per_sequence > 0


def test_models_that_keep_their_states_in_their_modules_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"to themselves|attention was called"):
        check_model(make_model("recurrent_gemma"))


def test_states_count_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("falcon_h1")
    checked = check_model(model)
    settings = Settings(threads_max_workers=3, cpu_kernel=False)
    states = 2 * 3 * checked.bytes_per_sequence

    for room, fits in ((-1, False), (16 * checked.bytes_per_token, True)):
        available = (states + room) * 4  # of which a quarter may be taken
        monkeypatch.setattr(
            "palma.engine.continuous.available_bytes", lambda _, found=available: found
        )
        with ThreadPoolExecutor(1) as executor:
            if not fits:
                with pytest.raises(UnsupportedModel, match="no memory"):
                    create_continuous_engine(settings, make_loaded(model), executor)
                continue
            engine = create_continuous_engine(settings, make_loaded(model), executor)
            assert engine.info.max_model_len == 16
            engine.close()


def test_a_pass_that_failed_can_be_repeated() -> None:
    model, found = make_model("falcon_h1"), []

    def step(pool: StatePool, token_ids: list[list[int]], *, fails: bool = False) -> torch.Tensor:
        with torch.inference_mode(), pool.lend([1, 0], is_first=False) as arguments:
            logits: torch.Tensor = model(torch.tensor(token_ids), **arguments).logits
            if fails:
                raise RuntimeError("late")
            return logits

    for fails in (False, True):
        pool = StatePool(model, num_slots=2)
        for slot in range(2):
            with torch.inference_mode(), pool.lend([slot], is_first=True) as arguments:
                model(torch.tensor([[slot + 1, 2, 3]]), **arguments)
        step(pool, [[5], [6]])
        if fails:
            with pytest.raises(RuntimeError, match="late"):
                step(pool, [[7], [8]], fails=True)
        found.append(step(pool, [[7], [8]]))

    assert torch.equal(found[0], found[1])
