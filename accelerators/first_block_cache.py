"""First Block Cache as diffusers ships it, which credits ParaAttention and TeaCache (arXiv:2411.19108)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import CacheMixin, FirstBlockCacheConfig
from diffusers.hooks import HookRegistry, apply_first_block_cache
from torch import Tensor, nn

from ..pipelines import Around, Call, Link, Network, Stage, denoisers, family, patched, preserved
from .base import Accelerator
from .knobs import knob

LEFT_BEHIND = ("forward", "_diffusers_hook")


@dataclass(frozen=True)
class FirstBlockCache(Accelerator):
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
    seat: ClassVar[str] = "block stack"

    threshold: float = knob(0.1, "relative change of the first block that is still ignored", low=0.0, high=2.0)

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        described = family(pipe)
        if described.unet:
            return "a UNet has no single stack of transformer blocks"
        if not described.known:
            return "its transformer blocks are not described in pipelines/families.py"
        try:
            for network in denoisers(pipe).values():
                with _hooked(network, 1.0):
                    pass
        except ValueError:  # what diffusers raises for a block class that it does not know
            return "diffusers has not registered its transformer blocks for caching"
        return None

    def idle_because(self, steps: int) -> str:
        return f"{self} saw its first block change by more than {self.threshold:g} at every one of {steps} steps"

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        if self.threshold == 0:
            yield
            return
        with ExitStack() as stack:
            for network in stage.denoisers.values():
                ran = stack.enter_context(_hooked(network, self.threshold))
                stack.enter_context(stage.around_denoiser(_start(network, ran)))
            yield


def _start(network: nn.Module, ran: list[bool]) -> Any:
    def start(link: Link) -> Around:
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
            if call.run.steps[-1].calls and not ran:
                link.note("partial", "first block only: it hardly changed")
            states[:] = map(vars, _first_hook(network).state_manager._state_cache.values())
            return out

        return around

    return start


@contextmanager
def _hooked(network: nn.Module, threshold: float) -> Iterator[list[bool]]:
    """Apply diffusers' cache to *network*; yields a list that is filled whenever the last block runs.

    Raises:
        ValueError: diffusers does not know the blocks.
    """
    last = _last_block(network)
    ran: list[bool] = []

    def noted(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            ran.append(True)
            out = forward(*args, **kwargs)
            if isinstance(out, tuple) and out[0] is None:  # SD3's last block drops its text, diffusers subtracts it
                return (kwargs["encoder_hidden_states"], *out[1:])
            return out

        return wrapped

    with preserved(list(network.modules()), LEFT_BEHIND), patched(last, "forward", noted):
        try:
            apply_first_block_cache(network, FirstBlockCacheConfig(threshold=threshold))
            registry = HookRegistry.check_if_exists_or_initialize(network)
            registry.invalidate_child_registries_cache()
            yield ran
        finally:
            registry = HookRegistry.check_if_exists_or_initialize(network)
            for hook in ("fbc_leader_block_hook", "fbc_block_hook"):
                registry.remove_hook(hook, recurse=True)
            registry.invalidate_child_registries_cache()


def _first_hook(network: nn.Module) -> Any:
    registries = (getattr(block, "_diffusers_hook", None) for block in network.modules())
    return next(hook for r in registries if r is not None and (hook := r.get_hook("fbc_leader_block_hook")))


def _last_block(network: nn.Module) -> nn.Module:
    names = ("transformer_blocks", "single_transformer_blocks", "blocks", "layers")
    lists = [child for name, child in network.named_children() if name in names and isinstance(child, nn.ModuleList)]
    return lists[-1][-1]
