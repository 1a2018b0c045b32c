"""The skill of saying a name or a number again: a cheap way to learn to copy."""

import random
from collections.abc import Iterator

from palma.models.bundled.training.scenes import Message, Scene
from palma.models.bundled.training.weather import drawn_place

_FORMS = """
Say {x}
Say {x}.
Say: {x}
Repeat {x}.
Repeat: {x}
Repeat after me: {x}
Please say {x}.
Write {x}.
""".strip().splitlines()


def echo(scene: Scene) -> Iterator[Message]:
    """A request to say a name or a number, and the same name or number."""
    text = echoed_text(scene.rng)
    yield Message("user", scene.rng.choice(_FORMS).replace("{x}", text))
    yield Message("assistant", text)


def echoed_text(rng: random.Random) -> str:
    """Return what to say again."""
    return str(rng.randint(0, 108)) if rng.random() < 0.15 else drawn_place(rng)
