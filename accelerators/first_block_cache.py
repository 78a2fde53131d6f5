"""First Block Cache as diffusers ships it, which credits ParaAttention and TeaCache (arXiv:2411.19108)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from diffusers import CacheMixin, FirstBlockCacheConfig
from diffusers.hooks import HookRegistry, apply_first_block_cache
from torch import Tensor, nn

from ..pipelines import Around, Call, Family, Link, Network
from .block_hooks import HookedCache, hooked
from .knobs import knob


@dataclass(frozen=True)
class FirstBlockCache(HookedCache):
    """Run the first transformer block, and the others only if its residual has moved.

    With r = block_1(x) - x, the blocks 2..L run where

        mean|r - r'| / mean|r'| > threshold,      r' from the last step that ran them;

    else their last joint residual is added to block_1's output. A thin wrapper: diffusers computes, this class
    gives it a fresh state for every run, branch and shape (its own outlives a cancelled run, and pipelines that open
    no cache context fail), lets it work where the last block drops its text stream (SD3), and takes it off without
    leftovers. ``threshold=0`` is not applied at all.
    """

    name: ClassVar[str] = "first-block-cache"
    title: ClassVar[str] = "First Block Cache"
    paper: ClassVar[str] = "diffusers FirstBlockCache, after TeaCache (Liu et al. 2024, arXiv:2411.19108)"
    neutral: ClassVar[dict[str, Any]] = {"threshold": 0.0}

    threshold: float = knob(0.1, "relative change of the first block that is still ignored", low=0.0, high=2.0)

    def idle_because(self, steps: int) -> str:
        return f"{self} saw its first block change by more than {self.threshold:g} at every one of {steps} steps"

    def hooked(self, network: nn.Module, described: Family) -> AbstractContextManager[set[str]]:
        def apply(network: nn.Module) -> None:
            apply_first_block_cache(network, FirstBlockCacheConfig(threshold=self.threshold))

        return hooked(network, apply, ("fbc_leader_block_hook", "fbc_block_hook"))

    def started(self, network: nn.Module, ran: set[str]) -> Callable[[Link], Around]:
        return partial(_start, network, ran)


def _start(network: nn.Module, ran: set[str], link: Link) -> Around:
    registry = HookRegistry.check_if_exists_or_initialize(network)
    registry.reset_stateful_hooks(recurse=True)  # an aborted run never reaches the pipeline's own reset

    states: list[dict[str, Any]] = []
    link.run.holds(states)
    shapes: list[tuple[int, ...]] = []

    def around(call: Call, inner: Network) -> Tensor:
        if shapes and shapes[-1] != call.shape:
            registry.reset_stateful_hooks(recurse=True)
        shapes[:] = [call.shape]
        ran.clear()
        with CacheMixin.cache_context(network, "+".join(call.branches)):
            out = inner(call)
        if ran == {"first"}:  # of two denoisers only one is asked, and the other runs neither end
            link.note("partial", "first block only: it hardly changed")
        states[:] = map(vars, _first_hook(network).state_manager._state_cache.values())
        return out

    return around


def _first_hook(network: nn.Module) -> Any:
    registries = (getattr(block, "_diffusers_hook", None) for block in network.modules())
    return next(hook for r in registries if r is not None and (hook := r.get_hook("fbc_leader_block_hook")))
