"""Plainly fewer steps: the control that every accelerator has to beat."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..pipelines import Stage, patched
from .base import Accelerator
from .knobs import knob


@dataclass(frozen=True)
class FewerSteps(Accelerator):
    """Run the untouched pipeline with fewer steps, whatever number it was asked for.

    Bit-identical to calling the pipeline with ``num_inference_steps=steps``. No equation: it is the honest control
    of every comparison. A number of steps not below the one asked for changes nothing.
    """

    name: ClassVar[str] = "fewer-steps"
    title: ClassVar[str] = "Fewer steps"
    paper: ClassVar[str] = "the control: no method at all"
    neutral: ClassVar[dict[str, Any]] = {"steps": 1000}
    seat: ClassVar[str] = "number of steps"

    steps: int = knob(14, "steps to take instead", low=1, high=1000, unit="steps")

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if hasattr(pipe, "get_timesteps"):
            return "image to image counts its steps by itself; call it with fewer num_inference_steps instead"
        return None

    def idle_because(self, steps: int) -> str:
        return f"{self} is not fewer than {steps}"

    def attach(self, stage: Stage) -> AbstractContextManager[None]:
        def fewer(set_timesteps: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(num_inference_steps: int | None = None, *args: Any, **kwargs: Any) -> Any:
                grids = {name: kwargs[name] for name in ("sigmas", "timesteps") if kwargs.get(name) is not None}
                kwargs |= {name: _thinned(grid, self.steps) for name, grid in grids.items()}
                asked = num_inference_steps or max(map(len, grids.values()), default=0)
                given = num_inference_steps and min(num_inference_steps, self.steps)
                result = set_timesteps(given, *args, **kwargs)
                if asked > self.steps:
                    stage.runs[-1].acted.add(self.name)
                return result

            return wrapped

        return patched(stage.pipe.scheduler, "set_timesteps", fewer)


def _thinned(grid: Sequence[float], steps: int) -> Any:
    """Return a grid of so many points; the even one that pipelines make (1 to 1/N) is made anew, as they would."""
    if len(grid) <= steps:
        return grid
    if np.allclose(grid, np.linspace(1.0, 1 / len(grid), len(grid))):
        return np.linspace(1.0, 1 / steps, steps)
    kept = np.linspace(0, len(grid) - 1, steps).round().astype(int)
    return [grid[i] for i in kept]
