"""Demonstrations of fields about thinking, for models that a request can tell to think or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.conformance.subject import NOTHING, Demonstration, Subject
from tests.live_server import running_server
from tests.thinking_models import thinking_mock


def matters_to_thinkers(*values: Any, beside: Mapping[str, Any] = NOTHING) -> Demonstration:
    """Return the demonstration of a field that a model with a switch for thinking is shown.

    Args:
        values: The field's: each makes another prompt, or another count of its tokens.
        beside: Other fields of every request.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        spy = thinking_mock()
        with running_server(load=spy.load, engine="threads") as server:
            thinker = replace(subject, server=server)
            texts = [thinker.hear(beside, {name: value}).text for value in values]

        seen = [spied.prompt for spied in spy.submitted] or texts
        assert len(set(seen)) == len(values)

    return demonstrate
