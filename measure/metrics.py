"""Faithfulness: how close a picture is to the one that the untouched pipeline makes from the same seed.

Pictures are float tensors in [0, 1], (3, H, W), as decoded, before any file encoding.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

DEFINITIONS = {
    "psnr": "PSNR: -10 log10 of the mean squared difference over pixels and channels, pictures in [0, 1], in dB; "
    "more is closer; equal pictures print identical.",
    "ssim": "SSIM: structural similarity, Gaussian window of 11 pixels, sigma 1.5, K 0.01 and 0.03, mean over pixels "
    "and channels; 1 is equal.",
    "adherence": "Prompt adherence: share of the prompt's objects, colours and positions that a detector trained on "
    "rendered scenes finds in the picture; pocket models only.",
    "lpips": "LPIPS: learned perceptual distance (AlexNet); less is closer; needs the extra quality and its weights.",
}
METRICS = tuple(DEFINITIONS)
LESS_IS_BETTER = ("lpips",)


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal pictures.

    >>> psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1))
    20.0
    """
    error = (picture.double() - reference.double()).square().mean().item()
    return math.inf if error == 0 else round(-10 * math.log10(error), 6)


def ssim(picture: Tensor, reference: Tensor) -> float:
    """Return the structural similarity (Wang et al. 2004), averaged where the whole window lies in the picture."""
    window, sigma, c1, c2 = 11, 1.5, 0.01**2, 0.03**2
    x = torch.arange(window, dtype=torch.float64) - window // 2
    line = torch.exp(-x.square() / (2 * sigma**2))
    kernel = torch.outer(line, line) / line.sum() ** 2

    def blur(image: Tensor) -> Tensor:
        return functional.conv2d(image.unsqueeze(1), kernel[None, None]).squeeze(1)

    a, b = picture.double(), reference.double()
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    cov = blur(a * b) - mean_a * mean_b
    similar = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(similar.mean())


def difference(picture: Tensor, reference: Tensor) -> tuple[Tensor, float]:
    """Return the absolute difference, scaled so that its largest value is white, and the scale."""
    gap = (picture - reference).abs()
    scale = 1 / max(gap.max().item(), 1e-6)
    return (gap * scale).clamp(0, 1), scale
