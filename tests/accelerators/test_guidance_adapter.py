"""The guidance adapter: what it must leave as it was, what it counts, and which base it fits."""

import json

import pytest
import torch
from deadheat.accelerators import (
    ABCache,
    Bottleneck,
    GuidanceAdapter,
    GuidanceInterval,
    LeMiCa,
    RegionAdaptive,
    attached,
    check,
)
from deadheat.pipelines import (
    KINDS,
    Adapter,
    IncompatibleError,
    LoadError,
    UnsupportedError,
    base_of,
    denoisers,
    guidance_scale,
    load_adapter,
    marks,
    save_adapter,
    staged,
    the_network,
)
from diffusers import StableDiffusionPAGPipeline
from safetensors.torch import save_file

from ..adapters import random_adapter, saved, shelf
from ..families import FAMILIES, executed, leftovers

DESCRIBED = sorted(set(FAMILIES) - {"auraflow"})
STEPS = 4
WEIGHTS = "adapter.safetensors"


def weights_of(pipe):
    return {name: value.clone() for name, value in the_network(pipe).state_dict().items()}


def scaled(on: str, scale: float) -> dict[str, float]:
    return {"true_cfg_scale" if on == "flux" else "guidance_scale": scale}


@pytest.mark.parametrize(
    ("on", "kind"),
    [*((on, "gated") for on in DESCRIBED), *((on, kind) for on in ("sd15", "sd3") for kind in KINDS[1:])],
)
def test_untrained_it_is_the_conditional_output_bit_for_bit(on: str, kind: str, tmp_path):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    conditional = tiny.call(pipe, STEPS, **tiny.unguided)
    recipe = GuidanceAdapter(weights=saved(pipe, tmp_path, kind=kind, zero=True))
    with executed(tiny, pipe) as seen, attached(pipe, recipe):
        out = tiny.call(pipe, STEPS, negative_prompt=None if on == "flux" else "blurry")
    assert torch.equal(out, conditional)
    assert seen.batches == [1] * STEPS  # the batch, not twice the batch


@pytest.mark.parametrize(("on", "copies"), [*((on, 2) for on in DESCRIBED), ("sd3", 1), ("wan", 1)])
def test_the_unconditional_half_never_runs(on: str, copies: int, tmp_path):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    weights, before, plain = weights_of(pipe), leftovers(pipe), tiny.call(pipe, STEPS, copies=copies)
    with executed(tiny, pipe) as seen, attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path))) as session:
        out = tiny.call(pipe, STEPS, copies=copies)
        other = tiny.call(pipe, STEPS, copies=copies, negative_prompt="a blue ball")
    assert seen.batches == [copies] * STEPS * 2
    assert torch.equal(out, other)
    assert (session.report().calls, session.report().asked) == (STEPS * copies, 2 * STEPS * copies)
    assert leftovers(pipe) == before
    assert all(torch.equal(value, weights[name]) for name, value in the_network(pipe).state_dict().items())
    assert torch.equal(plain, tiny.call(pipe, STEPS, copies=copies))


@pytest.mark.parametrize("on", DESCRIBED)
def test_every_residual_is_heard(on: str, tmp_path):
    """Each by itself changes what the network gives, down to the one before the last layer."""
    tiny = FAMILIES[on]
    pipe = tiny.build()
    conditional = tiny.call(pipe, 1, **tiny.unguided)
    adapter = random_adapter(pipe)
    places = list(adapter.shape.sites)
    for place in {places[0], places[1], places[-1]}:
        alone = random_adapter(pipe, zero=True)
        alone.residuals[places.index(place)].load_state_dict(adapter.residuals[places.index(place)].state_dict())
        save_adapter(alone, tmp_path / place, base_of(pipe), {})
        with attached(pipe, GuidanceAdapter(weights=str(tmp_path / place))):
            assert not torch.equal(tiny.call(pipe, 1), conditional), place
    assert places[-1] in ("conv_act", "proj_out") or on == "lumina2"  # whose last layer has its norm inside


