"""What a pass must be told of the prompts in it, in one copy from the host."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from palma.engine.continuous.scheduler import Chunk


@dataclass(frozen=True, slots=True)
class PassShape:
    """The sizes of one packed pass. A pass that is smaller fills up with rows that are nobody's.

    Attributes:
        num_rows: Rows that decode; they come first.
        num_tokens: Tokens of prompts.
        num_tiles: Programs, for each head, that attend with them.
        num_kept: Rows of prompts whose logits are wanted.
    """

    num_rows: int
    num_tokens: int
    num_tiles: int
    num_kept: int

    @property
    def num_numbers(self) -> int:
        """How many numbers `describe` returns."""
        return 3 * self.num_tokens + 4 * self.num_tiles + self.num_rows + self.num_kept


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """Views of those numbers on the device, int64.

    Attributes:
        token_ids: (num_tokens,).
        positions: (num_tokens,).
        places: (num_tokens,): where their keys and values go.
        tiles: (num_tiles, 4): see `prefill_kernel`.
        kept: (num_rows + num_kept,): rows whose logits are wanted.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    tiles: torch.Tensor
    kept: torch.Tensor

    @classmethod
    def view(cls, numbers: torch.Tensor, shape: PassShape) -> PromptInputs:
        """Divide (num_numbers,), int64."""
        n = shape.num_tokens
        sizes = [3 * n, 4 * shape.num_tiles, shape.num_rows + shape.num_kept]
        tokens, tiles, kept = torch.split(numbers, sizes)
        return cls(tokens[:n], tokens[n : 2 * n], tokens[2 * n :], tiles.view(-1, 4), kept)


def exact_shape(num_rows: int, chunks: Rows[Chunk], num_kept: int, tile_size: int) -> PassShape:
    """Return the sizes that just hold some chunks."""
    return PassShape(
        num_rows,
        sum(chunk.num_tokens for chunk in chunks),
        sum(-(-chunk.num_tokens // tile_size) for chunk in chunks),
        num_kept,
    )


def last_rows(chunks: Rows[Chunk]) -> list[int]:
    """Return where each chunk ends, counted among the tokens of prompts."""
    ends, end = [], 0
    for chunk in chunks:
        end += chunk.num_tokens
        ends.append(end - 1)
    return ends


def describe(
    chunks: Rows[Chunk],
    kept: Rows[int],
    shape: PassShape,
    *,
    tile_size: int,
    block_size: int,
    trash_place: int,
) -> torch.Tensor:
    """Return the numbers behind PromptInputs: (num_numbers,), int64, on the host.

    Args:
        chunks: Of sequences that have slots and blocks.
        kept: Rows among the tokens of prompts.
        shape: Has room for them.
        tile_size: Most tokens of a tile.
        block_size: Tokens a block of the cache holds.
        trash_place: Where keys and values of nobody's tokens go.
    """
    token_ids, positions, places = array("q"), array("q"), array("q")
    tiles: list[tuple[int, int, int, int]] = []
    for chunk in chunks:
        sequence = chunk.sequence
        assert sequence.state_slot is not None, "only running sequences are computed"
        start, end = sequence.num_computed, sequence.num_computed + chunk.num_tokens
        first_row = shape.num_rows + len(token_ids) - start
        tiles.extend(
            (sequence.state_slot, first_row + at, at, min(tile_size, end - at))
            for at in range(start, end, tile_size)
        )
        token_ids.extend(sequence.token_ids[start:end])
        positions.extend(range(start, end))
        for block in range(start // block_size, -(-end // block_size)):
            first = sequence.block_table[block] * block_size
            places.extend(
                range(
                    first + max(start - block * block_size, 0),
                    first + min(end - block * block_size, block_size),
                )
            )
    num_missing = shape.num_tokens - len(token_ids)
    tiles.sort(key=lambda tile: -tile[2])  # whoever has most to do begins first
    tiles.extend([(0, 0, 0, 0)] * (shape.num_tiles - len(tiles)))
    numbers = token_ids + array("q", bytes(8 * num_missing))
    numbers += positions + array("q", bytes(8 * num_missing))
    numbers += places + array("q", [trash_place]) * num_missing
    for tile in tiles:
        numbers.extend(tile)
    numbers.extend(range(shape.num_rows))
    numbers.extend(shape.num_rows + row for row in kept)
    numbers.extend([0] * (shape.num_kept - len(kept)))
    return torch.frombuffer(numbers, dtype=torch.int64)
