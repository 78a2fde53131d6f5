"""Faithfulness: how close a picture is to the one that the untouched pipeline makes from the same seed.

Pictures are float tensors in [0, 1], (3, H, W), as decoded, before any file encoding.
"""

import math
import statistics
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

DEFINITIONS = {
    "psnr": "PSNR: -10 log10 of the mean squared difference over pixels and channels, pictures in [0, 1], in dB; "
    "more is closer; equal pictures print identical. In a mean a picture counts at most 100 dB, also an equal one; "
    "the mean prints identical where all are.",
    "ssim": "SSIM: structural similarity, Gaussian window of 11 pixels, sigma 1.5, K 0.01 and 0.03, mean over pixels "
    "and channels; 1 is equal.",
    "ms-ssim": "MS-SSIM: SSIM's contrast and structure at up to five scales, each half the last (as many as the "
    "window fits into, weights 0.0448 0.2856 0.3001 0.2363 0.1333 brought to a sum of 1), luminance at the "
    "last; 1 is equal.",
    "detail": "Detail: energy of the grey picture above half of the highest frequency, over the baseline's; 1 is as "
    "much, below 1 is smoother, above 1 is sharper or noisier.",
    "latent": "Latent distance: norm of the difference between both pictures' latents (the mean that the pipeline's "
    "own autoencoder gives) over the norm of the baseline's; less is closer.",
    "adherence": "Prompt adherence: share of the prompt's objects, colours and positions that a detector trained on "
    "rendered scenes finds in the picture; pocket models only.",
    "lpips": "LPIPS: learned perceptual distance (AlexNet); less is closer; needs the extra quality and its weights.",
    "clip": "CLIPScore: 100 times the cosine between picture and prompt in CLIP's space, not below 0; the tiny CLIP "
    "of the pocket world for pocket models, openai/clip-vit-base-patch16 for others.",
    "image-reward": "ImageReward: a learned guess at what people like, for a prompt; more is better.",
    "frechet": "Fréchet distance between all pictures of a lane and all of the baseline, as Gaussians in CLIP's "
    "picture features (the pocket world's own for pocket models); less is closer; few pictures make it large.",
}
METRICS = tuple(DEFINITIONS)
LESS_IS_BETTER = ("latent", "lpips", "frechet")
OWN = {"adherence": 100.0, "clip": 1.0, "image-reward": 1.0}
"""Metrics that judge a picture by itself, not against the baseline's; with the points that one unit counts."""
TOGETHER = ("frechet",)
"""Metrics of all pictures at once, which say nothing about a single one."""
ALIKE = 100.0  # dB, the most that a picture counts in a mean
MOST = {"psnr": ALIKE, "ssim": 1.0, "ms-ssim": 1.0, "adherence": 1.0, "clip": 100.0}
"""The largest mean that there can be short of identical pictures, where there is one."""
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11


def counted(value: float, metric: str) -> float:
    """Return what a picture's score counts in a mean: a PSNR at most 100 dB, also where it is infinite."""
    return min(value, ALIKE) if metric == "psnr" else value


def mean_score(scores: Iterable[float], metric: str) -> float | None:
    """Return the mean over pictures: None where there are none, infinite where all are identical to the baseline's.

    >>> mean_score([30.0, math.inf], "psnr"), mean_score([math.inf, math.inf], "psnr")
    (65.0, inf)
    """
    found = list(scores)
    if found and all(map(math.isinf, found)):
        return math.inf
    return statistics.fmean(counted(score, metric) for score in found) if found else None


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal pictures.

    >>> psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1))
    20.0
    """
    error = (picture.double() - reference.double()).square().mean().item()
    return math.inf if error == 0 else round(-10 * math.log10(error), 6)


def ssim(picture: Tensor, reference: Tensor) -> float:
    """Return the structural similarity (Wang et al. 2004), averaged where the whole window lies in the picture."""
    light, structure = _similar(picture.double(), reference.double())
    return float((light * structure).mean())


def _similar(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return where pictures are alike: in luminance, and in contrast and structure."""
    sigma, c1, c2 = 1.5, 0.01**2, 0.03**2
    x = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    line = torch.exp(-x.square() / (2 * sigma**2))
    kernel = torch.outer(line, line) / line.sum() ** 2

    def blur(image: Tensor) -> Tensor:
        return functional.conv2d(image.unsqueeze(1), kernel[None, None]).squeeze(1)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    cov = blur(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return light, (2 * cov + c2) / (var_a + var_b + c2)


def ms_ssim(picture: Tensor, reference: Tensor) -> float:
    """Return the structural similarity at several scales (Wang et al. 2003); negative means count as 0.

    >>> flat = torch.full((3, 64, 64), 0.5)
    >>> round(ms_ssim(flat, flat), 6)
    1.0
    """
    side = min(picture.shape[-2:])
    scales = max(1, min(len(_SCALES), 1 + int(math.log2(side / _WINDOW)) if side >= _WINDOW else 1))
    weights = [weight / sum(_SCALES[:scales]) for weight in _SCALES[:scales]]
    a, b, product = picture.double(), reference.double(), 1.0
    for nth, weight in enumerate(weights):
        light, structure = _similar(a, b)
        last = nth == scales - 1
        product *= max(0.0, float((light * structure if last else structure).mean())) ** weight
        a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
    return product


def detail(picture: Tensor, reference: Tensor) -> float | None:
    """Return the energy of fine detail over the reference's; None where the reference has none.

    >>> fine = torch.tensor([0.25, 0.75]).repeat(4).expand(3, 8, 8)
    >>> round(detail(0.5 + (fine - 0.5) / 2, fine), 6)
    0.25
    """
    energy, whole = _fine(picture), _fine(reference)
    return energy / whole if whole > 1e-12 else None


def _fine(picture: Tensor) -> float:
    grey = picture.double().mean(0)
    spectrum = torch.fft.fft2(grey - grey.mean()).abs().square() / grey.numel() ** 2
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in grey.shape)
    return float(spectrum[(rows[:, None].square() + columns.square()).sqrt() > 0.25].sum())


def frechet(found: Tensor, truth: Tensor) -> float:
    """Return the Fréchet distance between two sets of features (N, F) as Gaussians (Heusel et al. 2017).

        |m - m'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2)

    >>> round(frechet(torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [6.0]])), 6)
    17.0
    """
    (mean, cov), (other, others) = (_gaussian(x.double()) for x in (found, truth))
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ others @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float((mean - other).square().sum() + cov.trace() + others.trace() - 2 * cross))


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1)


def difference(picture: Tensor, reference: Tensor) -> tuple[Tensor, float]:
    """Return the absolute difference, scaled so that its largest value is white, and the scale."""
    gap = (picture - reference).abs()
    scale = 1 / max(gap.max().item(), 1e-6)
    return (gap * scale).clamp(0, 1), scale