@pytest.mark.parametrize("on", ["sd15", "pixart", "flux", "lumina2"])
def test_the_slider_is_the_pipelines_own(on: str, tmp_path):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path))):
        two, eight = (tiny.call(pipe, STEPS, **scaled(on, scale)) for scale in (2.0, 8.0))
        one = tiny.call(pipe, STEPS, **tiny.unguided)
    assert not torch.equal(two, eight)
    assert torch.equal(one, tiny.call(pipe, STEPS, **tiny.unguided))


@pytest.mark.parametrize("on", ["pixart", "flux", "sd3", "wan"])
def test_the_scale_is_read_from_the_running_call(on: str):
    tiny = FAMILIES[on]
    pipe, seen = tiny.build(), []
    with staged(pipe) as stage, stage.watch(lambda run, latents: seen.append(guidance_scale(pipe))):
        tiny.call(pipe, 2, **scaled(on, 3.5))
    assert seen == [3.5, 3.5]


def test_real_guidance_first_then_the_adapter(tmp_path):
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    with executed(tiny, pipe) as seen, attached(pipe, GuidanceAdapter(after=0.5, weights=saved(pipe, tmp_path))):
        tiny.call(pipe, STEPS)
    assert seen.batches == [2, 2, 1, 1]


@pytest.mark.parametrize("on", ["sd15", "sd3", "flux"])
def test_a_negative_prompt_is_answered_by_a_note(on: str, tmp_path):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path))) as session:
        tiny.call(pipe, STEPS)
        (said,) = [text for text in session.report().warnings if "negative prompt" in text]
        assert "no effect" in said
        tiny.call(pipe, STEPS, negative_prompt=None)
        assert not any("negative prompt" in text for text in session.report().warnings)


@pytest.mark.parametrize(
    ("on", "given", "says"),
    [
        ("sd15", {"negative_prompt_embeds": torch.ones(1, 77, 32)}, "negative prompt has no effect"),
        ("sd3", {"negative_prompt_2": "a blue ball"}, "negative prompt has no effect"),
        ("flux", {"negative_prompt_2": "a blue ball"}, "negative prompt has no effect"),
        ("sd15", {"guidance_rescale": 0.7}, "guidance_rescale has no effect"),
        ("sd3", {"skip_guidance_layers": [1], "skip_layer_guidance_stop": 1.0}, "classifier-free guidance alone"),
    ],
    ids=["embeddings", "second", "second, guided by itself", "rescaled", "skipped layers"],
)
def test_what_it_cannot_follow_is_said(on: str, given: dict, says: str, tmp_path):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    with attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path))) as session:
        tiny.call(pipe, STEPS, negative_prompt=None)
        assert not any(says in text for text in session.report().warnings)
        tiny.call(pipe, STEPS, negative_prompt=None, **given)
        assert any(says in text for text in session.report().warnings)


@pytest.mark.parametrize("other", ["adapter", "interval"])
def test_guidance_of_three_parts_is_left_as_it_is(other: str, tmp_path):
    """Perturbed attention asks for three parts in one call, and guides by all of them."""
    tiny = FAMILIES["sd15"]
    pipe = StableDiffusionPAGPipeline(**tiny.build().components, pag_applied_layers="mid")
    plain = tiny.call(pipe, STEPS)
    recipe = (
        GuidanceInterval(start=0.0, stop=0.5)
        if other == "interval"
        else GuidanceAdapter(weights=saved(pipe, tmp_path))
    )
    with executed(tiny, pipe) as seen, attached(pipe, recipe) as session:
        assert torch.equal(tiny.call(pipe, STEPS), plain)
    assert seen.batches == [3] * STEPS
    assert any("more than two halves" in text for text in session.report().warnings)
    with attached(pipe, recipe) as session:  # without the third part it is guidance as usual
        tiny.call(pipe, STEPS, pag_scale=0.0)
    assert session.report().calls < session.report().asked == 2 * STEPS


