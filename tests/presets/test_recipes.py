"""Recipes as text, as TOML, and as presets."""

import re
from pathlib import Path

import pytest
from deadheat.accelerators import (
    ACCELERATORS,
    ABCache,
    FittedCache,
    GuidanceInterval,
    LeMiCa,
    SparseCrossAttention,
    check,
)
from deadheat.measure import expand
from deadheat.pipelines import family
from deadheat.presets import own_presets, presets, recipe

from deadheat import KnobError, PresetError, Recipe, accelerate, load

from ..families import FAMILIES


@pytest.mark.parametrize("cls", ACCELERATORS.values(), ids=ACCELERATORS)
def test_every_accelerator_survives_text_and_toml(cls, tmp_path):
    made = cls(**cls.neutral)
    assert Recipe.parse(str(made)).accelerators == (made,)
    file = tmp_path / "mine.toml"
    file.write_text(Recipe((made,), 'with "quotes" \\').to_toml())
    again = Recipe.from_toml(file)
    assert again.accelerators == (made,) and again.title == 'with "quotes" \\'


@pytest.mark.parametrize(
    "text",
    [
        "a fox, red",
        "a fox + a cat",
        'a "red" fox',
        '"',
        " a fox ",
        "fox.toml",
        "a=b:c",
        "C:\\a, b",
        "a\tb\r\n\x07\x7fé",
    ],
)
def test_free_text_survives_text_and_toml(text: str, tmp_path):
    made = Recipe((SparseCrossAttention(words=text, before="x"), ABCache(every=4)), title=text)
    assert Recipe.of(str(made)).accelerators == made.accelerators
    assert expand(str(made)) == [str(made)]
    file = tmp_path / "mine.toml"
    file.write_text(made.to_toml(), encoding="utf-8", newline="")
    assert Recipe.of(str(file)) == made


def test_the_plain_recipe_survives_toml(tmp_path):
    file = tmp_path / "plain.toml"
    file.write_text(Recipe().to_toml())
    assert Recipe.from_toml(file).accelerators == ()


def test_order_is_kept():
    recipe = Recipe.parse("guidance-interval:stop=0.6 + ab-cache:order=1,every=2")
    assert recipe.accelerators == (GuidanceInterval(stop=0.6), ABCache(order=1, every=2))
    assert Recipe.of([GuidanceInterval(stop=0.6), "ab-cache:order=1,every=2"]) == recipe


def test_shipped_presets_can_be_read():
    assert {"faithful", "balanced", "fast"} <= set(presets("pocket-dit"))
    assert Recipe.of("balanced").accelerators


SHIPPED = sorted(Path(recipe.__file__).parent.glob("*/*.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_shipped_preset_says_where_it_comes_from(file):
    made = Recipe.from_toml(file)
    assert made.accelerators
    assert re.search("(?i)published.* not measured here|Calibrated: |not calibrated for your model", made.about)
    assert file.stem not in ACCELERATORS  # its name would hide the accelerator's
    (accelerator, *_) = made.accelerators
    if (budget := file.stem.rpartition("-")[2]).isdecimal():
        of = accelerator.of if isinstance(accelerator, LeMiCa | FittedCache) else int(made.title.split()[-1])
        assert len(accelerator.computed(of)) == int(budget)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("black-forest-labs/FLUX.1-dev", {"lemica-10", "lemica-26", "ab-cache-14", "magcache-14"}),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", {"lemica-14", "lemica-25"}),
        ("Tongyi-MAI/Z-Image-Turbo", {"lemica-5", "lemica-7"}),
        ("pocket-dit", {"magcache-13"}),
    ],
)
def test_a_model_finds_its_presets(model: str, names: set[str]):
    assert names | {"balanced"} <= set(presets(model))


def test_the_published_schedule_of_ab_cache():
    (cache,) = presets("black-forest-labs/FLUX.1-dev")["ab-cache-14"].accelerators
    assert cache.computed(50) == (0, 1, 2, 3, 4, 6, 12, 18, 24, 30, 36, 42, 48, 49)


def test_sada_for_flow_matching_is_as_in_its_code():
    """The multistep rule sets the cadence there, and continues no picture."""
    (sada,) = presets("", "FLUX.1")["balanced"].accelerators
    assert (sada.criterion, sada.fill) == ("curvature", "slope")
    assert not sada.continues_pictures


