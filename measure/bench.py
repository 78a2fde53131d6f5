"""Measures one heat of a sweep on one pipeline: its cells and their baseline, interleaved round by round."""

import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..accelerators import attached, check
from ..pipelines import Cancelled, DeadheatError, Report, UnsupportedError, call_arguments, picture
from ..presets import Recipe
from .broken import BROKEN, sentence, tidy_up
from .environment import hardware
from .metrics import TOGETHER
from .plan import PLAIN, Heat, Planned
from .points import SweepCell
from .result import to_image
from .runner import other_side
from .score import Scorer
from .timing import after_each_step, synchronise

Shot = tuple[SweepCell, bytes | None]  # a finished cell and its picture as PNG
APART = "it is of all pictures of a lane together, and a sweep scores them one by one; compare measures it"
BLURRED = "two runs with the same seed gave different pictures: its faithfulness is blurred by that"


@dataclass(eq=False)
class _Lane:
    """One cell of a heat while it is measured; *planned* is None for a baseline whose cell is there already."""

    recipe: Recipe
    planned: Planned | None
    seconds: list[float] = field(default_factory=list)
    picture: Tensor | None = None
    report: Report | None = None
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    def saw(self, picture: Tensor) -> None:
        if not picture.isfinite().all():
            raise UnsupportedError(BROKEN)
        if self.picture is None:
            self.picture = picture
        elif not self.picture.equal(picture) and BLURRED not in self.warnings:
            self.warnings.append(BLURRED)


