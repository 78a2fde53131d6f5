"""Caches of a part of a UNet: what runs when, and what stands in for the rest, against the same made by hand."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from deadheat.accelerators import (
    ABCache,
    Bottleneck,
    Clockwork,
    DeepCache,
    EncoderPropagation,
    GuidanceInterval,
    LayerCache,
    SparseCrossAttention,
    TokenMerging,
    attached,
)
from deadheat.accelerators.unet_cache import Past
from deadheat.pipelines import IncompatibleError, KnobError, Link, Run, skip_levels
from diffusers import (
    ControlNetModel,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)

from ..families import FAMILIES, leftovers

TINY = FAMILIES["sd15"]


@pytest.fixture(scope="module")
def unet():
    """Three resolutions of two layers: nine skip connections."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(8, 16, 24),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
    ).eval()


@pytest.fixture
def pipe(unet):
    pipe = TINY.build()
    pipe.register_modules(unet=unet)
    pipe._guidance_scale = 1.0
    return pipe


def asked(seed: int, batch: int = 1, side: int = 8, **more) -> dict:
    """Return arguments for the UNet."""
    noise = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, 4, side, side, generator=noise)
    words = torch.randn(batch, 5, 32, generator=noise)
    return {"sample": latents, "timestep": torch.tensor(900 - 50 * seed), "encoder_hidden_states": words, **more}


@torch.no_grad()
def by_hand(pipe, calls: list[dict]) -> list[torch.Tensor]:
    """Run the pipeline's clock and its UNet on arguments of our own."""
    pipe.scheduler.set_timesteps(len(calls))
    outs = []
    for given, timestep in zip(calls, pipe.scheduler.timesteps, strict=True):
        outs.append(pipe.unet(**given, return_dict=False)[0])
        pipe.scheduler.step(outs[-1], timestep, given["sample"])
    return outs


def counted(modules: dict) -> tuple[Counter, list]:
    """Count how often each module really runs."""
    seen: Counter = Counter()
    return seen, [
        module.register_forward_hook(lambda *_, name=name: seen.update([name])) for name, module in modules.items()
    ]


# ------------------------------------------------------------------------------------- the same, put together by hand


def layer(block, nth: int, hidden, temb, words):
    hidden = block.resnets[nth](hidden, temb)
    if hasattr(block, "attentions"):
        hidden = block.attentions[nth](hidden, encoder_hidden_states=words, return_dict=False)[0]
    return hidden


def encoded(unet, given: dict):
    """Return the skip tensors and what leaves the mid block, layer by layer."""
    temb, words = embedded(unet, given), given["encoder_hidden_states"]
    skips = [unet.conv_in(given["sample"])]
    for block in unet.down_blocks:
        for nth in range(len(block.resnets)):
            skips.append(layer(block, nth, skips[-1], temb, words))
        if block.downsamplers:
            skips.append(block.downsamplers[0](skips[-1]))
    return skips, unet.mid_block(skips[-1], temb, encoder_hidden_states=words)


def embedded(unet, given: dict):
    return unet.time_embedding(unet.get_time_embed(given["sample"], given["timestep"]))


def decoded(unet, given: dict, skips: list, hidden, swap: dict | None = None):
    """Return the output, and what enters every up layer by the number of its skip connection; *swap* replaces one."""
    temb, words, skips = embedded(unet, given), given["encoder_hidden_states"], list(skips)
    entered = {}
    for block in unet.up_blocks:
        for nth in range(len(block.resnets)):
            hidden = (swap or {}).get(len(skips), hidden)
            entered[len(skips)] = hidden
            hidden = layer(block, nth, torch.cat([hidden, skips.pop()], dim=1), temb, words)
        if block.upsamplers:
            hidden = block.upsamplers[0](hidden)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden))), entered


@pytest.mark.parametrize("depth", range(1, 9))
@torch.no_grad()
def test_deep_cache_is_the_old_feature_and_todays_skip_connections(depth: int, pipe, unet):
    calls = [asked(0), asked(1), asked(2)]
    with attached(pipe, DeepCache(every=3, depth=depth)) as session:
        outs = by_hand(pipe, calls)
    whole, entered = decoded(unet, calls[0], *encoded(unet, calls[0]))
    assert torch.allclose(outs[0], whole, atol=1e-6)
    for given, out in zip(calls[1:], outs[1:], strict=True):
        mixed, _ = decoded(unet, given, *encoded(unet, given), swap={depth: entered[depth]})
        assert torch.allclose(out, mixed, atol=1e-6)
        assert not torch.allclose(out, decoded(unet, given, *encoded(unet, given))[0], atol=1e-4)
    assert [step.action for step in session.report().steps] == ["computed", "partial", "partial"]
    assert session.report().cache_bytes == entered[depth].nbytes  # one feature, not one a module


