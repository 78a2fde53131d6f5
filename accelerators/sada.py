"""SADA: stability-guided adaptive diffusion acceleration (Jiang et al. 2025, https://arxiv.org/abs/2507.17135)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..pipelines import (
    Call,
    KnobError,
    RunTokens,
    Stage,
    around_steps,
    around_token_modules,
    no_token_modules,
    unsolved,
)
from .base import Accelerator
from .knobs import knob
from .trajectory import Trajectory
from .worth import seldom_pays


@dataclass(frozen=True)
class SADA(Accelerator):
    """Skip the call after a step on which the solver stayed on the safe side of its own forecast.

    With x the latents in units in which the solver's ODE is dx/dsigma = y (``pipelines/solver.py``), h the step in
    sigma, and y, y', y'' the slopes of the present step and the two before,

        x_hat = x + h (5/6 y + 5/6 y' - 2/3 y'')           ("code": 5/8, 3/4, -3/8)
        stable  if  mean((x_next - x_hat) (y - 2 y' + y'')) <= 0,

    x_next being what the solver made of the step. A skipped step keeps the last outputs of the network, so that
    guidance is as it was, and then the prediction is replaced: by one that stands for the picture which the last
    prediction e makes of x_hat, x0 = (x_hat - sigma e) / alpha (``fill="state"``, the paper's); by the slope
    2 y - y', and y from the second skip in a row (``"slope"``, the official code's for flow matching, which asks
    mean(y - 2 y' + y'') >= 0: ``criterion="curvature"``); or by the line in sigma through the slopes of the last two
    computed steps (``"line"``). Late in the run every ``every``-th step is computed, stable or not, and x0 is
    continued as a polynomial through the last ``terms`` of them (the paper's multistep approximation); with
    ``fill="slope"`` this sets the cadence only, and the slope goes on as before, as in the official code for flow
    matching.

    At an unstable step ``tokens`` below 1 runs the modules that work token by token only where the product above is
    positive (and everywhere in turn); the other tokens keep their last outputs. Such a step counts as a whole call.

    One decision holds for all pictures of a batch. ``most=0`` and ``start=stop`` compute everything.

    On pocket-dit (28 Euler steps) the criterion called every computed step in the window stable, with either set of
    coefficients. The line was 5 dB above the paper's fill in the mean, and 3 on the worst prompt; the multistep
    rule and ``tokens`` cost quality and saved nothing, so they are off. What is left there is AB-Cache's line inside
    a window. The official code's preset is ``fill="state", coefficients="code", start=0.2, most=4, late=0.48,
    every=4, terms=4``; for flow matching ``criterion="curvature", fill="slope"``.

    >>> SADA(start=0.2, stop=0.9).window(20)
    range(4, 18)
    """

    name: ClassVar[str] = "sada"
    title: ClassVar[str] = "SADA"
    paper: ClassVar[str] = "Jiang et al. 2025, arXiv:2507.17135"
    neutral: ClassVar[dict[str, Any]] = {"most": 0}
    seat: ClassVar[str] = "denoiser output"
    # what such a cache predicts is smooth, and smooth is what stable means here
    excludes: ClassVar[frozenset[str]] = frozenset({"deep part of the UNet", "block stack"})

    criterion: str = knob("residual", "what tells a stable step", choices=("residual", "curvature"))
    coefficients: str = knob("paper", "weights of the three slopes", choices=("paper", "code"))
    fill: str = knob("line", "what a skipped step gets", choices=("line", "state", "slope"))
    most: int = knob(2, "most steps skipped in a row", low=0, high=20, unit="steps")
    start: float = knob(0.3, "part of the run before which nothing is skipped", low=0.0, high=1.0, unit="of the run")
    stop: float = knob(0.94, "part of the run after which nothing is skipped", low=0.0, high=1.0, unit="of the run")
    late: float = knob(1.0, "part of the run after which multistep rules", low=0.0, high=1.0, unit="of the run")
    every: int = knob(2, "multistep: compute once in this many steps", low=1, high=10, unit="steps")
    terms: int = knob(2, "multistep: computed pictures that x0 is continued through", low=1, high=5, unit="pictures")
    tokens: float = knob(1.0, "tokens that run at an unstable step, at most", low=0.05, high=1.0, unit="of all")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start > self.stop:
            raise KnobError(f"SADA.start is {self.start}, after stop, which is {self.stop}: swap them")

    def window(self, steps: int) -> range:
        """Return the steps of a run of so many at which a call may be skipped; never the last step."""
        inside = [step for step in range(steps - 1) if self.start * steps <= step < self.stop * steps]
        return range(inside[0], inside[-1] + 1) if inside and self.most else range(0)

    def multistep(self, step: int, steps: int) -> bool:
        """Tell whether the multistep rule holds at *step* of a run of so many."""
        return step >= self.late * steps

    @property
    def continues_pictures(self) -> bool:
        """Whether the multistep rule says what a skipped step gets, and not only which step is skipped."""
        return self.fill != "slope"

    def cadence(self, step: int) -> bool:
        """Tell whether *step* is one that the multistep rule computes."""
        return (step - 1) % self.every == 0

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        return unsolved(pipe.scheduler)

    def refusal(self, pipe: Any) -> str | None:
        if (why := super().refusal(pipe)) is None and self.tokens < 1 and (why := no_token_modules(pipe)) is not None:
            return f"{why}: use tokens=1"
        return why

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = seldom_pays(self, pipe, steps) if self.window(steps) else []
        first_order = pipe.scheduler.config.get("solver_order", 1) == 1
        if first_order and self.coefficients == "code" and self.criterion == "residual":
            said.append(f'after {type(pipe.scheduler).__name__} every step looks stable to coefficients="code"')
        return said

    def idle_because(self, steps: int) -> str:
        if not self.window(steps):
            return f"{self} may skip none of {steps} steps"
        return f"{self} found no stable step where it may skip one, in {steps} steps"

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        scheduler, layout = stage.pipe.scheduler, stage.family.latents
        with around_steps(stage, lambda link: Trajectory(self, link, scheduler, layout)) as present:
            if self.tokens == 1:
                yield
                return

            def around(name: str, call: Call, hidden: Tensor, run: RunTokens) -> Tensor:
                return run(None) if (walk := present()) is None else walk.tokens(name, call, hidden, run)

            with around_token_modules(stage, around):
                yield
