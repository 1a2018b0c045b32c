"""One route, and everything that documents it: what it takes, what it answers, in which shape.

The routes, `/openapi.json` and `/v1/capabilities` are all made from these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A method on a path.

    Attributes:
        method: In capitals; HEAD comes with GET.
        path: As Starlette writes it, `{parameters}` included.
        handler: Answers it.
        summary: One line for the documentation.
        body: The model of its JSON body.
        answer: The type of a 200's JSON: a TypedDict or a model; None where it is not JSON, Never
            where there is no 200.
        event: The type of one event's data, where it can stream.
        last_event: The data of the last event of a whole stream, where that is no JSON.
        media_type: Of the stream, or of an answer that is not JSON.
        query: The model of its query parameters.
        other_answers: More statuses with the types of their JSON.
        is_public: Whether it needs no key.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    answer: Any = None
    event: Any = None
    last_event: str | None = None
    media_type: str = "text/event-stream"
    query: type[BaseModel] | None = None
    other_answers: tuple[tuple[int, Any], ...] = ()
    is_public: bool = False

    @property
    def route(self) -> Route:
        """The route that Starlette serves."""
        return Route(self.path, self.handler, methods=[self.method])


@dataclass(frozen=True, slots=True)
class Dialect:
    """One foreign language: its operations and its envelope.

    Attributes:
        name: For people; also the tag in the documentation.
        operations: In the order in which their paths are matched.
        error: The type of its error bodies.
    """

    name: str
    operations: tuple[Operation, ...]
    error: Any

    @property
    def routes(self) -> list[Route]:
        """The routes that Starlette serves."""
        return [operation.route for operation in self.operations]
