from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from palma.core.errors import ModelLoadError
from palma.models.download import fetch_snapshot
from palma.models.loader import load_model
from palma.models.spec import ModelSpec

from .conftest import ChangeConfig, MakeSettings
from .fake_hub import (
    BAD_TOKEN,
    COMMIT,
    FORBIDDEN,
    GATED,
    NO_REVISION,
    NOT_FOUND,
    OUT_OF_ORDER,
    RATE_LIMITED,
    FakeHub,
    Refusal,
)

SPEC = ModelSpec("org/tiny", "org/tiny", None)
SECRET = "hf_thisIsTheSecretOfTheOperator"


Fetch = Callable[..., Path]


@pytest.fixture
def fetch(hub: FakeHub, tmp_path: Path, make_settings: MakeSettings) -> Fetch:
    """`fetch_snapshot` from the fake Hub into a cache of this test's own."""

    def run(spec: ModelSpec = SPEC, **changes: Any) -> Path:
        return fetch_snapshot(
            spec, make_settings(**changes), endpoint=hub.endpoint, cache_dir=tmp_path / "cache"
        )

    return run


@pytest.fixture
def tiny_hub(hub: FakeHub, checkpoint: Path) -> FakeHub:
    """The fake Hub with `checkpoint` as org/tiny."""
    hub.folders["org/tiny"] = checkpoint
    return hub


