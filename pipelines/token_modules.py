"""A place at single modules that treat every token by itself: some tokens run, the others keep what they last gave.

Feed-forwards of image tokens are such modules, and attention where a part of the tokens can ask all tokens. Where
image and text attend jointly, or positions are rotated into queries and keys alike, attention is left alone.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional

from .call import Call
from .errors import UnsupportedError
from .families import Family, Latents, denoisers, family
from .patch import patched
from .stage import Stage, call_point

FEED_FORWARD = ("ff", "ffn", "img_mlp")
ATTENTION = ("attn1", "attn2")

RunTokens = Callable[[Tensor | None], Tensor]
AroundTokens = Callable[[str, Call, Tensor, RunTokens], Tensor]


@contextmanager
def around_token_modules(stage: Stage, around: AroundTokens) -> Iterator[None]:
    """Send the modules that may run on a part of their tokens through *around*.

    It receives the module's path, which begins with the denoiser's name, the call, the module's input (samples,
    tokens, channels), and a function that runs the module on the tokens of these indices (samples, kept), or on all of
    them; it returns the output of all.

    Raises:
        UnsupportedError: there is no such module.
    """
    if (why := no_token_modules(stage.pipe)) is not None:
        raise UnsupportedError(why)
    with ExitStack() as stack:
        for name, module in _token_modules(stage.pipe):
            stack.enter_context(patched(module, call_point(module), _wrap(stage, name, module, around)))
        yield


def no_token_modules(pipe: Any) -> str | None:
    """Return a sentence where no module of this pipeline's denoisers works token by token, or None."""
    if any(_token_modules(pipe)):
        return None
    return f"no module of {type(pipe).__name__}'s denoiser is known to work token by token"


def _token_modules(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    described = family(pipe)
    for of, network in denoisers(pipe).items():
        for name, module in network.named_modules():
            if token_wise(described, name, module):
                yield f"{of}.{name}", module


def token_wise(family: Family, name: str, module: nn.Module) -> bool:
    """Tell whether the module of this name may run on a part of its tokens."""
    *path, last = name.split(".")
    stacks = {row.blocks for row in family.stacks if not row.joint} | (
        {"transformer_blocks"} if family.unet else set()
    )
    if len(path) < 2 or path[-2] not in stacks or (family.stacks and len(path) > 2):
        return False
    return last in FEED_FORWARD or (last in ATTENTION and isinstance(module, Attention) and not module.norm_cross)


def _wrap(stage: Stage, name: str, module: nn.Module, around: AroundTokens) -> Any:
    attends = isinstance(module, Attention)

    def wrap(forward: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            plain = not attends or (
                type(module.processor) in (AttnProcessor, AttnProcessor2_0) and module.group_norm is None
            )
            if stage.call is None or not plain or len(args) != 1 or args[0].ndim != 3:
                return forward(*args, **kwargs)
            (hidden,) = args

            def run(kept: Tensor | None) -> Tensor:
                if kept is None:
                    return forward(hidden, **kwargs)
                own = {"encoder_hidden_states": hidden} if attends and _asks_itself(kwargs) else {}
                return forward(taken(hidden, kept), **kwargs | own)

            return around(name, stage.call, hidden, run)

        return wrapped

    return wrap


def _asks_itself(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("encoder_hidden_states") is None


def taken(tokens: Tensor, kept: Tensor) -> Tensor:
    """Return the tokens of these indices, (samples, kept, channels)."""
    return tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def put(tokens: Tensor, kept: Tensor, fresh: Tensor) -> Tensor:
    """Return *tokens* with those of these indices replaced."""
    return tokens.scatter(1, kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]), fresh)


def on_grid(layout: Latents, values: Tensor) -> Tensor:
    """Return the mean over channels of something that has the latents' shape, as (samples, frames, h, w)."""
    match layout.layout:
        case "image":
            return values.mean(1).unsqueeze(1)
        case "video":
            return values.mean(1)
        case _:  # every place is a token already
            return values.mean(2)[:, None, None, :]


def on_tokens(grid: Tensor, tokens: int, coarsest: int = 2) -> Tensor | None:
    """Return the largest value below every token, (samples, tokens).

    None where so many tokens do not lie on the grid, or are wider than *coarsest* latent pixels.
    """
    samples, frames, height, width = grid.shape
    for factor in range(1, coarsest + 1):
        if frames * height * width == tokens * factor**2 and not (height % factor or width % factor):
            return functional.max_pool2d(grid, factor).reshape(samples, tokens)
    return None
