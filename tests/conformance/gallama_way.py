"""Ways of asking: gallama's manager routes, on servers whose models may be changed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from palma.models.bundled import bundled_model_path
from tests.conformance.subject import Demonstration, Heard, Subject, Way
from tests.live_server import STREAM_PATH, LiveServer, new_client, user, wait_until

SETTINGS = {"engine": "mock", "allow_model_management": True}

REVISION = "v3"


def read(response: httpx.Response) -> Heard:
    """Read what happens now."""
    return Heard((response.json()["message"],), raw=response.json())


def added(subject: Subject, **fields: Any) -> str:
    """Add a model and return how that ended."""
    task_id = subject.hear(fields).raw["task_id"]

    def state() -> str:
        return str(subject.server.get(f"/task_status/{task_id}").json()["status"])

    wait_until(lambda: state().startswith(("completed", "failed")), "the load ends")
    return state()


def card(server: LiveServer, name: str) -> Any:
    """Return what the server says about a model."""
    return server.get(f"/v1/models/{name}").json()


def adds_it(subject: Subject, name: str) -> None:
    """A model of this name is there."""
    assert added(subject, **{name: "org/new"}) == "completed"
    assert card(subject.server, "org/new")["id"] == "org/new"


def names_it(subject: Subject, name: str) -> None:
    """Requests call the model so, and answers too; where it came from is another name of it."""
    assert added(subject, model_id="org/first", **{name: "second"}) == "completed"
    assert card(subject.server, "second")["id"] == "second"
    assert card(subject.server, "org/first")["id"] == "second"


def shrinks_the_window(subject: Subject, name: str) -> None:
    """So many tokens fit, and no more."""
    added(subject, model_id="org/small", **{name: 64})

    assert card(subject.server, "org/small")["max_model_len"] == 64


def shrinks_the_cache(subject: Subject, name: str) -> None:
    """The continuous engine's window is no larger than its cache."""
    keys = {"model_id": "palmita", "model_name": "cached", "backend": "continuous", name: 256}

    assert added(subject, **keys) == "completed"
    assert card(subject.server, "cached")["max_model_len"] == 256


def chooses_the_engine(subject: Subject, name: str) -> None:
    """Each word, another engine."""
    for word in ("mock", "threads"):
        added(subject, model_id="palmita", model_name=f"by-{word}", **{name: word})
        assert card(subject.server, f"by-{word}")["engine"] == word


def chooses_the_revision(subject: Subject, name: str) -> None:
    """Of a model on this machine, which has one revision."""
    keys = {"model_id": "org/kept", "backend": "threads"}
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        folder = Path(cache) / "models--org--kept"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / REVISION).write_text("a" * 40)
        (folder / "snapshots").mkdir()
        (folder / "snapshots" / ("a" * 40)).symlink_to(bundled_model_path())
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)

        assert added(subject, **keys, **{name: REVISION}) == "completed"
        assert added(subject, **keys, **{name: "v4"}).startswith("failed")


def removes_it(subject: Subject, name: str) -> None:
    """The model is gone, and another was never there."""
    subject.server.post("/add_model", {"model_id": "old"})

    subject.hear({name: "old"})

    wait_until(lambda: "old" not in subject.server.get("/list_models").json(), "it is unloaded")
    assert subject.send({name: "old"}).status_code == 404


def ends_its_streams(subject: Subject, name: str) -> None:
    """With an error; else they go on to their end."""
    for is_forced in (True, False):
        subject.server.post("/add_model", {"model_id": "busy"})
        wait_until(lambda: card(subject.server, "busy").get("id") == "busy", "it is loaded")
        body = {"messages": user("slowly count to 20"), "model": "busy"}
        with (
            new_client(subject.server.url) as client,
            client.stream("POST", STREAM_PATH, json=body) as response,
        ):
            lines = (line for line in response.iter_lines() if line.startswith("data:"))
            next(lines)
            subject.hear({"model_id": "busy", name: is_forced})
            last = list(lines)[-1]
        assert ("error" in last) == is_forced
        wait_until(
            lambda: "busy" not in subject.server.get("/list_models").json(), "it is unloaded"
        )


def begins_a_download(subject: Subject, name: str) -> None:
    """Of this model; without a network it fails, and says of what."""
    subject.hear({name: "org/far"})

    assert "org/far" in subject.server.get("/status").json()["downloads"]


ADDED: dict[str, Demonstration] = {
    "model_id": adds_it,
    "model_name": names_it,
    "revision": chooses_the_revision,
    "max_seq_len": shrinks_the_window,
    "cache_size": shrinks_the_cache,
    "backend": chooses_the_engine,
}

WAYS = {
    "/add_model": Way({"model_id": "another"}, read, ADDED, settings=SETTINGS),
    "/remove_model": Way(
        {"model_id": "mock"},
        read,
        {"model_id": removes_it, "force": ends_its_streams},
        settings=SETTINGS,
    ),
    "/download_model": Way(
        {"model_name": "org/name"}, read, {"model_name": begins_a_download}, settings=SETTINGS
    ),
}
