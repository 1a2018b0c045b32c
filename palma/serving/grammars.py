"""Compiled grammars: made off the event loop, kept by their text, followed token by token."""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections import OrderedDict
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from palma.core.errors import InvalidRequest, QueueFull, UnsupportedParameter
from palma.core.types import Constraint, SamplingParams
from palma.engine.base import Engine
from palma.serving.grammar_trial import GrammarTrial, parser_limits
from palma.serving.mask_batch import MaskBatch, NextMask
from palma.serving.structured import (
    binds_beginning_only,
    check_constraints,
    names,
    schema_grammar,
    to_grammar,
)
from palma.serving.tools.grammar import one_tool_each
from palma.serving.tools.spelling import PLAIN, Spelling

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_KEPT = 64
MAX_KEPT_CHARS = 2**20
"""Of all grammars' texts: compiled, a text takes some hundred times its size."""

MAX_PENDING = 16
"""Grammars to be compiled. One after the other is, and each may take a second."""

BLAME_S = 0.5
"""Time to find out which of several tools is at fault; each alone costs less than all together."""


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """A grammar over a model's vocabulary, ready to be followed.

    Attributes:
        matcher: At its beginning; it is copied and never moved.
        first: The mask of the first token.
        is_prefix: Whether anything may follow what fulfils it.
    """

    matcher: LLMatcher
    first: bytes
    is_prefix: bool


class GrammarMask:
    """The `TokenMask` of one sequence.

    Args:
        grammar: What is followed.
        batch: Computes it together with others of the same model.
    """

    def __init__(self, grammar: CompiledGrammar, batch: MaskBatch) -> None:
        self.is_complete = False
        self.is_free = False
        self._matcher = grammar.matcher.deep_copy()
        self._is_prefix = grammar.is_prefix
        self._batch = batch
        self._allowed: bytes | None = grammar.first
        self._next: NextMask | None = None

    def allowed(self) -> bytes:
        """Return the mask of the next token; see `TokenMask.allowed`."""
        if self._next is not None:
            self._allowed, self._next = self._next.take(), None
        if self._matcher.is_error() or self._allowed is None:
            raise self._lost()
        return self._allowed

    def commit(self, token_id: int) -> None:
        """Take the next token; see `TokenMask.commit`."""
        if self.is_free:
            return
        if self._next is not None:
            self._next.drop()
        self._allowed = self._next = None
        if not self._matcher.consume_token(token_id):
            raise self._lost()
        if self._is_prefix and self._matcher.is_accepting():
            self.is_free = True
        elif self._matcher.is_stopped():
            self.is_complete = True
        else:
            self._next = self._batch.ask(self._matcher)

    def prepare(self) -> None:
        """Begin with the next masks; see `TokenMask.prepare`."""
        if self._next is not None:
            self._batch.begin()

    def _lost(self) -> InvalidRequest:
        reason = self._matcher.get_error().partition("\n")[0]
        return InvalidRequest(f"the form of the answer became too complex to follow: {reason}")


class GrammarCompiler:
    """Turns what requests ask for into masks. Lives on the event loop, computes elsewhere.

    Args:
        executor: For masks that take long. Grammars are compiled on threads of the event loop's
            own, so that they keep no prompt waiting.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._trial = GrammarTrial()
        self._turn = asyncio.Lock()
        self._num_pending = 0
        self._by_engine: weakref.WeakKeyDictionary[Engine, _EngineGrammars]
        self._by_engine = weakref.WeakKeyDictionary()

    async def mask(
        self, constraints: tuple[Constraint, ...], params: SamplingParams, engine: Engine
    ) -> GrammarMask | None:
        """Return the mask of a new sequence; None without constraints.

        Raises:
            InvalidRequest: They contradict, are wrong, too costly, or nothing fulfils them.
            UnsupportedParameter: This model cannot follow any.
            QueueFull: Too many others' are being compiled.
        """
        if not constraints or _is_unheld(constraints, engine):
            return None
        check_constraints(constraints, params)
        grammars = self._by_engine.setdefault(engine, _EngineGrammars())
        compiled = grammars.find(constraints)
        if compiled is None:
            task = self._compilation(constraints, engine, grammars)
            try:
                compiled = await asyncio.shield(task)
            except InvalidRequest as error:  # an error belongs to one request
                raise type(error)(error.message, param=error.param) from None
        return GrammarMask(compiled, grammars.batch(engine, self._executor))

    def close(self) -> None:
        """End the process in which grammars are tried."""
        self._trial.close()

    def _compilation(
        self, constraints: tuple[Constraint, ...], engine: Engine, grammars: _EngineGrammars
    ) -> asyncio.Task[CompiledGrammar]:
        """Return the task that compiles a grammar; the one that does so already, if there is."""
        if constraints in grammars.pending:
            return grammars.pending[constraints]
        if self._num_pending >= MAX_PENDING:
            raise QueueFull(f"{MAX_PENDING} grammars are being compiled", retry_after_s=1)
        self._num_pending += 1
        task = asyncio.create_task(self._compile(constraints, engine, grammars))
        grammars.pending[constraints] = task
        return task

    async def _compile(
        self, constraints: tuple[Constraint, ...], engine: Engine, grammars: _EngineGrammars
    ) -> CompiledGrammar:
        try:
            async with self._turn:
                compiled = await asyncio.to_thread(
                    grammars.compile, constraints, engine, self._trial
                )
        finally:
            self._num_pending -= 1
            del grammars.pending[constraints]
        grammars.keep(constraints, compiled)
        return compiled


class _EngineGrammars:
    """One model's vocabulary as llguidance wants it, and the grammars compiled over it."""

    def __init__(self) -> None:
        self._tokenizer: LLTokenizer | None = None
        self._spelling = PLAIN
        self.pending: dict[tuple[Constraint, ...], asyncio.Task[CompiledGrammar]] = {}
        self._batch: MaskBatch | None = None
        self._kept: OrderedDict[tuple[Constraint, ...], CompiledGrammar] = OrderedDict()

    def batch(self, engine: Engine, executor: Executor) -> MaskBatch:
        """Return what computes this model's masks, once a grammar was compiled."""
        assert self._tokenizer is not None
        if self._batch is None:
            is_on_cpu = engine.info.device == "cpu"
            self._batch = MaskBatch(executor, self._tokenizer.vocab_size, is_on_cpu=is_on_cpu)
        return self._batch

    def find(self, constraints: tuple[Constraint, ...]) -> CompiledGrammar | None:
        if constraints in self._kept:
            self._kept.move_to_end(constraints)
        return self._kept.get(constraints)

    def keep(self, constraints: tuple[Constraint, ...], compiled: CompiledGrammar) -> None:
        self._kept[constraints] = compiled
        while len(self._kept) > MAX_KEPT or _num_chars(self._kept) > MAX_KEPT_CHARS:
            self._kept.popitem(last=False)

    def compile(
        self, constraints: tuple[Constraint, ...], engine: Engine, trial: GrammarTrial
    ) -> CompiledGrammar:
        """Try a grammar out, then compile it; blocks for up to two seconds."""
        from llguidance import LLMatcher

        if self._tokenizer is None:
            self._tokenizer = _make_tokenizer(engine, names(constraints))
            self._spelling = _spelling(engine, self._tokenizer)
        fault = trial.find_fault(to_grammar(constraints))
        if fault is None:
            limits = parser_limits(is_trial=False)
            grammar = to_grammar(constraints, self._spelling)
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
            first = matcher.compute_bitmask()
            if not matcher.is_error():
                return CompiledGrammar(matcher, first, binds_beginning_only(constraints))
            reason = matcher.get_error().partition("\n")[0]
            fault = f"it cannot be followed over this model's vocabulary: {reason}"
        raise _refusal(constraints, fault, trial)


