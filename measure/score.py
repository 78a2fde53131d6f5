"""Score pictures with the metrics that are at hand, and say why one is not."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..pipelines import known_model, model_name
from .adherence import adherence
from .metrics import psnr, ssim


class Scorer:
    """Metrics for one pipeline.

    Attributes:
        unavailable: metric -> why it cannot be had here.
    """

    def __init__(self, metrics: Sequence[str], pipe: Any) -> None:
        self.metrics = tuple(metrics)
        self.unavailable: dict[str, str] = {}
        model = known_model(model_name(pipe))
        if "adherence" in metrics and not (model and model.pocket):
            self.unavailable["adherence"] = "the detector knows the pocket models' pictures only"
        self._lpips = self._load_lpips() if "lpips" in metrics else None

    def _load_lpips(self) -> Any:
        if importlib.util.find_spec("lpips") is None or importlib.util.find_spec("torchvision") is None:
            self.unavailable["lpips"] = "lpips and torchvision are not installed (pip install 'deadheat[quality]')"
            return None
        import lpips

        try:
            return lpips.LPIPS(net="alex", verbose=False).eval()
        except (OSError, RuntimeError) as error:
            self.unavailable["lpips"] = f"its AlexNet weights could not be fetched: {str(error).splitlines()[0]}"
            return None

    def __call__(
        self, prompts: Sequence[str], found: Sequence[Tensor], truth: Sequence[Tensor]
    ) -> list[dict[str, float | None]]:
        """Return metric -> value for each picture, (3, H, W) in [0, 1]; None where a metric says nothing."""
        scores: list[dict[str, float | None]] = [dict.fromkeys(self.metrics) for _ in found]
        for row, picture, reference in zip(scores, found, truth, strict=True):
            if "psnr" in row:
                row["psnr"] = psnr(picture, reference)
            if "ssim" in row:
                row["ssim"] = ssim(picture, reference)
            if self._lpips is not None:
                with torch.no_grad():
                    row["lpips"] = float(self._lpips(picture[None] * 2 - 1, reference[None] * 2 - 1))
        if "adherence" in self.metrics and "adherence" not in self.unavailable:
            for row, seen in zip(scores, adherence(prompts, torch.stack(list(found))), strict=True):
                row["adherence"] = None if seen is None else seen.score
        return scores
