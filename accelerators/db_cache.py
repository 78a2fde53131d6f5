"""Dual Block Cache, DBCache, from the package cache-dit (https://github.com/vipshop/cache-dit)."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from torch import Tensor, nn

from ..pipelines import Around, Call, Link, Network, Stack, Stage, denoisers, exchanged, family, why_no_stack
from .base import Accelerator
from .knobs import knob
from .worth import seldom_pays

# what a denoiser deals out to its blocks by their number, which are not there while one module stands for them all
BY_NUMBER = (
    "block_controlnet_hidden_states",
    "controlnet_block_samples",
    "controlnet_single_block_samples",
    "skip_layers",
)


@dataclass(frozen=True)
class DBCache(Accelerator):
    """Run the first and the last transformer blocks, and those between only if the first ones' residual has moved.

    With F blocks before and B behind, r = blocks_1..F(x) - x, and h their output, the middle runs where

        mean|r - r'| / mean|r'| >= threshold,      r' from the last step that ran it;

    else its last residual is added to h. The last step always runs whole. cache-dit computes (its ``UnifiedBlocks``
    and contexts); its ``enable_cache`` is left out, since it leaves things behind in the pipeline's class, chooses an
    attention backend, and tells the branches of guidance apart by counting calls. Here every run, branch and shape
    gets contexts of its own, and the pipeline holds nothing of them between two calls. Calls that give every block
    something of its own (ControlNet, skipped layers) run whole. ``threshold=0`` is not applied at all.
    """

    name: ClassVar[str] = "db-cache"
    title: ClassVar[str] = "DBCache"
    paper: ClassVar[str] = "cache-dit (vipshop 2025, github.com/vipshop/cache-dit)"
    neutral: ClassVar[dict[str, Any]] = {"threshold": 0.0}
    seat: ClassVar[str] = "block stack"

    threshold: float = knob(0.08, "relative change of the first blocks that is still ignored", low=0.0, high=0.99)
    first: int = knob(1, "blocks that always run before", low=1, high=20, unit="blocks")
    last: int = knob(0, "blocks that always run behind", low=0, high=20, unit="blocks")
    warmup: int = knob(4, "first steps that always run", low=1, high=50, unit="steps")
    most: int = knob(3, "most steps that are skipped in a row", low=1, high=50, unit="steps")

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if find_spec("cache_dit") is None:
            return "cache-dit is not installed: pip install deadheat[peers]"
        return why_no_stack(pipe)

    def idle_because(self, steps: int) -> str:
        return f"{self} saw its first blocks change by {self.threshold:g} or more, or had no others, in {steps} steps"

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        stacks = [getattr(network, row.blocks) for network in denoisers(pipe).values() for row in family(pipe).stacks]
        most = max(map(len, stacks), default=0)
        if self.threshold and self.first + self.last >= most:
            return [f"its stacks have at most {most} blocks: first={self.first} and last={self.last} leave none"]
        return seldom_pays(self, pipe, steps)

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        if self.threshold == 0:
            yield
            return
        with ExitStack() as stack:
            for network in stage.denoisers.values():
                stack.enter_context(stage.around_denoiser(self._started(network, stage.family.stacks), innermost=True))
            yield

    def _started(self, network: nn.Module, rows: tuple[Stack, ...]) -> Any:
        def start(link: Link) -> Around:
            caches: dict[Any, _Cached] = {}
            buffers: list[dict[str, Any]] = []
            link.run.holds(buffers)

            def around(call: Call, inner: Network) -> Tensor:
                if call.last or any(call.kwargs.get(name) is not None for name in BY_NUMBER):
                    return inner(call)
                key = (call.branches, call.shape)
                if key not in caches:
                    caches[key] = self._cached(network, rows)
                    buffers.extend(context.buffers for context in caches[key].contexts)
                cached = caches[key]
                skipped = cached.skipped
                with ExitStack() as stack:
                    for name, blocks in cached.stacks.items():
                        stack.enter_context(exchanged(network, name, blocks))
                    out = inner(call)
                if cached.skipped > skipped:
                    link.note("partial", f"{self.first} + {self.last} blocks only: the first hardly changed")
                return out

            return around

        return start

    def _cached(self, network: nn.Module, rows: tuple[Stack, ...]) -> "_Cached":
        dit = import_module("cache_dit.caching")
        manager = dit.ContextManager(cache_type=dit.CacheType.DBCache, name="deadheat")
        cached = _Cached({}, [])
        for row in rows:
            blocks = getattr(network, row.blocks)
            if self.first + self.last >= len(blocks):
                continue
            config = dit.DBCacheConfig(
                Fn_compute_blocks=self.first,
                Bn_compute_blocks=self.last,
                residual_diff_threshold=self.threshold,
                max_warmup_steps=self.warmup,
                max_continuous_cached_steps=self.most,
                enable_separate_cfg=False,
            )
            cached.contexts.append(manager.new_context(name=row.blocks, cache_config=config))
            pattern = dit.ForwardPattern
            with _quiet():
                unified = dit.UnifiedBlocks(
                    blocks,
                    transformer=network,
                    forward_pattern=pattern.Pattern_3 if row.returns is None else pattern.Pattern_1,
                    check_num_outputs=False,
                    cache_prefix=row.blocks,
                    cache_context=row.blocks,
                    context_manager=manager,
                    cache_type=dit.CacheType.DBCache,
                )
            cached.stacks[row.blocks] = nn.ModuleList([unified])
        return cached


@dataclass(eq=False)
class _Cached:
    """cache-dit's stand-ins for the block lists of one network, and their contexts."""

    stacks: dict[str, nn.ModuleList]
    contexts: list[Any]

    @property
    def skipped(self) -> int:
        return sum(len(context.get_cached_steps()) for context in self.contexts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep cache-dit from writing news about every stack to the standard output, where reports go."""
    handlers = logging.getLogger("CACHE_DIT").handlers
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(max(handler.level, logging.WARNING))
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
