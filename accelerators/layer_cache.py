"""Static layer cache: FORA (Selvaraju et al. 2024, https://arxiv.org/abs/2407.01425).

EfficientVLA's cache of its diffusion head (Yang et al. 2025, https://arxiv.org/abs/2506.10100) is the same.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from .knobs import knob
from .module_cache import ModuleCache, Part


@dataclass(frozen=True)
class LayerCache(ModuleCache):
    """Run the attention and the feed-forward of every layer once in a while, and reuse what they gave in between.

    In a layer with modulated norms n and gates g, which always run and so always belong to the present step,

        x = x + g_a * a,    a = attention(n(x)) at every N-th step, else what it gave last,
        x = x + g_m * m,    m = feed_forward(n(x)) likewise.

    Where one projection closes both (FLUX's single blocks), only the attention is reused. FORA counts every N-th step
    from the first; the last step runs here as well. The first steps, which decide the layout, run too: with
    ``warmup=1`` the schedule is the papers'. ``every=1`` computes everything.

    >>> cache = LayerCache(every=3, warmup=1)
    >>> [step for step in range(9) if cache.runs(step, 9)]
    [0, 3, 6, 8]
    """

    name: ClassVar[str] = "layer-cache"
    title: ClassVar[str] = "Layer cache (FORA)"
    paper: ClassVar[str] = "Selvaraju et al. 2024, arXiv:2407.01425; Yang et al. 2025, arXiv:2506.10100"
    neutral: ClassVar[dict[str, Any]] = {"every": 1}
    seat: ClassVar[str] = "attention and feed-forward"
    nodes: ClassVar[int] = 1  # type: ignore[misc]

    every: int = knob(3, "run the modules once in this many steps", low=1, high=10, unit="steps")
    warmup: int = knob(4, "first steps that always run", low=1, high=50, unit="steps")

    def runs(self, step: int, steps: int) -> bool:
        """Tell whether the modules run at *step* (from 0) of a run of so many."""
        return step < self.warmup or step % self.every == 0 or step >= steps - 1

    def computes(self, part: Part, step: int, steps: int) -> bool:
        return self.runs(step, steps)

    def weights_at(self, steps: list[int], where: float) -> tuple[float, ...]:
        return (1.0,)

    def reason(self) -> str:
        return f"attention and feed-forward reused, every {self.every}"

    def idle_because(self, steps: int) -> str:
        if self.every == 1:
            return f"{self} runs every module at every step"
        return f"{self} runs all {steps} steps: {self.warmup} to warm up, every {self.every}th, and the last"
