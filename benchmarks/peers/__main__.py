"""Measures Palma and its peers in turns, and prints Markdown tables.

    python -m benchmarks.peers --peers-dir ~/peers --model 115m --rounds 3

Ctrl-C ends the rounds and prints the tables of what was measured until then.

Rounds are interleaved: A B C, A B C, ... A ratio is taken inside a round, its median over the
rounds. One server runs at a time and is fresh at each of its turns, so none disturbs another.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.peers.contenders import CONTENDERS, Contender
from benchmarks.peers.measure import Place, Turn, take_turn, weight_bytes
from benchmarks.peers.tables import figures_table, ratios_table
from benchmarks.random_llama import make_checkpoint
from palma.core.errors import PalmaError

MODELS_FOLDER = Path(__file__).parent.parent / "models"
FAILURES = (RuntimeError, TimeoutError, OSError, PalmaError, ExceptionGroup)


def installed(contenders: list[Contender], place: Place) -> tuple[list[Contender], list[str]]:
    """Return who can take part, converted models at hand, and a line for each that cannot."""
    able, remarks = [], []
    for contender in contenders:
        if not contender.peer.is_installed(place.peers_dir):
            how = contender.peer.how_to_install
            remarks.append(f"- {contender.name}: not installed ({how})")
            continue
        try:
            contender.peer.prepare(place.model_dir, contender.precision, place.peers_dir)
            able.append(contender)
        except FAILURES as error:
            remarks.append(f"- {contender.name}: no model ({error})")
    return able, remarks


def play(
    contenders: list[Contender], place: Place, num_rounds: int, seed: int
) -> tuple[dict[str, list[Turn]], list[str]]:
    """Let everybody take a turn in every round; who fails once is out, with a line that says so."""
    turns: dict[str, list[Turn]] = {contender.name: [] for contender in contenders}
    remarks = []
    for index in range(num_rounds):
        for contender in [one for one in contenders if one.name in turns]:
            place.log.unlink(missing_ok=True)
            try:
                turn = take_turn(contender.peer, contender.precision, place, seed + index)
                turns[contender.name].append(turn)
                _say(f"round {index + 1}: {contender.name}: {turn}")
            except FAILURES as error:
                del turns[contender.name]
                remarks.append(f"- {contender.name}: failed ({error}); {_last_words(place.log)}")
                _say(remarks[-1])
            except KeyboardInterrupt:
                return {name: done for name, done in turns.items() if done}, remarks
    return turns, remarks


def _last_words(log: Path) -> str:
    """Return the last line with a word in it that the server printed."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    wordy = [line for line in lines if any(character.isalpha() for character in line)]
    return f"its last line: {wordy[-1].strip(' │')[:200]}" if wordy else "it said nothing"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-dir", type=Path, required=True)
    parser.add_argument("--model", choices=("115m", "1.1b"), default="115m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names, like palma openvino")
    return parser.parse_args()


def main() -> None:
    """Measure, and print two tables and who could not take part."""
    arguments = _arguments()
    model_dir = make_checkpoint(arguments.model, MODELS_FOLDER / f"llama-{arguments.model}")
    wanted = [
        one
        for one in CONTENDERS
        if not arguments.only or any(part in one.name for part in arguments.only)
    ]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(model_dir.resolve(), arguments.peers_dir.resolve(), Path(folder) / "log")
        able, remarks = installed(wanted, place)
        turns, failures = play(able, place, arguments.rounds, arguments.seed)
    weights = {one.name: weight_bytes(model_dir, one.precision) for one in CONTENDERS}
    is_small = arguments.model != "1.1b"
    lines = [
        *figures_table(turns, weights), "",
        *ratios_table(turns, weights, is_small=is_small), "",
        *remarks, *failures,
    ]  # fmt: skip
    print("\n".join(lines))


if __name__ == "__main__":
    main()
