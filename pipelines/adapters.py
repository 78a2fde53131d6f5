"""Small residual networks at the attention of a denoiser, told the guidance scale, the time and the prompt.

The shapes are those of adapter guidance distillation (Perez Jensen & Sadat 2025, https://arxiv.org/abs/2503.07274).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import pi
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import UnsupportedError
from .families import Family, denoisers, family
from .patch import patched
from .stage import call_point
from .token_modules import FEED_FORWARD

Kind = Literal["gated", "attention", "additive"]
KINDS: tuple[Kind, ...] = ("gated", "attention", "additive")


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter is made of.

    Attributes:
        kind: "attention": image tokens read the scale, the time and the prompt; "additive": one vector of them for
            all tokens; "gated": attention, and beside it a bottleneck for what goes in and what comes out.
        width: channels inside the adapter.
        words: channels of the prompt's tokens.
        sites: path of each module in the denoiser that gets a residual -> channels of its tokens.
        clock: what the denoiser's timestep counts up to.
        scales: smallest and largest guidance scale of the training.
    """

    kind: Kind
    width: int
    words: int
    sites: Mapping[str, int]
    clock: float = 1000.0
    scales: tuple[float, float] = (1.0, 8.0)


@dataclass(frozen=True)
class Told:
    """What the residuals know of a call.

    Attributes:
        strength: (B, 1, 1), zero at scale 1 and one at the largest scale of the training.
        mean: (B, width), the scale, the time and the prompt in one vector.
        read: for each residual, keys (B, width, 2 + L), values (B, 2 + L, width) and gate (B, 1, width) of the scale,
            the time and the prompt's tokens; made at once, as they are many and small. Kind "additive" has none.
    """

    strength: Tensor
    mean: Tensor
    read: Sequence[Sequence[Tensor]]


class Scalar(nn.Module):
    """Encodes a number between 0 and 1 by random waves and two layers."""

    waves: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(width))
        self.register_buffer("phases", torch.rand(width))
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode numbers (B,) as (B, width)."""
        angles = 2 * pi * (x.float()[:, None] * self.waves.float() + self.phases.float())
        return self.layers(angles.cos().to(self.waves.dtype))


class Residual(nn.Module):
    """What is added to the output y of one module with input h: nothing, until it is trained.

    The kind "gated" is ours. What guidance strengthens is mostly what the module has just read of the prompt, so that
    seeing y as well learns several times faster.
    """

    def __init__(self, kind: Kind, channels: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if kind == "additive":
            self.inner = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.LayerNorm(width))
            return
        self.query = nn.Linear(channels, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        layers = [self.query, self.key, self.value]
        if kind == "gated":
            self.gate = nn.Linear(width, width)
            self.seen = nn.Linear(channels, width, bias=False)
            layers.append(self.seen)
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, hidden: Tensor, out: Tensor, told: Told, nth: int) -> Tensor:
        """Add to what comes out of the module, (B, N, channels) or (B, C, H, W), as *told* the residual number *nth*.

        *hidden* went into it.
        """
        if out.ndim == 4:
            return self(hidden.flatten(2).mT, out.flatten(2).mT, told, nth).mT.unflatten(2, out.shape[2:])
        if self.kind == "additive":
            return self._added(out, self.out(self.inner(told.mean))[:, None], told)
        keys, values, *gate = told.read[nth]
        query = functional.linear(hidden, self.query.weight)
        found = torch.bmm(torch.bmm(query, keys).softmax(-1), values)
        if self.kind == "gated":
            found = found + functional.silu(functional.linear(out, self.seen.weight).add_(query).add_(gate[0]))
        return self._added(out, functional.linear(found, self.out.weight, self.out.bias), told)

    def _added(self, out: Tensor, residual: Tensor, told: Told) -> Tensor:
        return torch.addcmul(out, told.strength, residual).to(out.dtype)


class Adapter(nn.Module):
    """Residuals for all sites of a denoiser, and the encoders that they share.

    The paper gives every residual encoders of its own; shared ones leave more of few parameters to the residuals.
    The factor ``strength`` is ours, too: at scale 1 there is no guidance, whatever was trained.
    """

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        self.shape = shape
        self.scale, self.time = Scalar(shape.width), Scalar(shape.width)
        self.words = nn.Sequential(nn.Linear(shape.words, shape.width), nn.LayerNorm(shape.width))
        self.residuals = nn.ModuleList(
            Residual(shape.kind, channels, shape.width) for channels in shape.sites.values()
        )

    def told(self, scale: Tensor, kwargs: Mapping[str, Any]) -> Told:
        """Return what the residuals know of a denoiser call with these arguments; *scale* is (B,)."""
        low, high = self.shape.scales
        words = kwargs["encoder_hidden_states"]
        timestep = torch.as_tensor(kwargs["timestep"], device=words.device).float()
        time = timestep.reshape(len(timestep) if timestep.ndim else 1, -1).mean(1).expand(len(words))
        scale = scale.to(words.device).float().expand(len(words))
        dtype = self.scale.waves.dtype
        first = torch.stack([self.scale((scale - low) / (high - low)), self.time(time / self.shape.clock)], 1)
        prompt = self.words(words.to(dtype))
        mean = first.sum(1) + prompt.sum(1) / max(1, prompt.shape[1])
        strength = ((scale - 1) / (high - 1)).to(dtype)[:, None, None]
        return Told(strength, mean, self._read(torch.cat([first, prompt], 1), mean))

    def _read(self, tokens: Tensor, mean: Tensor) -> list[list[Tensor]]:
        """Return every residual's keys, values and gate, of one multiplication each."""
        kind, width = self.shape.kind, self.shape.width
        if kind == "additive":
            return []
        layers = [residual.key for residual in self.residuals], [residual.value for residual in self.residuals]
        keys, values = (functional.linear(tokens, torch.cat([one.weight for one in many])) for many in layers)
        made = [(keys * width**-0.5).mT.split(width, 1), values.split(width, 2)]
        if kind == "gated":
            gates = [residual.gate for residual in self.residuals]
            weight, bias = (torch.cat([getattr(one, name) for one in gates]) for name in ("weight", "bias"))
            made.append(functional.linear(mean, weight, bias)[:, None].split(width, 2))
        return [list(parts) for parts in zip(*made, strict=True)]


