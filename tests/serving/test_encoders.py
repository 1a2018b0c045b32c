"""An encoder from its start to its end, and who computes with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from palma.core.config import Settings
from palma.core.errors import ModelLoadError, ModelLoading, Unavailable
from palma.engine.encoders import Encoder, Encoding
from palma.engine.mock_encoders import MockEncoder
from palma.models.spec import ModelSpec
from palma.serving.encoder_turns import EncoderTurns
from palma.serving.encoders import EncoderPlan, EncoderSlot, plan_encoders
from palma.serving.job import Job

PATIENCE_S = 20


def make_slot(load: Callable[[], Encoder]) -> EncoderSlot:
    (plan,) = plan_encoders(Settings(embedding_model_id="org/embedder"))

    def load_it(wanted: EncoderPlan, _: Settings) -> Encoder:
        assert wanted.spec == ModelSpec("org/embedder", "org/embedder")
        return load()

    return EncoderSlot(plan, Settings(), load_it)


def test_it_says_that_it_is_being_loaded_until_it_is_ready() -> None:
    may_end = threading.Event()

    def load() -> Encoder:
        assert may_end.wait(PATIENCE_S)
        return MockEncoder("embedder")

    async def run() -> None:
        slot = make_slot(load)
        loading = asyncio.create_task(slot.load())
        await asyncio.sleep(0)
        with pytest.raises(ModelLoading) as caught:
            slot.get()
        assert caught.value.retry_after_s is not None
        assert slot.card is None
        may_end.set()
        await loading
        assert slot.get().info.kind == "embedder"
        assert slot.card is not None
        assert slot.card.model_id == "org/embedder"
        slot.close()
        with pytest.raises(Unavailable, match="not available"):
            slot.get()

    asyncio.run(run())


@pytest.mark.parametrize("error", [ModelLoadError("no weights"), RuntimeError("a bug")])
def test_a_failure_is_logged_and_never_raised(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Encoder:
        raise error

    async def run() -> None:
        slot = make_slot(load)
        await slot.load()
        assert slot.state == "failed"
        with pytest.raises(Unavailable, match=r"org/embedder is not available"):
            slot.get()

    asyncio.run(run())

    assert "org/embedder" in caplog.text
    assert str(error) in caplog.text


def test_a_cancelled_turn_ends_with_its_batch_and_two_never_overlap() -> None:
    busy: list[int] = []
    began, may_end = threading.Event(), threading.Event()

    class SlowEncoder(MockEncoder):
        def encode(self, *texts: str) -> Encoding:
            if texts == ("slow",):
                began.set()
                assert may_end.wait(PATIENCE_S)
            return super().encode(*texts)

    async def run() -> None:
        with ThreadPoolExecutor(4) as executor:
            turns = EncoderTurns(executor, busy.append)
            encoder: Encoder = SlowEncoder("embedder")
            slow = asyncio.create_task(turns.encode(encoder, [("slow",)], param="input"))
            await asyncio.to_thread(began.wait, PATIENCE_S)
            quick = asyncio.create_task(turns.encode(encoder, [("quick",)], param="input"))
            slow.cancel()
            done, _ = await asyncio.wait([slow, quick], timeout=0.05)
            assert not done
            may_end.set()
            assert len(await quick) == 1
            assert slow.cancelled()

    asyncio.run(run())

    assert busy == [1, -1, 1, -1]


def test_a_job_that_is_cancelled_before_it_begins_is_over() -> None:
    async def run() -> None:
        job: Job[int] = Job("id")
        job.cancel()
        job.succeed(1, "embedded")
        with pytest.raises(Exception, match="was cancelled"):
            await job.result()
        assert job.outcome == "cancelled"

    asyncio.run(run())
