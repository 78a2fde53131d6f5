"""Seconds and bytes of one run of a pipeline."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..pipelines import patched


def device_of(pipe: Any) -> torch.device:
    """Return the device that the pipeline computes on."""
    found: torch.device = pipe._execution_device if hasattr(pipe, "_execution_device") else pipe.device
    return found


def synchronise(pipe: Any) -> None:
    """Wait until the device has done what it was told."""
    device = device_of(pipe)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def staged_seconds(pipe: Any) -> Iterator[dict[str, float]]:
    """Measure how long text encoding and decoding take; the same light wrapping on every side of a comparison."""
    seconds = {"text": 0.0, "decode": 0.0}

    def timed(name: str) -> Callable[[Any], Any]:
        def wrap(function: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                synchronise(pipe)
                begin = time.perf_counter()
                try:
                    return function(*args, **kwargs)
                finally:
                    synchronise(pipe)
                    seconds[name] += time.perf_counter() - begin

            return wrapped

        return wrap

    with ExitStack() as stack:
        if hasattr(pipe, "encode_prompt"):
            stack.enter_context(patched(pipe, "encode_prompt", timed("text")))
        if getattr(pipe, "vae", None) is not None:
            stack.enter_context(patched(pipe.vae, "decode", timed("decode")))
        yield seconds


@contextmanager
def after_each_step(pipe: Any, look: Callable[[int, Any], None] | None) -> Iterator[None]:
    """Call *look* with the number of the step and the new latents; the same on every side of a comparison."""
    if look is None:
        yield
        return
    count = [0]

    def wrap(step: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = step(*args, **kwargs)
            look(count[0], out[0] if isinstance(out, tuple) else out.prev_sample)
            count[0] += 1
            return out

        return wrapped

    with patched(pipe.scheduler, "step", wrap):
        yield


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors born inside it that are still alive, and their peak."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.now = self.peak = 0
        parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        weights = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        self._seen = {tensor.untyped_storage()._cdata for tensor in weights}  # views of weights are no new memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._born(tensor)
        return out

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@contextmanager
def peak_bytes(pipe: Any) -> Iterator[list[int]]:
    """Measure the most memory that a run takes on top of what was there before; filled when the block ends.

    On a GPU the allocator's own count; elsewhere every new tensor is counted, which makes the run slower: measure
    seconds in another run.
    """
    device, found = device_of(pipe), [0]
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    with _Live(pipe) as live:
        yield found
    found[0] = live.peak


def weights_fingerprint(pipe: Any) -> str:
    """Return a short text that changes with the weights of any part: a few values of every parameter."""
    parts = [part for _, part in sorted(pipe.components.items()) if isinstance(part, nn.Module)]
    total = 0.0
    for nth, parameter in enumerate(parameter for part in parts for parameter in part.parameters()):
        flat = parameter.detach().flatten()
        if not flat.is_meta:  # offloaded piece by piece: nothing is there to look at
            sample = flat[:: max(1, flat.numel() // 16)].double().cpu()  # the same sum on every device
            total += (nth + 1) * float((sample * torch.arange(1, len(sample) + 1)).sum())
    return f"{total:.9e}"
