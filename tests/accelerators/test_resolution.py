"""Bottleneck and progressive resolution: the transitions exactly, the noise levels, and what ran at which size."""

import pytest
import torch
from deadheat.accelerators import (
    ABCache,
    Bottleneck,
    EasyCache,
    FewerSteps,
    FirstBlockCache,
    GuidanceInterval,
    ProgressiveResolution,
    RegionAdaptive,
    TaylorSeer,
    attached,
)
from deadheat.accelerators.resizing import Keep, Renoise
from deadheat.pipelines import Change, InputError, KnobError, UnsupportedError, staged
from deadheat.presets import presets
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    HeunDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
    UniPCMultistepScheduler,
)

from ..families import FAMILIES, TinyFamily

AS_STEPS_FALL = {"down": 0.0, "up": 0.0}
DESCRIBED = [name for name in FAMILIES if name != "auraflow"]


def change(state, size, noise, ratio=1.0, next_ratio=1.0) -> Change:
    return Change(state, state, ratio, next_ratio, size, noise, step=3)


# ------------------------------------------------------------------------------------------------- the transitions

SIZES = [(True, (8, 4), (4, 2)), (False, (8, 4), (6, 3)), (False, (6, 9), (4, 6))]


@pytest.mark.parametrize(("blocks", "large", "small"), SIZES)
def test_up_then_down_is_the_state_again(blocks: bool, large, small):
    keep, noise = Keep(blocks), torch.randn(2, 3, 1, *large)
    state = torch.randn(2, 3, 1, *small)
    up = keep.change(change(state, large, noise))
    assert up.shape == noise.shape
    assert torch.allclose(keep.change(change(up, small, noise)), state, atol=1e-5)


@pytest.mark.parametrize(("blocks", "large", "small"), SIZES)
def test_noise_stays_white_and_its_ratio_is_exact(blocks: bool, large, small):
    """The whole map, column by column: its covariance is a multiple of the identity, and which one."""
    keep, r = Keep(blocks), large[0] / small[0]
    a = torch.eye(large[0] * large[1]).reshape(-1, 1, 1, *large)
    down = keep.shrunk(a, small).flatten(1).T
    assert torch.allclose(down @ down.T, torch.eye(len(down)) / r**2, atol=1e-5)
    zero, one = torch.zeros(len(down), 1, 1, *small), torch.eye(len(down)).reshape(-1, 1, 1, *small)
    of_state = keep.change(change(one, large, torch.zeros(len(down), 1, 1, *large))).flatten(1).T
    of_noise = keep.change(change(torch.zeros(len(a), 1, 1, *small), large, a, 1.0, r)).flatten(1).T
    covariance = of_state @ of_state.T + of_noise @ of_noise.T  # of a state of noise 1, with noise of its own
    assert torch.allclose(covariance, r**2 * torch.eye(len(covariance)), atol=1e-4)
    assert not keep.change(change(zero, large, torch.zeros(len(down), 1, 1, *large))).any()


def test_three_sizes_count_no_noise_twice():
    """From half to three quarters to all: both fillings come from the noise the run began with, and stay white."""
    keep = ProgressiveResolution(sizes="0.5 0.75", until="0.3 0.5").resize
    eps = torch.eye(64).reshape(-1, 1, 1, 8, 8)
    state = keep.start(eps, (4, 4))
    state = keep.change(change(state, (6, 6), eps, 1.0, 1.5)) / 1.5
    state = keep.change(change(state, (8, 8), eps, 1.0, 4 / 3)) / (4 / 3)
    assert torch.allclose(state.flatten(1), torch.eye(64), atol=1e-4)  # even that very noise again


@pytest.mark.parametrize("resize", [Keep(True), Keep(False), Renoise(True)], ids=["blocks", "cosines", "renoise"])
def test_signals_without_detail_are_kept(resize):
    flat, noise = torch.full((1, 2, 3, 4, 4), 0.7), torch.zeros(1, 2, 3, 8, 8)
    up = resize.change(change(flat, (8, 8), noise, 0.0, 0.0))
    assert torch.allclose(up, torch.full((1, 2, 3, 8, 8), 0.7), atol=1e-5)
    assert torch.allclose(resize.change(change(up, (4, 4), noise, 0.0, 0.0)), flat, atol=1e-5)