@torch.no_grad()
def test_clockwork_keeps_what_enters_the_last_up_block(pipe, unet):
    calls = [asked(seed) for seed in range(4)]
    with attached(pipe, Clockwork(clock=2)):
        outs = by_hand(pipe, calls)
    for at in (1, 3):
        _, entered = decoded(unet, calls[at - 1], *encoded(unet, calls[at - 1]))
        mixed, _ = decoded(unet, calls[at], *encoded(unet, calls[at]), swap={3: entered[3]})
        assert torch.allclose(outs[at], mixed, atol=1e-6)
    with attached(pipe, DeepCache(every=2, depth=3)):  # the same cut
        assert all(map(torch.equal, outs, by_hand(pipe, calls)))


@torch.no_grad()
def test_the_decoder_runs_on_the_encoders_last_features(pipe, unet):
    calls = [asked(seed) for seed in range(3)]
    with attached(pipe, EncoderPropagation(every=3)):
        outs = by_hand(pipe, calls)
    features = encoded(unet, calls[0])
    for given, out in zip(calls, outs, strict=True):
        assert torch.allclose(out, decoded(unet, given, *features)[0], atol=1e-6)
    assert not torch.equal(outs[1], outs[2])


@pytest.mark.parametrize("on", ["sd15", "sdxl"])
@pytest.mark.parametrize(
    "outer", [(), (GuidanceInterval(start=0.0, stop=0.6),), (ABCache(order=1, every=2, warmup=1),)], ids=str
)
def test_decoders_that_run_together_give_what_they_give_alone(on: str, outer):
    tiny, outs, reports = FAMILIES[on], [], []
    pipe = tiny.build()
    seen, _ = counted({"decoder": pipe.unet.conv_out})
    for together in (False, True):
        with attached(pipe, *outer, EncoderPropagation(keys="published", together=together)) as session:
            outs.append(tiny.call(pipe, 12))
            reports.append(session.report())
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-4)
    keys = EncoderPropagation(keys="published").computed(12)
    assert keys == (0, 1, 2, 3, 6, 8)
    if not outer:
        assert seen["decoder"] == 12 + len(keys) + 3  # 4 5, 7, and 9 10 11
        assert [step.action for step in reports[1].steps] == [step.action for step in reports[0].steps]
    assert reports[0].calls == reports[1].calls or isinstance(outer[0], GuidanceInterval)


def test_decoders_do_not_run_together_with_what_differs_at_every_step(pipe):
    together = EncoderPropagation(every=3, together=True)
    for other in (LayerCache(), TokenMerging(), SparseCrossAttention(words="cube"), Bottleneck()):
        with pytest.raises(IncompatibleError, match="together=true"), attached(pipe, together, other):
            pass


@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomials_are_continued(order: int):
    cache, run = Clockwork(clock=4, order=order, warmup=order), Run()
    run.steps.append(SimpleNamespace(action="computed", reason=""))
    past = Past(cache, Link("clockwork", run))
    curve = torch.randn(order, 5, 1, 2, 2, dtype=torch.float64)

    def at(step: int) -> torch.Tensor:
        return sum(part * step**power for power, part in enumerate(curve))

    for step in range(16):
        call = SimpleNamespace(step=step, steps=16, branches=("cond",), shape=(5, 4, 8, 8), latents=curve)
        value = past.instead(call, curve)
        assert (value is None) is cache.computes(step, 16)
        if value is None:
            past.learn(call, at(step))
        else:
            assert torch.allclose(value, at(step))


# ------------------------------------------------------------------------------------------------- what runs, and when

RUNS = {  # the modules of the UNet above that run at a step that is not whole
    "clockwork": (Clockwork(clock=3), ["down_blocks.0.resnets.1", "up_blocks.2.resnets.0"]),
    "shallow": (DeepCache(every=3, depth=1), ["conv_in", "up_blocks.2.resnets.2", "up_blocks.2.attentions.2"]),
    "between": (DeepCache(every=3, depth=5), ["down_blocks.1.resnets.0", "up_blocks.1.resnets.1"]),
    "encoder": (EncoderPropagation(every=3), ["up_blocks.0.resnets.0", "up_blocks.2.attentions.2"]),
}
RESTS = {  # and those that do not
    "clockwork": ["down_blocks.0.downsamplers.0", "down_blocks.1.resnets.0", "mid_block", "up_blocks.1.resnets.2"],
    "shallow": ["down_blocks.0.resnets.0", "down_blocks.0.attentions.0", "mid_block", "up_blocks.2.attentions.1"],
    "between": ["down_blocks.1.resnets.1", "down_blocks.2.attentions.1", "up_blocks.0", "up_blocks.1.resnets.0"],
    "encoder": ["down_blocks.0.resnets.0", "down_blocks.2.resnets.1", "mid_block.resnets.1"],
}


