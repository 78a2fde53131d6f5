"""The place inside joint attention where image tokens look at text tokens."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .call import Around, Call, Link, Network
from .errors import UnsupportedError
from .stage import Stage


class _Stronger(TorchFunctionMode):
    """Adds to what image tokens make of text tokens, in every attention over a sequence of both."""

    def __init__(self, text: slice, length: int, amount: float) -> None:
        super().__init__()
        self.text, self.length, self.amount, self.met = text, length, amount, 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return func(**self._biased(dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), kwargs))
        return func(*args, **(kwargs or {}))

    def _biased(self, given: dict[str, Any], kwargs: dict[str, Any] | None) -> dict[str, Any]:
        given |= kwargs or {}
        query, length = given["query"], self.length
        rows, words = query.shape[-2], self.text.stop - self.text.start
        if given["key"].shape[-2] != length or not words < rows <= length:  # some of the image tokens may ask, or all
            return given
        self.met += 1
        bias = query.new_zeros(rows, length)
        image = slice(words, rows) if self.text.start == 0 else slice(0, rows - words)
        bias[image, self.text] = self.amount
        mask = given.get("attn_mask")
        if mask is not None:
            bias = bias.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else bias + mask
        return given | {"attn_mask": bias}


def around_text_attention(stage: Stage, amount: Callable[[int, int], float]) -> AbstractContextManager[None]:
    """Add *amount* (of the step and the number of steps) to the logits of image tokens for text tokens.

    Where text has attention of its own the addition would change nothing, and nothing is done.
    """

    def start(link: Link) -> Around:
        def around(call: Call, network: Network) -> Tensor:
            added = amount(call.step, call.steps)
            if not added or stage.family.text is None:
                return network(call)
            text, length = _places(stage, call)
            ran = call.run.steps[-1].calls
            with _Stronger(text, length, added) as mode:
                out = network(call)
            # what answers without the network, or later in the run a cache, has no attention to strengthen
            if not mode.met and call.step == 0 and call.run.steps[-1].calls > ran:
                raise UnsupportedError(
                    f"{link.owner} cannot strengthen the text: attention does not go through PyTorch's own "
                    "(another backend, or torch.compile); use the native backend, or amplify=0"
                )
            return out

        return around

    return stage.around_denoiser(start)


def _places(stage: Stage, call: Call) -> tuple[slice, int]:
    """Return where text stands in a sequence of both, and how long that is."""
    network: nn.Module = next(iter(stage.denoisers.values()))
    words = call.kwargs["encoder_hidden_states"].shape[1]
    if stage.family.latents.layout == "packed":
        tokens = call.latents.shape[1]
    else:
        patch = int(network.config.patch_size)
        tokens = (call.latents.shape[-2] // patch) * (call.latents.shape[-1] // patch)
    first = 0 if stage.family.text == "first" else tokens
    return slice(first, first + words), words + tokens
