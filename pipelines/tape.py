"""A network's own forward, noted down operation by operation, and played back without the Python around it.

On a small window a network spends most of its time between its operations. The tape holds those of one call, in
order, as a plain Python function. What depends on nothing but the timestep, or the text, is worked out once for each.

A tape is good for calls with tensors of the same shapes whose forward takes the same way; hooks are not played back.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Inputs = Mapping[str, Tensor]
LATE = "late"  # inputs whose name is none of those that are told to last


def hooked(network: nn.Module) -> bool:
    """Tell whether somebody listens to the modules, whom a tape would leave in the dark."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Tape:
    """The operations of one call.

    Attributes:
        lasting: the names, up to a slash, of inputs that stay the same for many calls; what depends on nothing but
            those of one name is kept.
    """

    def __init__(self, lasting: tuple[str, ...] = (), packed: dict[Any, tuple[Tensor, Tensor]] | None = None) -> None:
        """Begin an empty tape; *packed* holds the weights that several tapes of one network share."""
        self.lasting, self.packed = lasting, {} if packed is None else packed
        self._globals: dict[str, Any] = {}
        self._lines: dict[str, list[str]] = {kind: [] for kind in (*lasting, LATE)}
        self._kinds: dict[str, str] = {}  # of each value, what it depends on; "" for constants
        self._used: dict[str, dict[str, None]] = {kind: {} for kind in lasting}  # which of them later lines read
        self._order: list[str] = []
        self._play: Callable[..., Tensor] | None = None
        self._early: dict[str, Callable[..., tuple[Any, ...]]] = {}
        self._kept: dict[str, dict[Any, tuple[Any, ...]]] = {kind: {} for kind in lasting}

    def record(self, run: Callable[[], Tensor], inputs: Inputs) -> Tensor:
        """Run ``run()``, which reads *inputs*, and note it down."""
        self._order = list(inputs)
        with _Recorder(self, inputs) as recorder:
            out = run()
        self._compile(recorder.name(out))
        return out

    def play(self, inputs: Inputs, keys: Mapping[str, Any]) -> Tensor:
        """Do the same operations with other inputs; *keys* tell lasting inputs of equal value by name."""
        assert self._play is not None
        early = []
        for kind in self.lasting:
            kept = self._kept[kind]
            if (found := kept.get(keys[kind])) is None:
                found = kept[keys[kind]] = self._early[kind](*[inputs[name] for name in self._order])
            early.append(found)
        return self._play(*early, *[inputs[name] for name in self._order])

    def forget(self, kind: str) -> None:
        """Let go of what was kept for a lasting input."""
        self._kept[kind].clear()

    def _compile(self, out: str) -> None:
        names = [f"i{nth}" for nth in range(len(self._order))]
        self._needs(out, LATE)
        for kind in self.lasting:
            used = ", ".join(self._used[kind])
            source = [f"def early({', '.join(names)}):", *self._lines[kind], f"    return ({used}{',' * bool(used)})"]
            exec("\n".join(source), self._globals)
            self._early[kind] = self._globals.pop("early")
        head = f"def play({', '.join([*(f'early_{kind}' for kind in self.lasting), *names])}):"
        opens = [f"    ({', '.join(used)},) = early_{kind}" for kind, used in self._used.items() if used]
        exec("\n".join([head, *opens, *self._lines[LATE], f"    return {out}"]), self._globals)
        self._play = self._globals.pop("play")
        self._lines, self._kinds = {}, {}

    def _needs(self, name: str, by: str) -> None:
        """Note that a line of *by* reads a value that other lines work out."""
        kind = self._kinds.get(name, "")
        if kind in self._used and kind != by:
            self._used[kind][name] = None


class _Recorder(TorchFunctionMode):
    """Notes the calls that are made inside it."""

    def __init__(self, tape: Tape, inputs: Inputs) -> None:
        super().__init__()
        self.tape, self.count = tape, itertools.count()
        self.names: dict[int, str] = {}
        self.alive: list[Any] = []  # so that no identity is used twice
        for nth, (name, tensor) in enumerate(inputs.items()):
            self.names[id(tensor)] = f"i{nth}"
            kind = name.split("/")[0]
            tape._kinds[f"i{nth}"] = kind if kind in tape.lasting else LATE

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is functional.conv2d and (call := faster_convolution(args, kwargs, out, self.tape.packed)):
            (func, args), kwargs = call, {}
            out = func(*args)
        if func is torch.Tensor.contiguous and _last(args[0]) and not (args[1:] or kwargs):
            return args[0]  # the layers do not care, and the next convolution would rather have it so
        results = out if isinstance(out, (tuple, list)) else (out,)
        if not any(isinstance(result, Tensor) for result in results):
            return out
        self.alive.append((args, kwargs, out))
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        writes = getattr(func, "__name__", "").endswith("_") and not getattr(func, "__name__", "").endswith("__")
        if not writes and any(out is value for value in given):  # nothing was done, as by dropout
            return out
        if func in _DIVISIONS and args[1] == 1 and not isinstance(args[1], Tensor):
            self.names[id(out)] = self.name(args[0])
            return out
        self._line(func, args, kwargs, out, results)
        return out

    def _line(self, func: Any, args: Any, kwargs: Any, out: Any, results: Any) -> None:
        tape, reads = self.tape, set[str]()
        said = [self.text(value, reads) for value in args]
        said += [f"{name}={self.text(value, reads)}" for name, value in kwargs.items()]
        kinds = {tape._kinds[name] for name in reads} - {""}
        if not kinds and not _random(func):  # of weights and numbers alone: a constant itself
            return
        kind = kinds.pop() if len(kinds) == 1 else LATE
        for name in reads:
            tape._needs(name, kind)
        made = []
        for result in results:
            if id(result) not in self.names:
                self.names[id(result)] = f"v{next(self.count)}"
                tape._kinds[self.names[id(result)]] = kind
            made.append(self.names[id(result)])
        left = f"({', '.join(made)},)" if isinstance(out, (tuple, list)) else made[0]
        tape._lines[kind].append(f"    {left} = {self._constant('f', func)}({', '.join(said)})")

    def name(self, tensor: Tensor) -> str:
        """Return the name of a value; one that nothing made is a constant, such as a weight."""
        if id(tensor) not in self.names:
            self.alive.append(tensor)
            self.names[id(tensor)] = self._constant("k", tensor)
            self.tape._kinds[self.names[id(tensor)]] = ""
        return self.names[id(tensor)]

    def text(self, value: Any, reads: set[str]) -> str:
        """Return an argument as source."""
        if isinstance(value, Tensor):
            reads.add(name := self.name(value))
            return name
        if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
            inside = ", ".join(self.text(part, reads) for part in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * bool(value)})"
        if isinstance(value, (bool, int, str, type(None))):
            return repr(value)
        return self._constant("c", value)

    def _constant(self, letter: str, value: Any) -> str:
        name = f"{letter}{next(self.count)}"
        self.tape._globals[name] = value
        return name