@pytest.mark.parametrize("which", RUNS)
@pytest.mark.parametrize("heun", [False, True])
def test_what_is_left_out_does_not_run(which: str, heun: bool, pipe, unet):
    cache, running = RUNS[which]
    if heun:
        pipe.register_modules(scheduler=HeunDiscreteScheduler())
    seen, hooks = counted({name: unet.get_submodule(f"{name}") for name in running + inner(unet, RESTS[which])})
    ran_at: list[int] = []

    def note(run, _):
        ran_at.extend([len(run.steps) - 1] * (seen.total() > len(running)))
        seen.clear()

    with attached(pipe, cache) as session, session.stage.watch(note):
        TINY.call(pipe, 4 if heun else 8)
    for hook in hooks:
        hook.remove()
    steps = 7 if heun else 8
    assert ran_at == list(range(0, steps, 3))  # Heun calls twice at most timesteps: its steps count one by one
    assert ran_at == list(cache.computed(steps))
    assert session.report().count("partial") == steps - len(ran_at)


def inner(unet, names: list[str]) -> list[str]:
    """Return the innermost modules below those names: their forwards are nobody's but their own."""
    return [
        path
        for name in names
        for path, module in unet.named_modules()
        if path.startswith(name) and not list(module.children()) and type(module).__name__ == "Conv2d"
    ]


def test_schedules():
    assert Clockwork(clock=2).computed(7) == (0, 2, 4, 6)
    assert Clockwork(clock=4, warmup=2, last=1).computed(12) == (0, 1, 2, 6, 10, 11)
    assert EncoderPropagation(every=4).computed(10) == (0, 4, 8)
    assert EncoderPropagation(every=3, warmup=2).computed(9) == (0, 1, 2, 5, 8)
    assert EncoderPropagation(keys="published").computed(50) == (0, 1, 2, 3, 5, 10, 15, 25, 35)
    assert EncoderPropagation(keys="published", every=1).computed(9) == tuple(range(9))


def test_a_skipped_call_is_made_up_for(pipe):
    """Where a cache further out skips the step that was to refresh the features, the next call does."""
    with attached(pipe, ABCache(order=1, every=2, warmup=1), Clockwork(clock=4)) as session:
        TINY.call(pipe, 12)
    actions = [step.action for step in session.report().steps]
    assert [at for at, action in enumerate(actions) if action == "computed"] == [0, 5, 9]
    assert [at for at, action in enumerate(actions) if action == "partial"] == [1, 3, 7, 11]


# ------------------------------------------------------------------------------------- when the past does not fit


@pytest.mark.parametrize("cache", [Clockwork(clock=9), DeepCache(every=9), EncoderPropagation(every=9)])
def test_another_shape_runs_whole(cache, pipe):
    calls = [asked(0), asked(1), asked(2, side=12), asked(3, side=12), asked(4, batch=3), asked(5)]
    with attached(pipe, cache) as session:
        outs = by_hand(pipe, calls)
    actions = [step.action for step in session.report().steps]
    assert actions == ["computed", "partial", "computed", "partial", "computed", "partial"]
    for given, out, action in zip(calls, outs, actions, strict=True):
        assert torch.equal(out, pipe.unet(**given).sample) is (action == "computed")


@pytest.mark.parametrize("cache", [Clockwork(clock=9), DeepCache(every=9), EncoderPropagation(every=9)])
def test_half_of_a_pair_outlives_guidance(cache, pipe):
    pair, one = asked(0, batch=2), asked(1)
    pair["sample"] = pair["sample"][:1].repeat(2, 1, 1, 1)
    alone = [{**pair, "sample": pair["sample"][1:], "encoder_hidden_states": pair["encoder_hidden_states"][1:]}, one]
    with attached(pipe, cache):
        want = by_hand(pipe, alone)[1]
    with attached(pipe, cache) as session:
        pipe._guidance_scale = 4.0
        with session.stage.watch(lambda *_: setattr(pipe, "_guidance_scale", 1.0)):
            got = by_hand(pipe, [pair, one])[1]
    assert session.report().count("partial") == 1
    assert torch.allclose(got, want, atol=1e-6)


