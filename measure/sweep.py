"""Measure many recipes with many prompts, seeds and numbers of steps, and lose nothing on the way."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..pipelines import InputError, check_name, is_folder
from .bench import Shot
from .cells import Sweep
from .crew import Hello, Job, Processes, Together, alone
from .plan import Heat, heats, plan
from .points import SweepCell
from .sweep_file import SweepFile, check_same, check_same_ground
from .sweep_settings import name_of, sweep_settings


@dataclass(frozen=True)
class Progress:
    """How far a sweep has come.

    Attributes:
        done, total: finished cells, those of earlier runs too, and all cells; failed: how many of them failed.
        seconds_left: a guess from the work done so far, None at the beginning.
        cell: the cell that has just been finished, None at the beginning.
    """

    done: int
    total: int
    failed: int
    seconds_left: float | None
    cell: SweepCell | None


def sweep(
    pipe_or_model: Any,
    recipes: Any,
    *,
    prompts: Sequence[str],
    out: str | Path,
    seeds: Sequence[int] = (0,),
    steps: int | Sequence[int] = 28,
    guidance: float | None = None,
    negative: str | None = None,
    size: tuple[int, int] | None = None,
    metrics: Sequence[str] = ("psnr", "ssim", "adherence"),
    repeats: int = 3,
    control: Sequence[int] | None = None,
    workers: int = 0,
    ray: bool | str = False,
    watch: Callable[[Progress], object] | None = None,
    stop: Callable[[], bool] | None = None,
    **switches: Any,
) -> Sweep:
    """Measure every recipe with every prompt, seed and number of steps, and plain runs beside them.

    Cells run in heats of a few recipes, each interleaved with the baseline of the same prompt, seed and steps, so that
    speed-ups stay true on a machine that is busy with other things. What is finished is in *out* at once: a sweep that
    was stopped or killed goes on when it is called again with the same values. A cell that fails says why, and the
    others go on.

    Args:
        pipe_or_model: a pipeline, or what ``load`` takes; several workers need a name.
        recipes: recipes, accelerators, presets' names, TOML paths, or recipe texts, in which a knob may have several
            values: ``"ab-cache:every=2..5,order=1|2"``; see ``measure.grammar``.
        prompts: what to draw.
        out: folder for ``sweep.jsonl`` and the pictures.
        seeds: with which noise.
        steps: denoising steps; one number or several.
        guidance: guidance scale, None is the model's own.
        negative: what not to draw.
        size: (width, height) in pixels, None is the model's own.
        metrics: of ``measure.METRICS``.
        repeats: timed rounds of a heat.
        control: at which fewer steps the plain pipeline stands beside the recipes; None chooses five.
        workers: local processes, each with a model of its own; 0 measures in this one.
        ray: measure on a Ray cluster: True finds or starts one, or its address.
        watch: called at the beginning and after every cell.
        stop: asked after every step whether to stop; what was finished is kept.
        **switches: further arguments for ``load``, where it is to load a name: ``device="cuda"``.

    Returns:
        All cells that are finished, those of earlier runs too.

    Raises:
        InputError, KnobError, PresetError: before anything runs; also if *out* holds another sweep, or another process
            writes there.
        Cancelled: *stop* said so; the same call goes on.
    """
    if isinstance(pipe_or_model, (str, Path)):
        check_name(str(pipe_or_model))
    settings = sweep_settings(
        pipe_or_model, recipes, prompts=prompts, seeds=seeds, steps=steps, guidance=guidance, negative=negative,
        size=size, metrics=metrics, repeats=repeats, control=control,
    )  # fmt: skip
    several = workers > 1 or ray is not False
    if several and not isinstance(pipe_or_model, (str, Path)):
        raise InputError("several workers load the model themselves: give its name or folder, not a pipeline")
    if not 0 <= workers <= 1024:
        raise InputError(f"workers is {workers}, not between 0 and 1024")
    job = Job(_place(pipe_or_model), switches, settings, workers)
    with SweepFile(out) as file:
        driver = _Driver(file, {"model": name_of(pipe_or_model), "settings": settings}, watch)
        left = driver.left()
        if left:
            driver.take(_crew(job, left, ray, stop))
        return file.load()


class _Driver:
    """The one who writes: knows what is done, and tells how far it is."""

    def __init__(self, file: SweepFile, head: dict[str, Any], watch: Callable[[Progress], object] | None) -> None:
        self._file, self._head, self._watch = file, head, watch
        self._cells = plan(head["settings"])
        self._header = file.header()
        if self._header is not None:
            check_same(self._header, head, file.folder)
        finished = file.load().cells if self._header is not None else []
        self._done = {cell.id for cell in finished}
        self._failed = sum(cell.error is not None for cell in finished)
        self._begin: float | None = None
        self._work_done = 0

    def left(self) -> list[Heat]:
        """Return what is still to be measured."""
        return list(heats(self._cells, self._done))

    def take(self, outcomes: Generator[Hello | list[Shot]]) -> None:
        """Write down what comes."""
        self._tell(None)
        with closing(outcomes):  # workers go home at once, whatever happens here
            for outcome in outcomes:
                if isinstance(outcome, Hello):
                    self._greet(outcome)
                else:
                    self._keep(outcome)

    def _keep(self, shots: list[Shot]) -> None:
        self._file.add(shots)
        self._work_done += sum(cell.steps for cell, _ in shots)
        for cell, _ in shots:
            self._done.add(cell.id)
            self._failed += cell.error is not None
            self._tell(cell)

    def _greet(self, hello: Hello) -> None:
        """Begin the file with where it is measured, or check that it is still the same."""
        self._begin = self._begin or time.monotonic()
        if self._header is None:
            created = datetime.now(UTC).isoformat(timespec="seconds")
            self._header = {**self._head, **vars(hello), "created": created}
            self._file.begin(self._header)
        check_same_ground(self._header, hello.environment, self._file.folder)

    def _tell(self, cell: SweepCell | None) -> None:
        if self._watch is None:
            return
        left = None
        if self._begin is not None and self._work_done:
            work_left = sum(planned.steps for planned in self._cells if planned.id not in self._done)
            left = (time.monotonic() - self._begin) * work_left / self._work_done
        self._watch(Progress(len(self._done), len(self._cells), self._failed, left, cell))


def _crew(
    job: Job, left: Sequence[Heat], ray: bool | str, stop: Callable[[], bool] | None
) -> Generator[Hello | list[Shot]]:
    if ray is not False:
        from .ray_hands import RayHands

        return Together(RayHands(job, "" if ray is True else ray), left, stop).run()
    if job.workers > 1:
        shared = replace(job, threads=max(1, torch.get_num_threads() // job.workers))
        return Together(Processes(shared), left, stop).run()
    return alone(job, left, stop)


def _place(pipe_or_model: Any) -> Any:
    """Return what a worker can load wherever it runs: a folder in full."""
    folder = isinstance(pipe_or_model, (str, Path)) and is_folder(pipe_or_model)
    return str(Path(pipe_or_model).absolute()) if folder else pipe_or_model
