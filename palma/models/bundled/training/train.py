"""Trains palmita from scratch: `python -m palma.models.bundled.training.train --out DIR`.

Two CPU cores need about two hours. The corpus, its order and the first weights follow from the
seed; the rounding of the machine's arithmetic decides the last digits of the result.
"""

import argparse
import itertools
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palma.models.bundled import bundled_model_path
from palma.models.bundled.training.batches import IGNORED, Batch, batches
from palma.models.bundled.training.corpus import Mixture
from palma.models.bundled.training.descent import Descent
from palma.models.bundled.training.publish import save_model
from palma.models.bundled.training.skills import FINISHING_SKILLS, REPLAYED_SKILLS, SKILLS
from palma.models.bundled.training.tokenizer import (
    CHAT_TEMPLATE,
    MAX_POSITIONS,
    add_call_tokens,
    trained_tokenizer,
)

logger = logging.getLogger(__name__)

SEED = 20_240


@dataclass(frozen=True, slots=True)
class Round:
    """One stretch of training, from the folder that the round before left.

    Attributes:
        num_steps: Batches to learn from.
        peak: Share of the full learning rate that the schedule rises to.
        mixture: What the conversations are made of.
        tokens_per_batch: About how many.
    """

    num_steps: int
    peak: float
    mixture: Mixture
    tokens_per_batch: int = 3_072


ROUNDS = (
    Round(2_000, 1.0, Mixture(SKILLS)),
    Round(900, 0.6, Mixture(FINISHING_SKILLS)),
    Round(7_000, 0.6, Mixture(REPLAYED_SKILLS, tools_share=0.4)),
)
"""Capitals and manners; what is learned late; then calls of tools, beside all that came before."""


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained model of palmita's size, in float32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def answer_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Return the weighted mean of the cross entropy over the answers' tokens.

    The vocabulary's logits are taken only where there is a target: most positions have none.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.input_ids).last_hidden_state
        learning = batch.targets != IGNORED
        logits = model.lm_head(hidden[learning])  # (num_targets, vocab_size)
    losses = nn.functional.cross_entropy(logits.float(), batch.targets[learning], reduction="none")
    weights = batch.weights[learning]
    return (weights * losses).sum() / weights.sum()


def train(out: Path, seed: int, rounds: Sequence[Round], first: int = 1) -> None:
    """Train round by round and leave the model's folder at out.

    Args:
        out: The folder. When first is not 1 it holds the model of the round before; if it holds
            none, the bundled model is copied there.
        seed: Of the first weights and of the corpus; each round draws another corpus.
        rounds: All rounds, in order.
        first: The round to begin with, counted from 1.
    """
    torch.manual_seed(seed)
    if first == 1:
        tokenizer = trained_tokenizer(seed)
        save_model(new_model(tokenizer), tokenizer, out)
    elif not (out / "model.safetensors").exists():
        shutil.copytree(bundled_model_path(), out, dirs_exist_ok=True)
    for number, one_round in enumerate(rounds, start=1):
        if number >= first:
            train_round(out, seed + number - 1, one_round)


def train_round(out: Path, seed: int, this: Round) -> None:
    """Train the model in the folder further, and write it back."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    if this.mixture.tools_share:
        add_call_tokens(model, tokenizer)
    descent = Descent(model, this.num_steps, this.peak)
    started, recent = time.monotonic(), 0.0
    source = batches(tokenizer, seed, this.tokens_per_batch, this.mixture)
    for step, batch in enumerate(itertools.islice(source, this.num_steps), start=1):
        loss = answer_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 0:
            logger.info("step %d loss %.4f, %.0f s", step, recent, time.monotonic() - started)
    save_model(model, tokenizer, out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--first-round", type=int, default=1, help="go on from this round")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(arguments.out, arguments.seed, ROUNDS, arguments.first_round)


if __name__ == "__main__":
    main()
