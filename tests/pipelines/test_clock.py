"""The clock: steps, noise levels and branches as the pipeline really goes through them."""

import copy

import pytest
import torch
from deadheat.accelerators import ABCache, attached
from deadheat.pipelines import Call, DeadheatError, UnsupportedError, staged
from diffusers import (
    AutoPipelineForImage2Image,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    KDPM2DiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
)

from ..families import FAMILIES, TinyFamily, leftovers


def calls_of(stage, seen: list[Call]):
    """Write down every call that goes through the place around the denoiser."""

    def start(link):
        def around(call, network):
            seen.append(call)
            return network(call)

        return around

    return stage.around_denoiser(start)


@pytest.mark.parametrize("on", ["sd15", "sd3", "ltx"])
def test_the_halves_are_compared_once_a_run(on: str, monkeypatch):
    """A GPU would have to wait for the answer at every step."""
    tiny, compared = FAMILIES[on], []
    pipe, equal = tiny.build(), torch.equal

    def counted(a, b):
        compared.append(len(a))
        return equal(a, b)

    monkeypatch.setattr("deadheat.pipelines.stage.torch.equal", counted)
    with staged(pipe) as stage:
        for copies in (1, 2):
            tiny.call(pipe, 4, copies=copies)
        tiny.call(pipe, 4, **tiny.unguided)
    assert compared == [1, 2]
    assert len(stage.runs) == 3


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
def test_steps_and_branches(family: TinyFamily, guided: bool):
    pipe, seen = family.build(), []
    plain = family.call(pipe, 4, **({} if guided else family.unguided))
    before = leftovers(pipe)
    with staged(pipe) as stage, calls_of(stage, seen):
        assert torch.equal(plain, family.call(pipe, 4, **({} if guided else family.unguided)))
    assert leftovers(pipe) == before
    (run,) = stage.runs
    assert [step.index for step in run.steps] == list(range(4))
    assert run.total == 4
    assert run.calls == run.asked == family.samples(4, guided)
    assert all(step.seconds > 0 for step in run.steps)
    expected = {
        ("batched", True): [("uncond", "cond")],
        ("batched", False): [("cond",)],
        ("separate", True): [("cond",), ("uncond",)],
        ("separate", False): [("cond",)],
    }[family.guidance, guided]
    if family.name == "auraflow":  # nobody described it: one branch, whatever the batch holds
        expected = [("cond",)]
    assert [call.branches for call in seen] == expected * 4
    assert [call.step for call in seen] == [n for n in range(4) for _ in expected]
    assert {call.steps for call in seen} == {4}
    assert [call.last for call in seen][-1]
    assert seen[0].progress == 0
    assert seen[-1].progress == 0.75


def test_sigmas_fall(family: TinyFamily):
    pipe = family.build()
    with staged(pipe) as stage:
        family.call(pipe, 5)
    sigmas = [step.sigma for step in stage.runs[0].steps]
    assert sigmas == sorted(sigmas, reverse=True)
    assert len(set(sigmas)) == 5
    assert sigmas[-1] > 0
    if hasattr(pipe.scheduler, "sigmas"):
        assert sigmas == pytest.approx([float(s) for s in pipe.scheduler.sigmas[:5]])


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
def test_noise_levels_of_any_scheduler(scheduler: type):
    family = FAMILIES["sd15"]
    pipe = family.build(scheduler=scheduler())
    with staged(pipe) as stage:
        family.call(pipe, 4)
    steps = stage.runs[0].steps
    kept = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps.long()]
    assert [step.sigma for step in steps] == pytest.approx(((1 - kept) / kept).sqrt().tolist(), rel=0.02)


