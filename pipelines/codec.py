"""An autoencoder that encodes a picture once, and decodes only what changed in it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from .boxes import Box, Sides
from .patch import patched
from .undo import Undo
from .window_frames import Frame, Notes, TooLarge
from .windows import Windows, unwindowed

SURE = -30.0  # log variance of latents that are known


@dataclass(eq=False)
class Decoded:
    """What a decode left: the latents that were asked for, and what the decoder's window read."""

    latents: Tensor | None = None
    frame: Frame | None = None
    reads: dict[str, tuple[Tensor, ...]] | None = None


class Codec:
    """The autoencoder of a pipeline, and what it knows of one picture.

    Attributes:
        vae: the autoencoder.
        moments: mean and log variance of the picture's latents.
        notes: what the decoder's layers left for those latents; None where that is beyond the budget, or the decoder
            cannot run on a window: then it decodes the whole.
    """

    def __init__(self, vae: Any, picture: Tensor, *, store: torch.dtype, budget: int) -> None:
        """Encode *picture*, (3, H, W) in [0, 1]."""
        self.vae, self.budget = vae, budget
        self.notes: Notes | None = None
        with torch.no_grad():
            self.moments = self._encode(picture)
            mean = self.moments.chunk(2, dim=1)[0]
            whole = vae.use_tiling or vae.use_slicing or unwindowed(vae.decoder) is not None
            self.windows = Windows(vae.decoder, store)
            self.seen = picture
            if not whole:
                with suppress(TooLarge):
                    _, self.notes = self.windows.noted(lambda: vae.decode(mean, return_dict=False)[0], most=budget)

    @staticmethod
    def why_not(vae: Any) -> str | None:
        """Return a sentence why this autoencoder is none that can be asked for a part, or None."""
        if not isinstance(vae, AutoencoderKL):
            return f"its autoencoder is a {type(vae).__name__}, not an AutoencoderKL"
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            return "its autoencoder is raised to float32 for every picture: load the pipeline in bfloat16 or float32"
        return None

    @property
    def nbytes(self) -> int:
        return self.moments.nbytes + (self.notes.nbytes if self.notes is not None else 0)

    @property
    def size(self) -> Sides:
        """Height and width of the latents."""
        return self.moments.shape[-2], self.moments.shape[-1]

    def _encode(self, picture: Tensor) -> Tensor:
        given = next(self.vae.parameters())
        x = (picture[None] * 2 - 1).to(given.device, given.dtype)
        found: Tensor = self.vae.encode(x).latent_dist.parameters
        return found

    def painted(self, picture: Tensor, active: Tensor) -> Tensor:
        """Return the moments of a picture that differs from this one in its *active* latents only."""
        if torch.equal(picture, self.seen):
            return self.moments
        return torch.where(active.to(self.moments.device), self._encode(picture), self.moments)

    @contextmanager
    def editing(self, moments: Tensor, box: Box) -> Iterator[Decoded]:
        """Let the pipeline's autoencoder answer with these *moments*, and decode *box* only, the rest as it was."""
        said = Decoded()

        def encode(_: Any) -> Any:
            def wrapped(x: Tensor, return_dict: bool = True) -> Any:
                answer = AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))
                return answer if return_dict else (answer.latent_dist,)

            return wrapped

        def decode(forward: Any) -> Any:
            def wrapped(z: Tensor, *args: Any, **kwargs: Any) -> Any:
                said.latents = z
                if self.notes is None:
                    return forward(z, *args, **kwargs)
                return self._window(z, box, said, lambda part: forward(part, *args, **kwargs))

            return wrapped

        with patched(self.vae, "encode", encode), patched(self.vae, "decode", decode):
            yield said

    def _window(self, z: Tensor, box: Box, said: Decoded, forward: Any) -> Any:
        assert self.notes is not None
        assert self.notes.out is not None
        said.frame = self.windows.frame(self.size, box, z.device)
        said.reads = said.frame.reads(self.notes, z)
        part = self.windows.run(lambda: forward(box.of(z)), said.frame, said.reads)
        picture = part[0] if isinstance(part, tuple) else part.sample
        whole = (self.seen[None] * 2 - 1).to(picture).repeat(len(picture), 1, 1, 1)
        box.at(self.size, (whole.shape[-2], whole.shape[-1])).of(whole).copy_(picture)
        return (whole,) if isinstance(part, tuple) else type(part)(sample=whole)

    def learn(self, said: Decoded, active: Tensor, picture: Tensor) -> Undo:
        """Make an edited picture the known one; return what takes that back."""
        moments, seen = self.moments, self.seen
        notes, frame, held = self.notes, said.frame, dict[str, Tensor]()
        if said.latents is not None:
            known = torch.cat([said.latents, torch.full_like(said.latents, SURE)], 1).to(self.moments)
            self.moments = torch.where(active.to(known.device), known, self.moments)
        if notes is not None and frame is not None and said.reads is not None:
            held = frame.held(notes)
            frame.write(notes, frame.fresh(said.reads, notes))
        self.seen = picture

        def put_back() -> None:
            self.moments, self.seen = moments, seen
            if notes is not None and frame is not None and held:
                frame.write(notes, held)

        return Undo.of(put_back, [moments, *held.values()])
