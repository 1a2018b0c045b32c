"""What was measured, as rows of one table: the figure, what bounds it, and whether it is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

HEAD = "| measured | result | bound or peer | ratio | must | stretch | reached |"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure has to be.

    Attributes:
        must, stretch: Bounds of the row's ratio; of its value where there is no ratio.
        unit: Written behind both.
        is_upper: Whether they are upper bounds.
    """

    must: float
    stretch: float | None
    unit: str
    is_upper: bool = False

    def reached(self, figure: float) -> str:
        """Return the greatest goal that a figure reaches, or "no"."""
        for name, bound in (("stretch", self.stretch), ("must", self.must)):
            if bound is not None and (figure <= bound if self.is_upper else figure >= bound):
                return name
        return "no"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        result: The figure in words.
        reference: What it is compared with, in words.
        ratio: The figure over the reference; None where there is nothing to divide by.
        value: The figure, where the goal is about it and not about a ratio.
        note: Written behind the ratio.
    """

    name: str
    result: str
    reference: str = "-"
    ratio: float | None = None
    value: float | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def reached(self) -> str:
        """What was reached; "-" without a goal, or without a figure to judge."""
        figure = self.ratio if self.ratio is not None else self.value
        return "-" if self.goal is None or figure is None else self.goal.reached(figure)

    def __str__(self) -> str:
        goal = self.goal
        unit = goal.unit if goal else ""
        cells = [
            self.name,
            self.result,
            self.reference,
            _join(_figure(self.ratio, unit), self.note),
            _figure(goal.must if goal else None, unit),
            _figure(goal.stretch if goal else None, unit),
            self.reached,
        ]
        return f"| {' | '.join(cells)} |"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "reached": self.reached}


def failed(name: str, why: str) -> Row:
    """Return the row of a part that has no figure."""
    return Row(name, "failed", why.replace("|", "/"), goal=None)


def render(rows: Sequence[Row]) -> str:
    """Return the whole table."""
    return "\n".join([HEAD, "|---|---|---|---|---|---|---|", *map(str, rows)])


def _figure(figure: float | None, unit: str) -> str:
    if figure is None:
        return "-"
    if unit == "%":
        return f"{figure:.1%}"
    if unit in ("", "x"):
        return f"{figure:.2f}x"
    return f"{figure:g} {unit}"


def _join(figure: str, note: str) -> str:
    return f"{figure} ({note})" if note else figure
