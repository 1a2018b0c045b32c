"""`.env.example` names every setting, and changes none of them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from palma.core.config import Settings

ENV_EXAMPLE = Path(__file__).parent.parent / ".env.example"
COMMENTED_OUT = re.compile(r"^# (?=[A-Z][A-Z_]+=)", re.MULTILINE)

FOUNDING_NAMES = [
    "DEBUG",
    "THREADS_MAX_WORKERS",
    "MODEL_ID",
    "CONVERT_TOKENS_TO_IDS",
    "TORCH_DTYPE",
    "DEFAULT_DO_SAMPLE",
    "DEFAULT_MAX_NEW_TOKENS",
    "DEFAULT_TEMPERATURE",
    "DEFAULT_TOP_P",
    "DEFAULT_ACCESS_CONTROL_ALLOW_ORIGIN",
    "DEFAULT_ACCESS_CONTROL_MAX_AGE",
    "PYTORCH_ENABLE_MPS_FALLBACK",
]


def as_it_is() -> str:
    return ENV_EXAMPLE.read_text(encoding="utf-8")


def with_everything_switched_on() -> str:
    return COMMENTED_OUT.sub("", as_it_is())


def values_of(text: str) -> dict[str, str | None]:
    return dotenv_values(stream=io.StringIO(text))


@pytest.mark.parametrize(
    "text", [as_it_is(), with_everything_switched_on()], ids=["as it is", "everything switched on"]
)
def test_its_values_are_the_defaults(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESPONSES_DATABASE_URL")  # the tests' own
    for name, value in values_of(text).items():
        assert value is not None, f"{name} has no value"
        monkeypatch.setenv(name, value)

    assert Settings() == Settings.model_construct()


def test_founding_names_are_switched_on_in_their_order() -> None:
    assert list(values_of(as_it_is())) == FOUNDING_NAMES


def test_every_setting_is_there_and_no_other() -> None:
    others = {"PYTORCH_ENABLE_MPS_FALLBACK", "HF_TOKEN"}

    names = values_of(with_everything_switched_on()).keys()

    assert names - others == {name.upper() for name in Settings.model_fields}


def test_every_group_of_keys_is_introduced_by_a_sentence() -> None:
    for group in as_it_is().strip().split("\n\n"):
        first_line = group.splitlines()[0]

        assert first_line.startswith("# "), group
        assert first_line.endswith("."), group
        assert not COMMENTED_OUT.match(first_line), group
