"""Measures palmita: `python -m palma.models.bundled.training.evaluate [--model DIR]`.

Every question is answered greedily in float32, and the table is printed. With `--card`, the table
of the model card in the model's folder is replaced by the new one.
"""

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from palma.models.bundled import bundled_model_path
from palma.models.bundled.training.cases import Case, all_cases, readme_case
from palma.models.bundled.training.corpus import rendered
from palma.models.bundled.training.scenes import Message
from palma.models.bundled.training.tool_cases import all_tool_cases

_BATCH_SIZE = 192
_MAX_NEW_TOKENS = 300
_TABLE_START, _TABLE_END = "<!-- table: start -->", "<!-- table: end -->"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn; greedy when the temperature is 0."""

    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, and whether it ended its turn with `<|eot_id|>`."""

    text: str
    has_ended: bool


def load(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """Return the model in float32, ready to generate, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def replies_to(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling = Sampling(),
) -> list[Reply]:
    """Return the reply to each conversation, in order.

    Conversations of the same length run side by side, so nothing is padded and no reply depends
    on its neighbours.
    """
    prompts = [_prompt_ids(tokenizer, messages) for messages in conversations]
    replies: dict[int, Reply] = {}
    for group in _same_length_groups(prompts):
        input_ids = torch.tensor([prompts[at] for at in group])
        outputs = _generate(model, input_ids, sampling)[:, input_ids.shape[1] :].tolist()
        replies |= {at: _reply(tokenizer, ids) for at, ids in zip(group, outputs, strict=True)}
    return [replies[at] for at in range(len(prompts))]


def measure(model: PreTrainedModel, tokenizer: Tokenizer, cases: Sequence[Case]) -> str:
    """Return the table of right answers in Markdown, wrong answers printed on the way."""
    right: Counter[str] = Counter()
    total = Counter(case.group for case in cases)
    replies = replies_to(model, tokenizer, [case.messages for case in cases])
    for case, reply in zip(cases, replies, strict=True):
        if reply.has_ended and case.is_right(reply.text):
            right[case.group] += 1
        else:
            print(f"wrong, {case.group}: {case.messages[-1].content!r} -> {reply.text!r}")
    rows = [
        f"| {group} | {right[group]:,} of {total[group]:,} | {right[group] / total[group]:.1%} |"
        for group in total
    ]
    return "\n".join(["| measured on held-out forms | right | share |", "|---|---|---|", *rows])


def readme_row(model: PreTrainedModel, tokenizer: Tokenizer, num_seeds: int = 50) -> str:
    """Return the row for the README's pirate example, sampled num_seeds times."""
    case, num_right = readme_case(), 0
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        (reply,) = replies_to(model, tokenizer, [case.messages], Sampling(0.6, 0.7))
        num_right += reply.has_ended and case.is_right(reply.text)
    group = "the README's pirate example, temperature 0.6, top_p 0.7"
    return f"| {group} | {num_right} of {num_seeds} | {num_right / num_seeds:.1%} |"


def write_card(folder: Path, table: str) -> None:
    """Replace the table in the folder's model card."""
    card = folder / "README.md"
    before, rest = card.read_text(encoding="utf-8").split(_TABLE_START)
    after = rest.split(_TABLE_END)[1]
    card.write_text(
        f"{before}{_TABLE_START}\n{table}\n{_TABLE_END}{after}", encoding="utf-8", newline="\n"
    )


def _generate(model: PreTrainedModel, input_ids: torch.Tensor, how: Sampling) -> torch.Tensor:
    drawn = {"temperature": how.temperature, "top_p": how.top_p} if how.temperature else {}
    ids: torch.Tensor = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        do_sample=bool(drawn),
        max_new_tokens=_MAX_NEW_TOKENS,
        **drawn,
    )
    return ids


def _prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    text = rendered(messages) + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    return list(tokenizer.encode(text, add_special_tokens=False))


def _same_length_groups(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for at, prompt in enumerate(prompts):
        by_length[len(prompt)].append(at)
    for group in by_length.values():
        for start in range(0, len(group), _BATCH_SIZE):
            yield group[start : start + _BATCH_SIZE]


def _reply(tokenizer: Tokenizer, ids: list[int]) -> Reply:
    if tokenizer.eos_token_id not in ids:
        return Reply(tokenizer.decode(ids), has_ended=False)
    return Reply(tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)]), has_ended=True)


def main() -> None:
    """Read the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=bundled_model_path(), help="its folder")
    parser.add_argument("--sample", type=int, help="measure only this many cases")
    parser.add_argument("--card", action="store_true", help="write the table to the model card")
    arguments = parser.parse_args()
    model, tokenizer = load(arguments.model)
    cases = [*all_cases(), *all_tool_cases()]
    if arguments.sample:
        cases = random.Random(0).sample(cases, arguments.sample)
    table = f"{measure(model, tokenizer, cases)}\n{readme_row(model, tokenizer)}"
    print(table)
    if arguments.card:
        write_card(arguments.model, table)


if __name__ == "__main__":
    main()
