"""Places to stand in attention: between queries, keys and values, and around the image tokens that go in.

Written once for all families. Nothing of PyTorch or diffusers is replaced: while an attention module of this pipeline
runs, a function mode listens in its thread for the one function that every processor ends in.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .call import Call, Link
from .families import Family, denoisers, family
from .grids import Grid, Grids, area
from .places import Inner, around_modules
from .stage import Stage

SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


@dataclass(frozen=True)
class SelfAttention:
    """Attention over one sequence that holds all image tokens: softmax(query key^T scale) value.

    Attributes:
        query, key, value: (batch, heads, tokens, channels), after norms and position embedding.
        scale: factor of the logits.
        grid: frames, rows and columns of the image tokens, which stand in this order in the sequence.
        first: where the image tokens begin; what is not image is text.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    grid: Grid
    first: int = 0

    @property
    def tokens(self) -> int:
        """Number of image tokens."""
        return area(self.grid)


@dataclass(frozen=True)
class ImageTokens:
    """The image tokens that a self-attention module is given.

    Attributes:
        hidden: (batch, tokens, channels).
        grid: their frames, rows and columns.
        level: which of the resolutions that have attention, 0 for the finest.
    """

    hidden: Tensor
    grid: Grid
    level: int


AroundAttention = Callable[[Call, SelfAttention, Callable[[], Tensor]], Tensor]
AroundTokens = Callable[[Call, ImageTokens, Callable[[Tensor], Any]], Any]


def unseen_modules(pipe: Any) -> str | None:
    """Return a sentence that says why nobody can stand around this pipeline's attention modules, or None."""
    if not family(pipe).known:
        return "its attention is not described in pipelines/families.py"
    return why_compiled(pipe)


def why_compiled(pipe: Any) -> str | None:
    """Return a sentence where parts of this pipeline's denoisers are compiled, or None.

    What stands around a module in there is traced with it, once for every path: soon nothing more is compiled, of the
    plain pipeline neither.
    """
    modules = [module for network in denoisers(pipe).values() for module in network.modules()]
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in modules):
        return "its network is compiled, and nothing can stand inside compiled blocks: load it uncompiled"
    return None


def unseen_attention(pipe: Any) -> str | None:
    """Return a sentence that says why nobody can stand between this pipeline's queries and keys, or None."""
    modules = [module for network in denoisers(pipe).values() for module in network.modules()]
    if others := {_backend(module) for module in modules} - {"native"}:
        return f"its attention runs in {min(others)}, out of sight: load it with attention=default"
    return unseen_modules(pipe)


def _backend(module: nn.Module) -> str:
    processor: Any = getattr(module, "processor", None)
    if not hasattr(processor, "_attention_backend"):
        return "native"
    name = processor._attention_backend or _AttentionBackendRegistry.get_active_backend()[0]
    return str(getattr(name, "value", name))


def around_attention(stage: Stage, start: Callable[[Link], AroundAttention]) -> AbstractContextManager[None]:
    """Send every self-attention over image tokens through an ``AroundAttention``, made anew for each run.

    It receives the call, what attention is to be computed of, and a function that computes it as it would have
    been. Attention that is masked, causal or grouped never comes by.

    Raises:
        UnsupportedError: the denoiser has no attention module.
    """

    def begin(link: Link) -> Any:
        around, grids = start(link), Grids(stage)

        def module(name: str, call: Call, run: Inner) -> Any:
            arguments = _given(run).arguments
            if _crosses(stage.family, arguments):
                return run()

            def answer(plain: Callable[[], Tensor], given: Mapping[str, Any]) -> Tensor:
                asked = _self_attention(stage.family, grids.of(call), _apart(arguments), given)
                if asked is not None and given.get("attn_mask") is not None:
                    link.warn(
                        "masked attention is left alone, as where prompts of different length are padded: draw such "
                        "prompts one by one"
                    )
                    return plain()
                return plain() if asked is None else around(call, asked, plain)

            with _Listening(answer):
                return run()

        return module

    return around_modules(stage, _attention_of(stage.family), begin)


def around_image_tokens(stage: Stage, start: Callable[[Link], AroundTokens]) -> AbstractContextManager[None]:
    """Send the image tokens that enter each self-attention through an ``AroundTokens``, made anew for each run.

    It receives the call, the tokens, and a function that runs the module on others in their place and gives the
    module's output: image tokens, or a tuple of image and text tokens.

    Raises:
        UnsupportedError: the denoiser has no attention module.
    """

    def begin(link: Link) -> Any:
        around, grids = start(link), Grids(stage)

        def module(name: str, call: Call, run: Inner) -> Any:
            bound = _given(run)
            hidden = bound.arguments["hidden_states"]
            levels = {area(grid): (level, grid) for level, grid in enumerate(grids.of(call))}
            masked = bound.arguments.get("attention_mask") is not None
            if masked or hidden.ndim != 3 or hidden.shape[1] not in levels or _crosses(stage.family, bound.arguments):
                return run()

            def run_on(others: Tensor) -> Any:
                bound.arguments["hidden_states"] = others
                return run.func(*bound.args, **bound.kwargs)

            level, grid = levels[hidden.shape[1]]
            return around(call, ImageTokens(hidden, grid, level), run_on)

        return module

    return around_modules(stage, _attention_of(stage.family), begin)


class _Listening(TorchFunctionMode):
    """Lets *answer* compute what this thread asks of ``scaled_dot_product_attention``; all else passes."""

    def __init__(self, answer: Callable[[Callable[[], Tensor], Mapping[str, Any]], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        return self.answer(lambda: func(*args, **kwargs), dict(zip(SDPA, args, strict=False)) | kwargs)


def _self_attention(
    described: Family, grids: list[Grid], told: int | None, given: Mapping[str, Any]
) -> SelfAttention | None:
    query, key, value = given["query"], given["key"], given["value"]
    special = any(given.get(name) for name in ("dropout_p", "is_causal"))
    if special or not query.shape == key.shape == value.shape or query.ndim != 4:
        return None
    for grid in grids:
        text = query.shape[2] - area(grid)
        if text == told or (told is None and (text == 0 or (text > 0 and described.sequence != "image"))):
            scale = given.get("scale") or query.shape[-1] ** -0.5
            first = text if described.sequence == "text+image" else 0
            return SelfAttention(query, key, value, scale, grid, first)
    return None


def _attention_of(described: Family) -> Callable[[str, nn.Module], bool]:
    """Attention modules of the described stacks: a text encoder inside the network may happen to be as long."""
    stacks = {row.blocks for row in described.stacks}

    def match(name: str, module: nn.Module) -> bool:
        return hasattr(module, "processor") and (described.unet or name.partition(".")[0] in stacks)

    return match


def _given(run: Inner) -> inspect.BoundArguments:
    return inspect.signature(run.func).bind(*run.args, **run.keywords)


def _apart(given: Mapping[str, Any]) -> int | None:
    """Return how many text tokens a joint attention is given, if they come apart from the image tokens."""
    other = given.get("encoder_hidden_states")
    if isinstance(other, tuple):  # an IP-Adapter's pictures stand behind the text
        other = other[0]
    return None if other is None or other is given["hidden_states"] else int(other.shape[1])


def _crosses(described: Family, given: Mapping[str, Any]) -> bool:
    """Tell whether attention looks at text only: its text may happen to be as long as the picture."""
    return described.sequence == "image" and _apart(given) is not None
