"""Several requests enter together or not at all."""

from __future__ import annotations

from tests.live_server import running_server
from tests.spy_engine import Spy

PATH = "/v1/completions"
FOREVER = {"prompt": "slowly count to 9000", "max_tokens": 9000, "stream": True}


def test_requests_enter_together_or_none_does() -> None:
    spy = Spy()
    with (
        running_server(load=spy.load, threads_max_workers=1, max_waiting_requests=3) as server,
        server.client.stream("POST", PATH, json={**FOREVER, "n": 2}) as busy,
    ):
        assert busy.status_code == 200
        refused = server.post(PATH, {"prompt": ["say a", "say b", "say c"]})

        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert spy.find("say") == []
        body = {"prompt": ["say a", "say b"], "stream": True}
        with server.client.stream("POST", PATH, json=body) as taken:
            assert taken.status_code == 200


def test_more_than_ever_fit_are_refused_for_good() -> None:
    with running_server(threads_max_workers=1, max_waiting_requests=1) as server:
        refused = server.post(PATH, {"prompt": ["say a"] * 3})

        assert refused.status_code == 400
        assert "3 answers" in refused.json()["error"]["message"]
        assert "at most 2 at a time" in refused.json()["error"]["message"]
        assert server.post(PATH, {"prompt": ["say a"] * 2}).status_code == 200


def test_an_unknown_model_among_them_takes_none_in() -> None:
    spy = Spy()
    with running_server(load=spy.load) as server:
        refused = server.post(PATH, {"prompt": ["say a", "say b"], "model": "gpt-9"})

        assert refused.status_code == 404
        assert spy.submitted == []
