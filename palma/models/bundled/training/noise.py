"""The careless ways in which people type: lower case, missing marks, typing slips."""

import random


def careless(rng: random.Random, text: str) -> str:
    """Return the text as some user may have typed it; unchanged about half of the time."""
    if rng.random() < 0.5:
        return text
    if rng.random() < 0.5:
        text = text.lower()
    elif rng.random() < 0.06:
        text = text.upper()
    if rng.random() < 0.35:
        text = text.rstrip(".?!")
    if rng.random() < 0.25:
        text = text.replace("'", "").replace(",", "")
    if rng.random() < 0.1:
        text = slipped(rng, text)
    if rng.random() < 0.04:
        text = text + rng.choice(("?", "!", "??", "!!", " ?", "...", "?!", " :)"))
    return text


def slipped(rng: random.Random, text: str) -> str:
    """Return the text with one typing slip in a word of six or more letters, if it has one."""
    words = text.split(" ")
    long_words = [at for at, word in enumerate(words) if len(word) >= 6 and word.isalpha()]
    if not long_words:
        return text
    at = rng.choice(long_words)
    words[at] = _slip(rng, words[at])
    return " ".join(words)


def _slip(rng: random.Random, word: str) -> str:
    spot = rng.randrange(1, len(word) - 1)
    before, letter, after = word[:spot], word[spot], word[spot + 1 :]
    slip = rng.choice(("drop", "double", "swap"))
    if slip == "drop":
        return before + after
    if slip == "double":
        return before + letter + letter + after
    return before + after[0] + letter + after[1:]
