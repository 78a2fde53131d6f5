"""What a comparison found: lanes, numbers, pictures; how to read, choose and keep them."""

import json
import math
import re
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..accelerators import FewerSteps
from ..pipelines import InputError, KnobError, PresetError, is_folder, nearest
from .broken import BROKEN
from .folders import check_free, full_path, replacing
from .metrics import LESS_IS_BETTER, OWN, mean_score
from .snippet import snippet

SCHEMA, FILE = "deadheat.comparison/1", "result.json"
SETTINGS = ("model", "prompts", "seeds", "steps", "guidance", "negative", "size", "repeats", "metrics")
MOST_LETTERS = 100  # of a lane's name in the names of its files
Role = Literal["baseline", "control", "variant"]


@dataclass
class Cell:
    """One prompt and seed in one lane.

    Attributes:
        prompt, seed: what was drawn.
        scores: metric -> value; None where it is not available; infinite PSNR for equal pictures.
        picture: (3, H, W) float in [0, 1].
    """

    prompt: str
    seed: int
    scores: dict[str, float | None]
    picture: Tensor


@dataclass
class Lane:
    """One way to run the pipeline.

    Attributes:
        name: what tables call it; recipe: its recipe as text; role: what it is there for.
        control: name of the lane that is this variant's fewer-steps control; "" where there is none.
        seconds: wall clock of every timed run; ratios: the baseline's seconds over this lane's, round by round.
        stages: median seconds of text encoding ("text"), denoising ("denoise") and decoding ("decode").
        calls: samples through the denoiser for one run; asked: samples that the pipeline asked for.
        steps: what every step of the first run did.
        peak_bytes: most memory of a run on top of what was there before; None if it was not measured.
        cache_bytes: most bytes that accelerators held.
        note: a remark on how the lane came about.
        whole: metrics of all pictures together, such as the Fréchet distance.
    """

    name: str
    recipe: str
    role: Role
    control: str = ""
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    asked: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int | None = None
    cache_bytes: int = 0
    cells: list[Cell] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    speedup: float | None = None
    note: str = ""
    whole: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.seconds)

    @property
    def speedup_range(self) -> tuple[float, float] | None:
        """Smallest and largest speed-up of a round."""
        return (min(self.ratios), max(self.ratios)) if self.ratios else None

    def values(self, metric: str) -> list[tuple[float, str]]:
        """Return the scores of a metric with their prompts; none where a picture holds no numbers."""
        if BROKEN in self.warnings:
            return []
        found = [(cell.scores.get(metric), cell.prompt) for cell in self.cells]
        return [(value, prompt) for value, prompt in found if value is not None]

    def mean(self, metric: str) -> float | None:
        """Return the mean score over all prompts and seeds, as ``mean_score``; None where it is not available."""
        if metric in self.whole and BROKEN not in self.warnings:
            return self.whole[metric]
        return mean_score((value for value, _ in self.values(metric)), metric)

    def worst(self, metric: str) -> tuple[float, str] | None:
        """Return the worst score and its prompt, or None."""
        values = self.values(metric)
        choose = max if metric in LESS_IS_BETTER else min
        return choose(values, key=lambda pair: pair[0]) if values else None


def _plain(lane: Lane) -> bool:
    """Tell whether a lane is plainly fewer steps."""
    return lane.recipe.partition(":")[0] == FewerSteps.name and "+" not in lane.recipe


