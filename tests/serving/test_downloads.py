"""Downloads in the background, with a Hub that a test lets answer."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from palma.core.config import Settings
from palma.core.errors import ModelLoadError, PalmaError
from palma.models.spec import ModelSpec
from palma.serving.downloads import Downloads

A, B = ModelSpec("org/a", "org/a"), ModelSpec("org/b", "org/b")


class Hub:
    """Gives files once it may; `asked` says of which models."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.errors: dict[str, Exception] = {}

    def fetch(self, spec: ModelSpec, settings: Settings) -> Path:
        self.asked.append(spec.model_id)
        assert self.may_answer.wait(20)
        if spec.model_id in self.errors:
            raise self.errors[spec.model_id]
        return Path("anywhere")


def test_all_who_ask_for_a_model_wait_for_one_download() -> None:
    """Fault 108."""

    async def test() -> None:
        hub = Hub()
        downloads = Downloads(Settings(), hub.fetch)
        first, other, second = downloads.start(A), downloads.start(B), downloads.start(A)
        assert first is second
        assert {download.state for download in downloads.all} == {"downloading"}

        hub.may_answer.set()
        async with asyncio.timeout(20):
            await asyncio.gather(first.wait(), second.wait(), other.wait())

        assert sorted(hub.asked) == ["org/a", "org/b"]
        assert [download.state for download in downloads.all] == ["done", "done"]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModelLoadError("the model is gated"), "the model is gated"),
        (RuntimeError("a bug at /secret/path"), "the log says why"),
    ],
)
def test_a_failed_download_says_why_and_may_be_tried_again(error: Exception, message: str) -> None:
    async def test() -> None:
        hub = Hub()
        hub.may_answer.set()
        hub.errors["org/a"] = error
        downloads = Downloads(Settings(), hub.fetch)
        with pytest.raises(PalmaError, match=message) as raised:
            await downloads.start(A).wait()
        assert "secret" not in raised.value.message
        assert [download.state for download in downloads.all] == ["failed"]

        hub.errors.clear()
        await downloads.start(A).wait()

        assert [download.state for download in downloads.all] == ["done"]

    asyncio.run(test())


def test_who_stops_waiting_does_not_stop_the_download() -> None:
    async def test() -> None:
        hub = Hub()
        download = Downloads(Settings(), hub.fetch).start(A)
        waiting = asyncio.create_task(download.wait())
        await asyncio.sleep(0)
        waiting.cancel()

        hub.may_answer.set()
        async with asyncio.timeout(20):
            await download.wait()

        assert waiting.cancelled()
        assert download.state == "done"

    asyncio.run(test())


def test_what_lies_in_a_folder_is_there_already(tmp_path: Path) -> None:
    async def test() -> None:
        hub = Hub()
        download = Downloads(Settings(), hub.fetch).start(ModelSpec("mine", tmp_path))

        await download.wait()

        assert hub.asked == []

    asyncio.run(test())
