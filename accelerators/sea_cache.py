"""SeaCache, spectral-evolution-aware caching (Chung et al. 2026, https://arxiv.org/abs/2602.18993), from diffusers."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import CacheMixin, SeaCacheConfig
from diffusers.hooks import HookRegistry, apply_sea_cache
from torch import Tensor, nn

from ..pipelines import Around, Call, Family, Latents, Link, Network, extent, preserved, why_no_stack
from .block_hooks import HookedCache, hooked
from .knobs import knob
from .worth import amplifies

ROOT = "sea_cache_root"
HOOKS = (ROOT, "sea_cache_leader_block", "sea_cache_block", "sea_cache_post_norm")


@dataclass(frozen=True)
class SeaCache(HookedCache):
    """Skip all transformer blocks while the denoised part of the latents, seen through a filter, hardly moves.

    With G the filter that keeps the frequencies in which an image would stand out of the noise at noise level sigma,
    x the latents, and r = blocks(h) - h the residual of the block stack, the blocks are skipped while

        sum over steps since they ran of  mean|G x - (G x)'| / mean|(G x)'| < threshold,    ' one step earlier,

    and r is continued from the last steps that ran them (``order=0`` repeats, ``order=1`` is a line). A thin wrapper:
    diffusers computes. Its own pipelines give it what it needs for one model only; here it gets the step, the noise
    level and the latents of any pipeline whose blocks diffusers knows, and a fresh state for every run, branch and
    shape. The filter's exponent is diffusers' 3 for videos, and 2, the fall of natural pictures' power, for images.
    ``threshold=0`` is not applied at all.
    """

    name: ClassVar[str] = "sea-cache"
    title: ClassVar[str] = "SeaCache"
    paper: ClassVar[str] = "Chung et al. 2026, arXiv:2602.18993; as in diffusers"
    neutral: ClassVar[dict[str, Any]] = {"threshold": 0.0}

    threshold: float = knob(0.25, "summed change of the filtered latents that is still ignored", low=0.0, high=5.0)
    order: int = knob(1, "how the residual is continued: 0 repeats it, 1 is a line", low=0, high=1)
    warmup: int = knob(4, "first steps that always run", low=1, high=50, unit="steps")
    most: int = knob(2, "most steps that are skipped in a row", low=1, high=10, unit="steps")

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if (why := why_no_stack(pipe)) is not None:
            return why
        if not ("FlowMatch" in type(pipe.scheduler).__name__ or pipe.scheduler.config.get("use_flow_sigmas")):
            return "its filter needs the noise levels of flow matching, from 1 to 0, which this scheduler has not"
        return super().supports(pipe)

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        return [*super().cautions(pipe, steps), *amplifies(self, pipe, "order", 0)]

    def idle_because(self, steps: int) -> str:
        return f"{self} saw the filtered latents change by {self.threshold:g} or more between any of {steps} steps"

    def hooked(self, network: nn.Module, described: Family) -> AbstractContextManager[set[str]]:
        config = SeaCacheConfig(
            threshold=self.threshold,
            residual_order=self.order,
            retention_steps=self.warmup,
            max_consecutive_cached=self.most,
            power_exp=3.0 if described.video else 2.0,
            raw_vision_callback=lambda _, args, __: _pictures(args[0], described.latents),
        )

        def apply(network: nn.Module) -> None:
            # the hook on the network itself would stand outside all accelerators, before the call is known
            with preserved([network], ("forward",)):
                apply_sea_cache(network, config)

        return hooked(network, apply, HOOKS)

    def started(self, network: nn.Module, ran: set[str]) -> Callable[[Link], Around]:
        return _start(network)


def _start(network: nn.Module) -> Any:
    def start(link: Link) -> Around:
        registry = HookRegistry.check_if_exists_or_initialize(network)
        registry.reset_stateful_hooks(recurse=True)  # an aborted run never reaches the pipeline's own reset
        root: Any = registry.get_hook(ROOT)
        states: list[dict[str, Any]] = []
        link.run.holds(states)

        def around(call: Call, inner: Network) -> Tensor:
            name = f"{'+'.join(call.branches)} {call.shape}"
            told = {"step_index": call.step, "sigma": call.sigma, "num_inference_steps": call.steps}
            with CacheMixin.cache_context(network, name, **told):
                state = root.state_manager.get_state()
                skipped = state.consecutive_cached
                root.pre_forward(network, call)
                out = inner(call)
                root.post_forward(network, out)
            if state.consecutive_cached > skipped:
                link.note("partial", "no blocks: the filtered latents hardly moved")
            if not any(held is vars(state) for held in states):
                states.append(vars(state))
            return out

        return around

    return start


def _pictures(call: Call, latents: Latents) -> list[Tensor] | None:
    """Return the latents of one branch, (channels, frames, height, width) each."""
    if (sides := extent(call, latents)) is None:
        return None
    one_branch: Tensor = call.latents[: call.batch // len(call.branches)]
    return list(latents.to_grid(one_branch, *sides))