@dataclass
class Comparison:
    """The result of ``compare``.

    Attributes:
        lanes: the baseline first, then each variant with its fewer-steps control behind it.
        settings: how it was run; environment: on what; created: when, ISO 8601.
        unavailable: metric -> why its column is empty.
    """

    lanes: list[Lane]
    settings: dict[str, Any]
    environment: dict[str, Any]
    created: str
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> Lane:
        return self.lanes[0]

    @property
    def variants(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.role == "variant"]

    def lane(self, name: str) -> Lane:
        """Return a lane by name.

        Raises:
            InputError: there is none; names those that are.
        """
        for lane in self.lanes:
            if lane.name == name:
                return lane
        raise InputError(f"no lane is called {name!r}; there are {', '.join(lane.name for lane in self.lanes)}")

    def control_for(self, variant: Lane) -> Lane | None:
        """Return the fewer-steps control of a variant, or None."""
        return self.lane(variant.control) if variant.control else None

    def better_control(self, variant: Lane) -> Lane | None:
        """Return the plainly fewer steps that took no longer than a variant and are closer, the closest; or None."""
        mine = variant.mean("psnr")
        if mine is None or _plain(variant):
            return None
        as_fast = [lane for lane in self.lanes if _plain(lane) and lane.median <= variant.median]
        closer = [lane for lane in as_fast if (lane.mean("psnr") or 0.0) > mine]
        return max(closer, key=lambda lane: lane.mean("psnr") or 0.0, default=None)

    def pareto(self, metric: str = "psnr") -> list[Lane]:
        """Return the lanes that no other lane beats in both seconds and the mean of *metric*, fastest first.

        Raises:
            KnobError: a metric that was not measured.
        """
        self._measured(metric)
        sign = -1 if metric in LESS_IS_BETTER else 1
        points = [(lane, lane.median, sign * mean) for lane in self.lanes if (mean := lane.mean(metric)) is not None]
        kept = [
            (lane, seconds)
            for lane, seconds, value in points
            if not any((s <= seconds and v >= value) and (s < seconds or v > value) for _, s, v in points)
        ]
        return [lane for lane, _ in sorted(kept, key=lambda pair: pair[1])]

    def best(self, floor: Mapping[str, float] | None = None, budget: float | None = None) -> Lane | None:
        """Return the fastest lane whose means hold the *floor*, or the most faithful within *budget* seconds.

        The most faithful has the best mean PSNR; where that was not measured, the best mean of another metric, sooner
        of one that asks whether the picture is the same.

        Args:
            floor: metric -> smallest mean allowed (largest, for LPIPS): ``{"psnr": 30}``.
            budget: most median seconds allowed.

        Raises:
            KnobError: a metric that was not measured, or a budget and nothing to judge by.
            InputError: a bound that is not a number.
        """
        for metric, bound in (floor or {}).items():
            self._measured(metric)
            if not math.isfinite(bound):
                raise InputError(f"the floor of {metric} is {bound}, not a number")

        def holds(lane: Lane) -> bool:
            for metric, bound in (floor or {}).items():
                mean = lane.mean(metric)
                if mean is None or (mean > bound if metric in LESS_IS_BETTER else mean < bound):
                    return False
            return budget is None or lane.median <= budget

        kept = [lane for lane in self.lanes if holds(lane)]
        if budget is not None and not floor:
            return max(kept, key=self._faithfulness(), default=None)
        return min(kept, key=lambda lane: lane.median, default=None)

    def _faithfulness(self) -> Callable[[Lane], float]:
        """Return what judges lanes where no metric was named: more is better."""
        scored = [name for name in self.settings["metrics"] if self.baseline.mean(name) is not None]
        if not scored:
            raise KnobError("a budget is for the most faithful lane, and nothing was scored here; measure psnr")
        metric = min(scored, key=lambda name: (name != "psnr", name in OWN))
        sign = -1 if metric in LESS_IS_BETTER else 1

        def judged(lane: Lane) -> float:
            mean = lane.mean(metric)
            return -math.inf if mean is None else sign * mean

        return judged

    def _measured(self, metric: str) -> None:
        if metric not in self.settings["metrics"]:
            known = self.settings["metrics"]
            raise KnobError(f"{metric!r} was not measured here; {nearest(metric, known)}")

    def snippet(self, lane: Lane) -> str:
        """Return code that makes the first picture of a lane, ready to be pasted."""
        s, cell = self.settings, lane.cells[0]
        call = {name: s[name] for name in ("negative", "steps", "guidance", "size")}
        call |= {name: self.environment["pipeline"][name] for name in ("system", "revision")}
        return snippet(s["model"], lane.recipe, prompt=cell.prompt, seed=cell.seed, **call)

    def table(self) -> str:
        """Return the comparison as an aligned text table."""
        from .report import text_table

        return text_table(self)

    def _files(self) -> dict[str, str]:
        """Return what the files of each lane's pictures begin with: no two alike, and of a length that disks take."""
        found: dict[str, str] = {}
        for lane in self.lanes:
            slug = re.sub(r"[^a-z0-9.=]+", "-", lane.name.lower()).strip("-")[:MOST_LETTERS] or "lane"
            while f"pictures/{slug}" in found.values():
                slug += "x"
            found[lane.name] = f"pictures/{slug}"
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able data; pictures are named as ``save`` names their files."""
        lanes, files = [], self._files()
        for lane in self.lanes:
            row = {k: v for k, v in vars(lane).items() if k != "cells"}
            row["median"], row["speedup_range"] = lane.median, lane.speedup_range
            row["cells"] = [
                {
                    "prompt": cell.prompt,
                    "seed": cell.seed,
                    "scores": {k: None if v is not None and math.isinf(v) else v for k, v in cell.scores.items()},
                    "identical": cell.scores.get("psnr") == math.inf,
                    "picture": f"{files[lane.name]}-{nth}.png",
                }
                for nth, cell in enumerate(lane.cells)
            ]
            lanes.append(row)
        rest = {k: v for k, v in vars(self).items() if k != "lanes"}
        return {"schema": SCHEMA, **rest, "lanes": lanes}

    def save(self, folder: str | Path) -> Path:
        """Write pictures, ``result.json`` and ``report.html``; all of them or nothing. Returns the folder.

        They take the place of those of an earlier comparison; other files that lie beside them stay.

        Raises:
            InputError: the folder cannot be written.
        """
        from .report import html_report

        target = writable(folder)
        try:
            with replacing(target) as made:
                (made / "pictures").mkdir()
                for lane, file in zip(self.lanes, self._files().values(), strict=True):
                    for nth, cell in enumerate(lane.cells):
                        to_image(cell.picture).save(made / f"{file}-{nth}.png")
                text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
                (made / FILE).write_text(text, encoding="utf-8")
                (made / "report.html").write_text(html_report(self), encoding="utf-8")
        except OSError as error:
            raise InputError(f"the folder {target} cannot be written: {error.strerror or error}") from error
        return target

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """Read what ``save`` wrote.

        Raises:
            PresetError: there is no result, it is damaged, or of another version.
        """
        file = Path(path) / FILE if is_folder(path) else Path(path)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if data.get("schema") != SCHEMA:
                raise PresetError(
                    f"{file} is no result of this version: its schema is {data.get('schema')!r}, not {SCHEMA}"
                )
            lanes = [_lane(row, file.parent) for row in data["lanes"]]
            rest = {k: data[k] for k in ("settings", "environment", "created", "unavailable")}
            return _checked(cls(lanes, **rest))
        except OSError as error:
            raise PresetError(f"the result {file} cannot be read: {error.strerror or error}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise PresetError(f"the result {file} is damaged: {type(error).__name__} {error}") from error


def _lane(row: dict[str, Any], folder: Path) -> Lane:
    cells = []
    for cell in row["cells"]:
        scores = dict(cell["scores"])
        if cell["identical"]:
            scores["psnr"] = math.inf
        with Image.open(folder / cell["picture"]) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        cells.append(Cell(cell["prompt"], cell["seed"], scores, pixels))
    known = {k: v for k, v in row.items() if k in Lane.__dataclass_fields__ and k != "cells"}
    return Lane(**known, cells=cells)


def _checked(found: Comparison) -> Comparison:
    """Refuse what a file may lack, but no reader can do without: a baseline, seconds, pictures, settings."""
    from .report import facts

    if not found.lanes or found.lanes[0].role != "baseline":
        raise ValueError("its first lane is no baseline")
    for lane in found.lanes:
        if not lane.seconds or not lane.cells or len(lane.cells) != len(found.lanes[0].cells):
            raise ValueError(f"the lane {lane.name!r} lacks seconds or pictures")
    if missing := [name for name in SETTINGS if name not in found.settings]:
        raise ValueError(f"its settings lack {', '.join(missing)}")
    found.table()  # what cannot be shown is no number
    facts(found.environment, found.settings)
    for lane in found.lanes:
        found.snippet(lane)
    return found


def to_image(picture: Tensor) -> Image.Image:
    """Turn (3, H, W) in [0, 1] into a PIL image."""
    return Image.fromarray((picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def writable(folder: str | Path) -> Path:
    """Return the absolute path of a folder that a result may replace; to be asked before anything runs.

    Raises:
        InputError: it cannot be written, or it holds other files than a comparison's.
    """
    target = full_path(folder)
    check_free(target, _is_ours, "a comparison's", "--out")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {target} cannot be made: {error.strerror or error}; give another --out"
        ) from error
    try:
        tempfile.TemporaryFile(dir=target if target.is_dir() else target.parent).close()
    except OSError as error:
        raise InputError(
            f"the folder {target} cannot be written: {error.strerror or error}; give another one"
        ) from error
    return target


def _is_ours(folder: Path) -> bool:
    """Say whether a folder holds a comparison; other programs write a ``result.json`` too."""
    try:
        return bool(json.loads((folder / FILE).read_text(encoding="utf-8"))["schema"] == SCHEMA)
    except (OSError, ValueError, LookupError, TypeError):
        return False
