"""What a sweep has found, and how to read it from its folder.

A sweep's folder holds ``sweep.jsonl`` and ``pictures/ID.png``. The file only ever grows. Its first line is the header,
every further line a cell:

    {"kind": "deadheat sweep", "schema": 1, "model": ..., "settings": {...}, "environment": {...}, "created": ...}
    {"kind": "cell", "id": ..., "recipe": ..., "role": "baseline|control|variant", "prompt": ..., ...}
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..pipelines import PresetError, is_folder
from .plan import plan
from .points import Point, SweepCell, frontier, point

KIND, SCHEMA_VERSION, FILE = "deadheat sweep", 1, "sweep.jsonl"


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
        file = Path(path) / FILE if is_folder(path) else Path(path)
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
        """Return the points that no other beats in both seconds and the mean of *metric*, fastest first.

        Each is beside those of its own number of steps: faithfulness is to the baseline of that number. One whose
        cells failed or are still to come is left out, as the prompts that are missing may be the hard ones.
        """
        every = self.points(metric)
        most = {p.steps: max(other.cells for other in every if other.steps == p.steps) for p in every}
        groups = ([p for p in every if p.steps == steps and p.cells == most[steps]] for steps in most)
        found = [p for group in groups for p in frontier(group, metric)]
        return sorted(found, key=lambda p: p.seconds or 0.0)

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
    return Path(path).name == FILE or (is_folder(path) and (Path(path) / FILE).is_file())


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