def test_a_branch_without_a_past_runs_whole(pipe, unet):
    """Guidance only in the middle of the run: the pair is new at its first step, its half known at its end."""
    seen, hooks = counted({"mid": unet.mid_block.resnets[0].conv1})
    with attached(pipe, GuidanceInterval(start=0.3, stop=0.6), Clockwork(clock=9)) as session:
        TINY.call(pipe, 9)
    hooks[0].remove()
    assert session.report().calls == 9 + 3
    assert seen["mid"] == 2


@pytest.mark.parametrize("on", ["sd15", "sdxl"])
@pytest.mark.parametrize("cache", [Clockwork(clock=2), DeepCache(every=2), EncoderPropagation()])
def test_two_pictures_of_one_seed_are_one(cache, on: str):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, cache):
        assert torch.equal(tiny.call(pipe, 5), tiny.call(pipe, 5))


def test_the_first_noise_comes_back_in_the_second_half():
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    seen: dict[float, list[torch.Tensor]] = {0.0: [], 0.01: []}
    for noise, latents in seen.items():
        step = pipe.scheduler.step

        def noted(*args, latents=latents, step=step, **kwargs):
            latents.append((args[1] if len(args) > 1 else kwargs["timestep"], (args[2:] or [kwargs.get("sample")])[0]))
            return step(*args, **kwargs)

        pipe.scheduler.step = noted
        try:
            with attached(pipe, EncoderPropagation(noise=noise)):
                tiny.call(pipe, 6)
        finally:
            del pipe.scheduler.step
    early = [t for t, _ in seen[0.0] if float(t) >= 500]
    (_, first), plain, stirred = seen[0.0][0], seen[0.0][len(early)], seen[0.01][len(early)]
    assert 0 < len(early) < 6
    assert all(torch.equal(a[1], b[1]) for a, b in zip(*(rows[: len(early)] for rows in seen.values()), strict=True))
    torch.testing.assert_close(stirred[1] - plain[1], 0.01 * first / float(pipe.scheduler.init_noise_sigma))


# ------------------------------------------------------------------------------------ what else speaks to a UNet

CACHES = [
    Clockwork(clock=9),
    *(DeepCache(every=9, depth=depth) for depth in (1, 2, 4, 5, 8)),
    EncoderPropagation(every=9),
]


def control() -> dict:
    shapes = [(8, 8)] * 3 + [(8, 4)] + [(16, 4)] * 2 + [(16, 2)] + [(24, 2)] * 2
    residuals = tuple(torch.randn(1, channels, side, side) for channels, side in shapes)
    return {"down_block_additional_residuals": residuals, "mid_block_additional_residual": torch.randn(1, 24, 2, 2)}


def adapter() -> dict:
    return {"down_intrablock_additional_residuals": [torch.randn(1, c, s, s) for c, s in ((8, 8), (16, 2), (24, 2))]}


@pytest.mark.parametrize("extra", ["nothing", "freeu", "control", "adapter"])
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_the_same_question_has_the_same_answer(cache, extra: str, pipe, unet):
    """Old features of the very same input are today's: also where they are added to or multiplied in place."""
    torch.manual_seed(0)
    more = {"control": control, "adapter": adapter}.get(extra, dict)()
    if extra == "freeu":
        unet.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)

    def again() -> dict:  # the UNet empties the adapter's list
        return asked(0) | {key: list(value) if isinstance(value, list) else value for key, value in more.items()}

    with torch.no_grad():
        want = unet(**again()).sample
    with attached(pipe, cache) as session:
        outs = by_hand(pipe, [again() for _ in range(4)])
    unet.disable_freeu()
    assert session.report().count("partial") == 3
    for out in outs:
        assert torch.equal(out, want)


@pytest.mark.parametrize("cache", [Clockwork(clock=9), DeepCache(every=9), EncoderPropagation(every=9)], ids=str)
def test_freeu_multiplies_no_memory(cache):
    """With two resolutions, it multiplies in place what enters the last up block: here is what Clockwork keeps."""
    pipe = TINY.build()
    pipe._guidance_scale = 1.0
    assert len(pipe.unet.up_blocks) == 2
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    with torch.no_grad():
        want = pipe.unet(**asked(0)).sample
    with attached(pipe, cache) as session:
        outs = by_hand(pipe, [asked(0) for _ in range(4)])
    assert session.report().count("partial") == 3
    for out in outs:
        assert torch.equal(out, want)


