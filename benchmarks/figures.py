"""A figure of a benchmark beside the baseline of the same run, and a table of such figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and what it stands beside."""

    what: str
    value: float
    unit: str
    baseline: float
    beside: str
    """The name of the baseline."""
    goal: str = ""
    """The promise of the project, as a reader checks it, such as "<= 2 x"; "" if it promises nothing."""

    @property
    def ratio(self) -> float:
        """The value as a multiple of the baseline; 0 without a baseline."""
        return self.value / self.baseline if self.baseline else 0.0

    def as_dict(self) -> dict[str, str | float]:
        """The figure as a JSON object."""
        return {**asdict(self), "ratio": self.ratio}


HEADINGS = ("", "ours", "", "beside", "ratio", "promised")


def cells(figure: Figure) -> tuple[str, ...]:
    """The cells of a figure's row, under `HEADINGS`."""
    base = f"{number(figure.baseline)} {figure.beside}" if figure.baseline else figure.beside
    ratio = f"{figure.ratio:.2f}" if figure.baseline else ""
    return figure.what, number(figure.value), figure.unit, base, ratio, figure.goal


def number(value: float) -> str:
    """A number with three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def plain(figures: Iterable[Figure]) -> str:
    """The figures as a table for a terminal."""
    rows = [HEADINGS, *map(cells, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(figures: Iterable[Figure]) -> str:
    """The figures as a table in Markdown."""
    rows = [HEADINGS, ("---", "--:", "---", "---", "--:", "---"), *map(cells, figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def alternately(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure each so many times, by turns, so that a busy moment affects all of them."""
    taken: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for values, measure in zip(taken, measures, strict=True):
            values.append(measure())
    return taken
