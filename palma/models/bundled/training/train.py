"""Trains palmita from scratch: `python -m palma.models.bundled.training.train --out DIR`.

Two CPU cores need under two hours. The corpus, its order and the first weights follow from the
seed; the rounding of the machine's arithmetic decides the last digits of the result.
"""

import argparse
import logging
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palma.models.bundled.training.batches import IGNORED, Batch, batches
from palma.models.bundled.training.descent import Descent
from palma.models.bundled.training.publish import save_model
from palma.models.bundled.training.tokenizer import MAX_POSITIONS, trained_tokenizer

logger = logging.getLogger(__name__)

SEED = 20_240
NUM_STEPS = 2_000
TOKENS_PER_BATCH = 3_072
_SAVE_EVERY = 300


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
    """Return the mean cross entropy over the answers' tokens.

    The vocabulary's logits are taken only where there is a target: most positions have none.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.input_ids).last_hidden_state
        learning = batch.targets != IGNORED
        logits = model.lm_head(hidden[learning])  # (num_targets, vocab_size)
    return nn.functional.cross_entropy(logits.float(), batch.targets[learning])


def train(out: Path, seed: int, num_steps: int) -> None:
    """Train for num_steps batches and leave the model's folder at out."""
    torch.manual_seed(seed)
    tokenizer = trained_tokenizer(seed)
    model = new_model(tokenizer)
    descent = Descent(model, num_steps)
    started = time.monotonic()
    recent = 0.0
    for step, batch in enumerate(batches(tokenizer, seed, TOKENS_PER_BATCH), start=1):
        loss = answer_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step % 50 == 0:
            logger.info("step %d loss %.4f, %.0f s", step, recent, time.monotonic() - started)
        if step % _SAVE_EVERY == 0 or step == num_steps:
            save_model(model, tokenizer, out)
        if step == num_steps:
            return


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(arguments.out, arguments.seed, arguments.steps)


if __name__ == "__main__":
    main()
