"""diffusers' cache hooks on a stack of blocks: applied, helped where a block drops its text, and taken off whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks import HookRegistry
from torch import nn

from ..pipelines import patched, preserved

LEFT_BEHIND = ("forward", "_diffusers_hook")


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