def test_it_guides_where_the_pipeline_would(tmp_path):
    tiny = FAMILIES["lumina2"]
    pipe = tiny.build()
    plain = tiny.call(pipe, STEPS, cfg_trunc_ratio=0.0)  # Lumina 2 is guided up to this part of the run
    with attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path / "lumina2"))):
        assert torch.equal(tiny.call(pipe, STEPS, cfg_trunc_ratio=0.0), plain)
        assert not torch.equal(tiny.call(pipe, STEPS, cfg_trunc_ratio=0.5), plain)
    tiny = FAMILIES["qwen"]
    pipe, own = tiny.build(), {"true_cfg_scale": 4.0, "negative_prompt": None}  # its default, which alone does nothing
    plain = tiny.call(pipe, STEPS, **own)
    with attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path / "qwen"))):
        assert torch.equal(tiny.call(pipe, STEPS, **own), plain)
        assert not torch.equal(tiny.call(pipe, STEPS, **own | {"true_cfg_scale": 3.0}), plain)
        assert not torch.equal(tiny.call(pipe, STEPS, **own | {"negative_prompt": " "}), plain)


def test_a_scale_outside_the_training_is_named(tmp_path):
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    with attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path))) as session:
        tiny.call(pipe, STEPS, guidance_scale=12.0)
    assert any("from 1 to 8: 12 is outside" in text for text in session.report().warnings)


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", KINDS)
def test_reloaded_it_draws_the_same(kind: str, tmp_path):
    tiny = FAMILIES["sd15"]
    pipe = tiny.build()
    adapter = random_adapter(pipe, kind=kind)
    save_adapter(adapter, tmp_path / "a", base_of(pipe), {"pictures": 3})
    again, base = load_adapter(tmp_path / "a" / "adapter.safetensors")
    assert again.shape == adapter.shape
    assert base == base_of(pipe)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in adapter.state_dict().items())
    save_adapter(again, tmp_path / "b", base, {})
    drawn = []
    for folder in ("a", "b"):
        with attached(pipe, GuidanceAdapter(weights=str(tmp_path / folder))):
            drawn.append(tiny.call(pipe, STEPS))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("other", ["sdxl", "sd3"])
def test_another_base_is_refused_by_name(other: str, tmp_path):
    folder = saved(FAMILIES["sd15"].build(), tmp_path)
    pipe = FAMILIES[other].build()
    before = leftovers(pipe)
    with pytest.raises(UnsupportedError) as error, attached(pipe, GuidanceAdapter(weights=folder)):
        pass
    for name in ("StableDiffusionPipeline", type(pipe).__name__, type(the_network(pipe)).__name__):
        assert name in str(error.value)
    assert leftovers(pipe) == before


def test_the_same_base_trained_on_is_another(tmp_path):
    pipe = FAMILIES["sd3"].build()
    recipe = GuidanceAdapter(weights=saved(pipe, tmp_path))
    with torch.no_grad():
        pipe.transformer.to(torch.bfloat16).to(torch.float32)
        check([recipe], pipe)  # rounding is no training
        for p in pipe.transformer.parameters():
            p.add_(torch.randn_like(p) * p.std() * 0.05)
    with pytest.raises(UnsupportedError, match="other weights"):
        check([recipe], pipe)


def test_no_matrix_is_overlooked(tmp_path):
    pipe = FAMILIES["sd15"].build()
    recipe = GuidanceAdapter(weights=saved(pipe, tmp_path))
    for parameter in pipe.unet.parameters():
        if parameter.ndim > 1:
            before = parameter.data
            parameter.data = before.flip(0, 1)
            with pytest.raises(UnsupportedError, match="other weights"):
                check([recipe], pipe)
            parameter.data = before
    check([recipe], pipe)