def _refusal(
    constraints: tuple[Constraint, ...], fault: str, trial: GrammarTrial
) -> InvalidRequest:
    """Return the error that says what is at fault: of several tools, which one."""
    tools = [constraint for constraint in constraints if constraint.kind == "tools"]
    until = time.monotonic() + BLAME_S
    for name, schema, alone in one_tool_each(tools[0]) if tools else ():
        found = _tool_fault(schema, alone, trial)
        if found is not None:
            message = f"{alone.param}: the parameters of {name!r}: {found}"
            return InvalidRequest(message, param=alone.param)
        if time.monotonic() > until:
            break
    return InvalidRequest(f"{names(constraints)}: {fault}", param=constraints[0].param)


def _tool_fault(schema: Any, alone: Constraint, trial: GrammarTrial) -> str | None:
    """Return what is wrong with one tool's schema, or with the grammar of its calls."""
    try:
        grammar = schema_grammar(json.dumps(schema))
    except (ValueError, RecursionError) as error:
        return str(error)
    return trial.find_fault(grammar, limit_s=BLAME_S) or trial.find_fault(
        to_grammar((alone,)), limit_s=BLAME_S
    )


def _spelling(engine: Engine, tokenizer: LLTokenizer) -> Spelling:
    """Return which tokens llguidance takes for control tokens: those that are no plain bytes."""
    added = json.loads(engine.tokenizer.definition() or "{}").get("added_tokens", [])
    control = {
        token["content"]: token["id"]
        for token in added
        if token["id"] < tokenizer.vocab_size and tokenizer.is_special_token(token["id"])
    }
    ends = engine.info.stop_token_ids
    return Spelling({token: number for token, number in control.items() if number not in ends})


def _is_unheld(constraints: tuple[Constraint, ...], engine: Engine) -> bool:
    """Return whether the mock engine, which follows no grammar, may answer as it was told."""
    return engine.info.engine == "mock" and all(one.kind == "tools" for one in constraints)


def _num_chars(grammars: OrderedDict[tuple[Constraint, ...], CompiledGrammar]) -> int:
    return sum(len(constraint.text) for constraints in grammars for constraint in constraints)


def _make_tokenizer(engine: Engine, param: str) -> LLTokenizer:
    """Build it from the model's `tokenizer.json`; takes up to a second.

    Raises:
        UnsupportedParameter: The vocabulary's bytes are not known, or no token ends an answer.
    """
    from llguidance import LLTokenizer

    info = engine.info
    if info.engine == "mock":
        raise UnsupportedParameter(f"the mock engine cannot honour {param}", param=param)
    definition = engine.tokenizer.definition()
    if definition is None:
        message = f"this model's slow tokenizer cannot honour {param}"
        raise UnsupportedParameter(message, param=param)
    if not info.stop_token_ids:
        message = f"this model has no end token, without which {param} cannot be honoured"
        raise UnsupportedParameter(message, param=param)
    try:
        return LLTokenizer(definition, eos_token=sorted(info.stop_token_ids))
    except ValueError as error:
        message = f"this model's tokenizer cannot honour {param}: {error}"
        raise UnsupportedParameter(message, param=param) from None