def test_a_run_each(family: TinyFamily):
    pipe = family.build()
    with staged(pipe) as stage:
        family.call(pipe, 2)
        family.call(pipe, 3)
    assert [len(run.steps) for run in stage.runs] == [2, 3]


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image(strength: float):
    """The scheduler plans ten steps, and the pipeline begins in the middle of them."""
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(FAMILIES["sd15"].build())
    pipe.set_progress_bar_config(disable=True)

    def call():
        return pipe(
            "a red cube",
            image=torch.full((1, 3, 64, 64), 0.5),
            strength=strength,
            num_inference_steps=10,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        )[0]

    plain, seen = call(), []
    with staged(pipe) as stage, calls_of(stage, seen):
        assert torch.equal(plain, call())
    (run,) = stage.runs
    assert run.total == len(run.steps) == round(10 * strength)
    kept = pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps.long()][-run.total :]
    assert [step.sigma for step in run.steps] == pytest.approx(((1 - kept) / kept).sqrt().tolist())
    with attached(pipe, ABCache(every=2, warmup=2)) as session:
        call()
    computed = [step.index for step in session.report().steps if step.calls]
    assert computed == list(ABCache(every=2, warmup=2).computed(run.total))


def test_image_to_image_with_flow_matching():
    pipe = StableDiffusion3Img2ImgPipeline.from_pipe(FAMILIES["sd3"].build())
    pipe.set_progress_bar_config(disable=True)
    with staged(pipe) as stage:
        pipe(
            "a red cube",
            image=torch.full((1, 3, 64, 64), 0.5),
            height=64,
            width=64,
            strength=0.5,
            num_inference_steps=8,
            max_sequence_length=16,
            output_type="latent",
        )
    (run,) = stage.runs
    assert run.total == len(run.steps) == 4
    assert run.steps[0].sigma == pytest.approx(float(pipe.scheduler.sigmas[4]))


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DDIMScheduler])
def test_a_run_that_another_pipeline_goes_on_with(scheduler: type):
    """SDXL's base ends where its refiner begins: the last steps are left out, not the first."""
    tiny = FAMILIES["sdxl"]
    pipe = tiny.build(scheduler())
    with staged(pipe) as stage:
        tiny.call(pipe, 10)
        tiny.call(pipe, 10, denoising_end=0.6)
    whole, part = ([step.sigma for step in run.steps] for run in stage.runs)
    assert len(part) == 6
    assert part == whole[:6]


def test_a_pipeline_of_another_kind():
    """A pipeline with another call signature and no guidance (Marigold) has a clock all the same."""
    from diffusers import MarigoldDepthPipeline, UNet2DConditionModel

    parts = FAMILIES["sd15"].build()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        **{k: v for k, v in parts.unet.config.items() if k[0] != "_"} | {"in_channels": 8}
    ).eval()
    pipe = MarigoldDepthPipeline(
        unet,
        parts.vae,
        parts.scheduler,
        parts.text_encoder,
        parts.tokenizer,
        prediction_type="depth",
        scale_invariant=True,
        shift_invariant=True,
        default_denoising_steps=4,
        default_processing_resolution=0,
    )
    pipe.set_progress_bar_config(disable=True)

    def call():
        return pipe(
            torch.full((1, 3, 32, 32), 0.5), num_inference_steps=8, generator=torch.Generator().manual_seed(0)
        )[0]

    plain, before = torch.as_tensor(call()), leftovers(pipe)
    with attached(pipe, ABCache(every=1)) as session:
        assert torch.equal(plain, torch.as_tensor(call()))
    assert [step.calls for step in session.report().steps] == [1] * 8
    with attached(pipe, ABCache(every=2, warmup=2)) as session:
        call()
    assert session.report().calls == len(ABCache(every=2, warmup=2).computed(8))
    assert leftovers(pipe) == before


