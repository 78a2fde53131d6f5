"""Noise levels mean the same whatever a scheduler counts in; predictions give back the picture they stand for."""

import pytest
import torch
from deadheat.pipelines import MOST_NOISE, clean, noise_to_signal
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

FLOWS = [
    FlowMatchEulerDiscreteScheduler(),
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
]


@pytest.mark.parametrize("scheduler", FLOWS, ids=lambda s: type(s).__name__)
def test_flow(scheduler):
    picture, noise = torch.randn(2, 1, 4, 8, 8)
    x = 0.25 * picture + 0.75 * noise
    assert torch.allclose(clean(scheduler, 0.75, x, noise - picture), picture, atol=1e-6)
    assert noise_to_signal(scheduler, 0.75) == 3.0
    assert noise_to_signal(scheduler, 1.0) == MOST_NOISE


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("cls", [DDIMScheduler, EulerDiscreteScheduler])
def test_variance_preserving(cls: type, kind: str):
    """Against the scheduler's own arithmetic, from what the network is given."""
    scheduler = cls(prediction_type=kind, clip_sample=False) if cls is DDIMScheduler else cls(prediction_type=kind)
    scheduler.set_timesteps(10)
    at = scheduler.timesteps[4]
    kept = scheduler.alphas_cumprod[int(at)]
    sigma = float(((1 - kept) / kept) ** 0.5) if cls is DDIMScheduler else float(scheduler.sigmas[4])
    sample, prediction = torch.randn(2, 1, 4, 8, 8)
    given = scheduler.scale_model_input(sample, at)
    theirs = scheduler.step(prediction, at, sample).pred_original_sample
    assert torch.allclose(clean(scheduler, sigma, given, prediction), theirs, atol=1e-4, rtol=1e-4)
    assert noise_to_signal(scheduler, sigma) == sigma


def test_channels_of_one_alone_are_left_out():
    assert clean(DDIMScheduler(), 1.0, torch.zeros(1, 9, 8, 8), torch.zeros(1, 4, 8, 8)).shape == (1, 4, 8, 8)
    assert clean(DDIMScheduler(), 1.0, torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8, 8)).shape == (1, 4, 8, 8)