@pytest.mark.parametrize(
    ("how", "says"),
    [(torch.device("meta"), "sequential offload"), (torch.float8_e4m3fn, r"quantised \(float8_e4m3fn\)")],
    ids=["away", "coarse"],
)
def test_weights_that_cannot_be_compared_are_refused(how, says: str, tmp_path):
    pipe = FAMILIES["sd3"].build()
    recipe = GuidanceAdapter(weights=saved(pipe, tmp_path))
    pipe.transformer.to(how)
    with pytest.raises(UnsupportedError, match=says):
        check([recipe], pipe)


def test_it_goes_where_the_denoiser_went(tmp_path, monkeypatch):
    """Model offload brings the denoiser to its device when it is called, which is after the adapter came."""

    class Left(Adapter):
        """Lies elsewhere until it is sent for a second time."""

        sent = 0

        def to(self, *args, **kwargs):
            self.sent += 1
            if self.sent == 1:
                self.weights = {name: value.clone() for name, value in self.state_dict().items()}
                return super().to(torch.device("meta"))
            self.to_empty(device=args[0])
            self.load_state_dict(self.weights)
            return self

    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    recipe = GuidanceAdapter(weights=saved(pipe, tmp_path))
    with attached(pipe, recipe):
        here = tiny.call(pipe, STEPS)

    def load(source):
        adapter, base = load_adapter(source)
        left = Left(adapter.shape)
        left.load_state_dict(adapter.state_dict())
        return left.eval().requires_grad_(False), base

    monkeypatch.setattr("deadheat.accelerators.guidance_adapter.load_adapter", load)
    with attached(pipe, recipe):
        assert torch.equal(tiny.call(pipe, STEPS), here)


def test_where_nothing_is_asked_twice_it_still_guides(tmp_path):
    """FLUX without a negative prompt never asks for the unconditional half."""
    tiny = FAMILIES["flux"]
    pipe = tiny.build()
    plain = tiny.call(pipe, STEPS, negative_prompt=None)
    with attached(pipe, GuidanceAdapter(weights=saved(pipe, tmp_path))) as session:
        assert not torch.equal(tiny.call(pipe, STEPS, negative_prompt=None), plain)
    assert not any("skipped" in text or "did nothing" in text for text in session.report().warnings)
    assert (session.report().calls, session.report().asked) == (STEPS, STEPS)


def test_broken_files_are_named(tmp_path):
    pipe = FAMILIES["sd15"].build()
    with pytest.raises(LoadError, match="holds no guidance adapter"):
        check([GuidanceAdapter(weights=str(tmp_path / "none"))], pipe)
    folder = saved(pipe, tmp_path / "a")
    (tmp_path / "a" / "adapter.safetensors").write_bytes(b"\0" * 10)
    with pytest.raises(LoadError, match="damaged"):
        load_adapter(folder)
    about = tmp_path / "a" / "adapter.json"
    whole = json.loads(about.read_text())
    damaged = [("{", "cannot be read"), ("[]", "does not say"), ('{"base": {}}', "does not say")]
    for key, value in (("model", None), ("weights", None), ("weights", ["x"])):
        damaged.append((json.dumps(whole | {"base": whole["base"] | {key: value}}), "does not say"))
    for key, value in (
        ("width", "x"), ("width", -4), ("width", True), ("scales", [1, 1]), ("scales", [8, 1]), ("scales", []),
        ("scales", [-3, 8]), ("scales", [1, float("inf")]), ("words", "x"), ("words", -5), ("sites", [1, 2]),
        ("sites", None), ("clock", None), ("clock", 0), ("clock", float("nan")), ("kind", "other"),
    ):  # fmt: skip
        damaged.append((json.dumps(whole | {"shape": whole["shape"] | {key: value}}), "does not describe"))
    for text, words in damaged:
        about.write_text(text)
        with pytest.raises(LoadError, match=words):
            check([GuidanceAdapter(weights=folder)], pipe)
    about.write_text(json.dumps(whole | {"base": whole["base"] | {"weights": [float("nan")] * len(marks(pipe.unet))}}))
    with pytest.raises(UnsupportedError, match="other weights"):
        check([GuidanceAdapter(weights=folder)], pipe)
    about.write_text(json.dumps(whole))
    for change in (lambda value: value * float("nan"), lambda value: value.to(torch.int8)):
        adapter = random_adapter(pipe)
        save_file({name: change(value) for name, value in adapter.state_dict().items()}, about.parent / WEIGHTS)
        with pytest.raises(LoadError, match="damaged"):
            load_adapter(folder)


