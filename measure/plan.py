"""Which cells a sweep has, and in which order they are measured: the same for the same settings, always."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .result import Role

SHARE = (0.25, 0.4, 0.5, 0.65, 0.8)  # of the steps, for the line of plainly fewer steps
LANES = 6  # so many lanes share the baseline's rounds: more would lose more work to a crash, fewer cost more baselines
PLAIN = "plain"


@dataclass(frozen=True)
class Planned:
    """A cell to be measured: a recipe with a prompt, a seed and a number of steps."""

    id: str
    recipe: str
    role: Role
    prompt: str
    seed: int
    steps: int


@dataclass(frozen=True)
class Heat:
    """Cells that run interleaved with their baseline, round by round; what a worker is given.

    Attributes:
        cells: of one prompt, seed and number of steps.
    """

    cells: tuple[Planned, ...]


def cell_id(settings: Mapping[str, Any], recipe: str, prompt: str, seed: int, steps: int) -> str:
    """Return the name of a cell: short, and another for everything that changes its picture."""
    key = [recipe, prompt, seed, steps, settings["guidance"], settings["negative"], settings["size"]]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]


def control_steps(steps: int) -> list[int]:
    """Return the numbers of steps of the plain pipeline that stand beside every sweep.

    >>> control_steps(28), control_steps(2)
    ([7, 11, 14, 18, 22], [1])
    """
    return sorted({max(1, round(steps * share)) for share in SHARE} - {steps})


def plan(settings: Mapping[str, Any]) -> list[Planned]:
    """Return all cells, what is dear to change outermost: steps, prompt, seed, recipe."""
    found: dict[str, Planned] = {}
    for steps in settings["steps"]:
        fewer = control_steps(steps) if settings["control"] is None else settings["control"]
        lanes: list[tuple[str, Role]] = [(PLAIN, "baseline")]
        lanes += [(f"fewer-steps:steps={n}", "control") for n in fewer if n < steps]
        lanes += [(recipe, "variant") for recipe in settings["recipes"]]
        for prompt in settings["prompts"]:
            for seed in settings["seeds"]:
                for recipe, role in lanes:
                    id_ = cell_id(settings, recipe, prompt, seed, steps)
                    found.setdefault(id_, Planned(id_, recipe, role, prompt, seed, steps))
    return list(found.values())


def heats(cells: Iterable[Planned], finished: Collection[str]) -> Iterator[Heat]:
    """Group what is not finished into heats, in order."""
    blocks: dict[tuple[int, str, int], list[Planned]] = {}
    for cell in cells:
        if cell.id not in finished:
            blocks.setdefault((cell.steps, cell.prompt, cell.seed), []).append(cell)
    for block in blocks.values():
        yield from _even(block)


def _even(block: Sequence[Planned]) -> Iterator[Heat]:
    parts = -(-len(block) // (LANES + 1))
    size = -(-len(block) // parts)
    for begin in range(0, len(block), size):
        yield Heat(tuple(block[begin : begin + size]))
