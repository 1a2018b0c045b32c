"""Answers are taken apart into texts and code, however they are cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from llguidance import LLMatcher, LLTokenizer

from palma.serving.artifacts import (
    ArtifactMode,
    CodeTag,
    Part,
    parts_constraint,
    parts_reader,
    whole_parts,
)

FENCED = """
Here it is:

```python  A loop
for x in y:
    print(x)

```

Or `so`:
~~~~
```
~~~~
Done ``` here.
    ```no
"""

TAGGED = """<text>Look: a < b </tex </text>
<artifact identifier="loop" type="code" title="A loop" language="c++">
if (a < b)
    x;
</artifact>
<text>
Done.
</text>
"""


def code(number: int, text: str, *tag: str | None) -> Part:
    return Part(number, text, CodeTag(*tag))  # type: ignore[arg-type]


def joined(mode: ArtifactMode, pieces: Iterable[str]) -> list[Part]:
    """Add up what a reader finds piece by piece."""
    reader = parts_reader(mode)
    found = [part for piece in pieces for part in reader.push(piece)] + reader.flush()
    whole: dict[int, Part] = {}
    for part in found:
        before = whole.get(part.number, Part(part.number, "", part.code))
        assert before.code == part.code
        whole[part.number] = Part(part.number, before.text + part.text, part.code)
    return list(whole.values())


@pytest.mark.parametrize(
    ("mode", "answer", "parts"),
    [
        (
            "Fast",
            FENCED,
            [
                Part(0, "Here it is:"),
                code(1, "for x in y:\n    print(x)", "code-1", "A loop", "python"),
                Part(2, "Or `so`:"),
                code(3, "```", "code-2", "", None),
                Part(4, "Done ``` here.\n    ```no"),
            ],
        ),
        ("Fast", "```js\nx = 1", [code(0, "x = 1", "code-1", "", "js")]),
        ("Fast", "```\n```", [code(0, "", "code-1", "", None)]),
        ("Fast", "```\n``\n``` x\n ````", [code(0, "``\n``` x", "code-1", "", None)]),
        ("Fast", "```a`b\nx", [Part(0, "```a`b\nx")]),
        ("Fast", "```py", [Part(0, "```py")]),
        ("Fast", "```" + "x" * 300 + "\ny", [Part(0, "```" + "x" * 300 + "\ny")]),
        ("Fast", "a\u2028```\r\nb", [Part(0, "a\u2028```\r\nb")]),
        ("Fast", "```c\r\n\r\nb\r\n```\r\n", [code(0, "\r\nb", "code-1", "", "c")]),
        ("Fast", " \n ", []),
        ("Fast", "  two  words ", [Part(0, "two  words")]),
        (
            "Slow",
            TAGGED,
            [
                Part(0, "Look: a < b </tex"),
                code(1, "if (a < b)\n    x;", "loop", "A loop", "c++"),
                Part(2, "Done."),
            ],
        ),
        ("Slow", "<text>cut </te", [Part(0, "cut </te")]),
        ("Slow", "<artifact identi", []),
        ("Slow", "<text>a</text>\n<text>b</text>\n", [Part(0, "a"), Part(1, "b")]),
    ],
)
def test_parts_are_the_same_however_the_answer_is_cut(
    mode: ArtifactMode, answer: str, parts: list[Part]
) -> None:
    assert whole_parts(mode, answer) == (parts or [Part(0, "")])
    assert joined(mode, list(answer)) == parts
    for cut in itertools.chain(range(len(answer)), range(3)):
        assert joined(mode, [answer[:cut], answer[cut:]]) == parts


def test_the_grammar_of_tagged_parts_takes_them_and_nothing_else() -> None:
    constraint = parts_constraint("artifact")
    whole = matcher(constraint.text)
    assert whole.try_consume_tokens(list(TAGGED.encode())) == len(TAGGED.encode())
    assert whole.is_accepting()

    for wrong in ("Hi", "<text>a</text>b", "<artifact>", "<text>a</text>\n\n"):
        taken = matcher(constraint.text).try_consume_tokens(list(wrong.encode()))
        assert taken < len(wrong)


def matcher(grammar: str) -> LLMatcher:
    return LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(grammar), log_level=0)


def test_text_leaves_before_its_line_ends() -> None:
    reader = parts_reader("Fast")

    assert reader.push("Look at") == [Part(0, "Look at")]
    assert reader.push(" this:\n``") == [Part(0, " this:")]
    assert reader.push("no") == [Part(0, "\n``no")]