class Bench:
    """A pipeline with its stopwatch; keeps in mind what has been warmed up.

    Args:
        pipe: the pipeline; it stays untouched, accelerators stand in its twin.
        settings: the sweep's settings.
        stop: asked after every step whether to stop.

    Attributes:
        machine: on what it measures, as its cells say it.
        unavailable: metric -> why it cannot be had here.
    """

    def __init__(self, pipe: Any, settings: Mapping[str, Any], stop: Callable[[], bool] | None = None) -> None:
        self.pipe, self.settings = pipe, settings
        self.scorer = Scorer([metric for metric in settings["metrics"] if metric not in TOGETHER], pipe)
        apart = [metric for metric in settings["metrics"] if metric in TOGETHER]
        self.unavailable = {**self.scorer.unavailable, **dict.fromkeys(apart, APART)}
        self._stop = stop
        self._warm: set[tuple[str, int]] = set()
        self._other = other_side(pipe)
        found = hardware()
        self.machine = found["gpu"] or f"{found['processor']}, {torch.get_num_threads()} threads"

    def heat(self, heat: Heat) -> list[Shot]:
        """Measure the cells of a heat; one that fails says why, and the others go on.

        Raises:
            Cancelled: *stop* said so; the pipeline is as it was.
        """
        lanes = [self._lane(cell) for cell in heat.cells]
        first = heat.cells[0]
        plain = next((lane for lane in lanes if lane.planned and lane.planned.role == "baseline"), None)
        if plain is None and any(lane.error is None for lane in lanes):
            plain = _Lane(Recipe(), None)
            lanes.insert(0, plain)
        for lane in lanes:
            self._guarded(lane, first, self._warm_up)
        for turn in range(self.settings["repeats"]):
            at = turn % len(lanes)
            for lane in [*lanes[at:], *lanes[:at]]:
                self._guarded(lane, first, self._round)
        return self._scored(lanes, plain)

    def _lane(self, cell: Planned) -> _Lane:
        lane = _Lane(Recipe(), cell)
        if cell.recipe == PLAIN:
            return lane
        try:
            lane.recipe = Recipe.parse(cell.recipe)
            check(lane.recipe.accelerators, self.pipe)
        except DeadheatError as error:
            lane.error = str(error)
        return lane

    def _guarded(self, lane: _Lane, cell: Planned, run: Callable[[_Lane, Planned], None]) -> None:
        if lane.error is not None:
            return
        try:
            run(lane, cell)
        except Cancelled:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a pipeline raises belongs into its cell; the sweep goes on
            lane.error = sentence(error)
            tidy_up(error)

    def _warm_up(self, lane: _Lane, cell: Planned) -> None:
        """Run once untimed whatever this process has not run yet; the baseline's calls are counted in such a run."""
        key = (str(lane.recipe), cell.steps)
        if key in self._warm and (lane.recipe.accelerators or lane.planned is None):
            return
        with attached(self._pipe(lane), *lane.recipe.accelerators) as session:
            lane.saw(self._draw(lane, cell))
        lane.report = session.report()
        self._warm.add(key)

    def _round(self, lane: _Lane, cell: Planned) -> None:
        """Run once with the stopwatch; the baseline carries nothing but what every side carries."""
        with ExitStack() as stack:
            recipe, session = lane.recipe, None
            if recipe.accelerators:
                session = stack.enter_context(attached(self._pipe(lane), *recipe.accelerators))
            synchronise(self._pipe(lane))
            begin = time.perf_counter()
            picture = self._draw(lane, cell)
            lane.seconds.append(time.perf_counter() - begin)
        lane.saw(picture)
        if session is not None:
            lane.report = session.report()

    def _draw(self, lane: _Lane, cell: Planned) -> Tensor:
        pipe, s = self._pipe(lane), self.settings
        size = tuple(s["size"]) if s["size"] else None
        arguments = call_arguments(pipe, prompt=cell.prompt, negative=s["negative"], steps=cell.steps,
                                   guidance=s["guidance"], size=size, seed=cell.seed)  # fmt: skip
        with after_each_step(pipe, self._look if self._stop else None):
            output = pipe(**arguments)
            synchronise(pipe)
        return picture(output)

    def _look(self, _step: int, _latents: Tensor) -> None:
        if self._stop is not None and self._stop():
            raise Cancelled("the sweep was stopped; the same command goes on with it")

    def _pipe(self, lane: _Lane) -> Any:
        return self._other if lane.recipe.accelerators else self.pipe

    def _scored(self, lanes: list[_Lane], plain: _Lane | None) -> list[Shot]:
        if plain is not None and plain.error is not None:
            for lane in lanes:
                lane.error = lane.error or f"the baseline failed: {plain.error}"
        return [self._shot(lane, plain) for lane in lanes if lane.planned is not None]

    def _scores(self, prompt: str, lane: _Lane, truth: Tensor) -> dict[str, float | None]:
        """Score one picture; a metric that fails says so, and the cell keeps its time and its other scores."""
        assert lane.picture is not None
        scores: dict[str, float | None] = dict.fromkeys(self.settings["metrics"])
        for metric, score in self.scorer.columns([prompt], [lane.picture], [truth]):
            try:
                (value,) = score()
                if value is not None and math.isnan(value):
                    raise ArithmeticError("it is no number for this picture")
                scores[metric] = value
            except Exception as error:  # noqa: BLE001 - whatever a metric raises belongs into its cell; the sweep goes on
                lane.warnings.append(f"{metric} failed: {sentence(error)}")
                tidy_up(error)
        return scores

    def _shot(self, lane: _Lane, plain: _Lane | None) -> Shot:
        planned, report, picture = lane.planned, lane.report, lane.picture
        assert planned is not None
        if lane.error is not None or report is None or picture is None or plain is None or plain.picture is None:
            return SweepCell.failed(planned, lane.error or "it never ran", self.machine), None
        scores = self._scores(planned.prompt, lane, plain.picture)
        cell = SweepCell(
            **asdict(planned), seconds=lane.seconds, baseline_seconds=list(plain.seconds), calls=report.calls,
            asked=report.asked, actions=[str(step.action) for step in report.steps], scores=scores,
            identical=plain.picture.equal(picture), cache_bytes=report.cache_bytes,
            picture=f"pictures/{planned.id}.png", warnings=[*report.warnings, *lane.warnings], machine=self.machine,
        )  # fmt: skip
        file = io.BytesIO()
        to_image(picture).save(file, "PNG")
        return cell, file.getvalue()
