"""A place in a convolutional network: run it on a window of its map, the rest stays what it was for another map.

The network's own forward runs on the window. Its layers are told of what surrounds them: convolutions read a rim from
the noted map, group norms use the noted statistics, self-attention sees the noted keys and values of all the other
places. So a window gives what the whole network would, were everything outside the window held at the noted values.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from .boxes import Box, Sides
from .patch import patched
from .stage import call_point
from .window_frames import Frame, Notes, Seat, TooLarge, layout

Layer = tuple[str, nn.Module, str]  # path, module, what it is
Result = TypeVar("Result")


def unwindowed(network: nn.Module) -> str | None:
    """Return a sentence why *network* cannot run on a window, or None."""
    if hasattr(network, "_orig_mod") or any(m._compiled_call_impl is not None for m in network.modules()):
        return "its blocks are compiled for whole pictures: leave compile off"
    if any(p.dtype.itemsize == 1 for p in network.parameters()):
        return "its weights are kept in 8 bits, which only its own layers can read: load it without quantisation"
    if any(map(travels, [module for module in network.modules() if module is not network])):
        return "its layers' weights lie elsewhere until a layer runs: use all-on-device or model-offload"
    if any(getattr(module, "b1", None) is not None for module in network.modules()):
        return "FreeU filters whole maps: switch it off with pipe.disable_freeu()"
    return next((f"{path or 'it'} {why}" for path, m in network.named_modules() if (why := _unlike(m))), None)


def travels(module: nn.Module) -> bool:
    """Tell whether offloading brings the weights of this module to their device when it is called."""
    registry = vars(module).get("_diffusers_hook")
    return hasattr(module, "_hf_hook") or (registry is not None and "group_offloading" in registry.hooks)


def _unlike(module: nn.Module) -> str:
    """Return what a layer does that is not described, as the end of a sentence; "" if all is."""
    match module:
        case Attention(is_cross_attention=False):
            plain = type(module.processor) in (AttnProcessor, AttnProcessor2_0) and not module.fused_projections
            return "" if plain else "has an attention processor whose keys and values cannot be completed"
        case nn.Conv2d():
            plain = module.dilation == (1, 1) and module.padding_mode == "zeros" and len(set(module.stride)) == 1
            return "" if plain else "is a convolution with a stride, dilation or padding that is not described"
        case Upsample2D():
            plain = module.use_conv and module.interpolate and module.name == "conv"
            return "" if plain else "enlarges its map in a way that is not described"
        case nn.ConvTranspose2d() | nn.InstanceNorm2d() | nn.BatchNorm2d() | nn.AvgPool2d():
            return f"is a {type(module).__name__}, which is not described"
    return ""


class Windows:
    """A convolutional network that can run on windows.

    Attributes:
        network: the network; patched only while one of the methods below runs.
        seats: where its layers stand; known once it was noted.
    """

    def __init__(self, network: nn.Module, store: torch.dtype | None = None) -> None:
        self.network, self.store = network, store
        self.layers = list(_layers(network))
        self.seats: dict[str, Seat] = {}
        self._notes = Notes()
        self._frame: Frame | None = None
        self._reads: Mapping[str, tuple[Tensor, ...]] = {}
        self._size: Sides = (0, 0)
        self._left: int | None = None

    def noted(self, run: Callable[[], Tensor], most: int | None = None) -> tuple[Tensor, Notes]:
        """Run the network on a whole map with ``run()``; return its output, and notes of it.

        Raises:
            TooLarge: as soon as the notes have more than *most* bytes.
        """
        notes = self._notes = Notes()
        self._left = most
        try:
            with self._patched(conv=self._note_conv, norm=self._note_norm, tokens=self._note_tokens):
                out = run()
        finally:
            self._notes = Notes()
        notes.out = self._kept(out)
        notes.join()
        if most is not None and notes.nbytes > most:
            raise TooLarge
        return out, notes

    def frame(self, size: Sides, box: Box, device: torch.device | None = None) -> Frame:
        """Return the geometry of a window: *box* in a map of this *size*."""
        cuts = {name: seat.cut(size, box) for name, seat in self.seats.items() if seat.kind != "tokens"}
        rows = {
            name: box.at(size, seat.size).rows(seat.size).to(device)
            for name, seat in self.seats.items()
            if seat.kind == "tokens"
        }
        return Frame(box, cuts, rows)

    def run(self, run: Callable[[], Result], frame: Frame, reads: Mapping[str, tuple[Tensor, ...]]) -> Result:
        """Run the network on a window with ``run()``, given what its layers read around it."""
        self._reads, self._frame = reads, frame
        try:
            with self._patched(conv=self._conv, norm=self._norm, tokens=self._tokens, up=self._up):
                return run()
        finally:
            self._reads, self._frame = {}, None

    @contextmanager
    def _patched(self, **wraps: Callable[..., Any]) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module, kind in self.layers:
                if (wrap := wraps.get(kind.split()[-1])) is not None:
                    make = functools.partial(_partly, wrap, name, module)
                    stack.enter_context(patched(module, call_point(module), make))
            yield

    def _kept(self, value: Tensor) -> Tensor:
        value = value.detach()
        if self._left is not None:  # looked at before the copy is made
            self._left -= value.numel() * (self.store or value.dtype).itemsize
            if self._left < 0:
                raise TooLarge
        if self.store == torch.float16 and value.dtype != torch.float16:
            value = value.clamp(-65504, 65504)
        return value.to(self.store or value.dtype, copy=True, memory_format=layout(value))

    # -- notes of a whole map: each receives its layer's path, the layer, its forward, and what it was given -------

    def _note_conv(self, name: str, conv: Any, forward: Any, x: Tensor, *more: Any) -> Tensor:
        out: Tensor = forward(x, *more)
        self._size = (out.shape[-2], out.shape[-1])
        if conv.kernel_size != (1, 1):
            self._notes.whole[name] = self._kept(x)
            kind = next(kind for path, _, kind in self.layers if path == name)
            arithmetic = conv.kernel_size[0], conv.stride[0], conv.padding[0]
            self.seats[name] = Seat(kind, (x.shape[-2], x.shape[-1]), self._size, *arithmetic)
        return out

    def _note_norm(self, name: str, norm: Any, forward: Any, x: Tensor) -> Tensor:
        groups = x.float().unflatten(1, (norm.num_groups, -1)).flatten(2)
        variance, mean = torch.var_mean(groups, 2, correction=0)
        width = x.shape[1] // norm.num_groups
        factor = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(width, 1)
        offset = norm.bias - mean.repeat_interleave(width, 1) * factor
        shape = (*factor.shape, *[1] * (x.ndim - 2))
        self._notes.norms[name] = (factor.to(x.dtype).view(shape), offset.to(x.dtype).view(shape))
        return forward(x)

    def _note_tokens(self, name: str, _: Any, forward: Any, x: Tensor, *more: Any) -> Tensor:
        out: Tensor = forward(x, *more)
        self._notes.whole[name] = self._kept(out)
        self.seats[name] = Seat("tokens", self._size, self._size)
        return out

    # -- a window ------------------------------------------------------------------------------------------------

    def _conv(self, name: str, conv: Any, forward: Any, x: Tensor, *more: Any) -> Tensor:
        if self._frame is None or name not in self._reads:
            return forward(x, *more)
        whole, inner = self._reads[name]
        take = self._frame.cuts[name].take
        inner.copy_(x if take is None else take.of(x))
        return functional.conv2d(whole, conv.weight, conv.bias, conv.stride, (0, 0), conv.dilation, conv.groups)

    def _norm(self, name: str, _norm: Any, _forward: Any, x: Tensor) -> Tensor:
        factor, offset = self._reads[name]
        return torch.addcmul(offset, x, factor)

    def _tokens(self, name: str, _: Any, forward: Any, x: Tensor, *more: Any) -> Tensor:
        whole, rows = self._reads[name]
        return whole.index_copy_(1, rows, forward(x, *more))

    def _up(self, _name: str, _: Any, forward: Any, x: Tensor, *_size: Any) -> Tensor:
        """Double the window; what is beyond the finer window's rim is left to the convolution behind it."""
        return forward(x)


def _partly(wrap: Any, name: str, module: nn.Module, forward: Any) -> Any:
    """Return ``wrap`` with its first arguments, as a plain function."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrap(name, module, forward, *args, *kwargs.values())

    return wrapped


def _layers(network: nn.Module) -> Iterator[Layer]:
    modules = dict(network.named_modules())
    kinds = {}
    for path, module in modules.items():
        if isinstance(module, Upsample2D):
            kinds[f"{path}.conv"] = "up conv"
            yield path, module, "up"
        elif isinstance(module, Downsample2D) and module.padding == 0:
            kinds[f"{path}.conv"] = "padded conv"
        elif isinstance(module, Attention) and not module.is_cross_attention:
            kinds |= {f"{path}.to_k": "tokens", f"{path}.to_v": "tokens"}
        elif isinstance(module, nn.GroupNorm):
            yield path, module, "norm"
        elif isinstance(module, nn.Conv2d):
            kinds.setdefault(path, "conv")
    for path, kind in kinds.items():
        yield path, modules[path], kind
