"""LeMiCa: lexicographic minimax path caching (Gao et al. 2025, https://arxiv.org/abs/2511.00090)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .knobs import knob
from .output_cache import PLACE, PLACES, MaskedCache
from .predictors import WEIGHTS, weights_of
from .schedules import read_mask


@dataclass(frozen=True)
class LeMiCa(MaskedCache):
    """Run the network at steps that were chosen beforehand, so that the worst skip does the least harm.

    Steps are the nodes of a graph, and a skip from step i to step j an edge whose weight is its measured effect on
    the final latents (section 3.2 of the paper). Of all paths with a given number of computed steps the chosen one
    has the smallest largest weight, then the smallest second largest, and so on (equation 8). `deadheat calibrate
    lemica MODEL` measures the weights and finds the path; presets hold masks that the authors published.

    The paper repeats the last residual of the block stack (``place="stack", order=1``), and the masks its authors
    published were made for that. By default the denoiser's output is continued as a polynomial through the last
    ``order`` computed ones, which works with every network and skips all of it. A mask made for another number of
    steps is stretched. ``mask="all"`` computes everything.

    The default is the authors' mask of 20 in 50 steps for FLUX.1-dev.

    >>> LeMiCa(mask="0-3 6 9", of=10).computed(10)
    (0, 1, 2, 3, 6, 9)
    """

    name: ClassVar[str] = "lemica"
    title: ClassVar[str] = "LeMiCa"
    paper: ClassVar[str] = "Gao et al. 2025, arXiv:2511.00090"
    neutral: ClassVar[dict[str, Any]] = {"mask": "all"}
    seat: ClassVar[str] = "denoiser output"

    mask: str = knob("0-7 9 12 15 19 24 31 38 43 46-49", "computed steps, from 0, as in '0-3 6 9'; or 'all'")
    of: int = knob(50, "how many steps the mask was made for", low=2, high=1000, unit="steps")
    order: int = knob(2, "how many past outputs predict a skipped one", low=1, high=5, unit="outputs")
    axis: str = knob("sigma", "along what the outputs are continued", choices=("sigma", "index"))
    weights: str = knob("lagrange", "how past outputs are continued", choices=WEIGHTS)
    horizon: float = knob(2.0, "damped: how many last distances a line goes on", low=0.0, high=20.0)
    place: str = knob("output", PLACE, choices=PLACES)
    first: int = knob(0, "first blocks that always run, where the stack is replaced", low=0, high=20, unit="blocks")
    last: int = knob(0, "last blocks that always run, where the stack is replaced", low=0, high=20, unit="blocks")

    def __post_init__(self) -> None:
        super().__post_init__()
        read_mask(self.mask, self.of)

    def weights_at(self, nodes: list[float], where: float) -> tuple[float, ...]:
        return weights_of(self.weights, nodes, where, self.horizon)

    def reason(self) -> str:
        return f"not in the mask; order {self.order}"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        said = super().cautions(pipe, steps)
        if self.mask.strip() != "all" and steps != self.of:
            said.append(
                f"the mask was made for {self.of} steps and is stretched to {steps}: "
                f"calibrate it with `deadheat calibrate lemica MODEL --steps {steps}`"
            )
        return said