def test_fresh_noise_has_a_seed_for_each_sample():
    noise, clean = torch.randn(2, 4, 1, 32, 32), torch.zeros(2, 4, 1, 16, 16)
    made = Renoise(True).change(change(clean, (32, 32), noise, 1.0, 0.5))
    alone = Renoise(True).change(change(clean[1:], (32, 32), noise[1:], 1.0, 0.5))
    assert torch.equal(made[1:], alone)
    assert made.std() == pytest.approx(0.5, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([made.flatten(), noise.flatten()]))[0, 1]) < 0.05


# ------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("steps", range(1, 40))
def test_every_step_has_a_size_and_the_last_the_full_one(steps: int):
    for accelerator in (Bottleneck(), Bottleneck(first=0, low=50, last=1), ProgressiveResolution()):
        legs = accelerator.legs(steps)
        assert sum(leg.steps for leg in legs) == steps
        assert all(leg.steps > 0 for leg in legs)
        assert legs[-1].size == 1


def test_published_counts_are_exact():
    five = presets("black-forest-labs/FLUX.1-dev")["bottleneck-5x"]
    fewer, bottleneck = five.accelerators
    assert [leg.steps for leg in bottleneck.legs(fewer.steps)] == [4, 12, 5]
    assert bottleneck.cost(21) == 4 + 12 / 4 + 5
    for model in ("black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-3.5-medium"):
        for name, recipe in presets(model).items():
            if name.startswith("bottleneck"):
                steps = recipe.accelerators[0].steps
                b = recipe.accelerators[1]
                assert [leg.steps for leg in b.legs(steps)] == [b.first, b.low, b.last]


@pytest.mark.parametrize(
    ("scheduler", "on"),
    [
        (None, "sd3"),
        (None, "flux"),
        (None, "wan"),
        (None, "ltx"),
        (None, "lumina2"),
        (None, "pixart"),
        (DDIMScheduler, "sd15"),
        (DDPMScheduler, "sd15"),
        (EulerDiscreteScheduler, "sdxl"),
        (EulerAncestralDiscreteScheduler, "sdxl"),
        (DPMSolverMultistepScheduler, "sd15"),
        (UniPCMultistepScheduler, "sd15"),
    ],
)
def test_the_scheduler_goes_through_the_levels(scheduler, on: str):
    """The reported noise levels are the plain ones, with half the noise-to-signal ratio at half the size."""
    tiny = FAMILIES[on]
    pipe = tiny.build(scheduler=scheduler() if scheduler else None)
    with staged(pipe) as stage:
        tiny.call(pipe, 8)
    plain = [step.sigma for step in stage.runs[-1].steps]
    with attached(pipe, Bottleneck(first=2, low=4, last=2, **AS_STEPS_FALL)) as session:
        out = tiny.call(pipe, 8)
    found = [step.sigma for step in session.report().steps]
    flow = type(pipe.scheduler).__name__.startswith("FlowMatch") or pipe.scheduler.config.get("use_flow_sigmas")

    def ratio(sigma):
        return sigma / (1 - sigma) if flow and sigma < 1 else sigma

    assert found[:2] == pytest.approx(plain[:2], rel=1e-3)
    assert list(map(ratio, found[2:6])) == pytest.approx([ratio(s) / 2 for s in plain[2:6]], rel=1e-3)
    assert found[6:] == pytest.approx(plain[6:], rel=1e-3)
    assert torch.isfinite(out).all()


def test_the_levels_of_the_changes_may_be_chosen():
    tiny = FAMILIES["sd3"]
    with attached(tiny.build(), Bottleneck(first=2, low=4, last=2, down=0.9, up=0.6)) as session:
        tiny.call(session.stage.pipe, 8)
    sigmas = [step.sigma for step in session.report().steps]
    assert sigmas[2] == pytest.approx(0.9 / 1.1)  # n = 9, halved
    assert sigmas[6] == pytest.approx(0.6)
    assert sigmas[:2] == sorted(sigmas[:2], reverse=True)
    with staged(tiny.build()) as stage:
        tiny.call(stage.pipe, 8)
    sigma_at_the_last_step = stage.runs[-1].steps[-1].sigma
    late = Bottleneck(first=2, low=4, last=2, down=0.3, up=0.0)
    with attached(tiny.build(), late) as session, pytest.raises(KnobError, match="give both changes a noise level"):
        tiny.call(session.stage.pipe, 8)
    with attached(tiny.build(), Bottleneck(first=6, low=1, last=1, down=0.0, up=0.9)) as session:
        tiny.call(session.stage.pipe, 8)  # a level passed already
    assert session.report().steps[-1].sigma == pytest.approx(sigma_at_the_last_step)