@pytest.fixture
def controlled(pipe):
    """The pipeline with a ControlNet whose zero convolutions have learned something."""
    torch.manual_seed(1)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_channels=3).eval()
    for convolution in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(convolution.weight, std=0.3)
    return StableDiffusionControlNetPipeline(**pipe.components, controlnet=net, requires_safety_checker=False)


def drawn(pipe, steps: int = 6, **options) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    images = [image] * len(pipe.controlnet.nets) if isinstance(pipe.controlnet, MultiControlNetModel) else image
    return TINY.call(pipe, steps, image=images, **options)


@pytest.mark.parametrize("kind", [Clockwork, DeepCache, EncoderPropagation])
@pytest.mark.parametrize("guess", [False, True])
def test_with_a_controlnet(kind, guess: bool, controlled):
    options = {"guess_mode": guess, "controlnet_conditioning_scale": 2.0}
    plain, before = drawn(controlled, **options), leftovers(controlled)
    assert not torch.allclose(plain, drawn(controlled, controlnet_conditioning_scale=0.0), atol=1e-3)
    with attached(controlled, kind(**kind.neutral)):
        assert torch.equal(plain, drawn(controlled, **options))
    with attached(controlled, kind(**dict.fromkeys(kind.neutral, 2))) as session:
        busy = drawn(controlled, **options)
        assert torch.equal(busy, drawn(controlled, **options))
    assert session.report().count("partial") >= 1
    assert torch.isfinite(busy).all()
    assert not torch.equal(plain, busy)
    assert leftovers(controlled) == before
    assert torch.equal(plain, drawn(controlled, **options))


def test_the_controlnet_rests_with_the_encoder(controlled):
    seen, _ = counted({"control": controlled.controlnet.conv_in})
    cache = EncoderPropagation(every=3)
    with attached(controlled, cache):
        drawn(controlled, 8)
        assert seen["control"] == 3  # steps 0 3 6
        drawn(controlled, 8, control_guidance_end=0.5)
        assert seen["control"] == 3 + 3 + 1  # switched off at step 4
    with attached(controlled, Clockwork(clock=3)):
        drawn(controlled, 8)
    assert seen["control"] == 7 + 8  # its first residuals enter layers that always run


def test_several_controlnets_rest_with_the_encoder(controlled):
    controlled.register_modules(controlnet=MultiControlNetModel([controlled.controlnet, controlled.controlnet]))
    seen, _ = counted({"control": controlled.controlnet.nets[0].conv_in})
    with attached(controlled, EncoderPropagation(every=3)):
        assert torch.isfinite(drawn(controlled, 8, controlnet_conditioning_scale=[0.5, 1.0])).all()
    assert seen["control"] == 2 * 3


# -------------------------------------------------------------------------------------------------------- what is said


def test_a_cut_below_everything_is_refused(pipe):
    before = leftovers(pipe)
    assert skip_levels(pipe) == 9
    with (
        pytest.raises(KnobError, match=r"DeepCache\.depth is 9, not between 1 and 8"),
        attached(pipe, DeepCache(depth=9)),
    ):
        pass
    assert leftovers(pipe) == before


def ancestral(pipe):
    pipe.register_modules(scheduler=EulerAncestralDiscreteScheduler())
    return pipe


def test_cautions(pipe):
    assert any("clock=2 suits" in said for said in Clockwork(clock=4).cautions(pipe, 20))
    assert any("clock=4 suits" in said for said in Clockwork(clock=2).cautions(pipe, 50))
    assert not Clockwork(clock=1).cautions(pipe, 50)
    assert not any("suits" in said for said in Clockwork().cautions(pipe, 28))
    assert any("every=2 suits" in said for said in EncoderPropagation(every=4).cautions(pipe, 28))
    assert any("found for 50 steps" in said for said in EncoderPropagation(keys="published").cautions(pipe, 28))
    assert any("order=1" in said for said in Clockwork(order=2).cautions(ancestral(pipe), 28))
    assert any("leave little to skip" in said for said in DeepCache().cautions(pipe, 6))


def test_together_in_a_run_that_ends_early():
    tiny = FAMILIES["sdxl"]
    pipe, drawn = tiny.build(), []
    for together in (False, True):
        with attached(pipe, EncoderPropagation(every=3, together=together)):
            drawn.append(tiny.call(pipe, 8, denoising_end=0.5))
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=1e-4)
