"""Where the small chat model that ships with the package lies."""

from pathlib import Path

BUNDLED_MODEL_ID = "palmita"


def bundled_model_path() -> Path:
    """Return the folder of the bundled model: its weights, tokenizer and model card."""
    return Path(__file__).parent / BUNDLED_MODEL_ID