def test_by_hand_outside_a_run():
    """A network that somebody calls before or after a run answers as if nobody stood there."""
    family = FAMILIES["sd15"]
    pipe = family.build()
    given = (torch.ones(1, 4, 8, 8), torch.tensor(500), torch.ones(1, 7, 32))
    with torch.no_grad():
        plain = pipe.unet(*given).sample
        with attached(pipe, ABCache(order=1, every=10, warmup=1)) as session:
            assert torch.equal(plain, pipe.unet(*given).sample)
            assert not session.stage.runs
            family.call(pipe, 4)
            assert torch.equal(plain, pipe.unet(*given).sample)
    assert session.report().asked == 8


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_by_hand_with_a_loop_of_ones_own(used: bool):
    pipe = FAMILIES["sd15"].build() if used else FAMILIES["sd15"].make()
    text = torch.ones(1, 7, 32)
    with torch.no_grad(), attached(pipe, ABCache(every=2, warmup=2)) as session:
        latents = torch.ones(1, 4, 8, 8)
        pipe.scheduler.set_timesteps(6)
        for t in pipe.scheduler.timesteps:
            noise = pipe.unet(latents, t, encoder_hidden_states=text, return_dict=False)[0]
            latents = pipe.scheduler.step(noise, t, latents, return_dict=False)[0]
    assert [bool(step.calls) for step in session.report().steps] == [True, True, True, False, True, True]


@pytest.mark.parametrize("how", ["wrapped", "in place"])
@pytest.mark.parametrize("on", ["sd15", "sd3", "flux"])
def test_compiled(on: str, how: str):
    family = FAMILIES[on]
    pipe = family.build()
    name = "unet" if on == "sd15" else "transformer"
    if how == "wrapped":
        setattr(pipe, name, torch.compile(getattr(pipe, name), backend="eager"))
    else:
        getattr(pipe, name).compile(backend="eager")
    plain = family.call(pipe, 4)
    before = leftovers(pipe)
    with attached(pipe, ABCache(every=1)) as session:
        assert torch.equal(plain, family.call(pipe, 4))
    assert session.report().calls == 8
    with attached(pipe, ABCache(every=2, warmup=2, order=1)) as session:
        family.call(pipe, 6)
    assert session.report().calls == 2 * len(ABCache(every=2, warmup=2).computed(6))
    assert leftovers(pipe) == before
    assert torch.equal(plain, family.call(pipe, 4))
    torch._dynamo.reset()


def test_without_a_clock():
    pipe = FAMILIES["sd15"].build()
    pipe.scheduler = None
    with pytest.raises(UnsupportedError, match="no clock"), staged(pipe):
        pass
    with pytest.raises(DeadheatError, match="neither a transformer nor a unet"), staged(object()):
        pass


def test_automatic_pipelines_share_the_clock():
    pipe = AutoPipelineForImage2Image.from_pipe(FAMILIES["sdxl"].build())
    pipe.set_progress_bar_config(disable=True)
    with staged(pipe) as stage:
        pipe(
            "a red cube",
            image=torch.full((1, 3, 64, 64), 0.5),
            strength=0.3,
            num_inference_steps=10,
            output_type="latent",
        )
    assert stage.runs[-1].total == len(stage.runs[-1].steps) == 3


def test_a_copy_of_the_scheduler_has_its_own_clock():
    """LTX-2 and SkyReels step a second prediction with a deep copy."""
    pipe = FAMILIES["sd3"].build()
    with staged(pipe) as stage:
        other = copy.deepcopy(pipe.scheduler)
        pipe.scheduler.set_timesteps(3)
        other.set_timesteps(5)
        assert (len(pipe.scheduler.timesteps), len(other.timesteps)) == (3, 5)
        assert len(stage.runs) == 1
        sample = torch.zeros(1, 4, 8, 8)
        other.step(sample, other.timesteps[0], sample)
        assert (other.step_index, pipe.scheduler.step_index) == (1, None)


def test_a_middle_call_has_a_noise_level_of_its_own():
    pipe = FAMILIES["sd15"].build(KDPM2DiscreteScheduler())
    with staged(pipe) as stage:
        FAMILIES["sd15"].call(pipe, 5)
    sigmas = [step.sigma for step in stage.runs[-1].steps]
    assert len(sigmas) == 9 and sigmas == sorted(set(sigmas), reverse=True)
