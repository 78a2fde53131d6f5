"""What `tune` searches: lines of settings, each from faithful to fast, of all that fits a pipeline.

A line is one method, or a sensible combination, with one knob that trades closeness for time. What stands further up
is tried first. Beside the table: the fitted cache, calibrated on the spot, with every number of calls, alone and with
less guidance; LeMiCa with the same masks; the guidance adapter where a model has one, alone and under a fitted cache
that was calibrated with it; plainly fewer steps; and every preset of the model. What serves editing is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..accelerators import ACCELERATORS, FewerSteps, FittedCache, LeMiCa, check
from ..accelerators.schedules import write_mask
from ..pipelines import IncompatibleError, InputError, UnsupportedError, family, model_name
from ..presets import Recipe, own_presets
from .fit import Recording, best_steps, fitted

Record = Callable[[Recipe], Recording]

COMBINED = (  # recipes that a fitted cache is combined with: in front of it, behind it
    ("", "guidance-cache"),
    ("guidance-cutoff:after=0.9", ""),
    ("guidance-cutoff:after=0.8", ""),
)
TABLE: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("ab-cache:every={}", (2, 3, 4, 5)),
    ("ab-cache:every={},warmup=3,order=3", (2, 3, 4)),
    ("easy-cache:threshold={}", (0.02, 0.035, 0.05, 0.08, 0.12, 0.2)),
    ("easy-cache:threshold={} + guidance-cache", (0.02, 0.035, 0.05, 0.08, 0.12, 0.2)),
    ("sada:start=0.2,most={}", (1, 2, 3, 4)),
    ("teacache:threshold={},order=2", (0.03, 0.05, 0.08, 0.12, 0.2)),
    ("sea-cache:threshold={},most=4", (0.1, 0.15, 0.25, 0.4, 0.6)),
    ("first-block-cache:threshold={}", (0.05, 0.08, 0.12, 0.2)),
    ("db-cache:threshold={}", (0.04, 0.08, 0.12, 0.2)),
    ("clockwork:clock={},order=2", (2, 3, 4, 6)),
    ("deepcache:every={},order=2", (2, 3, 4, 6)),
    ("encoder-propagation:every={}", (2, 3, 4)),
    ("taylor-seer:every={}", (2, 3, 4, 5)),
    ("layer-cache:every={}", (2, 3, 4)),
    ("faster-cache:every={}", (2, 3)),
    ("pyramid-attention-broadcast:self_every={}", (2, 3, 4)),
    ("guidance-cache:every={}", (2, 3, 4, 6)),
    ("guidance-cutoff:after={}", (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)),
    ("guidance-interval:start=0.05,stop={}", (0.9, 0.8, 0.7, 0.6, 0.5)),
    ("guidance-cutoff:after={} + ab-cache", (0.95, 0.9, 0.8, 0.7, 0.6)),
    ("adaptive-guidance:again={}", (2, 3, 4, 6)),
    ("t-gate:gate={}", (0.8, 0.6, 0.5, 0.4)),
    ("region-adaptive:ratio={}", (0.7, 0.5, 0.3)),
    ("token-merging:ratio={}", (0.2, 0.35, 0.5)),
    ("token-carving:keep={}", (0.5, 0.25)),
    ("progressive-resolution:until={}", (0.1, 0.2, 0.3, 0.4)),
    ("bottleneck:up={}", (0.9, 0.75, 0.6)),
)
FEWER = "fewer-steps"
GUIDANCE = ("guidance", "t-gate", "adaptive-guidance")  # of no use where nothing is guided
MOST_CALLS, LEAST_CALLS = 0.8, 0.25  # of the steps
LONGEST = 7  # steps between computed ones


@dataclass(frozen=True)
class Line:
    """Settings of one method or combination, from faithful to fast."""

    name: str
    recipes: tuple[Recipe, ...]


@dataclass
class Space:
    """The lines that fit a pipeline, and why others do not.

    Attributes:
        lines: what can be tried, most promising first.
        left_out: line -> why it is not tried.
    """

    lines: list[Line] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, pipe: Any, name: str, recipes: Callable[..., tuple[Recipe, ...]]) -> None:
        """Add a line if it can run, else say why not."""
        try:
            made = recipes()
            for recipe in made[:1]:
                check(recipe.accelerators, pipe)
        except (UnsupportedError, IncompatibleError, InputError) as error:
            self.left_out[name] = str(error)
            return
        if made:
            self.lines.append(Line(name, made))


def search_space(pipe: Any, steps: int, record: Record, *, guided: bool = True) -> Space:
    """Return all that is worth trying with a pipeline.

    Args:
        pipe: any diffusers pipeline.
        steps: denoising steps.
        record: records runs with a recipe attached; a fitted cache learns from it.
        guided: whether the pipeline runs with classifier-free guidance.
    """
    space, budgets = Space(), _budgets(steps)
    recordings: dict[str, Recording] = {}

    def known(before: str) -> Recording:
        learnt = before if before in ACCELERATORS else ""  # another denoiser has other outputs
        return _once(recordings, learnt, pipe, record)

    space.add(pipe, "fitted-cache", lambda: _fitted_line("", "", budgets, known("")))
    space.add(pipe, FEWER, lambda: tuple(Recipe((FewerSteps(steps=n),), f"{n} plain steps") for n in budgets))
    for before, behind in [*_adapted(), *(COMBINED if guided else ())]:
        name = " + ".join(filter(None, (before, "fitted-cache", behind)))
        space.add(pipe, name, lambda b=before, a=behind: _fitted_line(b, a, budgets, known(b)))
    space.add(pipe, "lemica", lambda: _lemica_line(budgets, known("")))
    for name, _ in _adapted():
        space.add(pipe, name, lambda n=name: (Recipe.parse(n),))
    for text, values in TABLE:
        if guided or not any(part in text for part in GUIDANCE):
            space.add(pipe, text.replace("={}", ""), lambda t=text, v=values: _row(t, v))
    for name, recipe in own_presets(model_name(pipe), family(pipe).name).items():
        if not any(isinstance(a, FittedCache) for a in recipe.accelerators):
            space.add(pipe, f"preset {name}", lambda r=recipe: (r,))
    return space


def _adapted() -> list[tuple[str, str]]:
    return [("guidance-adapter", "")] if "guidance-adapter" in ACCELERATORS else []


def _once(recordings: dict[str, Recording], text: str, pipe: Any, record: Record) -> Recording:
    if text not in recordings:
        recipe = Recipe.parse(text) if text else Recipe()
        check(recipe.accelerators, pipe)
        recordings[text] = record(recipe)
    return recordings[text]


def _row(text: str, values: tuple[float, ...]) -> tuple[Recipe, ...]:
    return tuple(Recipe.parse(text.format(value)) for value in values)


def _budgets(steps: int) -> list[int]:
    """Return numbers of steps to compute, from many to few.

    >>> _budgets(28)
    [22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7]
    """
    stride = max(1, round(steps / 28))
    return list(range(int(MOST_CALLS * steps), max(1, int(LEAST_CALLS * steps)) - 1, -stride))


def _possible(budgets: list[int], steps: int) -> list[int]:
    least = max(2, 1 + -(-(steps - 1) // LONGEST))
    found = [calls for calls in budgets if least <= calls < steps]
    if not found:
        raise InputError(f"{steps} steps leave nothing to choose")
    return found


def _fitted_line(before: str, behind: str, budgets: list[int], recording: Recording) -> tuple[Recipe, ...]:
    made = []
    for calls in _possible(budgets, recording.steps):
        cache = fitted(recording, calls, longest=LONGEST)
        outer, inner = (Recipe.parse(text).accelerators if text else () for text in (before, behind))
        title = " + ".join(filter(None, (before, f"fitted-cache {calls} of {recording.steps}", behind)))
        made.append(Recipe((*outer, cache, *inner), title))
    return tuple(made)


def _lemica_line(budgets: list[int], recording: Recording) -> tuple[Recipe, ...]:
    steps = recording.steps
    paths = [best_steps(recording, calls, longest=LONGEST) for calls in _possible(budgets, steps)]
    return tuple(
        Recipe((LeMiCa(mask=write_mask(path), of=steps),), f"lemica {len(path)} of {steps}") for path in paths
    )