def perfect(pipe, x0: torch.Tensor):
    """Let the denoiser know the picture: clean latents of one value everywhere, so its answer is exact at any size."""

    def forward(hidden_states, timestep, **kwargs):
        s = (timestep / 1000).view(-1, 1, 1, 1)
        return ((hidden_states - x0) / s,)

    pipe.transformer.forward = forward


@pytest.mark.parametrize(
    "accelerator", [Bottleneck(), ProgressiveResolution(amplify=0.0), Bottleneck(transition="renoise")], ids=str
)
def test_a_perfect_denoiser_reaches_its_picture_through_every_size(accelerator):
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    perfect(pipe, torch.tensor(0.3))
    with attached(pipe, accelerator):
        out = tiny.call(pipe, 12)
    assert torch.allclose(out, torch.full_like(out, 0.3), atol=1e-4)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("transition", ["keep", "renoise"])
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_a_perfect_denoiser_with_vp_schedulers(scheduler, transition: str, predicts: str):
    """The denoiser computes its answer from the timestep it is told, so that one is right too."""
    tiny, kwargs = FAMILIES["sd15"], {}
    if scheduler is DDIMScheduler:
        kwargs = {"clip_sample": False, "set_alpha_to_one": True}
    pipe = tiny.build(scheduler=scheduler(beta_schedule="scaled_linear", prediction_type=predicts, **kwargs))
    log_n = ((1 - pipe.scheduler.alphas_cumprod) / pipe.scheduler.alphas_cumprod).double().sqrt().log()

    def forward(sample, timestep, **_):
        t = torch.as_tensor(float(timestep)).double()
        low = int(t.floor())
        n = float(torch.lerp(log_n[low], log_n[min(low + 1, 999)], t - low).exp())
        a = 1 / (1 + n * n) ** 0.5  # every scheduler scales its latents to variance one for the network
        eps = (sample / a - 0.3) / n
        return (eps if predicts == "epsilon" else a * eps - n * a * 0.3,)

    pipe.unet.forward = forward
    with attached(pipe, Bottleneck(transition=transition)) as session:
        out = tiny.call(pipe, 12, guidance_scale=1.0)
    assert session.report().count("partial") == 7
    assert torch.allclose(out, torch.full_like(out, 0.3), atol=0.02)


# -------------------------------------------------------------------------------------------------- what really ran


