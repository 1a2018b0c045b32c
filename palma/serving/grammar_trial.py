"""A process of its own in which grammars are tried out before the server compiles them.

A schema or a regular expression can take a compiler minutes, gigabytes or its whole stack. Here
that costs this process, which is started again for the next one. It needs no tokenizer: it
follows each grammar byte by byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any

from palma.serving.endless_schemas import is_endless
from palma.serving.schemas import patterns_in

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

TRIAL_S = 1.0
"""Most processor time to compile a grammar and follow it; most take some milliseconds."""

PATIENCE_S = 30.0 if hasattr(signal, "setitimer") else TRIAL_S
"""Longest time to wait for that: a busy computer takes longer. Windows counts no processor time."""

MAX_TRIAL_BYTES = 2**30
STACK_BYTES = 2**20
"""Less than any thread of the server has: what fits here fits there."""

NUM_STEPS = 256
"""Of each of two walks through a grammar: one takes the least byte that is allowed, one any."""

PATTERNS_S = TRIAL_S / 2
"""Processor time after which no more of a schema's patterns are tried by themselves: hundreds of
harmless ones are no fault, and what a step costs in earnest is bounded as well."""

MAX_TRIED_PARTS = 300
MAX_FAULT_CHARS = 300
MAX_SHOWN_CHARS = 80

JSON_RULE = ": %json "
"""Comes before the schema in a line of Lark."""

TOO_COSTLY = (
    f"it is nested too deeply, or takes more than {TRIAL_S:g} s or {MAX_TRIAL_BYTES >> 30} GiB to "
    "work out; make it simpler"
)
ENDLESS = "nothing fulfils it that ends: what it requires requires itself"
SEVERAL_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
SHARED_KEYS = ("$defs", "definitions", "x-guidance")
ONE_SCHEMA = ("items", "additionalProperties", "prefixItems", "anyOf", "allOf", "oneOf")


def parser_limits(*, is_trial: bool) -> LLParserLimits:
    """Return what a grammar may cost while it is followed; the time of one step above all.

    What passes the trial has some room left in earnest, where tokens are longer than a byte.
    """
    from llguidance import LLParserLimits

    room = 1 if is_trial else 4
    return LLParserLimits(
        initial_lexer_fuel=room * 1_000_000,
        step_lexer_fuel=room * 200_000,
        step_max_items=20_000 if is_trial else 40_000,
        max_items_in_row=2000,
        max_lexer_states=room * 25_000,
        verbose_errors=False,
    )


class GrammarTrial:
    """The process, seen from the server. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def find_fault(self, grammar: str, *, limit_s: float = TRIAL_S) -> str | None:
        """Return what is wrong with a grammar, None if nothing is; blocks for about `limit_s`.

        The first call, and the first after a grammar that was too much, also starts the process.
        """
        with self._lock:
            if self._process is None:
                self._process = _start()
            answer = _ask(self._process, grammar, limit_s)
            if not answer.endswith(b"\n"):
                self._end()
                return TOO_COSTLY
        fault: str | None = json.loads(answer)["fault"]
        return fault

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _start() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603  # this very module
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what a compiler says when it dies may quote the request
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is for the server, which then ends this process
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is ready
    return process


