"""Metrics beyond PSNR and SSIM: closed forms, libraries that others trust, and what is said where one is missing."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from deadheat.measure import METRICS, Scorer, compare, detail, frechet, ms_ssim, quality, ssim
from scipy.linalg import sqrtm

from ..families import FAMILIES


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    picture = torch.rand(3, 192, 176, generator=generator)
    return picture, (picture + 0.1 * torch.randn(3, 192, 176, generator=generator)).clamp(0, 1)


def test_equal_pictures_are_equal_at_every_scale(pair):
    assert ms_ssim(pair[0], pair[0]) == pytest.approx(1) and detail(pair[0], pair[0]) == 1


@pytest.mark.parametrize(
    ("side", "weight"), [(176, 0.1333 / 1.0001), (352, 0.1333 / 1.0001), (16, 1.0), (22, 0.2856 / 0.3304)]
)
def test_flat_pictures_differ_in_luminance_at_the_last_scale_only(side: int, weight: float):
    a, b = 0.3, 0.7
    light = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    found = ms_ssim(torch.full((3, side, side), a), torch.full((3, side, side), b))
    assert found == pytest.approx(light**weight, abs=1e-6)


def test_a_small_picture_has_one_scale_and_is_ssim(pair):
    a, b = (picture[:, :20, :20] for picture in pair)
    assert ms_ssim(a, b) == pytest.approx(ssim(a, b), abs=1e-12)


def test_two_scales_by_hand():
    """Window by window, in numpy."""
    generator = np.random.default_rng(0)
    a = generator.random((22, 22))
    b = np.clip(a + 0.1 * generator.standard_normal((22, 22)), 0, 1)
    x = np.arange(11) - 5
    window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))
    window /= window.sum()

    def means(one, two):
        found = []
        for row in range(len(one) - 10):
            for column in range(len(one) - 10):
                p, q = (image[row : row + 11, column : column + 11] for image in (one, two))
                m, n = (window * p).sum(), (window * q).sum()
                v, w = ((window * (x - m) ** 2).sum() for x, m in ((p, m), (q, n)))
                c = (window * (p - m) * (q - n)).sum()
                found.append(((2 * m * n + 1e-4) / (m * m + n * n + 1e-4), (2 * c + 9e-4) / (v + w + 9e-4)))
        return np.mean([s for _, s in found]), np.mean([light * s for light, s in found])

    half = [x.reshape(11, 2, 11, 2).mean((1, 3)) for x in (a, b)]
    expected = means(a, b)[0] ** (0.0448 / 0.3304) * means(*half)[1] ** (0.2856 / 0.3304)
    found = ms_ssim(*(torch.tensor(x).expand(3, -1, -1) for x in (a, b)))
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("share", [0.25, 0.5, 2.0])
def test_detail_is_energy(share: float):
    wave = torch.sin(torch.arange(64) * 2 * math.pi * 20 / 64) * 0.1
    slow = torch.sin(torch.arange(64) * 2 * math.pi * 3 / 64) * 0.3
    picture = lambda size: (0.5 + slow + size * wave).expand(3, 64, 64)  # noqa: E731
    assert detail(picture(share), picture(1)) == pytest.approx(share**2, rel=1e-4)
    assert detail(picture(1), picture(0)) is None


def gaussian(mean, *deviations):
    """A set whose sample mean and covariance are exactly these."""
    count = 2 * len(deviations)
    rows = [sign * d * math.sqrt((count - 1) / 2) * np.eye(len(deviations))[i]
            for i, d in enumerate(deviations) for sign in (1, -1)]  # fmt: skip
    return torch.tensor(np.array(rows) + np.array(mean))


def test_frechet_of_gaussians_along_the_axes():
    a, b = gaussian([0.0, 1.0], 1.0, 3.0), gaussian([2.0, 1.0], 2.0, 0.5)
    assert frechet(a, b) == pytest.approx(4 + 1 + 2.5**2)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_agrees_with_a_matrix_root():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    b = a @ torch.randn(5, 5, generator=generator, dtype=torch.float64) + 1
    one, two = np.cov(a.T), np.cov(b.T)
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_more_features_than_pictures():
    a = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + 1) == pytest.approx(50, rel=1e-4)


def test_what_is_missing_says_so_and_nothing_is_fetched(monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("socket.socket.connect", never)
    scorer = Scorer(METRICS, FAMILIES["sd15"].build())
    assert {"clip", "frechet", "lpips", "image-reward", "adherence"} <= set(scorer.unavailable)
    assert "not on this machine" in scorer.unavailable["clip"]
    pictures = torch.rand(2, 3, 64, 64)
    rows = scorer(["a", "b"], pictures, pictures)
    assert rows[0]["latent"] == 0 and rows[0]["ms-ssim"] == pytest.approx(1) and rows[0]["clip"] is None
    assert scorer.together(pictures, pictures) == {}


def test_weights_that_are_there_are_used(monkeypatch, tmp_path):
    fake = types.ModuleType("ImageReward")
    asked = []

    class Model:
        def score(self, prompt, picture):
            return len(prompt) + picture.size[0] / 100

    def load(name, med_config):
        asked.append((name, med_config))
        return Model()

    fake.load = load
    monkeypatch.setitem(sys.modules, "ImageReward", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    assert "its weights are not in" in quality.load_image_reward(tmp_path)
    for name in ("ImageReward.pt", "med_config.json"):
        (tmp_path / name).touch()
    assert quality.load_image_reward(tmp_path)("abc", torch.zeros(3, 8, 50)) == 3.5
    assert asked == [(str(tmp_path / "ImageReward.pt"), str(tmp_path / "med_config.json"))]


def test_the_pocket_models_have_a_clip_of_their_own():
    from deadheat import load

    prompts = ["a large fox on a plain gray background", "a large pizza on a plain red background"]
    result = compare(
        load("pocket-dit"), "fewer-steps:steps=2", prompts=prompts, steps=6, repeats=1, control=False, memory=False,
        metrics=("psnr", "clip", "frechet", "latent", "detail", "ms-ssim"),
    )  # fmt: skip
    baseline, lane = result.lanes
    assert not result.unavailable
    assert 0 < lane.mean("clip") <= 100 and baseline.mean("frechet") == pytest.approx(0, abs=1e-3)
    assert lane.mean("frechet") > 0 < lane.mean("latent") and lane.mean("ms-ssim") < 1
    assert "frechet mean" in result.table()