@dataclass(eq=False)
class Now:
    """What the adapter is told at this moment; None leaves the denoiser as it is."""

    told: Told | None = None


def adapter_shape(pipe: Any, kind: Kind, width: int, scales: tuple[float, float]) -> AdapterShape:
    """Return the shape of an adapter for the denoiser of *pipe*.

    Raises:
        UnsupportedError: it can have none.
    """
    if (why := why_no_adapter(pipe)) is not None:
        raise UnsupportedError(f"{type(pipe).__name__} can have no adapter: {why}")
    described, network = family(pipe), the_network(pipe)
    words = int(getattr(network.config, described.words))
    return AdapterShape(kind, width, words, sites(described, network), described.clock, scales)


def why_no_adapter(pipe: Any) -> str | None:
    """Say why a pipeline can have no adapter, or None."""
    described, networks = family(pipe), denoisers(pipe)
    if described.guidance == "unknown" or not described.known:
        return "how it asks for the two halves of guidance is not described in pipelines/families.py"
    if len(networks) > 1:
        return "it has two denoisers that share a run, and an adapter is trained for one"
    if not sites(described, the_network(pipe)):
        return "its denoiser has no attention that an adapter could stand at"
    return None


def the_network(pipe: Any) -> nn.Module:
    """Return the denoiser itself, also where torch.compile stands before it."""
    network = next(iter(denoisers(pipe).values()))
    while hasattr(network, "_orig_mod"):
        network = network._orig_mod
    return network


def sites(described: Family, network: nn.Module) -> dict[str, int]:
    """Return the modules that get a residual, and their channels: attention, feed-forwards, and the end.

    Of attention, it is where a UNet reads the prompt, and the first of every block of a transformer. The end is what
    the last layer is given: nothing normalises it any more, so that a residual can be as large as guidance is. On
    pocket-unet, after the same short training, 62 % of guidance were missing with residuals at attention alone, 52 %
    with feed-forwards, too, and 19 % with the end.
    """
    if described.unet:
        attends = [name for name, _ in network.named_modules() if name.rpartition(".")[2] == "attn2"]
    else:
        blocks = [(stack, range(len(network.get_submodule(stack.blocks)))) for stack in described.stacks]
        attends = [f"{stack.blocks}.{nth}.{stack.attends[0]}" for stack, every in blocks for nth in every]
    found: dict[str, int] = {}
    for path in attends:
        parent = path.rpartition(".")[0]
        block, channels = network.get_submodule(parent), int(network.get_submodule(path).to_q.in_features)
        behind = [f"{parent}.{name}" for name in (*FEED_FORWARD, "feed_forward") if hasattr(block, name)]
        found |= dict.fromkeys([path, *behind], channels)
    if not found:
        return {}
    if described.unet:
        return found | ({"conv_act": network.conv_out.in_channels} if network.conv_act is not None else {})
    last = getattr(network, described.final, None)
    return found | ({described.final: last.in_features} if isinstance(last, nn.Linear) else {})


@contextmanager
def inserted(network: nn.Module, adapter: Adapter) -> Iterator[Now]:
    """Let the residuals of *adapter* stand in *network*; they do nothing until ``Now`` tells them of a call."""
    now = Now()
    with ExitStack() as stack:
        for nth, (path, residual) in enumerate(zip(adapter.shape.sites, adapter.residuals, strict=True)):
            module = network.get_submodule(path)
            stack.enter_context(patched(module, call_point(module), _with(residual, nth, now, module)))
        yield now


def _with(residual: nn.Module, nth: int, now: Now, module: nn.Module) -> Callable[[Any], Any]:
    before = isinstance(module, nn.Linear)  # the last layer

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if now.told is None:
                return forward(*args, **kwargs)
            hidden = args[0] if args else kwargs["hidden_states"]
            if before:
                return forward(residual(hidden, hidden, now.told, nth))
            out = forward(*args, **kwargs)
            if isinstance(out, tuple):
                return (residual(hidden, out[0], now.told, nth), *out[1:])
            return residual(hidden, out, now.told, nth)

        return wrapped

    return wrap
