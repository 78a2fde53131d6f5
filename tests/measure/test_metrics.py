"""The metrics agree with a library that others trust, and with arithmetic."""

import math

import pytest
import torch
from deadheat.measure import difference, psnr, ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    picture = torch.rand(3, 40, 52, generator=generator)
    return picture, (picture + 0.1 * torch.randn(3, 40, 52, generator=generator)).clamp(0, 1)


def test_psnr_agrees_with_scikit_image(pair):
    a, b = pair
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1), abs=1e-4)


def test_ssim_agrees_with_scikit_image(pair):
    a, b = (x.double().numpy() for x in pair)
    expected = structural_similarity(
        a, b, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(*pair) == pytest.approx(expected, abs=1e-6)


def test_equal_pictures_are_identical(pair):
    assert psnr(pair[0], pair[0]) == math.inf and ssim(pair[0], pair[0]) == pytest.approx(1)


def test_difference_is_scaled_to_white_and_says_by_how_much(pair):
    gap, scale = difference(*pair)
    assert gap.max() == pytest.approx(1) and scale == pytest.approx(1 / (pair[0] - pair[1]).abs().max().item())