@pytest.mark.parametrize(
    ("on", "transition"), [*((on, "keep") for on in DESCRIBED), ("sd3", "renoise"), ("wan", "renoise")]
)
def test_steps_run_at_their_size(on: str, transition: str):
    tiny = FAMILIES[on]
    pipe, tokens = tiny.build(), []
    layer = tiny.denoiser(pipe).get_submodule(tiny.entry)
    layer.register_forward_hook(lambda _, given, out: tokens.append(given[0][0].numel()))
    plain = tiny.call(pipe, 1)
    whole = tokens[0]
    for accelerator, sizes in (
        (Bottleneck(first=1, low=3, last=2, transition=transition), [1, 4, 4, 4, 1, 1]),
        (ProgressiveResolution(until="0.5", transition=transition), [4, 4, 4, 1, 1, 1]),
    ):
        tokens.clear()
        with attached(pipe, accelerator) as session:
            out = tiny.call(pipe, 6)
            assert torch.equal(out, tiny.call(pipe, 6))
        calls = len(tokens) // 12
        assert tokens == [whole // size for size in sizes for _ in range(calls)] * 2
        assert out.shape == plain.shape
        assert [step.action for step in session.report().steps] == ["partial" if s > 1 else "computed" for s in sizes]


@pytest.mark.parametrize("on", ["sd3", "flux", "sd15", "ltx", "wan"])
def test_the_picture_has_its_size(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    plain = tiny.call(pipe, 4, output_type="pt")
    with attached(pipe, Bottleneck(first=1, low=2, last=1)):
        assert tiny.call(pipe, 4, output_type="pt").shape == plain.shape


@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_pictures_need_not_be_square(on: str):
    tiny = FAMILIES[on]
    with attached(tiny.build(), Bottleneck()) as session:
        out = tiny.call(session.stage.pipe, 6, height=64, width=96)
    assert torch.isfinite(out).all()
    assert out[0].numel() == 4 * 8 * 12


def test_the_first_steps_are_the_plain_ones():
    tiny = FAMILIES["sd3"]
    pipe, plain, seen = tiny.build(), [], []
    with staged(pipe) as stage, stage.watch(lambda run, latents: plain.append(latents)):
        tiny.call(pipe, 21)
    bottleneck = Bottleneck(**AS_STEPS_FALL)
    with attached(pipe, bottleneck) as session, session.stage.watch(lambda run, latents: seen.append(latents)):
        tiny.call(pipe, 21)
    for a, b in zip(plain[:3], seen[:3], strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("on", ["sd3", "wan"])
@pytest.mark.parametrize(
    "other",
    [
        ABCache(every=2, warmup=2),
        EasyCache(threshold=2.0, warmup=2),
        TaylorSeer(every=2, warmup=2),
        GuidanceInterval(start=0.0, stop=0.5),
        FirstBlockCache(threshold=2.0),
        FewerSteps(steps=8),
    ],
    ids=lambda a: a.name,
)
@pytest.mark.parametrize(
    "low", [Bottleneck(first=2, low=5, last=3), ProgressiveResolution(until="0.5")], ids=lambda a: a.name
)
def test_with_others_in_both_orders(on: str, other, low):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    if other.supports(pipe):
        return
    for recipe in ((other, low), (low, other)):
        with attached(pipe, *recipe) as session:
            out = tiny.call(pipe, 10)
            assert torch.equal(out, tiny.call(pipe, 10))
        assert torch.isfinite(out).all()
        assert out.shape == tiny.call(pipe, 1).shape
        assert not any("did nothing" in warning for warning in session.report().warnings)


def test_caches_forget_what_they_saw_at_another_size():
    """Also where the size comes back: the first steps at full size are far from the last."""
    tiny = FAMILIES["sd3"]
    pipe, ran = tiny.build(), []
    tiny.denoiser(pipe).transformer_blocks[1].attn.to_q.register_forward_hook(lambda *_: ran.append(1))
    for cache, calls in ((TaylorSeer(every=10, warmup=2), 5), (FirstBlockCache(threshold=2.0), 3)):
        ran.clear()
        with attached(pipe, cache, Bottleneck(first=2, low=3, last=3)) as session:
            tiny.call(pipe, 8)
        assert len(ran) == calls  # steps 0, 2 and 5; TaylorSeer's second to warm up, and its last
        assert session.report().steps[5].action == "computed"


# ------------------------------------------------------------------------------------------------- the text amplifier


def attention_of(pipe, tiny: TinyFamily, amplify: float):
    """Latents after one low step of two, with the text counting more or not."""
    with attached(pipe, ProgressiveResolution(until="0.5", amplify=amplify)):
        return tiny.call(pipe, 2)


@pytest.mark.parametrize("on", DESCRIBED)
def test_text_counts_more_where_attention_is_joint(on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    same = torch.equal(attention_of(pipe, tiny, 0.0), attention_of(pipe, tiny, 1.0))
    assert same == (on not in ("sd3", "flux", "qwen"))


@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_an_amplifier_of_ln_2_is_text_twice(on: str):
    """Half the size, a quarter of the area, half of ln 4: image tokens that see every text token twice."""
    tiny, attend, gaps = FAMILIES[on], torch.nn.functional.scaled_dot_product_attention, []
    pipe, tokens = tiny.build(), 4
    image, text = slice(None, tokens), slice(tokens, None)
    if on == "flux":
        image, text = slice(-tokens, None), slice(None, -tokens)

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            given = kwargs or {}
            out = func(*args, **given)
            if func is attend and given.get("attn_mask") is not None and given["attn_mask"].ndim == 2:
                query, key, value = (given[name] for name in ("query", "key", "value"))
                key, value = (torch.cat([x, x[..., text, :]], -2) for x in (key, value))
                gaps.append((out - attend(query, key, value))[..., image, :].abs().max())
            return out

    with Watch():
        attention_of(pipe, tiny, 0.5)
    assert len(gaps) == (4 if on == "sd3" else 2 * 6)  # every block, in every call of one step
    assert max(gaps) < 1e-5


@pytest.mark.parametrize("on", ["sd3", "flux"])
def test_image_tokens_that_run_alone_heed_the_text_too(on: str):
    tiny, attend, met = FAMILIES[on], torch.nn.functional.scaled_dot_product_attention, []
    pipe = tiny.build()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            if func is attend and given["query"].shape[-2] < given["key"].shape[-2]:
                bias = given.get("attn_mask")
                met.append((given["query"].shape[-2], None if bias is None else (bias != 0).nonzero()))
            return func(*args, **(kwargs or {}))

    some = RegionAdaptive(warmup=2, resets="")
    with Watch(), attached(pipe, ProgressiveResolution(until="0.8", amplify=2.0), some):
        tiny.call(pipe, 6, height=128, width=128)
    low = [(asked, found) for asked, found in met if found is not None]  # at the full size nothing is added
    assert len(low) >= 4
    for asked, found in low:
        rows, words = (len(found[:, of].unique()) for of in (0, 1))
        assert (rows, len(found)) == (asked - words, rows * words)
        assert rows < 16


@pytest.mark.parametrize("accelerator", [Bottleneck(first=1), ProgressiveResolution(until="0.25")])
def test_a_size_may_change_after_a_step_of_noise_alone(accelerator):
    """With a zero terminal SNR the first step holds no signal, and a ratio to it is none."""
    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False
    )
    tiny = FAMILIES["sd15"]
    pipe = tiny.build(scheduler=scheduler)
    with attached(pipe, accelerator) as session:
        out = tiny.call(pipe, 5)
    assert "width and height" in session.report().steps[0].reason
    assert torch.isfinite(out).all()
    assert out.abs().max() < 100


# ---------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_work_is_refused():
    pipe = FAMILIES["sd15"].build(scheduler=HeunDiscreteScheduler())
    assert "HeunDiscreteScheduler" in Bottleneck.supports(pipe)
    for cls, on in ((StableDiffusion3Img2ImgPipeline, "sd3"), (FluxImg2ImgPipeline, "flux")):
        pipe = cls.from_pipe(FAMILIES[on].build())
        with pytest.raises(UnsupportedError, match="starts from a picture"), attached(pipe, Bottleneck()):
            pass
    assert "not described" in ProgressiveResolution.supports(FAMILIES["auraflow"].build())


def test_sizes_that_do_not_divide_are_refused():
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with attached(pipe, Bottleneck()), pytest.raises(InputError, match="multiples of 32 pixels"):
        tiny.call(pipe, 6, height=80)
    fine = ProgressiveResolution(sizes="0.75")
    with attached(pipe, fine), pytest.raises(InputError, match="multiples of 64 pixels"):
        tiny.call(pipe, 6, height=96)


def test_a_run_that_ends_early_is_refused():
    tiny = FAMILIES["sdxl"]
    pipe = tiny.build()
    with attached(pipe, Bottleneck()), pytest.raises(InputError, match="full size back"):
        tiny.call(pipe, 10, denoising_end=0.5)


def test_knobs_that_do_not_fit_together():
    with pytest.raises(KnobError, match=r"Bottleneck\.up is 0\.9, not below down"):
        Bottleneck(down=0.8, up=0.9)
    with pytest.raises(KnobError, match="2 stages, until has 1"):
        ProgressiveResolution(sizes="0.5 0.75", until="0.5")
    for sizes in ("", "big", "0.75 0.5", "0", "1.5", "1/0"):
        with pytest.raises(KnobError, match=r"ProgressiveResolution\.sizes is .*rising parts of 1"):
            ProgressiveResolution(sizes=sizes)


def test_fewer_steps_are_recommended_for_the_same_picture():
    pipe = FAMILIES["sd15"].build()
    said = Bottleneck().cautions(pipe, 6)
    assert len(said) == 3
    assert "fewer steps" in said[0]
    assert Bottleneck(low=0).cautions(pipe, 6) == []


def test_the_text_is_strengthened_where_guidance_begins_late():
    tiny = FAMILIES["flux"]
    pipe = tiny.build()
    with attached(pipe, ProgressiveResolution(), GuidanceInterval(start=0.1, stop=0.8)):
        assert torch.isfinite(tiny.call(pipe, 12, height=128, width=128)).all()
