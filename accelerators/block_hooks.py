"""diffusers' cache hooks on a stack of blocks: applied, helped where a block drops its text, and taken off whole."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any, ClassVar

from diffusers.hooks import HookRegistry
from torch import nn

from ..pipelines import Around, Family, Link, Stage, denoisers, family, patched, preserved, why_no_stack
from .base import Accelerator
from .worth import seldom_pays

LEFT_BEHIND = ("forward", "_diffusers_hook")
_ASKING = Lock()  # diffusers fills its list of blocks at the first question, and answers no to a second one meanwhile


class HookedCache(Accelerator):
    """A cache of the block stack that diffusers computes; here it only gets its place, and a state for every run.

    Attributes:
        threshold: the change that is no longer ignored; 0 is not applied at all.
    """

    seat: ClassVar[str] = "block stack"
    threshold: float

    @abstractmethod
    def hooked(self, network: nn.Module, described: Family) -> AbstractContextManager[set[str]]:
        """Put diffusers' hooks on a denoiser, and take them off again; see ``hooked``."""

    @abstractmethod
    def started(self, network: nn.Module, ran: set[str]) -> Callable[[Link], Around]:
        """Return what stands around the calls of a denoiser that has the hooks; *ran* is what ``hooked`` yields."""

    @classmethod
    def supports(cls, pipe: Any) -> str | None:
        if (why := why_no_stack(pipe)) is not None:
            return why
        try:
            with _ASKING:
                for network in denoisers(pipe).values():
                    with cls().hooked(_stand_in(network), family(pipe)):
                        pass
        except ValueError:  # what diffusers raises for a block class that it does not know
            return "diffusers has not registered its transformer blocks for caching"
        return None

    def cautions(self, pipe: Any, steps: int) -> list[str]:
        return seldom_pays(self, pipe, steps)

    @contextmanager
    def attach(self, stage: Stage) -> Iterator[None]:
        if self.threshold == 0:
            yield
            return
        with ExitStack() as stack:
            for network in stage.denoisers.values():
                ran = stack.enter_context(self.hooked(network, stage.family))
                stack.enter_context(stage.around_denoiser(self.started(network, ran), innermost=True))
            yield


@contextmanager
def hooked(network: nn.Module, apply: Callable[[nn.Module], None], hooks: tuple[str, ...]) -> Iterator[set[str]]:
    """Let *apply* put the *hooks* of these names on *network*; yields a set that tells which end of the stack ran.

    The set gets "first" or "last" whenever that block really runs.

    Raises:
        ValueError: diffusers does not know the blocks.
    """
    ran: set[str] = set()
    first, last = _ends(network)

    def noted(end: str) -> Any:
        def wrap(forward: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                ran.add(end)
                out = forward(*args, **kwargs)
                if isinstance(out, tuple) and out[0] is None:  # SD3's last block drops its text, diffusers wants it
                    return (kwargs["encoder_hidden_states"], *out[1:])
                return out

            return wrapped

        return wrap

    with (
        preserved(list(network.modules()), LEFT_BEHIND),
        patched(first, "forward", noted("first")),
        patched(last, "forward", noted("last")),
    ):
        try:
            apply(network)
            registry = HookRegistry.check_if_exists_or_initialize(network)
            registry.invalidate_child_registries_cache()
            yield ran
        finally:
            registry = HookRegistry.check_if_exists_or_initialize(network)
            for hook in hooks:
                registry.remove_hook(hook, recurse=True)
            registry.invalidate_child_registries_cache()


def _ends(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    names = ("transformer_blocks", "single_transformer_blocks", "blocks", "layers")
    lists = [child for name, child in network.named_children() if name in names and isinstance(child, nn.ModuleList)]
    return lists[0][0], lists[-1][-1]


def _stand_in(network: nn.Module) -> nn.Module:
    """Return a network whose blocks can be hooked while the real one runs: they share everything else with its own."""
    copied = _alone(network)
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            copied._modules = {**copied._modules, name: nn.ModuleList(map(_alone, child))}
    return copied


def _alone(module: nn.Module) -> nn.Module:
    copied = copy.copy(module)
    vars(copied).pop("_diffusers_hook", None)
    return copied