@pytest.fixture
def go_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it to go offline, as HF_HUB_OFFLINE=1 does for a process that starts with it."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def log_with_secret(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[pytest.LogCaptureFixture]:
    """The whole log of a process whose token is SECRET."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with caplog.at_level(logging.DEBUG):
        yield caplog


def refusal(fetch: Fetch, **changes: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        fetch(**changes)
    message = caught.value.message
    assert message.startswith("org/tiny: ")
    assert "\n" not in message
    assert "/cache" not in message
    return message


@pytest.mark.usefixtures("tiny_hub")
def test_a_snapshot_of_one_commit_is_downloaded_and_loads(
    fetch: Fetch, make_settings: MakeSettings
) -> None:
    folder = fetch()

    assert folder.name == COMMIT
    assert load_model(ModelSpec("org/tiny", folder), make_settings()).vocab_size == 272


def test_only_what_palma_loads_is_downloaded(
    tiny_hub: FakeHub, checkpoint: Path, fetch: Fetch
) -> None:
    for name in (
        "consolidated.safetensors",
        "pytorch_model.bin",
        "model.py",
        "README.md",
        "a.onnx",
    ):
        (checkpoint / name).write_bytes(b"x")

    fetch()

    assert tiny_hub.downloaded == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_every_shard_of_the_index_is_downloaded(
    hub: FakeHub, sharded_checkpoint: Path, fetch: Fetch
) -> None:
    hub.folders["org/tiny"] = sharded_checkpoint

    folder = fetch()

    shards = {path.name for path in sharded_checkpoint.glob("model*")}
    assert len(shards) > 2
    assert {path.name for path in folder.glob("model*")} == shards


def test_a_shard_that_the_repository_lacks_is_named_before_any_weight_is_downloaded(
    hub: FakeHub, sharded_checkpoint: Path, fetch: Fetch
) -> None:
    shard = sorted(sharded_checkpoint.glob("model-*.safetensors"))[1]
    shard.unlink()
    hub.folders["org/tiny"] = sharded_checkpoint

    assert f"{shard.name} is missing" in refusal(fetch)

    assert hub.downloaded == {"config.json", "model.safetensors.index.json"}


def test_pickled_weights_are_refused_before_they_are_downloaded(
    hub: FakeHub, pickled_checkpoint: Path, fetch: Fetch
) -> None:
    hub.folders["org/tiny"] = pickled_checkpoint

    assert "ALLOW_PICKLE=true" in refusal(fetch)

    assert hub.downloaded == {"config.json"}


def test_pickled_weights_are_downloaded_where_the_operator_allows_it(
    hub: FakeHub, pickled_checkpoint: Path, fetch: Fetch
) -> None:
    hub.folders["org/tiny"] = pickled_checkpoint

    fetch(allow_pickle=True)

    assert "pytorch_model.bin" in hub.downloaded


def test_remote_code_is_refused_before_it_is_downloaded(
    tiny_hub: FakeHub,
    checkpoint: Path,
    change_config: ChangeConfig,
    fetch: Fetch,
) -> None:
    change_config(auto_map={"AutoModelForCausalLM": "evil.Evil"})
    (checkpoint / "evil.py").write_text("raise SystemExit")

    assert "TRUST_REMOTE_CODE=true" in refusal(fetch)

    assert tiny_hub.downloaded == {"config.json"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (GATED, ("gated", "accept its licence", "hf auth login", "HF_TOKEN")),
        (BAD_TOKEN, ("refuses the token (401)", "hf auth login", "HF_TOKEN")),
        (NOT_FOUND, ("no such model", "private")),
        (NO_REVISION, ("no revision 'v9'", "MODEL_REVISION")),
        (FORBIDDEN, ("may not read this model (403)", "HF_TOKEN")),
        (RATE_LIMITED, ("429", "try again in 7 s")),
        (Refusal(429), ("429", "try again later")),
        (OUT_OF_ORDER, ("status 503",)),
    ],
)
def test_each_refusal_of_the_hub_comes_with_its_remedy_and_without_the_token(
    answer: Refusal,
    words: tuple[str, ...],
    tiny_hub: FakeHub,
    fetch: Fetch,
    log_with_secret: pytest.LogCaptureFixture,
) -> None:
    tiny_hub.refusals["org/tiny"] = answer
    started = time.monotonic()

    with pytest.raises(ModelLoadError) as caught:
        fetch(ModelSpec("org/tiny", "org/tiny", "v9"))

    assert [word for word in words if word not in caught.value.message] == []
    assert f"Bearer {SECRET}" in tiny_hub.tokens
    assert SECRET not in caught.value.message + log_with_secret.text
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("suffix", ["\x0b-", "é"])
def test_a_malformed_token_is_not_printed_either(
    suffix: str,
    tiny_hub: FakeHub,
    fetch: Fetch,
    log_with_secret: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET + suffix)

    message = refusal(fetch)

    assert SECRET not in message + log_with_secret.text
    assert tiny_hub.paths == []


def test_a_hub_that_cannot_be_reached_is_told_apart(hub: FakeHub, fetch: Fetch) -> None:
    hub.endpoint = "http://127.0.0.1:9"  # the port of `discard`: nobody listens

    assert "cannot be reached" in refusal(fetch)


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"{}", b"[]", b"7"])
def test_junk_from_a_proxy_is_told_apart(body: bytes, hub: FakeHub, fetch: Fetch) -> None:
    hub.refusals["org/tiny"] = Refusal(200, body=body)

    assert "cannot be reached" in refusal(fetch)


@pytest.mark.parametrize("answer", [BAD_TOKEN, NOT_FOUND, RATE_LIMITED, OUT_OF_ORDER])
def test_a_cached_model_is_used_when_the_hub_refuses(
    answer: Refusal,
    tiny_hub: FakeHub,
    fetch: Fetch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = fetch()
    tiny_hub.refusals["org/tiny"] = answer

    second = fetch()

    assert second == first
    assert "Using the cached org/tiny" in caplog.text


def test_a_cached_model_is_not_downloaded_twice(tiny_hub: FakeHub, fetch: Fetch) -> None:
    fetch()
    tiny_hub.paths.clear()

    fetch()

    assert tiny_hub.downloaded == set()


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_cached_model_starts_offline(
    revision: str | None,
    tiny_hub: FakeHub,
    fetch: Fetch,
    go_offline: Callable[[], None],
) -> None:
    spec = ModelSpec("org/tiny", "org/tiny", revision)
    first = fetch(spec)
    go_offline()

    assert fetch(spec) == first


def test_an_unknown_model_offline_is_refused_at_once(
    hub: FakeHub, fetch: Fetch, go_offline: Callable[[], None]
) -> None:
    go_offline()
    started = time.monotonic()

    message = refusal(fetch)

    assert "model_not_cached" in message
    assert "HF_HUB_OFFLINE" in message
    assert time.monotonic() - started < 5
    assert hub.paths == []


def test_the_environment_variable_itself_makes_a_process_answer_at_once(
    tmp_path: Path,
) -> None:
    code = (
        "import time; started = time.monotonic()\n"
        "from palma.core.config import Settings; from palma.core.errors import ModelLoadError\n"
        "from palma.models.download import fetch_snapshot\n"
        "from palma.models.spec import ModelSpec\n"
        "try: fetch_snapshot(ModelSpec('a/b', 'a/b'), Settings())\n"
        "except ModelLoadError as error: print(error, time.monotonic() - started, sep='|')\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}

    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    message, seconds = finished.stdout.split("|")
    assert "model_not_cached" in message
    assert float(seconds) < 5


def test_half_a_download_is_not_started_offline(
    hub: FakeHub,
    sharded_checkpoint: Path,
    fetch: Fetch,
    go_offline: Callable[[], None],
) -> None:
    hub.folders["org/tiny"] = sharded_checkpoint
    folder = fetch()
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    go_offline()

    assert f"{shard.name} is missing" in refusal(fetch)


def test_a_model_larger_than_the_disk_is_refused_before_it_is_downloaded(
    tiny_hub: FakeHub, fetch: Fetch
) -> None:
    tiny_hub.claimed_sizes["model.safetensors"] = 10**18

    message = refusal(fetch)

    assert "1000000000.00 GB are to be downloaded" in message
    assert "HF_HOME" in message
    assert tiny_hub.downloaded == {"config.json"}
