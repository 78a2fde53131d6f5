"""A place to stand inside a UNet: around everything that is deeper than a cut.

    conv_in -> down blocks -> mid block -> up blocks -> conv_out

Every layer of the down blocks, and ``conv_in``, leaves a skip tensor; every layer of the up blocks takes one, in the
reverse order. A cut at depth d keeps the first d skip tensors alive, and the last d up layers that take them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .call import Around, Call, Link, Network
from .errors import UnsupportedError
from .families import denoisers, family
from .patch import patched
from .places import Bypass, BypassStart
from .stage import Stage, call_point

BLOCKS = {  # those that leave a skip tensor a layer and one a downsampler, and take one a layer
    f"{kind}{way}2D" for kind in ("", "Attn", "CrossAttn", "SimpleCrossAttn") for way in ("DownBlock", "UpBlock")
} | {"ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"}


def unlike_unet(pipe: Any) -> str | None:
    """Return a sentence that says why *pipe* has no described UNet, or None if it has one."""
    if not family(pipe).unet:
        kinds = ", ".join(type(network).__name__ for network in denoisers(pipe).values())
        return f"its denoiser, {kinds}, is not the one UNet whose blocks are described, UNet2DConditionModel"
    for network in denoisers(pipe).values():
        for block in (*network.down_blocks, *network.up_blocks):
            if type(block).__name__ not in BLOCKS:
                return f"its UNet has blocks of class {type(block).__name__}, whose layers are not described"
        if len(network.up_blocks) < 2:
            return "its UNet has one resolution only, so that nothing lies deeper"
    return None


def skip_levels(pipe: Any) -> int:
    """Return how many skip connections the UNet of *pipe* has."""
    return min(sum(len(block.resnets) for block in network.up_blocks) for network in denoisers(pipe).values())


# ------------------------------------------------------------------------------------------------- deeper than a cut


@contextmanager
def around_low_resolution(stage: Stage, start: BypassStart) -> Iterator[None]:
    """Let a ``Bypass`` replace everything of a UNet below its first resolution.

    ``conv_in``, the layers of the first down block and the last up block always run. ``instead`` and ``learn`` deal
    in the output of the last but one up block, (batch, channels, h, w).

    Raises:
        UnsupportedError: the denoiser is no UNet with at least two resolutions.
    """
    if (why := unlike_unet(stage.pipe)) is not None:
        raise UnsupportedError(why)
    depth = min(len(network.up_blocks[-1].resnets) for network in stage.denoisers.values())
    with around_deep_layers(stage, depth, start):
        yield


@contextmanager
def around_deep_layers(stage: Stage, depth: int, start: BypassStart) -> Iterator[None]:
    """Let a ``Bypass`` replace everything of a UNet that is deeper than its first *depth* skip connections.

    ``instead`` sees the input of the first layer that is left out, and gives what enters the first up layer that is
    not, before the skip tensor joins it; ``learn`` receives that. A call of a shape that never ran whole is not
    offered to ``instead``.

    Raises:
        UnsupportedError: the denoiser is no UNet, or has no more than *depth* skip connections.
    """
    if (why := unlike_unet(stage.pipe)) is not None:
        raise UnsupportedError(why)
    if not 0 < depth < (levels := skip_levels(stage.pipe)):
        raise UnsupportedError(f"this UNet has {levels} skip connections, so a cut lies between 1 and {levels - 1}")
    with ExitStack() as stack:
        for network in stage.denoisers.values():
            plan = _Plan.of(network, depth)
            cut = _Cut(stage, len(plan.idle))
            stack.enter_context(stage.around_denoiser(cut.begin(start)))
            for module in plan.idle:
                stack.enter_context(patched(module, call_point(module), cut.idle(module)))
            wrap = cut.enters if plan.enters else cut.leaves
            stack.enter_context(patched(plan.cut, call_point(plan.cut), wrap))
        yield


@dataclass(frozen=True)
class _Plan:
    """What a cut does to the modules of one UNet.

    Attributes:
        idle: modules whose output nobody reads when the bypass stands in.
        cut: the module at the cut.
        enters: whether the value is the input of that module, else it is its output.
    """

    idle: list[nn.Module]
    cut: nn.Module
    enters: bool

    @classmethod
    def of(cls, network: Any, depth: int) -> "_Plan":
        idle, level = [], 1
        for block in network.down_blocks:
            layers = [*_layers(block), *([list(block.downsamplers)] if block.downsamplers else [])]
            alive = max(0, depth - level)
            idle += [block] if not alive else [part for layer in layers[alive:] for part in layer]
            level += len(layers)
        idle += [network.mid_block] if network.mid_block is not None else []
        alive, ups = depth, list(network.up_blocks)
        while alive > len(ups[-1].resnets):
            alive -= len(ups.pop().resnets)
        *above, block = ups
        idle += above
        parts = [part for layer in _layers(block)[: len(block.resnets) - alive] for part in layer]
        return cls(idle + parts[:-1], parts[-1] if parts else block, not parts)


def _layers(block: Any) -> list[list[nn.Module]]:
    """Return the layers of a block: a residual part, and an attention where it has them."""
    kinds = [block.resnets, *([block.attentions] if hasattr(block, "attentions") else [])]
    return [list(layer) for layer in zip(*kinds, strict=True)]


class _Cut:
    """What the patched modules of one UNet share."""

    def __init__(self, stage: Stage, idle: int) -> None:
        self.stage, self.count = stage, idle
        self.bypass: Bypass | None = None
        self.value: Tensor | None = None
        self.asked = self.tupled = False
        self.shapes: dict[tuple[int, ...], dict[nn.Module, Any]] = {}  # of idle modules, by size of the latents

    def begin(self, start: BypassStart) -> Callable[[Link], Around]:
        def begun(link: Link) -> Around:
            bypass = start(link)  # held by the run's chain alone, so that it dies with the run

            def around(call: Call, network: Network) -> Tensor:
                self.bypass = bypass
                try:
                    return network(call)
                finally:
                    self.bypass, self.value, self.asked = None, None, False

            return around

        return begun

    def now(self) -> tuple[Call, Bypass] | None:
        return None if self.stage.call is None or self.bypass is None else (self.stage.call, self.bypass)

    def idle(self, module: nn.Module) -> Any:
        def wrap(forward: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if (now := self.now()) is None:
                    return forward(*args, **kwargs)
                shapes = self.shapes.setdefault(now[0].shape[1:], {})
                hidden = args[0] if args else kwargs["hidden_states"]
                if not self.asked:
                    self.asked = True
                    self.value = now[1].instead(now[0], hidden) if len(shapes) == self.count else None
                if self.value is not None:
                    return _blank(shapes[module], hidden)
                out = forward(*args, **kwargs)
                shapes[module] = _shapes(out)
                return out

            return wrapped

        return wrap

    # FreeU multiplies what enters an up layer in place: neither the memory nor the value may be that tensor

    def enters(self, forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if (now := self.now()) is None:
                return forward(*args, **kwargs)
            if self.value is None:
                now[1].learn(now[0], (args[0] if args else kwargs["hidden_states"]).clone())
                return forward(*args, **kwargs)
            if args:
                return forward(self.value.clone(), *args[1:], **kwargs)
            return forward(**kwargs | {"hidden_states": self.value.clone()})

        return wrapped

    def leaves(self, forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if (now := self.now()) is None:
                return forward(*args, **kwargs)
            if self.value is None:
                out = forward(*args, **kwargs)
                self.tupled = isinstance(out, tuple)
                now[1].learn(now[0], (out[0] if self.tupled else out).clone())
                return out
            return (self.value.clone(),) if self.tupled else self.value.clone()

        return wrapped


def _shapes(out: Any) -> Any:
    return out.shape if isinstance(out, Tensor) else [_shapes(part) for part in out]


def _blank(shapes: Any, like: Tensor) -> Any:
    """Return zeros in those shapes: ControlNets and T2I adapters add to skip tensors that nobody reads."""
    if isinstance(shapes, list):
        return tuple(_blank(part, like) for part in shapes)
    return like.new_zeros(len(like), *shapes[1:])
