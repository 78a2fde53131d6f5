"""Score pictures with the metrics that are at hand, and say why one is not."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import isnan
from typing import Any

import torch
from torch import Tensor

from ..pipelines import known_model, model_name
from .adherence import adherence
from .metrics import detail, frechet, ms_ssim, psnr, ssim
from .quality import load_clip, load_encoder, load_image_reward, load_lpips

Pair = Callable[[Tensor, Tensor], float | None]
Column = Callable[[], Sequence[float | None]]
PLAIN: dict[str, Pair] = {"psnr": psnr, "ssim": ssim, "ms-ssim": ms_ssim, "detail": detail}


class Scorer:
    """Metrics for one pipeline.

    Attributes:
        unavailable: metric -> why it cannot be had here.
    """

    def __init__(self, metrics: Sequence[str], pipe: Any) -> None:
        self.metrics = tuple(metrics)
        self.unavailable: dict[str, str] = {}
        model = known_model(model_name(pipe))
        pocket = model is not None and model.pocket
        if "adherence" in metrics and not pocket:
            self.unavailable["adherence"] = "the detector knows the pocket models' pictures only"
        self._pairs = {name: pair for name, pair in PLAIN.items() if name in metrics}
        if "lpips" in metrics and (lpips := self._had("lpips", load_lpips())):
            self._pairs["lpips"] = lpips
        if "latent" in metrics and (encode := self._had("latent", load_encoder(pipe))):
            self._pairs["latent"] = lambda a, b: _apart(encode(a), encode(b))
        self._reward = self._had("image-reward", load_image_reward()) if "image-reward" in metrics else None
        asked = [name for name in ("clip", "frechet") if name in metrics]
        self._clip: Any = load_clip(pocket) if asked else None
        if isinstance(self._clip, str):
            self.unavailable |= dict.fromkeys(asked, self._clip)
            self._clip = None

    def _had(self, metric: str, found: Any) -> Any:
        if isinstance(found, str):
            self.unavailable[metric] = found
            return None
        return found

    def __call__(
        self, prompts: Sequence[str], found: Sequence[Tensor], truth: Sequence[Tensor]
    ) -> list[dict[str, float | None]]:
        """Return metric -> value for each picture, (3, H, W) in [0, 1]; None where a metric says nothing."""
        scores: list[dict[str, float | None]] = [dict.fromkeys(self.metrics) for _ in found]
        for metric, column in self.columns(prompts, found, truth):
            for row, value in zip(scores, column(), strict=True):
                row[metric] = None if value is None or isnan(value) else value
        return scores

    def columns(
        self, prompts: Sequence[str], found: Sequence[Tensor], truth: Sequence[Tensor]
    ) -> Iterator[tuple[str, Column]]:
        """Yield every metric that is at hand, with what returns its values: so that one may fail by itself."""
        for name, pair in self._pairs.items():
            yield name, partial(_each, pair, found, truth)
        if self._reward is not None:
            yield "image-reward", partial(_each, self._reward, prompts, found)
        if "adherence" in self.metrics and "adherence" not in self.unavailable:
            yield "adherence", lambda: [None if seen is None else seen.score for seen in
                                        adherence(prompts, torch.stack(list(found)))]  # fmt: skip
        if "clip" in self.metrics and self._clip is not None:
            yield "clip", lambda: [100 * max(0.0, cosine) for cosine in
                                   self._clip.scores(prompts, torch.stack(list(found)))]  # fmt: skip

    def together(self, found: Sequence[Tensor], truth: Sequence[Tensor]) -> dict[str, float]:
        """Return the metrics of all pictures together; empty where there are fewer than two, or none is asked for."""
        if "frechet" not in self.metrics or self._clip is None or len(found) < 2:
            return {}
        features = [self._clip.features(torch.stack(list(pictures))) for pictures in (found, truth)]
        return {"frechet": frechet(*features)}


def _each(score: Callable[[Any, Any], float | None], a: Sequence[Any], b: Sequence[Any]) -> list[float | None]:
    return [score(*pair) for pair in zip(a, b, strict=True)]


def _apart(latents: Tensor, reference: Tensor) -> float:
    return float((latents - reference).norm() / reference.norm().clamp(min=1e-12))