GOALS = {"faithful", "balanced", "fast"}


@pytest.mark.parametrize("on", FAMILIES)
def test_presets_of_a_family_fit_it(on: str):
    pipe = FAMILIES[on].build()
    found = presets("", family(pipe).name)
    assert set(found) >= GOALS
    for made in found.values():
        check(made.accelerators, pipe)
    if on in ("sd15", "sdxl", "sd3", "flux", "pixart", "lumina2", "ltx"):
        own = own_presets("", family(pipe).name)
        assert own and all(Recipe.of(name, pipe) == made for name, made in own.items())
        assert all("xpect " in made.about for made in own.values())


@pytest.mark.parametrize(("folder", "on"), [
    ("wan-ai--wan2.1-t2v-1.3b-diffusers", "wan"), ("lightricks--ltx-video", "ltx"), ("pocket-dit", "sd3"),
    ("pocket-unet", "sd15"), ("black-forest-labs--flux.1-dev", "flux"), ("alpha-vllm--lumina-image-2.0", "lumina2"),
    ("stabilityai--stable-diffusion-3-medium-diffusers", "sd3"), ("stabilityai--stable-diffusion-3.5-medium", "sd3"),
])  # fmt: skip
def test_presets_of_a_model_fit_its_family(folder: str, on: str):
    pipe = FAMILIES[on].build()
    for file in (Path(recipe.__file__).parent / folder).glob("*.toml"):
        check(Recipe.from_toml(file).accelerators, pipe)


def test_a_model_cannot_lead_out_of_the_folder():
    assert own_presets("..") == own_presets(".") == own_presets("") == {}


def test_what_is_for_any_model_says_so():
    assert all("Generic, made for no family" in made.about for made in presets("").values())


def test_a_goal_means_what_suits_the_model():
    def named(model: str) -> str:
        return presets(model)["balanced"].accelerators[0].name

    assert Recipe.of("balanced").accelerators[0].name == "ab-cache"
    assert Recipe.of("balanced", load("pocket-dit")).accelerators[0].name == "fitted-cache" == named("pocket-dit")
    assert named("pocket-unet") == "fitted-cache" and presets("pocket-unet") != presets("pocket-dit")
    assert named("black-forest-labs/FLUX.1-dev") == "sada" and named("Qwen/Qwen-Image") == "lemica"
    with accelerate(FAMILIES["sd15"].build(), "balanced") as session:
        assert session.accelerators[0].name == "clockwork"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ab-cash", "did you mean ab-cache"),
        ("balancd", "did you mean balanced"),
        ("ab-cache:ordr=2", "did you mean order"),
        ("ab-cache:order=9", r"ABCache.order is 9, not between 1 and 5"),
        ("ab-cache:order=two", "whole number"),
        ("ab-cache:axis=time", "sigma, index"),
        ("ab-cache:order", "has no value"),
        ("ab-cache:every=3,every=5", "every is there twice"),
        ("", "empty"),
        ("ab-cache + ", "empty"),
        ("guidance-interval:start=0.9,stop=0.1", "swap"),
        ("ab-cache:every=" + "9" * 400, "not between 1 and 10"),
        ("teacache:threshold=" + "9" * 400, "not a number"),
        ('sparse-cross-attention:words="a fox', "quotes do not end"),
        ('sparse-cross-attention:words="a" fox', "quotes do not end"),
        ("sparse-cross-attention:words=caf\udce9", "not text"),
    ],
)
def test_slips_are_named(text, says):
    with pytest.raises(KnobError, match=says):
        Recipe.of(text)


@pytest.mark.parametrize(
    "text",
    [
        "title = ",
        "title = 'x'",
        "accelerators = 3",
        "[[accelerators]]\nname='ab-cache'\nevery=99",
        f"[[accelerators]]\nname='ab-cache'\nevery={'9' * 400}",
        f"[[accelerators]]\nname='teacache'\nthreshold={'9' * 400}",
        f"[[accelerators]]\nname='ab-cache'\nevery={'9' * 5000}",
        "[[accelerators]]\nevery=2",
        "colour = 'red'\n[[accelerators]]\nname='ab-cache'",
    ],
)
def test_a_wrong_file_is_named(text, tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(PresetError, match=r"wrong\.toml"):
        Recipe.of(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PresetError, match="cannot be read"):
        Recipe.of(str(tmp_path / "no.toml"))
