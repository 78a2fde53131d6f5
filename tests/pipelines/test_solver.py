"""The algebra of the schedulers, against the schedulers themselves; and what is refused."""

import pytest
import torch
from deadheat.pipelines import levels, unsolved
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

STEPS = 6
DPM = {"algorithm_type": "dpmsolver++", "solver_order": 1}
KNOWN = [
    (DDIMScheduler, {"clip_sample": False, "prediction_type": kind}) for kind in ("epsilon", "v_prediction", "sample")
]
KNOWN += [(EulerDiscreteScheduler, {"prediction_type": kind}) for kind in ("epsilon", "v_prediction")]
KNOWN += [(EulerDiscreteScheduler, {"use_karras_sigmas": True})]
KNOWN += [
    (DPMSolverMultistepScheduler, {**DPM, "prediction_type": kind}) for kind in ("epsilon", "v_prediction", "sample")
]
KNOWN += [(DPMSolverMultistepScheduler, {**DPM, "prediction_type": "flow_prediction", "use_flow_sigmas": True})]
KNOWN += [(FlowMatchEulerDiscreteScheduler, {"shift": 3.0})]


def described(scheduler):
    """The levels of a run; for schedulers without sigmas, what the clock makes of their alphas."""
    scheduler.set_timesteps(STEPS)
    if (sigmas := getattr(scheduler, "sigmas", None)) is None:
        kept = scheduler.alphas_cumprod[scheduler.timesteps]
        sigmas = ((1 - kept) / kept).sqrt()
    return levels(scheduler, [float(sigma) for sigma in sigmas[:STEPS]])


@pytest.mark.parametrize(("kind", "settings"), KNOWN, ids=str)
def test_a_first_order_step_goes_along_the_slope(kind: type, settings: dict):
    """Every row at once: keep, turn, scale and slope must be right for the scheduler's step to come out."""
    scheduler = kind(**settings)
    assert unsolved(scheduler) is None
    run = described(scheduler)
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * run[0].sigma * run[0].scale
    for at in range(STEPS - 1):
        timestep = scheduler.timesteps[at]
        if hasattr(scheduler, "scale_model_input"):  # Euler warns without
            scheduler.scale_model_input(x, timestep)
        out = torch.randn(x.shape, generator=torch.Generator().manual_seed(at + 1))
        level, after = run[at], run[at + 1]
        x0 = level.x0(x, out)
        expected = (x / level.scale + (after.sigma - level.sigma) * level.slope(x, x0)) * after.scale
        assert torch.allclose(level.prediction(x, x0), out, atol=1e-3)
        assert torch.allclose(level.on_slope(x, level.slope(x, x0)), x0, rtol=1e-3, atol=1e-3)
        x = scheduler.step(out, timestep, x).prev_sample
        assert torch.allclose(x, expected, rtol=1e-3, atol=2e-2 * after.sigma)


@pytest.mark.parametrize(("kind", "settings"), KNOWN[:-2], ids=str)
def test_the_picture_of_an_exact_prediction(kind: type, settings: dict):
    scheduler = kind(**settings)
    described(scheduler)
    picture, noise = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    for level in described(scheduler):
        alpha = (1 + level.sigma**2) ** -0.5
        x = (picture + level.sigma * noise) * level.scale
        exact = {
            "epsilon": noise,
            "v_prediction": alpha * noise - level.sigma * alpha * picture,
            "sample": picture,
        }[scheduler.config.prediction_type]
        assert torch.allclose(level.x0(x, exact), picture, atol=1e-4)
        assert torch.allclose(level.slope(x, picture), noise, atol=1e-4)


def test_pure_noise_at_the_start_is_finite():
    scheduler = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    first = described(scheduler)[0]
    x, out = torch.randn(2, 1, 4, 3, 3).unbind()
    assert torch.isfinite(first.slope(x, first.x0(x, out))).all()
    assert torch.allclose(first.x0(x, out), -out, atol=1e-2)


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (HeunDiscreteScheduler(), "HeunDiscreteScheduler solves is not described; switch to one of DDIMScheduler"),
        (UniPCMultistepScheduler(), "UniPCMultistepScheduler"),
        (EulerAncestralDiscreteScheduler(), "EulerAncestralDiscreteScheduler"),
        (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "algorithm_type='sde-dpmsolver"),
        (DPMSolverMultistepScheduler(variance_type="learned"), "variance_type='learned'"),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True), "only with flow_prediction"),
        (DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "only with epsilon, v_prediction, sample"),
        (EulerDiscreteScheduler(prediction_type="sample"), "only with epsilon, v_prediction"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling=True"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_is_not_described_is_refused(scheduler, words: str):
    assert words in unsolved(scheduler)