def _ask(process: subprocess.Popen[bytes], grammar: str, limit_s: float) -> bytes:
    """Return the line that the process answers; less of it where the process has died."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(PATIENCE_S, process.kill)
    timer.start()
    try:
        task = {"grammar": grammar, "limit_s": limit_s}
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return b""
    finally:
        timer.cancel()
        timer.join()


def main() -> None:
    """Read grammars, a line of JSON each, and write what is wrong with each, until the end."""
    from llguidance import LLTokenizer

    _limit_memory()
    threading.stack_size(STACK_BYTES)
    tokenizer = LLTokenizer("byte")
    _write(sys.stdout, {"ready": True})
    with ThreadPoolExecutor(1) as thread:  # its stack is the small one
        for line in sys.stdin:
            task = json.loads(line)
            _limit_processor_time(task["limit_s"])
            fault = thread.submit(find_fault, tokenizer, task["grammar"]).result()
            _limit_processor_time(0)
            _write(sys.stdout, {"fault": fault})


def find_fault(tokenizer: LLTokenizer, grammar: str) -> str | None:
    """Compile a grammar and follow it for some steps; return what went wrong, in one line."""
    until = time.process_time() + PATTERNS_S
    error = _follow(tokenizer, grammar)
    if error is None:
        if any(is_endless(schema) for schema in _schemas_in(grammar)):
            return ENDLESS
        return _find_costly_pattern(tokenizer, grammar, until)
    schema = _schema_of(grammar)
    if not isinstance(schema, dict):
        return _in_words(error)
    named = re.search(r"while processing json-schema:///(#\S*)", error)
    place = named[1] if named else _find_place(tokenizer, schema, error)
    return f"{_in_words(error)} (at {place})"


def _follow(tokenizer: LLTokenizer, grammar: str) -> str | None:
    from llguidance import LLMatcher

    limits = parser_limits(is_trial=True)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    chance = random.Random(0)  # noqa: S311  # a walk, not a secret
    return _walk(matcher.deep_copy(), min) or _walk(matcher, chance.choice)


def _walk(matcher: LLMatcher, choose: Callable[[list[int]], int]) -> str | None:
    for _ in range(NUM_STEPS):
        if matcher.is_stopped():  # by an error too
            break
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [byte for byte in range(256) if mask >> byte & 1]
        if not allowed:
            break
        matcher.consume_token(choose(allowed))
    return matcher.get_error() or None


def _find_costly_pattern(tokenizer: LLTokenizer, grammar: str, until: float) -> str | None:
    """Follow the patterns of a grammar's schemas by themselves; return what went wrong with one.

    In a string that may end at any time, a walk through the whole grammar seldom gets far.
    """
    from llguidance import LLMatcher, regex_to_lark

    patterns = {pattern for schema in _schemas_in(grammar) for pattern in patterns_in(schema)}
    for pattern in sorted(patterns):
        if time.process_time() > until:
            break
        bare = pattern.removeprefix("^").removesuffix("$")
        alone = LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(bare, '')}/")
        if _compiles(tokenizer, alone) and (error := _follow(tokenizer, alone)):
            return f"the pattern {pattern[:MAX_SHOWN_CHARS]!r}: {_in_words(error)}"
    return None


def _compiles(tokenizer: LLTokenizer, grammar: str) -> bool:
    """Return whether a pattern means the same by itself: one with anchors inside it does not."""
    from llguidance import LLMatcher

    limits = parser_limits(is_trial=True)
    return not LLMatcher(tokenizer, grammar, log_level=0, limits=limits).is_error()


def _schemas_in(grammar: str) -> Iterator[Any]:
    """Yield the schemas of a grammar: all of it is one, or lines of Lark have one each."""
    yield _schema_of(grammar)
    for line in grammar.splitlines():
        _, is_there, text = line.partition(JSON_RULE)
        if is_there:
            with contextlib.suppress(ValueError):  # a client's own Lark, on several lines
                yield json.loads(text)


def _in_words(error: str) -> str:
    """Return a compiler's error without its drawings and its inner state."""
    if error.startswith("NoExtension"):
        return "nothing fulfils it"
    lines = error.splitlines()
    reason = next((line for line in lines if line.startswith("error: ")), lines[0])
    reason = re.sub(r"^at \d+\(\d+\): |; consider .*|; try avoiding .*", "", reason)
    return reason.removeprefix("error: ")[:MAX_FAULT_CHARS]


def _schema_of(grammar: str) -> Any:
    try:
        return json.loads(grammar)["grammars"][0].get("json_schema")
    except (ValueError, LookupError):
        return None


def _find_place(tokenizer: LLTokenizer, schema: dict[str, Any], error: str) -> str:
    """Return the innermost part of a schema that has this error, as a JSON pointer."""
    from llguidance import LLMatcher

    shared: dict[str, Any] = {key: schema[key] for key in SHARED_KEYS if key in schema}
    place, part, num_tried = "#", schema, 0
    while True:
        for name, inner in _inner_schemas(part):
            num_tried += 1
            if num_tried > MAX_TRIED_PARTS:
                return place
            grammar = LLMatcher.grammar_from_json_schema({**shared, **inner})
            if _follow(tokenizer, grammar) == error:
                place, part = f"{place}/{name}", inner
                break
        else:
            return place


def _inner_schemas(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for keyword in (*SEVERAL_SCHEMAS, *ONE_SCHEMA):
        value = schema.get(keyword)
        if keyword in ONE_SCHEMA and isinstance(value, dict):
            yield keyword, value
        elif isinstance(value, dict | list):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for name, inner in entries:
                if isinstance(inner, dict):
                    yield f"{keyword}/{name}", inner


def _limit_processor_time(seconds: float) -> None:
    """Have this process ended once it has computed for so long; 0 is for ever."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_TRIAL_BYTES, MAX_TRIAL_BYTES))


def _write(stream: IO[str], message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
