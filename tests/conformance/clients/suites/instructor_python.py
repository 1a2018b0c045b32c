"""Instructor: answers as Pydantic models, bound by the server to their JSON schemas.

Its schemas allow fields that the models do not name; the server closes them.
"""

from __future__ import annotations

from typing import Any, Literal

import instructor
import openai
import pytest
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel, Field

from tests.conformance.clients.suites.subject import API_KEY, MESSAGES, MODEL, URL


class Place(BaseModel):
    """Where something is."""

    continent: Literal["Asia", "Europe", "South America"]
    is_island: bool


class City(BaseModel):
    """A city; one field is of another model, one may be null."""

    name: Literal["Lima", "Paris", "Tokyo"]
    districts: int = Field(ge=1, le=99)
    place: Place
    tags: list[Literal["large", "old"]] = Field(min_length=1, max_length=2)
    river: Literal["Rímac", "Seine"] | None


def new_client(mode: instructor.Mode, api_key: str = API_KEY) -> Any:
    connection = openai.OpenAI(base_url=f"{URL}/v1", api_key=api_key, max_retries=0)
    return instructor.from_openai(connection, mode=mode)


MODES = [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA]
ENDS = {instructor.Mode.TOOLS: "tool_calls", instructor.Mode.JSON_SCHEMA: "stop"}


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: mode.name)
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def client(mode: Any) -> Any:
    return new_client(mode)


def ask(client: Any, **kwargs: Any) -> Any:
    fields = {"model": MODEL, "messages": MESSAGES, "response_model": City, "max_retries": 0}
    return client.chat.completions.create(**{**fields, "temperature": 0, **kwargs})


def test_an_answer_is_an_instance_of_the_model(client: Any) -> None:
    assert isinstance(ask(client), City)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_one_whatever_is_drawn(client: Any, seed: int) -> None:
    assert isinstance(ask(client, temperature=1.5, seed=seed), City)


def test_usage_comes_with_it(client: Any, mode: Any) -> None:
    city, completion = client.chat.completions.create_with_completion(
        model=MODEL, messages=MESSAGES, response_model=City, max_retries=0
    )

    assert isinstance(city, City)
    assert completion.usage.completion_tokens > 1
    assert completion.choices[0].finish_reason in ("stop", ENDS[mode])


def test_a_stream_grows_into_an_instance(client: Any) -> None:
    parts = list(
        client.chat.completions.create_partial(
            model=MODEL, messages=MESSAGES, response_model=City, temperature=0, max_retries=0
        )
    )

    assert len(parts) > 1
    assert City.model_validate(parts[-1].model_dump())


def test_a_model_that_is_cut_is_said_to_be_incomplete(client: Any) -> None:
    with pytest.raises(IncompleteOutputException):
        ask(client, max_tokens=4)


def test_an_unknown_model_is_not_found(client: Any) -> None:
    with pytest.raises(InstructorRetryException, match="gpt-9"):
        ask(client, model="gpt-9")


def test_a_wrong_key_is_refused(mode: Any) -> None:
    with pytest.raises(InstructorRetryException, match="API key"):
        ask(new_client(mode, api_key="wrong"))
