"""Races the lanes of a comparison, and chooses the plain runs that take as long as its variants."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..accelerators import FewerSteps
from ..presets import Recipe
from .result import Lane, Role
from .runner import Runner

CONTROL = "{} steps"  # what a control is called


@dataclass(eq=False)
class Trial:
    """One comparison while it runs."""

    runner: Runner
    cells: list[tuple[str, int]]
    lanes: list[Lane] = field(default_factory=list)
    shots: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    stages: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    beside: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, recipe: Recipe, role: Role, name: str) -> Lane:
        """Add a lane and warm it up: one run, counted, not timed."""
        lane = Lane(name, str(recipe), role)
        self.runner.recipes[name] = recipe
        self.runner.phase = "warm-up"
        picture, report = self.runner.counted(lane, self.cells[0])
        self.shots[name, 0] = picture
        lane.calls, lane.asked, lane.cache_bytes = report.calls, report.asked, report.cache_bytes
        lane.steps, lane.warnings = report.to_dict()["steps"], list(report.warnings)
        self.lanes.append(lane)
        return lane

    def race(self, lanes: Sequence[Lane], rounds: int, timed: Sequence[Lane] | None = None) -> None:
        """Run all *lanes* once a round, interleaved, in an order that turns, each round on the next cell.

        The baseline is one of them. Only the lanes *timed*, or all, keep what they took, each beside the baseline's
        seconds of the same round.
        """
        self.runner.phase, self.runner.rounds = "timed", rounds
        for turn in range(rounds):
            self.runner.round, at = turn + 1, turn % len(self.cells)
            took: dict[str, tuple[float, dict[str, float]]] = {}
            first = turn % len(lanes)
            for lane in [*lanes[first:], *lanes[:first]]:
                picture, seconds, stages = self.runner.timed(lane, self.cells[at])
                took[lane.name] = seconds, stages
                self._compare_with_warm_up(lane, at, picture)
                self.shots.setdefault((lane.name, at), picture)
            for lane in timed or lanes:
                seconds, stages = took[lane.name]
                lane.seconds.append(seconds)
                self.beside.setdefault(lane.name, []).append((took["baseline"][0], seconds))
                self.stages.setdefault(lane.name, []).append(stages)

    def speedup(self, lane: Lane) -> float:
        """Return the baseline's median seconds over the lane's, of the same rounds."""
        plain, own = zip(*self.beside[lane.name], strict=True)
        return statistics.median(plain) / statistics.median(own)

    def asked(self, lane: Lane) -> int:
        """Return the steps that a control asks for; some schedulers call the network more often than that."""
        (fewer,) = self.runner.recipes[lane.name].accelerators
        assert isinstance(fewer, FewerSteps)
        return fewer.steps

    def _compare_with_warm_up(self, lane: Lane, at: int, picture: Tensor) -> None:
        picture = picture.nan_to_num()
        before = self.shots.get((lane.name, at))
        said = "two runs with the same seed gave different pictures: its faithfulness is blurred by that"
        if before is not None and not before.nan_to_num().equal(picture) and said not in lane.warnings:
            lane.warnings.append(said)

    def fixed_and_step(self) -> tuple[float, float]:
        """Return the baseline's seconds outside denoising, and its seconds a step that was asked for."""
        stages, steps = self.stages["baseline"], self.runner.settings["steps"]
        fixed = statistics.median(s["text"] + s["decode"] for s in stages)
        return fixed, statistics.median(s["denoise"] for s in stages) / steps


def run(trial: Trial, recipes: Sequence[Recipe], repeats: int, control: bool) -> None:
    """Warm up, choose the controls, race, and put right a control that came out slower than its variant."""
    baseline = trial.add(Recipe(), "baseline", "baseline")
    for recipe in recipes:
        names = {lane.name for lane in trial.lanes}
        name = recipe.title or str(recipe)
        taken = name in names or re.fullmatch(CONTROL.format(r"\d+"), name)
        trial.add(recipe, "variant", f"{name} ({len(names)})" if taken else name)
    if control:
        trial.race(trial.lanes, 1)  # a first look, to know which controls to run beside them
        _set_controls(trial)
        for lane in trial.lanes:
            lane.seconds.clear()
        trial.stages.clear()
        trial.beside.clear()
    trial.race(trial.lanes, repeats)
    for _ in range(2 if control else 0):
        late = _set_controls(trial)
        if not late:
            break
        trial.race([baseline, *late], repeats, timed=late)
    _settle_controls(trial)
    used = {lane.control for lane in trial.lanes}
    trial.lanes = [lane for lane in _in_order(trial.lanes) if lane.role != "control" or lane.name in used]
    for lane in trial.lanes:
        lane.speedup = trial.speedup(lane)
        lane.ratios = [whole / part for whole, part in trial.beside[lane.name]]
        stages = trial.stages[lane.name]
        lane.stages = {name: statistics.median(s[name] for s in stages) for name in ("text", "denoise", "decode")}


def _set_controls(trial: Trial) -> list[Lane]:
    """Give each variant the plain pipeline at the steps that fit into its seconds; returns lanes still to be timed."""
    fixed, step = trial.fixed_and_step()
    steps, new = trial.runner.settings["steps"], []
    for lane in [lane for lane in trial.lanes if lane.role == "variant"]:
        if any(isinstance(a, FewerSteps) for a in trial.runner.recipes[lane.name].accelerators):
            lane.note = "is itself plainly fewer steps"
            continue
        fit = math.floor((lane.median - fixed) / step + 1e-9)
        now = _timed_control(trial, lane)
        if now is not None:  # what was measured counts for more than what was reckoned
            here = trial.asked(now)
            slower = trial.speedup(now) < trial.speedup(lane)
            fit = here - 1 if slower else max(here, min(fit, here + 1))
        if fit >= steps or fit < 1:
            lane.control, lane.note = (
                "",
                "no faster than the plain pipeline" if fit >= steps else "below one plain step",
            )
            continue
        name = CONTROL.format(fit)
        lane.control = name
        if all(other.name != name for other in trial.lanes):
            new.append(trial.add(Recipe((FewerSteps(steps=fit),)), "control", name))
    return new


def _timed_control(trial: Trial, lane: Lane) -> Lane | None:
    found = [other for other in trial.lanes if other.name == lane.control and other.seconds]
    return found[0] if found else None


def _settle_controls(trial: Trial) -> None:
    """Of the controls that were timed, give each variant the slowest that is not slower than itself.

    Compared are speed-ups, as a control that was timed later may have met the machine at another pace.
    """
    timed = [lane for lane in trial.lanes if lane.role == "control" and lane.seconds]
    for lane in [lane for lane in trial.lanes if lane.control]:
        own = trial.speedup(lane)
        fits = [other for other in timed if trial.speedup(other) >= own]
        best = min(fits, key=trial.speedup, default=None)
        if best is None:
            best = max(timed, key=trial.speedup)
            lane.note = f"its control took {own / trial.speedup(best) - 1:.0%} longer"
        lane.control = best.name


def _in_order(lanes: list[Lane]) -> list[Lane]:
    """Put each control behind the first variant that it belongs to."""
    placed: list[Lane] = []
    by_name = {lane.name: lane for lane in lanes}
    for lane in (lane for lane in lanes if lane.role != "control"):
        placed.append(lane)
        if lane.control and by_name[lane.control] not in placed:
            placed.append(by_name[lane.control])
    return placed
