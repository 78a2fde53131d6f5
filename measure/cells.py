"""What a sweep has found: its cells, their summary by recipe, and how to read them from its folder.

A sweep's folder holds ``sweep.jsonl`` and ``pictures/ID.png``. The file only ever grows. Its first line is the header,
every further line a cell:

    {"kind": "deadheat sweep", "schema": 1, "model": ..., "settings": {...}, "environment": {...}, "created": ...}
    {"kind": "cell", "id": ..., "recipe": ..., "role": "baseline|control|variant", "prompt": ..., ...}
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..pipelines import PresetError
from .metrics import LESS_IS_BETTER
from .plan import Planned, plan
from .result import Role

KIND, SCHEMA_VERSION, FILE = "deadheat sweep", 1, "sweep.jsonl"


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
        mean: mean score of the metric, None where there is none. Pictures identical to the baseline's have no finite
            PSNR: they are counted in *identical*, and the mean is of the others; infinite where there is no other.
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
    finite = [value for value, _ in scored if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else (math.inf if scored else None)
    worst = (max if metric in LESS_IS_BETTER else min)(scored, key=lambda pair: pair[0], default=(None, None))
    return Point(
        first.recipe, first.role, first.steps, *_middle_and_ends(seconds), *_middle_and_ends(ratios), mean, *worst,
        identical=sum(cell.identical for cell in good),
        calls=statistics.fmean(cell.calls for cell in good) if good else 0.0,
        asked=statistics.fmean(cell.asked for cell in good) if good else 0.0,
        cache_bytes=max((cell.cache_bytes for cell in good), default=0),
        cells=len(good), prompts=len({cell.prompt for cell in good}), failed=len(cells) - len(good),
        errors=tuple(dict.fromkeys(cell.error for cell in cells if cell.error is not None)),
        warnings=tuple(dict.fromkeys(text for cell in good for text in cell.warnings)),
    )  # fmt: skip


def _middle_and_ends(values: list[float]) -> tuple[float | None, float | None, float | None]:
    return (statistics.median(values), min(values), max(values)) if values else (None, None, None)


@dataclass
class Sweep:
    """The result of ``sweep``, finished or not.

    Attributes:
        folder: where it lies.
        model: name of the model; settings: how it was run; environment: on what; created: when, ISO 8601.
        unavailable: metric -> why its scores are empty.
        cells: in the order in which they were finished.
    """

    folder: Path
    model: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    created: str
    unavailable: dict[str, str] = field(default_factory=dict)
    cells: list[SweepCell] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> "Sweep":
        """Read a sweep's folder or its ``sweep.jsonl``, also while it is being written.

        Raises:
            PresetError: there is none, it is damaged, or of another version.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise PresetError(f"the sweep {file} cannot be read: {error.strerror or error}") from error
        lines = raw[: whole_lines(raw)].splitlines()
        if not lines:
            raise PresetError(f"the sweep {file} has no header yet: nothing was measured")
        header = parse_line(file, 0, lines[0])
        try:
            rows = [parse_line(file, nth, line) for nth, line in enumerate(lines[1:], 1)]
            cells = [SweepCell.from_dict(row) for row in rows if row["kind"] == "cell"]
            rest = {name: header[name] for name in ("model", "settings", "environment", "created", "unavailable")}
            return cls(file.parent, cells=list({cell.id: cell for cell in reversed(cells)}.values())[::-1], **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise PresetError(f"the sweep {file} is damaged: {type(error).__name__} {error}") from error

    @property
    def planned(self) -> int:
        """How many cells the whole sweep has."""
        return len(plan(self.settings))

    @property
    def finished(self) -> bool:
        return len(self.cells) >= self.planned

    def title(self, recipe: str) -> str:
        """Return what people call a recipe: a preset's name, or its text."""
        return str(self.settings["titles"].get(recipe, recipe))

    def baseline(self, cell: SweepCell) -> SweepCell | None:
        """Return the plain cell of the same prompt, seed and steps, if it is there."""
        key = (cell.prompt, cell.seed, cell.steps)
        plain = (other for other in self.cells if other.role == "baseline")
        return next((other for other in plain if (other.prompt, other.seed, other.steps) == key), None)

    def points(self, metric: str = "psnr") -> list[Point]:
        """Summarise by recipe and number of steps, in the order of the plan."""
        groups: dict[tuple[str, int], list[SweepCell]] = {(p.recipe, p.steps): [] for p in plan(self.settings)}
        for cell in self.cells:
            groups.setdefault((cell.recipe, cell.steps), []).append(cell)
        return [point(cells, metric) for cells in groups.values() if cells]

    def pareto(self, metric: str = "psnr") -> list[Point]:
        """Return the points that no other beats in both seconds and the mean of *metric*, fastest first."""
        sign = -1 if metric in LESS_IS_BETTER else 1
        found = [(p, p.seconds, sign * p.mean) for p in self.points(metric) if p.seconds and p.mean is not None]
        kept = [
            (p, seconds)
            for p, seconds, value in found
            if not any((s <= seconds and v >= value) and (s < seconds or v > value) for _, s, v in found)
        ]
        return [p for p, _ in sorted(kept, key=lambda pair: pair[1])]

    def table(self) -> str:
        """Return the sweep as an aligned text table."""
        from .sweep_report import sweep_table

        return sweep_table(self)

    def write_report(self) -> Path:
        """Write ``report.html`` beside the file: one page with everything inside. Returns its path."""
        from .sweep_report import sweep_html

        page = self.folder / "report.html"
        page.write_text(sweep_html(self), encoding="utf-8")
        return page

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data: the header, the points by metric, and the cells."""
        rows = {metric: [_plain(asdict(p)) for p in self.points(metric)] for metric in self.settings["metrics"]}
        head = {"kind": KIND, "schema": SCHEMA_VERSION, "folder": str(self.folder), "model": self.model}
        rest = {name: getattr(self, name) for name in ("settings", "environment", "created", "unavailable", "planned")}
        cells = [cell.to_dict() for cell in self.cells]
        return {**head, **rest, "finished": self.finished, "points": rows, "cells": cells}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Write infinity as null: JSON has none."""
    return {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in row.items()}


def is_sweep(path: str | Path) -> bool:
    """Say whether a folder, or a file, is a sweep's."""
    return (Path(path) / FILE).is_file() or Path(path).name == FILE


def whole_lines(raw: bytes) -> int:
    """Return how many bytes of a file that only grows are whole lines; a torn last line was never finished."""
    end = raw.rfind(b"\n") + 1
    last = raw.rfind(b"\n", 0, max(0, end - 1)) + 1
    try:
        json.loads(raw[last:end] or b"{}")
    except ValueError:  # a power cut can leave a last line of nothing but zeros
        return last
    return end


def parse_line(file: Path, nth: int, line: bytes) -> dict[str, Any]:
    """Read one line; the first must be a header of this version.

    Raises:
        PresetError: it is damaged, or of another version.
    """
    try:
        row = json.loads(line)
        kind = row["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise PresetError(f"the sweep {file} is damaged in line {nth + 1}: {error}") from error
    if nth == 0 and (kind != KIND or row.get("schema") != SCHEMA_VERSION):
        raise PresetError(
            f"{file} is no sweep of this version: it is {kind!r}, schema {row.get('schema')!r}, "
            f"not {KIND!r}, schema {SCHEMA_VERSION}"
        )
    return dict(row)
