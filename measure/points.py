"""A cell of a sweep, and what all cells of one recipe say together."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .metrics import LESS_IS_BETTER, mean_score
from .plan import Planned
from .result import Role


@dataclass(frozen=True)
class SweepCell:
    """One recipe with one prompt, seed and number of steps, as it stands in the file.

    Attributes:
        id: its name, from everything that its picture depends on.
        recipe: recipe text; "plain" for the baseline, "fewer-steps:steps=N" for the control.
        role: what it is there for.
        prompt, seed, steps: what was drawn; steps as asked for, also where the recipe takes fewer.
        seconds: wall clock of every timed round; baseline_seconds: the baseline's in the same rounds.
        calls, asked: samples that went through the denoiser, and that the pipeline asked for.
        actions: what every step did: computed, reused, extrapolated or partial.
        scores: metric -> value, None where it says nothing; infinite PSNR (null in the file) where *identical*.
        identical: whether the picture is the baseline's, bit for bit.
        cache_bytes: most bytes that accelerators held.
        picture: its file within the sweep's folder; None where it failed.
        warnings: what the user should read.
        error: why it failed, a sentence; None where it did not.
        machine: on what it was measured.
    """

    id: str
    recipe: str
    role: Role
    prompt: str
    seed: int
    steps: int
    seconds: list[float] = field(default_factory=list)
    baseline_seconds: list[float] = field(default_factory=list)
    calls: int = 0
    asked: int = 0
    actions: list[str] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    identical: bool = False
    cache_bytes: int = 0
    picture: str | None = None
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    machine: str = ""

    @classmethod
    def failed(cls, planned: Planned, why: str, machine: str = "") -> "SweepCell":
        """Return a cell that says why it could not be measured."""
        return cls(**asdict(planned), error=why, machine=machine)

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.seconds)

    @property
    def speedup(self) -> float:
        """Median seconds of the baseline over median seconds of the cell, from the same rounds."""
        return statistics.median(self.baseline_seconds) / self.median

    def to_dict(self) -> dict[str, Any]:
        """Return the line of the file as plain data."""
        scores = {
            name: None if value is not None and math.isinf(value) else value for name, value in self.scores.items()
        }
        return {"kind": "cell", **asdict(self), "scores": scores}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "SweepCell":
        """Read a line of the file; what a later version may add to it is left out."""
        known = {name: value for name, value in row.items() if name in cls.__dataclass_fields__}
        if known.get("identical") and "psnr" in known["scores"]:
            known["scores"] = {**known["scores"], "psnr": math.inf}
        return cls(**known)


@dataclass(frozen=True)
class Point:
    """All cells of one recipe at one number of steps, in numbers: a point of the chart.

    Attributes:
        recipe, role, steps: which cells.
        seconds: median over its cells of their median; seconds_low, seconds_high: the fastest and slowest cell.
        speedup: median over its cells of the baseline's seconds over its own, from interleaved rounds;
            speedup_low, speedup_high: the worst and the best cell.
        mean: mean score of the metric, as ``mean_score``; None where there is none, infinite where all are identical.
        worst, worst_cell: the worst score, and the id of its cell.
        identical: cells whose picture is the baseline's, bit for bit.
        calls, asked: mean samples through the denoiser, and asked for.
        cells, prompts: how many cells were measured, with how many prompts.
        failed: how many cells failed; errors: why, each sentence once.
        warnings: each sentence once.
    """

    recipe: str
    role: Role
    steps: int
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    mean: float | None
    worst: float | None
    worst_cell: str | None
    identical: int
    calls: float
    asked: float
    cache_bytes: int
    cells: int
    prompts: int
    failed: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def point(cells: list[SweepCell], metric: str) -> Point:
    """Summarise the cells of one recipe at one number of steps."""
    first, good = cells[0], [cell for cell in cells if cell.error is None]
    seconds, ratios = [cell.median for cell in good], [cell.speedup for cell in good]
    scored = [(value, cell.id) for cell in good if (value := cell.scores.get(metric)) is not None]
    mean = mean_score((value for value, _ in scored), metric)
    worst = (max if metric in LESS_IS_BETTER else min)(scored, key=lambda pair: pair[0], default=(None, None))
    middle, fastest, slowest = _middle_and_ends(seconds)
    ratio, least, most = _middle_and_ends(ratios)
    return Point(
        first.recipe, first.role, first.steps, middle, fastest, slowest, ratio, least, most, mean, worst[0], worst[1],
        sum(cell.identical for cell in good),
        statistics.fmean(cell.calls for cell in good) if good else 0.0,
        statistics.fmean(cell.asked for cell in good) if good else 0.0,
        max((cell.cache_bytes for cell in good), default=0),
        len(good),
        len({cell.prompt for cell in good}),
        len(cells) - len(good),
        tuple(dict.fromkeys(cell.error for cell in cells if cell.error is not None)),
        tuple(dict.fromkeys(text for cell in good for text in cell.warnings)),
    )  # fmt: skip


def _middle_and_ends(values: list[float]) -> tuple[float | None, float | None, float | None]:
    return (statistics.median(values), min(values), max(values)) if values else (None, None, None)


def frontier(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the points that no other beats in both seconds and the mean of *metric*, fastest first."""
    sign = -1 if metric in LESS_IS_BETTER else 1
    found = [(p, p.seconds, sign * p.mean) for p in points if p.seconds is not None and p.mean is not None]
    kept = [
        (p, seconds)
        for p, seconds, value in found
        if not any((s <= seconds and v >= value) and (s < seconds or v > value) for _, s, v in found)
    ]
    return [p for p, _ in sorted(kept, key=lambda pair: pair[1])]