def _last(x: Tensor) -> bool:
    """Tell whether the channels of a map come last in memory, as on a CPU a window's do."""
    return x.ndim == 4 and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)


def _random(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return any(word in name for word in ("rand", "normal", "bernoulli", "multinomial", "empty"))


def faster_convolution(args: Any, kwargs: Any, out: Tensor, kept: dict[Any, tuple[Tensor, Tensor]]) -> Any:
    """Return a function and its arguments that give what a convolution of a small window gave, sooner; or None.

    On a CPU torch's own call takes longer to get ready than such a window takes to compute: oneDNN looks for its
    kernel, and brings the weights into its order. A matrix product over rows of pixels does neither, and where there
    is more to compute oneDNN is given weights in its order. *kept* holds the weights that were brought into an order;
    large ones are not, as that would take their memory once more, and are multiplied as they are.
    """
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given: dict[str, Any] = dict(zip(names, (None, None, None, (1, 1), (0, 0), (1, 1), 1), strict=True))
    given |= dict(zip(names, args, strict=False)) | kwargs
    x, weight, bias, stride, padding, dilation, groups = given.values()
    plain = all(isinstance(value, tuple) for value in (stride, padding, dilation))
    if not plain or x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    single = padding == (0, 0) and dilation == (1, 1) and groups == 1
    pixels, large = out.numel() // out.shape[1], weight.nbytes > MOST_PACKED
    rows = single and x.is_contiguous(memory_format=torch.channels_last)
    kernel = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    call: tuple[Any, tuple[Any, ...]]
    if rows and weight.shape[2:] == (1, 1) and stride == (1, 1):
        call = _of_points, (x, weight.flatten(1), bias)
    elif large and rows and 2 * pixels <= len(weight) and weight.is_contiguous():
        # gathering takes as much as there are pixels, oneDNN's order as much as there are channels of the output
        call = _of_weights, (x, weight.flatten(1), bias, weight.shape[2:], stride)
    elif large:
        return None
    elif rows and pixels <= FEW_PIXELS:
        flat = _ordered(kept, (id(weight),), weight, lambda: weight.permute(0, 2, 3, 1).flatten(1).contiguous())
        call = _of_rows, (x, flat, bias, weight.shape[2:], stride)
    elif kernel is not None:
        shape = (list(padding), list(stride), list(dilation), groups)
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        key = (id(weight), stride, padding)
        order = _ordered(kept, key, weight, lambda: reorder(weight.detach(), *shape, list(x.shape)))
        call = kernel, (x, order, bias, *shape, "none", [], "")
    else:
        return None
    return call if torch.allclose(call[0](*call[1]), out, rtol=1e-3, atol=1e-4) else None


def _ordered(kept: dict[Any, tuple[Tensor, Tensor]], key: Any, weight: Tensor, order: Callable[[], Tensor]) -> Tensor:
    if key not in kept:
        kept[key] = (weight, order())  # the weight too, so that its identity is not used again
    return kept[key][1]


def _of_points(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve a map whose channels come last with a kernel of one pixel; *weight* is (out, in)."""
    return functional.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def _of_rows(
    x: Tensor, weight: Tensor, bias: Tensor | None, kernel: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """Convolve a map whose channels come last, without padding; *weight* is (out, height * width * in) of the kernel.

    The channels of neighbours in a row of the kernel lie side by side.
    """
    (count, channels, height, width), (tall, wide), (down, right) = x.shape, kernel, stride
    rows, columns = (height - tall) // down + 1, (width - wide) // right + 1
    line, x = width * channels, x.contiguous(memory_format=torch.channels_last)
    seen = x.as_strided(
        (count, rows, columns, tall, wide * channels), (height * line, down * line, right * channels, line, 1),
        x.storage_offset(),
    )  # fmt: skip
    return functional.linear(seen.flatten(3), weight, bias).permute(0, 3, 1, 2)


def _of_weights(
    x: Tensor, weight: Tensor, bias: Tensor | None, kernel: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """Convolve without padding; *weight* is (out, in * height * width) of the kernel, as torch has it in memory."""
    seen = x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    return functional.linear(seen.permute(0, 2, 3, 1, 4, 5).flatten(3), weight, bias).permute(0, 3, 1, 2)


MOST_PACKED = 2**21  # bytes of a weight that is brought into an order
FEW_PIXELS = 80  # of the output: below a plain product is sooner done
_DIVISIONS = {torch.Tensor.__truediv__, torch.Tensor.div, torch.div, torch.true_divide}
