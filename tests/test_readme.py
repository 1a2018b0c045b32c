"""The README holds: its commands are run, its answers compared, its settings are the code's.

`python -m tests.test_readme` writes its table of settings anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import httpx
import pytest
from pydantic.fields import FieldInfo

from palma.core.config import Settings
from palma.models.bundled import bundled_model_path
from tests.live_server import parse_event, url_when_ready

README = Path(__file__).parent.parent / "README.md"
ADDRESS = "127.0.0.1:8000"
START_PATIENCE_S = 50.0
TABLE_BEGIN = "<!-- settings: written by `python -m tests.test_readme` -->\n"
TABLE_END = "<!-- end of settings -->"
END_MARKER = "<|eot_id|>"
MAX_SEEDS = 60

HAS_PALMITA = (bundled_model_path() / "model.safetensors").is_file()
needs_palmita = pytest.mark.skipif(not HAS_PALMITA, reason="the bundled model is not there")
needs_curl = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="needs curl and bash"
)


def blocks(language: str) -> list[str]:
    """Return the README's fenced blocks of a language, in order."""
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def block_with(language: str, part: str) -> str:
    """Return the only block of a language that holds `part`."""
    (block,) = [block for block in blocks(language) if part in block]
    return block


def shown_stream() -> str:
    """Return the stream that the README shows; `...` stands for its middle."""
    return block_with("text", "data: ")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run `palma serve` as the README does, but on a free port; yield host:port when ready."""
    folder = tmp_path_factory.mktemp("readme")  # no .env here
    log = folder / "log"
    command = [sys.executable, "-m", "palma", "serve", "--port", "0", "--device", "cpu"]
    with log.open("w") as log_file:
        server = subprocess.Popen(command, cwd=folder, stderr=log_file)
    try:
        yield url_when_ready(server, log, START_PATIENCE_S).removeprefix("http://")
    finally:
        server.terminate()
        server.wait(timeout=20)


def run_bash(block: str, address: str) -> str:
    """Run a block against the server and return what it prints."""
    script = block.replace(ADDRESS, address).replace("curl ", "curl --silent --fail-with-body ")
    run = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, encoding="utf-8", timeout=30
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@needs_curl
@needs_palmita
def test_inference_with_curl_names_the_capital(address: str) -> None:
    answer = json.loads(run_bash(block_with("bash", "/v0.1.0/inference"), address))

    assert answer.keys() == {"data"}
    assert "San Juan" in answer["data"]
    assert END_MARKER not in answer["data"]


@needs_curl
@needs_palmita
def test_stream_with_curl_ends_with_the_marker(address: str) -> None:
    events = parsed_events(run_bash(block_with("bash", "/v0.1.0/stream"), address))

    assert len(events) > 2
    assert events[-1].endswith(END_MARKER)
    assert "San Juan" in "".join(events)


@needs_curl
@needs_palmita
def test_chat_completion_with_curl_names_the_capital(address: str) -> None:
    answer = json.loads(run_bash(block_with("bash", 'of Puerto Rico?"}],'), address))

    assert "San Juan" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "palmita"


@needs_curl
@needs_palmita
def test_the_tool_with_curl_is_called_as_shown(address: str) -> None:
    answer = json.loads(run_bash(block_with("bash", "get_current_weather"), address))
    shown = json.loads(block_with("json", "get_current_weather"))

    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    (shown_call,) = shown["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert {**choice["message"], **shown, "tool_calls": [call]} == choice["message"]
    assert {**call, "id": None} == {**shown_call, "id": None}
    assert json.loads(call["function"]["arguments"]) == {"location": "Boston"}


@needs_curl
@needs_palmita
def test_a_choice_with_curl_is_one_of_the_two(address: str) -> None:
    answer = json.loads(run_bash(block_with("bash", '"choice"'), address))

    assert answer["choices"][0]["message"]["content"] in ("Paris", "Lyon")


@needs_curl
@needs_palmita
def test_a_response_with_curl_follows_the_one_before(address: str) -> None:
    answer = json.loads(run_bash(block_with("bash", "previous_response_id"), address))

    assert "Paris" in answer["output"][0]["content"][0]["text"]


@needs_curl
@needs_palmita
def test_embeddings_with_curl_are_two_vectors(address: str) -> None:
    answer = json.loads(run_bash(block_with("bash", "/v1/embeddings"), address))

    first, second = (item["embedding"] for item in answer["data"])
    assert len(first) == len(second) > 100
    assert first != second


@needs_curl
@needs_palmita
def test_every_probe_of_the_readme_answers_ok(address: str) -> None:
    block = block_with("bash", "/readyz")
    bodies = run_bash(block, address).replace("}{", "}\n{").splitlines()

    assert len(bodies) == block.count("curl")
    assert {json.loads(body)["status"] for body in bodies} == {"ok"}


@needs_palmita
def test_openai_example_prints_what_the_readme_says(address: str) -> None:
    program = block_with("python", "from openai").replace(ADDRESS, address)

    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=45,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout in blocks("text"), "put this into the README"


@needs_palmita
def test_shown_answers_are_among_those_that_palmita_gives(address: str) -> None:
    body = json.loads(block_with("bash", "/v0.1.0/inference").split("-d '")[1].rsplit("'", 1)[0])
    whole = json.loads(block_with("json", '"data"'))["data"]
    begin, end = ("".join(parsed_events(part)) for part in shown_stream().split("\n...\n"))
    answers: set[str] = set()

    def are_found() -> bool:
        streamed = [
            a for a in answers if a.startswith(begin) and a.endswith(end[: -len(END_MARKER)])
        ]
        return whole in answers and streamed != []

    for seed in range(MAX_SEEDS):
        response = httpx.post(f"http://{address}/v0.1.0/inference", json={**body, "seed": seed})
        answers.add(response.json()["data"])
        if are_found():
            break

    assert are_found(), f"the README shows an answer that is none of {answers}"


def test_shown_stream_is_events_and_ends_with_the_marker() -> None:
    events = parsed_events(shown_stream())

    assert "San Juan" in "".join(events)
    assert events[-1].endswith(END_MARKER)


def test_powershell_example_asks_what_the_curl_example_asks() -> None:
    powershell = block_with("powershell", "/v0.1.0/inference")
    curl = block_with("bash", "/v0.1.0/inference")
    body = json.loads(curl.split("-d '")[1].rsplit("'", 1)[0])

    for message in body.pop("messages"):
        assert f'@{{ role = "{message["role"]}"; content = "{message["content"]}" }}' in powershell
    for name, value in body.items():
        assert f"{name} = {'$true' if value is True else value}\n" in powershell


def test_installing_and_testing_is_one_command() -> None:
    text = README.read_text(encoding="utf-8")

    assert '<!-- test command -->\n```bash\npip install ".[test]" && pytest\n```\n' in text
    assert "```bash\npip install . && palma serve\n```\n" in text


def test_links_and_pictures_lead_to_files_that_exist() -> None:
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', text)
    files = [a or b for a, b in targets if not (a or b).startswith("http")]

    assert files
    assert [name for name in files if not (README.parent / name).is_file()] == []


def test_settings_table_is_that_of_the_code() -> None:
    assert settings_table() in README.read_text(encoding="utf-8"), (
        "run `python -m tests.test_readme` to write the table anew"
    )


def parsed_events(text: str) -> list[Any]:
    """Return the data of the `data:` lines."""
    return [parse_event(line) for line in text.splitlines() if line.startswith("data:")]


def settings_table() -> str:
    """Return the table of all settings in Markdown."""
    rows = [_row(name, field) for name, field in Settings.model_fields.items()]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name.upper()}`", _default(field.default), f"{field.description}{_words(field)}")
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _words(field: FieldInfo) -> str:
    """Name the values of a setting that takes one of a few words."""
    if get_origin(field.annotation) is not Literal:
        return ""
    return f" One of {', '.join(f'`{word}`' for word in get_args(field.annotation))}."


def write_settings_table() -> None:
    """Put the table of the code into the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    after = rest.partition(TABLE_END)[2]
    text = f"{before}{TABLE_BEGIN}{settings_table()}{TABLE_END}{after}"
    README.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_settings_table()
