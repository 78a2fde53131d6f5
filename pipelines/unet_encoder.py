"""Places to stand around the encoder of a UNet, and around the ControlNet that goes with it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from .call import Around, Call, Link, Network
from .errors import UnsupportedError
from .patch import patched
from .stage import Stage, call_point
from .unet import unlike_unet

Parts = tuple[Tensor, ...]


class EncoderBypass(Protocol):
    """Decides, call by call, whether the encoder runs, and learns from it when it does."""

    def instead(self, call: Call, hidden: Tensor) -> Parts | None:
        """Return all skip tensors, and what leaves the mid block, for this call; None runs the encoder."""

    def learn(self, call: Call, value: Parts) -> None:
        """Take note of what the encoder gave when it ran."""


@dataclass(eq=False)
class _Passing:
    """The call that is going through one UNet: what stands in for its encoder, or what that has made so far."""

    bypass: EncoderBypass | None = None
    value: list[Tensor] | None = None
    made: list[Tensor] = field(default_factory=list)


@contextmanager
def around_encoder(stage: Stage, start: Callable[[Link], EncoderBypass]) -> Iterator[None]:
    """Let an ``EncoderBypass`` replace ``conv_in``, the down blocks and the mid block of a UNet.

    Raises:
        UnsupportedError: the denoiser is no UNet, or one without a mid block.
    """
    if (why := unlike_unet(stage.pipe)) is not None:
        raise UnsupportedError(why)
    if any(network.mid_block is None for network in stage.denoisers.values()):
        raise UnsupportedError("this UNet has no mid block, at which its encoder would end")
    with ExitStack() as stack:
        for network in stage.denoisers.values():
            passing = _Passing()
            stack.enter_context(stage.around_denoiser(_begin(passing, start)))
            for module in (network.conv_in, *network.down_blocks, network.mid_block):
                wrap = _part(stage, passing, module, (module is network.conv_in, module is network.mid_block))
                stack.enter_context(patched(module, call_point(module), wrap))
        yield


def _begin(passing: _Passing, start: Callable[[Link], EncoderBypass]) -> Callable[[Link], Around]:
    def begin(link: Link) -> Around:
        bypass = start(link)  # held by the run's chain alone, so that it dies with the run

        def around(call: Call, network: Network) -> Tensor:
            passing.bypass = bypass
            try:
                return network(call)
            finally:
                passing.bypass, passing.value, passing.made = None, None, []

        return around

    return begin


def _part(stage: Stage, passing: _Passing, module: Any, ends: tuple[bool, bool]) -> Any:
    first, last = ends
    skips = 1 if first or last else len(module.resnets) + bool(module.downsamplers)

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if stage.call is None or passing.bypass is None:
                return forward(*args, **kwargs)
            if first:
                value = passing.bypass.instead(stage.call, args[0] if args else kwargs["input"])
                passing.value = None if value is None else list(value)
            if passing.value is not None:
                given, passing.value = passing.value[:skips], passing.value[skips:]
                # T2I adapters add to what a block gives in place, FreeU multiplies it: the memory must stay as it was
                hidden = given[-1].clone()
                return hidden if first or last else (hidden, tuple(given))
            out = forward(*args, **kwargs)
            passing.made += [out.clone() if last else out] if first or last else out[1]
            if last:
                passing.bypass.learn(stage.call, tuple(passing.made))
            return out

        return wrapped

    return wrap


# ------------------------------------------------------------------------------------------------------ the ControlNet


class ControlBypass(Protocol):
    """Decides whether a ControlNet runs at a step, and learns from it when it does."""

    def instead_of_control(self, step: int, asked: tuple[Any, ...]) -> Any | None:
        """Return what stands in for its residuals at this step, when *asked* the same; None runs it."""

    def learn_control(self, step: int, asked: tuple[Any, ...], out: Any) -> None:
        """Take note of what it gave when it ran."""


@contextmanager
def around_control(stage: Stage, now: Callable[[], ControlBypass | None]) -> Iterator[None]:
    """Let a ``ControlBypass`` replace the ControlNet of the pipeline, where it has one.

    Pipelines call it before the denoiser. *now* returns the bypass of the present run, or None between runs.
    """
    network = getattr(stage.pipe, "controlnet", None)
    if not isinstance(network, nn.Module):
        yield
        return

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            bypass, step = now(), stage.coming
            if bypass is None or step is None:
                return forward(*args, **kwargs)
            sample = args[0] if args else kwargs["sample"]
            asked = (sample.shape, sample.dtype, repr(kwargs.get("conditioning_scale")))
            out = bypass.instead_of_control(step, asked)
            if out is None:
                out = forward(*args, **kwargs)
                bypass.learn_control(step, asked, out)
            return out

        return wrapped

    with patched(network, call_point(network), wrap):
        yield