def test_what_ships_is_found_and_what_does_not_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("deadheat.pipelines.adapter_files.ASSETS", tmp_path)
    pipe = FAMILIES["sd15"].build()
    why = GuidanceAdapter.supports(pipe)
    assert "no guidance adapter is trained for StableDiffusionPipeline" in why
    assert "training.guidance" in why
    saved(pipe, shelf(tmp_path, pipe))
    assert GuidanceAdapter.supports(pipe) is None
    assert "two denoisers" in GuidanceAdapter.supports(_with_two())


def _with_two():
    pipe = FAMILIES["wan"].build()
    pipe.transformer_2 = pipe.transformer
    assert len(denoisers(pipe)) == 2
    return pipe


def test_the_base_is_written_beside_the_weights(tmp_path):
    pipe = FAMILIES["flux"].build()
    saved(pipe, tmp_path)
    base = json.loads((tmp_path / "adapter.json").read_text())["base"]
    assert base["denoiser"] == "FluxTransformer2DModel"
    assert base["weights"] == marks(pipe.transformer)


# ------------------------------------------------------------------------------------------------------- composition


@pytest.mark.parametrize("on", ["sd3", "wan"])
@pytest.mark.parametrize("order", [1, -1], ids=["adapter-outside", "cache-outside"])
@pytest.mark.parametrize(
    "cache", [ABCache(every=3, warmup=2), LeMiCa(mask="0-1 3 5 7", of=8)], ids=["ab-cache", "lemica"]
)
def test_with_a_cache_of_whole_steps(on: str, order: int, cache, tmp_path):
    tiny = FAMILIES[on]
    pipe = tiny.build()
    recipe = [GuidanceAdapter(weights=saved(pipe, tmp_path)), cache][::order]
    before = leftovers(pipe)
    with executed(tiny, pipe) as seen, attached(pipe, *recipe) as session:
        out = tiny.call(pipe, 8)
    assert torch.isfinite(out).all()
    assert seen.samples == session.report().calls == len(cache.computed(8)) < 7
    assert session.report().asked == 16
    assert leftovers(pipe) == before


@pytest.mark.parametrize("order", [1, -1], ids=["adapter-outside", "other-outside"])
@pytest.mark.parametrize("other", [RegionAdaptive(ratio=0.5, warmup=2, resets=""), Bottleneck()], ids=lambda a: a.name)
def test_with_fewer_tokens(order: int, other, tmp_path):
    tiny = FAMILIES["sd3"]
    pipe = tiny.build()
    recipe = [GuidanceAdapter(weights=saved(pipe, tmp_path)), other][::order]
    before = leftovers(pipe)
    with executed(tiny, pipe) as seen, attached(pipe, *recipe) as session:
        out = tiny.call(pipe, 8)
    assert torch.isfinite(out).all()
    assert seen.samples == session.report().calls == 8
    assert leftovers(pipe) == before


def test_two_that_guide_are_refused(tmp_path):
    pipe = FAMILIES["sd3"].build()
    with pytest.raises(IncompatibleError, match="both take the guidance"):
        check([GuidanceAdapter(weights=saved(pipe, tmp_path)), GuidanceInterval()], pipe)
